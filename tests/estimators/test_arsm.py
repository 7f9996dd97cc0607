"""arsm: its rule in plain NumPy, its mean by integration and by enumeration, masks, and how often it calls f."""

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import Library, finite_difference, sigmoid, softmax

import backdraw
from backdraw import Categorical, arsm
from backdraw.random import bits

KEY = backdraw.key(12)
RNG = np.random.default_rng(12)
LOGITS = RNG.normal(size=(5, 3, 4))  # batches, factors, categories
MASK = np.asarray([True, True, False, True])
W = RNG.normal(size=(3, 4))


def black_box(xp: Any, x: Any, w: Any) -> Any:
    """A function of three factors that is not additive."""
    s = xp.sum(x * w, axis=(-1, -2))
    return xp.cos(2.0 * s) + s * x[..., 0, 0]


def rule(logits: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paper's estimate for exponentials (batches, factors, categories), and the mean of f over the swaps."""
    c = logits.shape[-1]
    pi = e / e.sum(-1, keepdims=True)
    f = np.zeros((c, c, len(logits)))
    for m, j in itertools.product(range(c), repeat=2):
        order = np.arange(c)
        order[[m, j]] = order[[j, m]]
        f[m, j] = black_box(np, np.eye(c)[np.argmin(pi[..., order] * np.exp(-logits), -1)], W)
    grad = np.zeros_like(logits)
    for k, j in itertools.product(range(c), repeat=2):
        grad[..., k] += (f[k, j] - f[:, j].mean(0))[:, None] * (1.0 / c - pi[..., j])
    return grad, np.asarray(f[np.triu_indices(c, 1)].sum(0) + f[0, 0]) / (c * (c - 1) / 2 + 1)


@pytest.mark.parametrize(("samples", "axis"), [(1, -1), (3, 1)])
def test_rule(lib: Library, samples: int, axis: int) -> None:
    logits = np.moveaxis(LOGITS, -1, axis)
    u = np.moveaxis((bits(KEY, (samples, *logits.shape)) + 0.5) / 2.0**32, axis + 1 if axis > 0 else axis, -1)
    rows = []

    def f(x: Any) -> Any:
        rows.append(x.shape[0])
        return black_box(lib.xp, lib.xp.moveaxis(x, axis + 1 if axis > 0 else axis, -1), lib.asarray(W))

    value, pullback = backdraw.vjp(lambda l: arsm(f, Categorical(l, axis=axis), samples=samples, rng=KEY), lib.asarray(logits))
    assert rows == [samples * 7]
    expected = [rule(LOGITS, -np.log1p(-one)) for one in u]
    g = RNG.normal(size=5)
    lib.check(value, np.mean([v for _, v in expected], axis=0), rtol=1e-12)
    grad = g[:, None, None] * np.mean([e for e, _ in expected], axis=0)
    lib.check(pullback(lib.asarray(g))[0], np.moveaxis(grad, -1, axis), rtol=1e-9, atol=1e-13)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize("probability", [0.5, 0.1, 0.85])
def test_mean_over_the_noise_of_two_categories(probability: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # The share of the first category is uniform, and the estimate linear in it between multiples of 1/20: midpoints.
    share = (np.arange(20) + 0.5) / 20
    noise = -np.log(np.stack([share, 1.0 - share], -1))[None]
    monkeypatch.setattr(Categorical, "swap_noise", lambda self, rng, shape=(): noise)
    rows = np.broadcast_to(np.log([probability, 1.0 - probability]), (20, 2))
    value, pullback = backdraw.vjp(lambda l: arsm(lambda x: 3.0 * x[..., 0] - 1.0, Categorical(l)), rows)
    slope = 3.0 * probability * (1.0 - probability)
    np.testing.assert_allclose(value.mean(), 3.0 * probability - 1.0, rtol=1e-12)
    np.testing.assert_allclose(pullback(np.ones(20))[0].mean(0), [slope, -slope], rtol=1e-12)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize("where", [MASK, np.asarray([MASK, ~MASK, [True] * 4])], ids=["one mask", "a mask per factor"])
def test_masked_categories(where: np.ndarray) -> None:
    n, row = 100_000, LOGITS[0]

    def mean(l: np.ndarray) -> float:
        p = softmax(np.where(where, l, -np.inf))
        states = np.asarray(list(itertools.product(range(4), repeat=3)))
        return float((p[np.arange(3), states].prod(-1) * black_box(np, np.eye(4)[states], W)).sum())

    f = lambda x: black_box(np, x, W)  # noqa: E731
    rows = np.broadcast_to(row, (n, *row.shape))
    value, pullback = backdraw.vjp(lambda l: arsm(f, Categorical(l, where=where), rng=KEY), rows)
    grads = pullback(np.ones(n))[0]
    live = np.broadcast_to(where, row.shape)
    assert np.all(grads[:, ~live] == 0.0)
    np.testing.assert_allclose(grads.sum(-1), 0.0, atol=1e-13)
    for found, exact in ((value, mean(row)), (grads, finite_difference(mean, row, 1.0))):
        assert np.all(np.abs(found.mean(0) - exact) < 4.5 * found.std(0) / n**0.5 + 1e-8)
    # A category of logit -inf is a masked one.
    same, pullback = backdraw.vjp(lambda l: arsm(f, l, rng=KEY), np.where(where, rows, -np.inf)[:100])
    np.testing.assert_allclose(same, value[:100], rtol=1e-13)
    np.testing.assert_allclose(pullback(np.ones(100))[0], grads[:100], rtol=1e-13)


def test_rows_that_cannot_or_hardly_change(lib: Library) -> None:
    rows = np.asarray([[-np.inf, -np.inf, -np.inf], [-np.inf, 0.3, -np.inf], [1e4, -1e4, 0.0], [0.1, 0.2, 0.3]])
    w = lib.asarray(W[0, :3])
    f = lambda x: lib.xp.sum(x * w, axis=-1)  # noqa: E731
    value, pullback = backdraw.vjp(lambda l: arsm(f, l, samples=4, rng=KEY), lib.asarray(rows))
    grad = lib.to_numpy(pullback(lib.asarray(np.ones(4)))[0])
    np.testing.assert_allclose(lib.to_numpy(value)[:3], [0.0, W[0, 1], W[0, 0]], rtol=1e-12)
    assert np.all(grad[:3] == 0.0)
    assert np.all(np.isfinite(grad))
    assert np.all(grad[3] != 0.0)


def test_one_category(taped: Library) -> None:
    lib = taped
    value, pullback = backdraw.vjp(lambda l: arsm(lambda x: 2.0 * x[..., 0], l, rng=KEY), lib.asarray(np.zeros((2, 1))))
    lib.check(value, [2.0, 2.0], rtol=0)
    lib.check(pullback(lib.asarray(np.ones(2)))[0], np.zeros((2, 1)), rtol=0)


@pytest.mark.needs("numpy")
def test_two_categories_are_arm() -> None:
    # Both draw at share = 1 - u, where the difference of two logits is a bit's logit.
    l, u = RNG.normal(size=1000), RNG.random(1000)
    noise = -np.log(np.stack([1.0 - u, u], -1))[None]
    f = lambda x: (x - 0.3) ** 2  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Categorical, "swap_noise", lambda self, rng, shape=(): noise)
        of_pairs = backdraw.vjp(lambda l: arsm(lambda x: f(x[..., 0]), l), np.stack([l, 0 * l], -1))
    expected = (f(1.0 * (u > sigmoid(-l))) - f(1.0 * (u < sigmoid(l)))) * (u - 0.5)
    np.testing.assert_allclose(of_pairs[1](np.ones(1000))[0], np.stack([expected, -expected], -1), rtol=1e-9, atol=1e-12)


def test_what_it_cannot_take(framework: Library) -> None:
    x = framework.asarray(LOGITS)
    for dist in (backdraw.Bernoulli(x), backdraw.Normal(x, 1.0)):
        with pytest.raises(TypeError, match=r"dist: arsm needs swaps\(\) of .*no categories"):
            arsm(lambda x: x, dist, rng=KEY)
