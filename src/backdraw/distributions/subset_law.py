"""The law of vectors of k ones among n: sums over all of them, their probabilities and entropy, each with its gradient."""

from collections.abc import Callable
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import balance, elementary
from backdraw.distributions.base import fold, times
from backdraw.distributions.elementwise import widened
from backdraw.distributions.hypersimplex import relaxed
from backdraw.primitive import Primitive, Residuals, primitive


class OfRows(Primitive):
    """A function of rows that gives one number each, computed in float64, as large logits may cancel; with its gradients.

    Parameters
    ----------
    value : callable
        ``value(be, *rows, k=k)``, with a last axis of size 1.
    *partials : callable
        ``partial(be, *rows, k=k)``, the gradient in each array; differentiable in turn.
    """

    linear = True

    def __init__(self, value: Callable[..., Array], *partials: Callable[..., Array]) -> None:
        self.value, self.partials = value, partials

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.value.__name__.strip("_")

    def forward(self, be: Backend, *arrays: Array, **static: Any) -> tuple[Array, Residuals]:
        """Evaluate the function."""
        with be.double():
            rows = be.program(self.value, *(be.cast(x, be.xp.float64) for x in arrays), **static)
            return be.cast(rows[..., 0], arrays[0].dtype), arrays

    def backward(self, be: Backend, residuals: Residuals, cotangent: Array, **static: Any) -> tuple[Array | None, ...]:
        """Multiply with the gradients; x may have more samples in front than the logits."""
        wide = widened(be, residuals)
        g = be.cast(cotangent, wide[0].dtype)[..., None]
        grads = (g * partial(be, *wide, **static) for partial in self.partials)
        return tuple(be.cast(fold(be, y, x), x.dtype) for x, y in zip(residuals, grads, strict=True))


def _marginals_of(be: Backend, u: Array, k: int) -> Array:
    return be.apply(relaxed, (u,), {"k": k, "temperature": 1.0, "regularizer": "entropy", "dtype": u.dtype})


def _finite(be: Backend, u: Array) -> Array:
    return be.xp.where(be.xp.isinf(u), 0.0, u)


def _log_bits(be: Backend, x: Array) -> tuple[Array, Array]:
    return be.log_sigmoid(x), be.log_sigmoid(-x)


def _log_partition(be: Backend, u: Array, *, k: int) -> Array:
    # The largest term, and log-odds of the top that are positive and of the others that are negative: no cancellation.
    xp, (x, top) = be.xp, balance.odds(be, u, k, 1.0)
    total = elementary.log_total(be, x, k)
    ins, outs = _log_bits(be, x)
    value = be.row_sum(xp.where(top, _finite(be, u) - _finite(be, ins), -_finite(be, outs))) + total
    return xp.where(total == -xp.inf, -xp.inf, value)


log_partition = OfRows(_log_partition, lambda be, u, *, k: _marginals_of(be, u, k))


def _log_prob(be: Backend, u: Array, y: Array, *, k: int) -> Array:
    xp, x = be.xp, balance.odds(be, u, k, 1.0).x
    ins, outs = _log_bits(be, x)
    total = elementary.log_total(be, x, k)
    possible = _is_subset(be, u, y, k) & (total != -xp.inf)
    value = be.row_sum(xp.where(y > 0, ins, outs)) - _finite(be, total)
    return xp.where(possible, value, -xp.inf)


def _log_prob_of_mean(be: Backend, u: Array, y: Array, *, k: int) -> Array:
    # The log-odds are the logits less one number, which sums up to nothing: y sums to k as every subset does.
    xp, x = be.xp, balance.odds(be, u, k, 1.0).x
    ins, outs = _log_bits(be, x)
    total = elementary.log_total(be, x, k)
    value = be.row_sum(times(be, y, ins) + times(be, 1.0 - y, outs)) - _finite(be, total)
    impossible = xp.any((y > 0) & (u == -xp.inf), axis=-1, keepdims=True) | (total == -xp.inf)
    return xp.where(impossible, -xp.inf, value)


def _is_subset(be: Backend, u: Array, y: Array, k: int) -> Array:
    xp = be.xp
    member = ((y == 0) | ((y == 1) & (u != -xp.inf))) & (be.row_sum(y) == k)
    return xp.all(member, axis=-1, keepdims=True)


def _log_prob_in_logits(be: Backend, u: Array, y: Array, *, k: int) -> Array:
    return be.xp.where(_is_subset(be, u, y, k), y - _marginals_of(be, u, k), 0.0)


def _log_prob_in_x(be: Backend, u: Array, y: Array, *, k: int) -> Array:
    return be.xp.where(_is_subset(be, u, y, k), _finite(be, u), 0.0)


def _mean_in_logits(be: Backend, u: Array, y: Array, *, k: int) -> Array:
    return y - _marginals_of(be, u, k)


def _mean_in_x(be: Backend, u: Array, y: Array, *, k: int) -> Array:  # noqa: ARG001
    return be.xp.broadcast_to(_finite(be, u), y.shape)


log_prob = OfRows(_log_prob, _log_prob_in_logits, _log_prob_in_x)
log_prob_of_mean = OfRows(_log_prob_of_mean, _mean_in_logits, _mean_in_x)


def _entropy(be: Backend, u: Array, *, k: int) -> Array:
    x = balance.odds(be, u, k, 1.0).x
    chances, logs = elementary.inclusion(be, x, k), _log_bits(be, x)
    total = elementary.log_total(be, x, k)
    cross = sum(be.row_sum(times(be, p, logp)) for p, logp in zip(chances, logs, strict=True))
    return _finite(be, total) - cross


def _entropy_in_logits(be: Backend, u: Array, *, k: int) -> Array:
    x = balance.odds(be, u, k, 1.0).x
    return -elementary.covariance(be, x, _finite(be, x), k)


entropy = OfRows(_entropy, _entropy_in_logits)


def _kl(be: Backend, u: Array, v: Array, *, k: int) -> Array:
    xp = be.xp
    p, q = (balance.odds(be, w, k, 1.0).x for w in (u, v))
    chances = elementary.inclusion(be, p, k)
    own = elementary.log_total(be, p, k)
    value = elementary.log_total(be, q, k) - _finite(be, own)
    for chance, logp, logq in zip(chances, _log_bits(be, p), _log_bits(be, q), strict=True):
        value = value + be.row_sum(times(be, chance, logp) - times(be, chance, logq))
    impossible = xp.any((chances[0] > 0) & (v == -xp.inf), axis=-1, keepdims=True)
    return xp.where(own == -xp.inf, 0.0, xp.where(impossible, xp.inf, value))


def _kl_in_p(be: Backend, u: Array, v: Array, *, k: int) -> Array:
    p, q = (balance.odds(be, w, k, 1.0).x for w in (u, v))
    return elementary.covariance(be, p, _finite(be, p) - _finite(be, q), k)


def _kl_in_q(be: Backend, u: Array, v: Array, *, k: int) -> Array:
    p, q = (_marginals_of(be, w, k) for w in (u, v))
    none = be.xp.all(p == 0, axis=-1, keepdims=True) | (v == -be.xp.inf)
    return be.xp.where(none, 0.0, q - p)


kl = OfRows(_kl, _kl_in_p, _kl_in_q)


# ------------------------------------------------------------------------------------------------- enumeration
@primitive(native=True)
def chances(be: Backend, u: Array, members: Array) -> Array:
    """Probabilities of subsets, in front, of which `members` has the items, shape ``(subsets, k)``."""
    return _chances_fwd(be, u, members)[0]


def _chances_fwd(be: Backend, u: Array, members: Array) -> tuple[Array, Any]:
    xp, z = be.xp, widened(be, (u,))[0]
    z = z - be.at_least(be.stop_gradient(be.row_max(z)), be.lowest(z))
    each = xp.reshape(xp.take(z, xp.reshape(members, (-1,)), axis=-1), (*z.shape[:-1], *members.shape))
    p = be.softmax(xp.sum(each, axis=-1))
    return be.cast(be.moveaxis(p, -1, 0), u.dtype), (p, u, members)


def _chances_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, None]:
    xp, (p, u, members) = be.xp, residuals
    back = be.softmax_vjp(p, be.moveaxis(be.cast(g, p.dtype), 0, -1))
    return be.cast(xp.sum(back[..., None] * indicators(be, members, u.shape[-1], p.dtype), axis=-2), u.dtype), None


def indicators(be: Backend, members: Array, n: int, dtype: Any) -> Array:
    """Return the subsets of these members as vectors, shape ``(subsets, n)``."""
    return be.xp.sum(be.one_hot(members[..., None], n, dtype), axis=-2)


chances.defvjp(_chances_fwd, _chances_vjp)
