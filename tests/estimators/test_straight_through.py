"""straight_through and select: a vertex forward, the vjp of the softmax back."""

from typing import Any

import numpy as np
import pytest
from helpers import Library, finite_difference, sigmoid, softmax, softmax_vjp

import backdraw
from backdraw import Bernoulli, Categorical, select, straight_through
from backdraw.random import bits

KEY = backdraw.key(6)
RNG = np.random.default_rng(8)
LOGITS, G = RNG.normal(size=(20, 5)), RNG.normal(size=(20, 5))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_straight_through(lib: Library, temperature: float) -> None:
    x, pullback = backdraw.vjp(lambda l: straight_through(l, temperature=temperature, rng=KEY), lib.asarray(LOGITS))
    u = (bits(KEY, (20, 1)) + 0.5) / 2.0**32  # the inverse CDF, by hand
    index = (np.cumsum(softmax(LOGITS), -1) <= u).sum(-1)
    lib.check(x, np.eye(5)[index], rtol=0)
    p = softmax(LOGITS / temperature)
    lib.check(pullback(lib.asarray(G))[0], softmax_vjp(p, G) / temperature, rtol=1e-10, atol=1e-14)


def test_straight_through_bernoulli(lib: Library) -> None:
    x, pullback = backdraw.vjp(lambda l: straight_through(Bernoulli(l), temperature=0.5, rng=KEY), lib.asarray(LOGITS))
    u = (bits(KEY, (20, 5)) + 0.5) / 2.0**32
    lib.check(x, (u < sigmoid(LOGITS)).astype(float), rtol=0)
    p = sigmoid(LOGITS / 0.5)
    lib.check(pullback(lib.asarray(G))[0], G * p * (1 - p) / 0.5, rtol=1e-10)


@pytest.mark.parametrize("f", [straight_through, select], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dist", [Categorical, Bernoulli], ids=lambda d: d.__name__)
def test_temperature_as_an_array(lib: Library, f: Any, dist: Any) -> None:
    rng = {"rng": KEY} if f is straight_through else {}
    t = np.asarray(0.7)
    _, pullback = backdraw.vjp(lambda l, t: f(dist(l), temperature=t, **rng), lib.asarray(LOGITS), lib.asarray(t))
    to_l, to_t = pullback(lib.asarray(G))
    mean = softmax if dist is Categorical else sigmoid
    lib.check(to_l, finite_difference(lambda l: mean(l / 0.7), LOGITS, G), rtol=1e-6, atol=1e-8)
    lib.check(to_t, finite_difference(lambda t: mean(LOGITS / t), t, G), rtol=1e-6)


def test_select(lib: Library) -> None:
    x, pullback = backdraw.vjp(select, lib.asarray(LOGITS))
    lib.check(x, np.eye(5)[LOGITS.argmax(-1)], rtol=0)
    p = softmax(LOGITS / 0.6)  # the default
    lib.check(pullback(lib.asarray(G))[0], softmax_vjp(p, G) / 0.6, rtol=1e-10, atol=1e-14)
    bits_, pullback = backdraw.vjp(lambda l: select(Bernoulli(l), temperature=2.0), lib.asarray(LOGITS))
    lib.check(bits_, (LOGITS > 0).astype(float), rtol=0)
    p = sigmoid(LOGITS / 2.0)
    lib.check(pullback(lib.asarray(G))[0], G * p * (1 - p) / 2.0, rtol=1e-10)


def test_select_ties_and_masks(lib: Library) -> None:
    rows = np.asarray([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [5.0, 1.0, 1.0], [-np.inf] * 3])
    where = np.asarray([[True] * 3, [True] * 3, [False, True, True], [True] * 3])
    x, pullback = backdraw.vjp(lambda l: select(Categorical(l, where=lib.asarray(where))), lib.asarray(rows))
    lib.check(x, [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]], dtype="float64", rtol=0)
    grad = lib.to_numpy(pullback(lib.asarray(G[:4, :3]))[0])
    assert np.all(np.isfinite(grad))
    assert grad[2, 0] == 0.0
    assert np.all(grad[3] == 0.0)


def _moments(f: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean gradient and its standard error over many rows, and the true gradient by enumeration, in units of the error."""
    n, l = 40_000, np.asarray([0.3, -0.5, 1.0, 0.1])
    p = softmax(l)
    x, pullback = backdraw.vjp(lambda rows: straight_through(rows, rng=backdraw.key(1)), np.broadcast_to(l, (n, 4)))
    g = pullback(f(np.asarray(x)))[0]
    expected = sum(p[k] * softmax_vjp(p, f(np.eye(4)[k])) for k in range(4))
    return (g.mean(0) - expected) / (g.std(0) / np.sqrt(n)), np.asarray(expected)


W = np.asarray([1.0, -2.0, 0.5, 3.0])


def test_mean_gradient_by_enumeration() -> None:
    z, _ = _moments(lambda x: 2.0 * (x @ W)[..., None] * W)  # of f(x) = <w, x>^2
    assert np.abs(z).max() < 4.5


def test_exact_for_linear_f() -> None:
    # For f(x) = <w, x> the cotangent is constant: every single gradient is the true one.
    l = np.asarray([0.3, -0.5, 1.0, 0.1])
    _, pullback = backdraw.vjp(lambda l: straight_through(l, rng=backdraw.key(1)), l)
    np.testing.assert_allclose(pullback(W)[0], finite_difference(lambda l: softmax(l) @ W, l, 1.0), rtol=1e-7)


@pytest.mark.parametrize("f", [straight_through, select], ids=lambda f: f.__name__)
def test_regularizers(lib: Library, f: Any) -> None:
    # The value of the default, and the gradient of sparsemax and 1.5-entmax at logits / t.
    rng = {"rng": KEY} if f is straight_through else {}
    plain = f(lib.asarray(LOGITS), **rng)
    for regularizer in ("euclidean", "tsallis"):
        x, pullback = backdraw.vjp(lambda l, r=regularizer: f(l, temperature=0.5, regularizer=r, **rng), lib.asarray(LOGITS))
        lib.check(x, lib.to_numpy(plain), rtol=0)
        y = lib.to_numpy(Categorical(lib.asarray(LOGITS)).mean(temperature=0.5, regularizer=regularizer))
        s = (y > 0) * 1.0 if regularizer == "euclidean" else np.sqrt(y)
        expected = s * (G - (s * G).sum(-1, keepdims=True) / s.sum(-1, keepdims=True)) / 0.5
        lib.check(pullback(lib.asarray(G))[0], expected, rtol=0, atol=1e-13)
        assert np.any(expected == 0.0)


def test_sparse_bits(lib: Library) -> None:
    x, pullback = backdraw.vjp(
        lambda l: straight_through(Bernoulli(l), temperature=0.5, regularizer="euclidean", rng=KEY), lib.asarray(LOGITS)
    )
    lib.check(x, lib.to_numpy(straight_through(Bernoulli(lib.asarray(LOGITS)), rng=KEY)), rtol=0)
    lib.check(pullback(lib.asarray(G))[0], np.where(np.abs(LOGITS) < 0.5, G, 0.0), rtol=1e-14)  # clip((l / t + 1) / 2, 0, 1)
