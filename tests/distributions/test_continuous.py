"""The continuous families: one table, against scipy.stats, quadrature and finite differences."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from families import BATCH, FAMILIES, KEY, LOC2, RNG, SCALE2, families, make, points
from helpers import Backend, Library, finite_difference

import backdraw


# ----------------------------------------------------------------------------------------------------------- values
@families
def test_values(lib: Library, name: str) -> None:
    params = FAMILIES[name].params
    p, law, x = make(name, *map(lib.asarray, params)), FAMILIES[name].law(*params), points(name, 4)
    ones, close = np.ones(BATCH), {"rtol": 1e-10, "atol": 1e-12}
    assert p.batch_shape == BATCH
    lib.check(p.log_prob(lib.asarray(x)), law.logpdf(x), **close)
    lib.check(p.log_prob(lib.asarray(x[0, 0, 0])), law.logpdf(x[0, 0, 0]), **close)
    lib.check(p.mean(), law.mean() * ones, **close)
    lib.check(p.variance(), law.var() * ones, **close)
    lib.check(p.entropy(), law.entropy() * ones, **close)


@families
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_law(framework: Library, name: str, dtype: str) -> None:
    params = [x.ravel()[0] for x in FAMILIES[name].params]
    p = make(name, *(framework.asarray(x, dtype) for x in params))
    x = backdraw.draw(p, shape=20_000, rng=KEY)
    assert x.dtype == framework.dtype(dtype)
    assert scipy.stats.kstest(framework.to_numpy(x), FAMILIES[name].law(*params).cdf).pvalue > 1e-4


@families
def test_draws_are_reparameterized_noise(lib: Library, name: str) -> None:
    p = make(name, *map(lib.asarray, FAMILIES[name].params))
    expected = backdraw.reparameterize(make(name, *FAMILIES[name].params), shape=(4,), rng=KEY)
    assert expected.shape == (4, *BATCH)
    for f in (backdraw.draw, backdraw.reparameterize):
        lib.check(f(p, shape=4, rng=KEY), expected, rtol=1e-12, atol=1e-14)


@families
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(lib: Library, name: str, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    arrays = [lib.asarray(a, dtype) for a in (*FAMILIES[name].params, points(name))]
    *params, x = (lib.to_numpy(a).astype(np.float64) for a in arrays)
    p, law, ones = make(name, *arrays[:-1]), FAMILIES[name].law(*params), np.ones(BATCH)
    close = {"dtype": dtype, "rtol": {"float16": 1e-3, "bfloat16": 8e-3, "float32": 2e-6}[dtype], "atol": 2e-6}
    lib.check(p.log_prob(arrays[-1]), law.logpdf(x), **close)
    lib.check(p.mean(), law.mean() * ones, **close)
    lib.check(p.variance(), law.var() * ones, **close)
    lib.check(p.entropy(), law.entropy() * ones, **close)
    assert backdraw.reparameterize(p, rng=KEY).dtype == lib.dtype(dtype)


def _kl_by_quadrature(p: Any, q: Any) -> float:
    cuts = [p.ppf(u) for u in (1e-16, 1e-9, 1e-4, 0.05, 0.5, 0.95, 1 - 1e-4)] + [p.isf(1e-9), p.isf(1e-16)]
    cuts = sorted({*cuts, *(c for c in (q.mean(),) if cuts[0] < c < cuts[-1])})  # the kink of a Laplace
    f = lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x))  # noqa: E731
    return sum(scipy.integrate.quad(f, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(cuts))


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "Logistic"])
def test_kl(lib: Library, name: str) -> None:
    family = FAMILIES[name]
    p, q = (make(name, *map(lib.asarray, params)) for params in (family.params, family.others))
    at = [[np.broadcast_to(x, BATCH) for x in params] for params in (family.params, family.others)]
    laws = [[family.law(*(x[i] for x in params)) for params in at] for i in np.ndindex(BATCH)]
    expected = np.reshape([_kl_by_quadrature(*pair) for pair in laws], BATCH)
    lib.check(backdraw.kl(p, q), expected, rtol=1e-8)
    lib.check(backdraw.kl(p, p), np.zeros(BATCH), rtol=0, atol=1e-14)


def test_kl_of_uniforms_that_are_not_contained(lib: Library) -> None:
    low, high = (lib.asarray(np.asarray(x)) for x in ([0.0, 0.0, 0.5], [1.0, 2.0, 3.0]))

    def kl(low: Any, high: Any) -> Any:
        return backdraw.kl(backdraw.Uniform(low, high), backdraw.Uniform(lib.asarray(np.zeros(3)), 1.0))

    value, pullback = backdraw.vjp(kl, low, high)
    lib.check(value, np.asarray([0.0, np.inf, np.inf]))
    for grad, expected in zip(pullback(lib.asarray(np.ones(3))), ([1.0, 0, 0], [-1.0, 0, 0]), strict=True):
        lib.check(grad, np.asarray(expected))


# -------------------------------------------------------------------------------------------------------- gradients
@families
def test_gradients_by_finite_differences(lib: Library, name: str) -> None:
    family = FAMILIES[name]
    n, x = len(family.params), points(name, 4)
    noise = make(name, *family.params).transport_noise(KEY, (5,))
    with_kl = name != "Logistic"

    def outputs(lib: Library) -> Callable[..., tuple[Any, ...]]:
        def f(x: Any, *params: Any) -> tuple[Any, ...]:
            p = make(name, *params[:n])
            kl = (backdraw.kl(p, make(name, *params[n:])),) if with_kl else ()
            return (p.log_prob(x), p.transport(lib.asarray(noise)), p.mean(), p.variance(), p.entropy(), *kl)

        return f

    arrays = (x, *family.params, *(family.others if with_kl else ()))
    plain = outputs(Library(Backend.NUMPY))
    cotangents = [RNG.normal(size=y.shape) for y in plain(*arrays)]
    values, pullback = backdraw.vjp(outputs(lib), *map(lib.asarray, arrays))
    for value, expected in zip(values, plain(*arrays), strict=True):
        lib.check(value, expected, rtol=1e-10, atol=1e-13)
    for i, grad in enumerate(pullback(tuple(map(lib.asarray, cotangents)))):

        def total(a: np.ndarray, i: int = i) -> float:
            return sum(float((g * y).sum()) for g, y in zip(cotangents, plain(*arrays[:i], a, *arrays[i + 1 :]), strict=True))

        lib.check(grad, finite_difference(total, arrays[i], 1.0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "Uniform"])
def test_score_is_the_gradient_of_log_prob(lib: Library, name: str) -> None:
    params, x = [np.broadcast_to(a, (4, *BATCH)).copy() for a in FAMILIES[name].params], points(name, 4)
    p = make(name, *map(lib.asarray, FAMILIES[name].params))
    scores = p.score(lib.asarray(x))
    expected = backdraw.vjp(lambda *a: make(name, *a).log_prob(x), *params)[1](np.ones(x.shape))
    for score, e in zip(scores if isinstance(scores, tuple) else (scores,), expected, strict=True):
        lib.check(score, e, rtol=1e-10, atol=1e-13)
    assert isinstance(scores, tuple) == (len(params) > 1)


@pytest.mark.parametrize(
    ("name", "params", "x"),
    [("Exponential", (2.0,), -1.0), ("LogNormal", (0.0, 1.0), 0.0), ("LogNormal", (0.0, 1.0), -1.0)]
    + [("Uniform", (0.0, 1.0), x) for x in (-0.5, 1.5)],
)
def test_outside_the_support(lib: Library, name: str, params: tuple[float, ...], x: float) -> None:
    arrays = [lib.asarray(np.full(2, a)) for a in (*params, x)]
    value, pullback = backdraw.vjp(lambda *a: make(name, *a[:-1]).log_prob(a[-1]), *arrays)
    lib.check(value, np.full(2, -np.inf))
    for grad in pullback(lib.asarray(np.ones(2))):
        lib.check(grad, np.zeros(2), rtol=0)


FUNCTIONS = {"x": (lambda x: x, np.ones_like), "x**2": (np.square, lambda x: 2 * x), "cos(x)": (np.cos, lambda x: -np.sin(x))}


@families
def test_gradients_of_expectations(name: str) -> None:
    family, n = FAMILIES[name], 100_000
    params = np.asarray([np.broadcast_to(x, BATCH)[0, 0] for x in family.params])
    rows = [np.full(n, a) for a in params]
    x, pullback = backdraw.vjp(lambda *a: backdraw.reparameterize(make(name, *a), rng=KEY), *rows)
    x = np.asarray(x)
    for f, slope in FUNCTIONS.values():

        def mean(a: np.ndarray, f: Any = f) -> float:
            law = family.law(*a)
            g = lambda x: f(x) * law.pdf(x)  # noqa: E731
            cuts = [law.ppf(1e-16), law.ppf(1e-4), law.median(), law.isf(1e-4), law.isf(1e-16)]
            return sum(scipy.integrate.quad(g, *ab, epsabs=1e-12)[0] for ab in itertools.pairwise(cuts))

        true = finite_difference(mean, params, 1.0, step=1e-4)
        estimates = [pullback(slope(x))]
        if name != "Uniform":
            scores = make(name, *rows).score(x)
            estimates.append([f(x) * s for s in (scores if isinstance(scores, tuple) else (scores,))])
        for grads in estimates:
            for grad, expected in zip(grads, true, strict=True):
                z = (grad.mean() - expected) / (grad.std() / n**0.5 + 1e-6)  # 1e-6: where the estimator has no variance
                assert abs(z) < 4.5


@pytest.mark.parametrize("control_variate", [True, False])
def test_intermediate_loss_of_a_normal(lib: Library, control_variate: bool) -> None:
    loc, scale, c = LOC2, SCALE2, RNG.normal(size=BATCH)
    x, pullback = backdraw.vjp(
        lambda *a: backdraw.intermediate_loss(backdraw.Normal(*a), step_size=0.2, control_variate=control_variate, rng=KEY),
        *map(lib.asarray, (loc, scale)),
    )
    x = lib.to_numpy(x)
    to_loc, to_scale = pullback(lib.asarray(c))
    score = lambda x: ((x - loc) / scale**2, ((x - loc) ** 2 / scale**2 - 1) / scale)  # noqa: E731
    expected = [s * control_variate - t for s, t in zip(score(x), score(x - 0.2 * c), strict=True)]
    lib.check(to_loc, expected[0], rtol=1e-10, atol=1e-12)
    lib.check(to_scale, expected[1], rtol=1e-10, atol=1e-12)
    if control_variate:  # the pathwise gradient, times step / scale**2
        pathwise = backdraw.vjp(lambda m: backdraw.reparameterize(backdraw.Normal(m, scale), rng=KEY), loc)[1](c)[0]
        lib.check(to_loc, pathwise * 0.2 / scale**2, rtol=1e-12, atol=1e-14)
