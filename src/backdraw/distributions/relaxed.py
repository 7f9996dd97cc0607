"""The functions of the Concrete distribution, each with its gradient.

A temperature comes as an array, or as None beside the number that counts instead.
"""

import math
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import simplex
from backdraw.distributions.base import fold
from backdraw.distributions.elementwise import unbroadcast
from backdraw.primitive import primitive


def _temperature(be: Backend, like: Array, t: Array | None, number: float) -> Any:
    return number if t is None else be.cast(t, be.wide(like.dtype))


def _floor(be: Backend, dtype: Any, wide: Any) -> float:
    """Return what the lowest logs of a dtype are read as: low, but a product of two such numbers does not overflow."""
    return max(float(be.xp.finfo(dtype).min), -math.sqrt(float(be.xp.finfo(wide).max)))


def _like(be: Backend, g: Array, x: Array | None) -> Array | None:
    return None if x is None else be.cast(g, x.dtype)


class Rows:
    """Log-densities at rows of points, term by term: the categories on the last axis, 0 for those of logit -inf."""

    def __init__(
        self, be: Backend, logits: Array, x: Array, t: Array | None, axis: int, number: float, log_space: bool
    ) -> None:
        xp, wide = be.xp, be.wide(logits.dtype)
        self.be, self.log_space, self.t = be, log_space, _temperature(be, logits, t, number)
        logits, self.x = (simplex.last(be, be.cast(a, wide), axis) for a in (logits, x))
        bound = -_floor(be, wide, wide)
        self.live = logits > -xp.inf
        self.bounded = self.live & (xp.abs(logits) <= bound)
        self.z, self.kept = self._read(x.dtype)
        # log p = log Gamma(n) + (n - 1) log t + sum(a) - n logsumexp(a), summed over a - logsumexp(a) and a share of the
        # rest: those terms are small where the sums are not.
        a = xp.where(self.live, be.clip(logits, -bound, bound) - self.t * self.z, 0.0)
        total = be.logsumexp(xp.where(self.live, a, -xp.inf))
        self.log_weights = xp.where(self.live, a - xp.where(total == -xp.inf, 0.0, total), 0.0)
        self.n = be.at_least(xp.sum(be.cast(self.live, wide), axis=-1, keepdims=True), 1.0)
        self.terms = xp.where(self.live, self.log_weights + self._constant() / self.n, 0.0)

    def _read(self, dtype: Any) -> tuple[Array, Array]:
        """Return the logs of the points, finite, and where they have a gradient."""
        be, xp, x = self.be, self.be.xp, self.x
        if self.log_space:
            floor = _floor(be, dtype, x.dtype)
            kept = self.live & ~(x < floor)
            return xp.where(self.live, xp.where(kept, x, floor), 0.0), kept
        info = xp.finfo(dtype)
        smallest = max(float(info.smallest_normal) * float(info.eps), float(xp.finfo(x.dtype).smallest_normal))
        kept = self.live & ~(x < smallest)
        log = xp.where(kept, xp.log(xp.where(kept, x, 1.0)), math.log(smallest))
        return xp.where(self.live, log, 0.0), kept

    def _constant(self) -> Array:
        """Return ``log(Gamma(n)) + (n - 1) log(t)`` for the n live categories of each row."""
        xp, n, t, size = self.be.xp, self.n, self.t, self.x.shape[-1]
        j = xp.arange(1, size, dtype=n.dtype, device=self.be.device(n))
        excess = xp.sum(xp.where(j >= n, xp.log(j), 0.0), axis=-1, keepdims=True)
        return math.lgamma(size) - excess + (n - 1.0) * (math.log(t) if isinstance(t, float) else xp.log(t))

    def log_prob(self) -> Array:
        """Return the log-densities; -inf where a point has weight on a category of logit -inf."""
        value = self.be.xp.sum(self.terms if self.log_space else self.terms - self.z, axis=-1)
        return self.be.xp.where(self.impossible, -self.be.xp.inf, value)

    @property
    def impossible(self) -> Array:
        """Where a point has weight on a category of logit -inf."""
        return self.be.xp.any(~self.live & (self.x > (-math.inf if self.log_space else 0.0)), axis=-1)

    def pull(self, g: Array) -> tuple[Array, Array, Array]:
        """Carry cotangents, one a row, to the logits and the points, whose last axis is the categories', and to t."""
        xp = self.be.xp
        g = xp.expand_dims(g, axis=-1)
        back = xp.where(self.live, g * (1.0 - self.n * xp.exp(self.log_weights)), 0.0)
        to_t = g * ((self.n - 1.0) / self.t) - xp.sum(back * self.z, axis=-1, keepdims=True)
        to_x = -self.t * back
        if not self.log_space:
            to_x = (to_x - g) / xp.where(self.kept, self.x, 1.0)
        return xp.where(self.bounded, back, 0.0), xp.where(self.kept, to_x, 0.0), to_t[..., 0]


@primitive(native=True)
def log_prob(
    be: Backend, logits: Array, x: Array, t: Array | None, *, axis: int, temperature: float, log_space: bool
) -> Array:
    """Log-density at x, which may have samples in front."""
    return be.cast(Rows(be, logits, x, t, axis, temperature, log_space).log_prob(), logits.dtype)


def _log_prob_vjp(
    be: Backend, residuals: Any, g: Array, *, axis: int, temperature: float, log_space: bool
) -> tuple[Array | None, ...]:
    logits, x, t = residuals
    rows = Rows(be, logits, x, t, axis, temperature, log_space)
    to_logits, to_x, to_t = rows.pull(be.xp.where(rows.impossible, 0.0, be.cast(g, rows.z.dtype)))
    to_logits, to_x = (unbroadcast(be, simplex.unlast(be, to, axis), a.shape) for to, a in ((to_logits, logits), (to_x, x)))
    return _like(be, to_logits, logits), _like(be, to_x, x), _like(be, be.xp.sum(to_t), t)


log_prob.defvjp(lambda be, *arrays, **static: (log_prob.function(be, *arrays, **static), arrays), _log_prob_vjp)


@primitive(native=True)
def log_softmax(be: Backend, u: Array, t: Array | None, *, axis: int, temperature: float, dtype: Any) -> Array:
    """Log-softmax of u over the temperature, rounded to a dtype: finite where u is."""
    return _log_softmax_fwd(be, u, t, axis=axis, temperature=temperature, dtype=dtype)[0]


def _log_softmax_fwd(
    be: Backend, u: Array, t: Array | None, *, axis: int, temperature: float, dtype: Any
) -> tuple[Array, Any]:
    xp, wide = be.xp, simplex.last(be, be.cast(u, be.wide(u.dtype)), axis)
    number, low, floor = _temperature(be, u, t, temperature), be.lowest(wide), _floor(be, dtype, wide.dtype)
    live = wide > -xp.inf
    top = be.at_least(be.stop_gradient(xp.max(wide, axis=-1, keepdims=True)), low)
    below = xp.maximum(wide, be.at_least(top, 0.0) + low) - top  # u - top, without overflow
    kept = live & (below > floor * (number if t is None else be.stop_gradient(number)))
    v = xp.where(kept, xp.where(kept, below, 0.0) / number, floor)
    total = xp.sum(xp.where(live, xp.exp(v), 0.0), axis=-1, keepdims=True)
    z = xp.where(live, v - xp.log(be.at_least(total, 0.5)), -xp.inf)
    return be.cast(simplex.unlast(be, z, axis), dtype), (z, v, kept, u, t)


def _log_softmax_vjp(
    be: Backend,
    residuals: Any,
    g: Array,
    *,
    axis: int,
    temperature: float,
    dtype: Any,  # noqa: ARG001
) -> tuple[Array | None, ...]:
    z, v, kept, u, t = residuals
    xp = be.xp
    g = xp.where(z > -xp.inf, simplex.last(be, be.cast(g, z.dtype), axis), 0.0)
    back = xp.where(kept, g - xp.exp(z) * xp.sum(g, axis=-1, keepdims=True), 0.0) / _temperature(be, u, t, temperature)
    to_t = -xp.sum(back * xp.where(kept, v, 0.0))
    return _like(be, simplex.unlast(be, back, axis), u), _like(be, to_t, t)


log_softmax.defvjp(_log_softmax_fwd, _log_softmax_vjp)


@primitive(native=True)
def mean_log_ratio(
    be: Backend, z: Array, p: Array, q: Array, s: Array | None, t: Array | None, *, axis: int, temperatures: Any
) -> Array:
    """Mean over the first axis of ``log p(z) - log q(z)``, of logits p and q at temperatures s and t, in log space."""
    of_p, of_q = _pair(be, (z, p, q, s, t), axis, temperatures)
    # Where their live categories differ, neither has weight where the other has: +inf.
    value = be.mean_samples(be.xp.sum(of_p.terms - of_q.terms, axis=-1))
    return be.cast(be.xp.where(_apart(of_p, of_q), be.xp.inf, value), p.dtype)


def _pair(be: Backend, arrays: Any, axis: int, temperatures: tuple[float, float]) -> tuple[Rows, Rows]:
    z, p, q, s, t = arrays
    return Rows(be, p, z, s, axis, temperatures[0], True), Rows(be, q, z, t, axis, temperatures[1], True)


def _apart(p: Rows, q: Rows) -> Array:
    return p.be.xp.any(p.live != q.live, axis=-1)


def _mean_log_ratio_vjp(be: Backend, residuals: Any, g: Array, *, axis: int, temperatures: Any) -> tuple[Array | None, ...]:
    xp, (z, p, q, s, t) = be.xp, residuals
    of_p, of_q = _pair(be, residuals, axis, temperatures)
    g = xp.where(_apart(of_p, of_q), 0.0, be.cast(g, of_p.z.dtype)) / z.shape[0]
    g = xp.broadcast_to(g, tuple(of_p.z.shape[:-1]))
    (to_p, z_of_p, to_s), (to_q, z_of_q, to_t) = of_p.pull(g), of_q.pull(-g)
    to_z, to_p, to_q = (simplex.unlast(be, to, axis) for to in (z_of_p + z_of_q, to_p, to_q))
    scalars = (_like(be, xp.sum(to), x) for to, x in ((to_s, s), (to_t, t)))
    return _like(be, to_z, z), _like(be, fold(be, to_p, p), p), _like(be, fold(be, to_q, q), q), *scalars


mean_log_ratio.defvjp(
    lambda be, *arrays, **static: (mean_log_ratio.function(be, *arrays, **static), arrays), _mean_log_ratio_vjp
)
