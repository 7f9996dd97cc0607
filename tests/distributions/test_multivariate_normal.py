"""MultivariateNormal against scipy.stats, plain linear algebra and finite differences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers import Backend, Library, finite_difference

import backdraw
from backdraw import MultivariateNormal
from backdraw.distributions.multivariate_normal import inverse

RNG = np.random.default_rng(8)
D, BATCH, KEY = 3, (2, 2), backdraw.key(5)


def factor(*batch: int, d: int = D) -> np.ndarray:
    """A lower-triangular matrix of positive diagonal, with something above the diagonal that must not matter."""
    full = RNG.normal(size=(*batch, d, d))
    return full - full * np.eye(d) + np.eye(d) * RNG.uniform(0.5, 2.0, size=(*batch, 1, d))


LOC, TRIL = RNG.normal(size=(2, D)), factor(2, 1)
LOC2, TRIL2 = RNG.normal(size=(*BATCH, D)), factor(*BATCH)
X = RNG.normal(size=(4, *BATCH, D))


def laws(loc: np.ndarray, tril: np.ndarray) -> dict[tuple[int, ...], Any]:
    """SciPy's distribution of each batch element."""
    loc, low = np.broadcast_to(loc, (*BATCH, D)), np.broadcast_to(np.tril(tril), (*BATCH, D, D))
    return {i: scipy.stats.multivariate_normal(loc[i], low[i] @ low[i].T) for i in np.ndindex(BATCH)}


def each(f: Callable[[tuple[int, ...], Any], Any]) -> np.ndarray:
    """``f(index, law)`` of each batch element."""
    found = [f(i, law) for i, law in laws(LOC, TRIL).items()]
    return np.reshape(np.asarray(found), BATCH + np.shape(found[0]))


def test_values(lib: Library) -> None:
    p, close = MultivariateNormal(lib.asarray(LOC), lib.asarray(TRIL)), {"rtol": 1e-10, "atol": 1e-12}
    assert p.batch_shape == BATCH
    log_prob = np.moveaxis(each(lambda i, law: law.logpdf(X[(slice(None), *i)])), -1, 0)
    lib.check(p.log_prob(lib.asarray(X)), log_prob, **close)
    lib.check(p.mean(), each(lambda i, law: law.mean), **close)
    lib.check(p.variance(), each(lambda i, law: np.diag(law.cov)), **close)
    lib.check(p.entropy(), each(lambda i, law: law.entropy()), **close)


def test_kl(lib: Library) -> None:
    def kl(i: tuple[int, ...], p: Any) -> Any:
        q = laws(LOC2, TRIL2)[i]
        d, ratio = q.mean - p.mean, np.linalg.solve(q.cov, p.cov)
        return 0.5 * (np.trace(ratio) + d @ np.linalg.solve(q.cov, d) - D - np.linalg.slogdet(ratio)[1])

    p, q = (MultivariateNormal(*map(lib.asarray, pair)) for pair in ((LOC, TRIL), (LOC2, TRIL2)))
    lib.check(backdraw.kl(p, q), each(kl), rtol=1e-10)
    lib.check(backdraw.kl(p, p), np.zeros(BATCH), rtol=0, atol=1e-14)


@pytest.mark.parametrize("d", [1, 2, 5, 8, 33])
def test_inverse(lib: Library, d: int) -> None:
    tril = factor(2, d=d)
    lib.check(inverse(lib.be, lib.asarray(tril)), np.linalg.inv(np.tril(tril)), rtol=1e-10, atol=1e-10)


def test_gradients_by_finite_differences(lib: Library) -> None:
    noise = RNG.normal(size=(5, *BATCH, D))

    def outputs(lib: Library) -> Callable[..., tuple[Any, ...]]:
        def f(x: Any, *params: Any) -> tuple[Any, ...]:
            p, q = MultivariateNormal(*params[:2]), MultivariateNormal(*params[2:])
            values = (p.log_prob(x), p.transport(lib.asarray(noise)), p.mean(), p.variance(), p.entropy())
            return (*values, backdraw.kl(p, q))

        return f

    arrays, plain = (X, LOC, TRIL, LOC2, TRIL2), outputs(Library(Backend.NUMPY))
    cotangents = [RNG.normal(size=y.shape) for y in plain(*arrays)]
    values, pullback = backdraw.vjp(outputs(lib), *map(lib.asarray, arrays))
    for value, expected in zip(values, plain(*arrays), strict=True):
        lib.check(value, expected, rtol=1e-10, atol=1e-12)
    grads = pullback(tuple(map(lib.asarray, cotangents)))
    for i, grad in enumerate(grads):

        def total(a: np.ndarray, i: int = i) -> float:
            return sum(float((g * y).sum()) for g, y in zip(cotangents, plain(*arrays[:i], a, *arrays[i + 1 :]), strict=True))

        lib.check(grad, finite_difference(total, arrays[i], 1.0), rtol=1e-6, atol=1e-6)
    for grad in (grads[2], grads[4]):  # exactly zero above the diagonal
        assert np.all(np.triu(lib.to_numpy(grad), 1) == 0.0)


def test_score(lib: Library) -> None:
    scores = MultivariateNormal(lib.asarray(LOC), lib.asarray(TRIL)).score(lib.asarray(X))
    params = [np.broadcast_to(a, (4, *BATCH, *a.shape[-n:])).copy() for a, n in ((LOC, 1), (TRIL, 2))]
    expected = backdraw.vjp(lambda *a: MultivariateNormal(*a).log_prob(X), *params)[1](np.ones((4, *BATCH)))
    for score, e in zip(scores, expected, strict=True):
        lib.check(score, e, rtol=1e-10, atol=1e-12)


def test_law(framework: Library) -> None:
    loc, tril = LOC[0], np.tril(TRIL[0, 0])
    p = MultivariateNormal(framework.asarray(loc, "float32"), framework.asarray(tril, "float32"))
    x = framework.to_numpy(backdraw.draw(p, shape=20_000, rng=KEY)).astype(np.float64)
    white = np.linalg.solve(tril, (x - loc).T)
    assert scipy.stats.kstest(white.ravel(), scipy.stats.norm.cdf).pvalue > 1e-4
    assert np.abs(np.corrcoef(white) - np.eye(D)).max() < 4.5 / 20_000**0.5


def test_gradients_of_expectations() -> None:
    # E[x' A x] = m' A m + tr(A L L'): its gradients are (A + A') m and tril((A + A') L).
    n, a = 100_000, RNG.normal(size=(D, D))
    loc, tril = LOC[0], np.tril(TRIL[0, 0])
    rows = np.broadcast_to(loc, (n, D)), np.broadcast_to(tril, (n, D, D))
    x, pullback = backdraw.vjp(lambda *p: backdraw.reparameterize(MultivariateNormal(*p), rng=KEY), *rows)
    x = np.asarray(x)
    value = np.einsum("ni,ij,nj->n", x, a, x)
    scores = MultivariateNormal(*rows).score(x)
    true = (a + a.T) @ loc, np.tril((a + a.T) @ tril)
    by_score = [value.reshape(-1, *(1,) * s[0].ndim) * s for s in scores]
    for grads in (pullback(x @ (a + a.T)), by_score):
        for grad, expected in zip(grads, true, strict=True):
            z = (grad.mean(0) - expected) / (grad.std(0) / n**0.5 + 1e-9)
            assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    arrays = [lib.asarray(a, dtype) for a in (LOC, TRIL, X)]
    loc, tril, x = (lib.to_numpy(a).astype(np.float64) for a in arrays)
    p, exact = MultivariateNormal(*arrays[:2]), MultivariateNormal(loc, tril)
    close = {"dtype": dtype, "rtol": {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-5}[dtype], "atol": 1e-5}
    lib.check(p.log_prob(arrays[2]), exact.log_prob(x), **close)
    lib.check(p.variance(), exact.variance(), **close)
    lib.check(backdraw.reparameterize(p, rng=KEY), backdraw.reparameterize(exact, rng=KEY), **close)


def test_intermediate_loss(lib: Library) -> None:
    tril, c = np.broadcast_to(TRIL, (*BATCH, D, D)), RNG.normal(size=(*BATCH, D))
    _, pullback = backdraw.vjp(
        lambda m: backdraw.intermediate_loss(MultivariateNormal(m, lib.asarray(tril)), rng=KEY), lib.asarray(LOC2)
    )
    covariance = np.tril(tril) @ np.swapaxes(np.tril(tril), -1, -2)
    expected = 0.1 * np.linalg.solve(covariance, c[..., None])[..., 0]
    lib.check(pullback(lib.asarray(c))[0], expected, rtol=1e-10, atol=1e-12)


def test_bad_parameters(lib: Library) -> None:
    loc, tril = lib.asarray(LOC), lib.asarray(TRIL)
    for bad in (np.ones((4, 4)), np.ones((3, 4)), np.ones((2, 4, 3))):
        with pytest.raises(ValueError, match=r"scale_tril: expected shape \(\.\.\., 3, 3\) for loc of shape"):
            MultivariateNormal(loc, lib.asarray(bad))
    with pytest.raises(ValueError, match=r"scale_tril: expected at least 2 axes, got shape \(3,\)"):
        MultivariateNormal(loc, lib.asarray(np.ones(3)))
    with pytest.raises(ValueError, match="loc, scale_tril: expected shapes that broadcast"):
        MultivariateNormal(loc, lib.asarray(np.ones((5, 3, 3))))
    with pytest.raises(TypeError, match=r"scale_tril: expected an array.* got float"):
        MultivariateNormal(loc, 1.0)
    with pytest.raises(TypeError, match="scale_tril: expected the dtype of loc"):
        MultivariateNormal(loc, lib.asarray(TRIL, "float32"))
    with pytest.raises(ValueError, match=r"x: expected a shape that broadcasts against \(2, 2, 3\), got \(1,\)"):
        MultivariateNormal(loc, tril).log_prob(lib.asarray(np.ones(1)))


@pytest.mark.needs("jax")
def test_under_jit() -> None:
    import jax

    lib = Library(Backend.JAX)
    p, x = MultivariateNormal(lib.asarray(LOC), lib.asarray(TRIL)), lib.asarray(X)

    def both(p: Any, x: Any) -> Any:
        return p.log_prob(x), backdraw.reparameterize(p, rng=KEY)

    for ours, expected in zip(jax.jit(both)(p, x), both(p, x), strict=True):
        lib.check(ours, np.asarray(expected), rtol=1e-12)


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning")
def test_under_compile_and_vmap() -> None:
    import torch

    torch._dynamo.reset()
    loc, tril, x = (torch.tensor(a) for a in (LOC2, TRIL2, X[0]))

    def f(x: Any, *params: Any) -> Any:
        p = MultivariateNormal(*params)
        return p.log_prob(x).sum() + backdraw.reparameterize(p, rng=KEY).sum()

    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="eager")(x, loc, tril), f(x, loc, tril))
    gradient = torch.func.grad(f, argnums=(0, 1, 2))
    batch = torch.func.vmap(gradient, randomness="same")(*(torch.stack([a, a]) for a in (x, loc, tril)))
    for ours, expected in zip(batch, gradient(x, loc, tril), strict=True):
        torch.testing.assert_close(ours[1], expected)
