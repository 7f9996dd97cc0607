"""gumbel_softmax against its formula in plain NumPy, from the same noise."""

from typing import Any

import numpy as np
import pytest
from helpers import Library, finite_difference, sigmoid, softmax, softmax_vjp

import backdraw
from backdraw import Bernoulli, gumbel_softmax
from backdraw.random import bits

KEY = backdraw.key(4)
RNG = np.random.default_rng(2)
LOGITS, G = RNG.normal(size=(2, 6, 5)), RNG.normal(size=(2, 6, 5))
U, V = (bits(KEY, (2, *LOGITS.shape)) + 0.5) / 2.0**32  # the same noise, from the words of the key
GUMBEL = -np.log(-np.log1p(-U))
LOGISTIC = np.log(np.log1p(-U) / np.log1p(-V))


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 5.0, 1])
def test_soft(lib: Library, temperature: float) -> None:
    y, pullback = backdraw.vjp(lambda x: gumbel_softmax(x, temperature=temperature, rng=KEY), lib.asarray(LOGITS))
    p = softmax((LOGITS + GUMBEL) / temperature)
    lib.check(y, p, rtol=1e-11, atol=1e-300)
    lib.check(pullback(lib.asarray(G))[0], softmax_vjp(p, G) / temperature, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_axis(lib: Library, axis: int) -> None:
    y, pullback = backdraw.vjp(lambda x: gumbel_softmax(x, axis=axis, rng=KEY), lib.asarray(LOGITS))
    p = softmax(LOGITS + GUMBEL, axis)
    lib.check(y, p, rtol=1e-11)
    lib.check(pullback(lib.asarray(G))[0], softmax_vjp(p, G, axis), rtol=1e-9, atol=1e-13)
    hard = gumbel_softmax(lib.asarray(LOGITS), axis=axis, hard=True, rng=KEY)
    lib.check(hard, (p == p.max(axis, keepdims=True)).astype(float), rtol=0)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_hard(lib: Library, temperature: float) -> None:
    def hard(x: Any) -> Any:
        return gumbel_softmax(x, temperature=temperature, hard=True, rng=KEY)

    y, pullback = backdraw.vjp(hard, lib.asarray(LOGITS))
    u = LOGITS + GUMBEL
    lib.check(y, np.eye(5)[u.argmax(-1)], rtol=0)
    lib.check(backdraw.gumbel_max(lib.asarray(LOGITS), rng=KEY), np.eye(5)[u.argmax(-1)], rtol=0)
    expected = softmax_vjp(softmax(u / temperature), G) / temperature
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-9, atol=1e-13)


def test_bernoulli(lib: Library) -> None:
    def soft(x: Any, t: Any) -> Any:
        return gumbel_softmax(Bernoulli(x), temperature=t, rng=KEY)

    t = 0.6
    p = sigmoid((LOGITS + LOGISTIC) / t)
    y, pullback = backdraw.vjp(soft, lib.asarray(LOGITS), lib.asarray(t))
    lib.check(y, p, rtol=1e-10)
    to_x, to_t = pullback(lib.asarray(G))
    lib.check(to_x, G * p * (1 - p) / t, rtol=1e-9)
    lib.check(to_t, -np.sum(G * p * (1 - p) * (LOGITS + LOGISTIC)) / t**2, rtol=1e-9)
    hard, pullback = backdraw.vjp(
        lambda x: gumbel_softmax(Bernoulli(x), temperature=t, hard=True, rng=KEY), lib.asarray(LOGITS)
    )
    lib.check(hard, (LOGITS + LOGISTIC > 0).astype(float), rtol=0)
    lib.check(pullback(lib.asarray(G))[0], G * p * (1 - p) / t, rtol=1e-9)


@pytest.mark.parametrize("hard", [False, True])
def test_temperature_as_an_array(lib: Library, hard: bool) -> None:
    def draw(x: Any, t: Any) -> Any:
        return gumbel_softmax(x, temperature=t, hard=hard, rng=KEY)

    t = np.asarray(0.6)
    y, pullback = backdraw.vjp(draw, lib.asarray(LOGITS), lib.asarray(t))
    u = LOGITS + GUMBEL
    lib.check(y, np.eye(5)[u.argmax(-1)] if hard else softmax(u / 0.6), rtol=1e-11)
    to_x, to_t = pullback(lib.asarray(G))
    lib.check(to_x, softmax_vjp(softmax(u / 0.6), G) / 0.6, rtol=1e-9, atol=1e-13)
    lib.check(to_t, finite_difference(lambda t: softmax(u / t), t, G), rtol=1e-6)


def test_temperature_array_with_a_mask_and_minus_inf(lib: Library) -> None:
    logits, where = LOGITS.copy(), np.asarray([True, True, False, True, True])
    logits[0, :, 0] = -np.inf
    u = np.where(where, logits, -np.inf) + GUMBEL
    t = np.asarray(0.5)
    y, pullback = backdraw.vjp(
        lambda x, t: gumbel_softmax(x, temperature=t, where=lib.asarray(where), rng=KEY), lib.asarray(logits), lib.asarray(t)
    )
    lib.check(y, softmax(u / 0.5), rtol=1e-11)
    to_x, to_t = pullback(lib.asarray(G))
    lib.check(to_t, finite_difference(lambda t: softmax(u / t), t, G), rtol=1e-6)
    assert np.all(lib.to_numpy(to_x)[0, :, 0] == 0.0)
    assert np.all(lib.to_numpy(to_x)[..., 2] == 0.0)


def test_where(lib: Library) -> None:
    where = RNG.random((6, 5)) < 0.7
    where[2] = False  # a row with nothing left, in each batch
    y, pullback = backdraw.vjp(lambda x: gumbel_softmax(x, where=lib.asarray(where), rng=KEY), lib.asarray(LOGITS))
    p = softmax(np.where(where, LOGITS, -np.inf) + GUMBEL)
    lib.check(y, p, rtol=1e-11)
    lib.check(pullback(lib.asarray(G))[0], softmax_vjp(p, G), rtol=1e-9, atol=1e-13)
    assert np.all(lib.to_numpy(y)[:, 2] == 0.0)
    assert np.all(lib.to_numpy(pullback(lib.asarray(G))[0])[:, ~where] == 0.0)


def test_limits(lib: Library) -> None:
    # At 1e-6 the runner-up keeps exp(-gap / 1e-6), which is 0 in float64 for every row here.
    x = lib.asarray(LOGITS)
    vertex = np.eye(5)[(LOGITS + GUMBEL).argmax(-1)]
    lib.check(gumbel_softmax(x, temperature=1e-6, rng=KEY), vertex, atol=1e-300)
    lib.check(gumbel_softmax(x, temperature=1e9, rng=KEY), np.full(LOGITS.shape, 0.2), rtol=1e-7)


def test_marginal_of_the_relaxed_draw(framework: Library) -> None:
    # The argmax of a Concrete variable is exactly categorical, at any temperature (arXiv 1611.00712, proposition 1b).
    n, p = 100_000, np.asarray([0.1, 0.6, 0.3])
    y = framework.to_numpy(
        gumbel_softmax(framework.asarray(np.broadcast_to(np.log(p), (n, 3)), "float32"), temperature=2.0, rng=KEY)
    )
    count = np.bincount(y.argmax(-1), minlength=3)
    assert np.all(np.abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p)))


@pytest.mark.needs("torch")
def test_moving_from_torch_is_a_rename() -> None:
    import torch

    x = torch.tensor(LOGITS)
    for options in ({"hard": False}, {"hard": True}):
        theirs = torch.nn.functional.gumbel_softmax(x, tau=0.5, dim=1, **options)
        ours = gumbel_softmax(x, temperature=0.5, axis=1, **options)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours.sum(1), theirs.sum(1))


def test_axis_or_where_beside_a_distribution(lib: Library) -> None:
    p = Bernoulli(lib.asarray(LOGITS))
    with pytest.raises(ValueError, match="axis, where: expected none beside a distribution"):
        gumbel_softmax(p, axis=0, rng=KEY)


# ------------------------------------------------------------------------- two temperatures, and other regularizers
@pytest.mark.parametrize("hard", [False, True])
def test_backward_temperature(lib: Library, hard: bool) -> None:
    # The value of one temperature with the gradient of the other.
    u, t, t_back = LOGITS + GUMBEL, 0.4, np.asarray(1.7)
    value = np.eye(5)[u.argmax(-1)] if hard else softmax(u / t)

    def draw(x: Any, t_back: Any) -> Any:
        return gumbel_softmax(x, temperature=t, backward_temperature=t_back, hard=hard, rng=KEY)

    y, pullback = backdraw.vjp(draw, lib.asarray(LOGITS), lib.asarray(t_back))
    lib.check(y, value, rtol=1e-11)
    to_x, to_t = pullback(lib.asarray(G))
    expected = softmax_vjp(softmax(u / 1.7), G) / 1.7
    lib.check(to_x, expected, rtol=1e-9, atol=1e-13)
    lib.check(to_t, finite_difference(lambda t: softmax(u / t), t_back, G), rtol=1e-6)
    y, pullback = backdraw.vjp(lambda x: draw(x, 1.7), lib.asarray(LOGITS))
    lib.check(y, value, rtol=1e-11)
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-9, atol=1e-13)
    lib.check(draw(lib.asarray(LOGITS), 1.7), value, rtol=1e-11)


@pytest.mark.parametrize("hard", [False, True])
def test_backward_temperature_of_bits(lib: Library, hard: bool) -> None:
    u = LOGITS + LOGISTIC
    y, pullback = backdraw.vjp(
        lambda x: gumbel_softmax(Bernoulli(x), temperature=3.0, backward_temperature=0.5, hard=hard, rng=KEY),
        lib.asarray(LOGITS),
    )
    lib.check(y, (u > 0) * 1.0 if hard else sigmoid(u / 3.0), rtol=1e-10)
    p = sigmoid(u / 0.5)
    lib.check(pullback(lib.asarray(G))[0], G * p * (1 - p) / 0.5, rtol=1e-9, atol=1e-13)


def test_a_backward_temperature_leaves_the_other_without_gradient(lib: Library) -> None:
    x, t = lib.asarray(LOGITS), lib.asarray(np.asarray(0.4))
    f = lambda t: gumbel_softmax(x, temperature=t, backward_temperature=2.0, rng=KEY)  # noqa: E731
    if lib.backend.differentiates:
        lib.check(backdraw.vjp(f, t)[1](lib.asarray(G))[0], 0.0, rtol=0)
    else:
        with pytest.raises(backdraw.GradientError, match="cannot be reached"):
            backdraw.vjp(f, t)


@pytest.mark.parametrize("bad", [0.0, -1, np.inf, np.nan])
def test_bad_backward_temperature(lib: Library, bad: float) -> None:
    x = lib.asarray(LOGITS)
    with pytest.raises(ValueError, match="backward_temperature: expected a positive finite number"):
        gumbel_softmax(x, backward_temperature=bad, rng=KEY)
    with pytest.raises(TypeError, match="backward_temperature: expected a number or a scalar array, got str"):
        gumbel_softmax(x, backward_temperature="low", rng=KEY)
    with pytest.raises(ValueError, match="backward_temperature: expected a scalar array"):
        gumbel_softmax(x, backward_temperature=x, rng=KEY)


@pytest.mark.parametrize("hard", [False, True])
def test_regularizers(lib: Library, hard: bool) -> None:
    # sparsemax is the Euclidean projection onto the simplex: it satisfies its optimality conditions.
    def draw(x: Any) -> Any:
        return gumbel_softmax(x, temperature=2.0, regularizer="euclidean", hard=hard, rng=KEY)

    u = LOGITS + GUMBEL
    y, pullback = backdraw.vjp(draw, lib.asarray(LOGITS))
    soft = lib.to_numpy(gumbel_softmax(lib.asarray(LOGITS), temperature=2.0, regularizer="euclidean", rng=KEY))
    lib.check(y, np.eye(5)[u.argmax(-1)] if hard else soft, rtol=1e-14)
    s, gap = soft > 0.0, u / 2.0 - soft  # the multiplier, equal on the support and no less off it
    tau = np.where(s, gap, -np.inf).max(-1, keepdims=True)
    np.testing.assert_allclose(np.where(s, gap, tau), np.broadcast_to(tau, gap.shape), atol=1e-13)
    assert np.all(gap <= tau + 1e-13)
    assert s.sum() < s.size
    np.testing.assert_allclose(soft.sum(-1), 1.0, rtol=1e-14)
    expected = s * (G - (s * G).sum(-1, keepdims=True) / s.sum(-1, keepdims=True)) / 2.0
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=0, atol=1e-14)
