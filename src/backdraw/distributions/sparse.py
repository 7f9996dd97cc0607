"""Relaxations that reach the faces of the polytope: their zeros, and the ones of bits, are exact.

The argmax of ``<u, x> - t * f(x)`` over the simplex is the softmax when f is the negative entropy. It is sparsemax (Martins
and Astudillo, arXiv 1602.02068) for the euclidean ``f(x) = sum(x**2) / 2`` and 1.5-entmax (Peters, Niculae and Martins,
arXiv 1905.05702) for Tsallis' ``f(x) = 4/3 * sum(x**1.5 - x)``. Both are gradients of convex functions: their Jacobians are
symmetric.
"""

from collections.abc import Callable
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.simplex import last, unlast
from backdraw.errors import InvalidValueError
from backdraw.primitive import primitive

REGULARIZERS = ("entropy", "euclidean", "tsallis")


def check_regularizer(regularizer: Any) -> None:
    """Raise ValueError if there is no such regularizer."""
    if regularizer not in REGULARIZERS:
        raise InvalidValueError(f"regularizer: expected one of {', '.join(REGULARIZERS)}, got {regularizer!r}")


# ------------------------------------------------------------------------------------------------- categories
@primitive(symmetric=True)
def sparse(be: Backend, u: Array, *, axis: int, temperature: float, regularizer: str, dtype: Any) -> Array:
    """Sparsemax or 1.5-entmax of u / temperature along an axis, rounded to a dtype."""
    return _sparse_fwd(be, u, axis=axis, temperature=temperature, regularizer=regularizer, dtype=dtype)[0]


def _sparse_fwd(
    be: Backend, u: Array, *, axis: int, temperature: float, regularizer: str, dtype: Any
) -> tuple[Array, tuple[Array, Array | None]]:
    wide = be.cast(u, be.wide(u.dtype))
    rows = be.rowwise(_sparse, last(be, wide, axis), temperature=temperature, regularizer=regularizer)
    y = unlast(be, rows, axis)
    return be.cast(y, dtype), (y, None if u.dtype == y.dtype else u)


def _sparse(be: Backend, u: Array, *, temperature: float, regularizer: str) -> Array:
    # y = z - tau on the support and 0 elsewhere, with z = u / t and sum(y) = 1; or its square, with z = u / 2t.
    xp, euclidean = be.xp, regularizer == "euclidean"
    z = u - be.at_least(be.stop_gradient(xp.max(u, axis=-1, keepdims=True)), be.lowest(u))
    z = z / (temperature if euclidean else 2.0 * temperature)
    # The support is the k largest for some k, and each k has its tau: of those that leave all k in, the largest. The
    # largest z is 0 and tau at least -1, so that what lies lower, however low, may be lifted to -1.
    s = xp.sort(be.at_least(be.stop_gradient(z), -1.0), axis=-1, descending=True, stable=False)
    rank = be.cumsum(xp.ones_like(s))
    tau = _tau(be, s, rank, be.cumsum, euclidean)
    tau = xp.max(xp.where(s <= tau, -1.0, tau), axis=-1, keepdims=True)
    none, support = tau - tau, z > tau  # NaN in a row with a NaN; empty in one of -inf alone
    # And once more from the support, as a function to be differentiated: a sum is also more exact than a cumulative one.
    count = be.at_least(xp.sum(xp.astype(support, z.dtype), axis=-1, keepdims=True), 1.0)
    tau = _tau(be, xp.where(support, z, 0.0), count, lambda x: xp.sum(x, axis=-1, keepdims=True), euclidean)
    y = xp.where(support, be.at_least(xp.where(support, z, 0.0) - tau, 0.0), none)
    return y if euclidean else y * y


def _tau(be: Backend, z: Array, count: Array, total: Callable[[Array], Array], euclidean: bool) -> Array:
    mean = total(z) / count
    if euclidean:  # sum(z - tau) = 1
        return mean - 1.0 / count
    variance = total(z * z) / count - mean * mean
    return mean - be.xp.sqrt(be.at_least(1.0 / count - variance, 0.0))  # sum((z - tau)**2) = 1


def _sparse_vjp(
    be: Backend,
    residuals: Any,
    g: Array,
    *,
    axis: int,
    temperature: float,
    regularizer: str,
    dtype: Any,  # noqa: ARG001
) -> tuple[Array]:
    y, u = residuals
    rows = (last(be, y, axis), last(be, be.cast(g, y.dtype), axis))
    back = unlast(be, be.rowwise(_pull, *rows, temperature=temperature, regularizer=regularizer), axis)
    return (back if u is None else be.xp.astype(back, u.dtype),)


def _pull(be: Backend, y: Array, g: Array, *, temperature: float, regularizer: str) -> Array:
    xp, support = be.xp, y > 0
    s = (
        xp.where(support, 1.0, y)  # a NaN lives on
        if regularizer == "euclidean"
        else xp.where(support, xp.sqrt(xp.where(support, y, 1.0)), y)
    )
    total = be.at_least(xp.sum(s, axis=-1, keepdims=True), 0.5)  # 1 or more, and 0 in a row of -inf alone
    return s * (g - xp.sum(s * g, axis=-1, keepdims=True) / total) / temperature


sparse.defvjp(_sparse_fwd, _sparse_vjp)


# ------------------------------------------------------------------------------------------------- bits
@primitive(symmetric=True)
def sparse_bit(be: Backend, u: Array, *, temperature: float, regularizer: str, dtype: Any) -> Array:
    """`sparse` of the utilities u and 0: the entry of u, rounded to a dtype."""
    return _sparse_bit_fwd(be, u, temperature=temperature, regularizer=regularizer, dtype=dtype)[0]


def _sparse_bit_fwd(be: Backend, u: Array, *, temperature: float, regularizer: str, dtype: Any) -> tuple[Array, tuple[Array]]:
    y = be.rowwise(_sparse_bit, be.cast(u, be.wide(u.dtype)), temperature=temperature, regularizer=regularizer)
    return be.cast(y, dtype), (u,)


def _sparse_bit(be: Backend, u: Array, *, temperature: float, regularizer: str) -> Array:
    xp, d = be.xp, _difference(be, u, temperature, regularizer)
    if regularizer == "euclidean":
        return 0.5 * (1.0 + d)
    # d is the difference of the two roots, whose squares add up to 1: the smaller one, without cancellation.
    a = xp.abs(d)
    root = (1.0 - a) * (1.0 + a) / (xp.sqrt(2.0 - a * a) + a)
    return xp.where(d > 0, 1.0 - root * root, root * root)


def _difference(be: Backend, u: Array, temperature: float, regularizer: str) -> Array:
    return be.clip(u / (temperature if regularizer == "euclidean" else 2.0 * temperature), -1.0, 1.0)


def _sparse_bit_vjp(
    be: Backend,
    residuals: Any,
    g: Array,
    *,
    temperature: float,
    regularizer: str,
    dtype: Any,  # noqa: ARG001
) -> tuple[Array]:
    (u,) = residuals
    wide = be.cast(u, be.wide(u.dtype))
    slope = be.rowwise(_slope, wide, temperature=temperature, regularizer=regularizer)
    return (be.cast(be.cast(g, wide.dtype) * slope, u.dtype),)


def _slope(be: Backend, u: Array, *, temperature: float, regularizer: str) -> Array:
    xp, d = be.xp, _difference(be, u, temperature, regularizer)
    if regularizer == "euclidean":
        return xp.where(xp.abs(d) < 1.0, 0.5, d - d) / temperature
    return (1.0 - d) * (1.0 + d) / (2.0 * xp.sqrt(2.0 - d * d)) / temperature


sparse_bit.defvjp(_sparse_bit_fwd, _sparse_bit_vjp)


@primitive(native=True, symmetric=True)
def stretched(be: Backend, u: Array, *, temperature: float, limits: tuple[float, float], dtype: Any) -> Array:
    """Sigmoid of u / temperature, stretched from (0, 1) to `limits` and clipped to [0, 1], rounded to a dtype."""
    return _stretched_fwd(be, u, temperature=temperature, limits=limits, dtype=dtype)[0]


def _stretched_fwd(
    be: Backend, u: Array, *, temperature: float, limits: tuple[float, float], dtype: Any
) -> tuple[Array, tuple[Array, Array | None]]:
    z = be.rowwise(_stretched, be.cast(u, be.wide(u.dtype)), temperature=temperature, limits=limits)
    return be.cast(z, dtype), (z, None if u.dtype == z.dtype else u)


def _stretched(be: Backend, u: Array, *, temperature: float, limits: tuple[float, float]) -> Array:
    low, high = limits
    return be.clip(be.sigmoid(u, temperature) * (high - low) + low, 0.0, 1.0)


def _stretched_vjp(
    be: Backend,
    residuals: Any,
    g: Array,
    *,
    temperature: float,
    limits: tuple[float, float],
    dtype: Any,  # noqa: ARG001
) -> tuple[Array]:
    z, u = residuals
    low, high = limits
    slope = (z - low) * (high - z) / ((high - low) * temperature)  # (high - low) s (1 - s) / t
    back = be.xp.where((z <= 0) | (z >= 1), 0.0, be.cast(g, z.dtype) * slope)
    return (back if u is None else be.xp.astype(back, u.dtype),)


stretched.defvjp(_stretched_fwd, _stretched_vjp)
