"""Spanning trees of a graph."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from backdraw.backend import Array, Backend
from backdraw.distributions import directed, kirchhoff, star_mesh, trees
from backdraw.distributions.checks import check_logits
from backdraw.distributions.exponential_family import ExponentialFamily
from backdraw.distributions.family_law import flat, scaled, square
from backdraw.distributions.rooted import Rooted
from backdraw.errors import InvalidValueError

_RANGE = 500.0  # exp(-500) is a normal float, and so is what products of such weights are compared with


@dataclass(frozen=True)
class Graph:
    """The family of the spanning trees of a graph; see `family_law.Family` for the methods."""

    edges: trees.Edges | None
    count: int

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return trees.nodes_of(self.edges, self.count)

    def _matrix(self, be: Backend, u: Array, fill: float) -> Array:
        return trees.to_matrix(be, u, self.edges, fill)

    def _of_edges(self, be: Backend, matrix: Array) -> Array:
        return trees.of_edges(be, matrix, self.edges, self.count)

    def _either(self, be: Backend, z: Array, fast: Callable[[Array, Array], Array], safe: Callable[[Array], Array]) -> Array:
        """``fast(weights, top)``, of edges over exp(top), if they fit into floats, else ``safe(logits)``, of a matrix."""
        xp, top = be.xp, _top(be, z)

        def weighed(z: Array) -> Array:
            return fast(xp.exp(z - top), top)

        fits = xp.all((z > top - _RANGE) | (z == -xp.inf))
        return be.either(fits, weighed, lambda z: safe(self._matrix(be, z, -xp.inf)), z)

    @property
    def _rooted(self) -> Rooted:
        """The same trees with their edges directed towards node 0; of weights of any size, at more cost."""
        return Rooted(self.nodes, 0)

    def marginals(self, be: Backend, u: Array, t: Array | None = None, *, temperature: float) -> Array:
        """Marginals, weights, and a matrix: the inverse, what is left of star-mesh, or the marginals of directed edges."""
        xp = be.xp

        def by_inverse(w: Array, g: Array, r: Array) -> Array:
            return xp.concat([w * r, w, flat(be, g)], axis=-1)

        def by_elimination(w: Array, g: Array, r: Array) -> Array:  # noqa: ARG001
            e = star_mesh.eliminate(be, self._matrix(be, w, 0.0))
            r = star_mesh.resistances(be, e)
            live = xp.all(e.total[..., 1:] > 0, axis=-1)[..., None]
            return xp.concat([xp.where(live, w * self._of_edges(be, r), 0.0), w, flat(be, e.rows + xp.triu(r))], axis=-1)

        def fast(w: Array, top: Array) -> Array:  # noqa: ARG001
            g, own = kirchhoff.inverse(be, w, self.edges)
            r, both = kirchhoff.resistances(be, g, self.edges, self.count)
            return be.either(kirchhoff.accurate(be, g, own, r, both), by_inverse, by_elimination, w, g, r)

        def safe(logits: Array) -> Array:
            m = self._rooted.marginals(be, flat(be, logits), temperature=1.0)
            found = self._both_ways(be, m)
            return xp.concat([found, xp.zeros_like(found), m], axis=-1)

        return self._either(be, scaled(be, u, temperature if t is None else t), fast, safe)

    def _both_ways(self, be: Backend, x: Array) -> Array:
        """Sum of what is of an edge's two directions, in rows."""
        matrix = square(be, x)
        return self._of_edges(be, matrix + be.xp.matrix_transpose(matrix))

    def pulled(self, be: Backend, u: Array, packed: Array, g: Array, t: Array | None = None, *, temperature: float) -> Array:
        """Covariance times g."""
        xp, count, g = be.xp, self.count, be.cast(g, be.xp.float64)
        m, w, row = packed[..., :count], packed[..., count : 2 * count], packed[..., 2 * count :]

        def by_inverse(u: Array, m: Array, w: Array, row: Array, g: Array) -> Array:  # noqa: ARG001
            return m * g + w * kirchhoff.tangent(be, square(be, row), w * g, self.edges)

        def otherwise(u: Array, m: Array, _: Array, row: Array, g: Array) -> Array:
            z = scaled(be, u, temperature if t is None else t)

            def fast(w: Array, top: Array) -> Array:  # noqa: ARG001
                known = square(be, row)
                upper = xp.triu(known)
                e, r = star_mesh.eliminated(be, xp.tril(known)), upper + xp.matrix_transpose(upper)
                return m * g + w * self._of_edges(be, star_mesh.tangent(be, e, r, self._matrix(be, w * g, 0.0)))

            def safe(logits: Array) -> Array:
                back = self._rooted.pulled(be, flat(be, logits), row, flat(be, self._matrix(be, g, 0.0)), temperature=1.0)
                return self._both_ways(be, back)

            dead = xp.all(m == 0, axis=-1, keepdims=True) | (z == -xp.inf)
            return xp.where(dead, 0.0, self._either(be, z, fast, safe))

        inverse = xp.all(row[..., 0] > 0)  # nothing else has anything on its diagonal
        return be.either(inverse, by_inverse, otherwise, u, m, w, row, g)

    def log_partition(self, be: Backend, u: Array) -> Array:
        """Sum of the logs of what is eliminated: Kirchhoff's determinant."""

        def fast(w: Array, top: Array) -> Array:
            e = star_mesh.eliminate(be, self._matrix(be, w, 0.0))
            return star_mesh.log_partition(be, e)[..., None] + top * (self.nodes - 1)

        def safe(logits: Array) -> Array:
            return self._rooted.log_partition(be, flat(be, logits))

        return self._either(be, scaled(be, u, 1.0), fast, safe)

    def heaviest(self, be: Backend, u: Array) -> Array:
        """Prim's algorithm from node 0."""
        parents, found = trees.prim(be, self._matrix(be, u, -be.xp.inf))
        return trees.of_parents(be, parents, self.edges, self.count) & found

    def tables(self, be: Backend, u: Array) -> Array:
        """Logits of all pairs of nodes, and the logs of the weights at elimination."""
        xp, z = be.xp, scaled(be, u, 1.0)

        def fast(w: Array, top: Array) -> Array:
            rows = star_mesh.eliminate(be, self._matrix(be, w, 0.0)).rows
            return flat(be, xp.where(rows > 0, xp.log(xp.where(rows > 0, rows, 1.0)) + top[..., None], -xp.inf))

        def safe(logits: Array) -> Array:
            return flat(be, directed.eliminate(be, logits).rows)

        return xp.concat([flat(be, self._matrix(be, z, -xp.inf)), self._either(be, z, fast, safe)], axis=-1)

    def drawn(self, be: Backend, noise: Array, tables: Array) -> Array:
        """Draw node by node against the elimination."""
        xp, half = be.xp, tables.shape[-1] // 2
        logits, rows, uniforms = (square(be, x) for x in (tables[..., :half], tables[..., half:], noise))
        total = be.logsumexp(rows)[..., 0]
        parents = trees.draw_parents(be, logits, rows, rows, total, uniforms)
        live = xp.all(total[..., 1:] > -xp.inf, axis=-1, keepdims=True)
        return trees.of_parents(be, parents, self.edges, self.count) & live


def _top(be: Backend, z: Array) -> Array:
    """Return the largest of each row, the most negative number if there is none."""
    if z.shape[-1] == 0:
        return be.xp.zeros((*z.shape[:-1], 1), dtype=z.dtype, device=be.device(z))
    return be.at_least(be.stop_gradient(be.row_max(z)), be.lowest(z))


@dataclass(frozen=True, eq=False)
class SpanningTree(ExponentialFamily):
    r"""A spanning tree of a graph, as 0 or 1 per edge: :math:`p(x) \propto \exp(\sum_e x_e l_e)`.

    Parameters
    ----------
    logits : array, shape (..., E)
        Of the edges. Any real floating dtype. -inf is an edge that is in no tree.
    edges : integers, shape (E, 2), optional
        The two nodes of each edge, as a NumPy array or nested tuples (under ``torch.compile``, which would trace the array,
        tuples): configuration, not traced. The nodes are numbered from 0 on. By default the graph is complete: all pairs
        i < j, in order, and E is n (n - 1) / 2.

    Raises
    ------
    TypeError
        If `logits` is not a real floating array, or `edges` are not integers.
    ValueError
        If `logits` is a scalar or E is not the number of edges, or if an edge is given twice, joins a node to itself, or the
        graph is not connected.

    Notes
    -----
    `sample` draws exactly from this law. `perturb` adds Gumbel noise to each edge, and the heaviest tree then follows the
    perturbation's law, which is another: for three nodes and any logits it is the law of drawing two edges one after the other
    without replacement. What takes the `argmax` of perturbed utilities (`backdraw.gumbel_max`) draws from that one.

    The marginals and their derivative come of the inverse of the Laplacian where a bound on its rounding errors allows that;
    else, and for the partition function, of star-mesh elimination, which is exact at any temperature. Both are float64. Time
    and memory are of order n**3 and n**2 per batch element. Where the edges of finite logits join not all nodes there is no
    tree: the draws, marginals and gradients are 0, and the log-partition function is -inf.

    References
    ----------
    M. B. Paulus, D. Choi, D. Tarlow, A. Krause, C. J. Maddison, Gradient Estimation with Stochastic Softmax Tricks, arXiv
    2006.08063.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.SpanningTree(np.log([1.0, 2.0, 3.0]))  # a triangle: edges 0-1, 0-2, 1-2
    >>> p.mean().round(4)  # of the trees' weights 2, 3 and 6
    array([0.4545, 0.7273, 0.8182])
    >>> backdraw.draw(p, shape=3, rng=backdraw.key(1))
    array([[1., 1., 0.],
           [1., 1., 0.],
           [1., 0., 1.]])
    """

    logits: Array
    edges: Any = None

    plain: ClassVar[tuple[str, ...]] = ("edges",)
    event_ndim: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_logits(self.logits)
        shape = tuple(self.logits.shape)
        if not shape:
            raise InvalidValueError("logits: expected at least one axis, got a scalar of shape ()")
        if self.edges is None:
            trees.nodes_of(None, trees.count_of(self.logits))
        else:
            object.__setattr__(self, "edges", trees.check_edges(self.edges, trees.count_of(self.logits)))

    @property
    def family(self) -> Graph:
        """The spanning trees of the graph."""
        return Graph(self.edges, trees.count_of(self.logits))

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return self.family.nodes

    @property
    def noise_size(self) -> int:
        """The number of uniforms of a draw: n * n."""
        return self.nodes**2
