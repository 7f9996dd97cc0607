"""Sparsemax and 1.5-entmax against bisection on the threshold, the published closed forms and finite differences."""

from typing import Any

import numpy as np
import pytest
from helpers import Library, eps, finite_difference, softmax

import backdraw
from backdraw import Bernoulli, Categorical

RNG = np.random.default_rng(17)
LOGITS, G = RNG.normal(size=(2, 6, 5)), RNG.normal(size=(2, 6, 5))
REGULARIZERS = ("euclidean", "tsallis")
both = pytest.mark.parametrize("regularizer", REGULARIZERS)


def simplex(u: Any, regularizer: str, axis: int = -1) -> np.ndarray:
    """Find tau with sum((z - tau)_+ ** power) = 1 by bisection; a row of -inf alone gives zeros."""
    power = 1 if regularizer == "euclidean" else 2
    z = np.asarray(u, np.float64) / power
    top = z.max(axis, keepdims=True)
    z = z - np.where(np.isfinite(top), top, 0.0)
    low, high = np.full(top.shape, -1.0), np.zeros(top.shape)
    for _ in range(100):
        middle = (low + high) / 2
        enough = (np.maximum(z - middle, 0.0) ** power).sum(axis, keepdims=True) >= 1.0
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return np.asarray(np.maximum(z - low, 0.0) ** power)


def bit(u: Any, regularizer: str) -> np.ndarray:
    """The published closed forms for the utilities u and 0."""
    u = np.asarray(u, np.float64)
    if regularizer == "euclidean":
        return np.clip((u + 1.0) / 2.0, 0.0, 1.0)
    inner = 0.5 + u / 8.0 * np.sqrt(np.maximum(8.0 - u * u, 0.0))
    return np.where(np.abs(u) < 2.0, inner, (u > 0) * 1.0)


FAMILIES: Any = {"Categorical": (Categorical, simplex), "Bernoulli": (Bernoulli, bit)}
families = pytest.mark.parametrize("family", FAMILIES)


@both
@families
@pytest.mark.parametrize("temperature", [0.05, 1.0, 10.0])
def test_values(lib: Library, family: str, regularizer: str, temperature: float) -> None:
    dist, plain = FAMILIES[family]
    y = dist(lib.asarray(LOGITS)).mean(temperature=temperature, regularizer=regularizer)
    expected = plain(LOGITS / temperature, regularizer)
    lib.check(y, expected, rtol=0, atol=1e-14)
    assert np.array_equal(lib.to_numpy(y) == 0.0, expected < 1e-25)  # the bisection leaves crumbs
    lib.check(dist(lib.asarray(LOGITS)).relax(lib.asarray(LOGITS), temperature, regularizer), expected, rtol=0, atol=1e-14)


@both
def test_two_categories(lib: Library, regularizer: str) -> None:
    u = np.concatenate([np.linspace(-3.0, 3.0, 61), [1e-9, 1.0 - 1e-9, 2.0 - 1e-9, -2.0 + 1e-9]])
    pair = Categorical(lib.asarray(np.stack([u, 0 * u], -1))).mean(regularizer=regularizer)
    lib.check(pair, np.stack([bit(u, regularizer), bit(-u, regularizer)], -1), rtol=0, atol=1e-15)
    lib.check(Bernoulli(lib.asarray(u)).mean(regularizer=regularizer), bit(u, regularizer), rtol=0, atol=1e-15)


@both
@pytest.mark.parametrize("axis", [0, -2])
def test_axis(lib: Library, regularizer: str, axis: int) -> None:
    y, pullback = backdraw.vjp(lambda x: Categorical(x, axis).mean(regularizer=regularizer), lib.asarray(LOGITS))
    lib.check(y, simplex(LOGITS, regularizer, axis), rtol=0, atol=1e-14)
    expected = finite_difference(lambda x: simplex(x, regularizer, axis), LOGITS, G)
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=0, atol=1e-8)


@both
@families
def test_gradients_by_finite_differences(lib: Library, family: str, regularizer: str) -> None:
    dist, plain = FAMILIES[family]
    t = np.asarray(1.3)
    at_t = finite_difference(lambda x: plain(x / 1.3, regularizer), LOGITS, G)
    _, pullback = backdraw.vjp(lambda x: dist(x).mean(temperature=1.3, regularizer=regularizer), lib.asarray(LOGITS))
    lib.check(pullback(lib.asarray(G))[0], at_t, rtol=0, atol=1e-8)
    y, pullback = backdraw.vjp(
        lambda x, t: dist(x).mean(temperature=t, regularizer=regularizer), lib.asarray(LOGITS), lib.asarray(t)
    )
    lib.check(y, plain(LOGITS / 1.3, regularizer), rtol=0, atol=1e-14)
    to_x, to_t = pullback(lib.asarray(G))
    lib.check(to_x, at_t, rtol=0, atol=1e-8)
    lib.check(to_t, finite_difference(lambda t: plain(LOGITS / t, regularizer), t, G), rtol=1e-6)


@both
@families
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(lib: Library, family: str, regularizer: str, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    dist, plain = FAMILIES[family]
    x, g = lib.asarray(LOGITS, dtype), lib.asarray(G, dtype)
    exact, cotangent = lib.to_numpy(x).astype(np.float64), lib.to_numpy(g).astype(np.float64)
    y, pullback = backdraw.vjp(lambda x: dist(x).mean(regularizer=regularizer), x)
    lib.check(y, plain(exact, regularizer), dtype=dtype, rtol=0, atol=2 * eps(dtype))
    expected = finite_difference(lambda x: plain(x, regularizer), exact, cotangent)
    lib.check(pullback(g)[0], expected, dtype=dtype, rtol=0, atol=8 * eps(dtype))


@pytest.mark.parametrize("regularizer", ["entropy", *REGULARIZERS])
def test_masks(lib: Library, regularizer: str) -> None:
    plain = softmax if regularizer == "entropy" else lambda u: simplex(u, regularizer)
    rows = np.asarray([[0.3, -np.inf, 0.1, 0.2], [-np.inf] * 4, [5.0, 0.0, 0.1, 0.1], [0.0, 1.0, 2.0, 3.0]])
    where = np.asarray([[True] * 4, [True] * 4, [False, True, True, True], [False] * 4])
    kept, g = np.where(where, rows, -np.inf), G[0, :4, :4]

    def mean(x: Any, t: Any) -> Any:
        return Categorical(x, where=lib.asarray(where)).mean(temperature=t, regularizer=regularizer)

    y, pullback = backdraw.vjp(mean, lib.asarray(rows), lib.asarray(np.asarray(2.0)))
    for out in (y, mean(lib.asarray(rows), 2.0)):
        lib.check(out, plain(kept / 2.0), rtol=0, atol=1e-15)
        assert np.all(lib.to_numpy(out)[~np.isfinite(kept)] == 0.0)
    to_x, to_t = pullback(lib.asarray(g))
    lib.check(to_t, finite_difference(lambda t: plain(kept / t), np.asarray(2.0), g), rtol=1e-6)
    for grad in (to_x, backdraw.vjp(lambda x: mean(x, 2.0), lib.asarray(rows))[1](lib.asarray(g))[0]):
        assert np.all(lib.to_numpy(grad)[~np.isfinite(kept)] == 0.0)
        np.testing.assert_allclose(lib.to_numpy(grad)[0, 2:].sum(), -lib.to_numpy(grad)[0, 0], rtol=1e-12)
        assert np.abs(lib.to_numpy(grad)[0]).max() > 0.01


@both
def test_ties_and_one_category(lib: Library, regularizer: str) -> None:
    rows = np.asarray([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, -5.0, -5.0], [0.1, 0.1, 0.1, -9.0], [3.0, 0.0, 0.0, 0.0]])
    y, pullback = backdraw.vjp(lambda x: Categorical(x).mean(regularizer=regularizer), lib.asarray(rows))
    third = 1.0 / 3.0
    expected = np.asarray([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [third, third, third, 0.0], [1.0, 0.0, 0.0, 0.0]])
    lib.check(y, expected, rtol=1e-15)
    g = G[0, :4, :4]
    lib.check(pullback(lib.asarray(g))[0], finite_difference(lambda x: simplex(x, regularizer), rows, g), rtol=0, atol=1e-8)
    y, pullback = backdraw.vjp(lambda x: Categorical(x).mean(regularizer=regularizer), lib.asarray(LOGITS[..., :1]))
    lib.check(y, np.ones((2, 6, 1)), rtol=0)
    lib.check(pullback(y)[0], np.zeros((2, 6, 1)), rtol=0)


@both
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_thousand_categories(lib: Library, regularizer: str, scale: float, dtype: str) -> None:
    rows = scale * RNG.normal(size=(3, 1000))
    x = lib.asarray(rows, dtype)
    y = lib.to_numpy(Categorical(x).mean(regularizer=regularizer)).astype(np.float64)
    np.testing.assert_allclose(y, simplex(lib.to_numpy(x), regularizer), atol=4 * eps(dtype), rtol=200 * eps(dtype))
    np.testing.assert_allclose(y.sum(-1), 1.0, rtol=100 * eps(dtype))


@both
@families
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_huge_logits(lib: Library, family: str, regularizer: str, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    dist, plain = FAMILIES[family]
    b = {"float16": 6e4, "float32": 3e38, "float64": 1.7e308}[dtype]
    x = lib.asarray(np.asarray([[b, -b, 0.0, 1.0], [b, b, 0.0, -b], [1e4, 1e4 - 32.0, 0.0, -1e4]]), dtype)
    exact = lib.to_numpy(x).astype(np.float64)
    for temperature in (1e-2, 1.0, 100.0):
        with np.errstate(over="ignore"):
            expected = plain(np.clip(exact - 0 * exact, -1e6, 1e6) / temperature, regularizer)
        t = lib.asarray(np.asarray(temperature), dtype)
        f = lambda x, t: dist(x).mean(temperature=t, regularizer=regularizer)  # noqa: E731
        lib.check(f(x, temperature), expected, dtype=dtype, rtol=2e-3, atol=1e-25)
        lib.check(f(x, t), expected, dtype=dtype, rtol=2e-3, atol=1e-25)
        for grad in backdraw.vjp(f, x, t)[1](x / b):
            assert np.all(np.isfinite(lib.to_numpy(grad)))


@both
@families
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own forward mode
@pytest.mark.needs("torch")
def test_torch_derivatives(family: str, regularizer: str) -> None:
    import torch

    x, t = torch.tensor(LOGITS[0], requires_grad=True), torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    f = lambda x, t: FAMILIES[family][0](x).mean(temperature=t, regularizer=regularizer)  # noqa: E731
    for inputs in ((x, t), (x, 0.8)):
        assert torch.autograd.gradcheck(f, inputs)
        assert torch.autograd.gradgradcheck(f, inputs)
    forward, backward = (jac(lambda x: f(x, 0.8))(x.detach()) for jac in (torch.func.jacfwd, torch.func.jacrev))
    torch.testing.assert_close(forward, backward)
    rows = torch.func.vmap(torch.func.grad(lambda x: (f(x, 0.8) ** 3).sum()))(x)
    (f(x, 0.8) ** 3).sum().backward()
    torch.testing.assert_close(rows, x.grad)


@both
@families
@pytest.mark.needs("jax")
def test_jax_derivatives(family: str, regularizer: str) -> None:
    import jax

    dist, plain = FAMILIES[family]
    x, g = LOGITS[0], G[0]

    def loss(x: Any) -> Any:
        return (jax.numpy.asarray(g[0]) * dist(x).mean(temperature=0.8, regularizer=regularizer) ** 3).sum()

    def slope(x: np.ndarray) -> np.ndarray:
        return finite_difference(lambda x: plain(x / 0.8, regularizer) ** 3, x, g[0], step=1e-4)

    grads, hessians = jax.jit(jax.vmap(lambda x: (jax.grad(loss)(x), jax.hessian(loss)(x))))(jax.numpy.asarray(x))
    for i in range(6):
        np.testing.assert_allclose(grads[i], slope(x[i]), atol=1e-6)
        expected = [finite_difference(slope, x[i], e, step=1e-4) for e in np.eye(5)]
        np.testing.assert_allclose(hessians[i], expected, atol=1e-5)


@both
@families
def test_rows_in_blocks_are_rows(family: str, regularizer: str) -> None:
    rows, g = RNG.normal(size=(300, 500)), RNG.normal(size=(300, 500))
    f = lambda x: FAMILIES[family][0](x).mean(regularizer=regularizer)  # noqa: E731
    y, pullback = backdraw.vjp(f, rows)
    few, pull_few = backdraw.vjp(f, rows[170:172])
    np.testing.assert_allclose(y[170:172], few, rtol=0, atol=1e-15)
    np.testing.assert_allclose(pullback(g)[0][170:172], pull_few(g[170:172])[0], rtol=0, atol=1e-14)


@families
@pytest.mark.parametrize("regularizer", ["entmax", "", None, 1.5, ["tsallis"]])
def test_unknown_regularizer(lib: Library, family: str, regularizer: Any) -> None:
    p = FAMILIES[family][0](lib.asarray(LOGITS))
    for f in (p.mean, lambda **o: backdraw.gumbel_softmax(p, rng=backdraw.key(0), **o), lambda **o: backdraw.select(p, **o)):
        with pytest.raises(ValueError, match="regularizer: expected one of entropy, euclidean, tsallis, got "):
            f(regularizer=regularizer)
