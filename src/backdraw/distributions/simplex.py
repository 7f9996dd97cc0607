"""Rows of logits and points of the simplex: the functions of the categorical family, each with its gradient."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.temperature import cut_vjp
from backdraw.primitive import primitive


# ------------------------------------------------------------------- bodies for Backend.rowwise, rows on the last axis
def last(be: Backend, x: Array, axis: int) -> Array:
    """Move an axis to the end."""
    return x if axis == -1 else be.moveaxis(x, axis, -1)


def unlast(be: Backend, x: Array, axis: int) -> Array:
    """Move the last axis back."""
    return x if axis == -1 else be.moveaxis(x, -1, axis)


def inverse_cdf(be: Backend, logits: Array, uniform: Array) -> Array:
    """Index of the category whose interval of the cumulative sum holds the uniform."""
    return be.invert_cdf(be.weights(logits), uniform)


def drawn(be: Backend, logits: Array, uniform: Array) -> tuple[Array, Array]:
    """`inverse_cdf`, and the softmax."""
    m = be.softmax(be.cast(logits, be.wide(logits.dtype)))
    return be.invert_cdf(m, uniform), m


def normalize(be: Backend, y: Array, x: Array) -> Array:  # noqa: ARG001
    """Clip at zero and divide by the sum, which is at least 1: the drawn entry's."""
    clipped = be.at_least(y, 0.0)
    return clipped / be.at_least(be.row_sum(clipped), 0.5)


def project(be: Backend, y: Array, x: Array) -> Array:
    """Euclidean projection onto the simplex."""
    # Held, Wolfe and Crowder 1974: q = max(y - tau, 0), tau fixed by the k largest entries that stay positive. The
    # drawn entry is 1, so anything under 0 falls away whatever tau is.
    xp = be.xp
    z = xp.flip(xp.sort(be.at_least(y, 0.0), axis=-1, stable=False), axis=-1)
    rank = be.cumsum(xp.ones_like(z))
    tau = (be.cumsum(z) - 1.0) / rank
    tau = xp.max(xp.where(z > tau, tau, -xp.inf), axis=-1, keepdims=True)
    live = xp.sum(x, axis=-1, keepdims=True) > 0
    return xp.where(live, be.at_least(y - tau, 0.0), 0.0)


def log_softmax_of_rows(be: Backend, u: Array) -> Array:
    """Logarithm of the softmax; -inf throughout a row of -inf alone."""
    # Less the largest first, which is exact nearby: a number added to all logits then costs no digit.
    z = u - be.at_least(be.stop_gradient(be.row_max(u)), be.lowest(u))
    return z - be.xp.log(be.at_least(be.row_sum(be.xp.exp(z)), 0.5))


def trapezoid(be: Backend, m: Array, x: Array, c: Array) -> Array:
    """Half of ``m * (c - <m, c>) + (x - m) * <x - m, c>`` for one-hot x: each entry of m against x, in few passes."""
    x = be.cast(x, c.dtype)
    g = m * (0.5 * (c - be.row_sum(x * c)))
    return g - x * be.row_sum(g)


def gapped(be: Backend, u: Array, x: Array, *, gap: float) -> Array:
    """Less the largest, 0 for the drawn entry and at most -gap for the others."""
    xp, low, u = be.xp, be.lowest(u), be.cast(u, be.wide(u.dtype))
    below = be.at_least(u - be.at_least(xp.max(u, axis=-1, keepdims=True), low), low)
    return xp.where(u == -xp.inf, -xp.inf, xp.where(x > 0, 0.0, -be.at_least(-below, gap)))


# ------------------------------------------------------------------------------------------------- primitives
@primitive(native=True)
def masked(be: Backend, logits: Array, where: Array) -> Array:
    """-inf where the mask is False."""
    return be.xp.where(where, logits, -be.xp.inf)


masked.defvjp(
    lambda be, logits, where: (be.xp.where(where, logits, -be.xp.inf), (where,)),
    lambda be, residuals, g: (be.xp.where(residuals[0], g, 0.0), None),
)


@primitive(native=True)
def axis_first(be: Backend, x: Array, *, axis: int) -> Array:
    """Move an axis to the front."""
    return be.moveaxis(x, axis, 0)


axis_first.defvjp(
    lambda be, x, *, axis: (be.moveaxis(x, axis, 0), ()),
    lambda be, residuals, g, *, axis: (be.moveaxis(g, 0, axis),),  # noqa: ARG005
)


@primitive(native=True)
def tempered(be: Backend, u: Array, temperature: Array, *, axis: int) -> Array:
    """Utilities over a temperature that has a gradient, less a constant per row: for what ignores such constants."""
    return _tempered(be, u, temperature, axis)[0]


def _tempered(be: Backend, u: Array, temperature: Array, axis: int) -> tuple[Array, Array]:
    xp, u = be.xp, be.cast(u, be.wide(u.dtype))
    t = be.cast(temperature, u.dtype)
    top = be.stop_gradient(be.at_least(xp.max(u, axis=axis, keepdims=True), be.lowest(u)))
    # Beyond -1000 the softmax is 0 in every dtype: cut there, so that the derivative in t has no 0 * inf.
    floor = -1000.0 * be.stop_gradient(t)
    below = xp.maximum(u, be.at_least(top, 0.0) + be.lowest(u)) - top  # u - top, without overflow
    none = u == -xp.inf
    cut = (below <= floor) | none  # in a row of -inf alone, top is no entry; a NaN lives on
    z = xp.where(cut, floor, below) / t
    return xp.where(none, -xp.inf, z), cut


def _tempered_fwd(be: Backend, u: Array, temperature: Array, *, axis: int) -> tuple[Array, Any]:
    z, cut = _tempered(be, u, temperature, axis)
    return z, (z, cut, u, temperature)


tempered.defvjp(_tempered_fwd, cut_vjp)


@primitive(native=True, symmetric=True, rows=True)
def softmax(be: Backend, u: Array, *, axis: int, temperature: float, dtype: Any) -> Array:
    """Softmax of u / temperature along an axis, rounded to a dtype."""
    return _softmax_fwd(be, u, axis=axis, temperature=temperature, dtype=dtype)[0]


def _softmax_fwd(be: Backend, u: Array, *, axis: int, temperature: float, dtype: Any) -> tuple[Array, Any]:
    wide = be.wide(u.dtype)
    if axis == -1 and u.dtype == wide == dtype:  # the common case, at no cost
        y = be.softmax(u, temperature)
        return y, (y, None)
    y = unlast(be, be.softmax(last(be, be.cast(u, wide), axis), temperature), axis)
    return be.cast(y, dtype), (y, None if u.dtype == y.dtype else u)


def _softmax_vjp(be: Backend, residuals: Any, g: Array, *, axis: int, temperature: float, dtype: Any) -> tuple[Array]:  # noqa: ARG001
    y, u = residuals
    if axis == -1 and u is None and g.dtype == y.dtype:  # the common case, at no cost
        return (be.softmax_vjp(y, g, temperature),)
    rows = (last(be, y, axis), last(be, be.cast(g, y.dtype), axis))
    back = unlast(be, be.softmax_vjp(*rows, temperature), axis)
    return (back if u is None else be.xp.astype(back, u.dtype),)


softmax.defvjp(_softmax_fwd, _softmax_vjp)


@primitive(native=True, rows=True)
def relaxed(be: Backend, logits: Array, noise: Array, *, axis: int, temperature: float, dtype: Any) -> Array:
    """Softmax of (logits - log(noise)) / temperature along an axis, rounded to a dtype; the noise's memory may be used."""
    return _relaxed_fwd(be, logits, noise, axis=axis, temperature=temperature, dtype=dtype)[0]


def _relaxed_fwd(be: Backend, logits: Array, noise: Array, *, axis: int, temperature: float, dtype: Any) -> tuple[Array, Any]:
    if axis == -1 and logits.dtype == noise.dtype:  # the common case, at no cost
        y = be.noisy_softmax(logits, noise, temperature)
        return y, (y, None)
    u = last(be, be.cast(logits, noise.dtype), axis)
    y = unlast(be, be.noisy_softmax(u, last(be, noise, axis), temperature), axis)
    return be.cast(y, dtype), (y, None if logits.dtype == y.dtype else logits)


relaxed.defvjp(_relaxed_fwd, lambda be, residuals, g, **static: (*_softmax_vjp(be, residuals, g, **static), None))


@primitive(symmetric=True, rows=True)
def vertex(be: Backend, logits: Array, noise: Array, *, axis: int, temperature: float, dtype: Any) -> Array:
    """One-hot vector of the largest of logits - log(noise) along an axis, with the gradient of `relaxed`."""
    return _vertex_fwd(be, logits, noise, axis=axis, temperature=temperature, dtype=dtype)[0]


def _vertex_fwd(be: Backend, logits: Array, noise: Array, *, axis: int, temperature: float, dtype: Any) -> tuple[Array, Any]:
    u = last(be, be.cast(logits, noise.dtype), axis)
    x, y = (unlast(be, z, axis) for z in be.noisy_hardmax(u, last(be, noise, axis), temperature))
    return be.cast(x, dtype), (y, logits)


def _vertex_vjp(be: Backend, residuals: Any, g: Array, **static: Any) -> tuple[Array | None, ...]:
    y, logits = residuals
    if not be.refuses_second_derivatives():  # y may lie where the noise was: nothing can compute it again
        y = be.apply(_known, (logits, be.stop_gradient(y)), static)
    return (*_softmax_vjp(be, (y, None if logits.dtype == y.dtype else logits), g, **static), None)


vertex.defvjp(_vertex_fwd, _vertex_vjp)


@primitive(symmetric=True)
def _known(be: Backend, logits: Array, y: Array, **static: Any) -> Array:  # noqa: ARG001
    """Return y, the relaxed draw that the logits gave, with its derivative in them."""
    return y


_known.defvjp(lambda be, logits, y, **static: (y, (y, logits)), _vertex_vjp)  # noqa: ARG005
