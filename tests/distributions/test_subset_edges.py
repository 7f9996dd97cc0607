"""Subset at its edges: ties, excluded items, huge and far-spread logits, low precision, bad input."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.special
from helpers import Backend, Library, eps, pulled

import backdraw
from backdraw import Subset

RNG = np.random.default_rng(4)
KEY = backdraw.key(3)
REGULARIZERS = ("entropy", "binary", "euclidean")


def enumerated(row: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """All subsets, their probabilities and the log-partition, stable, and in more than float64 where the platform has it."""
    v = np.asarray([[float(i in c) for i in range(row.size)] for c in itertools.combinations(range(row.size), k)])
    s = np.where(v > 0, row.astype(np.longdouble), 0.0).sum(-1)
    top = s.max()
    weights = np.exp(s - top)
    return v, (weights / weights.sum()).astype(np.float64), float(top + np.log(weights.sum()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "k"), [(10, 3), (9, 6)])
def test_logits_spread_over_thousands(framework: Library, n: int, k: int, dtype: str) -> None:
    rows = RNG.uniform(-1e3, 1e3, size=(8, n))
    rows[4:] = np.round(rows[4:], -2) + RNG.normal(size=(4, n))  # with groups that compete
    rows = rows.astype(dtype)
    g = RNG.normal(size=(8, n))

    def both(l: Any) -> Any:
        return Subset(l, k).log_partition(), Subset(l, k).mean()

    (total, mean), _ = pulled(
        framework, both, (framework.asarray(np.ones(8), dtype), framework.asarray(g, dtype)), framework.asarray(rows, dtype)
    )
    _, (grad,) = pulled(framework, lambda l: Subset(l, k).mean(), framework.asarray(g, dtype), framework.asarray(rows, dtype))
    rtol = 1e-5 if dtype == "float32" else 1e-12
    tiny = 1e-30 if dtype == "float32" else 1e-300
    for i, row in enumerate(rows):
        v, p, expected = enumerated(row, k)
        m = p @ v
        np.testing.assert_allclose(framework.to_numpy(total)[i], expected, rtol=rtol)
        np.testing.assert_allclose(framework.to_numpy(mean)[i], m, rtol=rtol, atol=tiny)
        covariance = np.einsum("s,si,sj->ij", p, v - m, v - m)
        scale = np.abs(covariance) @ np.abs(g[i])  # what is summed, for the sum may cancel; the reference is good to eps**2
        # JAX derives the vjp from the forward rule: there, an item's error is measured against the whole row.
        floor = 10 * eps(dtype) * np.abs(g[i]).sum() if framework.backend is Backend.JAX else 1e-25
        assert np.all(np.abs(framework.to_numpy(grad)[i] - covariance @ g[i]) <= 10 * rtol * scale + floor)


def test_excluded_items_are_exactly_out(lib: Library) -> None:
    rows = RNG.normal(size=(3, 6))
    rows[0, [1, 4]], rows[1, [0, 2, 3]] = -np.inf, -np.inf
    rows[2, [0, 1, 2, 3]] = -np.inf  # two left: fewer than k
    x, g = lib.asarray(rows), lib.asarray(RNG.normal(size=(3, 6)))
    for f in (
        *(lambda l, r=r: Subset(l, 3).mean(temperature=lib.asarray(0.5), regularizer=r) for r in REGULARIZERS),
        lambda l: backdraw.straight_through(Subset(l, 3), rng=KEY),
    ):
        y, (grad,) = pulled(lib, f, g, x)
        y, grad = lib.to_numpy(y), lib.to_numpy(grad)
        np.testing.assert_allclose(y.sum(-1), [3.0, 3.0, 0.0], rtol=1e-12)
        assert np.all(np.isfinite(grad))
        for values in (y, grad):
            assert np.all(values[rows == -np.inf] == 0.0)
            assert np.all(values[2] == 0.0)
        np.testing.assert_allclose(y[1], np.isfinite(rows[1]) * 1.0, rtol=1e-12)  # the only subset
        assert np.all(np.abs(grad[1]) < 1e-12)
    for f in (backdraw.draw, backdraw.gumbel_max):
        lib.check(lib.xp.sum(f(Subset(x, 3), rng=KEY), axis=-1), np.asarray([3.0, 3.0, 0.0]), rtol=0)


def test_numbers_of_rows_without_a_subset(lib: Library) -> None:
    rows = np.asarray([[0.5, 1.0, -np.inf, -np.inf], [0.5, -np.inf, -np.inf, -np.inf]])
    p = Subset(lib.asarray(rows), 2)
    x = lib.asarray(np.asarray([[1.0, 1.0, 0.0, 0.0]] * 2))
    lib.check(p.log_partition(), np.asarray([1.5, -np.inf]), rtol=1e-14)
    lib.check(p.entropy(), np.zeros(2), atol=1e-15)
    lib.check(p.log_prob(x), np.asarray([0.0, -np.inf]), atol=1e-15)
    lib.check(p.support()[1], np.asarray([[1.0, 0.0], *[[0.0, 0.0]] * 5]), rtol=1e-14)
    q = Subset(lib.asarray(np.asarray([[-np.inf, 0.0, 0.0, 0.0]] * 2)), 2)
    assert float(lib.to_numpy(backdraw.kl(p, q))[0]) == np.inf
    for f in (lambda l: Subset(l, 2).log_partition(), lambda l: Subset(l, 2).entropy(), lambda l: Subset(l, 2).log_prob(x)):
        _, (grad,) = pulled(lib, f, lib.asarray(np.ones(2)), lib.asarray(rows))
        assert np.all(np.isfinite(lib.to_numpy(grad)))
        assert np.all(lib.to_numpy(grad)[1] == 0.0)


def test_ties(lib: Library) -> None:
    rows = np.asarray([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 0.0], [5.0, 3.0, 3.0, 5.0]])
    p = Subset(lib.asarray(rows), 3)
    lib.check(p.argmax(p.utilities), np.asarray([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 1.0]]), rtol=0)
    for regularizer in REGULARIZERS:
        y = lib.to_numpy(p.mean(regularizer=regularizer))
        np.testing.assert_allclose(y[0], 0.75, rtol=1e-13)
        np.testing.assert_allclose(y[1, [0, 2]], y[1, 3], rtol=1e-13)
        np.testing.assert_allclose(y.sum(-1), 3.0, rtol=1e-13)


@pytest.mark.parametrize("k", [0, 1])
def test_one_item(lib: Library, k: int) -> None:
    p = Subset(lib.asarray(np.asarray([0.7])), k)
    for y in (p.mean(), backdraw.draw(p, rng=KEY), backdraw.gumbel_max(p, rng=KEY), p.mean(regularizer="euclidean")):
        lib.check(y, np.asarray([float(k)]), rtol=0)
    lib.check(p.log_partition(), np.asarray(0.7 * k), rtol=1e-14)
    lib.check(p.entropy(), np.asarray(0.0), rtol=0)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("temperature", [1e-2, 1e3])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_huge_logits(framework: Library, dtype: str, temperature: float, regularizer: str) -> None:
    if dtype not in framework.dtypes or (framework.backend is Backend.JAX and dtype != "float32"):
        pytest.skip(f"{framework.backend.value} has no {dtype}, or takes long to compile for it")
    b = {"float16": 6e4, "float32": 3e38, "float64": 1.7e308}[dtype]
    x = framework.asarray(np.asarray([b, -b, 0.0, 0.0, -np.inf, b]), dtype)
    g = framework.asarray(np.asarray([1.0, -2.0, 3.0, 0.5, 1.0, 1.0]), dtype)
    for t in (temperature, framework.asarray(temperature, dtype)):
        y, (grad,) = pulled(framework, lambda x, t=t: Subset(x, 3).mean(temperature=t, regularizer=regularizer), g, x)
        certain = temperature < 1e3 or dtype != "float16"
        framework.check(y, [1, 0, 0.5, 0.5, 0, 1], dtype=dtype, rtol=2e-3, atol=0 if certain else 1e-3)
        assert np.all(np.isfinite(framework.to_numpy(grad)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes(framework: Library, dtype: str) -> None:
    if dtype not in framework.dtypes:
        pytest.skip(f"{framework.backend.value} has no {dtype}")
    l = framework.asarray(RNG.normal(size=(2, 5)), dtype)
    exact = Subset(framework.to_numpy(l).astype(np.float64), 2)
    p, rtol = Subset(l, 2), 2 * eps(dtype)
    framework.check(p.mean(), exact.mean(), dtype=dtype, rtol=rtol)
    framework.check(p.log_partition(), exact.log_partition(), dtype=dtype, rtol=rtol)
    framework.check(p.entropy(), exact.entropy(), dtype=dtype, rtol=rtol)
    assert p.support()[0].dtype == l.dtype


def test_many_items() -> None:
    # C(400, 180) is beyond float32 by far: equal logits have equal marginals whatever n is.
    p = Subset(np.zeros((2, 400), np.float32), 180)
    np.testing.assert_allclose(p.mean(), 0.45, rtol=1e-5)
    np.testing.assert_allclose(p.log_partition(), scipy.special.betaln(181, 221) * -1 - np.log(401), rtol=1e-6)
    x = backdraw.draw(p, rng=KEY)
    np.testing.assert_array_equal(x.sum(-1), 180)


@pytest.mark.parametrize("k", [-1, 4, 100])
def test_k_out_of_range(lib: Library, k: int) -> None:
    with pytest.raises(ValueError, match=rf"k: expected 0 to 3 for logits of shape \(2, 3\), got {k}"):
        Subset(lib.asarray(np.zeros((2, 3))), k)


def test_bad_input(lib: Library) -> None:
    x = lib.asarray(np.zeros((2, 3)))
    for k in (1.0, "2", None, True):
        with pytest.raises(TypeError, match=f"k: expected an int, got {type(k).__name__}"):
            Subset(x, k)
    assert Subset(x, np.int64(2)).k == 2
    with pytest.raises(ValueError, match=r"logits: expected at least one item along the last axis, got shape \(\)"):
        Subset(lib.asarray(np.asarray(0.0)), 0)
    with pytest.raises(ValueError, match=r"logits: expected at least one item along the last axis, got shape \(2, 0\)"):
        Subset(lib.asarray(np.zeros((2, 0))), 0)
    with pytest.raises(TypeError, match="logits: expected a real floating dtype"):
        Subset(lib.asarray(np.zeros((2, 3), np.int64)), 1)
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(2, 3\) with k = 1, got \(2, 3\) with k = 2"):
        backdraw.kl(Subset(x, 1), Subset(x, 2))
    with pytest.raises(ValueError, match="k: expected at most 1048576 subsets to enumerate, got 10272278170"):
        Subset(lib.asarray(np.zeros(50)), 10).support()
    with pytest.raises(TypeError, match=r"dist: reinmax needs covariance_product\(\) of Subset"):
        backdraw.reinmax(Subset(x, 1), rng=KEY)
