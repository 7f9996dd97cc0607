r"""Laws of 0/1 arrays from sums over all their values: marginals, partition function and entropy, each with its gradient.

The mean of :math:`p(x) \propto \exp \langle l, x \rangle` is the gradient of the log-partition function in l, and the Jacobian
of the mean is the covariance of x, which is symmetric: it is its own transpose, and a tangent rule is the vjp.
"""

import math
from typing import Any, Protocol

from backdraw.backend import Array, Backend
from backdraw.distributions.base import finite, fold
from backdraw.primitive import primitive


class Family(Protocol):
    """Computations of a family with fixed configuration, which is hashable; bodies for `Backend.rowwise`.

    Logits and values come in rows: the axes of an event are one. The temperature divides the logits; it is a number, or an
    array t with one number a row. All results are float64, and no less exact for large logits than for small ones.
    """

    def marginals(self, be: Backend, u: Array, t: Array | None = None, *, temperature: float) -> Array:
        """Return the marginals, and behind them what `pulled` wants to see again."""

    def pulled(self, be: Backend, u: Array, packed: Array, g: Array, t: Array | None = None, *, temperature: float) -> Array:
        """Return the covariance times g, at the marginals."""

    def log_partition(self, be: Backend, u: Array) -> Array:
        """Return the log of the sum over all values, -inf if there is none; of size 1 on the last axis."""

    def heaviest(self, be: Backend, u: Array) -> Array:
        """Return the heaviest value, as bools; False throughout if there is none."""

    def tables(self, be: Backend, u: Array) -> Array:
        """Return what `drawn` needs of the logits."""

    def drawn(self, be: Backend, noise: Array, tables: Array) -> Array:
        """Return a draw, as bools; False throughout if there is none."""


def scaled(be: Backend, u: Array, temperature: Any) -> Array:
    """Return ``u / temperature`` in float64, so that sums of four differences are finite; -inf and NaN stay what they are."""
    xp = be.xp
    u = be.cast(u, xp.float64)
    bound = be.lowest(u) / 8.0
    z = u if isinstance(temperature, float) and temperature == 1.0 else u / temperature
    return xp.where(u == -xp.inf, -xp.inf, be.clip(z, bound, -bound))


def flat(be: Backend, x: Array) -> Array:
    """Make one row of a matrix."""
    return be.xp.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def square(be: Backend, x: Array) -> Array:
    """Make a square matrix of a row."""
    n = math.isqrt(x.shape[-1])
    return be.xp.reshape(x, (*x.shape[:-1], n, n))


def rows_of(be: Backend, x: Array, event: int) -> Array:
    """Make one axis of those of an event, the last."""
    if event == 1:
        return x
    batch = tuple(x.shape[: x.ndim - event])
    return be.xp.reshape(x, (*batch, math.prod(x.shape[x.ndim - event :])))


def _expand(x: Array, event: int) -> Array:
    return x[(..., *(None,) * event)]


# ------------------------------------------------------------------------------------------------------- primitives
@primitive(linear=True, loops=True)
def marginals(be: Backend, u: Array, t: Array | None, *, family: Family, event: int, temperature: float, dtype: Any) -> Array:
    """Marginals of the logits u over the temperature, t or a number, rounded to a dtype."""
    return _marginals_fwd(be, u, t, family=family, event=event, temperature=temperature, dtype=dtype)[0]


def _marginals_fwd(
    be: Backend, u: Array, t: Array | None, *, family: Family, event: int, temperature: float, dtype: Any
) -> tuple[Array, tuple[Array | None, ...]]:
    rows = rows_of(be, u, event)
    with be.double():
        packed = be.rowwise(family.marginals, rows, *_column(be, rows, t), temperature=temperature)
        return be.xp.astype(be.xp.reshape(packed[..., : rows.shape[-1]], u.shape), dtype), (u, t, packed)


def _column(be: Backend, rows: Array, t: Array | None) -> tuple[Array, ...]:
    """Return the temperature as a column of float64, one number a row."""
    return () if t is None else (be.xp.broadcast_to(be.xp.astype(t, be.xp.float64), (*rows.shape[:-1], 1)),)


def _marginals_vjp(
    be: Backend,
    residuals: Any,
    g: Array,
    *,
    family: Family,
    event: int,
    temperature: float,
    dtype: Any,  # noqa: ARG001
) -> tuple[Array, Array | None]:
    u, t, packed = residuals
    xp, rows, g = be.xp, rows_of(be, u, event), rows_of(be, g, event)
    with be.double():
        column = _column(be, rows, t)
        back = be.rowwise(family.pulled, rows, packed, g, *column, temperature=temperature)
        if t is None:
            back, to_t = (back if temperature == 1.0 else back / temperature), None
        else:
            back = back / column[0]
            to_t = xp.astype(-xp.sum(back * finite(be, scaled(be, rows, column[0]))), t.dtype)
        return be.cast(xp.reshape(back, u.shape), u.dtype), to_t


marginals.defvjp(_marginals_fwd, _marginals_vjp)


@primitive(linear=True, loops=True)
def log_partition(be: Backend, u: Array, *, family: Family, event: int) -> Array:
    """Log of the sum over all values of the exponentials of their logits."""
    with be.double():
        return be.xp.astype(be.rowwise(family.log_partition, rows_of(be, u, event))[..., 0], u.dtype)


def _log_partition_vjp(be: Backend, residuals: Any, g: Array, *, family: Family, event: int) -> tuple[Array]:  # noqa: ARG001
    (u,) = residuals
    return (_expand(g, event) * marginals(u, None, family=family, event=event, temperature=1.0, dtype=u.dtype),)


log_partition.defvjp(lambda be, u, **static: (log_partition.function(be, u, **static), (u,)), _log_partition_vjp)


@primitive(linear=True, loops=True)
def log_prob(be: Backend, u: Array, x: Array, *, family: Family, event: int) -> Array:
    """``sum(x * u) - log_partition(u)``; -inf where x has weight on a logit of -inf."""
    xp = be.xp
    with be.double():
        u_rows, x_rows = rows_of(be, u, event), rows_of(be, x, event)
        value = xp.sum(xp.astype(x_rows, xp.float64) * finite(be, xp.astype(u_rows, xp.float64)), axis=-1)
        total = be.rowwise(family.log_partition, u_rows)[..., 0]
        impossible = xp.any((u_rows == -xp.inf) & (x_rows > 0), axis=-1) | (total == -xp.inf)
        return xp.astype(xp.where(impossible, -xp.inf, value - finite(be, total)), u.dtype)


def _log_prob_vjp(be: Backend, residuals: Any, g: Array, *, family: Family, event: int) -> tuple[Array, Array]:
    u, x = residuals
    wide = be.wide(u.dtype)
    g = _expand(be.cast(g, wide), event)
    m = marginals(u, None, family=family, event=event, temperature=1.0, dtype=wide)
    to_u = fold(be, g * (be.cast(x, wide) - m), u)
    return be.cast(to_u, u.dtype), be.cast(g * finite(be, be.cast(u, wide)), x.dtype)


log_prob.defvjp(lambda be, u, x, **static: (log_prob.function(be, u, x, **static), (u, x)), _log_prob_vjp)


@primitive(linear=True, loops=True)
def entropy(be: Backend, u: Array, *, family: Family, event: int) -> Array:
    """``log_partition(u) - sum(u * marginals(u))``."""
    with be.double():
        return be.xp.astype(be.rowwise(_entropy, rows_of(be, u, event), family=family)[..., 0], u.dtype)


def _entropy(be: Backend, u: Array, *, family: Family) -> Array:
    xp, m = be.xp, family.marginals(be, u, temperature=1.0)[..., : u.shape[-1]]
    total = family.log_partition(be, u)
    value = total - xp.sum(xp.where(m > 0, m * finite(be, scaled(be, u, 1.0)), 0.0), axis=-1, keepdims=True)
    return xp.where(total == -xp.inf, 0.0, value)


def _entropy_vjp(be: Backend, residuals: Any, g: Array, *, family: Family, event: int) -> tuple[Array]:
    (u,) = residuals
    xp = be.xp
    with be.double():
        back = xp.reshape(be.rowwise(_pulled_entropy, rows_of(be, u, event), family=family), u.shape)
        return (xp.astype(_expand(xp.astype(g, xp.float64), event) * back, u.dtype),)


def _pulled_entropy(be: Backend, u: Array, *, family: Family) -> Array:
    packed = family.marginals(be, u, temperature=1.0)
    return -family.pulled(be, u, packed, finite(be, scaled(be, u, 1.0)), temperature=1.0)


entropy.defvjp(lambda be, u, **static: (entropy.function(be, u, **static), (u,)), _entropy_vjp)


@primitive(linear=True, loops=True)
def kl(be: Backend, u: Array, v: Array, *, family: Family, event: int) -> Array:
    """``sum(m * (u - v)) - log_partition(u) + log_partition(v)`` of u's marginals m; +inf where they need what v excludes."""
    with be.double():
        value = be.rowwise(_kl, rows_of(be, u, event), rows_of(be, v, event), family=family)
        return be.xp.astype(value[..., 0], u.dtype)


def _gap(be: Backend, u: Array, v: Array) -> Array:
    return finite(be, scaled(be, u, 1.0)) - finite(be, scaled(be, v, 1.0))


def _kl(be: Backend, u: Array, v: Array, *, family: Family) -> Array:
    xp, m = be.xp, family.marginals(be, u, temperature=1.0)[..., : u.shape[-1]]
    own, other = family.log_partition(be, u), family.log_partition(be, v)
    impossible = xp.any((m > 0) & (v == -xp.inf), axis=-1, keepdims=True) | (other == -xp.inf)
    value = xp.sum(m * _gap(be, u, v), axis=-1, keepdims=True) + finite(be, other) - finite(be, own)
    return xp.where(own == -xp.inf, 0.0, xp.where(impossible, xp.inf, value))


def _kl_vjp(be: Backend, residuals: Any, g: Array, *, family: Family, event: int) -> tuple[Array, Array]:
    u, v = residuals
    xp = be.xp
    with be.double():
        g = xp.astype(g, xp.float64)
        rows = (rows_of(be, x, event) for x in (u, v))
        to_u, to_v = (xp.reshape(x, u.shape) for x in be.rowwise(_pulled_kl, *rows, family=family))
        return xp.astype(_expand(g, event) * to_u, u.dtype), xp.astype(_expand(g, event) * to_v, v.dtype)


def _pulled_kl(be: Backend, u: Array, v: Array, *, family: Family) -> tuple[Array, Array]:
    xp, n = be.xp, u.shape[-1]
    packed = family.marginals(be, u, temperature=1.0)
    m, other = packed[..., :n], family.marginals(be, v, temperature=1.0)[..., :n]
    # Without a value of u the divergence is 0 whatever v is; what v excludes has no gradient.
    none = xp.all(m == 0, axis=-1, keepdims=True) | (v == -xp.inf)
    return family.pulled(be, u, packed, _gap(be, u, v), temperature=1.0), xp.where(none, 0.0, other - m)


kl.defvjp(lambda be, u, v, **static: (kl.function(be, u, v, **static), (u, v)), _kl_vjp)
