"""Hard concrete bits: relaxed, with exact zeros and ones, and a closed form for how many are not zero."""

import math
import numbers
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import Bernoulli, Distribution
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.registry import register
from backdraw.primitive import primitive

LIMITS = (-0.1, 1.1)


@register(
    kind="draw", gradient="biased", forward="relaxed", law=False, differentiable_f=True, domain="discrete",
    needs=("perturb", "stretch"), reference="arXiv 1712.01312", array=Bernoulli,
)  # fmt: skip
def hard_concrete(
    logits: Array | Distribution,
    *,
    temperature: Any = 2 / 3,
    limits: tuple[float, float] = LIMITS,
    rng: Any = None,
) -> Array:
    r"""Relaxed bits that are exactly 0 or 1 with positive probability: gates of a network that is to be sparse.

    .. math::

        s = \mathrm{sigmoid}((l + \text{logistic noise}) / t), \qquad
        z = \min(1, \max(0, s (\zeta - \gamma) + \gamma))

    Parameters
    ----------
    logits : array, any shape
        Log-odds of each bit, of any real floating dtype; or a `backdraw.Bernoulli` of them.
    temperature : float or scalar array
        t > 0. An array is traced and has its own gradient.
    limits : tuple of float
        :math:`\gamma < 0` and :math:`\zeta > 1`: the interval that (0, 1) is stretched to before it is clipped.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of the shape of `logits`
        From 0 to 1, both included; in the logits' dtype and on their device.

    Raises
    ------
    TypeError
        If `logits` is no real floating array and no distribution of bits, or an argument is of another type or framework.
    ValueError
        If the temperature is not positive, or the limits are not finite or do not hold 0 and 1 inside.

    Notes
    -----
    The gradient is the derivative of z, 0 where it is clipped. As a gradient of E[f(x)] over bits it is biased: z has
    another law. f must be differentiable, and sees numbers between 0 and 1. Its expected number of non-zeros,
    `backdraw.hard_concrete_nonzero` summed up, is exact. For evaluation the authors replace the noise and t by none:
    ``sigmoid(l) * (zeta - gamma) + gamma``, clipped; so does the module Draw of the torch adapter.

    References
    ----------
    C. Louizos, M. Welling, D. P. Kingma, Learning Sparse Neural Networks through L0 Regularization, arXiv 1712.01312.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits = np.array([-3.0, 0.0, 0.5, 3.0])
    >>> backdraw.hard_concrete(logits, rng=backdraw.key(1)).round(3)
    array([0.   , 0.468, 0.023, 1.   ])

    The loss of a gated sum, and the penalty on the expected number of open gates:

    >>> def loss(logits, weights, rng):
    ...     gates = backdraw.hard_concrete(logits, rng=rng)
    ...     return (gates @ weights - 1.0) ** 2 + 0.01 * backdraw.hard_concrete_nonzero(logits).sum()
    >>> float(loss(logits, np.ones(4), backdraw.key(1)).round(3))
    0.271
    """
    p = _bits(logits, "hard_concrete", "perturb", "stretch")
    t = check_positive("temperature", temperature, p)
    limits = _check_limits(limits)
    return p.stretch(p.perturbed(rng), t, limits)


def hard_concrete_nonzero(
    logits: Array | Distribution, *, temperature: Any = 2 / 3, limits: tuple[float, float] = LIMITS
) -> Array:
    r"""Probability that a hard concrete bit is not 0: :math:`P(z \ne 0) = \mathrm{sigmoid}(l - t \log(-\gamma / \zeta))`.

    Their sum is the expected L0 norm of the bits, to be penalised or held to a budget.

    Parameters
    ----------
    logits : array, any shape
        As for `backdraw.hard_concrete`.
    temperature : float or scalar array
        t > 0. An array is traced and has its own gradient.
    limits : tuple of float
        :math:`\gamma < 0` and :math:`\zeta > 1`.

    Returns
    -------
    array, of the shape of `logits`
        In the logits' dtype and on their device, with its derivative.

    Raises
    ------
    TypeError
        If `logits` is no real floating array and no distribution of bits, or an argument is of another type or framework.
    ValueError
        If the temperature is not positive, or the limits are not finite or do not hold 0 and 1 inside.

    Notes
    -----
    Exact, and with no noise. Likewise :math:`P(z = 1) = \mathrm{sigmoid}(l - t \log((1 - \gamma) / (\zeta - 1)))`.

    References
    ----------
    C. Louizos, M. Welling, D. P. Kingma, Learning Sparse Neural Networks through L0 Regularization, arXiv 1712.01312.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> backdraw.hard_concrete_nonzero(np.array([-3.0, 0.0, 3.0])).round(3)
    array([0.198, 0.832, 0.99 ])
    """
    p = _bits(logits, "hard_concrete_nonzero", "perturb", "relax", "stretch")
    t = check_positive("temperature", temperature, p)
    low, high = _check_limits(limits)
    shift = math.log(high) - math.log(-low)
    u = shifted(p.utilities, None, by=t * shift) if isinstance(t, float) else shifted(p.utilities, t, by=shift)
    return p.relax(u, 1.0)


def without_noise(logits: Array | Distribution, limits: tuple[float, float]) -> Array:
    """Return what the authors evaluate with: ``sigmoid(logits)`` stretched to the limits and clipped."""
    p = _bits(logits, "hard_concrete", "perturb", "stretch")
    return p.stretch(p.utilities, 1.0, _check_limits(limits))


def _bits(logits: Any, estimator: str, *needs: str) -> Any:
    return as_distribution(logits if isinstance(logits, Distribution) else Bernoulli(logits), estimator, *needs)


def _check_limits(limits: Any) -> tuple[float, float]:
    try:
        low, high = limits
    except (TypeError, ValueError):
        raise InvalidTypeError(f"limits: expected two numbers, got {limits!r}") from None
    if not all(isinstance(x, numbers.Real) and not isinstance(x, bool) for x in (low, high)):
        raise InvalidTypeError(f"limits: expected two numbers, got {type(low).__name__} and {type(high).__name__}")
    low, high = float(low), float(high)
    if not (-math.inf < low < 0.0 and 1.0 < high < math.inf):
        raise InvalidValueError(f"limits: expected finite numbers, one below 0 and one above 1, got ({low}, {high})")
    return low, high


@primitive(native=True)
def shifted(be: Backend, logits: Array, temperature: Array | None, *, by: float) -> Array:
    """``logits + temperature * by``, or ``logits + by`` without a temperature, in the wider dtype."""
    wide = be.cast(logits, be.wide(logits.dtype))
    return wide + (by if temperature is None else be.cast(temperature, wide.dtype) * by)


def _shifted_vjp(be: Backend, residuals: Any, g: Array, *, by: float) -> tuple[Array, Array | None]:
    logits, temperature = residuals
    to_t = None if temperature is None else be.cast(by * be.xp.sum(g), temperature.dtype)
    return be.cast(g, logits.dtype), to_t


shifted.defvjp(lambda be, logits, t, *, by: (shifted.function(be, logits, t, by=by), (logits, t)), _shifted_vjp)
