"""Trees by enumeration, for the tests of distributions over them."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import Backend, Library

SPARSE = [(3, 1), (0, 1), (1, 2), (2, 4), (3, 4), (0, 4)]
GRAPHS = {"1": None, "2": None, "3": None, "4": None, "5": None, "sparse": SPARSE}


def graph(name: str) -> tuple[Any, list[tuple[int, int]], int]:
    """Return edges= and what they are, and the number of nodes."""
    given = GRAPHS[name]
    n = 5 if given else int(name)
    return given and tuple(given), given or complete(n), n


def normal(*shape: int, seed: int = 11) -> np.ndarray:
    """Return the same normal numbers on every call."""
    return np.random.default_rng(seed).normal(size=shape)


def grid(n: int) -> list[tuple[int, int]]:
    """Return the edges of a grid of n * n nodes."""
    across = [(n * i + j, n * i + j + 1) for i in range(n) for j in range(n - 1)]
    return across + [(n * i + j, n * i + j + n) for i in range(n - 1) for j in range(n)]


def complete(n: int) -> list[tuple[int, int]]:
    """Return all pairs i < j in order."""
    return list(itertools.combinations(range(n), 2))


def spanning_trees(n: int, edges: list[tuple[int, int]]) -> np.ndarray:
    """Return all spanning trees of a graph as rows of 0 and 1 per edge."""
    rows = []
    for chosen in itertools.combinations(range(len(edges)), n - 1):
        part, joined = list(range(n)), 0
        for e in chosen:
            a, b = (part[node] for node in edges[e])
            joined += a != b
            part = [a if p == b else p for p in part]
        if joined == n - 1:
            rows.append(np.isin(np.arange(len(edges)), chosen) * 1.0)
    return np.asarray(rows).reshape(len(rows), len(edges))


def arborescences(n: int, root: int) -> np.ndarray:
    """Return all arborescences of n nodes from a root as matrices, row = parent, column = child."""
    found = []
    for parents in itertools.product(range(n), repeat=n):
        if parents[root] == root and all(_reaches(parents, node, root) for node in range(n)):
            x = np.zeros((n, n))
            x[list(parents), np.arange(n)] = 1.0
            x[root, root] = 0.0
            found.append(x)
    return np.asarray(found)


def _reaches(parents: tuple[int, ...], node: int, root: int) -> bool:
    for _ in parents:
        node = parents[node]
    return node == root


def probabilities(logits: Any, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the probabilities of all values of the exponential family, and its log-partition function."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):
        scores = np.where(values > 0, logits, 0.0).reshape(len(values), -1).sum(-1)
    top = scores.max()
    weights = np.exp(scores - top)
    return weights / weights.sum(), float(top + np.log(weights.sum()))


def covariance_product(logits: Any, values: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return the covariance of the values times g: the derivative of the mean in direction g."""
    p = probabilities(logits, values)[0]
    flat = values.reshape(len(values), -1)
    mean = p @ flat
    back = (p * ((flat - mean) @ g.reshape(-1))) @ (flat - mean)
    return np.asarray(back).reshape(values.shape[1:])


def exact_marginals(logits: np.ndarray, edges: list[tuple[int, int]]) -> np.ndarray:
    """Return the marginals of a spanning tree in rational arithmetic, for weights 2**logits of any size."""
    from fractions import Fraction

    n = 1 + max(max(e) for e in edges)
    weights = [Fraction(2) ** int(l) for l in logits]
    laplacian = [[Fraction(0)] * n for _ in range(n)]
    for (a, b), w in zip(edges, weights, strict=True):
        for i, j, sign in ((a, a, 1), (b, b, 1), (a, b, -1), (b, a, -1)):
            laplacian[i][j] += sign * w
    m = [row[1:] + [Fraction(int(i == j)) for j in range(1, n)] for i, row in enumerate(laplacian) if i]
    for k in range(n - 1):  # Gauss and Jordan; no pivot vanishes
        m[k] = [x / m[k][k] for x in m[k]]
        for i in range(n - 1):
            if i != k and m[i][k]:
                factor = m[i][k]
                m[i] = [x - factor * y for x, y in zip(m[i], m[k], strict=True)]
    inverse = [[Fraction(0)] * n] + [[Fraction(0), *row[n - 1 :]] for row in m]
    return np.asarray(
        [float(w * (inverse[a][a] + inverse[b][b] - 2 * inverse[a][b])) for (a, b), w in zip(edges, weights, strict=True)]
    )


def compiled(lib: Library, f: Callable[..., Any], *arrays: Any) -> Any:
    """``f(*arrays)``, under jit on JAX, where operation by operation takes long."""
    if lib.backend is Backend.JAX:
        import jax

        return jax.jit(f)(*arrays)
    return f(*arrays)
