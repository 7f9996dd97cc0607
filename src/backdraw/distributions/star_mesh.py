r"""Spanning trees by star-mesh elimination: their partition function, their marginals, and the marginals' derivative.

To eliminate node k of a graph with weights w, whose sum at k over the nodes before it is s, is to add
:math:`w_{ki} w_{kl} / s` to every other weight :math:`w_{il}`: the trees of the smaller graph weigh as much as those of the
larger one over s. With :math:`p = w_k / s`, the resistances R between the nodes that stay do not change, and those of k are
:math:`1 / s + R p - p^\top R p / 2`; an edge is in the tree with probability :math:`w_e R_e`. All terms are positive but the
last, which is at most of the size of 1 / s where it matters: the weights may be of any size that a float holds.

Nodes go by blocks. Within one, the steps touch the block's own rows, a panel, alone; what the block does to the others is one
product of matrices.
"""

from typing import NamedTuple

from backdraw.backend import Array, Backend
from backdraw.distributions.elimination import assembled, blocks, by_node, numbers, row_of, stacked


class Eliminated(NamedTuple):
    """What elimination leaves: per node, its weights to the nodes before it."""

    rows: Array  # (..., n, n): row k is w[k, :k], then zeros
    total: Array  # (..., n): s; 0 for node 0 and where k has no edge
    shares: Array  # (..., n, n): the rows over their total


def eliminated(be: Backend, rows: Array) -> Eliminated:
    """Make the rest of the rows."""
    total = be.xp.sum(rows, axis=-1)
    return Eliminated(rows, total, rows * _inverse(be, total)[..., None])


def eliminate(be: Backend, w: Array) -> Eliminated:
    """Eliminate the nodes of a graph, from the last to node 1."""
    xp, full, found = be.xp, w, []
    for n, left in blocks(w.shape[-1]):
        places = _places(be, w, n)

        def step(panel: Array, k: Array, left: int = left, places: Array = places) -> tuple[Array, Array]:
            row = xp.where(places < k + left, row_of(be, panel, k), 0.0)
            p = row * _inverse(be, xp.sum(row, axis=-1, keepdims=True))
            return panel + p[..., left:, None] * row[..., None, :], row

        panel = w[..., left:n, :n]
        rows = stacked(be, be.scan(step, panel, numbers(be, w, n - left - 1, -1, -1))[1])
        w = w[..., :left, :left] + _mesh(be, eliminated(be, rows).shares, rows, left)
        found.append(rows)
    return eliminated(be, assembled(be, found, full))


def log_partition(be: Backend, e: Eliminated) -> Array:
    """Return the sum of log s; -inf where a node has no edge to those before it."""
    xp, total = be.xp, e.total[..., 1:]
    live = total > 0
    value = xp.sum(xp.log(xp.where(live, total, 1.0)), axis=-1)
    return xp.where(xp.all(live, axis=-1), value, -xp.inf)


def resistances(be: Backend, e: Eliminated) -> Array:
    """Return the resistances between all pairs of nodes."""
    xp, inverse = be.xp, _inverse(be, e.total)
    r = xp.zeros((*e.total.shape[:-1], 1, 1), dtype=e.total.dtype, device=be.device(e.total))
    for n, left in reversed(blocks(e.total.shape[-1])):
        block, places = slice(left, n), _places(be, r, n)
        shares = e.shares[..., block, :n]

        def step(panel: Array, x: tuple[Array, ...], left: int = left, places: Array = places) -> tuple[Array, None]:
            k, p, below, own = x
            through = _through(be, panel, p, below)
            more = own - 0.5 * xp.sum(p * through, axis=-1, keepdims=True)
            return _with_row(be, panel, k, through + xp.where(places < k + left, more, 0.0)), None

        xs = (shares, shares[..., :left] @ r, inverse[..., block, None])
        xs = (numbers(be, r, 0, n - left, 1), *(by_node(be, x) for x in xs))
        r = _bordered(be, r, be.scan(step, xp.zeros_like(shares), xs)[0])
    return r


def tangent(be: Backend, e: Eliminated, r: Array, dw: Array) -> Array:
    """Return the tangent of the resistances r for that of the weights."""
    xp, inverse = be.xp, _inverse(be, e.total)
    rows = _tangent_of_rows(be, e, inverse, dw)
    total = xp.sum(rows, axis=-1)
    dshares = _tangent_of_shares(e.shares, rows, total, inverse)
    dinverse = total * inverse * inverse
    dr = xp.zeros((*r.shape[:-2], 1, 1), dtype=r.dtype, device=be.device(r))
    for n, left in reversed(blocks(r.shape[-1])):
        block, places = slice(left, n), _places(be, r, n)
        shares, more = e.shares[..., block, :n], dshares[..., block, :n]
        known = xp.concat([shares, more], axis=-2) @ r[..., :n, :n]
        fixed = dinverse[..., block] + xp.sum(known[..., : n - left, :] * more, axis=-1)
        change = known[..., n - left :, :] - fixed[..., None]

        def step(panel: Array, x: tuple[Array, ...], left: int = left, places: Array = places) -> tuple[Array, None]:
            k, p, below, change = x
            through = _through(be, panel, p, below)
            row = through + change - 0.5 * xp.sum(p * through, axis=-1, keepdims=True)
            return _with_row(be, panel, k, xp.where(places < k + left, row, 0.0)), None

        xs = (shares, shares[..., :left] @ dr, change)
        xs = (numbers(be, r, 0, n - left, 1), *(by_node(be, x) for x in xs))
        dr = _bordered(be, dr, be.scan(step, xp.zeros_like(shares), xs)[0])
    return dr


def _tangent_of_rows(be: Backend, e: Eliminated, inverse: Array, dw: Array) -> Array:
    xp, full, found = be.xp, dw, []
    for n, left in blocks(dw.shape[-1]):
        block, places = slice(left, n), _places(be, dw, n)
        rows, shares, own = e.rows[..., block, :n], e.shares[..., block, :n], inverse[..., block]

        def step(panel: Array, x: tuple[Array, ...], left: int = left, places: Array = places) -> tuple[Array, Array]:
            k, row, p, own = x
            drow = xp.where(places < k + left, row_of(be, panel, k), 0.0)
            dp = (drow - p * xp.sum(drow, axis=-1, keepdims=True)) * own
            mesh = xp.stack([dp[..., left:], p[..., left:]], axis=-1) @ xp.stack([row, drow], axis=-2)
            return panel + mesh, drow

        known = (xp.flip(by_node(be, x), axis=0) for x in (rows, shares, own[..., None]))
        xs = (numbers(be, dw, n - left - 1, -1, -1), *known)
        drows = stacked(be, be.scan(step, dw[..., block, :n], xs)[1])
        dshares = _tangent_of_shares(shares, drows, xp.sum(drows, axis=-1), own)
        shares, rows = xp.concat([dshares, shares], axis=-2), xp.concat([rows, drows], axis=-2)
        dw = dw[..., :left, :left] + _mesh(be, shares, rows, left)
        found.append(drows)
    return assembled(be, found, full)


def _tangent_of_shares(shares: Array, rows: Array, total: Array, inverse: Array) -> Array:
    return (rows - shares * total[..., None]) * inverse[..., None]


def _places(be: Backend, like: Array, n: int) -> Array:
    return be.xp.arange(n, device=be.device(like))


def _inverse(be: Backend, total: Array) -> Array:
    return be.xp.where(total > 0, 1.0 / be.xp.where(total > 0, total, 1.0), 0.0)


def _mesh(be: Backend, shares: Array, rows: Array, left: int) -> Array:
    """Sum of the outer products of a block's rows, for the nodes that are left."""
    return be.xp.matrix_transpose(shares[..., :left]) @ rows[..., :left]


# While the rows of a block are found, its panel lacks the upper triangle of their own columns: the block's own matrix is this
# plus its transpose, for the diagonal is 0.
def _through(be: Backend, panel: Array, p: Array, below: Array) -> Array:
    """Multiply a symmetric matrix by p, given its product with the part of p before the block's nodes."""
    left = below.shape[-1]
    across = (p[..., None, left:] @ panel)[..., 0, :]
    down = (panel @ p[..., None])[..., 0]
    return be.xp.concat([below + across[..., :left], across[..., left:] + down], axis=-1)


def _with_row(be: Backend, panel: Array, k: Array, row: Array) -> Array:
    return be.xp.where(_places(be, panel, panel.shape[-2])[:, None] == k, row[..., None, :], panel)


def _bordered(be: Backend, x: Array, panel: Array) -> Array:
    """Append the panel to a symmetric matrix as its last rows and columns."""
    xp, left = be.xp, x.shape[-1]
    before, own = panel[..., :left], panel[..., left:]
    right = xp.concat([xp.matrix_transpose(before), own + xp.matrix_transpose(own)], axis=-2)
    return xp.concat([xp.concat([x, before], axis=-2), right], axis=-1)
