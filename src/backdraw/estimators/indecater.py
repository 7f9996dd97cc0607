"""IndeCateR: every state of one factor at a time, the other factors drawn."""

import math
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.expectation import (
    Function,
    attach,
    check_samples,
    constant,
    draw_samples,
    evaluate,
    evaluate_rest,
    sealed,
)
from backdraw.estimators.joint import of_states, states_of
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
    Unbiased; without variance for one factor, and for an f that is a sum over the factors. f is called twice: with S draws,
    whose values show which axes it sums up, and with the S * D * (K - 1) that differ from them in one factor. A state of
    probability 0 adds nothing, whatever f makes of it.

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
    x = draw_samples(p, s, rng)
    first = evaluate(f, x, p)
    n = first.ndim - 1
    batch, factors = p.batch_shape[:n], p.batch_shape[n:]
    d = math.prod(factors)
    states, _ = p.stopped().support()
    k = states.shape[0]
    # Turn 0 of a factor is its state in the draw, and the other turns are the other states: on axis 1 here.
    drawn = xp.expand_dims(states_of(p, states, x), axis=1)
    turns = xp.reshape(xp.arange(k, dtype=drawn.dtype, device=be.device(drawn)), (1, k, *(1,) * (drawn.ndim - 2)))
    turned = (drawn + turns) % k
    other = of_states(p, states, xp.reshape(turned[:, 1:, ...], (s * (k - 1), *p.batch_shape)))
    one = xp.reshape(xp.eye(d, dtype=states.dtype, device=be.device(states)), (d, 1, *(1,) * n, *factors)) > 0
    other = xp.reshape(other, (s, 1, k - 1, *states.shape[1:]))
    others = xp.where(p.over_event(one), other, xp.reshape(x, (s, 1, 1, *x.shape[1:])))
    others = xp.reshape(others, (s * d * (k - 1), *states.shape[1:]))
    values = evaluate_rest(f, first, xp.concat([x, others], axis=0), p)

    wide = tuple(be.cast(be.stop_gradient(x), be.wide(x.dtype)) for x in p.params)
    with sealed(be):
        probs, pullback = be.vjp(lambda *params: p.with_params(params).support()[1], wide)
    probs = be.stop_gradient(probs)
    plain = constant(be, values)
    at_draw = xp.broadcast_to(xp.reshape(plain[:s, ...], (s, 1, 1, *batch)), (s, d, 1, *batch))
    plain = xp.concat([at_draw, xp.reshape(plain[s:, ...], (s, d, k - 1, *batch))], axis=2)
    plain = xp.reshape(be.moveaxis(plain, 1, -1), turned.shape)
    of_each = be.mean_samples(xp.take_along_axis(plain, (turns - drawn) % k, axis=1))
    grads = pullback(be.cast(xp.where(probs > 0, of_each, 0.0), probs.dtype))
    share = xp.take_along_axis(xp.broadcast_to(probs, turned.shape), turned, axis=1) / (s * d)
    share = xp.reshape(share, (s, k, *batch, d))
    rest = xp.reshape(be.moveaxis(share[:, 1:, ...], -1, 1), values[s:, ...].shape)
    weights = xp.concat([xp.sum(share[:, 0, ...], axis=-1), rest], axis=0)
    return attach(weighted(values, weights), p, grads, estimator="indecater")


@primitive(native=True)
def weighted(be: Backend, values: Array, weights: Array) -> Array:
    """Sum over the samples under weights that are constants; what has weight 0 adds nothing."""
    return be.cast(be.sum_samples(weights * be.xp.where(weights > 0, values, 0.0)), values.dtype)


weighted.defvjp(
    lambda be, values, weights: (weighted.function(be, values, weights), (values, weights)),
    lambda be, residuals, g: (be.cast(g * residuals[1], residuals[0].dtype), None),
)
