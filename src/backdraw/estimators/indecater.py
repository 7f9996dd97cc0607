"""IndeCateR: every state of one factor at a time, the other factors drawn."""

import math
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.exact import event_start
from backdraw.estimators.expectation import Function, attach, check_samples, constant, draw, evaluate
from backdraw.estimators.registry import register
from backdraw.primitive import primitive


@register(
    kind="expectation", gradient="unbiased", forward="hard", law=False, differentiable_f=False, domain="discrete",
    needs=("sample", "support"), reference="arXiv 2311.12569",
)  # fmt: skip
def indecater(f: Function, dist: Distribution | Array, *, samples: int = 1, rng: Any = None) -> Array:
    r"""Mean of f with one factor summed out at a time, with the gradient of independent categorical REINFORCE.

    .. math::
        \nabla E[f(x)] \approx \sum_{d=1}^{D} \sum_{k=1}^{K} \nabla p(x_d = k) \,
        \frac{1}{S} \sum_s f(x_1^s, \ldots, x_d = k, \ldots, x_D^s)

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`. The D factors of a batch element are the batch axes of `dist` that f sums up.
    dist : Distribution or array
        Independent factors whose values can be enumerated, `backdraw.Categorical` or `backdraw.Bernoulli`; an array means
        ``Categorical(array)``.
    samples : int
        S, the number of independent draws of the other factors.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        :math:`\sum_k p(x_d = k) f(\ldots, x_d = k, \ldots)`, averaged over d and s, in the dtype of f's values. Its
        gradient goes to the distribution's parameters and to all that f closes over.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.reinforce`; TypeError also if `dist` cannot be enumerated.

    Notes
    -----
    Unbiased; without variance for one factor, and for an f that is a sum over the factors. f is called twice: with one
    value, to see which axes it sums up, and with S * D * K samples. A state of probability 0 adds nothing, whatever f makes
    of it.

    References
    ----------
    L. De Smet, E. Sansone, P. Zuidberg Dos Martires, Differentiable Sampling of Categorical Distributions Using the
    CatLog-Derivative Trick, 2023, arXiv 2311.12569.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: np.argmax(x, -1).sum(-1) ** 2.0
    >>> logits = np.zeros((2, 3))
    >>> estimate = lambda l: backdraw.indecater(f, l, samples=100, rng=backdraw.key(0))
    >>> backdraw.value_and_grad(estimate)(logits)[1][0].round(2)
    array([[-1.21, -0.22,  1.43],
           [-1.22, -0.22,  1.44]])
    >>> backdraw.value_and_grad(lambda l: backdraw.exact(f, l))(logits)[1][0].round(2)
    array([[-1.22, -0.22,  1.44],
           [-1.22, -0.22,  1.44]])
    """
    p = as_distribution(dist, "indecater", "sample", "support")
    s = check_samples("indecater", samples)
    be = p.backend
    xp = be.xp
    n = event_start(f, p)
    batch, factors = p.batch_shape[:n], p.batch_shape[n:]
    d = math.prod(factors)
    states, _ = p.stopped().support()
    k = states.shape[0]
    one = xp.reshape(xp.eye(d, dtype=states.dtype, device=be.device(states)), (d, *(1,) * n, *factors)) > 0
    x = draw(p, s, rng)
    x = xp.where(xp.expand_dims(p.over_event(one), axis=1), states, xp.reshape(x, (s, 1, 1, *x.shape[1:])))
    values = evaluate(f, xp.reshape(x, (s * d * k, *states.shape[1:])), p)

    wide = tuple(be.cast(be.stop_gradient(x), be.wide(x.dtype)) for x in p.params)
    probs, pullback = be.vjp(lambda *params: p.replace(**dict(zip(p.parameters, params, strict=True))).support()[1], wide)
    probs = be.stop_gradient(probs)
    plain = xp.mean(xp.reshape(constant(be, values), (s, d, k, *batch)), axis=0)
    of_states = xp.reshape(xp.moveaxis(plain, 0, -1), probs.shape)
    grads = pullback(be.cast(xp.where(probs > 0, of_states, 0.0), probs.dtype))
    each = xp.moveaxis(xp.reshape(probs, (k, *batch, d)), -1, 0) / (s * d)
    weights = xp.reshape(xp.broadcast_to(each, (s, *each.shape)), values.shape)
    return attach(weighted(values, weights), p, grads, estimator="indecater")


@primitive(native=True)
def weighted(be: Backend, values: Array, weights: Array) -> Array:
    """Sum over the samples under weights that are constants; what has weight 0 adds nothing."""
    return be.cast(be.xp.sum(weights * be.xp.where(weights > 0, values, 0.0), axis=0), values.dtype)


weighted.defvjp(
    lambda be, values, weights: (weighted.function(be, values, weights), (values, weights)),
    lambda be, residuals, g: (be.cast(g * residuals[1], residuals[0].dtype), None),
)
