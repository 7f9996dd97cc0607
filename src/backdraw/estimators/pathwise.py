"""The pathwise gradient: through f, and through the path from noise to draw."""

from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.expectation import Function, check_samples, evaluate, mean
from backdraw.estimators.registry import register


@register(
    kind="expectation", gradient="unbiased", forward="hard", law=True, differentiable_f=True, domain="continuous",
    needs=("transport",), reference="arXiv 1312.6114",
)  # fmt: skip
def pathwise(f: Function, dist: Distribution, *, samples: int = 1, rng: Any = None) -> Array:
    r"""Mean of f over draws, with the pathwise (reparameterisation) gradient.

    .. math:: \nabla E[f(x)] \approx \frac{1}{S} \sum_s \nabla f(t(\epsilon_s, \theta))

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`, and differentiable. On NumPy it is made of backdraw's functions and primitives.
    dist : Distribution
        A continuous one, such as `backdraw.Normal`.
    samples : int
        S, the number of independent draws.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f, in its dtype. Its gradient goes to the distribution's parameters and to all that f closes over.

    Raises
    ------
    TypeError
        If `dist` has no differentiable path from noise to draw, f returns no array of its framework, or an argument is of
        another type.
    ValueError
        If f's values have another shape, or `samples` is below 1.
    GradientError
        On NumPy, if f is not made of primitives.

    Notes
    -----
    Unbiased for f that is continuous and differentiable almost everywhere, and differentiable as often as f is. f is called
    once, with S samples.

    References
    ----------
    D. P. Kingma, M. Welling, Auto-Encoding Variational Bayes, arXiv 1312.6114.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: backdraw.Normal(np.array(0.0), 1.0).log_prob(x)
    >>> estimate = lambda loc: backdraw.pathwise(f, backdraw.Normal(loc, 1.0), samples=10_000, rng=backdraw.key(0))
    >>> value, (grad,) = backdraw.value_and_grad(estimate)(np.array(2.0))
    >>> float(grad.round(1))
    -2.0
    """
    p = as_distribution(dist, "pathwise", "transport")
    x = p.transport(p.transport_noise(rng, (check_samples("pathwise", samples),)))
    return mean(evaluate(f, x, p))
