"""ARM and DisARM: the score of a bit under a uniform and under its reflection, which share one pair of draws."""

from collections.abc import Callable
from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.expectation import Function, attach, check_samples, constant, evaluate, expand, mean
from backdraw.estimators.registry import register

_STATED: dict[str, Any] = {
    "kind": "expectation", "gradient": "unbiased", "forward": "hard", "law": True, "differentiable_f": False,
    "domain": "discrete", "needs": ("antithetic",),
}  # fmt: skip


@register(**_STATED, reference="arXiv 1807.11143")
def arm(f: Function, dist: Distribution | Array, *, samples: int = 1, rng: Any = None) -> Array:
    r"""Mean of f over antithetic pairs of draws, with the augment-REINFORCE-merge gradient.

    .. math::
        \nabla_l E[f(x)] \approx \bigl(f(1[u > \sigma(-l)]) - f(1[u < \sigma(l)])\bigr) \bigl(u - \tfrac12\bigr),
        \qquad u \sim \mathrm{Uniform}(0, 1)

    for one pair; all bits of a batch element share the difference, and each has its own u.

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`.
    dist : Distribution
        Bits: `backdraw.Bernoulli`.
    samples : int
        The number of independent pairs.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f over both draws of every pair, in its dtype; each is an exact draw. Its gradient goes to the
        distribution's parameters and to all that f closes over.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.reinforce`; TypeError also if `dist` has no antithetic pairs.

    Notes
    -----
    Unbiased. A pair whose draws agree in all bits adds nothing. `backdraw.disarm` has the same mean and never more
    variance. f is called once, with 2 * samples samples: first the draws at u > sigmoid(-l), then those at u < sigmoid(l).

    References
    ----------
    M. Yin, M. Zhou, ARM: Augment-REINFORCE-Merge Gradient for Stochastic Binary Networks, arXiv 1807.11143.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: (x - 0.49) ** 2
    >>> logits = np.zeros(100_000)
    >>> value, pullback = backdraw.vjp(lambda l: backdraw.arm(f, backdraw.Bernoulli(l), rng=backdraw.key(0)), logits)
    >>> grads = pullback(np.ones_like(value))[0]
    >>> float(grads.mean().round(4)), float(grads.var().round(6))  # the gradient is 0.005
    (0.005, 8e-06)
    """

    def weigh(p: Any, u: Array, x: Array, other: Array) -> Array:  # noqa: ARG001
        be = p.backend
        with be.double():
            centred = be.cast(u - 0.5, be.wide(p.params[0].dtype))
        # A bit that cannot change would have mean zero: it has zero.
        return be.xp.where(be.xp.isinf(be.stop_gradient(p.params[0])), 0.0, centred)

    return _antithetic(f, dist, samples, rng, weigh, estimator="arm")


@register(**_STATED, reference="arXiv 2006.10680")
def disarm(f: Function, dist: Distribution | Array, *, samples: int = 1, rng: Any = None) -> Array:
    r"""Mean of f over antithetic pairs of draws, with ARM's gradient averaged over all uniforms that give the pair.

    .. math::
        \nabla_l E[f(x)] \approx \tfrac12 \bigl(f(b) - f(\tilde b)\bigr) (-1)^{\tilde b}\, 1[b \ne \tilde b]\, \sigma(|l|),
        \qquad b = 1[1 - u < \sigma(l)], \quad \tilde b = 1[u < \sigma(l)]

    for one pair; all bits of a batch element share the difference.

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`.
    dist : Distribution
        Bits: `backdraw.Bernoulli`.
    samples : int
        The number of independent pairs.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f over both draws of every pair, in its dtype; each is an exact draw. Its gradient goes to the
        distribution's parameters and to all that f closes over.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.reinforce`; TypeError also if `dist` has no antithetic pairs.

    Notes
    -----
    Unbiased; the conditional mean of `backdraw.arm` given the pair, so never of more variance. For one bit at logit 0 the
    pair is always (0, 1) or (1, 0), and there is no variance. f is called once, with 2 * samples samples: first b, then its
    reflection.

    References
    ----------
    Z. Dong, A. Mnih, G. Tucker, DisARM: An Antithetic Gradient Estimator for Binary Latent Variables, arXiv 2006.10680.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: (x - 0.49) ** 2
    >>> estimate = lambda l: backdraw.disarm(f, backdraw.Bernoulli(l), rng=backdraw.key(0))
    >>> value, pullback = backdraw.vjp(estimate, np.zeros(3))
    >>> pullback(np.ones(3))[0].round(6)
    array([0.005, 0.005, 0.005])
    """

    def weigh(p: Any, u: Array, x: Array, other: Array) -> Array:  # noqa: ARG001
        be = p.backend
        logits = be.cast(be.stop_gradient(p.params[0]), be.wide(p.params[0].dtype))
        sign = be.cast(x - other, logits.dtype)  # (-1)**other where the two differ, 0 elsewhere
        return 0.5 * sign * be.sigmoid(be.xp.abs(logits))

    return _antithetic(f, dist, samples, rng, weigh, estimator="disarm")


def _antithetic(
    f: Function, dist: Any, samples: Any, rng: Any, weigh: Callable[[Any, Array, Array, Array], Array], *, estimator: str
) -> Array:
    p = as_distribution(dist, estimator, "antithetic")
    n = check_samples(estimator, samples)
    be = p.backend
    xp, u = be.xp, p.draw_noise(rng, (n,))
    x, other = p.antithetic(u)
    values = evaluate(f, xp.concat([x, other]), p)
    plain = constant(be, values)
    difference = plain[:n, ...] - plain[n:, ...]
    grad = be.sum_samples(expand(be, difference, x.ndim) * weigh(p, u, x, other)) / x.shape[0]
    return attach(mean(values), p, (grad,), estimator=estimator)
