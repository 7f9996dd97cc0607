"""Bits that are independent, given how many of them are 1: their log-odds, and the points between 0 and 1 with a given sum.

A factor ``exp(-tau)`` on every weight leaves the probabilities of the subsets of k items as they are. With
``p_i = sigmoid(u_i - tau)`` the subset is one of independent bits, given that k of them are 1; for the tau at which the bits
have k ones on average that is a likely event. Arrays have rows along the last axis.
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
    ordered = be.xp.sort(be.stop_gradient(u), axis=-1, stable=False)
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
        return be.cast(_certain(be, u, k) > 0, u.dtype)
    least, _ = kth(be, u, k)
    return be.cast(largest(be, u, least, k) & (least > -xp.inf), u.dtype)


def _certain(be: Backend, u: Array, k: int) -> Array:
    """Return the log-odds inf of all or -inf of no items; -inf too where an item is missing, and NaN in a row with a NaN."""
    xp, u = be.xp, be.stop_gradient(u)
    most = be.row_max(-u if k else u)
    return xp.broadcast_to(xp.where(most < xp.inf, xp.inf if k else -xp.inf, -most), u.shape)


def odds(be: Backend, u: Array, k: int, temperature: float, *, exact: bool = False) -> Odds:
    """Return log-odds of bits whose number of ones is k on average: nearly, or `exact`; tau is a constant to derivatives."""
    xp, n = be.xp, u.shape[-1]
    if k in (0, n):
        return Odds(_certain(be, u, k), xp.full_like(u, k > 0, dtype=xp.bool))
    least, after = kth(be, u, k)
    mask = largest(be, be.stop_gradient(u), least, k)
    origin = xp.where(least == -xp.inf, 0.0, least)
    half = be.clip((origin - after) / (2.0 * temperature), 0.0, _FAR)
    z = (u - origin) / temperature + half  # 0 lies halfway between the k-th and the next
    return Odds(z - _tau(be, be.stop_gradient(z), mask, half, exact), mask)


def _tau(be: Backend, z: Array, mask: Array, half: Array, exact: bool) -> Array:
    # With A = sum of sigmoid(z - tau) below the top k and C = sum of sigmoid(tau - z) in it, tau solves log(A / C) = 0,
    # whose derivative in tau is between -2 and -1, for every sigmoid in the top is larger than any below. A step with the
    # slope -1.5 therefore leaves at most a third of the error, at first log(n) or less; Newton's steps square it.
    xp = be.xp
    e, faint = xp.exp(be.clip(half - xp.abs(z), -_FAR, 0.0)), xp.exp(-half)
    e_below, e_inside = xp.where(mask, 0.0, e), xp.where(mask, e, 0.0)

    def step(v: Array, _: Array, *, newton: bool = False) -> tuple[Array, None]:  # v = exp(tau)
        below, inside = e_below / (faint * e_below + v), e_inside / (faint * e_inside + 1.0 / v)  # sigmoids, over `faint`
        # Neither is less than this, but where all is cut at _FAR.
        a, c = xp.maximum(be.row_sum(below), 1.0 / (1.0 + v)), xp.maximum(be.row_sum(inside), v / (1.0 + v))
        if not newton:
            return v * xp.exp(xp.log(a / c) / 1.5), None
        slope = be.row_sum(below * (1.0 - faint * below)) / a + be.row_sum(inside * (1.0 - faint * inside)) / c
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


def project(be: Backend, u: Array, k: int, temperature: float) -> Array:
    """Project u / temperature onto the points between 0 and 1 that sum to k; zeros where fewer than k are above -inf."""
    xp, n = be.xp, u.shape[-1]
    if k in (0, n):
        return be.sigmoid(_certain(be, u, k))
    least, _ = kth(be, u, k)
    live = least != -xp.inf
    # y = clip(z - tau, 0, 1), and with the k-th largest z at 0 tau is in [-1, 0].
    z = be.clip((u - xp.where(live, least, 0.0)) / temperature, -1.0, 1.0)
    low, high = 0.0 * be.row_sum(z) - 1.0, xp.zeros_like(least)  # NaN in a row with a NaN

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
