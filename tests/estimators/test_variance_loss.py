"""The square of a gradient, and its own gradient in what an estimator can be tuned by."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, finite_difference, pulled
from problems import PROBLEMS, expectation, wave

import backdraw
from backdraw.study.adam import Adam

KEY = backdraw.key(11)
LOGITS = np.random.default_rng(4).normal(size=(5, 2, 3))
W, V = PROBLEMS["four factors"].weights[:2], np.asarray([[0.2, -0.5, 0.4], [0.8, 0.1, -0.3]])
BITS = np.random.default_rng(5).normal(size=(5, 3))


def rebar_loss(lib: Library, temperature: Any, scale: Any, *, samples: int = 2) -> Any:
    """The loss in rebar's options."""
    f = lambda x: wave(x, lib.asarray(W), event=2)  # noqa: E731
    options = {"temperature": temperature, "scale": scale, "samples": samples}
    return backdraw.variance_loss("rebar", f, lib.asarray(LOGITS), rng=KEY, **options)


def bits_loss(lib: Library, temperature: Any, scale: Any) -> Any:
    """The same of bits."""
    f = lambda x: wave(x, lib.asarray(V[0]), event=1)  # noqa: E731
    p = backdraw.Bernoulli(lib.asarray(BITS))
    return backdraw.variance_loss(backdraw.rebar, f, p, rng=KEY, temperature=temperature, scale=scale)


def relax_loss(lib: Library, v: Any, temperature: Any) -> Any:
    """The loss in what relax's surrogate closes over."""
    f = lambda x: wave(x, lib.asarray(W), event=2)  # noqa: E731
    options = {"surrogate": lambda x: wave(x, v, event=2), "temperature": temperature}
    return backdraw.variance_loss("relax", f, lib.asarray(LOGITS), rng=KEY, **options)


def baseline_loss(lib: Library, baseline: Any) -> Any:
    """The loss in reinforce's baseline."""
    f = lambda x: wave(x, lib.asarray(W), event=2)  # noqa: E731
    return backdraw.variance_loss("reinforce", f, lib.asarray(LOGITS), rng=KEY, samples=2, baseline=baseline)


LOSSES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "rebar": (rebar_loss, (np.asarray(0.6), np.asarray(0.8))),
    "rebar, bits": (bits_loss, (np.asarray(0.4), np.asarray(1.1))),
    "relax": (relax_loss, (V, np.asarray(0.7))),
    "reinforce": (baseline_loss, (np.asarray(0.5),)),
    "reinforce, per element": (baseline_loss, (np.linspace(-1.0, 1.0, 5),)),
}


@pytest.mark.parametrize(
    "name", ["reinforce", "rloo", "vimco", "muprop", "rebar", "relax", "arm", "indecater", "measure_valued"]
)
def test_is_the_square_of_the_gradient(framework: Library, name: str) -> None:
    lib, p = framework, PROBLEMS["shared"]
    logits, f = lib.asarray(BITS), p.smooth(lib.asarray(V[0]))
    ones, options = lib.asarray(np.ones(5)), {"surrogate": f} if name == "relax" else {}
    _, (grads,) = pulled(lib, lambda l: expectation(name, f, p.make(l), KEY), ones, logits)
    loss = lambda l: backdraw.variance_loss(name, f, p.make(l), rng=KEY, **options)  # noqa: E731
    if lib.backend is Backend.JAX:
        import jax

        loss = jax.jit(loss)
    lib.check(loss(logits), np.sum(lib.to_numpy(grads) ** 2), rtol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_in_the_options(framework: Library, name: str) -> None:
    loss, point = LOSSES[name]
    if not framework.backend.differentiates:
        with pytest.raises(backdraw.GradientError):  # and not zero
            backdraw.vjp(lambda *a: loss(framework, *a), *(framework.asarray(x) for x in point))
        return
    one = framework.asarray(1.0)
    _, found = pulled(framework, lambda *a: loss(framework, *a), one, *(framework.asarray(x) for x in point))
    plain = Library(Backend.NUMPY)
    for i, grad in enumerate(found):
        at = lambda x, i=i: loss(plain, *point[:i], x, *point[i + 1 :])  # noqa: E731
        expected = finite_difference(at, point[i], 1.0)
        framework.check(grad, expected, rtol=1e-6, atol=1e-7)
        assert np.all(expected != 0)


def test_minimising_it_lowers_the_variance(framework: Library) -> None:
    if not framework.backend.differentiates:
        pytest.skip("no gradient to descend along")
    lib, adam = framework, Adam(learning_rate=0.05)
    p = backdraw.Categorical(lib.asarray(np.zeros((1000, 3))))
    f = backdraw.Categorical(lib.asarray(np.log([0.2, 0.3, 0.5]))).log_prob  # linear: the control variate can do well

    def loss(log_temperature: Any, scale: Any, key: Any) -> Any:
        return backdraw.variance_loss("rebar", f, p, temperature=lib.xp.exp(log_temperature), scale=scale, rng=key)

    def step(parameters: Any, state: Any, key: Any) -> Any:
        _, gradients = backdraw.value_and_grad(lambda *a: loss(*a, key))(*parameters)
        return adam.update(parameters, gradients, state)

    if lib.backend is Backend.JAX:
        import jax

        step, loss = jax.jit(step), jax.jit(loss)
    parameters = lib.asarray(0.0), lib.asarray(0.0)
    state, before = adam.init(parameters), float(loss(*parameters, KEY))
    for k in range(40):
        parameters, state = step(parameters, state, backdraw.fold_in(KEY, k + 1))
    assert float(loss(*parameters, KEY)) < 0.25 * before


def test_estimators_that_it_does_not_take() -> None:
    f, p = lambda x: x, backdraw.Bernoulli(np.zeros(3))
    for unknown in ("nonsense", "straight_through", backdraw.straight_through, f):
        with pytest.raises(ValueError, match=r"estimator: expected one of arm, .*vimco, got '"):
            backdraw.variance_loss(unknown, f, p)
    message = "estimator: expected one whose gradient is an estimate of its own, got '{}'"
    with pytest.raises(TypeError, match=message.format("exact")):
        backdraw.variance_loss("exact", f, p)
    with pytest.raises(TypeError, match=message.format("pathwise")):
        backdraw.variance_loss("pathwise", f, backdraw.Normal(np.zeros(3), 1.0), rng=KEY)
    inside = lambda x: backdraw.rloo(lambda y: y + 0 * x, p.repeated(x.shape[0]), rng=KEY)  # noqa: E731
    with pytest.raises(TypeError, match=message.format("exact")):
        backdraw.variance_loss(backdraw.exact, inside, p)
