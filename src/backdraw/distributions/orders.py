"""Orders of items: the functions of draws without replacement, and the relaxations of sorting, each with its gradient."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.base import fold
from backdraw.distributions.simplex import log_softmax_of_rows
from backdraw.distributions.temperature import scaled
from backdraw.primitive import primitive


# ------------------------------------------------------------------------------------------------- log-probability
def _choices(be: Backend, logits: Array, x: Array) -> tuple[Array, Array, Array]:
    """Return x, what is left to choose from at each place (-inf is not), and the probabilities of the choices."""
    xp = be.xp
    wide = be.wide(logits.dtype)
    x = be.stop_gradient(be.cast(x, wide))
    taken = xp.matrix_transpose(be.cumsum(xp.matrix_transpose(x))) - x
    left = xp.where(taken > 0, -xp.inf, be.cast(logits, wide)[..., None, :])
    return x, left, be.softmax(left)


@primitive(native=True)
def log_prob(be: Backend, logits: Array, x: Array) -> Array:
    """Sum over the places of ``logit - logsumexp(what is left)``; -inf where an item is taken that is not left."""
    xp = be.xp
    x, left, _ = _choices(be, logits, x)
    barred = left == -xp.inf
    value = xp.sum(x * xp.where(barred, 0.0, be.rowwise(log_softmax_of_rows, left)), axis=(-2, -1))
    impossible = xp.any((x > 0) & barred, axis=(-2, -1))
    return be.cast(xp.where(impossible, -xp.inf, value), logits.dtype)


def _log_prob_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, None]:
    logits, x = residuals
    slope = _slope(be, logits, x)
    return be.cast(fold(be, be.cast(g, slope.dtype)[..., None] * slope, logits), logits.dtype), None


log_prob.defvjp(lambda be, logits, x: (log_prob.function(be, logits, x), (logits, x)), _log_prob_vjp)


def _slope(be: Backend, logits: Array, x: Array) -> Array:
    x, _, p = _choices(be, logits, x)
    return be.xp.sum(x - be.row_sum(x) * p, axis=-2)


def score(be: Backend, logits: Array, x: Array) -> Array:
    """Gradient of the log-probability in the logits, draw by draw."""
    return be.cast(_slope(be, logits, x), logits.dtype)


# ------------------------------------------------------------------------------------------------- sorting
def first(be: Backend, u: Array, k: int) -> Array:
    """One-hot rows of the k largest in descending order, of equals the first; a row of zeros where nothing is left."""
    xp, n = be.xp, u.shape[-1]
    order = _order(be, u, k)
    live = be.gather(u, order) > -xp.inf
    return be.one_hot(xp.where(live, order, n)[..., None], n, u.dtype)


def _order(be: Backend, u: Array, k: int) -> Array:
    return be.xp.argsort(u, axis=-1, descending=True, stable=True)[..., :k]


def _finite(be: Backend, u: Array, temperature: float) -> tuple[Array, Array, Array]:
    """Return the utilities over the temperature, 0 for -inf, with a mask of the others, as numbers, and their number."""
    s = scaled(be, u, temperature)
    live = be.xp.astype(s != -be.xp.inf, s.dtype)
    return be.xp.where(s == -be.xp.inf, 0.0, s), live, be.row_sum(live)


def _places(be: Backend, like: Array, k: int) -> Array:
    return be.xp.arange(1, k + 1, dtype=like.dtype, device=be.device(like))


def _factors(be: Backend, s: Array, count: Array, k: int) -> Array:
    return (count + 1.0 - 2.0 * _places(be, s, k))[..., None]


def _differences(s: Array, t: Array) -> Array:
    return s[..., :, None] - t[..., None, :]


def _signs(be: Backend, x: Array) -> Array:
    # array_api_compat's sign fails under torch's vmap
    return be.xp.astype(x > 0, x.dtype) - be.xp.astype(x < 0, x.dtype)


@primitive(linear=True)
def relaxed_sort(be: Backend, u: Array, *, k: int, temperature: float, regularizer: str, dtype: Any) -> Array:
    """SoftSort or NeuralSort of u / temperature, its first k rows, rounded to a dtype."""
    return _relaxed_sort_fwd(be, u, k=k, temperature=temperature, regularizer=regularizer, dtype=dtype)[0]


def _relaxed_sort_fwd(
    be: Backend, u: Array, *, k: int, temperature: float, regularizer: str, dtype: Any
) -> tuple[Array, tuple[Array, Array]]:
    xp = be.xp
    with be.double():
        s, live, count = _finite(be, u, temperature)
        if regularizer == "softsort":
            z = -xp.abs(_differences(be.gather(s, _order(be, u, k)), s))
        else:
            spread = xp.sum(live[..., None, :] * xp.abs(_differences(s, s)), axis=-1)
            z = _factors(be, s, count, k) * s[..., None, :] - spread[..., None, :]
        possible = (live[..., None, :] > 0) & (_places(be, s, k) <= count)[..., None]
        y = be.softmax(xp.where(possible, z, -xp.inf))
        return be.cast(y, dtype), (u, y)


def _relaxed_sort_bwd(
    be: Backend,
    residuals: Any,
    g: Array,
    *,
    k: int,
    temperature: float,
    regularizer: str,
    dtype: Any,  # noqa: ARG001
) -> tuple[Array]:
    u, y = residuals
    xp = be.xp
    with be.double():
        s, live, count = _finite(be, u, temperature)
        h = be.softmax_vjp(y, be.cast(g, y.dtype))
        if regularizer == "softsort":  # of -|s_order(i) - s_j|
            order = _order(be, u, k)
            pull = h * _signs(be, _differences(be.gather(s, order), s))
            back = pull - be.row_sum(pull) * be.one_hot(order[..., None], u.shape[-1], y.dtype)
            back = xp.sum(back, axis=-2)
        else:  # of (n + 1 - 2 i) s_j - sum_l |s_j - s_l|
            c = xp.sum(h, axis=-2)
            signs = _signs(be, _differences(s, s)) * live[..., None, :]
            back = xp.sum(_factors(be, s, count, k) * h, axis=-2) - xp.sum(
                signs * (c[..., :, None] + c[..., None, :]), axis=-1
            )
        return (be.cast(live * back if temperature == 1.0 else live * back / temperature, u.dtype),)


relaxed_sort.defvjp(_relaxed_sort_fwd, _relaxed_sort_bwd)
