"""Annealing of the temperature: plain functions of the step.

Each takes the step as a number or as a scalar array, which may be traced, and returns the temperature likewise.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from backdraw.backend import backend_of
from backdraw.errors import InvalidTypeError, InvalidValueError

Schedule = Callable[[Any], Any]


def constant(value: float) -> Schedule:
    """Return the schedule that always gives `value`.

    Parameters
    ----------
    value : float
        The temperature, > 0.

    Returns
    -------
    callable
        ``schedule(step) -> float``.

    Raises
    ------
    ValueError
        If `value` is not positive.

    Examples
    --------
    >>> from backdraw import schedules
    >>> schedules.constant(0.5)(100)
    0.5
    """
    value = _positive("value", value)
    return lambda step: value  # noqa: ARG005


def linear(start: float, stop: float, steps: int) -> Schedule:
    r"""Return the schedule :math:`a + (b - a) \min(k / n, 1)` of the step k.

    Parameters
    ----------
    start, stop : float
        The temperatures a at step 0 and b from step n on, > 0.
    steps : int
        How many steps n it takes, at least 1.

    Returns
    -------
    callable
        ``schedule(step) -> temperature``.

    Raises
    ------
    ValueError
        If a temperature is not positive or `steps` is less than 1.

    Examples
    --------
    >>> from backdraw import schedules
    >>> schedules.linear(1.0, 0.5, 100)(50)
    0.75
    """
    a, b = _positive("start", start), _positive("stop", stop)
    fraction = _fraction(steps)
    return lambda step: a + (b - a) * fraction(step)


def exponential(start: float, stop: float, steps: int) -> Schedule:
    r"""Return the schedule :math:`a (b / a)^{\min(k / n, 1)}` of the step k.

    Parameters
    ----------
    start, stop : float
        The temperatures a at step 0 and b from step n on, > 0.
    steps : int
        How many steps n it takes, at least 1.

    Returns
    -------
    callable
        ``schedule(step) -> temperature``.

    Raises
    ------
    ValueError
        If a temperature is not positive or `steps` is less than 1.

    Examples
    --------
    >>> from backdraw import schedules
    >>> schedules.exponential(1.0, 0.25, 100)(50)
    0.5
    """
    a, b = _positive("start", start), _positive("stop", stop)
    fraction, ratio = _fraction(steps), math.log(b / a)
    return lambda step: a * _apply("exp", ratio * fraction(step))


def cosine(start: float, stop: float, steps: int) -> Schedule:
    r"""Return the schedule :math:`b + (a - b) (1 + \cos(\pi \min(k / n, 1))) / 2` of the step k.

    Parameters
    ----------
    start, stop : float
        The temperatures a at step 0 and b from step n on, > 0.
    steps : int
        How many steps n it takes, at least 1.

    Returns
    -------
    callable
        ``schedule(step) -> temperature``.

    Raises
    ------
    ValueError
        If a temperature is not positive or `steps` is less than 1.

    Examples
    --------
    >>> from backdraw import schedules
    >>> schedules.cosine(1.0, 0.5, 100)(50)
    0.75
    """
    a, b = _positive("start", start), _positive("stop", stop)
    fraction = _fraction(steps)
    return lambda step: b + (a - b) * (1.0 + _apply("cos", math.pi * fraction(step))) / 2.0


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name}: expected a positive number, got {type(value).__name__}")
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValueError(f"{name}: expected a positive finite number, got {value}")
    return float(value)


def _fraction(steps: int) -> Schedule:
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise InvalidTypeError(f"steps: expected an int, got {type(steps).__name__}")
    if steps < 1:
        raise InvalidValueError(f"steps: expected at least 1, got {steps}")

    def fraction(step: Any) -> Any:
        if isinstance(step, Real):
            return min(max(float(step) / steps, 0.0), 1.0)
        xp = backend_of(step).xp
        if not xp.isdtype(step.dtype, "real floating"):
            step = xp.astype(step, xp.float32)
        return xp.clip(step / steps, 0.0, 1.0)

    return fraction


def _apply(name: str, x: Any) -> Any:
    return getattr(math, name)(x) if isinstance(x, float) else getattr(backend_of(x).xp, name)(x)
