"""Utilities over a temperature: in float64, in which the relaxations of structures are computed; and what is cut."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.primitive import primitive

HUGE = 1e300  # that a few of it may still be added up


def cut_vjp(be: Backend, residuals: Any, g: Array, **_: Any) -> tuple[Array, Array]:
    """Cotangents of utilities u and a temperature t for z = u / t, but for entries that are cut, in which z is constant."""
    z, cut, u, t = residuals
    g = be.xp.where(cut, 0.0, g) / be.cast(t, g.dtype)
    return be.cast(g, u.dtype), be.cast(-be.xp.sum(g * be.xp.where(cut, 0.0, z)), t.dtype)


def scaled(be: Backend, x: Array, temperature: float = 1.0) -> Array:
    """Return utilities over a number; -inf and NaN stay what they are, all else is finite."""
    xp = be.xp
    z = be.cast(x, xp.float64)
    if xp.finfo(x.dtype).bits == 64:  # only there may a quotient or a sum of several overflow
        bound = HUGE * min(temperature, 1.0)
        z = xp.where(z == -xp.inf, -xp.inf, be.clip(z, -bound, bound))
    return z if temperature == 1.0 else z / temperature


@primitive(linear=True)
def tempered(be: Backend, x: Array, temperature: Array) -> Array:
    """Utilities over a temperature that has a gradient."""
    return _tempered_fwd(be, x, temperature)[0]


def _tempered_fwd(be: Backend, x: Array, temperature: Array) -> tuple[Array, Any]:
    xp = be.xp
    with be.double():
        wide, t = be.cast(x, xp.float64), be.cast(temperature, xp.float64)
        none = wide == -xp.inf
        bound = HUGE * xp.minimum(be.stop_gradient(t), xp.ones_like(t))
        z = xp.where(none, -xp.inf, xp.minimum(xp.maximum(xp.where(none, 0.0, wide), -bound), bound) / t)
    return z, (z, x, temperature)


def _tempered_bwd(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array]:
    z, x, temperature = residuals
    xp = be.xp
    with be.double():
        t = be.cast(temperature, xp.float64)
        scale = xp.sum(g * xp.where(z == -xp.inf, 0.0, z)) / t
        return be.cast(g / t, x.dtype), be.cast(-scale, temperature.dtype)


tempered.defvjp(_tempered_fwd, _tempered_bwd)
