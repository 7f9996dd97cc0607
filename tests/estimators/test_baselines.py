"""The moving average: against the weighted mean itself, traced, and as reinforce's baseline."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library

import backdraw
from backdraw.estimators.baselines import moving_average

VALUES = np.random.default_rng(0).normal(3.0, 1.0, size=(7, 4, 3))


def weighted_mean(values: np.ndarray, decay: float) -> np.ndarray:
    """The definition."""
    weights = decay ** np.arange(len(values))[::-1]
    return np.tensordot(weights, values, 1) / weights.sum()


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 1.0])
def test_is_the_weighted_mean(lib: Library, decay: float) -> None:
    average = moving_average(decay)
    for shape, expected in (((), VALUES.mean((1, 2))), ((3,), VALUES.mean(1)), ((4, 3), VALUES)):
        state = average.init(lib.asarray(np.zeros(shape)))
        lib.check(state.value, np.zeros(shape))
        for n, values in enumerate(VALUES):
            state = average.update(lib.asarray(values), state)
            lib.check(state.value, weighted_mean(expected[: n + 1], decay), rtol=1e-12)
            lib.check(state.weight, np.asarray(sum(decay**k for k in range(n + 1))), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_equal_values_are_their_average_exactly(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip("no such dtype")
    average = moving_average(0.99)
    constant = lib.asarray(np.asarray([0.1, -1e4]), dtype)
    state = average.init(constant)
    for _ in range(50):
        state = average.update(constant, state)
        wide = "float64" if dtype == "float64" else "float32"
        lib.check(state.value, lib.to_numpy(constant).astype(wide), rtol=0.0)
        assert state.weight.dtype == state.value.dtype


def test_in_a_scan(framework: Library) -> None:
    average = moving_average(0.8)
    state = average.init(framework.asarray(np.zeros(3)))
    last, seen = framework.be.scan(lambda s, v: (average.update(v, s), s.value), state, framework.asarray(VALUES))
    framework.check(last.value, weighted_mean(VALUES.mean(1), 0.8), rtol=1e-12)
    framework.check(seen[3, ...], weighted_mean(VALUES.mean(1)[:3], 0.8), rtol=1e-12)


@pytest.mark.needs("jax")
def test_under_jit() -> None:
    import jax

    average = moving_average(0.8)
    state = average.init(jax.numpy.zeros(3))
    lib = Library(Backend.JAX)
    for values in VALUES:
        state = jax.jit(average.update)(lib.asarray(values), state)
    lib.check(state.value, weighted_mean(VALUES.mean(1), 0.8), rtol=1e-12)
    assert np.all(np.asarray(jax.grad(lambda v: average.update(v, state).value.sum())(lib.asarray(VALUES[0]))) == 0)


def run(lib: Library, reward: Any, steps: int) -> tuple[Any, np.ndarray]:
    """Reinforce with the average as its baseline; return the average and the gradients of the last step."""
    average, logits = moving_average(0.5), lib.asarray(np.zeros(2000))
    state = average.init(lib.asarray(np.zeros(())))
    f = lambda x: x + lib.asarray(reward)  # noqa: E731
    for step in range(steps):
        estimate = lambda l, b=state.value, k=step: backdraw.reinforce(  # noqa: E731
            f, backdraw.Bernoulli(l), baseline=b, rng=backdraw.fold_in(backdraw.key(1), k)
        )
        value, pullback = backdraw.vjp(estimate, logits)
        (grads,) = pullback(lib.xp.ones_like(value))
        state = average.update(value, state)
    return state.value, lib.to_numpy(grads)


def test_lowers_the_variance_of_reinforce(framework: Library) -> None:
    value, grads = run(framework, 10.0, 3)
    _, without = run(framework, 10.0, 1)  # before the first update the average is 0
    assert abs(float(value) - 10.5) < 4.5 * 0.5 / 2000**0.5
    assert grads.var() < 0.01 * without.var()
    # score**2 * (f - b)**2: at logit 0 the two values of x have the same weighted score of 1/4 but for the error of b.
    assert abs(grads.mean() - 0.25) < 4.5 * grads.std() / 2000**0.5 + 1e-12


def test_bad_input(framework: Library) -> None:
    for bad in ("0.9", True, None):
        with pytest.raises(TypeError, match="decay: expected a number from 0 to 1"):
            moving_average(bad)  # type: ignore[arg-type]
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="decay: expected a number from 0 to 1"):
            moving_average(wrong)
    average = moving_average()
    assert repr(average) == "MovingAverage(decay=0.9)"
    with pytest.raises(TypeError, match="like: "):
        average.init(framework.asarray(np.zeros(3, np.int64)))
    with pytest.raises(TypeError, match="like: "):
        average.init(0.0)
    state = average.init(framework.asarray(np.zeros(3)))
    with pytest.raises(TypeError, match="values: "):
        average.update(framework.asarray(np.zeros(3, np.int64)), state)
    for shape in ((), (4,), (3, 1)):
        with pytest.raises(ValueError, match=r"values: expected the shape \(3,\) of the average"):
            average.update(framework.asarray(np.zeros(shape)), state)
