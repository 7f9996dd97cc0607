"""Chain: its functions against an enumeration of all paths, its gradients against finite differences."""

from typing import Any

import numpy as np
import pytest
import scipy.special
from chains import (
    BARRED,
    RNG,
    SHARED,
    K,
    T,
    U,
    W,
    compiled,
    energies,
    law,
    paths,
    plain_entropy,
    plain_log_partition,
    plain_mean,
    steps_of,
)
from helpers import Library, finite_difference, pulled

import backdraw
from backdraw import Chain

SHAPES = {
    "own steps": (U, W),
    "shared steps": (U, SHARED),
    "states shared by the batch": (U[0], W),
    "barred steps": (np.where(np.arange(K) == 1, -np.inf, U[:, :1]).repeat(T, 1) * [[[1.0]], [[0.0]]][0] + U * 0.5, BARRED),
    "one variable, shared steps": (U[0, :1], SHARED),
    "one state": (U[..., :1], W[..., :1, :1]),
}
shapes = pytest.mark.parametrize("shape", SHAPES)


def squeeze(x: np.ndarray, u: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Take the batch axis away where there is none."""
    return x if u.ndim > 2 or w.ndim > 3 else x[0]


# ------------------------------------------------------------------------------------------------------------- values
def everything(u: Any, w: Any, x: Any) -> tuple[Any, ...]:
    p = Chain(u, w)
    values = p.mean(), p.mean(temperature=0.3), p.log_partition(), p.entropy(), p.argmax(p.utilities)
    return (*values, p.log_prob(x), *p.score(x))


@shapes
def test_values(lib: Library, shape: str) -> None:
    u, w = SHAPES[shape]
    x, e = energies(u, w)
    batch = 2 if u.ndim > 2 or w.ndim > 3 else 1
    every = np.broadcast_to(x, (len(x), batch, *x.shape[2:]))
    every = every if u.ndim > 2 or w.ndim > 3 else every[:, 0]
    mean, cool, total, entropy, best, log_prob, to_u, to_w = compiled(lib, everything)(*map(lib.asarray, (u, w, every)))
    close = {"rtol": 1e-12, "atol": 1e-14}
    lib.check(mean, squeeze(plain_mean(u, w), u, w), **close)
    lib.check(cool, squeeze(plain_mean(u, w, 0.3), u, w), **close)
    lib.check(total, squeeze(plain_log_partition(u, w), u, w), **close)
    lib.check(entropy, squeeze(plain_entropy(u, w), u, w), **close)
    lib.check(best, squeeze(x[:, 0][e.argmax(0)], u, w), rtol=0)
    expected = scipy.special.log_softmax(e, 0)
    lib.check(log_prob, expected if every.ndim == 4 else expected[:, 0], rtol=1e-11, atol=1e-13)
    pairs = (scipy.special.softmax(e, 0)[..., None, None, None] * steps_of(x)).sum(0)
    lib.check(to_u, every - squeeze(plain_mean(u, w), u, w), **close)
    lib.check(to_w, steps_of(every) - squeeze(pairs, u, w), **close)
    assert Chain(lib.asarray(u), lib.asarray(w)).batch_shape == every.shape[1:-2]


def test_ties_go_to_the_first_path(lib: Library) -> None:
    u, w = np.zeros((3, 4, 3)), np.zeros((3, 3, 3, 3))
    w[0, 1, 0, 0] = -1.0  # 0 0 1 0 is the first of the best
    u[1, 0, 0] = -1.0  # 1 0 0 0
    expected = np.eye(3)[[[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]]
    lib.check(compiled(lib, lambda u, w: Chain(u, w).argmax(u))(lib.asarray(u), lib.asarray(w)), expected, rtol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    u, w = lib.asarray(U, dtype), lib.asarray(SHARED, dtype)
    exact = [lib.to_numpy(x).astype(np.float64) for x in (u, w)]
    rtol = {"float16": 2e-3, "bfloat16": 1.6e-2}.get(dtype)

    def all_of_it(u: Any, w: Any, g: Any, t: Any) -> Any:
        x = backdraw.draw(Chain(u, w), shape=3, rng=backdraw.key(0))
        mean, pullback = backdraw.vjp(lambda u, w, t: Chain(u, w).relax(u, t), u, w, t)
        p = Chain(u, w)
        return x, mean, pullback(g), p.log_partition(), p.log_prob(x), p.argmax(u)

    g, t = lib.asarray(np.ones((2, T, K)), dtype), lib.asarray(0.5, dtype)
    x, cool, grads, total, *others = compiled(lib, all_of_it)(u, w, g, t)
    lib.check(cool, plain_mean(*exact, 0.5), dtype=dtype, rtol=rtol, atol=1e-6 if dtype == "float16" else 0.0)
    lib.check(total, plain_log_partition(*exact), dtype=dtype, rtol=rtol)
    assert all(out.dtype == u.dtype for out in (x, *others))
    for grad, like in zip(grads, (u, w, t), strict=True):
        assert grad.dtype == like.dtype
        assert grad.shape == like.shape


# ---------------------------------------------------------------------------------------------------------- gradients
FUNCTIONS = {
    "mean": (lambda u, w: Chain(u, w).mean(temperature=0.7), lambda u, w: plain_mean(u, w, 0.7), (2, T, K)),
    "log_partition": (lambda u, w: Chain(u, w).log_partition(), plain_log_partition, (2,)),
    "entropy": (lambda u, w: Chain(u, w).entropy(), plain_entropy, (2,)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("steps", [W, SHARED], ids=["own steps", "shared steps"])
def test_gradients_by_finite_differences(lib: Library, name: str, steps: np.ndarray) -> None:
    f, plain, shape = FUNCTIONS[name]
    g = RNG.normal(size=shape)
    value, (to_u, to_w) = pulled(lib, f, lib.asarray(g), lib.asarray(U), lib.asarray(steps))
    lib.check(value, plain(U, steps), rtol=1e-12)
    lib.check(to_u, finite_difference(lambda u: plain(u, steps), U, g, step=1e-5), rtol=1e-6, atol=1e-8)
    lib.check(to_w, finite_difference(lambda w: plain(U, w), steps, g, step=1e-5), rtol=1e-6, atol=1e-8)


def test_gradient_in_a_temperature_array(lib: Library) -> None:
    g, t = RNG.normal(size=U.shape), np.asarray(0.7)
    value, grads = pulled(
        lib, lambda u, w, t: Chain(u, w).relax(u, t), lib.asarray(g), lib.asarray(U), lib.asarray(W), lib.asarray(t)
    )
    lib.check(value, plain_mean(U, W, 0.7), rtol=1e-12)
    for i, grad in enumerate(grads):
        arrays: list[Any] = [U, W, t]

        def at(x: np.ndarray, i: int = i, arrays: list[Any] = arrays) -> np.ndarray:
            return plain_mean(*arrays[:i], x, *arrays[i + 1 :])

        lib.check(grad, finite_difference(at, arrays[i], g, step=1e-5), rtol=1e-6, atol=1e-8)


def test_gradient_of_log_prob(lib: Library) -> None:
    x = paths(T, K)[RNG.integers(K**T, size=(5, 2))]
    g = RNG.normal(size=(5, 2))

    def plain(u: np.ndarray, w: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.asarray(energies(u, w, x)[1] - plain_log_partition(u, w))

    arrays = [U, SHARED, x]
    value, grads = pulled(lib, lambda u, w, x: Chain(u, w).log_prob(x), lib.asarray(g), *map(lib.asarray, arrays))
    lib.check(value, plain(U, SHARED, x), rtol=1e-12)
    for i, grad in enumerate(grads):

        def at(y: np.ndarray, i: int = i) -> np.ndarray:
            return plain(*arrays[:i], y, *arrays[i + 1 :])

        lib.check(grad, finite_difference(at, arrays[i], g, step=1e-5), rtol=1e-6, atol=1e-8)


@pytest.mark.needs("torch")
def test_second_derivatives() -> None:
    import torch

    u, w = (torch.tensor(x).requires_grad_() for x in (U[:, :3, :2], W[:, :2, :2, :2]))
    for f in (lambda u, w: Chain(u, w).mean(), lambda u, w: Chain(u, w).log_partition(), lambda u, w: Chain(u, w).entropy()):
        assert torch.autograd.gradgradcheck(f, (u, w))


# ---------------------------------------------------------------------------------------------------------- stability
@pytest.mark.parametrize("spread", [60, 1000], ids=["by products", "by logarithms"])
def test_spread_utilities(lib: Library, spread: int) -> None:
    u, w = (np.round(RNG.uniform(-spread, spread, size=s)) for s in ((20, T, K), (20, T - 1, K, K)))
    part = spread // 10
    u[:10], w[:10] = np.round(u[:10] / part) * part + RNG.integers(3, size=(10, T, K)), np.round(w[:10] / part / 5) * part * 5
    g = RNG.normal(size=u.shape).astype(np.float32)
    x, p = law(u, w)
    for dtype, rtol in (("float32", 1e-5), ("float64", 1e-10)):
        arrays = [lib.asarray(a, dtype) for a in (u, w)]
        value, grads = pulled(lib, lambda u, w: Chain(u, w).mean(), lib.asarray(g, dtype), *arrays)
        lib.check(value, plain_mean(u, w), dtype=dtype, rtol=rtol, atol=1e-30)
        lib.check(
            compiled(lib, lambda u, w: Chain(u, w).log_partition())(*arrays), plain_log_partition(u, w), dtype=dtype, rtol=rtol
        )
        along = (x * g).sum((-2, -1))
        weight = p * (along - (p * along).sum(0))
        for grad, feature in zip(grads, (x, steps_of(x)), strict=True):
            axes = (..., *(None,) * (feature.ndim - 2))
            exact = (weight[axes] * feature).sum(0)
            lib.check(grad, exact, dtype=dtype, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_huge_utilities(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    b = {"float16": 6e4, "float32": 3e38, "float64": 1.7e308}[dtype]
    u, w = lib.asarray([[b, -b], [0.0, b], [-b, -b]], dtype), lib.asarray([[[b, -b], [0, 1]], [[-b, b], [b, 1]]], dtype)
    g, t = lib.asarray(RNG.normal(size=(3, 2)), dtype), lib.asarray(0.05, dtype)
    traced = pulled(lib, lambda u, w, t: Chain(u, w).relax(u, t), g, u, w, t)
    static = pulled(lib, lambda u, w: Chain(u, w).relax(u, 0.05), g, u, w)
    for y, grads in (traced, static):
        for out in (y, *grads):
            assert np.all(np.isfinite(lib.to_numpy(out)))


def test_what_cannot_be_has_no_gradient(lib: Library) -> None:
    u, w = U.copy(), W.copy()
    u[0, 1, 0] = u[0, 2, 1] = -np.inf
    w[0, 0, 2, 2] = -np.inf
    u[1, 2] = -np.inf  # no path is left
    arrays = (lib.asarray(u), lib.asarray(w))
    bad, g = lib.asarray(np.eye(K)[[[0, 0, 0, 0], [0, 1, 2, 0]]]), lib.asarray([1.0, 2.0])

    def f(u: Any, w: Any, t: Any) -> Any:
        p = Chain(u, w)
        x = backdraw.draw(p, shape=50, rng=backdraw.key(0))
        law = p.log_prob(x), p.log_prob(bad), p.log_partition()

        def values(u: Any, w: Any, t: Any) -> Any:
            p = Chain(u, w)
            return p.relax(u, t), p.entropy(), p.log_prob(x[0, ...])

        (mean, *_), pullback = backdraw.vjp(values, u, w, t)
        no, none = 0 * mean, 0 * g
        grads = [pullback(c) for c in ((mean * mean, none, none), (no, g, none), (no, none, g))]
        return x, mean, p.argmax(u), law, grads

    x, mean, best, (possible, impossible, total), grads = compiled(lib, f)(*arrays, lib.asarray(0.7))
    lib.check(total[1, ...], -np.inf)
    for hard in (x[:, 1, ...], best[1, ...], mean[1, ...]):
        assert np.all(lib.to_numpy(hard) == 0)
    assert np.all(lib.to_numpy(possible) > -np.inf)
    assert lib.to_numpy(impossible)[0] == -np.inf
    for to_u, to_w, _ in ([lib.to_numpy(d) for d in each] for each in grads):
        assert np.all(to_u[u == -np.inf] == 0)
        assert np.all(to_w[w == -np.inf] == 0)
        assert np.all(to_w[0, 0, :, 0] == 0)
        assert np.all(to_u[1] == 0)
        assert np.all(np.isfinite(to_u))
        assert np.all(np.isfinite(to_w))
        assert np.abs(to_w).max() > 1e-3
