"""arm and disarm: their rules in plain NumPy, their mean and variance by integration over the uniforms."""

from typing import Any

import numpy as np
import pytest
from helpers import Library, finite_difference, sigmoid

import backdraw
from backdraw import Bernoulli, arm, disarm
from backdraw.random import bits

KEY = backdraw.key(9)
RNG = np.random.default_rng(9)
LOGITS = RNG.normal(size=(5, 3)) * 2
W = np.asarray([0.7, -1.1, 0.4])
BOTH = pytest.mark.parametrize("estimator", [arm, disarm], ids=lambda f: f.__name__)


def black_box(xp: Any, x: Any, w: Any) -> Any:
    """A function of three bits that is not additive."""
    return xp.cos(3.0 * xp.sum(x * w, axis=-1)) + x[..., 0] * x[..., 2]


def plain(x: np.ndarray) -> np.ndarray:
    return np.asarray(black_box(np, x, W))


def rule(estimator: Any, logits: np.ndarray, u: np.ndarray, f: Any) -> np.ndarray:
    """The paper's estimate for uniforms (samples, *logits.shape)."""
    if estimator is arm:
        difference = f(1.0 * (u > sigmoid(-logits))) - f(1.0 * (u < sigmoid(logits)))
        return np.asarray((difference[..., None] * (u - 0.5)).mean(0))
    b, other = 1.0 * (1.0 - u < sigmoid(logits)), 1.0 * (u < sigmoid(logits))
    scale = (-1.0) ** other * (b != other) * sigmoid(np.abs(logits))
    return np.asarray((0.5 * (f(b) - f(other))[..., None] * scale).mean(0))


@BOTH
@pytest.mark.parametrize("samples", [1, 4])
def test_rule(lib: Library, estimator: Any, samples: int) -> None:
    u = (bits(KEY, (samples, *LOGITS.shape)) + 0.5) / 2.0**32
    rows = []

    def f(x: Any) -> Any:
        rows.append(x.shape[0])
        return black_box(lib.xp, x, lib.asarray(W))

    g = RNG.normal(size=5)
    run = lambda l: estimator(f, Bernoulli(l), samples=samples, rng=KEY)  # noqa: E731
    value, pullback = backdraw.vjp(run, lib.asarray(LOGITS))
    assert rows == [2 * samples]
    draws = np.concatenate([u > sigmoid(-LOGITS), u < sigmoid(LOGITS)]) * 1.0
    lib.check(value, plain(draws).mean(0), rtol=1e-12)
    lib.check(pullback(lib.asarray(g))[0], g[:, None] * rule(estimator, LOGITS, u, plain), rtol=1e-10, atol=1e-14)


def on_grid(estimator: Any, probs: list[float], f: Any, cells: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One pair's gradients over a grid of uniforms, and the exact gradient.

    The estimate is linear in every uniform between multiples of 1/cells: the midpoints integrate it exactly.
    """
    n = len(probs)
    middle = (np.arange(cells) + 0.5) / cells
    u = np.stack(np.meshgrid(*[middle] * n), -1).reshape(1, -1, n)
    monkeypatch.setattr(Bernoulli, "draw_noise", lambda self, rng, shape=(): u)
    logits = np.log(probs) - np.log1p(-np.asarray(probs))
    rows = np.broadcast_to(logits, u.shape[1:])
    value, pullback = backdraw.vjp(lambda l: estimator(f, Bernoulli(l)), rows)
    grads = pullback(np.ones_like(value))[0]
    states = np.stack(np.meshgrid(*[[0.0, 1.0]] * n), -1).reshape(-1, n)
    mean = lambda l: (np.where(states == 1, sigmoid(l), sigmoid(-l)).prod(-1) * f(states)).sum()  # noqa: E731
    np.testing.assert_allclose(value.mean(), mean(logits), rtol=1e-12)
    return grads, finite_difference(mean, logits, 1.0)


@pytest.mark.needs("numpy")
@BOTH
@pytest.mark.parametrize("probs", [[0.5], [0.1], [0.85], [0.3, 0.85], [0.05, 0.6], [0.2, 0.5, 0.95]])
def test_mean_over_the_uniforms(estimator: Any, probs: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    f = lambda x: np.exp((x * W[: len(probs)]).sum(-1))  # noqa: E731
    grads, exact = on_grid(estimator, probs, f, 20, monkeypatch)
    np.testing.assert_allclose(grads.mean(0), exact, rtol=1e-7, atol=1e-9)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize("probs", [[0.3], [0.3, 0.85]])
def test_disarm_is_the_conditional_mean(probs: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    f = lambda x: np.exp((x * W[: len(probs)]).sum(-1))  # noqa: E731
    whole, part = (on_grid(estimator, probs, f, 100, monkeypatch)[0] for estimator in (arm, disarm))
    # The law of total variance: what is left is uncorrelated with the conditional mean.
    np.testing.assert_allclose(whole.var(0), part.var(0) + ((whole - part) ** 2).mean(0), rtol=1e-10)
    assert np.all(part.var(0) < whole.var(0))


@BOTH
def test_certain_bits(lib: Library, estimator: Any) -> None:
    rows = np.asarray([[-np.inf, 0.3, np.inf], [1e4, 0.1, -1e4]])
    w = lib.asarray(W)

    def f(x: Any) -> Any:
        return lib.xp.sum(x * w, axis=-1)

    _, pullback = backdraw.vjp(lambda l: estimator(f, Bernoulli(l), samples=8, rng=KEY), lib.asarray(rows))
    grad = lib.to_numpy(pullback(lib.asarray(np.ones(2)))[0])
    assert np.all(np.isfinite(grad))
    assert np.all(grad[0, [0, 2]] == 0.0)
    assert np.all(grad[:, 1] != 0.0)


@BOTH
def test_what_it_cannot_take(framework: Library, estimator: Any) -> None:
    x = framework.asarray(LOGITS)
    for dist in (x, backdraw.Categorical(x), backdraw.Normal(x, 1.0)):
        with pytest.raises(TypeError, match=rf"dist: {estimator.__name__} needs antithetic\(\) of .*no bits"):
            estimator(lambda x: x, dist, rng=KEY)
