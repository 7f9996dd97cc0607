"""Draws without replacement: no joint value is drawn twice, so that no call of f is spent twice on the same."""

import math
from typing import Any

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.distributions import Categorical, Distribution
from backdraw.errors import InvalidValueError
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.exact import LIMIT, expect, states_of
from backdraw.estimators.expectation import Function, attach, check_samples, constant, draw, evaluate, evaluate_rest
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
    x = draw(p, 1, for_first)
    first = evaluate(f, x, p)
    n = first.ndim - 1
    support, logp = _joint(p, n, k)
    start = _number(p, n, support, states_of(p, support, x)[0, ...])
    noise = random.noise(be, "gumbel", for_rest, tuple(logp.shape), logp)
    index, log_drawn, rest = _largest(be, be.add_to(noise, logp), logp, k, start)
    x = _chosen(p, n, support, index)
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
    first = evaluate(f, _of_states(p, values, xp.expand_dims(likeliest, axis=0)), p)
    n = first.ndim - 1
    support, logp = _joint(p, n, k)
    summed, log_summed, rest = _largest(be, logp, logp, k - 1, _number(p, n, support, likeliest))
    drawn = xp.argmax(draw(Categorical(rest), 1, rng)[0, ...], axis=-1, keepdims=True)
    x = _chosen(p, n, support, xp.concat([summed, xp.astype(drawn, summed.dtype)], axis=-1))
    values = evaluate_rest(f, first, x, p)
    log_weights = xp.concat([log_summed, be.logsumexp(rest)], axis=-1)
    weights = xp.exp(log_weights)
    scores = p.weighted_score(x, _first(be, weights * _weighed(be, values, weights)))
    return attach(expect(_first(be, log_weights), values), p, scores, estimator="sum_and_sample")


# --------------------------------------------------------------------------- joint values, numbered on the last axis
def _joint(p: Any, n: int, samples: int) -> tuple[Array, Array]:
    """Return the values of one factor, and the log-probabilities of all joint values of the batch axes from the n-th on.

    A joint value is its number, whose j-th digit is the state of factor j: as arrays, K values of K categories alone
    would take K**2 numbers per batch element.
    """
    be = p.backend
    xp, lead, m = be.xp, p.batch_shape[:n], math.prod(p.batch_shape[n:])
    wide = {name: constant(be, getattr(p, name)) for name in p.parameters}
    values, probs = p.replace(**wide).support()
    states = values.shape[0]
    if m * math.log2(states) > math.log2(LIMIT):
        count = str(states**m) if m < 100 else f"{states}**{m}"
        raise InvalidValueError(
            f"dist: expected at most {LIMIT} joint values, got {count}, of {m} factors with {states} values each; "
            "take an estimator that draws with replacement, such as backdraw.rloo"
        )
    if samples > states**m:
        raise InvalidValueError(f"samples: expected at most {states**m}, the number of joint values, got {samples}")
    never = probs == 0
    each = xp.where(never, -xp.inf, xp.log(xp.where(never, 1.0, probs)))
    each = be.moveaxis(xp.reshape(each, (states, *lead, m)), 0, -1)
    logp = xp.zeros((*lead, 1), dtype=each.dtype, device=be.device(each))
    for j in range(m):
        grown = xp.expand_dims(each[..., j, :], axis=-1) + xp.expand_dims(logp, axis=-2)
        logp = xp.reshape(grown, (*lead, states ** (j + 1)))
    return values, logp


def _number(p: Any, n: int, values: Array, states: Array) -> Array:
    """Return the number of the joint value with these states of the factors, on a last axis of size 1."""
    be, lead = p.backend, p.batch_shape[:n]
    digits = be.xp.reshape(states, (*lead, math.prod(p.batch_shape[n:])))
    return be.xp.sum(digits * _powers(be, values, digits), axis=-1, keepdims=True, dtype=digits.dtype)


def _powers(be: Backend, values: Array, digits: Array) -> Array:
    """Return what the digits count, the last axis being theirs."""
    powers = [values.shape[0] ** j for j in range(digits.shape[-1])]
    return be.xp.asarray(powers, dtype=digits.dtype, device=be.device(digits))


def _chosen(p: Any, n: int, values: Array, index: Array) -> Array:
    """Return the joint values of these numbers as samples of the distribution's shape."""
    be = p.backend
    xp, factors = be.xp, math.prod(p.batch_shape[n:])
    index = xp.broadcast_to(xp.expand_dims(index, axis=-1), (*index.shape, factors))
    states = be.moveaxis(index // _powers(be, values, index) % values.shape[0], -2, 0)
    return be.cast(_of_states(p, values, xp.reshape(states, (states.shape[0], *p.batch_shape))), p.params[0].dtype)


def _of_states(p: Any, values: Array, states: Array) -> Array:
    """Return samples whose factors have these states."""
    xp, states = p.backend.xp, p.over_event(states)
    return xp.take_along_axis(values, xp.broadcast_to(states, (states.shape[0], *values.shape[1:])), axis=0)


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
