"""The step size of `implicit_mle`, adapted to how sparse its gradients are: a pure function of a state."""

import math
from numbers import Integral
from typing import Any, NamedTuple

from backdraw.backend import Array
from backdraw.distributions.checks import check_logits, positive
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators.baselines import check_decay


class StepState(NamedTuple):
    """What `adaptive_step` carries: the step size, and the running mean of how many entries of a gradient are not zero."""

    step_size: Any
    nonzeros: Any


def adaptive_step(
    state: StepState | float,
    gradient: Array,
    *,
    event_ndim: int = 1,
    target: float = 1.0,
    decay: float = 0.9,
    rate: float = 1e-4,
) -> StepState:
    r"""Adapt the step size of `implicit_mle` to how sparse its gradients are, as AIMLE does.

    With the mean number g of entries of a gradient that are not zero, per example, :math:`m \leftarrow \gamma m + (1 -
    \gamma) g` is its running mean; the step size grows by `rate` where m is below the target, and falls by it elsewhere,
    but not below `rate`.

    Parameters
    ----------
    state : StepState or float
        The last one, or the first step size, to start with; AIMLE starts with a running mean of the target.
    gradient : array, shape (..., \*event)
        The gradient in the logits that ``implicit_mle(logits, step_size=state.step_size, relative=True)`` gave.
    event_ndim : int
        How many axes, the last ones, belong to one example.
    target : float
        The number of entries that are to change, on average; > 0.
    decay : float
        :math:`\gamma`, from 0 to 1.
    rate : float
        The change of the step size, > 0.

    Returns
    -------
    StepState
        With scalar arrays in the dtype of the gradient; a pytree, so that it can be carried under `jax.jit`.

    Raises
    ------
    TypeError
        If `gradient` is not a real floating array, or an option is no number.
    ValueError
        If an option is out of its range, or `gradient` has not so many axes or no example.

    Notes
    -----
    A pure function: the caller carries the state from step to step. (The published rule lets the step size fall to 0,
    where every gradient is 0.)

    References
    ----------
    P. Minervini, L. Franceschi, M. Niepert, Adaptive Perturbation-Based Gradient Estimation for Discrete Latent Variable
    Models, arXiv 2209.04862.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> state = backdraw.adaptive_step(1.0, np.array([[0.0, 0.5, -0.5], [0.5, 0.0, -0.5]]), rate=0.125)
    >>> float(state.step_size), float(state.nonzeros)
    (0.875, 1.1)
    """
    be = check_logits(gradient, name="gradient")
    xp, dtype = be.xp, be.wide(gradient.dtype)
    target, decay, rate = positive("target", target), check_decay(decay), positive("rate", rate)
    shape = tuple(gradient.shape)
    if isinstance(event_ndim, bool) or not isinstance(event_ndim, Integral):
        raise InvalidTypeError(f"event_ndim: expected an int, got {type(event_ndim).__name__}")
    if not 0 <= event_ndim <= len(shape):
        raise InvalidValueError(f"event_ndim: expected 0 to {len(shape)} for a gradient of shape {shape}, got {event_ndim}")
    examples = math.prod(shape[: len(shape) - event_ndim])
    if examples == 0:
        raise InvalidValueError(f"gradient: expected at least one example, got shape {shape}")
    step, mean = state if isinstance(state, tuple) else (state, target)
    g = xp.sum(xp.astype(gradient != 0, dtype)) / examples
    mean = decay * mean + (1.0 - decay) * g
    step = step + xp.where(mean < target, rate, xp.full_like(mean, -rate))
    return StepState(be.at_least(step, rate), mean)
