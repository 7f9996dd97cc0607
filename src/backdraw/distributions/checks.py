"""What the arguments of distributions and estimators may be."""

import math
from numbers import Integral, Number, Real
from typing import Any

from backdraw.backend import Array, Backend, backend_of
from backdraw.distributions.base import Distribution
from backdraw.errors import InvalidTypeError, InvalidValueError


def require(dist: Distribution, estimator: str, *needs: str) -> None:
    """Raise TypeError if a distribution lacks what an estimator needs of it."""
    for need in needs:
        if not hasattr(dist, need):
            reason = dist.reason(need)
            raise InvalidTypeError(f"dist: {estimator} needs {need}() of {type(dist).__name__}, but {reason}")


def check_logits(x: Array, *, name: str = "logits") -> Backend:
    """Check that `x` is a real floating array, and return its backend."""
    try:
        be = backend_of(x)
    except InvalidTypeError as error:
        if isinstance(x, Distribution):
            raise InvalidTypeError(f"{name}: expected an array, got the distribution {type(x).__name__}") from None
        if x is None:
            raise InvalidTypeError(f"{name}: expected an array, got NoneType") from None
        raise InvalidTypeError(f"{name}: {error}") from None
    if not be.is_floating(x.dtype):
        raise InvalidTypeError(f"{name}: expected a real floating dtype, got {x.dtype} of shape {tuple(x.shape)}")
    return be


def check_positive(name: str, value: Any, p: Distribution) -> Any:
    """Return a positive option beside a distribution as a float, or as the scalar array that it is."""
    if type(value) is float and 1e-30 < value < 1e30:
        return value  # the common case, checked at no cost
    if isinstance(value, Number):
        return _check_number(name, value, p)
    be = p.backend
    try:
        owner = backend_of(value)
    except InvalidTypeError:
        raise InvalidTypeError(f"{name}: expected a number or a scalar array, got {type(value).__name__}") from None
    if owner is not be:
        raise InvalidTypeError(f"{name}: expected a number or a scalar {be.name} array, got a {owner.name} array")
    if tuple(value.shape) != ():
        raise InvalidValueError(f"{name}: expected a scalar array of shape (), got shape {tuple(value.shape)}")
    if not be.is_floating(value.dtype):
        raise InvalidTypeError(f"{name}: expected a real floating array, got {value.dtype}")
    known = be.number(value)
    if known is not None:
        _check_number(name, known, p)
    return value


def positive(name: str, value: Any) -> float:
    """Return a positive finite number as a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidTypeError(f"{name}: expected a positive number, got {type(value).__name__}")
    value = float(value)
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValueError(f"{name}: expected a positive finite number, got {value}")
    return value


def _check_number(name: str, value: Any, p: Distribution) -> float:
    value = positive(name, value)
    be, dtype = p.backend, p.params[0].dtype
    smallest = float(be.xp.finfo(be.wide(dtype)).smallest_normal)
    if value < smallest:
        raise InvalidValueError(f"{name}: expected at least {smallest:.3g}, the smallest normal {dtype}, got {value}")
    return value


def as_value(x: Array, like: Array, own: tuple[int, ...] = (), *, events: tuple[int, ...] | None = None) -> Array:
    """Check a value x of a distribution with the parameter `like`, and return it: integers and booleans in like's dtype."""
    # Its shape must end in `own`, that of `like` if not told; or, but for the axes `events`, in one that broadcasts to it.
    try:
        be = backend_of(x, like)
    except InvalidTypeError as error:
        given_type = f"expected an array, got {type(x).__name__}" if not hasattr(x, "shape") else error
        raise InvalidTypeError(f"x: {given_type}") from None
    if not be.is_floating(x.dtype):
        if be.xp.isdtype(x.dtype, "complex floating"):
            raise InvalidTypeError(f"x: expected real values, got {x.dtype}")
        x = be.xp.astype(x, like.dtype)
    given, own = tuple(x.shape), own or tuple(like.shape)
    tail = given[max(len(given) - len(own), 0) :]
    if tail == own:
        return x
    close = events is not None and len(tail) == len(own) and all(tail[axis] == own[axis] for axis in events)
    if not (close and all(1 in (a, b) or a == b for a, b in zip(tail, own, strict=True))):
        raise InvalidValueError(f"x: expected the shape {own}, or more axes in front of it, got {given}")
    return x


def check_shape(shape: Any) -> tuple[int, ...]:
    """Return ``shape=`` as a tuple of sizes."""
    try:
        sizes = (shape,) if isinstance(shape, Integral) else tuple(shape)
    except TypeError:
        raise InvalidTypeError(f"shape: expected an int or a tuple of ints, got {type(shape).__name__}") from None
    if not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 0 for n in sizes):
        raise InvalidValueError(f"shape: expected non-negative integers, got {shape!r}")
    return tuple(int(n) for n in sizes)
