"""Joint values of a distribution's factors by their numbers: the j-th digit of one is the state of factor j.

The factors are those batch axes, from the n-th on, that f has summed up; the base of the digits is how many values a factor
has. As arrays of the distribution's shape, K joint values of K categories alone would take K**2 numbers per batch element.
"""

import math
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.errors import InvalidValueError
from backdraw.estimators.expectation import constant

LIMIT = 2**20


def count_of(p: Any, n: int, states: int, instead: str) -> int:
    """Return how many joint values there are, if they are not too many."""
    m = math.prod(p.batch_shape[n:])
    if m * math.log2(states) > math.log2(LIMIT):
        count = str(states**m) if m < 100 else f"{states}**{m}"
        raise InvalidValueError(
            f"dist: expected at most {LIMIT} joint values, got {count}, of {m} factors with {states} values each; "
            f"take {instead}"
        )
    return states**m


def joint_support(p: Any, n: int) -> Array:
    """Return every joint value, as samples of the distribution's shape."""
    be, (values, _) = p.backend, p.stopped().support()
    count = count_of(p, n, values.shape[0], "an estimator that draws, such as backdraw.rloo")
    numbers = be.xp.reshape(be.xp.arange(count, device=be.device(values)), (count, *(1,) * n, 1))
    states = _digits(be, numbers, p.batch_shape[n:], values.shape[0])
    return of_states(p, values, be.xp.reshape(states, (count, *(1,) * n, *p.batch_shape[n:])))


def joint_log_probs(p: Any, n: int) -> tuple[Array, Array]:
    """Return the values of one factor, and the log-probabilities of all joint values on the last axis; constants."""
    be = p.backend
    xp, lead, m = be.xp, p.batch_shape[:n], math.prod(p.batch_shape[n:])
    wide = {name: constant(be, getattr(p, name)) for name in p.parameters}
    values, probs = p.replace(**wide).support()
    states = values.shape[0]
    count_of(p, n, states, "an estimator that draws with replacement, such as backdraw.rloo")
    never = probs == 0
    each = xp.where(never, -xp.inf, xp.log(xp.where(never, 1.0, probs)))
    each = be.moveaxis(xp.reshape(each, (states, *lead, m)), 0, -1)
    logp = xp.zeros((*lead, 1), dtype=each.dtype, device=be.device(each))
    for j in range(m):
        grown = xp.expand_dims(each[..., j, :], axis=-1) + xp.expand_dims(logp, axis=-2)
        logp = xp.reshape(grown, (*lead, states ** (j + 1)))
    return values, logp


def number_of(p: Any, n: int, values: Array, states: Array) -> Array:
    """Return the number of the joint value with these states of the factors, on a last axis of size 1."""
    be, lead = p.backend, p.batch_shape[:n]
    digits = be.xp.reshape(states, (*lead, math.prod(p.batch_shape[n:])))
    powers = _powers(be, digits, digits.shape[-1], values.shape[0])
    return be.xp.sum(digits * powers, axis=-1, keepdims=True, dtype=digits.dtype)


def chosen(p: Any, n: int, values: Array, numbers: Array) -> Array:
    """Return the joint values of the numbers on the last axis as samples of the distribution's shape."""
    be = p.backend
    states = _digits(be, be.xp.expand_dims(numbers, axis=-1), p.batch_shape[n:], values.shape[0])
    states = be.xp.reshape(be.moveaxis(states, -2, 0), (numbers.shape[-1], *p.batch_shape))
    return be.cast(of_states(p, values, states), p.params[0].dtype)


def states_of(p: Any, values: Array, x: Array) -> Array:
    """Return the number of the state of every factor of samples x, among the values of the support."""
    be, axes = p.backend, p.event_axes(x[0, ...])
    same = be.xp.expand_dims(x, axis=1) == values
    same = be.xp.all(same, axis=axes) if axes else same
    return be.xp.argmax(be.xp.astype(same, be.xp.int8), axis=1)


def of_states(p: Any, values: Array, states: Array) -> Array:
    """Return samples whose factors have these states."""
    xp, states = p.backend.xp, p.over_event(states)
    return xp.take_along_axis(values, xp.broadcast_to(states, (states.shape[0], *values.shape[1:])), axis=0)


def _digits(be: Backend, numbers: Array, factors: tuple[int, ...], states: int) -> Array:
    m = math.prod(factors)
    return be.xp.broadcast_to(numbers // _powers(be, numbers, m, states) % states, (*numbers.shape[:-1], m))


def _powers(be: Backend, like: Array, m: int, states: int) -> Array:
    return be.xp.asarray([states**j for j in range(m)], dtype=like.dtype, device=be.device(like))
