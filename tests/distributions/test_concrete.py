"""Concrete and ExpConcrete: densities against plain formulas and torch, gradients against finite differences, their law."""

import decimal
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from helpers import Library, eps, finite_difference, sigmoid, softmax

import backdraw
from backdraw import Concrete, ExpConcrete

RNG = np.random.default_rng(4)
LOGITS = RNG.normal(size=(2, 3, 4))
Z = scipy.special.log_softmax(2 * RNG.normal(size=(2, 3, 4)), -1)
G, GZ = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3, 4))
MASK = np.asarray([True, False, True, True])
KEY = backdraw.key(3)
FAMILIES = [Concrete, ExpConcrete]
both = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)


def point(family: Any, z: np.ndarray) -> np.ndarray:
    return np.exp(z) if family is Concrete else z


def log_prob(family: Any, l: np.ndarray, x: np.ndarray, t: Any) -> np.ndarray:
    """Equation 10 of arXiv 1611.00712, and its log-space form."""
    z = np.log(x) if family is Concrete else x
    n = l.shape[-1]
    value = scipy.special.gammaln(n) + (n - 1) * np.log(t) + (l - t * z).sum(-1) - n * scipy.special.logsumexp(l - t * z, -1)
    return np.asarray(value - z.sum(-1) if family is Concrete else value)


def precise(family: Any, l: np.ndarray, z: np.ndarray, t: float) -> float:
    """The same of one row, in 60 decimal digits."""
    with decimal.localcontext(prec=60):
        a = [decimal.Decimal(float(x)) - decimal.Decimal(t) * decimal.Decimal(float(y)) for x, y in zip(l, z, strict=True)]
        total = max(a) + sum(((x - max(a)).exp() for x in a), decimal.Decimal(0)).ln()
        log_gamma = sum((decimal.Decimal(k).ln() for k in range(1, len(l))), decimal.Decimal(0))
        value = log_gamma + (len(l) - 1) * decimal.Decimal(t).ln() + sum(a) - len(l) * total
        return float(value - sum(decimal.Decimal(float(y)) for y in z) if family is Concrete else value)


# ------------------------------------------------------------------------------------------------------------ density
@both
@pytest.mark.parametrize("t", [0.3, 1.0, 2.5])
def test_log_prob(lib: Library, family: Any, t: float) -> None:
    p, x = family(lib.asarray(LOGITS), t), point(family, Z)
    lib.check(p.log_prob(lib.asarray(x)), log_prob(family, LOGITS, x, t), rtol=1e-12, atol=1e-12)
    several = np.stack([x, x[::-1]])
    lib.check(p.log_prob(lib.asarray(several)), log_prob(family, LOGITS, several, t), rtol=1e-12, atol=1e-12)
    assert p.batch_shape == (2, 3)


@both
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_axis(lib: Library, family: Any, axis: int) -> None:
    l, x = (np.moveaxis(a, -1, axis) for a in (LOGITS, point(family, Z)))
    p = family(lib.asarray(l), 0.7, axis)
    lib.check(p.log_prob(lib.asarray(x)), log_prob(family, LOGITS, point(family, Z), 0.7), rtol=1e-12, atol=1e-12)
    draw = lib.to_numpy(backdraw.draw(p, shape=5, rng=KEY))
    assert draw.shape == (5, *l.shape)
    total = np.exp(draw).sum if family is ExpConcrete else draw.sum
    np.testing.assert_allclose(total(axis if axis < 0 else 1 + axis), 1.0, rtol=1e-12)
    assert family(lib.asarray(l), 0.7, axis).log_prob(lib.asarray(draw)).shape == (5, 2, 3)


@both
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(lib: Library, family: Any, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    l, x = lib.asarray(LOGITS, dtype), lib.asarray(point(family, Z), dtype)
    exact = [lib.to_numpy(a).astype(np.float64) for a in (l, x)]
    p = family(l, lib.asarray(0.5, dtype))
    lib.check(p.log_prob(x), log_prob(family, *exact, 0.5), dtype=dtype, rtol=4 * eps(dtype), atol=32 * eps(dtype))
    to_l, to_t = p.score(x)
    for out in (to_l, to_t, backdraw.draw(p, rng=KEY), p.transport(p.transport_noise(KEY)), backdraw.kl(p, p, rng=KEY)):
        assert out.dtype == l.dtype


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_thousand_categories_at_a_low_temperature(lib: Library, family: Any, dtype: str) -> None:
    l = ({"float32": 3, "float64": 20}[dtype] * np.random.default_rng(0).normal(size=1000)).astype(dtype)
    p = family(lib.asarray(l, dtype), 0.05)
    x = backdraw.draw(p, rng=KEY)
    values = lib.to_numpy(x)
    if family is Concrete:
        smallest = np.finfo(dtype).smallest_normal
        assert (values < smallest).sum() > 300  # where others give NaN
        z = np.log(np.maximum(values.astype(np.float64), float(smallest)))
    else:
        assert np.all(np.isfinite(values))
        z = values.astype(np.float64)
    expected = precise(family, l.astype(np.float64), z, 0.05)
    lib.check(p.log_prob(x), np.asarray(expected), dtype=dtype, rtol=16 * eps(dtype))  # a sum of 1,000 terms
    tensors = (lib.asarray(l, dtype), x, lib.asarray(0.05, dtype))
    grads = backdraw.vjp(lambda l, x, t: family(l, t).log_prob(x), *tensors)[1](lib.asarray(1.0, dtype))
    for grad in (*grads, *family(tensors[0], tensors[2]).score(x)):
        assert np.all(np.isfinite(lib.to_numpy(grad)))
    if family is Concrete:
        assert np.all(lib.to_numpy(grads[1])[values < smallest] == 0.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_coordinate_of_zero_is_read_as_the_smallest(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    l, y = np.asarray([0.5, -0.25, 1.0]), np.asarray([[0.0, 0.25, 0.75], [0.0, 0.0, 1.0]])
    smallest = {"float16": 2.0**-24, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}[dtype]
    read = np.where(y == 0.0, smallest, y)
    expected = [precise(Concrete, l, np.log(row), 0.5) for row in read]
    value, pullback = backdraw.vjp(lambda y: Concrete(lib.asarray(l, dtype), 0.5).log_prob(y), lib.asarray(y, dtype))
    # Rounded once, of a sum of terms up to 1,000 that is computed in float32 or wider.
    lib.check(value, expected, dtype=dtype, rtol=4 * eps(dtype), atol=1000 * min(eps(dtype), eps("float32")))
    grad = lib.to_numpy(pullback(lib.asarray(np.ones(2), dtype))[0])
    assert np.array_equal(grad == 0.0, y == 0.0)


@pytest.mark.needs("torch")
@both
def test_agrees_with_torch(family: Any) -> None:
    import torch
    from torch.distributions import RelaxedOneHotCategorical
    from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

    theirs = {Concrete: RelaxedOneHotCategorical, ExpConcrete: ExpRelaxedCategorical}[family]
    t, x = torch.tensor(0.7, dtype=torch.float64), torch.tensor(point(family, Z))
    expected = theirs(t, logits=torch.tensor(LOGITS)).log_prob(x)
    np.testing.assert_allclose(family(LOGITS, 0.7).log_prob(x.numpy()), expected.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [0.6, 1.0, 2.0])
def test_integrates_to_one(t: float) -> None:
    p = Concrete(np.asarray([0.3, -0.4]), t)
    total, _ = scipy.integrate.quad(lambda a: np.exp(p.log_prob(np.asarray([a, 1 - a]))), 0, 1)
    assert total == pytest.approx(1.0, abs=1e-7)
    # Three: over all of log space with z_3 = 0 before normalising, where dy_1 dy_2 = y_1 y_2 y_3 dz_1 dz_2.
    grid = np.linspace(-60.0, 60.0, 601)
    z = scipy.special.log_softmax(np.stack([*np.meshgrid(grid, grid), np.zeros((601, 601))], -1), -1)
    q = Concrete(np.asarray([0.3, -0.4, 1.0]), t)
    density = np.exp(q.log_prob(np.exp(z)) + z.sum(-1))
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1.0, abs=1e-6)


# -------------------------------------------------------------------------------------------------- excluded categories
@both
@pytest.mark.parametrize("how", ["-inf", "where"])
def test_excluded_categories(lib: Library, family: Any, how: str) -> None:
    def dist(l: Any, t: Any = 0.5) -> Any:
        return family(l, t) if how == "-inf" else family(l, t, where=lib.asarray(MASK))

    l = lib.asarray(np.where(MASK, LOGITS, -np.inf) if how == "-inf" else LOGITS)
    z = scipy.special.log_softmax(np.where(MASK, Z, -np.inf), -1)
    x = point(family, z)
    expected = log_prob(family, LOGITS[..., MASK], x[..., MASK], 0.5)
    lib.check(dist(l).log_prob(lib.asarray(x)), expected, rtol=1e-12, atol=1e-12)
    lib.check(dist(l).log_prob(lib.asarray(point(family, Z))), np.full((2, 3), -np.inf))
    draw = lib.to_numpy(backdraw.draw(dist(l), rng=KEY))
    assert np.all(draw[..., ~MASK] == point(family, np.asarray(-np.inf)))
    assert np.all(np.isfinite(draw[..., MASK]))
    noise = dist(l).transport_noise(KEY)
    for f, g in (
        (lambda l, t: dist(l, t).log_prob(lib.asarray(x)), lib.asarray(G)),
        (lambda l, t: dist(l, t).transport(noise), lib.asarray(GZ)),
        (lambda l, t: backdraw.kl(dist(l, t), dist(lib.asarray(np.where(MASK, Z, -np.inf))), rng=KEY), lib.asarray(G)),
        (lambda l, t: backdraw.kl(dist(lib.asarray(np.where(MASK, Z, -np.inf))), dist(l, t), rng=KEY), lib.asarray(G)),
    ):
        value, pullback = backdraw.vjp(f, l, lib.asarray(0.5))
        assert not np.any(np.isnan(lib.to_numpy(value)))
        to_l, to_t = (lib.to_numpy(grad) for grad in pullback(g))
        assert np.all(to_l[..., ~MASK] == 0.0)
        assert np.all(np.isfinite(to_l))
        assert np.all(np.abs(to_l[..., MASK]).sum(-1) > 1e-6)
        assert np.isfinite(to_t)
        assert to_t != 0.0
    plain = family(lib.asarray(Z), 0.5)
    for a, b in ((dist(l), plain), (plain, dist(l))):
        lib.check(backdraw.kl(a, b, rng=KEY), np.full((2, 3), np.inf))


@both
def test_a_row_of_minus_infinity_alone(lib: Library, family: Any) -> None:
    l = lib.asarray(np.asarray([[-np.inf] * 3, [0.0, 1.0, 2.0]]))
    x = backdraw.draw(family(l, 0.5), rng=KEY)
    assert np.all(lib.to_numpy(x)[0] == point(family, np.asarray(-np.inf)))
    assert lib.to_numpy(family(l, 0.5).log_prob(x))[0] == 0.0
    noise = family(l, 0.5).transport_noise(KEY)
    for f, g in (
        (lambda l, t: family(l, t).log_prob(x), np.ones(2)),
        (lambda l, t: family(l, t).transport(noise), np.asarray(GZ[0, :2, :3])),
        (lambda l, t: backdraw.kl(family(l, t), family(l, 0.7), rng=KEY), np.ones(2)),
    ):
        value, pullback = backdraw.vjp(f, l, lib.asarray(0.5))
        to_l, to_t = (lib.to_numpy(grad) for grad in pullback(lib.asarray(g)))
        assert not np.any(np.isnan(lib.to_numpy(value)))
        assert np.all(to_l[0] == 0.0)
        assert np.all(np.isfinite(to_l))
        assert np.isfinite(to_t)


@both
@pytest.mark.parametrize(("dtype", "t"), [("float16", 1e-2), ("float32", 1e-2), ("float32", 1e3), ("float64", 1e-2)])
@np.errstate(over="ignore")  # what exceeds float16 is infinite, and NumPy says so
def test_huge_logits(lib: Library, family: Any, dtype: str, t: float) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    top = {"float16": 6e4, "float32": 3e38, "float64": 1.7e308}[dtype]
    l = lib.asarray(np.asarray([[b * row for row in (1, -1, 0, 1e-4)] for b in (1e4, -1e4, top, -top)]), dtype)
    noise = family(l, t).transport_noise(KEY)
    x, pull = backdraw.vjp(lambda l, t: family(l, t).transport(noise), l, lib.asarray(t, dtype))
    assert np.all(np.isfinite(lib.to_numpy(x)))
    value, pullback = backdraw.vjp(lambda l, x: family(l, t).log_prob(x), l, x)
    g = lib.asarray(RNG.normal(size=(4, 4)), dtype)
    for out in (value, *pull(g), *pullback(lib.asarray(np.ones(4), dtype))):
        assert not np.any(np.isnan(lib.to_numpy(out)))


# ---------------------------------------------------------------------------------------------------------- gradients
@both
def test_gradients_by_finite_differences(lib: Library, family: Any) -> None:
    x, t = point(family, Z), np.asarray(0.6)
    arrays = (LOGITS, x, t)
    value, pullback = backdraw.vjp(lambda l, x, t: family(l, t).log_prob(x), *map(lib.asarray, arrays))
    lib.check(value, log_prob(family, *arrays), rtol=1e-12, atol=1e-12)
    grads = pullback(lib.asarray(G))
    lib.check(grads[0], finite_difference(lambda l: log_prob(family, l, x, t), LOGITS, G), rtol=1e-6, atol=1e-7)
    # In steps of x relative to x, which spans orders of magnitude.
    step = finite_difference(lambda r: log_prob(family, LOGITS, x * (1 + r), t), np.zeros_like(x), G) / x
    lib.check(grads[1], step, rtol=1e-6, atol=1e-6)
    lib.check(grads[2], finite_difference(lambda t: log_prob(family, LOGITS, x, t), t, G), rtol=1e-6)
    to_l, to_t = family(lib.asarray(LOGITS), lib.asarray(t)).score(lib.asarray(x))
    lib.check(to_l, finite_difference(lambda l: log_prob(family, l, x, t), LOGITS, np.ones((2, 3))), rtol=1e-6, atol=1e-7)
    up, down = (log_prob(family, LOGITS, x, t + h) for h in (1e-6, -1e-6))
    lib.check(to_t, (up - down) / 2e-6, rtol=1e-6, atol=1e-7)
    lib.check(family(lib.asarray(LOGITS), 0.6).score(lib.asarray(x)), lib.to_numpy(to_l), rtol=1e-13, atol=1e-13)


@both
def test_transport(lib: Library, family: Any) -> None:
    l, t = lib.asarray(LOGITS), lib.asarray(0.6)
    noise = family(l, 0.6).transport_noise(KEY, (2,))
    n = lib.to_numpy(noise)
    g = RNG.normal(size=(2, 2, 3, 4))

    def plain(l: np.ndarray, t: Any) -> np.ndarray:
        return softmax((l + n) / t) if family is Concrete else np.asarray(scipy.special.log_softmax((l + n) / t, -1))

    for arrays in ((l,), (l, t)):
        x, pullback = backdraw.vjp(lambda l, t=0.6: family(l, t).transport(noise), *arrays)
        lib.check(x, plain(LOGITS, 0.6), rtol=1e-12, atol=1e-15)
        lib.check(family(l, 0.6).sample(noise), plain(LOGITS, 0.6), rtol=1e-12, atol=1e-15)
        grads = pullback(lib.asarray(g))
        lib.check(grads[0], finite_difference(lambda l: plain(l, 0.6), LOGITS, g), rtol=1e-6, atol=1e-7)
        if len(arrays) == 2:
            lib.check(grads[1], finite_difference(lambda t: plain(LOGITS, t), np.asarray(0.6), g), rtol=1e-6)


@both
def test_gradients_sum_over_samples_in_front(lib: Library, family: Any) -> None:
    x, g = point(family, np.stack([Z, Z[::-1], Z[:, ::-1]])), RNG.normal(size=(3, 2, 3))
    pullback = backdraw.vjp(lambda l: family(l, 0.6).log_prob(lib.asarray(x)), lib.asarray(LOGITS))[1]
    expected = finite_difference(lambda l: log_prob(family, l, x, 0.6), LOGITS, g)
    lib.check(pullback(lib.asarray(g))[0], expected, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------------- law
@both
@pytest.mark.parametrize("t", [0.05, 1.5])
def test_law_of_two_categories(framework: Library, family: Any, t: float) -> None:
    # log(y_1 / y_2) = (l_1 - l_2 + logistic noise) / t.
    l, n = np.asarray([0.3, -0.6]), 20_000
    x = backdraw.draw(family(framework.asarray(np.broadcast_to(l, (n, 2))), t), rng=KEY)
    values = framework.to_numpy(x)
    with np.errstate(divide="ignore"):
        odds = values[:, 0] - values[:, 1] if family is ExpConcrete else np.log(values[:, 0]) - np.log(values[:, 1])
    assert scipy.stats.kstest(sigmoid(t * odds - 0.9), "uniform").pvalue > 1e-4


def test_law_of_the_largest(framework: Library) -> None:
    # Whatever the temperature, the largest coordinate is a draw of the categorical.
    l, n = np.asarray([0.3, -0.6, 1.0, 0.0]), 20_000
    y = framework.to_numpy(backdraw.draw(Concrete(framework.asarray(np.broadcast_to(l, (n, 4))), 0.7), rng=KEY))
    count = np.bincount(y.argmax(-1), minlength=4)
    assert scipy.stats.chisquare(count, n * softmax(l)).pvalue > 1e-4
