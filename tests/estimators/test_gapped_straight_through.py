"""gapped_straight_through: its rule against the paper's formula in plain NumPy, and its gap."""

from typing import Any

import numpy as np
import pytest
from helpers import Library, finite_difference, sigmoid, softmax, softmax_vjp

import backdraw
from backdraw import Bernoulli, Categorical, gapped_straight_through

KEY = backdraw.key(6)
RNG = np.random.default_rng(8)
LOGITS, G = RNG.normal(size=(20, 5)), RNG.normal(size=(20, 5))


def moved(l: np.ndarray, x: np.ndarray, gap: float) -> np.ndarray:
    """The logits plus m1 less m2, entry by entry."""
    out = np.asarray(l, np.float64).copy()
    for row, draw in zip(out, x, strict=True):
        top, k = row.max(), draw.argmax()
        for j in range(row.size):
            row[j] += top - row[j] if j == k else -max(row[j] + gap - top, 0.0)
    return out


@pytest.mark.parametrize("gap", [0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_categories(lib: Library, temperature: float, gap: float) -> None:
    def f(l: Any) -> Any:
        return gapped_straight_through(l, temperature=temperature, gap=gap, rng=KEY)

    x, pullback = backdraw.vjp(f, lib.asarray(LOGITS))
    lib.check(x, lib.to_numpy(backdraw.draw(lib.asarray(LOGITS), rng=KEY)), rtol=0)
    u = moved(LOGITS, lib.to_numpy(x), gap)
    drawn = u[lib.to_numpy(x) > 0][:, None]
    assert np.all((drawn - u)[lib.to_numpy(x) == 0] >= gap - 1e-12)
    y = softmax(u / temperature)
    lib.check(pullback(lib.asarray(G))[0], softmax_vjp(y, G) / temperature, rtol=1e-10, atol=1e-14)
    constant = u - LOGITS
    expected = finite_difference(lambda l: softmax((l + constant) / temperature), LOGITS, G)
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gap", [0.0, 1.0, 3.0])
def test_bits_are_two_categories(lib: Library, gap: float) -> None:
    l, g = LOGITS.reshape(-1), G.reshape(-1)
    x, pullback = backdraw.vjp(lambda l: gapped_straight_through(Bernoulli(l), gap=gap, rng=KEY), lib.asarray(l))
    bits = lib.to_numpy(x)
    u = moved(np.stack([0 * l, l], -1), np.stack([1 - bits, bits], -1), gap)
    p = softmax(u)[:, 1]
    lib.check(pullback(lib.asarray(g))[0], g * p * (1 - p), rtol=1e-10, atol=1e-14)


def test_temperature_as_an_array(lib: Library) -> None:
    t = np.asarray(0.7)
    for dist, of, other in ((Categorical, softmax, LOGITS), (Bernoulli, sigmoid, 0 * LOGITS)):
        x, pullback = backdraw.vjp(
            lambda l, t, dist=dist: gapped_straight_through(dist(l), temperature=t, rng=KEY),
            lib.asarray(LOGITS),
            lib.asarray(t),
        )
        draw = lib.to_numpy(x)
        u = moved(LOGITS, draw, 1.0)
        if dist is Bernoulli:
            u = np.where(draw > 0, np.maximum(LOGITS, 1.0), np.minimum(LOGITS, -1.0)) + other
        _, to_t = pullback(lib.asarray(G))
        lib.check(to_t, finite_difference(lambda t, u=u, of=of: of(u / t), t, G), rtol=1e-6)


def test_any_axis(framework: Library) -> None:
    l, g = RNG.normal(size=(3, 4, 2)), RNG.normal(size=(3, 4, 2))
    x, pullback = backdraw.vjp(lambda l: gapped_straight_through(Categorical(l, 1), rng=KEY), framework.asarray(l))
    rows, draws, gs = (np.moveaxis(a, 1, -1).reshape(6, 4) for a in (l, framework.to_numpy(x), g))
    expected = np.moveaxis(softmax_vjp(softmax(moved(rows, draws, 1.0)), gs).reshape(3, 2, 4), -1, 1)
    framework.check(pullback(framework.asarray(g))[0], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_excluded_categories_and_huge_logits(lib: Library, dtype: str, temperature: float) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    inf, b = np.inf, {"float16": 6e4, "float32": 3e38, "float64": 1.7e308}[dtype]
    rows = np.asarray([[0.3, -inf, 1.0], [-inf, -inf, 2.0], [-inf, -inf, -inf], [b, -b, 0.0], [b, b, b]])
    g = RNG.normal(size=rows.shape)
    t = lib.asarray(np.asarray(temperature), dtype)
    for given in (temperature, t):
        x, pullback = backdraw.vjp(
            lambda l, given=given: gapped_straight_through(l, temperature=given, rng=KEY), lib.asarray(rows, dtype)
        )
        draw, grad = lib.to_numpy(x), lib.to_numpy(pullback(lib.asarray(g, dtype))[0])
        np.testing.assert_array_equal(draw.sum(-1), [1, 1, 0, 1, 1])
        assert np.all(np.isfinite(grad))
        assert grad[0, 1] == 0.0
        assert np.all(grad[1:4] == 0.0)
        if temperature == 1.0:  # at huge equal logits the gap of 1 is still there
            y = softmax(draw[4].astype(np.float64))
            np.testing.assert_allclose(grad[4], softmax_vjp(y, g[4]), atol=5e-3)
    bits = lib.asarray(np.asarray([-inf, inf, b, -b, 0.0]), dtype)
    x, pullback = backdraw.vjp(lambda l: gapped_straight_through(Bernoulli(l), temperature=temperature, rng=KEY), bits)
    grad = lib.to_numpy(pullback(lib.asarray(np.ones(5), dtype))[0])
    np.testing.assert_array_equal(lib.to_numpy(x)[:4], [0, 1, 1, 0])
    assert np.all(grad[:4] == 0.0)
    p = sigmoid(1 / temperature)
    np.testing.assert_allclose(grad[4], p * (1 - p) / temperature, rtol=5e-3, atol=1e-7)


@pytest.mark.parametrize(("gap", "error"), [(-1, ValueError), (np.inf, ValueError), (np.nan, ValueError)])
def test_gap_out_of_range(gap: Any, error: Any) -> None:
    with pytest.raises(error, match=rf"gap: expected a finite number, 0 or more, got {gap}"):
        gapped_straight_through(LOGITS, gap=gap)


@pytest.mark.parametrize("gap", ["1", None, True, 1j, np.ones(())])
def test_gap_of_another_type(gap: Any) -> None:
    with pytest.raises(TypeError, match=f"gap: expected a number, got {type(gap).__name__}"):
        gapped_straight_through(LOGITS, gap=gap)
