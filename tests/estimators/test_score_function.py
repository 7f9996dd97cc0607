"""The score-function family: its identities, its arguments, and what f may be."""

from typing import Any

import numpy as np
import pytest
import scipy.special
from helpers import Backend, Library, finite_difference, pulled, softmax
from problems import bowl

import backdraw

RNG = np.random.default_rng(3)
KEY = backdraw.key(7)
LOGITS = RNG.normal(size=(2, 5, 3))


def last_of(x: Any) -> Any:
    """A black box on NumPy: how often the last category comes, squared."""
    return np.asarray(x)[..., -1].sum(-1) ** 2


@backdraw.primitive
def square(be: Any, x: Any) -> Any:
    """A function with its gradient on every backend."""
    return be.xp.sum(x * x, axis=-1)


square.defvjp(
    lambda be, x: (be.xp.sum(x * x, axis=-1), (x,)), lambda be, res, g: (2.0 * be.xp.expand_dims(g, axis=-1) * res[0],)
)


def gradient(estimate: Any, logits: np.ndarray, g: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    value, pullback = backdraw.vjp(estimate, logits)
    return value, pullback(np.ones_like(value) if g is None else g)[0]


def test_reinforce_and_rloo_are_their_formulas() -> None:
    x = backdraw.draw(LOGITS, shape=4, rng=KEY)
    values, score = last_of(x), x - softmax(LOGITS)
    g = np.asarray([2.0, -0.5])
    value, grad = gradient(lambda l: backdraw.reinforce(last_of, l, samples=4, baseline=0.7, rng=KEY), LOGITS, g)
    np.testing.assert_allclose(value, values.mean(0))
    np.testing.assert_allclose(grad, ((g * (values - 0.7))[..., None, None] * score).mean(0), rtol=1e-12)
    value, grad = gradient(lambda l: backdraw.rloo(last_of, l, samples=4, rng=KEY), LOGITS, g)
    others = (values.sum(0) - values) / 3
    np.testing.assert_allclose(value, values.mean(0))
    np.testing.assert_allclose(grad, ((g * (values - others))[..., None, None] * score).mean(0), rtol=1e-12, atol=1e-14)


def test_rloo_is_vargrad_for_log_ratios() -> None:
    target = RNG.normal(size=(2, 5, 3))
    x = backdraw.draw(LOGITS, shape=6, rng=KEY)

    def log_ratio(logits: np.ndarray) -> np.ndarray:
        return np.asarray((x * (np.log(softmax(logits)) - target)).sum((-1, -2)))

    # The log-variance loss at fixed draws, half their sample variance.
    loss = lambda l: 0.5 * log_ratio(l).var(axis=0, ddof=1).sum()  # noqa: E731
    _, grad = gradient(lambda l: backdraw.rloo(lambda _: log_ratio(LOGITS), l, samples=6, rng=KEY), LOGITS)
    np.testing.assert_allclose(grad, finite_difference(loss, LOGITS, 1.0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["reinforce", "rloo", "vimco"])
def test_a_parameter_that_the_batch_shares_gets_the_sum(lib: Library, name: str) -> None:
    logits, t, g = RNG.normal(size=(4, 3)), np.asarray(0.8), np.asarray([1.0, -2.0, 0.5, 3.0])

    def of_temperature(logits: Any, t: Any) -> Any:
        return getattr(backdraw, name)(square, backdraw.ExpConcrete(logits, t), samples=3, rng=KEY)

    _, pullback = backdraw.vjp(of_temperature, lib.asarray(logits), lib.asarray(t))
    to_logits, to_t = pullback(lib.asarray(g))
    assert tuple(to_logits.shape) == (4, 3)
    # Each row's part of the gradient, from a temperature of its own: that row's cotangent alone is not zero.
    parts = [lib.to_numpy(pullback(lib.asarray(np.where(np.arange(4) == i, g, 0.0)))[1]) for i in range(4)]
    assert np.abs(parts).min() > 1e-3
    lib.check(to_t, np.sum(parts), rtol=1e-9)
    if name == "vimco":
        return
    # The formula, at the estimator's own draws, with the density's derivative by differences of equation 10 of 1611.00712.
    z = lib.to_numpy(backdraw.reparameterize(backdraw.ExpConcrete(lib.asarray(logits), 0.8), shape=3, rng=KEY))
    values = (z * z).sum(-1)
    weights = values if name == "reinforce" else values - (values.sum(0) - values) / 2

    def log_density(t: float) -> np.ndarray:
        u = logits - t * z
        return np.asarray(2 * np.log(t) + u.sum(-1) - 3 * scipy.special.logsumexp(u, -1))

    slope = (log_density(0.8 + 1e-6) - log_density(0.8 - 1e-6)) / 2e-6
    lib.check(to_t, (g * (weights * slope).mean(0)).sum(), rtol=1e-6)


def test_rloo_ignores_a_constant() -> None:
    grads = [gradient(lambda l, c=c: backdraw.rloo(lambda x: last_of(x) + c, l, rng=KEY), LOGITS)[1] for c in (0.0, 1e3)]
    np.testing.assert_allclose(*grads, rtol=1e-9, atol=1e-11)


def test_muprop_is_exact_for_linear_f(lib: Library) -> None:
    w = RNG.normal(size=3)
    f = lambda x: backdraw.Categorical(lib.asarray(w)).log_prob(x)  # noqa: E731
    _, (grad,) = pulled(lib, lambda l: backdraw.muprop(f, l, rng=KEY), lib.asarray(np.ones(())), lib.asarray(LOGITS[0, 0]))
    p, cost = softmax(LOGITS[0, 0]), np.log(softmax(w))
    lib.check(grad, p * (cost - p @ cost), rtol=1e-10)


@pytest.mark.parametrize("baseline", ["number", "scalar", "batch"])
def test_baselines(lib: Library, baseline: str) -> None:
    b = {"number": 0.4, "scalar": np.asarray(0.4), "batch": np.asarray([0.4, -1.0])}[baseline]
    f = lambda x: bowl(x, event=2)  # noqa: E731
    given = b if baseline == "number" else lib.asarray(b)
    estimate = lambda l: backdraw.reinforce(f, l, samples=3, baseline=given, rng=KEY)  # noqa: E731
    _, (grad,) = pulled(lib, estimate, lib.asarray(np.ones(2)), lib.asarray(LOGITS))
    x = backdraw.draw(LOGITS, shape=3, rng=KEY)
    weights = ((x - 0.3) ** 2).sum((-1, -2)) - b
    lib.check(grad, (weights[..., None, None] * (x - softmax(LOGITS))).mean(0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("baseline", "error", "message"),
    [
        (np.zeros(3), ValueError, r"baseline: expected the batch's shape \(2,\), got \(3,\)"),
        (np.zeros((1, 2)), ValueError, r"baseline: expected the batch's shape \(2,\), got \(1, 2\)"),
        (
            np.zeros(2, int),
            TypeError,
            "baseline: expected a number or a real floating numpy array, got ndarray of dtype int64",
        ),
        ("mean", TypeError, "baseline: expected a number or a real floating numpy array, got str"),
        (True, TypeError, "baseline: expected a number or a real floating numpy array, got bool"),
    ],
)
def test_wrong_baselines(baseline: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        backdraw.reinforce(last_of, LOGITS, baseline=baseline, rng=KEY)


def test_too_few_samples() -> None:
    for estimate in (backdraw.rloo, backdraw.vimco):
        with pytest.raises(ValueError, match=r"samples: \w+ needs at least 2, got 1"):
            estimate(last_of, LOGITS, samples=1, rng=KEY)


def test_categories_on_another_axis() -> None:
    turned = np.moveaxis(LOGITS, -1, 1)
    f = lambda x: last_of(np.moveaxis(x, 2, -1))  # noqa: E731
    _, grad = gradient(lambda l: backdraw.rloo(f, backdraw.Categorical(l, axis=1), samples=4, rng=KEY), turned)
    _, expected = gradient(lambda l: backdraw.rloo(last_of, l, samples=4, rng=KEY), LOGITS)
    np.testing.assert_allclose(np.moveaxis(grad, 1, -1), expected, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match=r"\(2, 2\) or fewer of its axes from the left, got shape \(2, 2, 5\)"):
        backdraw.rloo(lambda x: x[:, :, -1, :], backdraw.Categorical(turned, axis=1), rng=KEY)


def test_counts_and_hits_are_values(framework: Library) -> None:
    """f may return integers or booleans."""
    logits = framework.asarray(LOGITS)
    for f in (lambda x: x[..., 0] > 0, lambda x: framework.xp.astype(x[..., 0], framework.xp.int32)):
        value = backdraw.reinforce(f, logits, samples=3, rng=KEY)
        framework.check(value, backdraw.draw(LOGITS, shape=3, rng=KEY)[..., 0].mean(0), rtol=1e-12)


def test_wider_values_of_f_keep_the_dtype_of_the_gradient() -> None:
    logits = LOGITS.astype(np.float32)
    value, grad = gradient(lambda l: backdraw.rloo(lambda x: last_of(x).astype(np.float64), l, samples=4, rng=KEY), logits)
    assert value.dtype == np.float64
    assert grad.dtype == np.float32


def test_vimco_of_huge_values() -> None:
    for size in (-1e5, 1e5):
        bound, grad = gradient(
            lambda l, c=size: backdraw.vimco(lambda x: c * x[..., 0], l, samples=4, rng=KEY), np.zeros((50, 3))
        )
        hits = backdraw.draw(np.zeros((50, 3)), shape=4, rng=KEY)[..., 0].sum(0)
        expected = np.where(hits > 0, 1e5 + np.log(np.maximum(hits, 1) / 4), 0.0) if size > 0 else None
        if expected is not None:
            np.testing.assert_allclose(bound, expected)
        assert np.all(np.isfinite(grad))


@pytest.mark.needs("torch")
def test_gradients_of_modules_that_f_closes_over() -> None:
    import torch

    lib = Library(Backend.TORCH)
    net = torch.nn.Sequential(torch.nn.Linear(15, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    f = lambda x: net(x.flatten(-2)).squeeze(-1)  # noqa: E731
    logits = lib.asarray(LOGITS).requires_grad_()
    backdraw.rloo(f, logits, samples=4, rng=KEY).sum().backward()
    x = backdraw.draw(lib.asarray(LOGITS), shape=4, rng=KEY)
    expected = torch.autograd.grad(f(x).mean(0).sum(), list(net.parameters()))
    for parameter, grad in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    assert logits.grad.abs().max() > 0
