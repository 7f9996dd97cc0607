"""The law of one of K categories: log-probabilities, partition function, entropy and divergence, each with its gradient."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.base import finite
from backdraw.distributions.elementwise import unbroadcast
from backdraw.distributions.simplex import last, log_softmax_of_rows, unlast
from backdraw.primitive import primitive


def _log_softmax(be: Backend, logits: Array, axis: int) -> Array:
    u = last(be, be.cast(logits, be.wide(logits.dtype)), axis)
    return unlast(be, be.rowwise(log_softmax_of_rows, u), axis)


@primitive(native=True)
def log_prob(be: Backend, logits: Array, x: Array, *, axis: int) -> Array:
    """``sum(x * log_softmax(logits))``; -inf where x has weight on a category of probability 0."""
    xp = be.xp
    logp = _log_softmax(be, logits, axis)
    impossible = xp.any((logp == -xp.inf) & (x > 0), axis=axis)
    value = xp.sum(be.cast(x, logp.dtype) * finite(be, logp), axis=axis)
    return be.cast(xp.where(impossible, -xp.inf, value), logits.dtype)


def _log_prob_vjp(be: Backend, residuals: Any, g: Array, *, axis: int) -> tuple[Array, Array]:
    xp = be.xp
    logits, x = residuals
    logp = _log_softmax(be, logits, axis)
    g = xp.expand_dims(be.cast(g, logp.dtype), axis=axis)
    wide = be.cast(x, logp.dtype)
    to_logits = g * (wide - xp.sum(wide, axis=axis, keepdims=True) * xp.exp(logp))
    pair = (unbroadcast(be, to_logits, logits.shape), unbroadcast(be, g * finite(be, logp), x.shape))
    return be.cast(pair[0], logits.dtype), be.cast(pair[1], x.dtype)


log_prob.defvjp(lambda be, logits, x, *, axis: (log_prob.function(be, logits, x, axis=axis), (logits, x)), _log_prob_vjp)


@primitive(native=True)
def log_partition(be: Backend, logits: Array, *, axis: int) -> Array:
    """``log(sum(exp(logits)))`` along an axis."""
    total = be.logsumexp(last(be, be.cast(logits, be.wide(logits.dtype)), axis))
    return be.cast(total[..., 0], logits.dtype)


def _log_partition_vjp(be: Backend, residuals: Any, g: Array, *, axis: int) -> tuple[Array]:
    (logits,) = residuals
    p = unlast(be, be.softmax(last(be, be.cast(logits, be.wide(logits.dtype)), axis)), axis)
    return (be.cast(be.xp.expand_dims(be.cast(g, p.dtype), axis=axis) * p, logits.dtype),)


log_partition.defvjp(
    lambda be, logits, *, axis: (log_partition.function(be, logits, axis=axis), (logits,)), _log_partition_vjp
)


@primitive(native=True)
def entropy(be: Backend, logits: Array, *, axis: int) -> Array:
    """``-sum(p * log(p))`` of p = softmax(logits)."""
    logp = _log_softmax(be, logits, axis)
    value = -be.xp.sum(be.xp.exp(logp) * finite(be, logp), axis=axis)
    return be.cast(value, logits.dtype)


def _entropy_vjp(be: Backend, residuals: Any, g: Array, *, axis: int) -> tuple[Array]:
    (logits,) = residuals
    xp = be.xp
    logp = _log_softmax(be, logits, axis)
    p, logp = xp.exp(logp), finite(be, logp)
    back = -p * (logp - xp.sum(p * logp, axis=axis, keepdims=True))
    return (be.cast(xp.expand_dims(g, axis=axis) * back, logits.dtype),)


entropy.defvjp(lambda be, logits, *, axis: (entropy.function(be, logits, axis=axis), (logits,)), _entropy_vjp)


@primitive(native=True)
def kl(be: Backend, p_logits: Array, q_logits: Array, *, axis: int) -> Array:
    """``sum(p * (log(p) - log(q)))``; +inf where p has weight on a category that q excludes."""
    xp = be.xp
    logp, logq = _log_softmax(be, p_logits, axis), _log_softmax(be, q_logits, axis)
    impossible = xp.any((logp > -xp.inf) & (logq == -xp.inf), axis=axis)
    value = xp.sum(xp.exp(logp) * (finite(be, logp) - finite(be, logq)), axis=axis)
    return be.cast(xp.where(impossible, xp.inf, value), p_logits.dtype)


def _kl_vjp(be: Backend, residuals: Any, g: Array, *, axis: int) -> tuple[Array, Array]:
    p_logits, q_logits = residuals
    xp = be.xp
    logp, logq = _log_softmax(be, p_logits, axis), _log_softmax(be, q_logits, axis)
    p, ratio = xp.exp(logp), finite(be, logp) - finite(be, logq)
    g = xp.expand_dims(g, axis=axis)
    to_p = g * p * (ratio - xp.sum(p * ratio, axis=axis, keepdims=True))
    # Without a category in p the divergence is 0 whatever q is; what q excludes has no gradient.
    some = xp.any(logp > -xp.inf, axis=axis, keepdims=True) & (logq > -xp.inf)
    to_q = g * xp.where(some, xp.exp(logq) - p, 0.0)
    return be.cast(to_p, p_logits.dtype), be.cast(to_q, q_logits.dtype)


kl.defvjp(lambda be, p, q, *, axis: (kl.function(be, p, q, axis=axis), (p, q)), _kl_vjp)
