"""MuProp: the score function, with the Taylor expansion of f around the mean as its control variate."""

from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.expectation import Function, attach, check_samples, constant, draw_samples, evaluate, mean, sealed
from backdraw.estimators.registry import register


@register(
    kind="expectation", gradient="unbiased", forward="hard", law=True, differentiable_f=True, domain="discrete",
    needs=("sample", "score", "mean"), reference="arXiv 1511.05176",
)  # fmt: skip
def muprop(f: Function, dist: Distribution | Array, *, samples: int = 1, rng: Any = None) -> Array:
    r"""Mean of f over draws, with MuProp's gradient: that of the Taylor expansion exactly, the score for what is left.

    .. math::
        \nabla E[f(x)] \approx \frac{1}{S} \sum_s \bigl(f(x_s) - f(\mu) - f'(\mu)^\top (x_s - \mu)\bigr) \nabla \log p(x_s)
        + f'(\mu)^\top \nabla \mu, \qquad \mu = E[x]

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`, and differentiable at the mean, a point inside the hull of the values. On NumPy it is
        made of backdraw's functions and primitives.
    dist : Distribution or array
        What x is drawn from; an array means ``Categorical(array)``.
    samples : int
        S, the number of independent draws.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f over the draws, in its dtype. Its gradient goes to the distribution's parameters and to all that f
        closes over.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.reinforce`; TypeError also if the mean of `dist` is not known, GradientError if f breaks the chain.

    Notes
    -----
    Unbiased; exact where f is linear. f is called with S samples and once more with one, the mean, and differentiated there.

    References
    ----------
    S. Gu, S. Levine, I. Sutskever, A. Mnih, MuProp, arXiv 1511.05176.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: backdraw.Categorical(np.log([0.2, 0.3, 0.5])).log_prob(x)
    >>> grad = lambda estimate: backdraw.value_and_grad(estimate)(np.zeros(3))[1][0].round(4)
    >>> grad(lambda l: backdraw.muprop(f, l, rng=backdraw.key(0)))
    array([-0.1469, -0.0117,  0.1586])
    >>> grad(lambda l: backdraw.exact(f, l))
    array([-0.1469, -0.0117,  0.1586])
    """
    p = as_distribution(dist, "muprop", "sample", "score", "mean")
    be, n = p.backend, check_samples("muprop", samples)
    xp = be.xp
    x = draw_samples(p, n, rng)
    values = evaluate(f, x, p)
    p0 = p.stopped()
    with sealed(be):
        mu, mean_pullback = be.vjp(lambda *params: p0.with_params(params).mean(), p0.params)
        mu = be.stop_gradient(mu)
        at_mean, pullback = be.vjp(lambda m: evaluate(f, m, p), (xp.expand_dims(mu, axis=0),))
        slope = be.stop_gradient(pullback(xp.ones_like(at_mean))[0])
        rise = xp.sum(slope * (x - mu), axis=tuple(range(values.ndim, x.ndim)))
        rest = constant(be, values) - constant(be, at_mean) - rise
        towards_mean = mean_pullback(be.cast(slope[0, ...], mu.dtype))
    grads = (a + b for a, b in zip(p.weighted_score(x, rest / n), towards_mean, strict=True))
    return attach(mean(values), p, tuple(grads), estimator="muprop")
