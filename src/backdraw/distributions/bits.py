"""Log-odds and bits: the functions of the Bernoulli family, each with its gradient."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.base import fold, times
from backdraw.distributions.elementwise import unbroadcast
from backdraw.distributions.temperature import cut_vjp
from backdraw.primitive import primitive


def widened(be: Backend, x: Array) -> Array:
    """Return x in the dtype to compute in."""
    return be.cast(x, be.wide(x.dtype))


@primitive(native=True, symmetric=True)
def sigmoid(be: Backend, u: Array, *, temperature: float, dtype: Any) -> Array:
    """Sigmoid of u / temperature, rounded to a dtype."""
    return _sigmoid_fwd(be, u, temperature=temperature, dtype=dtype)[0]


def _sigmoid_fwd(be: Backend, u: Array, *, temperature: float, dtype: Any) -> tuple[Array, Any]:
    y = be.rowwise(_sigmoid, widened(be, u), temperature=temperature)
    return be.cast(y, dtype), (y, None if u.dtype == y.dtype else u)


def _sigmoid(be: Backend, u: Array, *, temperature: float) -> Array:
    return be.sigmoid(u, temperature)


def _sigmoid_vjp(be: Backend, residuals: Any, g: Array, *, temperature: float, dtype: Any) -> tuple[Array]:  # noqa: ARG001
    y, u = residuals
    back = be.cast(g, y.dtype) * (y * (1.0 - y)) / temperature
    return (back if u is None else be.xp.astype(back, u.dtype),)


sigmoid.defvjp(_sigmoid_fwd, _sigmoid_vjp)


@primitive(native=True)
def tempered(be: Backend, u: Array, temperature: Array) -> Array:
    """Utilities over a temperature that has a gradient, cut at +-1000 where the sigmoid is 0 or 1 in every dtype."""
    return _tempered_fwd(be, u, temperature)[0]


def _tempered_fwd(be: Backend, u: Array, temperature: Array) -> tuple[Array, Any]:
    xp, wide = be.xp, widened(be, u)
    t = be.cast(temperature, wide.dtype)
    bound = 1000.0 * be.stop_gradient(t)
    cut = xp.abs(wide) >= bound
    z = xp.where(cut, xp.where(wide > 0, bound, -bound), wide) / t
    return z, (z, cut, u, temperature)


tempered.defvjp(_tempered_fwd, cut_vjp)


@primitive(native=True)
def both(be: Backend, logits: Array) -> Array:
    """Probabilities of 0 and of 1, stacked in front."""
    return _both_fwd(be, logits)[0]


def _both_fwd(be: Backend, logits: Array) -> tuple[Array, Any]:
    u = widened(be, logits)
    p, q = be.sigmoid(u), be.sigmoid(-u)
    return be.cast(be.xp.stack([q, p]), logits.dtype), (logits, p * q)


def _both_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array]:
    logits, slope = residuals
    return (be.cast((g[1, ...] - g[0, ...]) * slope, logits.dtype),)


both.defvjp(_both_fwd, _both_vjp)


def _log_probs(be: Backend, logits: Array) -> tuple[Array, Array]:
    u = widened(be, logits)
    return be.log_sigmoid(-u), be.log_sigmoid(u)


@primitive(native=True)
def log_prob(be: Backend, logits: Array, x: Array) -> Array:
    """``x * log(p) + (1 - x) * log(1 - p)``; -inf for a bit of probability 0."""
    xp = be.xp
    log0, log1 = _log_probs(be, logits)
    wide = be.cast(x, log1.dtype)
    impossible = ((log1 == -xp.inf) & (x > 0)) | ((log0 == -xp.inf) & (x < 1))
    value = times(be, wide, log1) + times(be, 1.0 - wide, log0)
    return be.cast(xp.where(impossible, -xp.inf, value), logits.dtype)


def _log_prob_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array]:
    logits, x = residuals
    xp, u = be.xp, widened(be, residuals[0])
    g = be.cast(g, u.dtype)
    to_logits = g * (be.cast(x, u.dtype) - be.sigmoid(u))
    to_x = g * xp.where(xp.isinf(u), 0.0, u)
    pair = (unbroadcast(be, to_logits, logits.shape), unbroadcast(be, to_x, x.shape))
    return be.cast(pair[0], logits.dtype), be.cast(pair[1], x.dtype)


log_prob.defvjp(lambda be, logits, x: (log_prob.function(be, logits, x), (logits, x)), _log_prob_vjp)


@primitive(native=True)
def log_partition(be: Backend, logits: Array) -> Array:
    """``log(1 + exp(logits))``."""
    return be.cast(-be.log_sigmoid(-widened(be, logits)), logits.dtype)


def _log_partition_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array]:
    (logits,) = residuals
    return (be.cast(g * be.sigmoid(widened(be, logits)), logits.dtype),)


log_partition.defvjp(lambda be, logits: (log_partition.function(be, logits), (logits,)), _log_partition_vjp)


@primitive(native=True)
def entropy(be: Backend, logits: Array) -> Array:
    """``-p * log(p) - (1 - p) * log(1 - p)``."""
    log0, log1 = _log_probs(be, logits)
    value = -times(be, be.xp.exp(log0), log0) - times(be, be.xp.exp(log1), log1)
    return be.cast(value, logits.dtype)


def _slope(be: Backend, u: Array) -> Array:
    return be.sigmoid(u) * be.sigmoid(-u)


def _entropy_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array]:
    (logits,) = residuals
    u = widened(be, logits)
    back = -be.xp.where(be.xp.isinf(u), 0.0, u) * _slope(be, u)
    return (be.cast(g * back, logits.dtype),)


entropy.defvjp(lambda be, logits: (entropy.function(be, logits), (logits,)), _entropy_vjp)


@primitive(native=True)
def kl(be: Backend, p_logits: Array, q_logits: Array) -> Array:
    """KL of two bits; +inf where p has weight on a value that q excludes."""
    xp = be.xp
    value, impossible = 0.0, False
    for logp, logq in zip(_log_probs(be, p_logits), _log_probs(be, q_logits), strict=True):
        p = xp.exp(logp)
        value = value + times(be, p, logp) - times(be, p, logq)
        impossible = impossible | ((logp > -xp.inf) & (logq == -xp.inf))
    return be.cast(xp.where(impossible, xp.inf, value), p_logits.dtype)


def _kl_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array]:
    p_logits, q_logits = residuals
    xp, p, q = be.xp, widened(be, residuals[0]), widened(be, residuals[1])
    ratio = xp.where(xp.isinf(p), 0.0, p) - xp.where(xp.isinf(q), 0.0, q)
    to_p, to_q = g * ratio * _slope(be, p), g * xp.where(xp.isinf(q), 0.0, be.sigmoid(q) - be.sigmoid(p))
    return be.cast(to_p, p_logits.dtype), be.cast(to_q, q_logits.dtype)


kl.defvjp(lambda be, p, q: (kl.function(be, p, q), (p, q)), _kl_vjp)


@primitive(native=True)
def conditional_logistics(be: Backend, logits: Array, x: Array, noise: Array) -> Array:
    """Logistics with location `logits` whose signs are the bits x, made of fresh standard ones."""
    return _conditional_fwd(be, logits, x, noise)[0]


def _conditional_fwd(be: Backend, logits: Array, x: Array, noise: Array) -> tuple[Array, Any]:
    # Given a 1, the utility is logits + logit(1 - p + p * v) = softplus(noise + softplus(logits)), where noise = logit(v);
    # given a 0 the same with all signs changed.
    xp = be.xp
    sign = xp.where(x > 0, xp.ones_like(noise), -1.0)
    inner = sign * noise - be.log_sigmoid(-sign * be.cast(logits, noise.dtype))
    return -sign * be.log_sigmoid(-inner), (logits, sign, inner)


def _conditional_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, None, None]:
    logits, sign, inner = residuals
    slope = be.sigmoid(inner) * be.sigmoid(sign * be.cast(logits, inner.dtype))
    return be.cast(g * slope, logits.dtype), None, None


conditional_logistics.defvjp(_conditional_fwd, _conditional_vjp)


def pull_given_argmax(be: Backend, logits: Array, u: Array, x: Array, g: Array) -> Array:
    """Gradient in the logits of <g, u - v>: u is logits + noise, v the same numbers as logistics drawn given the signs x."""
    # Given a 1, u = logit(1 - p + p v), whose derivative in the logits with v fixed is 1 - (1 - p) / sigmoid(u - logits);
    # given a 0 the same with all signs changed.
    xp, own = be.xp, be.cast(logits, g.dtype)
    noise = u - xp.where(xp.isinf(own), 0.0, own)
    sign = xp.where(x > 0, xp.ones_like(g), -1.0)
    g = g * xp.exp(be.log_sigmoid(-sign * own) - be.log_sigmoid(sign * noise))
    return be.cast(fold(be, g, logits), logits.dtype)
