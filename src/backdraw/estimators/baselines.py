"""Baselines for `backdraw.reinforce` that follow the values of f: pure functions of a state, as an optimiser's.

A baseline may depend on the draws of earlier steps, not on those that it is subtracted from: read ``state.value`` first,
and update with the step's values afterwards.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from backdraw.backend import Array
from backdraw.distributions.checks import check_logits
from backdraw.errors import InvalidTypeError, InvalidValueError


class State(NamedTuple):
    """What a moving average remembers.

    Attributes
    ----------
    value : array
        The average; 0 before the first update.
    weight : array, shape ``()``
        The weights of all values so far, added up.
    """

    value: Array
    weight: Array


@dataclass(frozen=True)
class MovingAverage:
    """The pair of pure functions that `moving_average` returns."""

    decay: float

    def init(self, like: Array) -> State:
        """Return the state before the first update: the average has the shape of `like`, float32 or its wider dtype."""
        be = check_logits(like, name="like")
        dtype, device = be.wide(like.dtype), be.device(like)
        zeros = (be.xp.zeros(shape, dtype=dtype, device=device) for shape in (tuple(like.shape), ()))
        return State(*zeros)

    def update(self, values: Array, state: State) -> State:
        """Return the state after more values; those of axes in front of the average's own are averaged first."""
        be = check_logits(values, name="values")
        front = len(values.shape) - len(state.value.shape)
        if front < 0 or tuple(values.shape)[front:] != tuple(state.value.shape):
            raise InvalidValueError(
                f"values: expected the shape {tuple(state.value.shape)} of the average, or that behind further axes, "
                f"got {tuple(values.shape)}"
            )
        new = be.cast(be.stop_gradient(values), state.value.dtype)
        weight = self.decay * state.weight + 1.0
        # Written as a step, the average of equal values is exactly that value.
        return State(state.value + (be.xp.mean(new, axis=tuple(range(front))) - state.value) / weight, weight)


def moving_average(decay: float = 0.9) -> MovingAverage:
    r"""Return the exponential moving average :math:`\sum_k d^{n - k} v_k / \sum_k d^{n - k}` of values :math:`v_1 \ldots v_n`.

    The weights add up to one from the first value on: no start is mixed in that would have to be corrected for.

    Parameters
    ----------
    decay : float
        d, from 0, which keeps the last value alone, to 1, the mean of all.

    Returns
    -------
    MovingAverage
        ``init(like)`` makes the state for an average of the shape of an array: of shape ``()`` for one baseline, or of the
        batch's shape for one per element. ``update(values, state)`` returns the next state; values with more axes in front
        are averaged over them. ``state.value`` is the average. No gradient passes.

    Raises
    ------
    TypeError
        If `decay` is no number; from the functions, if an array is not real floating.
    ValueError
        If `decay` is not from 0 to 1; from the functions, if the values' shape does not end in the average's.

    Notes
    -----
    The state is a NamedTuple of arrays, to be carried through ``jax.jit`` and ``jax.lax.scan``. As the baseline of
    `backdraw.reinforce` it leaves the gradient unbiased, because it depends on earlier draws alone.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> average = backdraw.baselines.moving_average(decay=0.5)
    >>> state = average.init(np.zeros(()))
    >>> for step, reward in enumerate((8.0, 2.0, 2.0)):
    ...     f = lambda x: reward + x
    ...     p = backdraw.Bernoulli(np.full(5, -20.0))
    ...     value = backdraw.reinforce(f, p, baseline=state.value, rng=backdraw.key(step))
    ...     state = average.update(value, state)
    ...     print(float(state.value.round(3)))
    8.0
    4.0
    2.857
    """
    return MovingAverage(check_decay(decay))


def check_decay(decay: Any) -> float:
    """Return the decay of a running mean as a float."""
    if isinstance(decay, bool) or not isinstance(decay, (int, float)):
        raise InvalidTypeError(f"decay: expected a number from 0 to 1, got {type(decay).__name__}")
    if not 0.0 <= decay <= 1.0:
        raise InvalidValueError(f"decay: expected a number from 0 to 1, got {decay}")
    return float(decay)
