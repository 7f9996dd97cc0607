"""Differentiation of black-box solvers: implicit MLE without the noise."""

from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.implicit_mle import difference
from backdraw.estimators.registry import register


@register(
    kind="draw", gradient="biased", forward="hard", law=False, differentiable_f=True, domain="discrete",
    needs=("argmax",), reference="arXiv 1912.02175",
)  # fmt: skip
def blackbox(dist: Distribution | Array, *, step_size: Any = 1.0) -> Array:
    r"""Solve with no noise, and back-propagate how the solution changes as the utilities step down the loss.

    Forward :math:`y(u) = \arg\max_x \langle u, x \rangle` at the logits u. Backward, for the cotangent c,

    .. math:: \frac{y(u) - y(u - \lambda c)}{\lambda}.

    Parameters
    ----------
    dist : Distribution or array
        Whose argmax to take; an array means ``Categorical(array)``.
    step_size : float or scalar array
        :math:`\lambda > 0`, in utility per unit of cotangent. An array may be traced, and has no gradient.

    Returns
    -------
    array, of dist's shape
        In the logits' dtype and on their device; exactly 0 and 1, but for an `Oracle`, whose solver decides.

    Raises
    ------
    TypeError
        If `dist` has no argmax, or its draws have another shape than their utilities.
    ValueError
        If the step size is not positive.
    GradientError
        If a second derivative is asked for: there is none.

    Notes
    -----
    Deterministic, the exact gradient of :math:`(\max_x \langle u, x \rangle - \max_x \langle u - \lambda c, x \rangle) /
    \lambda`: a continuous, piecewise affine stand-in, at the resolution :math:`\lambda`, for the linear loss
    :math:`\langle c, y(u) \rangle`, which is piecewise constant. The paper's solver minimises :math:`\langle w, y \rangle`,
    with w = -u: hence its other sign. As a gradient of E[f(x)] it is biased, since it never leaves the mode.

    The gradient goes to the utilities alone: parameters of another kind, where a distribution has them, get none (on torch and
    JAX none or zero, on NumPy a GradientError if it is asked for).

    References
    ----------
    M. Vlastelica, A. Paulus, V. Musil, G. Martius, M. Rolinek, Differentiation of Blackbox Combinatorial Solvers,
    arXiv 1912.02175.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> y, pullback = backdraw.vjp(lambda l: backdraw.blackbox(l, step_size=0.5), np.array([0.3, 0.1, 0.2]))
    >>> y
    array([1., 0., 0.])
    >>> pullback(np.array([1.0, 0.0, 0.0]))
    (array([ 2.,  0., -2.]),)
    """
    p = as_distribution(dist, "blackbox", "argmax")
    return difference(p, p.utilities, "blackbox", step_size)
