"""Trees in arrays: edges and their matrix, the heaviest tree, and exact draws from what elimination leaves."""

import math
import operator
from typing import Any

import numpy as np

from backdraw.backend import Array, Backend, remembered
from backdraw.distributions.elimination import numbers, row_of
from backdraw.errors import InvalidTypeError, InvalidValueError

Edges = tuple[tuple[int, int], ...]

_MANY = 64


# ----------------------------------------------------------------------------------------------------------- edges
def check_edges(edges: Any, count: int) -> Edges:
    """Return edges as pairs of ints, after a check that they are those of a connected graph."""
    return _checked(edges.tolist() if hasattr(edges, "tolist") else edges, count)


def _checked(edges: Any, count: int) -> Edges:
    try:
        pairs = np.asarray(edges)
    except ValueError:
        pairs = np.asarray(None)
    if pairs.dtype.kind not in "iu" and pairs.size:
        raise InvalidTypeError(f"edges: expected integers of shape (E, 2), got {pairs.dtype}")
    if pairs.shape != (count, 2) and not (count == 0 and pairs.size == 0):
        raise InvalidValueError(
            f"edges: expected shape ({count}, 2) for logits with {count} edges on the last axis, got {pairs.shape}"
        )
    found = tuple((int(a), int(b)) for a, b in pairs.reshape(-1, 2))
    for a, b in found:
        if a < 0 or b < 0 or a == b:
            raise InvalidValueError(f"edges: expected pairs of different nodes from 0 on, got ({a}, {b})")
    if len({frozenset(pair) for pair in found}) < count:
        twice = next(pair for i, pair in enumerate(found) if {*pair} in [{*other} for other in found[:i]])
        raise InvalidValueError(f"edges: expected each edge once, got {twice} again")
    part = list(range(nodes_of(found, count)))
    for a, b in found:
        part = [part[a] if p == part[b] else p for p in part]
    if len(set(part)) > 1:
        alone = part.index(next(p for p in part if p != part[0]))
        raise InvalidValueError(f"edges: expected a connected graph of nodes 0 to {len(part) - 1}, got none to node {alone}")
    return found


_checked._dynamo_marked_constant = True  # type: ignore[attr-defined]  # see `remembered`


def count_of(u: Array) -> int:
    """Return the number of edges that values have on the last axis; under torch.compile it is a part of the program."""
    return operator.index(u.shape[-1])


@remembered
def nodes_of(edges: Edges | None, count: int) -> int:
    """Return the number of nodes of a graph: of the complete one with so many edges, if there are no `edges`."""
    if edges is not None:
        return 1 + max((max(pair) for pair in edges), default=0)
    n = (1 + math.isqrt(1 + 8 * count)) // 2
    if n * (n - 1) // 2 != count:
        raise InvalidValueError(f"logits: expected n * (n - 1) / 2 edges on the last axis without edges=, got {count}")
    return max(n, 1)


@remembered
def _places(edges: Edges | None, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for each pair of nodes, flat, its edge, or `count` if it has none; for each edge its nodes and its pair."""
    n = nodes_of(edges, count)
    first, second = np.triu_indices(n, 1) if edges is None else np.asarray(edges, np.int64).reshape(-1, 2).T
    matrix = np.full((n, n), count)
    matrix[first, second] = matrix[second, first] = np.arange(count)
    return matrix.reshape(-1), first, second, n * first + second


def to_matrix(be: Backend, u: Array, edges: Edges | None, fill: float) -> Array:
    """Spread values of edges over the pairs of nodes, (..., n, n); `fill` where there is no edge."""
    xp, count = be.xp, count_of(u)
    matrix = _places(edges, count)[0]
    n = math.isqrt(matrix.size)
    more = xp.full((*u.shape[:-1], 1), fill, dtype=u.dtype, device=be.device(u))
    return xp.reshape(xp.take(xp.concat([u, more], axis=-1), be.constant(matrix, u), axis=-1), (*u.shape[:-1], n, n))


def laplacian(be: Backend, w: Array, edges: Edges | None, shift: Array | float = 0.0) -> tuple[Array, Array]:
    """Return the graph's Laplacian for weights of edges, plus a `shift` of one number a row everywhere, and its diagonal."""
    # Made in one step, of all that it consists of: where arrays are large, each more of them costs as much as the computation.
    xp, count = be.xp, count_of(w)
    own = _sums_at_nodes(be, w, edges) + shift
    none = xp.zeros_like(own[..., :1]) + shift
    found = xp.take(xp.concat([shift - w, own, none], axis=-1), be.constant(_parts(edges, count), w), axis=-1)
    return xp.reshape(found, (*own.shape, own.shape[-1])), own


@remembered
def _parts(edges: Edges | None, count: int) -> np.ndarray:
    """Return for each entry of the Laplacian, flat, its place among edges, nodes and 0."""
    matrix = _places(edges, count)[0]
    n = math.isqrt(matrix.size)
    matrix = np.where(matrix == count, count + n, matrix)
    matrix[:: n + 1] = count + np.arange(n)
    return matrix


# Sums by a product with a matrix of zeros and ones are one call; with many nodes that matrix would be large.
@remembered
def _incidence(edges: Edges | None, count: int) -> np.ndarray | None:
    """Return which nodes an edge has, (E, n), or None where there are many nodes."""
    _, *ends, _ = _places(edges, count)
    n = nodes_of(edges, count)
    if n > _MANY:
        return None
    matrix = np.zeros((count, n))
    for nodes in ends:
        matrix[np.arange(count), nodes] = 1.0
    return matrix


def _sums_at_nodes(be: Backend, w: Array, edges: Edges | None) -> Array:
    """Return for each node the sum of what its edges have, (..., n)."""
    incidence = _incidence(edges, count_of(w))
    if incidence is None:
        return be.xp.sum(to_matrix(be, w, edges, 0.0), axis=-1)
    return w @ be.constant(incidence, w)


def sums_of_ends(be: Backend, x: Array, edges: Edges | None, count: int) -> Array:
    """Return for each edge the sum of what its two nodes have, (..., E)."""
    incidence = _incidence(edges, count)
    if incidence is None:
        first, second = (be.xp.take(x, be.constant(nodes, x), axis=-1) for nodes in _places(edges, count)[1:3])
        return first + second
    return x @ be.constant(incidence.T, x)


def of_edges(be: Backend, matrix: Array, edges: Edges | None, count: int) -> Array:
    """Take the values of edges, (..., E), from a matrix."""
    n = matrix.shape[-1]
    pairs = be.constant(_places(edges, count)[3], matrix)
    return be.xp.take(be.xp.reshape(matrix, (*matrix.shape[:-2], n * n)), pairs, axis=-1)


def of_parents(be: Backend, parents: Array, edges: Edges | None, count: int) -> Array:
    """Say which edges lead from a node to its parent."""
    xp, (_, *ends, _) = be.xp, _places(edges, count)
    first, second = (be.constant(nodes, parents) for nodes in ends)
    return (xp.take(parents, first, axis=-1) == second) | (xp.take(parents, second, axis=-1) == first)


# --------------------------------------------------------------------------------------------------- heaviest tree
def prim(be: Backend, weights: Array) -> tuple[Array, Array]:
    """Return the parents of the nodes in the heaviest tree from node 0, and whether there is one (last axis of size 1)."""
    # The next node is the one with the heaviest edge to the tree, the first of equals, and its edge leads to the node that
    # joined first of those with such an edge. A cap of -inf takes the nodes in the tree out: `minimum` is faster
    # than `where`.
    xp, n, batch, device = be.xp, weights.shape[-1], weights.shape[:-2], be.device(weights)
    places = xp.arange(n, device=device)
    own = xp.where(places[:, None] == places, -xp.inf, xp.full((n, n), xp.inf, dtype=weights.dtype, device=device))
    best = xp.minimum(xp.reshape(weights[..., 0, :], (-1, n)), own[0, :])
    state = (best, xp.broadcast_to(own[0, :], best.shape), xp.zeros_like(best, dtype=places.dtype))
    rows = xp.reshape(weights, (-1, n))
    first = n * xp.arange(best.shape[0], dtype=places.dtype, device=device)

    def step(state: tuple[Array, Array, Array], _: Array) -> tuple[tuple[Array, Array, Array], None]:
        best, cap, parents = state
        node = be.argmax(best)
        cap = xp.minimum(cap, xp.take(own, node, axis=0))
        row = xp.minimum(xp.take(rows, first + node, axis=0), cap)
        return (xp.minimum(xp.maximum(best, row), cap), cap, xp.where(row > best, node[:, None], parents)), None

    parents = xp.reshape(be.scan(step, state, places[1:])[0][2], (*batch, n))
    chosen = be.gather(weights, parents[..., None])[..., 0]
    return parents, xp.all((chosen > -xp.inf) | (places == 0), axis=-1, keepdims=True)


# ------------------------------------------------------------------------------------------------------ exact draws
def draw_parents(be: Backend, logits: Array, log_rows: Array, log_columns: Array, log_total: Array, uniforms: Array) -> Array:
    """Draw the parents of the nodes in a tree that is rooted at node 0, from uniforms (..., n, n) with samples in front."""
    # Matrices are of logarithms, and rows lead from the node: `logits` of the graph, `log_rows` and `log_columns` of the
    # weights w[k, l] and w[l, k], l < k, when k is eliminated.
    #
    # The draw goes node by node against the elimination. With node k in the graph, an edge from i to l of the smaller graph's
    # tree was either there before or came of k, which has the share w[i, k] w[k, l] / s in its weight. Those that came of k
    # now lead to k, and k leads to one of the nodes whose path to the root does not go through k, chosen in proportion to
    # w[k, l]. For given other edges, both graphs' trees then add up to the same, but for the factor s: the draw is exact.
    xp, n, size = be.xp, logits.shape[-1], uniforms.shape
    log_total = xp.where(log_total > -xp.inf, log_total, 0.0)
    logits, rows, columns = (xp.broadcast_to(x, size) for x in (logits, log_rows - log_total[..., None], log_columns))
    places = xp.arange(n, device=be.device(logits))

    def step(parents: Array, k: Array) -> tuple[Array, None]:
        # log of w[i, j] w[j, l] / s[j] for the parent l of i: j in rows, i in columns
        came = columns + be.gather(rows, xp.broadcast_to(parents[..., None, :], size))
        own = be.gather(logits, parents[..., :, None])[..., 0]
        of_k, u = row_of(be, came, k), row_of(be, uniforms, k)
        some = (of_k > -xp.inf) & (places > 0) & (places < k)
        base = xp.where(some, of_k, 0.0)
        before = xp.where(places[:, None] > k, xp.exp(came - base[..., None, :]), 0.0)
        through = some & (u * (1.0 + xp.sum(before, axis=-2) + xp.exp(own - base)) < 1.0)
        weights = xp.where(leads_to_root(be, parents, through) & (places < k), row_of(be, rows, k), -xp.inf)
        weights = xp.exp(weights - be.at_least(be.row_max(weights), be.lowest(weights)))
        chosen = be.invert_cdf(weights, xp.take(u, k, axis=-1))
        return with_parent(be, parents, k, chosen, through), None

    start = xp.zeros(size[:-1], dtype=places.dtype, device=be.device(logits))
    return be.scan(step, start, numbers(be, logits, 1, n, 1))[0]


def leads_to_root(be: Backend, parents: Array, through: Array) -> Array:
    """Say of which nodes the path to node 0 meets none of those in `through`."""
    xp, n = be.xp, parents.shape[-1]
    found = xp.where(through, xp.arange(n, dtype=parents.dtype, device=be.device(parents)), parents)
    for _ in range((n - 1).bit_length()):  # twice as far each time
        found = be.gather(found, found)
    return found == 0


def with_parent(be: Backend, parents: Array, k: Array, chosen: Array, through: Array) -> Array:
    """Let node k lead to the chosen one, and those in `through` to k."""
    xp, n = be.xp, parents.shape[-1]
    places = xp.arange(n, dtype=parents.dtype, device=be.device(parents))
    chosen = xp.astype(xp.where(chosen < n, chosen, n - 1), parents.dtype)
    return xp.where(places == k, chosen, xp.where(through, k, parents))
