"""What to minimise in an estimator's options to lower its variance."""

from collections.abc import Callable
from typing import Any

from backdraw.backend import Array, backend_of
from backdraw.distributions import Distribution
from backdraw.errors import InvalidValueError
from backdraw.estimators.expectation import Function, gradient_of
from backdraw.estimators.registry import ESTIMATORS


def variance_loss(estimator: str | Callable[..., Array], f: Function, dist: Distribution | Array, **options: Any) -> Array:
    r"""Square of an estimator's gradient, :math:`|g|^2`: what to minimise in its options to lower its variance.

    :math:`E|g|^2 = |E[g]|^2 + \mathrm{tr}\,\mathrm{Var}[g]`, and for an unbiased estimator the first term depends on no
    option. The gradient of this one-draw estimate is RELAX's, for the parameters of control variates.

    Parameters
    ----------
    estimator : str or callable
        An estimator of expectations, such as `backdraw.rebar`, or its name.
    f : callable
        As for the estimator.
    dist : Distribution or array
        As for the estimator.
    **options
        Those of the estimator: `rng`, and those to be tuned, as arrays: rebar's `temperature` and `scale`, what relax's
        `surrogate` closes over, the `baseline` of reinforce.

    Returns
    -------
    array, shape ``()``
        The sum of the squares of the gradient in the parameters, over all batch elements and coordinates. On torch and JAX
        it is differentiable in the arrays among the options and in what the surrogate closes over.

    Raises
    ------
    ValueError
        If there is no such estimator, or it is not one of expectations.
    TypeError
        If its gradient is f's own derivative, as that of `backdraw.exact` and `backdraw.pathwise`.

    Notes
    -----
    An unbiased estimate of :math:`E|g|^2`, at the cost of the estimator's backward pass and, differentiated, twice that.

    References
    ----------
    W. Grathwohl, D. Choi, Y. Wu, G. Roeder, D. Duvenaud, Backpropagation through the Void, arXiv 1711.00123, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: backdraw.Categorical(np.log([0.2, 0.3, 0.5])).log_prob(x)
    >>> for scale in (0.0, 1.0):
    ...     print(float(backdraw.variance_loss("rebar", f, np.zeros((1000, 3)), scale=scale, rng=backdraw.key(0)).round(1)))
    1007.0
    127.4
    """
    names = {e.function: name for name, e in ESTIMATORS.items() if e.kind == "expectation"}
    name = estimator if isinstance(estimator, str) else names.get(estimator)
    entry = ESTIMATORS.get(name or "")
    if entry is None or entry.kind != "expectation":
        got = estimator if isinstance(estimator, str) else getattr(estimator, "__name__", type(estimator).__name__)
        raise InvalidValueError(f"estimator: expected one of {', '.join(sorted(names.values()))}, got {got!r}")
    grads = gradient_of(lambda: entry(f, dist, **options), estimator=entry.name)
    be = backend_of(*grads)
    total = be.xp.sum(grads[0] * grads[0])
    for g in grads[1:]:
        total = total + be.xp.sum(g * g)
    return total
