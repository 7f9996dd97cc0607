"""Concrete and ExpConcrete at their edges: underflow, a thousand categories, excluded categories, huge logits."""

import decimal
from typing import Any

import numpy as np
import pytest
import scipy.special
from helpers import Library, eps, pulled

import backdraw
from backdraw import Concrete, ExpConcrete

RNG = np.random.default_rng(4)
LOGITS = RNG.normal(size=(2, 3, 4))
Z = scipy.special.log_softmax(2 * RNG.normal(size=(2, 3, 4)), -1)
G, GZ = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3, 4))
MASK = np.asarray([True, False, True, True])
KEY = backdraw.key(3)
both = pytest.mark.parametrize("family", [Concrete, ExpConcrete], ids=lambda f: f.__name__)


def point(family: Any, z: np.ndarray) -> np.ndarray:
    return np.exp(z) if family is Concrete else z


def precise(family: Any, l: np.ndarray, z: np.ndarray, t: float) -> float:
    """The log-density of one row at log y = z, in 60 decimal digits."""
    with decimal.localcontext(prec=60):
        a = [decimal.Decimal(float(x)) - decimal.Decimal(t) * decimal.Decimal(float(y)) for x, y in zip(l, z, strict=True)]
        total = max(a) + sum(((x - max(a)).exp() for x in a), decimal.Decimal(0)).ln()
        log_gamma = sum((decimal.Decimal(k).ln() for k in range(1, len(l))), decimal.Decimal(0))
        value = log_gamma + (len(l) - 1) * decimal.Decimal(t).ln() + sum(a) - len(l) * total
        return float(value - sum(decimal.Decimal(float(y)) for y in z) if family is Concrete else value)


# ---------------------------------------------------------------------------------------------------------- underflow
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
    _, grads = pulled(lib, lambda l, x, t: family(l, t).log_prob(x), lib.asarray(1.0, dtype), *tensors)
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
    p, g = Concrete(lib.asarray(l, dtype), 0.5), lib.asarray(np.ones(2), dtype)
    value, grads = pulled(lib, lambda y: p.log_prob(y), g, lib.asarray(y, dtype))
    # Rounded once, of a sum of terms up to 1,000 that is computed in float32 or wider.
    lib.check(value, expected, dtype=dtype, rtol=4 * eps(dtype), atol=1000 * min(eps(dtype), eps("float32")))
    grad = lib.to_numpy(grads[0])
    assert np.array_equal(grad == 0.0, y == 0.0)


# -------------------------------------------------------------------------------------------------- excluded categories
@both
@pytest.mark.parametrize("how", ["-inf", "where"])
def test_excluded_categories(lib: Library, family: Any, how: str) -> None:
    def dist(l: Any, t: Any = 0.5) -> Any:
        return family(l, t) if how == "-inf" else family(l, t, where=lib.asarray(MASK))

    l = lib.asarray(np.where(MASK, LOGITS, -np.inf) if how == "-inf" else LOGITS)
    z = scipy.special.log_softmax(np.where(MASK, Z, -np.inf), -1)
    x = point(family, z)
    live = zip(LOGITS[..., MASK].reshape(6, 3), z[..., MASK].reshape(6, 3), strict=True)
    expected = np.reshape([precise(family, l, row, 0.5) for l, row in live], (2, 3))
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
        value, grads = pulled(lib, f, g, l, lib.asarray(0.5))
        assert not np.any(np.isnan(lib.to_numpy(value)))
        to_l, to_t = map(lib.to_numpy, grads)
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
        value, grads = pulled(lib, f, lib.asarray(g), l, lib.asarray(0.5))
        to_l, to_t = map(lib.to_numpy, grads)
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
    g, ones = lib.asarray(RNG.normal(size=(4, 4)), dtype), lib.asarray(np.ones(4), dtype)
    x, grads = pulled(lib, lambda l, t: family(l, t).transport(noise), g, l, lib.asarray(t, dtype))
    assert np.all(np.isfinite(lib.to_numpy(x)))
    value, more = pulled(lib, lambda l, x: family(l, t).log_prob(x), ones, l, x)
    for out in (value, *grads, *more):
        assert not np.any(np.isnan(lib.to_numpy(out)))


# ------------------------------------------------------------------------------------------------------ shapes of values
@both
def test_points_broadcast_along_the_batch_alone(lib: Library, family: Any) -> None:
    x, l = point(family, Z[:1, :1]), LOGITS
    whole, g = np.broadcast_to(x, l.shape), lib.asarray(G)
    value, (to_l, to_x) = pulled(lib, lambda l, x: family(l, 0.5).log_prob(x), g, lib.asarray(l), lib.asarray(x))
    expected, (want_l, want_x) = pulled(lib, lambda l, x: family(l, 0.5).log_prob(x), g, lib.asarray(l), lib.asarray(whole))
    lib.check(value, lib.to_numpy(expected), rtol=1e-12)
    lib.check(to_l, lib.to_numpy(want_l), rtol=1e-12)
    lib.check(to_x, lib.to_numpy(want_x).sum((0, 1), keepdims=True), rtol=1e-12)


@both
@pytest.mark.parametrize("of", ["log_prob", "score"])
def test_points_of_a_wrong_shape_or_dtype(lib: Library, family: Any, of: str) -> None:
    f = getattr(family(lib.asarray(LOGITS), 0.5), of)
    for shape in ((), (1,), (7,), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"x: expected the shape .*, or more axes in front of it, got"):
            f(lib.asarray(np.full(shape, 0.5)))
    with pytest.raises(TypeError, match="x: expected a real floating dtype, got"):
        f(lib.asarray(np.ones(LOGITS.shape, np.int64)))
    with pytest.raises(TypeError, match="x: expected an array"):
        f([0.5, 0.5])
