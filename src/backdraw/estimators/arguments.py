"""What the estimators' arguments may be, checked once and in one way."""

import math
import numbers
from typing import Any

from backdraw.backend import Array, Backend, backend_of
from backdraw.distributions import Categorical, Distribution
from backdraw.distributions.base import require
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators.registry import ESTIMATORS


def as_distribution(dist: Any, estimator: str, *needs: str) -> Any:
    """Return a distribution that offers what the estimator needs; an array means Categorical of it."""
    if not isinstance(dist, Distribution):
        dist = Categorical(dist)
    require(dist, estimator, *needs)
    if not dist.discrete and ESTIMATORS[estimator].domain == "discrete":
        raise InvalidTypeError(
            f"dist: {estimator} is for discrete distributions, got {type(dist).__name__}; take backdraw.reparameterize"
        )
    return dist


def check_positive(name: str, value: Any, be: Backend, like: Array) -> Any:
    """Return a positive option as a float, or as the scalar array that it is."""
    if type(value) is float and 1e-30 < value < 1e30:
        return value  # the common case, checked at no cost
    if isinstance(value, numbers.Number):
        return _check_number(name, value, be, like)
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
    return value


def _check_number(name: str, value: Any, be: Backend, like: Array) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"{name}: expected a positive number, got {type(value).__name__}")
    value = float(value)
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValueError(f"{name}: expected a positive finite number, got {value}")
    smallest = float(be.xp.finfo(be.wide(like.dtype)).smallest_normal)
    if value < smallest:
        raise InvalidValueError(f"{name}: expected at least {smallest:.3g}, the smallest normal {like.dtype}, got {value}")
    return value
