"""Gumbels given their argmax: drawn anew, and as they are, with what moves them."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.base import fold
from backdraw.distributions.simplex import last, unlast
from backdraw.primitive import primitive


@primitive(native=True, rows=True)
def conditional_gumbels(be: Backend, logits: Array, x: Array, noise: Array, *, axis: int) -> Array:
    """Gumbels with location `logits` whose argmax is x, made of fresh standard ones."""
    rows = (last(be, a, axis) for a in (be.cast(logits, noise.dtype), be.cast(x, noise.dtype), noise))
    return unlast(be, be.rowwise(_conditional_gumbels, *rows), axis)


def _conditional_gumbels(be: Backend, logits: Array, x: Array, noise: Array) -> Array:
    # The largest is a Gumbel at log(sum(exp(logits))), whichever it is. The others are Gumbels cut off there, and to
    # cut v off at `top` is -log(exp(-v) + exp(-top)), a soft minimum of the two; -inf stays what it is.
    xp = be.xp
    total = be.logsumexp(logits)
    top = xp.where(total > -xp.inf, total, 0.0) + be.row_sum(x * noise)
    v = logits + noise
    return xp.where(x > 0, top, v + be.log_sigmoid(top - v))


def _conditional_gumbels_fwd(be: Backend, logits: Array, x: Array, noise: Array, *, axis: int) -> tuple[Array, Any]:
    u = conditional_gumbels.function(be, logits, x, noise, axis=axis)
    return u, (logits, x, noise, u)


def _conditional_gumbels_vjp(be: Backend, residuals: Any, g: Array, *, axis: int) -> tuple[Array, None, None]:
    rows = (last(be, be.cast(a, g.dtype), axis) for a in (*residuals, g))
    return be.cast(unlast(be, be.rowwise(_pull_conditional, *rows), axis), residuals[0].dtype), None, None


def _pull_conditional(be: Backend, logits: Array, x: Array, noise: Array, u: Array, g: Array) -> Array:
    xp, low = be.xp, be.lowest(u)
    share = xp.exp(be.at_least(u, low) - be.at_least(logits + noise, low))  # of what is not drawn: sigmoid(top - v)
    own = xp.where(x > 0, 0.0, g * share)
    total = be.row_sum(x * xp.where(x > 0, u - noise, 0.0))
    return own + xp.exp(logits - total) * be.row_sum(g - own)


conditional_gumbels.defvjp(_conditional_gumbels_fwd, _conditional_gumbels_vjp)


def pull_given_argmax(be: Backend, logits: Array, u: Array, g: Array, *, axis: int) -> Array:
    """Gradient in the logits of <g, u - v>: u is logits + noise, v the same numbers as Gumbels drawn given their argmax."""
    # With fixed noise, the largest of the conditional Gumbels moves with logsumexp(logits), and the others u_j, which solve
    # exp(-u_j) = noise / exp(logits_j) + exp(-top), by a share exp(u_j - top) with it and by the rest with their own logit.
    rows, u, g = (last(be, be.cast(a, g.dtype), axis) for a in (logits, u, g))
    own = fold(be, be.rowwise(_shares, u, g), rows)
    return be.cast(unlast(be, own - be.softmax(rows) * be.row_sum(own), axis), logits.dtype)


def _shares(be: Backend, u: Array, g: Array) -> Array:
    return g * be.xp.exp(u - be.at_least(be.row_max(u), be.lowest(u)))
