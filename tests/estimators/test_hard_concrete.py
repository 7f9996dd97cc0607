"""hard_concrete against its formula in plain NumPy, from the same noise; its zeros and ones against their probabilities."""

from typing import Any

import numpy as np
import pytest
from helpers import Library, eps, finite_difference, sigmoid

import backdraw
from backdraw import Bernoulli, hard_concrete, hard_concrete_nonzero
from backdraw.random import bits

KEY = backdraw.key(9)
RNG = np.random.default_rng(4)
LOGITS, G = 2 * RNG.normal(size=(4, 5)), RNG.normal(size=(4, 5))
U, V = (bits(KEY, (2, *LOGITS.shape)) + 0.5) / 2.0**32
LOGISTIC = np.log(np.log1p(-U) / np.log1p(-V))
OPTIONS: list[dict[str, Any]] = [{}, {"temperature": 0.3, "limits": (-0.5, 1.2)}, {"temperature": 2, "limits": (-0.3, 3)}]
options = pytest.mark.parametrize("options", OPTIONS)


def gates(l: Any, t: Any = 2 / 3, limits: Any = (-0.1, 1.1)) -> np.ndarray:
    return np.clip(sigmoid((l + LOGISTIC) / t) * (limits[1] - limits[0]) + limits[0], 0.0, 1.0)


def nonzero(l: Any, t: Any = 2 / 3, limits: Any = (-0.1, 1.1)) -> np.ndarray:
    return sigmoid(l - t * np.log(-limits[0] / limits[1]))


@options
@pytest.mark.parametrize("wrap", [lambda x: x, Bernoulli], ids=["array", "Bernoulli"])
def test_rule(lib: Library, options: dict[str, Any], wrap: Any) -> None:
    z, pullback = backdraw.vjp(lambda x: hard_concrete(wrap(x), rng=KEY, **options), lib.asarray(LOGITS))
    expected = gates(LOGITS, *options.values())
    lib.check(z, expected, rtol=0, atol=1e-14)
    values = lib.to_numpy(z)
    assert np.array_equal(values == 0.0, expected == 0.0)
    assert np.array_equal(values == 1.0, expected == 1.0)
    grad = pullback(lib.asarray(G))[0]
    lib.check(grad, finite_difference(lambda l: gates(l, *options.values()), LOGITS, G), rtol=0, atol=1e-8)
    assert np.all(lib.to_numpy(grad)[(values == 0.0) | (values == 1.0)] == 0.0)


@options
def test_nonzero(lib: Library, options: dict[str, Any]) -> None:
    p, pullback = backdraw.vjp(lambda x: hard_concrete_nonzero(x, **options), lib.asarray(LOGITS))
    lib.check(p, nonzero(LOGITS, *options.values()), rtol=1e-13)
    expected = finite_difference(lambda l: nonzero(l, *options.values()), LOGITS, G)
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-6, atol=1e-9)
    lib.check(hard_concrete_nonzero(Bernoulli(lib.asarray(LOGITS)), **options), lib.to_numpy(p), rtol=1e-14)


@pytest.mark.parametrize(
    ("f", "plain"), [(lambda x, **o: hard_concrete(x, rng=KEY, **o), gates), (hard_concrete_nonzero, nonzero)]
)
def test_temperature_as_an_array(lib: Library, f: Any, plain: Any) -> None:
    t = np.asarray(0.8)
    y, pullback = backdraw.vjp(lambda x, t: f(x, temperature=t), lib.asarray(LOGITS), lib.asarray(t))
    lib.check(y, plain(LOGITS, 0.8), rtol=1e-10, atol=1e-14)
    to_l, to_t = pullback(lib.asarray(G))
    lib.check(to_l, finite_difference(lambda l: plain(l, 0.8), LOGITS, G), rtol=0, atol=1e-8)
    lib.check(to_t, finite_difference(lambda t: plain(LOGITS, t), t, G), rtol=1e-6)


@options
def test_zeros_and_ones_come_as_often_as_they_should(framework: Library, options: dict[str, Any]) -> None:
    n, l = 40_000, np.asarray([-2.0, -0.3, 1.0])
    t, (low, high) = options.get("temperature", 2 / 3), options.get("limits", (-0.1, 1.1))
    z = framework.to_numpy(hard_concrete(framework.asarray(np.broadcast_to(l, (n, 3))), rng=backdraw.key(3), **options))
    not_zero = framework.to_numpy(hard_concrete_nonzero(framework.asarray(l), **options))
    one = sigmoid(l - t * np.log((1 - low) / (high - 1)))
    for p, hit in ((not_zero, z != 0.0), (one, z == 1.0)):
        assert np.all(np.abs(hit.mean(0) - p) < 4.5 * np.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("traced", [False, True])
def test_extreme_logits_in_every_dtype(lib: Library, dtype: str, traced: bool) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    b = {"float16": 6e4, "float32": 3e38, "float64": 1.7e308, "bfloat16": 3e38}[dtype]
    l = np.asarray([b, -b, -np.inf, 1e4, -1e4, 0.5])
    t = np.asarray(0.05 if not traced else 0.5)
    x, g = lib.asarray(l, dtype), lib.asarray(np.asarray([1.0, -1.0, 2.0, 1.0, 1.0, 1.0]), dtype)
    for f in (lambda x, t: hard_concrete(x, temperature=t, rng=KEY), lambda x, t: hard_concrete_nonzero(x, temperature=t)):
        arrays = (x, lib.asarray(t, dtype)) if traced else (x,)
        y, pullback = backdraw.vjp(lambda x, t=float(t), f=f: f(x, t), *arrays)
        lib.check(y[:5], [1.0, 0.0, 0.0, 1.0, 0.0], dtype=dtype, rtol=0)
        grads = [lib.to_numpy(grad) for grad in pullback(g)]
        assert np.all(grads[0][:5] == 0.0)
        assert all(np.all(np.isfinite(grad)) for grad in grads)
    exact = nonzero(float(lib.to_numpy(x)[5]), float(lib.to_numpy(lib.asarray(t, dtype))))
    assert abs(float(lib.to_numpy(y)[5]) - exact) <= eps(dtype)


@pytest.mark.needs("torch")
def test_second_derivatives_torch() -> None:
    import torch

    x, t = torch.tensor(LOGITS[0], requires_grad=True), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for f in (
        lambda x, t: hard_concrete(x, temperature=t, rng=backdraw.key(1)),
        lambda x, t: hard_concrete_nonzero(x, temperature=t),
    ):
        assert torch.autograd.gradcheck(f, (x, t))
        assert torch.autograd.gradgradcheck(f, (x, t))


@pytest.mark.needs("jax")
def test_under_jit_jax() -> None:
    import jax

    @jax.jit
    def both(l: Any, t: Any) -> Any:
        def loss(l: Any, t: Any) -> Any:
            return (hard_concrete(l, temperature=t, rng=KEY) * G).sum() + hard_concrete_nonzero(l, temperature=t).sum()

        return jax.value_and_grad(loss, (0, 1))(l, t)

    plain = lambda l, t: (gates(l, t) * G).sum() + nonzero(l, t).sum()  # noqa: E731
    value, (to_l, to_t) = both(jax.numpy.asarray(LOGITS), 0.6)
    np.testing.assert_allclose(value, plain(LOGITS, 0.6), rtol=1e-12)
    np.testing.assert_allclose(to_l, finite_difference(lambda l: plain(l, 0.6), LOGITS, 1.0), atol=1e-7)
    np.testing.assert_allclose(to_t, finite_difference(lambda t: plain(LOGITS, t), np.asarray(0.6), 1.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("limits", "error", "match"),
    [
        ((0.0, 1.1), ValueError, r"limits: expected finite numbers, one below 0 and one above 1, got \(0.0, 1.1\)"),
        ((-0.1, 1.0), ValueError, "limits: expected finite numbers"),
        ((-np.inf, 1.1), ValueError, "limits: expected finite numbers"),
        ((-0.1, np.nan), ValueError, "limits: expected finite numbers"),
        (1.1, TypeError, "limits: expected two numbers, got 1.1"),
        ((-0.1, 0.5, 1.1), TypeError, "limits: expected two numbers"),
        (("a", 1.1), TypeError, "limits: expected two numbers, got str and float"),
        ((-0.1, True), TypeError, "limits: expected two numbers, got float and bool"),
    ],
)
@pytest.mark.parametrize("f", [hard_concrete, hard_concrete_nonzero])
def test_bad_limits(f: Any, limits: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        f(LOGITS, limits=limits)


def test_bad_arguments(lib: Library) -> None:
    x = lib.asarray(LOGITS)
    for f in (hard_concrete, hard_concrete_nonzero):
        with pytest.raises(ValueError, match="temperature: expected a positive finite number, got 0"):
            f(x, temperature=0)
        with pytest.raises(TypeError, match="logits: expected a real floating dtype"):
            f(lib.asarray(np.arange(3)))
        for dist in (backdraw.Categorical(x), backdraw.Subset(x, 1)):
            message = rf"{f.__name__} needs stretch\(\) of {type(dist).__name__}, but its relaxation cannot be stretched"
            with pytest.raises(TypeError, match=message):
                f(dist)
