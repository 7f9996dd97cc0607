"""Annealing of the temperature: plain functions of the step.

Each takes the step as a number or as a scalar array, which may be traced, and returns the temperature likewise. It
prints as the call that made it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from backdraw.backend import backend_of
from backdraw.distributions.checks import positive
from backdraw.errors import InvalidTypeError, InvalidValueError

Schedule = Callable[[Any], Any]


@dataclass(frozen=True, repr=False)
class _Named:
    """A schedule that prints as the call that made it, compares by its parameters and can be pickled."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{type(self).__name__[1:].lower()}({shown})"


@dataclass(frozen=True, repr=False)
class _Constant(_Named):
    """The schedule of `constant`."""

    value: float

    def __call__(self, step: Any) -> Any:  # noqa: ARG002
        return self.value


@dataclass(frozen=True, repr=False)
class _Annealed(_Named):
    """A schedule from `start` to `stop` in a number of steps."""

    start: float
    stop: float
    steps: int

    def fraction(self, step: Any) -> Any:
        """Return how much of the way is done, from 0 to 1."""
        if isinstance(step, Real):
            return min(max(float(step) / self.steps, 0.0), 1.0)
        xp = backend_of(step).xp
        if not xp.isdtype(step.dtype, "real floating"):
            step = xp.astype(step, xp.float32)
        return xp.clip(step / self.steps, 0.0, 1.0)


class _Linear(_Annealed):
    """The schedule of `linear`."""

    def __call__(self, step: Any) -> Any:
        return self.start + (self.stop - self.start) * self.fraction(step)


class _Exponential(_Annealed):
    """The schedule of `exponential`."""

    def __call__(self, step: Any) -> Any:
        return self.start * _apply("exp", math.log(self.stop / self.start) * self.fraction(step))


class _Cosine(_Annealed):
    """The schedule of `cosine`."""

    def __call__(self, step: Any) -> Any:
        return self.stop + (self.start - self.stop) * (1.0 + _apply("cos", math.pi * self.fraction(step))) / 2.0


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
    TypeError
        If `value` is no number.
    ValueError
        If it is not positive.

    Examples
    --------
    >>> from backdraw import schedules
    >>> schedules.constant(0.5)(100)
    0.5
    """
    return _Constant(positive("value", value))


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
    TypeError
        If a temperature is no number or `steps` no int.
    ValueError
        If a temperature is not positive or `steps` is less than 1.

    Examples
    --------
    >>> from backdraw import schedules
    >>> schedules.linear(1.0, 0.5, 100)(50)
    0.75
    """
    return _Linear(*_checked(start, stop, steps))


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
    TypeError
        If a temperature is no number or `steps` no int.
    ValueError
        If a temperature is not positive or `steps` is less than 1.

    Examples
    --------
    >>> from backdraw import schedules
    >>> schedules.exponential(1.0, 0.25, 100)(50)
    0.5
    """
    return _Exponential(*_checked(start, stop, steps))


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
    TypeError
        If a temperature is no number or `steps` no int.
    ValueError
        If a temperature is not positive or `steps` is less than 1.

    Examples
    --------
    >>> from backdraw import schedules
    >>> schedules.cosine(1.0, 0.5, 100)(50)
    0.75
    """
    return _Cosine(*_checked(start, stop, steps))


def _checked(start: float, stop: float, steps: int) -> tuple[float, float, int]:
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise InvalidTypeError(f"steps: expected an int, got {type(steps).__name__}")
    if steps < 1:
        raise InvalidValueError(f"steps: expected at least 1, got {steps}")
    return positive("start", start), positive("stop", stop), int(steps)


def _apply(name: str, x: Any) -> Any:
    return getattr(math, name)(x) if isinstance(x, float) else getattr(backend_of(x).xp, name)(x)
