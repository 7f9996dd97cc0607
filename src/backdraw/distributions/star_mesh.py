r"""Spanning trees by star-mesh elimination: their partition function, their marginals, and the marginals' derivative.

To eliminate node k of a graph with weights w, whose sum at k over the nodes before it is s, is to add
:math:`w_{ki} w_{kl} / s` to every other weight :math:`w_{il}`: the trees of the smaller graph weigh as much as those of the
larger one over s. The resistances R between the nodes that stay do not change, and with :math:`p = w_k / s` those of k are
:math:`1 / s + R p - p^\top R p / 2`; an edge is in the tree with probability :math:`w_e R_e`. All terms are positive but the
last, which is at most of the size of 1 / s where it matters: the weights may be of any size.

Of any size also means beyond the range of a float. Let b be the bottleneck between two nodes: the largest number for which a
path of edges with such logits, or larger ones, joins them. Elimination keeps bottlenecks, up to factors of n, and
:math:`v = w e^{-b}` and :math:`q = R e^b` stay between 1 / n**2 and n**2, or vanish rightly. In their terms, each step has the
factor :math:`F_{il} = e^{b_{ki} + b_{kl} - b_{il} - \beta} \le 1`, where :math:`\beta = \max_i b_{ki}`. Where all weights fit
into a float, b is 0 and F is 1.
"""

from typing import NamedTuple

from backdraw.backend import Array, Backend

_BLOCK = 8  # nodes that are eliminated before the matrices are cut to those that are left


class Eliminated(NamedTuple):
    """What elimination leaves: per node, its weights to the nodes before it, scaled, and their sum."""

    rows: Array  # (..., n, n): row k is v[k, :k], then zeros
    scale: Array  # (..., n, n): row k is exp(b[k, :k] - beta[k]), then zeros
    total: Array  # (..., n): s[k] exp(-beta[k]); 0 for node 0 and where k has no edge
    shares: Array  # (..., n, n): the rows over their total
    beta: Array | None  # (..., n)


def blocks(n: int) -> list[tuple[int, int]]:
    """Return blocks of nodes, from the last to node 1: the numbers of nodes before and after its elimination."""
    return [(size, max(1, size - _BLOCK)) for size in range(n, 1, -_BLOCK)]


def numbers(be: Backend, like: Array, start: int, stop: int, step: int) -> Array:
    """Return the numbers of the nodes as an axis to scan and one of size 1, for `take`."""
    return be.xp.expand_dims(be.xp.arange(start, stop, step, device=be.device(like)), axis=-1)


def row_of(be: Backend, x: Array, k: Array) -> Array:
    """Return row k of matrices."""
    return be.xp.take(x, k, axis=-2)[..., 0, :]


def _outer(x: Array, y: Array) -> Array:
    return x[..., :, None] * y[..., None, :]


def _times(be: Backend, m: Array, x: Array) -> Array:
    return be.xp.matmul(m, x[..., None])[..., 0]


def grown(be: Backend, x: Array, shape: tuple[int, ...]) -> Array:
    """Append zeros to the last axes."""
    xp = be.xp
    for axis in range(-len(shape), 0):
        more = shape[axis] - x.shape[axis]
        if more:
            pad = list(x.shape)
            pad[axis] = more
            x = xp.concat([x, xp.zeros(tuple(pad), dtype=x.dtype, device=be.device(x))], axis=axis)
    return x


def bottlenecks(be: Backend, logits: Array) -> Array:
    """Bottlenecks between all nodes; between parts that no edge joins, the smallest logit there is."""
    xp, b = be.xp, be.stop_gradient(logits)
    floor = xp.min(xp.where(b > -xp.inf, b, xp.inf), axis=(-2, -1), keepdims=True)
    b = xp.where(b > -xp.inf, b, xp.where(floor < xp.inf, floor, 0.0))

    def through(b: Array, k: Array) -> tuple[Array, None]:
        row = row_of(be, b, k)
        return xp.maximum(b, xp.minimum(row[..., :, None], row[..., None, :])), None

    return be.scan(through, b, numbers(be, b, 0, b.shape[-1], 1))[0]


def _factor(be: Backend, b: Array | None, beta: Array | None, k: Array, n: int) -> Array | float:
    """Return F of node k."""
    if b is None or beta is None:
        return 1.0
    row, b = row_of(be, b, k)[..., :n], b[..., :n, :n]
    top = be.xp.take(beta, k, axis=-1)[..., None]
    exponent = (row[..., :, None] - top) + (row[..., None, :] - b)
    return be.xp.exp(be.xp.where(exponent < 0.0, exponent, 0.0))  # above 0 only in places that are not looked at


def _sub(v: Array, k: Array, places: Array, be: Backend) -> Array:
    """Return row k up to node k, then zeros."""
    return be.xp.where(places < k, row_of(be, v, k), 0.0)


def _inverse(be: Backend, total: Array) -> Array:
    return be.xp.where(total > 0, 1.0 / be.xp.where(total > 0, total, 1.0), 0.0)


def _below(be: Backend, like: Array) -> Array:
    """Return the mask of a strictly lower triangle."""
    places = be.xp.arange(like.shape[-1], device=be.device(like))
    return places[:, None] > places


def assembled(be: Backend, found: list[Array], like: Array, fill: float = 0.0) -> Array:
    """Make one matrix of the rows that the blocks gave, last node first; filled up, and row 0 too."""
    xp, n, last = be.xp, like.shape[-1], like.ndim - 1
    order = (*range(1, last), 0, last)  # torch.func.vmap has no rule for moveaxis
    parts = [xp.full((*like.shape[:-2], 1, n), fill, dtype=like.dtype, device=be.device(like))]
    for y in reversed(found):
        rows = xp.flip(xp.permute_dims(y, order), axis=-2)
        more = xp.full((*rows.shape[:-1], n - y.shape[-1]), fill, dtype=y.dtype, device=be.device(y))
        parts.append(xp.concat([rows, more], axis=-1))
    return xp.concat(parts, axis=-2)


def scales(be: Backend, b: Array | None, like: Array) -> tuple[Array, Array | None]:
    """Return ``scale`` and ``beta`` of `Eliminated`."""
    xp, below = be.xp, _below(be, like)
    if b is None:
        return xp.broadcast_to(xp.astype(below, like.dtype), like.shape), None
    masked = xp.where(below, b, -xp.inf)
    beta = xp.max(masked, axis=-1)
    beta = xp.where(beta > -xp.inf, beta, 0.0)
    return xp.exp(masked - beta[..., None]), beta


def eliminated(be: Backend, rows: Array, b: Array | None) -> Eliminated:
    """Make the rest of the rows."""
    scale, beta = scales(be, b, rows)
    total = be.xp.sum(rows if b is None else rows * scale, axis=-1)
    return Eliminated(rows, scale, total, rows * _inverse(be, total)[..., None], beta)


def eliminate(be: Backend, v: Array, b: Array | None) -> Eliminated:
    """Eliminate the nodes of a graph, from the last to node 1."""
    xp, full, found = be.xp, v, []
    scale, beta = scales(be, b, v)
    for n, left in blocks(v.shape[-1]):
        v, places = v[..., :n, :n], xp.arange(n, device=be.device(v))

        def step(v: Array, k: Array, n: int = n, places: Array = places) -> tuple[Array, Array]:
            row = _sub(v, k, places, be)
            total = xp.sum(row if b is None else row * row_of(be, scale, k)[..., :n], axis=-1, keepdims=True)
            mesh = _outer(row, row * _inverse(be, total))
            return v + (mesh if b is None else mesh * _factor(be, b, beta, k, n)), row

        v, rows = be.scan(step, v, numbers(be, v, n - 1, left - 1, -1))
        found.append(rows)
    return eliminated(be, assembled(be, found, full), b)


def log_partition(be: Backend, e: Eliminated) -> Array:
    """Return the sum of log s; -inf where a node has no edge to those before it."""
    xp, total = be.xp, e.total[..., 1:]
    live = total > 0
    logs = xp.log(xp.where(live, total, 1.0))
    value = xp.sum(logs if e.beta is None else logs + e.beta[..., 1:], axis=-1)
    return xp.where(xp.all(live, axis=-1), value, -xp.inf)


def resistances(be: Backend, e: Eliminated, b: Array | None) -> Array:
    """Return q of all pairs of nodes."""
    xp, inverse = be.xp, _inverse(be, e.total)
    q = xp.zeros((*e.total.shape[:-1], 1, 1), dtype=e.total.dtype, device=be.device(e.total))
    for n, left in reversed(blocks(e.total.shape[-1])):

        def step(q: Array, k: Array, n: int = n) -> tuple[Array, None]:
            p = row_of(be, e.shares, k)[..., :n]
            r = _times(be, q if b is None else q * _factor(be, b, e.beta, k, n), p)
            more = xp.take(inverse, k, axis=-1) - 0.5 * xp.sum(p * r, axis=-1, keepdims=True)
            row = row_of(be, e.scale, k)[..., :n] * more + r  # q is zero beyond the nodes before k, and r with it
            return with_node(be, q, k, row, row), None

        q = be.scan(step, grown(be, q, (n, n)), numbers(be, q, left, n, 1))[0]
    return q


def with_node(be: Backend, x: Array, k: Array, row: Array, column: Array) -> Array:
    """Put the row and the column of node k into matrices."""
    here = be.xp.arange(x.shape[-1], device=be.device(x)) == k
    return be.xp.where(here[:, None], row[..., None, :], be.xp.where(here, column[..., :, None], x))


def tangent(be: Backend, e: Eliminated, q: Array, b: Array | None, dv: Array) -> Array:
    """Return the tangent of q for that of v."""
    rows = _tangent_of_rows(be, e, b, dv)
    total = be.xp.sum(rows if b is None else rows * e.scale, axis=-1)
    inverse = _inverse(be, e.total)
    shares = (rows - e.shares * total[..., None]) * inverse[..., None]
    return _tangent_of_resistances(be, e, q, b, total * inverse * inverse, shares)


def _tangent_of_rows(be: Backend, e: Eliminated, b: Array | None, dv: Array) -> Array:
    xp, full, found = be.xp, dv, []
    for n, left in blocks(dv.shape[-1]):
        dv, places = dv[..., :n, :n], xp.arange(n, device=be.device(dv))

        def step(dv: Array, k: Array, n: int = n, places: Array = places) -> tuple[Array, Array]:
            row, p = _sub(dv, k, places, be), row_of(be, e.shares, k)[..., :n]
            total = xp.sum(row if b is None else row * row_of(be, e.scale, k)[..., :n], axis=-1, keepdims=True)
            # that of s p p': dw p' + w dp', where s dp = dw - p ds
            mesh = xp.matmul(xp.stack([row, p], axis=-1), xp.stack([p, row - p * total], axis=-2))
            return dv + (mesh if b is None else mesh * _factor(be, b, e.beta, k, n)), row

        dv, rows = be.scan(step, dv, numbers(be, dv, n - 1, left - 1, -1))
        found.append(rows)
    return assembled(be, found, full)


def _tangent_of_resistances(be: Backend, e: Eliminated, q: Array, b: Array | None, dinverse: Array, dshares: Array) -> Array:
    xp = be.xp
    if b is None:  # then the products with q are the same matrix for all nodes
        every_r, every_change = xp.matmul(e.shares, q), xp.matmul(dshares, q)
    dq = xp.zeros((*q.shape[:-2], 1, 1), dtype=q.dtype, device=be.device(q))
    for n, left in reversed(blocks(q.shape[-1])):
        places = xp.arange(n, device=be.device(q))

        def step(dq: Array, k: Array, n: int = n, places: Array = places) -> tuple[Array, None]:
            p, dp = (row_of(be, x, k)[..., :n] for x in (e.shares, dshares))
            if b is None:
                r, change, dr = row_of(be, every_r, k)[..., :n], row_of(be, every_change, k)[..., :n], _times(be, dq, p)
            else:
                f = _factor(be, b, e.beta, k, n)
                part = q[..., :n, :n] * f
                r, change, dr = _times(be, part, p), _times(be, part, dp), _times(be, dq * f, p)
            shared = xp.take(dinverse, k, axis=-1) + xp.sum(r * dp + 0.5 * p * dr, axis=-1, keepdims=True)
            row = xp.where(places < k, dr + change, 0.0) - row_of(be, e.scale, k)[..., :n] * shared
            return with_node(be, dq, k, row, row), None

        dq = be.scan(step, grown(be, dq, (n, n)), numbers(be, dq, left, n, 1))[0]
    return dq
