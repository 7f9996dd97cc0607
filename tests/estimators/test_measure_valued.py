"""measure_valued: closed forms, the laws of the parts, the rule in plain NumPy, and how often it calls f."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers import Library, finite_difference, sigmoid, softmax

import backdraw
from backdraw import Bernoulli, Categorical, Exponential, Normal, measure_valued
from backdraw.backend import backend_of
from backdraw.random import noise

KEY = backdraw.key(21)
RNG = np.random.default_rng(21)
W = np.asarray([0.7, -1.1, 0.4])
N = 100_000


def black_box(xp: Any, x: Any, w: Any) -> Any:
    """A function of three coordinates that is not additive."""
    return xp.cos(2.0 * xp.sum(x * w, axis=-1)) + x[..., 0] * x[..., 2]


def plain(x: np.ndarray) -> np.ndarray:
    return np.asarray(black_box(np, x, W))


def counted(lib: Library) -> tuple[Any, list[int]]:
    """The black box on a library's arrays, and how many samples each call had."""
    rows: list[int] = []

    def f(x: Any) -> Any:
        rows.append(x.shape[0])
        return black_box(lib.xp, x, lib.asarray(W))

    return f, rows


def gradients(make: Any, f: Any, *params: Any) -> tuple[np.ndarray, ...]:
    """N single-sample values and gradients."""
    rows = [np.broadcast_to(np.asarray(x, float), (N, *np.shape(x))) for x in params]
    value, pullback = backdraw.vjp(lambda *params: measure_valued(f, make(*params), rng=KEY), *rows)
    return value, *pullback(np.ones(N))


def check_means(found: tuple[np.ndarray, ...], expected: tuple[Any, ...]) -> None:
    for each, exact in zip(found, expected, strict=True):
        assert np.all(np.abs(each.mean(0) - exact) < 4.5 * each.std(0) / N**0.5 + 1e-12)


M, S, R = 0.4, 1.3, 0.8
DAMPED = math.exp(-(S**2) / 2)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(
    ("f", "value", "to_loc", "to_scale"),
    [
        (lambda x: 1.0 * x, M, 1.0, 0.0),
        (np.square, M**2 + S**2, 2 * M, 2 * S),
        (np.cos, math.cos(M) * DAMPED, -math.sin(M) * DAMPED, -S * math.cos(M) * DAMPED),
    ],
    ids=["x", "x^2", "cos x"],
)
def test_closed_forms_of_the_normal(f: Any, value: float, to_loc: float, to_scale: float) -> None:
    check_means(gradients(Normal, f, M, S), (value, to_loc, to_scale))


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(
    ("f", "value", "to_rate"),
    [
        (lambda x: 1.0 * x, 1 / R, -1 / R**2),
        (np.square, 2 / R**2, -4 / R**3),
        (np.cos, R**2 / (1 + R**2), 2 * R / (1 + R**2) ** 2),
    ],
    ids=["x", "x^2", "cos x"],
)
def test_closed_forms_of_the_exponential(f: Any, value: float, to_rate: float) -> None:
    check_means(gradients(Exponential, f, R), (value, to_rate))


@pytest.mark.needs("numpy")
def test_closed_forms_of_several_coordinates() -> None:
    m, s = np.asarray([0.4, -0.2, 0.9]), np.asarray([1.3, 0.5, 0.8])
    mean = math.cos(W @ m) * math.exp(-(W**2 @ s**2) / 2)
    to_loc = -W * math.sin(W @ m) * math.exp(-(W**2 @ s**2) / 2)
    check_means(gradients(Normal, lambda x: np.cos(x @ W), m, s), (mean, to_loc, -(W**2) * s * mean))
    r = np.asarray([0.8, 2.0])
    check_means(gradients(Exponential, lambda x: x.prod(-1), r), (1 / r.prod(), -1 / r.prod() / r))


@pytest.mark.needs("numpy")
def test_laws_of_the_parts() -> None:
    p = Normal(np.full(50_000, M), S)
    x, ((c, up, down), (k, far, none)) = p.derivative_measures(p.measure_noise(KEY, (1,)))
    np.testing.assert_allclose(c, 1 / (S * math.sqrt(2 * math.pi)) * np.ones((1, 1, 50_000)))
    np.testing.assert_allclose(k, 1 / S * np.ones((1, 1, 50_000)))
    assert none is None
    for sample, law in (
        (x, scipy.stats.norm(M, S)),
        ((up - M) / S, scipy.stats.weibull_min(2, scale=math.sqrt(2))),
        ((M - down) / S, scipy.stats.weibull_min(2, scale=math.sqrt(2))),
        (abs(far - M) / S, scipy.stats.maxwell),
        ((x - M) / (far[0] - M), scipy.stats.uniform),
    ):
        assert scipy.stats.kstest(sample.ravel(), law.cdf).pvalue > 1e-4
    np.testing.assert_allclose(up - M, M - down, rtol=1e-9)
    assert abs((far > M).mean() - 0.5) < 4.5 * 0.5 / 50_000**0.5

    q = Exponential(np.full(50_000, R))
    x, ((c, none, later),) = q.derivative_measures(q.measure_noise(KEY, (1,)))
    assert none is None
    np.testing.assert_allclose(c, 1 / R * np.ones((1, 1, 50_000)))
    assert scipy.stats.kstest(x.ravel(), scipy.stats.expon(scale=1 / R).cdf).pvalue > 1e-4
    assert scipy.stats.kstest(later.ravel(), scipy.stats.erlang(2, scale=1 / R).cdf).pvalue > 1e-4
    assert np.all(later[0] > x)


def replaced(x: np.ndarray, part: Any) -> np.ndarray:
    """Values of f with one coordinate replaced, for each coordinate of x in turn."""
    own = np.broadcast_to(part, x.shape)
    each = [plain(np.where(np.arange(3) == i, own, x)) for i in range(3)]
    return np.stack(each, -1)


def test_rule_of_the_normal(lib: Library) -> None:
    m, s = RNG.normal(size=(5, 3)), np.exp(RNG.normal(size=(5, 3)))
    z, a, b = noise(backend_of(m), "normal", KEY, (3, 2, 5, 3), m)
    x, weibull = m + s * z, np.sqrt(a**2 + b**2)
    f, rows = counted(lib)
    value, pullback = backdraw.vjp(
        lambda m, s: measure_valued(f, Normal(m, s), samples=2, rng=KEY), lib.asarray(m), lib.asarray(s)
    )
    assert rows == [2, 2 * 3 * 3]
    lib.check(value, plain(x).mean(0), rtol=1e-10)
    to_loc = (replaced(x, m + s * weibull) - replaced(x, m - s * weibull)).mean(0) / s / math.sqrt(2 * math.pi)
    maxwell = np.sign(z) * np.sqrt(z**2 + a**2 + b**2)
    to_scale = (replaced(x, m + s * maxwell) - plain(x)[..., None]).mean(0) / s
    g = RNG.normal(size=5)
    for ours, expected in zip(pullback(lib.asarray(g)), (to_loc, to_scale), strict=True):
        lib.check(ours, g[:, None] * expected, rtol=1e-8, atol=1e-12)


def test_rule_of_bits(taped: Library) -> None:
    l = RNG.normal(size=(5, 3))
    x = np.asarray(backdraw.draw(Bernoulli(l), shape=2, rng=KEY))
    f, rows = counted(taped)
    value, pullback = backdraw.vjp(lambda l: measure_valued(f, Bernoulli(l), samples=2, rng=KEY), taped.asarray(l))
    assert rows == [2, 2 * 3]
    taped.check(value, plain(x).mean(0), rtol=1e-12)
    expected = sigmoid(l) * sigmoid(-l) * (replaced(x, 1.0) - replaced(x, 0.0)).mean(0)
    taped.check(pullback(taped.asarray(np.ones(5)))[0], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("axis", [-1, 1])
def test_rule_of_categories(taped: Library, axis: int) -> None:
    lib, w = taped, RNG.normal(size=(3, 4))
    logits = RNG.normal(size=(5, 3, 4))
    moved = np.moveaxis(logits, -1, axis)
    x = np.moveaxis(np.asarray(backdraw.draw(Categorical(moved, axis=axis), shape=2, rng=KEY)), axis if axis < 0 else 2, -1)
    rows = []

    def f(x: Any) -> Any:
        rows.append(x.shape[0])
        return lib.xp.sum(lib.xp.moveaxis(x, axis if axis < 0 else 2, -1) * lib.asarray(w), axis=(-1, -2)) ** 2

    _, pullback = backdraw.vjp(lambda l: measure_valued(f, Categorical(l, axis=axis), samples=2, rng=KEY), lib.asarray(moved))
    assert rows == [2, 2 * 3 * 3]  # the draw has been there
    expected, total = np.zeros_like(logits), (x * w).sum((-1, -2))
    for d in range(3):
        for k in range(4):
            there = (total - (x[:, :, d] * w[d]).sum(-1) + w[d, k]) ** 2
            expected[:, d, k] = softmax(logits)[:, d, k] * (there - total**2).mean(0)
    lib.check(pullback(lib.asarray(np.ones(5)))[0], np.moveaxis(expected, -1, axis), rtol=1e-9, atol=1e-12)


@pytest.mark.needs("numpy")
def test_masked_categories() -> None:
    where, row = np.asarray([True, False, True, True]), np.asarray([0.3, 0.1, -0.5, 0.9])
    f = lambda x: (x * np.asarray([1.0, np.inf, 4.0, 2.0]) > 0.0).argmax(-1) ** 2.0  # noqa: E731
    states = np.asarray([0.0, 1.0, 4.0, 9.0])
    mean = lambda l: softmax(np.where(where, l, -np.inf)) @ states  # noqa: E731
    with np.errstate(invalid="ignore"):  # 0 * inf inside f
        value, grads = gradients(lambda l: Categorical(l, where=where), f, row)
    assert np.all(grads[:, 1] == 0.0)
    check_means((value, grads), (mean(row), finite_difference(mean, row, 1.0)))


def test_certain_and_unlikely_values(lib: Library) -> None:
    w = lib.asarray(W)
    for make, row in (
        (Categorical, [[0.3, -np.inf, 0.1], [-np.inf] * 3, [1e4, -1e4, 0.0]]),
        (Bernoulli, [[-np.inf, 0.3, np.inf], [0.0, 1e4, -1e4], [0.1, 0.2, 0.3]]),
    ):
        x = lib.asarray(np.asarray(row))
        f = lambda x: lib.xp.sum(x * w, axis=-1)  # noqa: E731
        grad = lib.to_numpy(
            backdraw.vjp(lambda l, make=make, f=f: measure_valued(f, make(l), rng=KEY), x)[1](lib.asarray(np.ones(3)))[0]
        )
        assert np.all(np.isfinite(grad))
        assert np.all(grad[np.isinf(row)] == 0.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(framework: Library, dtype: str) -> None:
    if dtype not in framework.dtypes:
        pytest.skip(f"{framework.backend.value} has no {dtype}")
    params = [framework.asarray(np.full((4, 2), 0.5), dtype) for _ in range(2)]
    f = lambda x: framework.xp.sum(x * x, axis=-1)  # noqa: E731
    for make, given in ((Normal, params), (Exponential, params[:1])):
        value, pullback = backdraw.vjp(lambda *p, make=make: measure_valued(f, make(*p), rng=KEY), *given)
        for out in (value, *pullback(framework.xp.ones_like(value))):
            assert out.dtype == params[0].dtype
            assert np.all(np.isfinite(framework.to_numpy(out)))


def test_a_scale_that_is_a_number(taped: Library) -> None:
    m = RNG.normal(size=(5, 3))
    f, _ = counted(taped)
    ours, both = (
        backdraw.vjp(lambda m, s=s: measure_valued(f, Normal(m, s), rng=KEY), taped.asarray(m))
        for s in (0.7, taped.asarray(np.full((5, 3), 0.7)))
    )
    g = taped.asarray(np.ones(5))
    taped.check(ours[1](g)[0], taped.to_numpy(both[1](g)[0]), rtol=1e-12)


def test_what_it_cannot_take(framework: Library) -> None:
    x = framework.asarray(np.ones((2, 3)))
    for dist in (backdraw.Laplace(x, 1.0), backdraw.LogNormal(x, 1.0)):
        with pytest.raises(
            TypeError, match=r"dist: measure_valued needs derivative_measures\(\) of L.*difference of measures"
        ):
            measure_valued(lambda x: x, dist, rng=KEY)
    with pytest.raises(ValueError, match="expected values of shape"):
        measure_valued(lambda x: x[:, :1, ...], Normal(x, 1.0), rng=KEY)
    with pytest.raises(ValueError, match="samples: measure_valued needs at least 1"):
        measure_valued(lambda x: x, Normal(x, 1.0), samples=0, rng=KEY)
