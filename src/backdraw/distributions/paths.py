"""Paths through a chain of variables: the functions of the chain, each with its gradient."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import markov
from backdraw.distributions.base import finite, fold
from backdraw.primitive import primitive


def _with_samples(be: Backend, x: Array, states: Array, pairs: Array) -> tuple[Array, Array, Array]:
    """Return x with time in front, and what is of states and pairs with axes for the samples that x has."""
    xp = be.xp
    y = markov.to_front(be, be.cast(x, xp.float64), 2)
    more = (1,) * (y.ndim - states.ndim)
    return y, *(xp.reshape(z, (z.shape[0], *more, *z.shape[1:])) for z in (states, pairs))


def _back(be: Backend, u: Array, w: Array, to_u: Array, to_w: Array) -> tuple[Array, Array]:
    """Return gradients with the axis of time where the arrays have it, in their shapes and dtypes."""
    to_u, to_w = fold(be, markov.from_front(be, to_u, 2), u), fold(be, markov.from_front(be, to_w, 3), w)
    return be.cast(to_u, u.dtype), be.cast(to_w, w.dtype)


def _over_path(g: Array) -> tuple[Array, Array]:
    """Give a cotangent of the batch shape the axes of a variable, and of a pair."""
    return g[None, ..., None], g[None, ..., None, None]


# ------------------------------------------------------------------------------------------------- primitives
@primitive(linear=True, loops=True)
def marginals(be: Backend, u: Array, w: Array, *, temperature: float, dtype: Any) -> Array:
    """Probability of each state at each time, at the utilities over the temperature, rounded to a dtype."""
    return _marginals_fwd(be, u, w, temperature=temperature, dtype=dtype)[0]


def _marginals_fwd(be: Backend, u: Array, w: Array, *, temperature: float, dtype: Any) -> tuple[Array, Any]:
    with be.double():
        v, kernels = markov.kernels(be, u, w, temperature)
        m = markov.marginals(be, v, kernels)
        return be.cast(markov.from_front(be, m, 2), dtype), (w, m, *kernels)


def _marginals_bwd(be: Backend, residuals: Any, g: Array, *, temperature: float, dtype: Any) -> tuple[Array, Array]:  # noqa: ARG001
    w, m, *kernels = residuals
    with be.double():
        g = markov.to_front(be, be.cast(g, m.dtype), 2)
        return markov.covariance(be, kernels, m, g if temperature == 1.0 else g / temperature, w)


marginals.defvjp(_marginals_fwd, _marginals_bwd)


@primitive(linear=True, loops=True)
def log_partition(be: Backend, u: Array, w: Array) -> Array:
    """Logarithm of the sum over all paths; -inf where there is none."""
    return _log_partition_fwd(be, u, w)[0]


def _log_partition_fwd(be: Backend, u: Array, w: Array) -> tuple[Array, Any]:
    with be.double():
        v, kernels = markov.kernels(be, u, w)
        return be.cast(be.logsumexp(v)[..., 0], u.dtype), (u, w, v, *kernels)


def _log_partition_bwd(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array]:
    u, w, v, *kernels = residuals
    with be.double():
        m = markov.marginals(be, v, kernels)
        each, pair = _over_path(be.cast(g, m.dtype))
        return _back(be, u, w, each * m, pair * markov.pairs(m, kernels))


log_partition.defvjp(_log_partition_fwd, _log_partition_bwd)


@primitive(linear=True, loops=True)
def entropy(be: Backend, u: Array, w: Array) -> Array:
    """Entropy of the first variable, and of each next one given that before it."""
    return _entropy_fwd(be, u, w)[0]


def _entropy_fwd(be: Backend, u: Array, w: Array) -> tuple[Array, Any]:
    xp = be.xp
    with be.double():
        v, kernels = markov.kernels(be, u, w)
        m = markov.marginals(be, v, kernels)
        value = -xp.sum(m[0, ...] * _log(be, m[0, ...]), axis=-1)
        value = value - xp.sum(xp.sum(markov.pairs(m, kernels) * _log(be, markov.whole(kernels)), axis=(-2, -1)), axis=0)
        return be.cast(value, u.dtype), (w, m, *kernels)


def _log(be: Backend, p: Array) -> Array:
    return be.xp.log(be.xp.where(p > 0, p, 1.0))


def _entropy_bwd(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array]:
    w, m, *kernels = residuals
    xp = be.xp
    with be.double():
        surprise = xp.concat([_log(be, m[:1, ...]), xp.zeros_like(m[1:, ...])], axis=0)
        each, pair = _over_path(be.cast(-g, m.dtype))
        pair = pair * _log(be, markov.whole(kernels))
        return markov.covariance(be, kernels, m, each * surprise, w, pair)


entropy.defvjp(_entropy_fwd, _entropy_bwd)


@primitive(linear=True, loops=True)
def kl(be: Backend, u: Array, w: Array, a: Array, b: Array) -> Array:
    """KL of p, with utilities u and w, from q, with a and b: E_p[p's utility - q's] - log Z(u, w) + log Z(a, b)."""
    return _kl_fwd(be, u, w, a, b)[0]


def _kl_fwd(be: Backend, u: Array, w: Array, a: Array, b: Array) -> tuple[Array, Any]:
    xp = be.xp
    with be.double():
        v, kernels = markov.kernels(be, u, w)
        own, other = (be.logsumexp(x)[..., 0] for x in (v, markov.kernels(be, a, b)[0]))
        m = markov.marginals(be, v, kernels)
        both, (of_states, of_steps) = markov.pairs(m, kernels), markov.time_first(be, a, b)
        impossible = xp.any((m > 0) & (of_states == -xp.inf), axis=(0, -1)) | (other == -xp.inf)
        impossible = impossible | xp.any((both > 0) & (of_steps == -xp.inf), axis=(0, -2, -1))
        states, steps = _gaps(be, u, w, a, b)
        value = xp.sum(m * states, axis=(0, -1)) + xp.sum(both * steps, axis=(0, -2, -1))
        value = value + finite(be, other) - finite(be, own)
        value = xp.where(own == -xp.inf, 0.0, xp.where(impossible, xp.inf, value))
        return be.cast(value, u.dtype), (u, w, a, b, m, *kernels)


def _gaps(be: Backend, u: Array, w: Array, a: Array, b: Array) -> tuple[Array, ...]:
    pairs = zip(markov.time_first(be, u, w), markov.time_first(be, a, b), strict=True)
    return tuple(finite(be, mine) - finite(be, other) for mine, other in pairs)


def _kl_bwd(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array, Array, Array]:
    u, w, a, b, m, *kernels = residuals
    xp = be.xp
    with be.double():
        each, pair = _over_path(be.cast(g, m.dtype))
        states, steps = _gaps(be, u, w, a, b)
        to_u, to_w = markov.covariance(be, kernels, m, each * states, w, pair * steps)
        v, others = markov.kernels(be, a, b)
        other = markov.marginals(be, v, others)
        of_states, of_steps = markov.time_first(be, a, b)
        # Without a path of p the divergence is 0 whatever q is; what q excludes has no gradient.
        none, barred = _over_path(xp.all(m == 0, axis=(0, -1)))
        to_a = xp.where(none | (of_states == -xp.inf), 0.0, each * (other - m))
        to_b = markov.pairs(other, others) - markov.pairs(m, kernels)
        to_b = xp.where(barred | (of_steps == -xp.inf), 0.0, pair * to_b)
        return (to_u, to_w, *_back(be, a, b, to_a, to_b))


kl.defvjp(_kl_fwd, _kl_bwd)


@primitive(linear=True, loops=True)
def log_prob(be: Backend, u: Array, w: Array, x: Array) -> Array:
    """Return the utility of the path x less the log-partition; -inf where x takes a step of probability 0."""
    return _log_prob_fwd(be, u, w, x)[0]


def _log_prob_fwd(be: Backend, u: Array, w: Array, x: Array) -> tuple[Array, Any]:
    xp = be.xp
    with be.double():
        a, b = markov.time_first(be, u, w)
        v, kernels = markov.kernels(be, u, w)
        total = be.logsumexp(v)[..., 0]
        y, a, b = _with_samples(be, x, a, b)
        step = markov.times(y[:-1, ...], finite(be, b)) * y[1:, ...]
        barred = markov.times(y[:-1, ...], xp.astype(b == -xp.inf, b.dtype)) * y[1:, ...]
        impossible = xp.any((y > 0) & (a == -xp.inf), axis=(0, -1)) | xp.any(barred > 0, axis=(0, -1))
        value = xp.sum(y * finite(be, a), axis=(0, -1)) + xp.sum(step, axis=(0, -1)) - finite(be, total)
        return be.cast(xp.where(impossible, -xp.inf, value), u.dtype), (u, w, x, v, *kernels)


def _log_prob_bwd(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array, Array]:
    u, w, x, v, *kernels = residuals
    xp = be.xp
    with be.double():
        m = markov.marginals(be, v, kernels)
        y, a, b = _with_samples(be, x, *(finite(be, z) for z in markov.time_first(be, u, w)))
        _, m, both = _with_samples(be, x, m, markov.pairs(m, kernels))
        each, pair = _over_path(be.cast(g, m.dtype))
        to_u = each * (y - m)
        to_w = pair * (markov.outer(y) - both)
        none = xp.zeros_like(y[:1, ...])
        on = xp.concat([(b @ y[1:, ..., None])[..., 0], none], axis=0)
        to_x = each * (a + on + xp.concat([none, markov.times(y[:-1, ...], b)], axis=0))
        return (*_back(be, u, w, to_u, to_w), be.cast(markov.from_front(be, to_x, 2), x.dtype))


log_prob.defvjp(_log_prob_fwd, _log_prob_bwd)


# ------------------------------------------------------------------------------------------------- without gradients
def score(be: Backend, u: Array, w: Array, x: Array) -> tuple[Array, Array]:
    """Gradient of the log-probability of a path: what it has of each state and pair, less the probability."""
    with be.double():
        v, kernels = markov.kernels(be, u, w)
        m = markov.marginals(be, v, kernels)
        y, m, both = _with_samples(be, x, m, markov.pairs(m, kernels))
        to_u, to_w = markov.from_front(be, y - m, 2), markov.from_front(be, markov.outer(y) - both, 3)
        return be.cast(to_u, u.dtype), be.cast(to_w, w.dtype)


def sample(be: Backend, u: Array, w: Array, uniform: Array) -> Array:
    """Draw the first variable, and each next one given that before it, by inverse CDF."""
    n = u.shape[-1]
    with be.double():
        v, kernels = markov.kernels(be, u, w)
        uniform = markov.to_front(be, uniform, 2)

        def step(x: Array, *kernel_and_uniform: Array) -> Array:
            *kernel, uniform = kernel_and_uniform
            return be.one_hot(be.invert_cdf(markov.onward(x, *kernel), uniform), n, x.dtype)

        first = be.one_hot(be.invert_cdf(be.softmax(v), uniform[0, ...]), n, v.dtype)
        return be.cast(markov.from_front(be, markov.run(be, first, step, *kernels, uniform[1:, ...]), 2), u.dtype)


def best(be: Backend, u: Array, w: Array) -> Array:
    """Return the path of the largest utility (Viterbi), of equals the one that is first in order of its states."""
    xp, n = be.xp, u.shape[-1]
    with be.double():
        a, b = markov.time_first(be, u, w)

        def back(v: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
            s = x[1] + v[..., None, :]
            return x[0] + be.row_max(s)[..., 0], be.argmax(s)

        v, following = a[-1, ...], None
        if b.shape[0]:
            v, following = be.scan(back, v, (a[:-1, ...], b), reverse=True)
        state = be.argmax(v)[..., None]
        path = state[None, ...]
        if following is not None:
            path = markov.run(be, state, lambda s, table: be.gather(table, s), following)
        path = xp.where(be.row_max(v)[None, ...] == -xp.inf, n, path)
        return be.cast(markov.from_front(be, be.one_hot(path, n, a.dtype), 2), u.dtype)
