"""reinmax: its rule against plain formulas and finite differences, its mean gradient against enumeration."""

from typing import Any

import numpy as np
import pytest
from helpers import Library, finite_difference, sigmoid, softmax, softmax_vjp

import backdraw
from backdraw import Bernoulli, Categorical, GradientError, reinmax, straight_through

KEY = backdraw.key(6)
RNG = np.random.default_rng(8)
LOGITS, G = RNG.normal(size=(20, 5)), RNG.normal(size=(20, 5))


def rule(logits: np.ndarray, x: np.ndarray, g: np.ndarray, t: float) -> np.ndarray:
    return np.asarray(2 * softmax_vjp((x + softmax(logits / t)) / 2, g) - softmax_vjp(softmax(logits), g) / 2)


def rule_of_bits(logits: np.ndarray, x: np.ndarray, g: np.ndarray, t: float) -> np.ndarray:
    half, p = (x + sigmoid(logits / t)) / 2, sigmoid(logits)
    return np.asarray(g * (2 * half * (1 - half) - p * (1 - p) / 2))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_categories(lib: Library, temperature: float) -> None:
    x, pullback = backdraw.vjp(lambda l: reinmax(l, temperature=temperature, rng=KEY), lib.asarray(LOGITS))
    draw = lib.to_numpy(x)
    lib.check(x, lib.to_numpy(backdraw.draw(lib.asarray(LOGITS), rng=KEY)), rtol=0)
    lib.check(pullback(lib.asarray(G))[0], rule(LOGITS, draw, G, temperature), rtol=1e-10, atol=1e-14)

    # The paper's form of the same: pi_1 as a function of the logits whose value is the mean of the draw and pi_t.
    shift = np.log(np.maximum((draw + softmax(LOGITS / temperature)) / 2, 1e-300)) - LOGITS

    def twin(l: np.ndarray) -> np.ndarray:
        return np.asarray(2 * softmax(shift + l) - softmax(l) / 2)

    lib.check(pullback(lib.asarray(G))[0], finite_difference(twin, LOGITS, G), rtol=1e-6, atol=1e-8)


def test_half_straight_through_and_half_score() -> None:
    x, pullback = backdraw.vjp(lambda l: reinmax(l, rng=KEY), LOGITS)
    away = x - softmax(LOGITS)
    score = away * (away * G).sum(-1, keepdims=True)
    np.testing.assert_allclose(pullback(G)[0], (softmax_vjp(softmax(LOGITS), G) + score) / 2, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_bits(lib: Library, temperature: float) -> None:
    x, pullback = backdraw.vjp(lambda l: reinmax(Bernoulli(l), temperature=temperature, rng=KEY), lib.asarray(LOGITS))
    expected = rule_of_bits(LOGITS, lib.to_numpy(x), G, temperature)
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-10, atol=1e-14)


def test_traced_temperature_has_no_gradient(lib: Library) -> None:
    t = lib.asarray(np.asarray(0.7))
    x, pullback = backdraw.vjp(lambda l: reinmax(l, temperature=t, rng=KEY), lib.asarray(LOGITS))
    lib.check(pullback(lib.asarray(G))[0], rule(LOGITS, lib.to_numpy(x), G, 0.7), rtol=1e-10, atol=1e-14)

    def of_t(l: Any, t: Any) -> Any:
        return reinmax(Categorical(l), temperature=t, rng=KEY)

    if lib.backend.differentiates:
        _, pullback = backdraw.vjp(of_t, lib.asarray(LOGITS), t)
        to_t = pullback(lib.asarray(G))[1]
        assert to_t is None or lib.to_numpy(to_t) == 0.0
    else:
        with pytest.raises(GradientError):
            backdraw.vjp(of_t, lib.asarray(LOGITS), t)[1](lib.asarray(G))


@pytest.mark.parametrize("axis", [0, 1])
def test_any_axis(lib: Library, axis: int) -> None:
    l, g = RNG.normal(size=(3, 4, 2)), RNG.normal(size=(3, 4, 2))
    x, pullback = backdraw.vjp(lambda l: reinmax(Categorical(l, axis), temperature=2.0, rng=KEY), lib.asarray(l))
    draw = lib.to_numpy(x)
    assert np.all(draw.sum(axis) == 1.0)
    expected = rule(*(np.moveaxis(a, axis, -1) for a in (l, draw, g)), 2.0)
    lib.check(pullback(lib.asarray(g))[0], np.moveaxis(expected, -1, axis), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rows", [3, 3000])
def test_strides(framework: Library, rows: int) -> None:
    # A transposed array and every second entry of it; the larger one goes through blocks of rows.
    whole, g = RNG.normal(size=(100, rows)), RNG.normal(size=(rows, 50))
    l = framework.asarray(whole).T[:, ::2]
    x, pullback = backdraw.vjp(lambda l: reinmax(l, rng=KEY), l)
    expected = rule(whole.T[:, ::2], framework.to_numpy(x), g, 1.0)
    framework.check(pullback(framework.asarray(g).T.T)[0], expected, rtol=1e-10, atol=1e-14)
    framework.check(l, whole.T[:, ::2], rtol=0)


def test_excluded_categories_and_huge_logits(lib: Library) -> None:
    inf = np.inf
    rows = np.asarray([[0.3, -inf, 1.0], [-inf, -inf, 2.0], [-inf, -inf, -inf], [1e4, -1e4, 0.0], [3e38, -3e38, 1e38]])
    g = RNG.normal(size=rows.shape)
    for dtype, t in (("float64", 1.0), ("float32", 0.05), ("float32", 1.0)):
        x, pullback = backdraw.vjp(lambda l, t=t: reinmax(l, temperature=t, rng=KEY), lib.asarray(rows, dtype))
        draw, grad = lib.to_numpy(x), lib.to_numpy(pullback(lib.asarray(g, dtype))[0])
        np.testing.assert_array_equal(draw.sum(-1), [1, 1, 0, 1, 1])
        assert np.all(np.isfinite(grad))
        assert np.all(grad[1:] == 0.0)
        assert grad[0, 1] == 0.0
        np.testing.assert_allclose(grad[:1], rule(rows[:1], draw[:1], g[:1], t), atol=1e-6)


def _ratio(rule: Any, logits: np.ndarray, slope: Any, value: Any) -> float:
    """The mean gradient's component along the exact one, over its length."""
    p, corners = softmax(logits), np.eye(logits.size)
    exact = softmax_vjp(p, value(corners))
    mean = sum(p[k] * rule(logits, corners[k], slope(corners[k])) for k in range(logits.size))
    return float(mean @ exact / (exact @ exact))


def _ours(f: Any) -> Any:
    def of_draw(logits: np.ndarray, x: np.ndarray, g: np.ndarray) -> np.ndarray:
        for seed in range(1000):  # until the draw is x
            y, pullback = backdraw.vjp(lambda l, seed=seed: f(l, rng=backdraw.key(seed)), logits)
            if np.array_equal(y, x):
                return np.asarray(pullback(g)[0])
        raise AssertionError("never drawn")

    return of_draw


C, ROW = np.asarray([0.45, 0.1, 0.7, 0.3]), np.asarray([0.3, -0.5, 1.0, 0.1])


def _power(power: float) -> tuple[Any, Any]:
    """``sum |x - c|^power``: its gradient and its value."""
    return (
        lambda x: power * np.sign(x - C) * np.abs(x - C) ** (power - 1),
        lambda x: (np.abs(x - C) ** power).sum(-1),
    )


def test_exact_for_quadratics() -> None:
    slope, value = _power(2.0)
    p, corners = softmax(ROW), np.eye(4)
    mean = sum(p[k] * _ours(reinmax)(ROW, corners[k], slope(corners[k])) for k in range(4))
    np.testing.assert_allclose(mean, softmax_vjp(p, value(corners)), rtol=1e-10)
    for l in (-1.3, 0.4, 2.0):  # and for a bit
        exact = sigmoid(l) * sigmoid(-l) * ((1 - 0.45) ** 2 - 0.45**2)
        logit = np.asarray([l])
        one = sum(
            q * _ours(lambda l, rng: reinmax(Bernoulli(l), rng=rng))(logit, np.asarray([b]), np.asarray([2 * (b - 0.45)]))
            for b, q in ((1.0, sigmoid(l)), (0.0, sigmoid(-l)))
        )
        np.testing.assert_allclose(one, [exact], rtol=1e-10)


# For these f reinmax is the trapezoidal rule between the vertices, good to the second order whatever the logits;
# straight-through's error is of the first order, and depends on them.
@pytest.mark.parametrize(
    ("power", "ours", "straight"),
    [(1.5, (0.529, 0.551, 0.539), (-0.164, 0.585, 0.190)), (3.0, (1.829, 1.730, 1.785), (0.989, 1.553, 1.261))],
)
def test_ratio_to_the_exact_gradient(power: float, ours: Any, straight: Any) -> None:
    slope, value = _power(power)
    rows = ROW, np.asarray([0.0, 1e-3, 0.0, 0.0]), np.random.default_rng(0).normal(size=4)
    for f, expected in ((reinmax, ours), (straight_through, straight)):
        np.testing.assert_allclose([_ratio(_ours(f), l, slope, value) for l in rows], expected, atol=6e-4)


@pytest.mark.parametrize(("power", "ours", "straight"), [(1.5, 0.501, (-4.116, 5.118)), (3.0, 1.993, (-2.659, 6.645))])
def test_ratio_to_the_exact_gradient_for_bits(power: float, ours: float, straight: Any) -> None:
    c = 0.45  # as in the paper
    slopes, exact = {1.0: power * (1 - c) ** (power - 1), 0.0: -power * c ** (power - 1)}, (1 - c) ** power - c**power

    def ratio(f: Any, l: float) -> float:
        logit = np.asarray([l])
        grads = {
            b: _ours(lambda l, rng: f(Bernoulli(l), rng=rng))(logit, np.asarray([b]), np.asarray([slopes[b]])) for b in slopes
        }
        return float((sigmoid(l) * grads[1.0] + sigmoid(-l) * grads[0.0])[0] / (sigmoid(l) * sigmoid(-l) * exact))

    np.testing.assert_allclose([ratio(reinmax, l) for l in (-1.0, 0.0, 1.0)], ours, atol=6e-4)
    np.testing.assert_allclose([ratio(straight_through, l) for l in (-1.0, 1.0)], straight, atol=6e-4)


def test_no_second_derivative(framework: Library) -> None:
    def grad(l: Any) -> Any:
        return backdraw.vjp(lambda l: reinmax(l, rng=KEY), l)[1](framework.asarray(G))[0]

    with pytest.raises(GradientError):
        backdraw.vjp(grad, framework.asarray(LOGITS))[1](framework.asarray(G))


@pytest.mark.needs("torch")
def test_second_backward_on_torch() -> None:
    import torch

    x = torch.tensor(LOGITS, requires_grad=True)
    (grad,) = torch.autograd.grad((reinmax(x, rng=KEY) * torch.tensor(G)).sum(), x, create_graph=True)
    with pytest.raises(GradientError, match="reinmax has no second derivative"):
        grad.sum().backward()
    y = reinmax(x, rng=KEY)
    expected = torch.autograd.grad(y, x, torch.tensor(G), retain_graph=True)[0]
    with torch.no_grad():
        y.zero_()  # the draw is the user's to write to
    torch.testing.assert_close(torch.autograd.grad(y, x, torch.tensor(G))[0], expected, rtol=0, atol=0)


def test_needs() -> None:
    class Bare(backdraw.Distribution):
        def sample(self, noise: Any) -> Any: ...

        def mean(self, **_: Any) -> Any: ...

    try:
        with pytest.raises(TypeError, match=r"reinmax needs covariance_product\(\) of Bare, but the covariance"):
            reinmax(Bare())
    finally:
        backdraw.Distribution.classes.remove(Bare)
