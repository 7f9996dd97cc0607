"""Spanning trees of a graph."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.distributions import star_mesh, trees
from backdraw.distributions.base import Distribution, check_logits, fold, perturb
from backdraw.errors import InvalidValueError
from backdraw.primitive import primitive


@dataclass(frozen=True, eq=False)
class SpanningTree(Distribution):
    r"""A spanning tree of a graph, as 0 or 1 per edge: :math:`p(x) \propto \exp(\sum_e x_e l_e)`.

    Parameters
    ----------
    logits : array, shape (..., E)
        Of the edges. Any real floating dtype. -inf is an edge that is in no tree.
    edges : integers, shape (E, 2), optional
        The two nodes of each edge, as a NumPy array or nested tuples: configuration, not traced. The nodes are numbered from
        0 on. By default the graph is complete: all pairs i < j, in order, and E is n (n - 1) / 2.

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

    The partition function, the marginals and their derivative come of star-mesh elimination in float64, which is exact at any
    temperature. Time and memory are of order n**3 and n**2 per batch element. Where the edges of finite logits join not all
    nodes there is no tree: the draws, marginals and gradients are 0, and the log-partition function is -inf.

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
    >>> backdraw.draw(p, shape=3, rng=backdraw.key(0))
    array([[1., 0., 1.],
           [0., 1., 1.],
           [1., 0., 1.]])
    """

    logits: Array
    edges: Any = None

    arrays: ClassVar[tuple[str, ...]] = ("logits",)
    plain: ClassVar[tuple[str, ...]] = ("edges",)
    parameters: ClassVar[tuple[str, ...]] = ("logits",)

    def __post_init__(self) -> None:
        check_logits(self.logits)
        shape = tuple(self.logits.shape)
        if not shape:
            raise InvalidValueError("logits: expected at least one axis, got a scalar of shape ()")
        if self.edges is None:
            trees.nodes_of(None, shape[-1])
        else:
            object.__setattr__(self, "edges", trees.check_edges(self.edges, shape[-1]))

    @property
    def utilities(self) -> Array:
        """The logits."""
        return self.logits

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return trees.nodes_of(self.edges, self.logits.shape[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the logits without the axis of the edges."""
        return tuple(self.logits.shape[:-1])

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Uniforms for `sample`, float64: n * n a draw."""
        be = self.backend
        with be.double():
            return random.noise(be, "uniform", rng, (*shape, *self.batch_shape, self.nodes**2), self.logits, be.xp.float64)

    def sample(self, noise: Array) -> Array:
        """Exact draws: node by node against the elimination, in float64 on every backend."""
        be = self.backend
        with be.double():
            tables = be.rowwise(_tables, be.stop_gradient(self.logits), edges=self.edges)
            tables = be.xp.broadcast_to(tables, (*noise.shape[:-1], tables.shape[-1]))
            x = be.rowwise(_sampled, noise, tables, edges=self.edges, count=self.logits.shape[-1])
            return be.xp.astype(x, self.logits.dtype)

    def log_partition(self) -> Array:
        """Log of the sum over all trees of the exponentials of their logits, of the batch shape; Kirchhoff's theorem."""
        return log_partition(self.logits, edges=self.edges)

    def log_prob(self, x: Array) -> Array:
        """Log-probability of trees `x`, of the batch shape; differentiable in the logits and in x."""
        return log_prob(self.logits, x, edges=self.edges)

    def score(self, x: Array) -> Array:
        """Gradient of ``log_prob(x)`` in the logits: ``x - mean()``."""
        return x - self.stopped().mean()

    def entropy(self) -> Array:
        """Entropy in nats, of the batch shape."""
        return entropy(self.logits, edges=self.edges)

    def mean(self, *, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Marginals: the probability of each edge to be in the tree, of the logits divided by `temperature`."""
        return self.relax(self.logits, temperature, regularizer)

    def perturb_noise(self, rng: Any) -> Array:
        """Gumbel noise for `perturb`."""
        return random.noise(self.backend, "gumbel", rng, tuple(self.logits.shape), self.logits)

    def perturb(self, noise: Array) -> Array:
        """Random utilities: logits plus Gumbel noise."""
        return perturb(self.logits, noise)

    def argmax(self, utilities: Array) -> Array:
        """Heaviest tree, by Prim's algorithm from node 0, exactly 0 and 1; of equals, the first; no gradient."""
        be = self.backend
        x = be.rowwise(_heaviest, be.stop_gradient(utilities), edges=self.edges)
        return be.xp.astype(x, self.logits.dtype)

    def relax(self, utilities: Array, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Marginals of the exponential family with the logits ``utilities / temperature``, with their exact vjp."""
        if regularizer != "entropy":
            raise InvalidValueError(f"regularizer: SpanningTree has 'entropy' alone, got {regularizer!r}")
        number, array = (temperature, None) if isinstance(temperature, float) else (1.0, temperature)
        return marginals(utilities, array, edges=self.edges, temperature=number, dtype=self.logits.dtype)


# --------------------------------------------------------------------- bodies for Backend.rowwise: rows of edges' logits
def _heaviest(be: Backend, u: Array, *, edges: Any) -> Array:
    parents, found = trees.prim(be, trees.to_matrix(be, u, edges, -be.xp.inf))
    return trees.of_parents(be, parents, edges, u.shape[-1]) & found


def _scaled(be: Backend, u: Array, temperature: Any) -> Array:
    """Return ``u / temperature`` in float64, so that sums of four differences are finite; -inf stays what it is."""
    xp = be.xp
    u = xp.astype(u, xp.float64)
    bound = be.lowest(u) / 8.0
    return xp.where(u > -xp.inf, xp.clip(u / temperature, bound, -bound), -xp.inf)


def _top(be: Backend, z: Array) -> Array:
    """Return the largest of each row, 0 if there is none."""
    xp = be.xp
    none = xp.full((*z.shape[:-1], 1), -xp.inf, dtype=z.dtype, device=be.device(z))
    top = be.stop_gradient(xp.max(xp.concat([z, none], axis=-1), axis=-1, keepdims=True))
    return xp.where(top > -xp.inf, top, 0.0)


_RANGE = 500.0  # exp(-500) is a normal float, and so is what products of such weights are compared with


def _fits(be: Backend, z: Array) -> Array:
    """Whether all weights of all rows fit into a float when they are divided by the largest of their row."""
    return be.xp.all((z > _top(be, z) - _RANGE) | (z == -be.xp.inf))


def _weights(be: Backend, z: Array, b: Array, edges: Any) -> Array:
    """Weights over exp(b)."""
    xp, logits = be.xp, trees.to_matrix(be, z, edges, -be.xp.inf)
    live = logits > -xp.inf
    return xp.where(live, xp.exp(xp.where(live, logits - b, 0.0)), 0.0)


def _either(be: Backend, z: Array, edges: Any, body: Callable[..., Array]) -> Array:
    """``body(v, b, scaled)``: v are the weights over exp(b); b one number a row if they fit into a float, and bottlenecks if not."""
    top = _top(be, z)

    def fast(z: Array) -> Array:
        return body(_weights(be, z, top[..., None], edges), top[..., None], None)

    def safe(z: Array) -> Array:
        b = star_mesh.bottlenecks(be, trees.to_matrix(be, z, edges, -be.xp.inf))
        return body(_weights(be, z, b, edges), b, b)

    return be.either(_fits(be, z), fast, safe, z)


def _flat(be: Backend, x: Array) -> Array:
    return be.xp.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def _square(be: Backend, x: Array) -> Array:
    n = round(x.shape[-1] ** 0.5)
    return be.xp.reshape(x, (*x.shape[:-1], n, n))


def _marginals(be: Backend, u: Array, t: Array | None = None, *, edges: Any, temperature: float) -> Array:
    """Marginals, and behind them the elimination's rows, the resistances and b."""
    xp = be.xp

    def body(v: Array, b: Array, scaled: Array | None) -> Array:
        e = star_mesh.eliminate(be, v, scaled)
        q = star_mesh.resistances(be, e, scaled)
        live = xp.all(e.total[..., 1:] > 0, axis=-1)[..., None]
        m = xp.where(live, trees.of_edges(be, v * q, edges, u.shape[-1]), 0.0)
        return xp.concat([m, *(_flat(be, x) for x in (e.rows, q, xp.broadcast_to(b, q.shape)))], axis=-1)

    return _either(be, _scaled(be, u, temperature if t is None else t), edges, body)


def _pulled(
    be: Backend, u: Array, packed: Array, g: Array, t: Array | None = None, *, edges: Any, temperature: float
) -> Array:
    """Jacobian of the marginals in the scaled logits times g, and then the product of that with these logits, in a row."""
    xp, count = be.xp, u.shape[-1]
    size = (packed.shape[-1] - count) // 3
    rows, q, b = (_square(be, packed[..., count + i * size : count + (i + 1) * size]) for i in range(3))
    z, g = _scaled(be, u, temperature if t is None else t), xp.astype(g, xp.float64)

    def body(scaled: Array | None) -> Array:
        scale, beta = star_mesh.scales(be, scaled, q)
        e = star_mesh.Eliminated(rows, scale, xp.sum(rows * scale, axis=-1), beta)
        v = _weights(be, z, b, edges)
        dv = v * trees.to_matrix(be, g, edges, 0.0)
        return trees.of_edges(be, dv * q + v * star_mesh.tangent(be, e, q, scaled, dv), edges, count)

    constant = xp.all(b == b[..., :1, :1])
    live = xp.any(packed[..., :count] > 0, axis=-1, keepdims=True) & (z > -xp.inf)
    back = xp.where(live, be.either(constant, lambda _: body(None), body, b), 0.0)
    total = xp.sum(xp.where(back != 0, back * _finite(be, z), 0.0), axis=-1, keepdims=True)
    return xp.concat([back, total], axis=-1)


def _log_partition(be: Backend, u: Array, *, edges: Any) -> Array:
    z = _scaled(be, u, 1.0)
    shift = _top(be, z) * (trees.nodes_of(edges, u.shape[-1]) - 1)

    def body(v: Array, b: Array, scaled: Array | None) -> Array:  # noqa: ARG001
        value = star_mesh.log_partition(be, star_mesh.eliminate(be, v, scaled))[..., None]
        return value + shift if scaled is None else value

    return _either(be, z, edges, body)


def _tables(be: Backend, u: Array, *, edges: Any) -> Array:
    """Logits of all pairs of nodes, and the logs of the weights at elimination, in rows."""
    xp, z = be.xp, _scaled(be, u, 1.0)

    def body(v: Array, b: Array, scaled: Array | None) -> Array:
        rows = star_mesh.eliminate(be, v, scaled).rows
        return _flat(be, xp.where(rows > 0, xp.log(xp.where(rows > 0, rows, 1.0)) + b, -xp.inf))

    return xp.concat([_flat(be, trees.to_matrix(be, z, edges, -xp.inf)), _either(be, z, edges, body)], axis=-1)


def _sampled(be: Backend, noise: Array, tables: Array, *, edges: Any, count: int) -> Array:
    xp, half = be.xp, tables.shape[-1] // 2
    logits, rows, uniforms = (_square(be, x) for x in (tables[..., :half], tables[..., half:], noise))
    total = be.logsumexp(rows)[..., 0]
    live = xp.all(total[..., 1:] > -xp.inf, axis=-1, keepdims=True)
    parents = trees.draw_parents(be, logits, rows, rows, xp.where(total > -xp.inf, total, 0.0), uniforms)
    return trees.of_parents(be, parents, edges, count) & live


# ------------------------------------------------------------------------------------------------------- primitives
@primitive
def marginals(be: Backend, u: Array, t: Array | None, *, edges: Any, temperature: float, dtype: Any) -> Array:
    """Marginals of the exponential family with the logits u over the temperature, t or a number, rounded to a dtype."""
    return _marginals_fwd(be, u, t, edges=edges, temperature=temperature, dtype=dtype)[0]


def _marginals_fwd(
    be: Backend, u: Array, t: Array | None, *, edges: Any, temperature: float, dtype: Any
) -> tuple[Array, tuple[Array | None, ...]]:
    with be.double():
        packed = be.rowwise(_marginals, u, *_column(be, u, t), edges=edges, temperature=temperature)
        return be.xp.astype(packed[..., : u.shape[-1]], dtype), (u, t, packed)


def _column(be: Backend, u: Array, t: Array | None) -> tuple[Array, ...]:
    """Return the temperature as a column of float64, one number a row."""
    return () if t is None else (be.xp.broadcast_to(be.xp.astype(t, be.xp.float64), (*u.shape[:-1], 1)),)


def _marginals_vjp(
    be: Backend,
    residuals: Any,
    g: Array,
    *,
    edges: Any,
    temperature: float,
    dtype: Any,  # noqa: ARG001
) -> tuple[Array, Array | None]:
    u, t, packed = residuals
    xp = be.xp
    with be.double():
        back = be.rowwise(_pulled, u, packed, g, *_column(be, u, t), edges=edges, temperature=temperature)
        back = back / (temperature if t is None else xp.astype(t, xp.float64))
        to_t = None if t is None else xp.astype(-xp.sum(back[..., -1]), t.dtype)
        return xp.astype(back[..., :-1], u.dtype), to_t


marginals.defvjp(_marginals_fwd, _marginals_vjp)


@primitive
def log_partition(be: Backend, u: Array, *, edges: Any) -> Array:
    """Log of the sum over all trees of the exponentials of their logits."""
    with be.double():
        return be.xp.astype(be.rowwise(_log_partition, u, edges=edges)[..., 0], u.dtype)


def _log_partition_vjp(be: Backend, residuals: Any, g: Array, *, edges: Any) -> tuple[Array]:
    (u,) = residuals
    return (g[..., None] * marginals(u, None, edges=edges, temperature=1.0, dtype=u.dtype),)


log_partition.defvjp(lambda be, u, *, edges: (log_partition.function(be, u, edges=edges), (u,)), _log_partition_vjp)


def _finite(be: Backend, u: Array) -> Array:
    return be.xp.where(u == -be.xp.inf, 0.0, u)


@primitive
def log_prob(be: Backend, u: Array, x: Array, *, edges: Any) -> Array:
    """``sum(x * u) - log_partition(u)``; -inf where x has weight on an edge of logit -inf."""
    xp = be.xp
    with be.double():
        wide = xp.astype(u, xp.float64)
        value = xp.sum(xp.astype(x, xp.float64) * _finite(be, wide), axis=-1)
        total = be.rowwise(_log_partition, u, edges=edges)[..., 0]
        impossible = xp.any((u == -xp.inf) & (x > 0), axis=-1) | (total == -xp.inf)
        return xp.astype(xp.where(impossible, -xp.inf, value - xp.where(total == -xp.inf, 0.0, total)), u.dtype)


def _log_prob_vjp(be: Backend, residuals: Any, g: Array, *, edges: Any) -> tuple[Array, Array]:
    u, x = residuals
    wide = be.wide(u.dtype)
    g = be.cast(g, wide)[..., None]
    m = marginals(u, None, edges=edges, temperature=1.0, dtype=wide)
    to_u = fold(be, g * (be.cast(x, wide) - m), u)
    return be.cast(to_u, u.dtype), be.cast(g * _finite(be, be.cast(u, wide)), x.dtype)


log_prob.defvjp(lambda be, u, x, *, edges: (log_prob.function(be, u, x, edges=edges), (u, x)), _log_prob_vjp)


@primitive
def entropy(be: Backend, u: Array, *, edges: Any) -> Array:
    """``log_partition(u) - sum(u * marginals(u))``."""
    with be.double():
        return be.xp.astype(be.rowwise(_entropy, u, edges=edges)[..., 0], u.dtype)


def _entropy(be: Backend, u: Array, *, edges: Any) -> Array:
    xp, z = be.xp, _finite(be, _scaled(be, u, 1.0))
    m = _marginals(be, u, edges=edges, temperature=1.0)[..., : u.shape[-1]]
    total = _log_partition(be, u, edges=edges)
    value = total - xp.sum(xp.where(m > 0, m * z, 0.0), axis=-1, keepdims=True)
    return xp.where(total > -xp.inf, value, 0.0)


def _entropy_vjp(be: Backend, residuals: Any, g: Array, *, edges: Any) -> tuple[Array]:
    (u,) = residuals
    xp = be.xp
    with be.double():
        back = be.rowwise(_pulled_entropy, u, edges=edges)
        return (xp.astype(xp.astype(g, xp.float64)[..., None] * back, u.dtype),)


def _pulled_entropy(be: Backend, u: Array, *, edges: Any) -> Array:
    packed = _marginals(be, u, edges=edges, temperature=1.0)
    z = _finite(be, _scaled(be, u, 1.0))
    return -_pulled(be, u, packed, z, edges=edges, temperature=1.0)[..., :-1]


entropy.defvjp(lambda be, u, *, edges: (entropy.function(be, u, edges=edges), (u,)), _entropy_vjp)
