"""Sums over all subsets of k items: elementary symmetric polynomials, as probabilities, so that nothing over- or underflows.

The items are the independent bits of `balance`, of which k are 1. The tables of how many are 1 before each item are
convolutions of probabilities and subtract nothing. Whichever are fewer are counted: the items in the subset or those outside,
called moves below. Where it cannot overflow, `polynomials` of the odds take the place of probabilities: that goes count by
count, in running sums over the items, and not item by item.

Arrays have rows along the last axis.
"""

from backdraw.backend import Array, Backend
from backdraw.distributions import balance, polynomials


def _items_first(be: Backend, x: Array) -> Array:
    return be.moveaxis(x, -1, 0)


def _items_last(be: Backend, x: Array) -> Array:
    return be.moveaxis(x, 0, -1)


def _moves(be: Backend, x: Array, k: int) -> tuple[Array, Array, int]:
    """Return the probabilities that an item moves and that it stays, and how many move."""
    p, q = (be.sigmoid(y) for y in (x, -x))
    return (p, q, k) if 2 * k <= x.shape[-1] else (q, p, x.shape[-1] - k)


def _ratio(be: Backend, a: Array, b: Array) -> Array:
    live = b != 0  # a NaN lives on
    return be.xp.where(live, a / be.xp.where(live, b, 1.0), 0.0)


# ------------------------------------------------------------------------------------------------- item by item
# The axes of these tables: items, counts, rows.
def _shift(be: Backend, none: Array, table: Array) -> Array:
    return be.xp.concat([none, table[:-1, ...]], axis=0)


def _start(be: Backend, like: Array, few: int) -> Array:
    one = be.xp.ones_like(like)[None, ...]
    return be.xp.concat([one, be.xp.zeros_like(be.xp.broadcast_to(one, (few, *like.shape)))], axis=0)


def _counts(be: Backend, move: Array, stay: Array, few: int) -> tuple[Array, Array]:
    """Return the law of the number of moves, up to `few`, after all items, and before each of them."""
    move, stay = (_items_first(be, x) for x in (move, stay))
    start = _start(be, move[0, ...], few)
    none = be.xp.zeros_like(start[:1, ...])

    def step(table: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
        move, stay = item
        return stay * table + _shift(be, none, move * table), table

    return be.scan(step, start, (move, stay))


def _tangents_of_counts(be: Backend, move: Array, stay: Array, g: Array, tables: Array) -> Array:
    items = (*(_items_first(be, x) for x in (move, stay, move * g)), tables)
    start = be.xp.zeros_like(tables[0, ...])
    none = start[:1, ...]

    def step(tangent: Array, item: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        move, stay, gain, table = item
        return stay * tangent + _shift(be, none, move * tangent + gain * table), tangent

    return be.scan(step, start, items)[1]


# ------------------------------------------------------------------------------------------------- both directions
def _both_ways(be: Backend, x: Array) -> Array:
    return be.xp.stack([x, be.xp.flip(x, axis=-1)])


def _before_and_after(be: Backend, tables: Array) -> tuple[Array, Array]:
    """Return the laws of j moves before an item, and of ``few - j`` after it, at its place and count j; items last."""
    tables = _items_last(be, tables)
    return tables[:, 0, ...], be.xp.flip(be.xp.flip(tables[:, 1, ...], axis=0), axis=-1)


def _met(be: Backend, before: Array, after: Array) -> tuple[Array, Array]:
    """Sum over the counts before an item that stays, and before one that moves."""
    return be.xp.sum(before * after, axis=0), be.xp.sum(before[:-1, ...] * after[1:, ...], axis=0)


def _left_out(be: Backend, move: Array, stay: Array, few: int) -> tuple[Array, Array]:
    """Return the probabilities of `few` and of ``few - 1`` moves among all items but one, up to a factor of the row."""

    def by_items(move: Array, stay: Array) -> tuple[Array, Array]:
        tables = _counts(be, _both_ways(be, move), _both_ways(be, stay), few)[1]
        return _met(be, *_before_and_after(be, tables))

    def by_counts(move: Array, stay: Array) -> tuple[Array, Array]:
        return polynomials.left_out(be, _ratio(be, move, stay), few)

    return be.shortcut(polynomials.moderate(be, stay), by_counts, by_items, move, stay)


def _tangents(be: Backend, move: Array, stay: Array, g: Array, few: int) -> tuple[Array, ...]:
    """Return these, and behind them their tangents along g, with the sums of <g, moves> in place of 1."""

    def by_items(move: Array, stay: Array, g: Array) -> tuple[Array, ...]:
        both = (_both_ways(be, move), _both_ways(be, stay))
        tables = _counts(be, *both, few)[1]
        tangents = _tangents_of_counts(be, *both, _both_ways(be, g), tables)
        (t, after), (dt, dafter) = _before_and_after(be, tables), _before_and_after(be, tangents)
        parts = zip(_met(be, dt, after), _met(be, t, dafter), strict=True)
        return (*_met(be, t, after), *(a + b for a, b in parts))

    def by_counts(move: Array, stay: Array, g: Array) -> tuple[Array, ...]:
        return polynomials.tangents(be, _ratio(be, move, stay), g, few)

    return be.shortcut(polynomials.moderate(be, stay), by_counts, by_items, move, stay, g)


def inclusion(be: Backend, x: Array, k: int) -> tuple[Array, Array]:
    """Return for log-odds the probabilities that each item is in the subset, and that it is not; zeros where there is none."""
    move, stay, few = _moves(be, x, k)
    stays, moves = _left_out(be, move, stay, few)
    stays, moves = stay * stays, move * moves
    moved, stayed = (_ratio(be, y, stays + moves) for y in (moves, stays))
    return (moved, stayed) if 2 * k <= x.shape[-1] else (stayed, moved)


def covariance(be: Backend, x: Array, g: Array, k: int) -> Array:
    """Return the covariance of the subset with ``<g, x>``: the Jacobian of the marginals, times g."""
    # P(i in) P(i out) (E[<g, x> | i in] - E[<g, x> | i out])
    move, stay, few = _moves(be, x, k)
    stays, moves, dstays, dmoves = _tangents(be, move, stay, g, few)
    total = stay * stays + move * moves
    weight = _ratio(be, move, total) * _ratio(be, stay, total)
    return weight * (stays * (dmoves + g * moves) - moves * dstays)


def log_total(be: Backend, x: Array, k: int) -> Array:
    """Return the log-probability that bits of these log-odds have k ones, with a last axis of size 1."""
    total = _counts(be, *_moves(be, x, k))[0][-1, ...][..., None]
    live = total != 0
    return be.xp.where(live, be.xp.log(be.xp.where(live, total, 1.0)), -be.xp.inf)


def sample(be: Backend, u: Array, uniform: Array, *, k: int) -> Array:
    """Draw subsets item by item, from the last to the first, with one uniform each; more samples may be in front."""
    xp, dtype = be.xp, u.dtype
    x = balance.odds(be, xp.astype(u, xp.float64), k, 1.0).x
    move, stay, few = _moves(be, x, k)
    total, before = _counts(be, move, stay, few)
    move, stay = (_items_first(be, y) for y in (move, stay))
    into = move[:, None, ...] * xp.concat([xp.zeros_like(before[:, :1, ...]), before[:, :-1, ...]], axis=1)
    # The probability that an item moves, given how many do up to it; exactly 1 where all of them must.
    moves = _ratio(be, into, stay[:, None, ...] * before + into)
    extra = uniform.ndim - u.ndim
    moves = xp.reshape(moves, (*moves.shape[:2], *(1,) * extra, *moves.shape[2:]))
    uniform = _items_first(be, uniform)

    left = xp.flip(_start(be, uniform[0, ...], few), axis=0)  # one-hot: how many moves are left
    none = xp.zeros_like(left[:1, ...])

    def step(left: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
        chances, u = item
        moved = u < xp.sum(left * chances, axis=0)
        return xp.where(moved, xp.concat([left[1:, ...], none], axis=0), left), moved

    _, moved = be.scan(step, left, (xp.flip(moves, axis=0), xp.flip(uniform, axis=0)))
    moved = _items_last(be, xp.flip(moved, axis=0))
    chosen = moved if 2 * k <= u.shape[-1] else ~moved
    return be.cast(chosen & (total[-1, ...] > 0)[..., None], dtype)
