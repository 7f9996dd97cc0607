r"""Arborescences by elimination in the log domain: partition function, marginals and their derivative.

Each node but the root, which is node 0, leads to its parent; row i of a matrix has the weights :math:`w_{ij}` of the parents j
of i. To eliminate node k, whose weights to the nodes before it have the sum s, is to add :math:`w_{ik} w_{kj} / s` to every
:math:`w_{ij}`: the arborescences of the smaller graph weigh as much as those of the larger one over s. With the inverse G of
the Laplacian without the root, node i has the parent j with probability :math:`w_{ij} T_{ij}`, where :math:`T_{ij} = G_{ii} -
G_{ji}` (:math:`G_{ii}` for the root). Elimination does not change T between the nodes that stay, and with
:math:`p = w_k / s` and the weights :math:`a_m = w_{mk}` that lead to k

.. math::
    T_{mk} = \sum_l p_l T_{ml}, \qquad T_{kj} = \frac{1}{s} \Bigl(1 + \sum_m a_m T_{mj} - \sum_m a_m T_{mk}\Bigr).

The last sum is the expected number of k's children in the graph of the nodes up to k: what is subtracted is no larger than n,
and the error that it leaves in a probability is no larger than n roundings. Everything else is positive. In the log domain,
weights may be of any size.
"""

from typing import Any, NamedTuple

from backdraw.backend import Array, Backend
from backdraw.distributions.base import finite
from backdraw.distributions.elimination import assembled, blocks, grown, numbers, row_of, stacked


class Eliminated(NamedTuple):
    """Logs of what elimination leaves: row k of the matrices is for node k and the nodes before it, then -inf."""

    rows: Array  # (..., n, n): log w[k, :k]
    columns: Array  # (..., n, n): log w[:k, k]
    total: Array  # (..., n): log s[k]; -inf where there is none


def _log(be: Backend, x: Array) -> Array:
    return be.xp.where(x > 0, be.xp.log(be.xp.where(x > 0, x, 1.0)), -be.xp.inf)


def _exp(be: Backend, x: Array, over: Array) -> Array:
    """``exp(x - over)``, 0 where x is -inf."""
    none = x == -be.xp.inf
    return be.xp.where(none, 0.0, be.xp.exp(be.xp.where(none, 0.0, x - finite(be, over))))


def _add(be: Backend, x: Array, y: Array) -> Array:
    top = finite(be, be.stop_gradient(be.xp.maximum(x, y)))
    total = _exp(be, x, top) + _exp(be, y, top)
    live = total != 0  # a NaN lives on
    return be.xp.where(live, top + be.xp.log(be.xp.where(live, total, 1.0)), -be.xp.inf)


def _column(be: Backend, x: Array, k: Array) -> Array:
    return be.xp.take(x, k, axis=-1)[..., 0]


def _stages(n: int) -> list[tuple[int, int]]:
    return list(reversed(blocks(n)))


def _matrices(be: Backend, found: list[Array], like: Array, fill: float) -> tuple[Array, Array]:
    """Make two matrices of the rows, side by side, that the blocks gave."""
    half = [y.shape[-1] // 2 for y in found]
    left = [y[..., :n] for y, n in zip(found, half, strict=True)]
    right = [y[..., n:] for y, n in zip(found, half, strict=True)]
    return assembled(be, left, like, fill), assembled(be, right, like, fill)


def _with_node(be: Backend, x: Array, k: Array, row: Array, column: Array) -> Array:
    """Put the row and the column of node k into matrices."""
    here = be.xp.arange(x.shape[-1], device=be.device(x)) == k
    return be.xp.where(here[:, None], row[..., None, :], be.xp.where(here, column[..., :, None], x))


def eliminate(be: Backend, logits: Array) -> Eliminated:
    """Eliminate the nodes from the last to node 1."""
    xp, full, found = be.xp, logits, []
    for n, left in blocks(logits.shape[-1]):
        logits, places = logits[..., :n, :n], xp.arange(n, device=be.device(logits))

        def step(logits: Array, k: Array, places: Array = places) -> tuple[Array, Array]:
            row, column = (xp.where(places < k, x, -xp.inf) for x in (row_of(be, logits, k), _column(be, logits, k)))
            mesh = column[..., :, None] + (row - finite(be, be.logsumexp(row)))[..., None, :]
            return _add(be, logits, mesh), xp.concat([row, column], axis=-1)

        logits, rows = be.scan(step, logits, numbers(be, logits, n - 1, left - 1, -1))
        found.append(stacked(be, rows))
    rows, columns = _matrices(be, found, full, -xp.inf)
    return Eliminated(rows, columns, be.logsumexp(rows)[..., 0])


class _Step:
    """What the recursion of T does with node k, in logs; T itself over a scale that no sum in it exceeds by much."""

    # Where T is small because the terms of its sum cancel, the scale is not, and it is the scale that bounds tangents.

    def __init__(self, be: Backend, e: Eliminated, log_t: Array, scale: Array, k: Array) -> None:
        n = log_t.shape[-1]
        xp = be.xp
        self.s = finite(be, _column(be, e.total, k))[..., None]
        self.p = row_of(be, e.rows, k)[..., :n] - self.s
        self.a = row_of(be, e.columns, k)[..., :n]
        self.u = be.logsumexp(log_t + self.p[..., None, :])[..., 0]  # log T[:k, k]
        x = be.logsumexp(xp.matrix_transpose(log_t) + self.a[..., None, :])[..., 0]
        bound = be.logsumexp(xp.matrix_transpose(scale) + self.a[..., None, :])[..., 0] if scale is not log_t else x
        self.top = xp.where(bound > 0, be.stop_gradient(bound), 0.0)
        self.children = xp.sum(_exp(be, self.u + self.a, xp.zeros_like(x)), axis=-1, keepdims=True)
        value = xp.exp(-self.top) * (1.0 - self.children) + _exp(be, x, self.top)
        live = (xp.arange(n, device=be.device(log_t)) < k) & (_column(be, e.total, k)[..., None] > -xp.inf)
        self.value = xp.where(live & (value > 0), value, 0.0)
        self.scale = xp.where(live, self.top - self.s, -xp.inf)
        self.row = _log(be, self.value) + xp.where(live, self.scale, 0.0)


def transfer(be: Backend, e: Eliminated) -> Array:
    """Return log T of all pairs of nodes."""
    xp = be.xp
    log_t = xp.full((*e.total.shape[:-1], 1, 1), -xp.inf, dtype=e.total.dtype, device=be.device(e.total))
    for n, left in _stages(e.total.shape[-1]):

        def step(log_t: Array, k: Array) -> tuple[Array, None]:
            new = _Step(be, e, log_t, log_t, k)
            return _with_node(be, log_t, k, new.row, new.u), None

        log_t = be.scan(step, _filled(be, log_t, n), numbers(be, log_t, left, n, 1))[0]
    return log_t


def _filled(be: Backend, x: Array, n: int) -> Array:
    """Append -inf to the last two axes."""
    xp, old = be.xp, x.shape[-1]
    inside = xp.arange(n, device=be.device(x)) < old
    return xp.where(inside & inside[:, None], grown(be, x, (n, n)), -xp.inf)


def tangent(be: Backend, logits: Array, e: Eliminated, g: Array) -> tuple[Array, Array]:
    """Return the tangent of T for the tangent g of the logits, over a scale, and the log of this scale."""
    xp = be.xp
    drows, dcolumns = _tangent_of_logs(be, logits, g)
    shares = _exp(be, e.rows, e.total[..., None])
    ds = xp.sum(shares * drows, axis=-1)
    log_t = xp.full((*e.total.shape[:-1], 1, 1), -xp.inf, dtype=e.total.dtype, device=be.device(e.total))
    scale, tau = log_t, xp.zeros_like(log_t)
    for n, left in _stages(e.total.shape[-1]):

        def step(state: Any, k: Array, n: int = n) -> tuple[Any, None]:
            log_t, scale, tau = state
            new = _Step(be, e, log_t, scale, k)
            value = _exp(be, log_t, scale)
            dtotal = _column(be, ds, k)[..., None]
            dp, da = row_of(be, drows, k)[..., :n] - dtotal, row_of(be, dcolumns, k)[..., :n]
            terms = scale + new.p[..., None, :]
            u_scale = be.logsumexp(terms)[..., 0]
            du = xp.sum(_exp(be, terms, u_scale[..., None]) * (value * dp[..., None, :] + tau), axis=-1)
            dchildren = _exp(be, u_scale + new.a, xp.zeros_like(u_scale)) * (da * _exp(be, new.u, u_scale) + du)
            sums = _exp(be, scale + new.a[..., :, None], new.top[..., None, :]) * (value * da[..., :, None] + tau)
            change = xp.sum(sums, axis=-2) - xp.exp(-new.top) * xp.sum(dchildren, axis=-1, keepdims=True)
            row = xp.where(new.scale > -xp.inf, change - dtotal * new.value, 0.0)
            return (
                _with_node(be, log_t, k, new.row, new.u),
                _with_node(be, scale, k, new.scale, u_scale),
                _with_node(be, tau, k, row, du),
            ), None

        start = (_filled(be, log_t, n), _filled(be, scale, n), grown(be, tau, (n, n)))
        log_t, scale, tau = be.scan(step, start, numbers(be, tau, left, n, 1))[0]
    return tau, scale


def _tangent_of_logs(be: Backend, logits: Array, g: Array) -> tuple[Array, Array]:
    """Return the tangents of the rows and columns of `Eliminated`."""
    xp, full, found = be.xp, g, []
    for n, left in blocks(g.shape[-1]):
        state = logits[..., :n, :n], g[..., :n, :n]
        places = xp.arange(n, device=be.device(g))

        def step(state: Any, k: Array, places: Array = places) -> tuple[Any, Array]:
            logits, g = state
            row, column = (xp.where(places < k, x, -xp.inf) for x in (row_of(be, logits, k), _column(be, logits, k)))
            drow, dcolumn = (xp.where(places < k, x, 0.0) for x in (row_of(be, g, k), _column(be, g, k)))
            total = be.logsumexp(row)
            dtotal = xp.sum(_exp(be, row, total) * drow, axis=-1, keepdims=True)
            mesh = column[..., :, None] + (row - finite(be, total))[..., None, :]
            added = _add(be, logits, mesh)
            dmesh = dcolumn[..., :, None] + (drow - dtotal)[..., None, :]
            return (added, g + _exp(be, mesh, added) * (dmesh - g)), xp.concat([drow, dcolumn], axis=-1)

        (logits, g), rows = be.scan(step, state, numbers(be, g, n - 1, left - 1, -1))
        found.append(stacked(be, rows))
    return _matrices(be, found, full, 0.0)
