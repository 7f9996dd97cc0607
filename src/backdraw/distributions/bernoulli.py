"""The Bernoulli distribution over {0, 1}."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.distributions.base import Distribution, check_logits, perturb
from backdraw.errors import InvalidValueError
from backdraw.primitive import primitive


@dataclass(frozen=True, eq=False)
class Bernoulli(Distribution):
    r"""Independent bits: :math:`p(x = 1) = 1 / (1 + \exp(-l))`.

    Parameters
    ----------
    logits : array, any shape
        Log-odds; every axis is a batch axis. Any real floating dtype. -inf and inf are bits that never and always are 1.

    Raises
    ------
    TypeError
        If `logits` is not a real floating array.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Bernoulli(np.array([0.0, 2.0]))
    >>> p.mean().round(3)
    array([0.5  , 0.881])
    >>> backdraw.draw(p, rng=backdraw.key(0))
    array([0., 0.])
    """

    logits: Array

    arrays: ClassVar[tuple[str, ...]] = ("logits",)
    parameters: ClassVar[tuple[str, ...]] = ("logits",)

    def __post_init__(self) -> None:
        check_logits(self.logits)

    @property
    def utilities(self) -> Array:
        """The logits."""
        return self.logits

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the logits."""
        return tuple(self.logits.shape)

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Uniforms for `sample`, float64, one a bit."""
        be = self.backend
        with be.double():
            return random.noise(be, "uniform", rng, (*shape, *self.logits.shape), self.logits, be.xp.float64)

    def sample(self, noise: Array) -> Array:
        """Exact draws: 1 where the uniform is below the mean, compared in float64."""
        be = self.backend
        xp = be.xp
        with be.double():
            p = be.sigmoid(xp.astype(be.stop_gradient(self.logits), xp.float64))
            return xp.astype(noise < p, self.logits.dtype)

    def log_prob(self, x: Array) -> Array:
        """Log-probability of bits `x`, elementwise; differentiable in the logits and in x."""
        return log_prob(self.logits, x)

    def score(self, x: Array) -> Array:
        """Gradient of ``log_prob(x)`` in the logits: ``x - mean()``."""
        return x - self.stopped().mean()

    def mean(self, *, temperature: float = 1.0) -> Array:
        """Probability of a 1, of the logits divided by `temperature`."""
        return self.relax(self.logits, temperature)

    def support(self) -> tuple[Array, Array]:
        """Return the values 0 and 1, of shape ``(2, *logits.shape)``, and their probabilities, of the same shape."""
        xp = self.backend.xp
        values = xp.stack([xp.zeros_like(self.logits), xp.ones_like(self.logits)])
        return values, both(self.logits)

    def entropy(self) -> Array:
        """Entropy in nats, elementwise."""
        return entropy(self.logits)

    def kl(self, other: "Bernoulli") -> Array:
        """KL(self || other) in nats, elementwise."""
        if tuple(self.logits.shape) != tuple(other.logits.shape):
            raise InvalidValueError(f"q: expected logits of shape {tuple(self.logits.shape)}, got {tuple(other.logits.shape)}")
        return kl(self.logits, other.logits)

    def perturb_noise(self, rng: Any) -> Array:
        """Logistic noise for `perturb`: the difference of two Gumbels."""
        return random.noise(self.backend, "logistic", rng, tuple(self.logits.shape), self.logits)

    def perturb(self, noise: Array) -> Array:
        """Random utility of a 1 over that of a 0: logits plus logistic noise."""
        return perturb(self.logits, noise)

    def argmax(self, utilities: Array) -> Array:
        """1 where the utility is positive; no gradient."""
        be = self.backend
        return be.xp.astype(be.stop_gradient(utilities) > 0, self.logits.dtype)

    def relax(self, utilities: Array, temperature: Any = 1.0) -> Array:
        """Sigmoid of ``utilities / temperature`` with its exact vjp; `temperature` a number or a scalar array."""
        if not isinstance(temperature, float):
            utilities, temperature = tempered(utilities, temperature), 1.0
        return sigmoid(utilities, temperature=temperature, dtype=self.logits.dtype)

    def project(self, x: Array, step: Array, projection: str) -> Array:  # noqa: ARG002
        """Return the target of intermediate loss sampling: ``x - step`` clipped to [0, 1], whatever the `projection`."""
        return self.backend.xp.clip(x - step, 0.0, 1.0)

    def conditional_perturb(self, x: Array, noise: Array) -> Array:
        """Random utilities given that x is their argmax, of the noise that `perturb` takes; differentiable in the logits."""
        return conditional_perturb(self.logits, x, noise)

    def gapped(self, x: Array, gap: float) -> Array:
        """Return the logits moved no further than to where x is their argmax by `gap`; no gradient."""
        be = self.backend
        u = be.stop_gradient(self.logits)
        return be.xp.where(x > 0, be.at_least(u, gap), -be.at_least(-u, gap))

    def covariance_product(self, mean: Array, c: Array) -> Array:
        """Covariance of the bits whose mean is given, ``mean * (1 - mean)``, times c."""
        return c * (mean * (1.0 - mean))

    def rowwise(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """``body(p, *arrays, **static)``, where p are blocks of these bits."""
        return self.backend.rowwise(_of_rows, self.logits, *arrays, of_rows=body, **static)


def _of_rows(be: Backend, logits: Array, *arrays: Array, of_rows: Callable[..., Array], **static: Any) -> Array:  # noqa: ARG001
    return of_rows(Bernoulli.rebuild((logits,), ()), *arrays, **static)


# ------------------------------------------------------------------------------------------------- primitives
def _wide(be: Backend, x: Array) -> Array:
    return be.cast(x, be.wide(x.dtype))


@primitive(native=True, symmetric=True)
def sigmoid(be: Backend, u: Array, *, temperature: float, dtype: Any) -> Array:
    """Sigmoid of u / temperature, rounded to a dtype."""
    return _sigmoid_fwd(be, u, temperature=temperature, dtype=dtype)[0]


def _sigmoid_fwd(be: Backend, u: Array, *, temperature: float, dtype: Any) -> tuple[Array, Any]:
    y = be.rowwise(_sigmoid, _wide(be, u), temperature=temperature)
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
    xp, wide = be.xp, _wide(be, u)
    t = be.cast(temperature, wide.dtype)
    bound = 1000.0 * be.stop_gradient(t)
    kept = xp.abs(wide) < bound
    z = xp.where(kept, wide, xp.where(wide > 0, bound, -bound)) / t
    return z, (z, kept, u, temperature)


def _tempered_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array]:
    z, kept, u, t = residuals
    g = be.xp.where(kept, g, 0.0) / be.cast(t, g.dtype)
    return be.cast(g, u.dtype), be.cast(-be.xp.sum(g * z), t.dtype)


tempered.defvjp(_tempered_fwd, _tempered_vjp)


@primitive(native=True)
def both(be: Backend, logits: Array) -> Array:
    """Probabilities of 0 and of 1, stacked in front."""
    return _both_fwd(be, logits)[0]


def _both_fwd(be: Backend, logits: Array) -> tuple[Array, Any]:
    u = _wide(be, logits)
    p, q = be.sigmoid(u), be.sigmoid(-u)
    return be.cast(be.xp.stack([q, p]), logits.dtype), (logits, p * q)


def _both_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array]:
    logits, slope = residuals
    return (be.cast((g[1, ...] - g[0, ...]) * slope, logits.dtype),)


both.defvjp(_both_fwd, _both_vjp)


def _log_probs(be: Backend, logits: Array) -> tuple[Array, Array]:
    u = _wide(be, logits)
    return be.log_sigmoid(-u), be.log_sigmoid(u)


def _times(xp: Any, weight: Array, logp: Array) -> Array:
    # What cannot happen adds nothing, whatever its -inf is multiplied with.
    return weight * xp.where(logp == -xp.inf, 0.0, logp)


@primitive(native=True)
def log_prob(be: Backend, logits: Array, x: Array) -> Array:
    """``x * log(p) + (1 - x) * log(1 - p)``; -inf for a bit of probability 0."""
    xp = be.xp
    log0, log1 = _log_probs(be, logits)
    wide = be.cast(x, log1.dtype)
    impossible = ((log1 == -xp.inf) & (x > 0)) | ((log0 == -xp.inf) & (x < 1))
    value = _times(xp, wide, log1) + _times(xp, 1.0 - wide, log0)
    return be.cast(xp.where(impossible, -xp.inf, value), logits.dtype)


def _log_prob_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array]:
    logits, x = residuals
    xp, u = be.xp, _wide(be, residuals[0])
    g = be.cast(g, u.dtype)
    to_logits = g * (be.cast(x, u.dtype) - be.sigmoid(u))
    if to_logits.ndim > logits.ndim:  # x has more samples in front
        to_logits = xp.sum(xp.reshape(to_logits, (-1, *logits.shape)), axis=0)
    to_x = g * xp.where(xp.isinf(u), 0.0, u)
    return be.cast(to_logits, logits.dtype), be.cast(to_x, x.dtype)


log_prob.defvjp(lambda be, logits, x: (log_prob.function(be, logits, x), (logits, x)), _log_prob_vjp)


@primitive(native=True)
def entropy(be: Backend, logits: Array) -> Array:
    """``-p * log(p) - (1 - p) * log(1 - p)``."""
    log0, log1 = _log_probs(be, logits)
    value = -_times(be.xp, be.xp.exp(log0), log0) - _times(be.xp, be.xp.exp(log1), log1)
    return be.cast(value, logits.dtype)


def _slope(be: Backend, u: Array) -> Array:
    return be.sigmoid(u) * be.sigmoid(-u)


def _entropy_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array]:
    (logits,) = residuals
    u = _wide(be, logits)
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
        value = value + _times(xp, p, logp) - _times(xp, p, logq)
        impossible = impossible | ((logp > -xp.inf) & (logq == -xp.inf))
    return be.cast(xp.where(impossible, xp.inf, value), p_logits.dtype)


def _kl_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array]:
    p_logits, q_logits = residuals
    xp, p, q = be.xp, _wide(be, residuals[0]), _wide(be, residuals[1])
    ratio = xp.where(xp.isinf(p), 0.0, p) - xp.where(xp.isinf(q), 0.0, q)
    to_p, to_q = g * ratio * _slope(be, p), g * (be.sigmoid(q) - be.sigmoid(p))
    return be.cast(to_p, p_logits.dtype), be.cast(to_q, q_logits.dtype)


kl.defvjp(lambda be, p, q: (kl.function(be, p, q), (p, q)), _kl_vjp)


@primitive(native=True)
def conditional_perturb(be: Backend, logits: Array, x: Array, noise: Array) -> Array:
    """Logits plus logistic noise, given that the sum is positive where x is 1 and negative where x is 0."""
    sign, _, w = _conditional(be, logits, x, noise)
    return -sign * be.log_sigmoid(w)


def _conditional(be: Backend, logits: Array, x: Array, noise: Array) -> tuple[Array, Array, Array]:
    # With v uniform and p = sigmoid(l), u = l + logit(v (1 - p)) for x = 0 and l + logit(v p + 1 - p) for x = 1. For
    # z = logit(v) both come to u = -s log sigmoid(log sigmoid(-s l) - s z) with s = 2 x - 1.
    dtype = be.xp.result_type(_wide(be, logits).dtype, noise.dtype)
    sign = 2.0 * be.cast(x, dtype) - 1.0
    inner = -sign * be.cast(logits, dtype)
    return sign, inner, be.log_sigmoid(inner) - sign * noise


def _conditional_fwd(be: Backend, logits: Array, x: Array, noise: Array) -> tuple[Array, Any]:
    sign, inner, w = _conditional(be, logits, x, noise)
    return -sign * be.log_sigmoid(w), (logits, inner, w)


def _conditional_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, None, None]:
    logits, inner, w = residuals
    return be.cast(g * be.sigmoid(-w) * be.sigmoid(-inner), logits.dtype), None, None


conditional_perturb.defvjp(_conditional_fwd, _conditional_vjp)
