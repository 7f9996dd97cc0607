"""Chain: its functions against an enumeration of all paths, its gradients against finite differences, its draws by law."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import Backend, Library, finite_difference, pulled, run_python

import backdraw
from backdraw import Chain

RNG = np.random.default_rng(17)
T, K = 4, 3
U, W = RNG.normal(size=(2, T, K)) * 1.5, RNG.normal(size=(2, T - 1, K, K)) * 1.5
SHARED = RNG.normal(size=(K, K)) * 1.5
BARRED = np.where(RNG.random((2, T - 1, K, K)) < 0.3, -np.inf, W)
SHAPES = {
    "own steps": (U, W),
    "shared steps": (U, SHARED),
    "steps shared by the batch": (U, W[0]),
    "states shared by the batch": (U[0], W),
    "barred steps": (np.where(np.arange(K) == 1, -np.inf, U[:, :1]).repeat(T, 1) * [[[1.0]], [[0.0]]][0] + U * 0.5, BARRED),
    "one variable": (U[:, :1], W[:, :0]),
    "one variable, shared steps": (U[0, :1], SHARED),
    "one state": (U[..., :1], W[..., :1, :1]),
}
shapes = pytest.mark.parametrize("shape", SHAPES)


def paths(t: int, k: int) -> np.ndarray:
    return np.eye(k)[list(itertools.product(range(k), repeat=t))]


def steps_of(x: np.ndarray) -> np.ndarray:
    return np.asarray(x[..., :-1, :, None] * x[..., 1:, None, :])


def energies(u: np.ndarray, w: np.ndarray, x: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All paths, shape (N, 1, T, K), and their utilities, shape (N, B)."""
    t, k = u.shape[-2:]
    u, w = np.atleast_3d(u) if u.ndim > 2 else u[None], np.broadcast_to(w, (*np.shape(w)[:-3], t - 1, k, k))
    w = w if w.ndim > 3 else w[None]
    x = paths(t, k)[:, None] if x is None else x
    with np.errstate(invalid="ignore"):
        of_states = np.where(x != 0, x * u, 0.0).sum((-2, -1))
        of_steps = np.where(steps_of(x) != 0, steps_of(x) * w, 0.0).sum((-3, -2, -1))
    return x, of_states + of_steps


def law(u: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, e = energies(u, w)
    return x, scipy.special.softmax(e, 0)


def plain_mean(u: np.ndarray, w: np.ndarray, t: float = 1.0) -> np.ndarray:
    x, p = law(u / t, w / t)
    return np.asarray((p[..., None, None] * x).sum(0))


def plain_entropy(u: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.entr(law(u, w)[1]).sum(0))


def plain_log_partition(u: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.logsumexp(energies(u, w)[1], 0))


def squeeze(x: np.ndarray, u: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Take the batch axis away where there is none."""
    return x if u.ndim > 2 or w.ndim > 3 else x[0]


def compiled(lib: Library, f: Any) -> Any:
    """Compile on JAX, where operation by operation takes long."""
    if lib.backend is not Backend.JAX:
        return f
    import jax

    return jax.jit(f)


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
        return x, mean, pullback(g), p.mean(), p.log_partition(), p.entropy(), p.argmax(u), p.log_prob(x), *p.score(x)

    g, t = lib.asarray(np.ones((2, T, K)), dtype), lib.asarray(0.5, dtype)
    x, cool, grads, mean, total, *others = compiled(lib, all_of_it)(u, w, g, t)
    lib.check(mean, plain_mean(*exact), dtype=dtype, rtol=rtol)
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
    lib.check(to_u, finite_difference(lambda u: plain(u, steps), U, g), rtol=1e-6, atol=1e-9)
    lib.check(to_w, finite_difference(lambda w: plain(U, w), steps, g), rtol=1e-6, atol=1e-9)


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

        lib.check(grad, finite_difference(at, arrays[i], g), rtol=1e-6, atol=1e-9)


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

        lib.check(grad, finite_difference(at, arrays[i], g), rtol=1e-6, atol=1e-8)


@pytest.mark.needs("torch")
def test_second_derivatives() -> None:
    import torch

    u, w = (torch.tensor(x).requires_grad_() for x in (U[:, :3, :2], W[:, :2, :2, :2]))
    for f in (lambda u, w: Chain(u, w).mean(), lambda u, w: Chain(u, w).log_partition(), lambda u, w: Chain(u, w).entropy()):
        assert torch.autograd.gradgradcheck(f, (u, w))


# ---------------------------------------------------------------------------------------------------------- stability
def test_utilities_spread_over_a_thousand(lib: Library) -> None:
    u, w = (np.round(RNG.uniform(-1e3, 1e3, size=s)) for s in ((20, T, K), (20, T - 1, K, K)))
    u[:10], w[:10] = np.round(u[:10] / 100) * 100 + RNG.integers(3, size=(10, T, K)), np.round(w[:10] / 500) * 500
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
    x = compiled(lib, lambda u, w: backdraw.draw(Chain(u, w), shape=50, rng=backdraw.key(0)))(*arrays)
    mean, total, best, log_prob = compiled(
        lib, lambda u, w: (Chain(u, w).mean(), Chain(u, w).log_partition(), Chain(u, w).argmax(u), Chain(u, w).log_prob(x))
    )(*arrays)
    lib.check(total[1, ...], -np.inf)
    for hard in (x[:, 1, ...], best[1, ...], mean[1, ...]):
        assert np.all(lib.to_numpy(hard) == 0)
    assert np.all(lib.to_numpy(log_prob) > -np.inf)
    bad = lib.asarray(np.eye(K)[[[0, 0, 0, 0], [0, 1, 2, 0]]])
    assert lib.to_numpy(compiled(lib, lambda u, w: Chain(u, w).log_prob(bad))(*arrays))[0] == -np.inf
    t, g = lib.asarray(0.7), {(): lib.asarray([1.0, 2.0]), (T, K): lib.asarray(RNG.normal(size=U.shape))}
    for f, shape in (
        (lambda u, w, t: Chain(u, w).relax(u, t), (T, K)),
        (lambda u, w, t: Chain(u, w).mean(), (T, K)),
        (lambda u, w, t: Chain(u, w).entropy(), ()),
        (lambda u, w, t: Chain(u, w).log_prob(x[0, ...]), ()),
    ):
        to_u, to_w = (lib.to_numpy(d) for d in pulled(lib, lambda u, w, f=f: f(u, w, t), g[shape], *arrays)[1])
        assert np.all(to_u[u == -np.inf] == 0)
        assert np.all(to_w[w == -np.inf] == 0)
        assert np.all(to_w[0, 0, :, 0] == 0)
        assert np.all(to_u[1] == 0)
        assert np.all(np.isfinite(to_u))
        assert np.all(np.isfinite(to_w))
        assert np.abs(to_w).max() > 1e-3


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_key_gives_one_draw_everywhere(lib: Library, dtype: str) -> None:
    u, w = (3 * RNG.normal(size=(40, 6, 5))).astype(dtype), (3 * RNG.normal(size=(5, 5))).astype(dtype)
    for f in (
        lambda u, w: backdraw.draw(Chain(u, w), shape=2, rng=backdraw.key(5)),
        lambda u, w: backdraw.gumbel_max(Chain(u, w), rng=backdraw.key(5)),
    ):
        lib.check(compiled(lib, f)(lib.asarray(u, dtype), lib.asarray(w, dtype)), f(u, w), dtype=dtype, rtol=0)


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
    g = RNG.normal(size=U.shape)
    arrays = lib.asarray(U), lib.asarray(SHARED)
    expected = pulled(lib, lambda u, w: Chain(u, w).mean(temperature=0.6), lib.asarray(g), *arrays)[1]
    for f, hard in (
        (lambda p: backdraw.straight_through(p, temperature=0.6, rng=backdraw.key(1)), backdraw.draw),
        (backdraw.select, lambda p, rng: p.argmax(p.utilities)),
    ):
        y, grads = pulled(lib, lambda u, w, f=f: f(Chain(u, w)), lib.asarray(g), *arrays)
        drawn = compiled(lib, lambda u, w, hard=hard: hard(Chain(u, w), rng=backdraw.key(1)))(*arrays)
        lib.check(y, lib.to_numpy(drawn), rtol=0)
        for grad, exact in zip(grads, expected, strict=True):
            lib.check(grad, lib.to_numpy(exact), rtol=1e-12, atol=1e-15)


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
    g, key = lib.asarray(RNG.normal(size=(T, K))), backdraw.key(2)

    def both(u: Any, w: Any) -> Any:
        y, back = jax.vjp(lambda u, w: Chain(u, w).relax(Chain(u, w).perturbed(key), 0.5), u, w)
        return y, *back(g), Chain(u, w).argmax(u), backdraw.draw(Chain(u, w), rng=key)

    batch = jax.jit(jax.vmap(both))(lib.asarray(U), lib.asarray(W))
    one = jax.jit(both)
    for i in range(2):
        for a, b in zip(batch, one(lib.asarray(U[i]), lib.asarray(W[i])), strict=True):
            lib.check(a[i], np.asarray(b), rtol=1e-10, atol=1e-14)


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
