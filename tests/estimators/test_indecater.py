"""indecater: its rule in plain NumPy, where it has no variance, masks, and how often it calls f."""

from typing import Any

import numpy as np
import pytest
from helpers import Library, finite_difference, sigmoid, softmax, softmax_vjp

import backdraw
from backdraw import Bernoulli, Categorical, indecater
from backdraw.random import bits

KEY = backdraw.key(4)
RNG = np.random.default_rng(4)
LOGITS = RNG.normal(size=(5, 3, 4))  # batches, factors, categories
BITS = RNG.normal(size=(5, 2, 3))  # batches, two axes of factors
W = RNG.normal(size=(3, 4))


def black_box(xp: Any, x: Any, w: Any) -> Any:
    """A function of the last two axes that is not additive."""
    s = xp.sum(x * w, axis=(-1, -2))
    return xp.cos(2.0 * s) + s * x[..., 0, 0]


def plain(x: np.ndarray) -> np.ndarray:
    return np.asarray(black_box(np, x, W[: x.shape[-2], : x.shape[-1]]))


def uniforms(*shape: int) -> np.ndarray:
    return np.asarray((bits(KEY, shape) + 0.5) / 2.0**32)


def test_rule_of_categories(lib: Library) -> None:
    p = softmax(LOGITS)
    u = uniforms(3, 5, 1, 3)[:, :, 0]
    x = np.eye(4)[(np.cumsum(p, -1) <= u[..., None]).sum(-1)]
    to_p, expected = np.zeros_like(p), np.zeros(5)
    for d in range(3):
        for k in range(4):
            y = x.copy()
            y[:, :, d] = np.eye(4)[k]
            to_p[:, d, k] = plain(y).mean(0)
            expected += p[:, d, k] * to_p[:, d, k] / 3
    rows = []

    def f(x: Any) -> Any:
        rows.append(x.shape[0])
        return black_box(lib.xp, lib.xp.moveaxis(x, 2, -1), lib.asarray(W))

    x = lib.asarray(np.moveaxis(LOGITS, -1, 1))
    value, pullback = backdraw.vjp(lambda l: indecater(f, Categorical(l, axis=1), samples=3, rng=KEY), x)
    assert rows == [3, 3 * 3 * 3]
    g = RNG.normal(size=5)
    lib.check(value, expected, rtol=1e-12)
    grad = softmax_vjp(p, g[:, None, None] * to_p)
    lib.check(pullback(lib.asarray(g))[0], np.moveaxis(grad, -1, 1), rtol=1e-10, atol=1e-14)


def test_rule_of_bits(taped: Library) -> None:
    lib = taped
    p, w = sigmoid(BITS), lib.asarray(W[:2, :3])
    x = 1.0 * (uniforms(2, 5, 2, 3) < p)
    difference, expected = np.zeros_like(p), np.zeros(5)
    for i, j in np.ndindex(2, 3):
        on, off = x.copy(), x.copy()
        on[..., i, j], off[..., i, j] = 1.0, 0.0
        difference[:, i, j] = (plain(on) - plain(off)).mean(0)
        expected += (p[:, i, j] * plain(on).mean(0) + (1 - p[:, i, j]) * plain(off).mean(0)) / 6
    value, pullback = backdraw.vjp(
        lambda l: indecater(lambda x: black_box(lib.xp, x, w), Bernoulli(l), samples=2, rng=KEY), lib.asarray(BITS)
    )
    lib.check(value, expected, rtol=1e-12)
    lib.check(pullback(lib.asarray(np.ones(5)))[0], p * (1 - p) * difference, rtol=1e-10, atol=1e-14)


def test_no_variance_for_a_sum_over_factors(taped: Library) -> None:
    w = taped.asarray(W)
    f = lambda x: taped.xp.sum(x * w, axis=(-1, -2))  # noqa: E731
    _, pullback = backdraw.vjp(lambda l: indecater(f, l, rng=KEY), taped.asarray(LOGITS))
    exact = softmax_vjp(softmax(LOGITS), W)
    taped.check(pullback(taped.asarray(np.ones(5)))[0], exact, rtol=1e-9, atol=1e-14)


def test_one_factor_is_exact(taped: Library) -> None:
    # f keeps all batch axes: every row is a factor alone.
    w = taped.asarray(W)
    f = lambda x: taped.xp.sum(x * w, axis=-1) ** 2  # noqa: E731
    ours, exact = (
        backdraw.vjp(e, taped.asarray(LOGITS))
        for e in (lambda l: indecater(f, l, samples=2, rng=KEY), lambda l: backdraw.exact(f, l))
    )
    g = taped.asarray(RNG.normal(size=(5, 3)))
    taped.check(ours[0], taped.to_numpy(exact[0]), rtol=1e-12)
    taped.check(ours[1](g)[0], taped.to_numpy(exact[1](g)[0]), rtol=1e-10, atol=1e-14)


def test_what_has_probability_zero_adds_nothing(lib: Library) -> None:
    rows = np.asarray([[[0.3, -np.inf, 0.1], [0.2, 0.5, -np.inf]], [[-np.inf] * 3, [1e4, -1e4, 0.0]]])
    bad = np.asarray([[0.0, np.inf, 0.0], [0.0, 0.0, -np.inf]])
    w = lib.asarray(np.where(np.isinf(bad), 0.0, 1.0 + np.arange(6).reshape(2, 3)))
    hit = lib.asarray(np.isinf(bad) * 1.0)

    def f(x: Any) -> Any:
        xp = lib.xp
        return xp.where(xp.sum(x * hit, axis=(-1, -2)) > 0, xp.inf, xp.sum(x * w, axis=(-1, -2)) ** 2)

    value, pullback = backdraw.vjp(lambda l: indecater(f, l, samples=2, rng=KEY), lib.asarray(rows))
    grad = lib.to_numpy(pullback(lib.asarray(np.ones(2)))[0])
    assert np.all(np.isfinite(lib.to_numpy(value)))
    assert np.all(np.isfinite(grad))
    assert np.all(grad[np.isinf(rows)] == 0.0)
    assert np.all(grad[0][np.isfinite(rows[0])] != 0.0)


@pytest.mark.needs("numpy")
def test_masked_categories_by_enumeration() -> None:
    where, row, n = np.asarray([True, False, True, True]), LOGITS[0, :2], 50_000
    f = lambda x: black_box(np, x, W[:2])  # noqa: E731

    def mean(l: np.ndarray) -> float:
        p = softmax(np.where(where, l, -np.inf))
        return float(sum(p[0, i] * p[1, j] * f(np.eye(4)[[i, j]]) for i in range(4) for j in range(4)))

    rows = np.broadcast_to(row, (n, *row.shape))
    value, pullback = backdraw.vjp(lambda l: indecater(f, Categorical(l, where=where), rng=KEY), rows)
    grads = pullback(np.ones(n))[0]
    assert np.all(grads[..., 1] == 0.0)
    for found, exact in ((value, mean(row)), (grads, finite_difference(mean, row, 1.0))):
        assert np.all(np.abs(found.mean(0) - exact) < 4.5 * found.std(0) / n**0.5 + 1e-8)


def test_what_it_cannot_take(framework: Library) -> None:
    with pytest.raises(TypeError, match=r"dist: indecater needs support\(\) of Normal"):
        indecater(lambda x: x, backdraw.Normal(framework.asarray(BITS), 1.0), rng=KEY)
