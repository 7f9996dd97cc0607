"""Draws without replacement: no joint value is drawn twice, so that no call of f is spent twice on the same."""

from typing import Any

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.distributions import Categorical, Distribution
from backdraw.errors import InvalidValueError
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.exact import expect
from backdraw.estimators.expectation import Function, attach, check_samples, constant, draw_samples, evaluate, evaluate_rest
from backdraw.estimators.joint import chosen, joint_log_probs, number_of, of_states, states_of
from backdraw.estimators.leave_one_out import ratios
from backdraw.estimators.registry import register

MOST = 12  # samples of unordered_set: the ratios are sums over the 2**samples subsets

_STATED: dict[str, Any] = {
    "kind": "expectation", "gradient": "unbiased", "forward": "hard", "law": False, "differentiable_f": False,
    "domain": "discrete", "needs": ("support", "score"),
}  # fmt: skip


@register(**_STATED, reference="arXiv 2002.06043")
def unordered_set(f: Function, dist: Distribution | Array, *, samples: int = 2, rng: Any = None) -> Array:
    r"""Weighted sum of f over a set S of different draws, with the unordered set gradient and its built-in baseline.

    .. math::
        E[f(x)] &\approx \sum_{s \in S} p(s) R(S, s) f(s)

        \nabla E[f(x)] &\approx \sum_{s \in S} p(s) R(S, s) \Bigl[\Bigl(f(s) - \sum_{s' \in S} p(s') R^{D \setminus s}(S, s')
        f(s')\Bigr) \nabla \log p(s) + \nabla f(s)\Bigr]

    where :math:`p^C(A)` is the probability that draws without replacement from the domain C are the set A first, and

    .. math::
        R(S, s) = \frac{p^{D \setminus s}(S \setminus s)}{p^D(S)}, \qquad
        R^{D \setminus s}(S, s') = \frac{p^{D \setminus \{s, s'\}}(S \setminus \{s, s'\})}{p^{D \setminus s}(S \setminus s)}.

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`. The draws are joint values of its event axes.
    dist : Distribution or array
        A distribution whose values can be enumerated; an array means ``Categorical(array)``.
    samples : int
        The size of S, from 2 to 12, and at most the number of joint values.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The weighted sum, in the dtype of f's values. Its gradient
        goes to the distribution's parameters and to all that f closes over.

    Raises
    ------
    TypeError
        If `dist` cannot be enumerated, f returns no array of its framework, or an argument is of another type.
    ValueError
        If there are more than 2**20 joint values, f's values have another shape, or `samples` is out of range.
    GradientError
        If a second derivative is asked for.

    Notes
    -----
    Both are unbiased, and exact where S has all values of positive probability. The weights of the values sum to one and
    those of the scores to zero: a constant added to f leaves the gradient as it is. The ratios are exact sums over the
    subsets of S. Each draw takes a pass over all joint values, and all together over 2**samples subsets. f is called twice:
    with one draw, which shows which axes it keeps as batch axes, and with the others. If fewer than `samples` values have
    positive probability, f is shown others too, or the same again; they add nothing, whatever f makes of them.

    References
    ----------
    W. Kool, H. van Hoof, M. Welling, Estimating Gradients for Discrete Random Variables by Sampling without Replacement,
    arXiv 2002.06043.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: np.argmax(x, -1) ** 2.0
    >>> grad = lambda estimate: backdraw.value_and_grad(estimate)(np.zeros(3))[1][0].round(3)
    >>> grad(lambda l: backdraw.unordered_set(f, l, rng=backdraw.key(1)))
    array([-1.333,  0.   ,  1.333])
    >>> grad(lambda l: backdraw.unordered_set(f, l, samples=3, rng=backdraw.key(0)))
    array([-0.556, -0.222,  0.778])
    """
    p = as_distribution(dist, "unordered_set", *_STATED["needs"])
    k = check_samples("unordered_set", samples, 2)
    if k > MOST:
        raise InvalidValueError(f"samples: unordered_set takes at most {MOST}, for its sums over 2**samples subsets, got {k}")
    be = p.backend
    xp = be.xp
    for_first, for_rest = random.streams(be, rng, 2, p.params[0])
    x = draw_samples(p, 1, for_first)
    first = evaluate(f, x, p)
    n = first.ndim - 1
    support, logp = _joint(p, n, k)
    start = number_of(p, n, support, states_of(p, support, x)[0, ...])
    noise = random.noise(be, "gumbel", for_rest, tuple(logp.shape), logp)
    index, log_drawn, rest = _largest(be, be.add_to(noise, logp), logp, k, start)
    x = chosen(p, n, support, index)
    values = evaluate_rest(f, first, x, p)
    log_weights, log_others = ratios(be, log_drawn, be.logsumexp(rest))
    weights = xp.exp(log_weights)
    plain = _weighed(be, values, weights)
    baselines = xp.sum(xp.exp(log_others) * xp.expand_dims(plain, axis=-2), axis=-1)
    scores = p.weighted_score(x, _first(be, weights * (plain - baselines)), centred=True)
    return attach(expect(_first(be, log_weights), values), p, scores, estimator="unordered_set")


@register(**_STATED, reference="arXiv 1810.04777")
def sum_and_sample(f: Function, dist: Distribution | Array, *, samples: int = 2, rng: Any = None) -> Array:
    r"""Sum of f over the likeliest values and one draw r from the rest, with the score-function gradient of each.

    .. math::
        E[f(x)] &\approx \sum_{s \in C} p(s) f(s) + (1 - p(C)) f(r)

        \nabla E[f(x)] &\approx \sum_{s \in C} p(s) (f(s) \nabla \log p(s) + \nabla f(s))
        + (1 - p(C)) (f(r) \nabla \log p(r) + \nabla f(r))

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`. The values are joint values of its event axes.
    dist : Distribution or array
        A distribution whose values can be enumerated; an array means ``Categorical(array)``.
    samples : int
        One more than the size of C; at least 2, and at most the number of joint values.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        As `backdraw.unordered_set`.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.unordered_set`; there is no upper bound on `samples` but the number of joint values.

    Notes
    -----
    Both are unbiased, and exact where C has all of the probability or leaves one value. There is no baseline: a constant
    added to f adds to the variance. f is called as by `backdraw.unordered_set`.

    References
    ----------
    R. Liu, J. Regier, N. Tripuraneni, M. I. Jordan, J. McAuliffe, Rao-Blackwellized Stochastic Gradients for Discrete
    Distributions, arXiv 1810.04777.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: np.argmax(x, -1) ** 2.0
    >>> estimate = lambda l: backdraw.sum_and_sample(f, l, rng=backdraw.key(0))
    >>> value, (grad,) = backdraw.value_and_grad(estimate)(np.log([0.1, 0.7, 0.2]))
    >>> float(value.round(3)), grad.round(3)
    (1.9, array([-0.19, -0.63,  0.82]))
    """
    p = as_distribution(dist, "sum_and_sample", *_STATED["needs"])
    k = check_samples("sum_and_sample", samples, 2)
    be = p.backend
    xp = be.xp
    values, probs = p.stopped().support()
    likeliest = xp.argmax(probs, axis=0)
    first = evaluate(f, of_states(p, values, xp.expand_dims(likeliest, axis=0)), p)
    n = first.ndim - 1
    support, logp = _joint(p, n, k)
    summed, log_summed, rest = _largest(be, logp, logp, k - 1, number_of(p, n, support, likeliest))
    drawn = xp.argmax(draw_samples(Categorical(rest), 1, rng)[0, ...], axis=-1, keepdims=True)
    x = chosen(p, n, support, xp.concat([summed, xp.astype(drawn, summed.dtype)], axis=-1))
    values = evaluate_rest(f, first, x, p)
    log_weights = xp.concat([log_summed, be.logsumexp(rest)], axis=-1)
    weights = xp.exp(log_weights)
    scores = p.weighted_score(x, _first(be, weights * _weighed(be, values, weights)))
    return attach(expect(_first(be, log_weights), values), p, scores, estimator="sum_and_sample")


def _joint(p: Any, n: int, samples: int) -> tuple[Array, Array]:
    values, logp = joint_log_probs(p, n)
    if samples > logp.shape[-1]:
        raise InvalidValueError(f"samples: expected at most {logp.shape[-1]}, the number of joint values, got {samples}")
    return values, logp


def _largest(be: Backend, utilities: Array, logp: Array, k: int, first: Array) -> tuple[Array, Array, Array]:
    """Return `first` and the numbers of the k - 1 largest other utilities, their log-probabilities, and all others.

    Of equals the first comes first, on every backend. In the places of those returned, the others have -inf. Where no utility
    is left but -inf, a number comes again, and its log-probability is then -inf.
    """
    xp, index, found = be.xp, first, []
    places = xp.arange(logp.shape[-1], dtype=first.dtype, device=be.device(first))
    for left in range(k - 1, -1, -1):
        found.append((index, be.gather(logp, index)))
        utilities, logp = (xp.where(index == places, -xp.inf, u) for u in (utilities, logp))
        if left:
            index = xp.astype(xp.argmax(utilities, axis=-1, keepdims=True), first.dtype)
    numbers, log_probs = (xp.concat(list(each), axis=-1) for each in zip(*found, strict=True))
    return numbers, log_probs, logp


def _first(be: Backend, x: Array) -> Array:
    return be.moveaxis(x, -1, 0)


def _weighed(be: Backend, values: Array, weights: Array) -> Array:
    """Return the values as constants with the samples last; 0 where the weight is, whatever f has made of them."""
    return be.xp.where(weights == 0, 0.0, be.moveaxis(constant(be, values), 0, -1))
