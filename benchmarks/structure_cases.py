"""What is measured of the structures: forward and backward for a batch of 64, ours and what a user would run instead.

Every case is a function of its sizes that returns two callables, ours and the peer's. Ours run on NumPy, unless the name of
the case says otherwise; peers that draw or pull back do so for the same arrays.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from timing import Pair

import backdraw

BATCH, ITERATIONS, SAMPLES = 64, 20, 1000


def _normal(*shapes: tuple[int, ...], dtype: Any = np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(BATCH, *shape)).astype(dtype) for shape in shapes]


def _pulled(f: Callable[..., Any], c: np.ndarray, *arrays: np.ndarray) -> Callable[[], object]:
    """Ours on NumPy: f and its pullback of c."""
    return lambda: backdraw.vjp(f, *arrays)[1](c)


def _torch(*arrays: np.ndarray) -> list[Any]:
    import torch

    return [torch.tensor(x, requires_grad=True) for x in arrays]


# ------------------------------------------------------------------------------------------------- chains and subsets
def _chain(length: int, states: int) -> tuple[Any, Any, Any, Callable[[], object]]:
    import torch
    from torch_struct import LinearChainCRF

    u, w, c = _normal((length, states), (length - 1, states, states), (length, states), dtype=np.float32)
    a, b = _torch(u, w)

    def peer() -> object:
        steps = b.mT + a[:, 1:, :, None]  # to, from
        steps = torch.cat([steps[:, :1] + a[:, :1, None, :], steps[:, 1:]], dim=1)
        pairs = LinearChainCRF(steps).marginals
        m = torch.cat([pairs[:, :1].sum(-2), pairs.sum(-1)], dim=1)
        return torch.autograd.grad(m, (a, b), torch.tensor(c))

    return (u, w, c), (a, b), torch, peer


def chain(length: int, states: int) -> Pair:
    """Marginals of linear chains of a length and a number of states, float32: against pytorch-struct."""
    (u, w, c), _, _, peer = _chain(length, states)
    return _pulled(lambda u, w: backdraw.Chain(u, w).mean(), c, u, w), peer


def chain_torch(length: int, states: int) -> Pair:
    """The same on torch."""
    (_, _, c), (a, b), torch, peer = _chain(length, states)
    return (lambda: torch.autograd.grad(backdraw.Chain(a, b).mean(), (a, b), torch.tensor(c))), peer


def subset(n: int, k: int) -> Pair:
    """Marginals of k of n: against SIMPLE's dynamic programme for log Z, which torch differentiates twice."""
    import torch

    u, c = _normal((n,), (n,), dtype=np.float32)
    (a,) = _torch(u)
    start = torch.full((BATCH, k + 1), -60.0)  # for -inf, of whose logaddexp the second derivative is NaN
    start[:, 0] = 0.0

    def peer() -> object:
        table = start
        for i in range(n):
            moved = table[:, :-1] + a[:, i : i + 1]
            table = torch.cat([table[:, :1], torch.logaddexp(table[:, 1:], moved)], dim=1)
        (m,) = torch.autograd.grad(table[:, -1].sum(), a, create_graph=True)
        return torch.autograd.grad(m, a, torch.tensor(c))

    return _pulled(lambda l: backdraw.Subset(l, k).mean(), c, u), peer


# ------------------------------------------------------------------------------------------------- trees
def _tree_peer(n: int, u: np.ndarray, c: np.ndarray, temperature: float) -> Callable[..., Any]:
    import torch

    (a,) = _torch(u)
    first, second = torch.triu_indices(n, n, 1)

    def peer(*, marginals: bool = False) -> Any:
        w = torch.exp(a / temperature)
        laplacian = torch.zeros(len(u), n, n, dtype=w.dtype)
        laplacian[:, first, second] = -w
        laplacian = laplacian + laplacian.mT
        laplacian = laplacian - torch.diag_embed(laplacian.sum(-1))
        value = torch.logdet(laplacian[:, 1:, 1:]).sum()
        (m,) = torch.autograd.grad(value, a, create_graph=True)
        return m.detach().numpy() * temperature if marginals else torch.autograd.grad(m, a, torch.tensor(c))

    return peer


def tree_marginals(n: int) -> Pair:
    """Marginals of the spanning trees of n nodes, float64, at temperature 1: against torch's logdet of the Laplacian."""
    u, c = _normal((n * (n - 1) // 2,), (n * (n - 1) // 2,))
    return _pulled(lambda l: backdraw.SpanningTree(l).mean(), c, u), _tree_peer(n, u, c, 1.0)


def tree_errors(n: int) -> tuple[float, float]:
    """The largest errors of both at temperature 0.1, against the matrix-tree theorem in 100 decimal digits."""
    import mpmath

    u = _normal((n * (n - 1) // 2,))[0][:4]
    ours, peer = backdraw.SpanningTree(u).mean(temperature=0.1), _tree_peer(n, u, u, 0.1)
    first, second = np.triu_indices(n, 1)
    with mpmath.workdps(100):
        exact = np.zeros(u.shape)
        for row, logits in zip(exact, u, strict=True):
            w = [mpmath.exp(mpmath.mpf(x) * 10) for x in logits]
            laplacian = mpmath.zeros(n)
            for i, j, x in zip(first.tolist(), second.tolist(), w, strict=True):
                laplacian[i, i] += x
                laplacian[j, j] += x
                laplacian[i, j] = laplacian[j, i] = -x
            g = mpmath.zeros(n)
            g[1:, 1:] = mpmath.inverse(laplacian[1:, 1:])
            row[:] = [
                float(x * (g[i, i] + g[j, j] - 2 * g[i, j]))
                for i, j, x in zip(first.tolist(), second.tolist(), w, strict=True)
            ]
    return float(np.abs(ours - exact).max()), float(np.abs(peer(marginals=True) - exact).max())


def tree_argmax(n: int) -> Pair:
    """Heaviest spanning trees of n nodes: against a loop over SciPy's minimum_spanning_tree."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    (u,) = _normal((n * (n - 1) // 2,))
    first, second = np.triu_indices(n, 1)
    p = backdraw.SpanningTree(u)

    def peer() -> object:
        found = np.zeros((BATCH, n, n))
        for x, row in zip(found, u, strict=True):
            costs = np.zeros((n, n))
            costs[first, second] = row.max() + 1.0 - row  # 0 is no edge
            x[minimum_spanning_tree(costs).nonzero()] = 1.0
        return found[:, first, second]

    return (lambda: p.argmax(u)), peer


def arborescence_argmax(n: int) -> Pair:
    """Heaviest arborescences of n nodes: against a loop over networkx's Edmonds."""
    import networkx as nx

    (u,) = _normal((n, n))
    p = backdraw.Arborescence(u, 0)
    edges = [(i, j) for i in range(n) for j in range(1, n) if i != j]

    def peer() -> object:
        found = np.zeros((BATCH, n, n))
        for x, row in zip(found, u, strict=True):
            graph = nx.DiGraph()
            graph.add_weighted_edges_from((i, j, row[i, j]) for i, j in edges)
            for i, j in nx.maximum_spanning_arborescence(graph).edges:
                x[i, j] = 1.0
        return found

    return (lambda: p.argmax(u)), peer


# ------------------------------------------------------------------------------------------------- permutations, argmax
def sinkhorn(n: int) -> Pair:
    """Sinkhorn of n x n matrices, 20 iterations, float32: against logsumexp in NumPy, its gradient by hand."""
    from scipy.special import logsumexp

    u, c = _normal((n, n), (n, n), dtype=np.float32)

    def peer() -> object:
        z, steps = u, []
        for _ in range(ITERATIONS):
            for axis in (-1, -2):
                z = z - logsumexp(z, axis=axis, keepdims=True)
                steps.append((np.exp(z), axis))
        g = c * steps[-1][0]
        for y, axis in reversed(steps):
            g = g - y * g.sum(axis=axis, keepdims=True)
        return g

    return _pulled(lambda l: backdraw.Permutation(l, iterations=ITERATIONS).relax(l), c, u), peer


def sinkhorn_jax(n: int) -> Pair:
    """The same in JAX, both jitted: against logsumexp and jax.vjp."""
    import jax

    u, c = map(jax.numpy.asarray, _normal((n, n), (n, n), dtype=np.float32))

    def relaxed(z: Any) -> Any:
        for _ in range(ITERATIONS):
            for axis in (-1, -2):
                z = z - jax.nn.logsumexp(z, axis=axis, keepdims=True)
        return jax.numpy.exp(z)

    def pulled(f: Callable[[Any], Any]) -> Callable[[], object]:
        run = jax.jit(lambda u, c: jax.vjp(f, u)[1](c))
        return lambda: jax.block_until_ready(run(u, c))

    return pulled(lambda l: backdraw.Permutation(l, iterations=ITERATIONS).relax(l)), pulled(relaxed)


def perturbed_argmax(n: int) -> Pair:
    """Perturbed argmax of n categories, 1,000 samples, float32: against optax's, jitted."""
    import jax
    import optax

    u, c = _normal((n,), (n,), dtype=np.float32)
    rng = np.random.default_rng(1)
    noisy = optax.perturbations.make_perturbed_fun(
        lambda l: jax.nn.one_hot(jax.numpy.argmax(l, axis=-1), n), SAMPLES, sigma=1.0
    )
    run = jax.jit(lambda key, u, c: jax.vjp(lambda l: noisy(key, l), u)[1](c))
    key = jax.random.key(0)
    ours = _pulled(lambda l: backdraw.perturbed_argmax(l, samples=SAMPLES, rng=rng), c, u)
    return ours, lambda: jax.block_until_ready(run(key, u, c))


Case = Callable[..., Pair]
PEERS: dict[tuple[Case, tuple[int, ...]], float] = {
    (chain, (50, 20)): 0.03,
    (chain_torch, (50, 20)): 0.03,
    (subset, (100, 10)): 0.12,
    (tree_marginals, (10,)): 0.4,
    (tree_marginals, (30,)): 0.8,
    (tree_marginals, (50,)): 1.1,
    (tree_argmax, (10,)): 0.03,
    (tree_argmax, (30,)): 0.08,
    (tree_argmax, (50,)): 0.10,
    (arborescence_argmax, (10,)): 0.005,
    (arborescence_argmax, (30,)): 0.005,
    **{(case, (n,)): goal for case in (sinkhorn, sinkhorn_jax) for n, goal in ((10, 0.35), (30, 0.25), (100, 0.2))},
    (perturbed_argmax, (10,)): 0.9,
    (perturbed_argmax, (100,)): 0.5,
}
