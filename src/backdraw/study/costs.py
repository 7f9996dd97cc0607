"""The functions of the built-in problems: primitives, so that NumPy differentiates them too."""

import math

import backdraw
from backdraw.backend import Array, Backend
from backdraw.primitive import Residuals


@backdraw.primitive(native=True)
def power(be: Backend, x: Array, c: Array, *, p: float, axes: int, scale: float) -> Array:
    """``scale * sum(abs(x - c)**p)`` over the last axes."""
    return _sum(be, scale * be.xp.abs(x - c) ** p, axes)


def _power_vjp(be: Backend, residuals: Residuals, g: Array, *, p: float, axes: int, scale: float) -> tuple[Array, None]:
    x, c = residuals
    slope = be.xp.sign(x - c) * be.xp.abs(x - c) ** (p - 1.0)
    return _spread(be, g, axes) * slope * (scale * p), None


power.defvjp(lambda be, x, c, **static: (power.function(be, x, c, **static), (x, c)), _power_vjp)


@backdraw.primitive(native=True)
def quadratic_form(be: Backend, x: Array, c: Array, q: Array) -> Array:
    """``(x - c) @ q @ (x - c)`` over the last two axes together; q is symmetric."""
    return _quadratic_fwd(be, x, c, q)[0]


def _quadratic_fwd(be: Backend, x: Array, c: Array, q: Array) -> tuple[Array, Residuals]:
    flat = be.xp.reshape(x - c, (*x.shape[:-2], math.prod(x.shape[-2:])))
    qx = flat @ q
    return be.xp.sum(flat * qx, axis=-1), (x, qx)


def _quadratic_vjp(be: Backend, residuals: Residuals, g: Array) -> tuple[Array, None, None]:
    x, qx = residuals
    return be.xp.reshape(2.0 * be.xp.expand_dims(g, axis=-1) * qx, x.shape), None, None


quadratic_form.defvjp(_quadratic_fwd, _quadratic_vjp)


@backdraw.primitive(native=True)
def cross_entropy(be: Backend, x: Array, true: Array) -> Array:
    """``mean(-true * (log(x + 1e-8) - log(true + 1e-8)))`` over the last two axes."""
    return be.xp.mean(-true * (be.xp.log(x + 1e-8) - be.xp.log(true + 1e-8)), axis=(-2, -1))


cross_entropy.defvjp(
    lambda be, x, true: (cross_entropy.function(be, x, true), (x, true)),
    lambda be, res, g: (-_spread(be, g, 2) * res[1] / (res[0] + 1e-8) / math.prod(res[1].shape[-2:]), None),
)


@backdraw.primitive(native=True)
def bell(be: Backend, x: Array, *, k: float) -> Array:
    """``exp(-k * x**2)``."""
    return be.xp.exp(-k * x * x)


bell.defvjp(
    lambda be, x, *, k: (bell.function(be, x, k=k), (x,)),
    lambda be, res, g, *, k: (-2.0 * k * g * res[0] * be.xp.exp(-k * res[0] * res[0]),),
)


@backdraw.primitive(native=True)
def cosine(be: Backend, x: Array, *, k: float) -> Array:
    """``cos(k * x)``."""
    return be.xp.cos(k * x)


cosine.defvjp(
    lambda be, x, *, k: (cosine.function(be, x, k=k), (x,)),
    lambda be, res, g, *, k: (-k * g * be.xp.sin(k * res[0]),),
)


def _sum(be: Backend, x: Array, axes: int) -> Array:
    return be.xp.sum(x, axis=tuple(range(-axes, 0))) if axes else x


def _spread(be: Backend, g: Array, axes: int) -> Array:
    return be.xp.reshape(g, (*g.shape, *(1,) * axes))
