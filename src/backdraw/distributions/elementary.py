"""Sums over all subsets of k items: elementary symmetric polynomials, as probabilities, so that nothing over- or underflows.

A factor ``exp(-tau)`` on every weight leaves the probabilities of the subsets of k items as they are. With
``p_i = sigmoid(u_i - tau)`` the subset is one of independent bits, given that k of them are 1; for the tau at which the bits
have k ones on average that is a likely event. The tables of these counts are convolutions of probabilities and subtract
nothing. Whichever are fewer are counted: the items in the subset or those outside, called moves below.

Arrays have rows along the last axis. In the tables the items come first, then the counts, then the rows.
"""

from functools import partial
from typing import NamedTuple

from backdraw.backend import Array, Backend

_FAR = 1000.0  # a sigmoid that far out is 0 or 1 in every dtype


class Odds(NamedTuple):
    """Rows of utilities over a temperature, as the log-odds of independent bits."""

    x: Array  # less tau
    top: Array  # the mask of the k largest


def kth(be: Backend, u: Array, k: int) -> tuple[Array, Array]:
    """Return the k-th largest of each row and the one after it, 0 < k < n."""
    n = u.shape[-1]
    ordered = be.xp.sort(be.stop_gradient(u), axis=-1)
    return ordered[..., n - k : n - k + 1], ordered[..., n - k - 1 : n - k]


def largest(be: Backend, u: Array, least: Array, k: int) -> Array:
    """Return the mask of the k largest of each row, the first of equals, where `least` is the k-th."""
    above, level = u > least, be.cast(u == least, u.dtype)
    room = k - be.row_sum(be.cast(above, u.dtype))
    return above | ((level > 0) & (be.cumsum(level) <= room))


def top(be: Backend, u: Array, k: int) -> Array:
    """Return the vertex of the k largest, in the dtype of u; zeros where fewer than k are above -inf."""
    xp, n = be.xp, u.shape[-1]
    if k in (0, n):
        return be.cast(_certain(be, u, k) & xp.all(u > -xp.inf, axis=-1, keepdims=True), u.dtype)
    least, _ = kth(be, u, k)
    return be.cast(largest(be, u, least, k) & (least > -xp.inf), u.dtype)


def _certain(be: Backend, u: Array, k: int) -> Array:
    return (u > -be.xp.inf) if k else (u != u)


def odds(be: Backend, u: Array, k: int, temperature: float, *, exact: bool = False) -> Odds:
    """Return log-odds of bits whose number of ones is k on average: nearly, or `exact`; tau is a constant to derivatives."""
    xp, n = be.xp, u.shape[-1]
    if k in (0, n):
        sure = _certain(be, u, k)
        return Odds(xp.where(sure, xp.inf, xp.full_like(u, -xp.inf)), xp.full_like(sure, k > 0))
    least, after = kth(be, u, k)
    mask = largest(be, be.stop_gradient(u), least, k)
    origin = xp.where(least > -xp.inf, least, 0.0)
    half = be.clip((origin - after) / (2.0 * temperature), 0.0, _FAR)
    z = (u - origin) / temperature + half  # 0 lies halfway between the k-th and the next
    return Odds(z - _tau(be, be.stop_gradient(z), mask, half, exact), mask)


def _tau(be: Backend, z: Array, mask: Array, half: Array, exact: bool) -> Array:
    # With A = sum of sigmoid(z - tau) below the top k and C = sum of sigmoid(tau - z) in it, tau solves log(A / C) = 0,
    # whose derivative in tau is between -2 and -1, for every sigmoid in the top is larger than any below. A step with the
    # slope -1.5 therefore leaves at most a third of the error, at first log(n) or less; Newton's steps square it.
    xp = be.xp
    e, faint = xp.exp(be.clip(half - xp.abs(z), -_FAR, 0.0)), xp.exp(-half)

    def step(v: Array, _: Array, *, newton: bool = False) -> tuple[Array, None]:  # v = exp(tau)
        r = e / (faint * e + xp.where(mask, 1.0 / v, v))  # the sigmoids, over `faint`
        below, inside = xp.where(mask, 0.0, r), xp.where(mask, r, 0.0)
        # Neither is less than this, but where all is cut at _FAR.
        a, c = xp.maximum(be.row_sum(below), 1.0 / (1.0 + v)), xp.maximum(be.row_sum(inside), v / (1.0 + v))
        if not newton:
            return v * xp.exp(xp.log(a / c) / 1.5), None
        rest = 1.0 - faint * r
        slope = be.row_sum(below * rest) / a + be.row_sum(inside * rest) / c
        return v * xp.exp(xp.log(a / c) / be.at_least(slope, 1.0)), None

    five = xp.arange(5, device=be.device(z))
    v, _ = be.scan(step, xp.ones_like(half), five)
    if exact:
        v, _ = be.scan(partial(step, newton=True), v, five)
    return xp.log(v)


def balanced(be: Backend, u: Array, k: int, temperature: float) -> Array:
    """Return log-odds of bits whose mean number of ones is exactly k, as a function to be differentiated."""
    xp, n = be.xp, u.shape[-1]
    x, mask = odds(be, u, k, temperature, exact=True)
    if k in (0, n):
        return x
    p, q = be.sigmoid(x), be.sigmoid(-x)
    slope = be.row_sum(p * q)
    excess = be.row_sum(xp.where(mask, 0.0, p)) - be.row_sum(xp.where(mask, q, 0.0))
    step = xp.where(slope > 0, excess / xp.where(slope > 0, slope, 1.0), 0.0)
    return x - be.clip(step, -1.0, 1.0)  # by rounding errors, and any more in a row without a subset


# ------------------------------------------------------------------------------------------------------ tables
def _items_first(be: Backend, x: Array) -> Array:
    return be.xp.permute_dims(x, (x.ndim - 1, *range(x.ndim - 1)))


def _items_last(be: Backend, x: Array) -> Array:
    return be.xp.permute_dims(x, (*range(1, x.ndim), 0))


def _moves(be: Backend, x: Array, k: int) -> tuple[Array, Array, int]:
    """Return the probabilities that an item moves and that it stays, items first, and how many move."""
    n = x.shape[-1]
    p, q = (_items_first(be, be.sigmoid(y)) for y in (x, -x))
    return (p, q, k) if 2 * k <= n else (q, p, n - k)


def _shift(be: Backend, none: Array, table: Array) -> Array:
    return be.xp.concat([none, table[:-1, ...]], axis=0)


def _start(be: Backend, like: Array, few: int) -> Array:
    one = be.xp.ones_like(like)[None, ...]
    return be.xp.concat([one, be.xp.zeros_like(be.xp.broadcast_to(one, (few, *like.shape)))], axis=0)


def _counts(be: Backend, move: Array, stay: Array, few: int) -> tuple[Array, Array]:
    """Return the law of the number of moves, up to `few`, after all items, and before each of them."""
    start = _start(be, move[0, ...], few)
    none = be.xp.zeros_like(start[:1, ...])

    def step(table: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
        move, stay = item
        return stay * table + _shift(be, none, move * table), table

    return be.scan(step, start, (move, stay))


def _both_ways(be: Backend, x: Array) -> Array:
    return be.xp.stack([x, be.xp.flip(x, axis=0)], axis=1)


def _after(be: Backend, tables: Array) -> Array:
    # Met at item i and count j: the law of few - j moves after it.
    return be.xp.flip(be.xp.flip(tables, axis=0), axis=1)


def _met(be: Backend, before: Array, after: Array) -> tuple[Array, Array]:
    """Sum over the counts before an item that stays, and before one that moves."""
    return be.xp.sum(before * after, axis=1), be.xp.sum(before[:, :-1, ...] * after[:, 1:, ...], axis=1)


def _ratio(be: Backend, a: Array, b: Array) -> Array:
    live = b > 0
    return be.xp.where(live, a / be.xp.where(live, b, 1.0), 0.0)


def inclusion(be: Backend, x: Array, k: int) -> tuple[Array, Array]:
    """Return for log-odds the probabilities that each item is in the subset, and that it is not; zeros where there is none."""
    move, stay, few = _moves(be, x, k)
    _, tables = _counts(be, _both_ways(be, move), _both_ways(be, stay), few)
    stays, moves = _met(be, tables[:, :, 0, ...], _after(be, tables[:, :, 1, ...]))
    stays, moves = stay * stays, move * moves
    every = (_items_last(be, _ratio(be, y, stays + moves)) for y in (moves, stays))
    moved, stayed = every
    return (moved, stayed) if 2 * k <= x.shape[-1] else (stayed, moved)


def covariance(be: Backend, x: Array, g: Array, k: int) -> Array:
    """Return the covariance of the subset with ``<g, x>``: the Jacobian of the marginals, times g."""
    # P(i in) P(i out) (E[<g, x> | i in] - E[<g, x> | i out]). Beside each table T runs its tangent along g, with the sums
    # of <g, moves> in place of 1.
    xp = be.xp
    move, stay, few = _moves(be, x, k)
    both = (_both_ways(be, move), _both_ways(be, stay))
    g = _items_first(be, g)
    _, tables = _counts(be, *both, few)
    start = xp.zeros_like(tables[0, ...])
    none = start[:1, ...]

    def step(tangent: Array, item: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        move, stay, gain, table = item
        return stay * tangent + _shift(be, none, move * tangent + gain * table), tangent

    _, tangents = be.scan(step, start, (*both, _both_ways(be, move * g), tables))
    t, dt = tables[:, :, 0, ...], tangents[:, :, 0, ...]
    after, dafter = _after(be, tables[:, :, 1, ...]), _after(be, tangents[:, :, 1, ...])
    stays, moves = _met(be, t, after)
    parts = zip(_met(be, dt, after), _met(be, t, dafter), strict=True)
    dstays, dmoves = (a + b for a, b in parts)
    dmoves = dmoves + g * moves
    total = stay * stays + move * moves
    weight = _ratio(be, move, total) * _ratio(be, stay, total)
    return _items_last(be, weight * (stays * dmoves - moves * dstays))


def log_total(be: Backend, x: Array, k: int) -> Array:
    """Return the log-probability that bits of these log-odds have k ones, with a last axis of size 1."""
    total = _counts(be, *_moves(be, x, k))[0][-1, ...][..., None]
    live = total > 0
    return be.xp.where(live, be.xp.log(be.xp.where(live, total, 1.0)), -be.xp.inf)


def sample(be: Backend, u: Array, uniform: Array, *, k: int) -> Array:
    """Draw subsets item by item, from the last to the first, with one uniform each; more samples may be in front."""
    xp, dtype = be.xp, u.dtype
    x = odds(be, xp.astype(u, xp.float64), k, 1.0).x
    move, stay, few = _moves(be, x, k)
    total, before = _counts(be, move, stay, few)
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


def project(be: Backend, u: Array, k: int, temperature: float) -> Array:
    """Project u / temperature onto the points between 0 and 1 that sum to k; zeros where fewer than k are above -inf."""
    xp, n = be.xp, u.shape[-1]
    if k in (0, n):
        return top(be, u, k)
    least, _ = kth(be, u, k)
    live = least > -xp.inf
    # y = clip(z - tau, 0, 1), and with the k-th largest z at 0 tau is in [-1, 0].
    z = be.clip((u - xp.where(live, least, 0.0)) / temperature, -1.0, 1.0)
    low, high = -xp.ones_like(least), xp.zeros_like(least)

    def halve(bracket: tuple[Array, Array], _: Array) -> tuple[tuple[Array, Array], None]:
        low, high = bracket
        tau = 0.5 * (low + high)
        over = be.row_sum(be.clip(z - tau, 0.0, 1.0)) > k
        return (xp.where(over, tau, low), xp.where(over, high, tau)), None

    tau = be.scan(halve, (low, high), xp.arange(30, device=be.device(u)))[0][0]
    for _ in range(2):  # and from the entries in between, exactly
        y = z - tau
        free = be.cast((y > 0) & (y < 1), z.dtype)
        count = be.row_sum(free)
        ones = be.row_sum(be.cast(y >= 1, z.dtype))
        tau = xp.where(count > 0, (be.row_sum(free * z) + ones - k) / xp.where(count > 0, count, 1.0), tau)
    return xp.where(live, be.clip(z - tau, 0.0, 1.0), 0.0)
