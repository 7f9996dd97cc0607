"""Gapped straight-through: the softmax of utilities moved, without noise, so that the draw is their argmax."""

import math
import numbers
from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.registry import register
from backdraw.surrogate import surrogate


@register(
    kind="draw", gradient="biased", forward="hard", law=True, differentiable_f=True, domain="discrete",
    needs=("sample", "gapped", "relax"), reference="arXiv 2206.07235",
)  # fmt: skip
def gapped_straight_through(dist: Distribution | Array, *, temperature: Any = 1.0, gap: float = 1.0, rng: Any = None) -> Array:
    r"""Draw exactly, and back-propagate as if the draw were the softmax of logits moved towards it.

    Forward an exact draw :math:`D = e_k`. Backward the gradient of :math:`\mathrm{softmax}((l + m_1 - m_2) / t)` with

    .. math:: m_1 = (\max l - l_k)\, e_k, \qquad m_{2,j} = (l_j + \gamma - \max l)_+ \quad (j \ne k)

    both held constant: the drawn logit is raised to the largest, and the others lowered until they are :math:`\gamma`
    below it. A bit is a category of logit l beside one of logit 0.

    Parameters
    ----------
    dist : Distribution or array
        What to draw from; an array means ``Categorical(array)``.
    temperature : float or scalar array
        t > 0. An array is traced and has its own gradient.
    gap : float
        :math:`\gamma \ge 0`.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of dist's shape
        In the logits' dtype and on their device; exactly 0 and 1.

    Raises
    ------
    TypeError
        If `dist` has no exact draws or no utilities to move, or an argument is of another type or framework.
    ValueError
        If the temperature is not positive, or the gap is negative or not finite.

    Notes
    -----
    Biased, for linear f too. It has what makes straight-through Gumbel-softmax work, a soft point that the draw is the
    argmax of, without its noise: for a given draw the gradient is deterministic, so its variance is that of the draw. f
    must be differentiable; it sees exact draws only.

    References
    ----------
    T.-H. Fan, T.-C. Chi, A. I. Rudnicky, P. J. Ramadge, Training Discrete Deep Generative Models via Gapped
    Straight-Through Estimator, arXiv 2206.07235.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits = np.array([1.0, 0.0])
    >>> draw = lambda l: backdraw.gapped_straight_through(l, gap=np.log(3.0), rng=backdraw.key(0))
    >>> x, pullback = backdraw.vjp(draw, logits)
    >>> x
    array([0., 1.])
    >>> pullback(np.array([1.0, 0.0]))[0].round(4)
    array([ 0.1875, -0.1875])
    """
    p = as_distribution(dist, "gapped_straight_through", "sample", "gapped", "relax")
    t = check_positive("temperature", temperature, p)
    if isinstance(gap, bool) or not isinstance(gap, numbers.Real):
        raise InvalidTypeError(f"gap: expected a number, got {type(gap).__name__}")
    if not 0.0 <= gap < math.inf:
        raise InvalidValueError(f"gap: expected a finite number, 0 or more, got {gap}")
    x = p.sample(p.draw_noise(rng))
    moved = surrogate(p.backend, p.gapped(x, float(gap)), p.utilities)
    return surrogate(p.backend, x, p.relax(moved, t))
