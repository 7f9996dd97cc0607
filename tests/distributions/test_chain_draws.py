"""Chain: its draws by law, the estimators that take it, what JAX and torch make of it, and bad input."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
from chains import BARRED, RNG, SHARED, K, T, U, W, compiled, law, steps_of
from helpers import Backend, Library, run_python

import backdraw
from backdraw import Chain

# -------------------------------------------------------------------------------------------------------------- draws
N = 20_000


def test_law(framework: Library) -> None:
    u, w = U[0, :3], BARRED[1, :2]
    draws = framework.to_numpy(backdraw.draw(Chain(framework.asarray(u), framework.asarray(w)), shape=N, rng=backdraw.key(4)))
    x, p = law(u, w)
    code = (draws.argmax(-1) * [9, 3, 1]).sum(-1)
    counts, p = np.bincount(code, minlength=27), p[:, 0]
    assert counts[p == 0].sum() == 0
    assert scipy.stats.chisquare(counts[p > 0], N * p[p > 0]).pvalue > 1e-6
    assert np.all(draws.sum(-1) == 1)
    assert x.shape[0] == 27


def test_one_key_gives_one_draw_everywhere(lib: Library) -> None:
    u, w = (3 * RNG.normal(size=(40, 6, 5))).astype(np.float32), (3 * RNG.normal(size=(5, 5))).astype(np.float32)

    def f(u: Any, w: Any) -> Any:
        p = Chain(u, w)
        return backdraw.draw(p, shape=2, rng=backdraw.key(5)), backdraw.gumbel_max(p, rng=backdraw.key(5))

    for actual, expected in zip(compiled(lib, f)(lib.asarray(u), lib.asarray(w)), f(u, w), strict=True):
        lib.check(actual, expected, dtype="float32", rtol=0)


def test_falling_temperature_leads_to_the_hard_draw(lib: Library) -> None:
    def f(u: Any, w: Any, t: Any) -> Any:
        p = Chain(u, w)
        u = p.perturbed(backdraw.key(3))
        return p.argmax(u), p.relax(u, t)

    arrays, gaps = (lib.asarray(U), lib.asarray(W)), []
    for t in (1.0, 0.3, 0.1, 0.01):
        hard, soft = compiled(lib, f)(*arrays, lib.asarray(t))
        gaps.append(np.abs(lib.to_numpy(soft) - lib.to_numpy(hard)).max())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-9


# --------------------------------------------------------------------------------------------------------- estimators
def test_straight_through_and_select(lib: Library) -> None:
    def f(u: Any, w: Any, g: Any) -> Any:
        p, key = Chain(u, w), backdraw.key(1)
        exact = backdraw.vjp(lambda u, w: Chain(u, w).mean(temperature=0.6), u, w)[1](g)
        drawn = backdraw.vjp(lambda u, w: backdraw.straight_through(Chain(u, w), temperature=0.6, rng=key), u, w)
        selected = backdraw.vjp(lambda u, w: backdraw.select(Chain(u, w)), u, w)
        return (backdraw.draw(p, rng=key), p.argmax(u), exact), (drawn[0], selected[0]), (drawn[1](g), selected[1](g))

    arrays = lib.asarray(U), lib.asarray(SHARED), lib.asarray(RNG.normal(size=U.shape))
    (*hard, exact), values, gradients = compiled(lib, f)(*arrays)
    for value, expected, grads in zip(values, hard, gradients, strict=True):
        lib.check(value, lib.to_numpy(expected), rtol=0)
        for grad, e in zip(grads, exact, strict=True):
            lib.check(grad, lib.to_numpy(e), rtol=1e-12, atol=1e-15)


def test_score_function_gradient(framework: Library) -> None:
    u, w = U[0, :3], SHARED
    x, p = law(u, w)
    weights = RNG.normal(size=(3, K))

    def f(x: Any) -> Any:
        return framework.xp.sum(x * framework.asarray(weights), axis=(-2, -1)) ** 2

    values = ((x * weights).sum((-2, -1)) ** 2)[:, 0]
    arrays = framework.asarray(u), framework.asarray(w)
    grads = backdraw.value_and_grad(lambda u, w: backdraw.rloo(f, Chain(u, w), samples=N, rng=backdraw.key(1)))(*arrays)[1]
    for grad, feature in zip(grads, (x[:, 0], steps_of(x).sum(-3)[:, 0]), strict=True):
        centred = feature - np.tensordot(p[:, 0], feature, 1)
        each = (values - p[:, 0] @ values)[:, None, None] * centred
        exact = np.tensordot(p[:, 0], each, 1)
        spread = np.sqrt(np.tensordot(p[:, 0], (each - exact) ** 2, 1) / N)
        assert np.abs((framework.to_numpy(grad) - exact) / spread).max() < 4.5


@pytest.mark.needs("jax")
def test_under_vmap() -> None:
    import jax

    lib = Library(Backend.JAX)
    g, key = RNG.normal(size=(T, K)), backdraw.key(2)

    def both(u: Any, w: Any, g: Any) -> Any:
        y, back = backdraw.vjp(lambda u, w: Chain(u, w).relax(Chain(u, w).perturbed(key), 0.5), u, w)
        return y, *back(g), Chain(u, w).argmax(u), backdraw.draw(Chain(u, w), rng=key)

    batch = jax.jit(jax.vmap(both, (0, 0, None)))(lib.asarray(U), lib.asarray(W), lib.asarray(g))
    for a, b in zip(batch, zip(*(both(u, w, g) for u, w in zip(U, W, strict=True)), strict=True), strict=True):
        lib.check(a, np.stack(b), rtol=1e-10, atol=1e-14)


@pytest.mark.needs("torch")
def test_under_torch_vmap() -> None:
    import torch

    u, w, g = torch.tensor(U), torch.tensor(W), torch.tensor(RNG.normal(size=(T, K)))
    grads = torch.func.vmap(torch.func.grad(lambda u, w: (Chain(u, w).mean() * g).sum(), argnums=(0, 1)))(u, w)
    for grad, exact in zip(grads, torch.func.vjp(lambda u, w: Chain(u, w).mean(), u, w)[1](g.expand(2, T, K)), strict=True):
        torch.testing.assert_close(grad, exact)


@pytest.mark.needs("jax")
def test_jax_without_64_bits() -> None:
    code = """
import jax, jax.numpy as jnp, backdraw
u, w, key = jnp.asarray([[1000.0, 999.0], [0.5, 0.0]]), jnp.asarray([[-1000.0, 1.0], [0.0, 2.0]]), backdraw.key(0)
def f(u, w, t):
    p = backdraw.Chain(u, w)
    return p.relax(u, t)[0, 0] + p.entropy() + p.log_partition() + backdraw.straight_through(p, rng=key).sum()
value, grads = jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(u, w, 1.0)
assert all(g.dtype == jnp.float32 for g in (value, *grads))
x = backdraw.draw(backdraw.Chain(u, w), rng=key)
print(x.dtype, bool(jnp.isfinite(jnp.concatenate([g.ravel() for g in grads])).all()))
"""
    assert run_python(code) == "float32 True"


# ---------------------------------------------------------------------------------------------------------- bad input
def test_bad_input(lib: Library) -> None:
    u, w = lib.asarray(U), lib.asarray(W)
    for bad in (lib.asarray(np.zeros(3)), lib.asarray(np.zeros((0, 3))), lib.asarray(np.zeros((2, 0)))):
        with pytest.raises(ValueError, match=r"unary: expected shape \(\.\.\., T, K\) with T and K at least 1, got \("):
            Chain(bad, w)
    for shape in ((K,), (K, K + 1), (T, K, K), (3, T - 1, K, K)):
        with pytest.raises(ValueError, match=r"pairwise: expected shape \(\.\.\., 3, 3, 3\) or \(3, 3\) for unary of shape"):
            Chain(u, lib.asarray(np.zeros(shape)))
    for name, arrays in {"unary": (lib.asarray(U.astype(int)), w), "pairwise": (u, lib.asarray(W.astype(int)))}.items():
        with pytest.raises(TypeError, match=f"{name}: expected a real floating dtype, got .*int64"):
            Chain(*arrays)
    with pytest.raises(TypeError, match=r"pairwise: expected the dtype of unary, .*float64, got .*float32"):
        Chain(u, lib.asarray(W, "float32"))
    p = Chain(u, w)
    with pytest.raises(ValueError, match=r"x: expected the shape \(2, 4, 3\), or more axes in front of it, got \(4, 3\)"):
        p.log_prob(u[0, ...])
    with pytest.raises(ValueError, match="regularizer: expected 'entropy', the one that a Chain has, got 'euclidean'"):
        p.relax(u, 1.0, "euclidean")


@pytest.mark.needs("torch")
def test_two_frameworks() -> None:
    import torch

    with pytest.raises(TypeError, match="unary, pairwise: all arrays must belong to one framework"):
        Chain(U, torch.tensor(W))
