"""The points between vectors of k ones among n: what `Subset` relaxes its values to, each with its gradient.

The marginals are the gradient of the log-partition, and the other relaxations that of a convex function: their Jacobians are
symmetric.
"""

from collections.abc import Callable
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import balance, elementary
from backdraw.distributions.elementwise import widened
from backdraw.distributions.temperature import cut_vjp
from backdraw.errors import InvalidValueError
from backdraw.primitive import primitive


# The points, and behind them in the rows what the Jacobian is made of.
def _marginals(be: Backend, u: Array, *, k: int, temperature: float) -> Array:
    x = balance.odds(be, u, k, temperature).x
    return be.xp.concat([elementary.inclusion(be, x, k)[0], x], axis=-1)


def _pull_marginals(be: Backend, x: Array, g: Array, *, k: int, temperature: float) -> Array:
    return elementary.covariance(be, x, g, k) / temperature


def _balanced(be: Backend, u: Array, *, k: int, temperature: float) -> Array:
    x = be.xp.where(_live(be, u, k), balance.balanced(be, u, k, temperature), -be.xp.inf)
    return be.xp.concat([be.sigmoid(x), x], axis=-1)


def _pull_balanced(be: Backend, x: Array, g: Array, *, k: int, temperature: float) -> Array:  # noqa: ARG001
    s = be.sigmoid(x) * be.sigmoid(-x)
    return s * (g - _mean(be, s, g)) / temperature


def _projected(be: Backend, u: Array, *, k: int, temperature: float) -> Array:
    y = balance.project(be, u, k, temperature)
    return be.xp.concat([y, y], axis=-1)


def _pull_projected(be: Backend, y: Array, g: Array, *, k: int, temperature: float) -> Array:  # noqa: ARG001
    free = be.xp.ceil(y) - be.xp.floor(y)  # 1 between 0 and 1, NaN where y is
    return free * (g - _mean(be, free, g)) / temperature


def _live(be: Backend, u: Array, k: int) -> Array:
    live = be.cast(be.stop_gradient(u) != -be.xp.inf, u.dtype)
    return be.row_sum(live) >= k


def _mean(be: Backend, weights: Array, g: Array) -> Array:
    total = be.row_sum(weights)
    return be.row_sum(weights * g) / be.xp.where(total > 0, total, 1.0)


# The relaxation and its Jacobian times a cotangent, by regularizer.
_BODIES: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "entropy": (_marginals, _pull_marginals),
    "binary": (_balanced, _pull_balanced),
    "euclidean": (_projected, _pull_projected),
}


@primitive(symmetric=True, loops=True)
def relaxed(be: Backend, u: Array, *, k: int, temperature: float, regularizer: str, dtype: Any) -> Array:
    """Point of the hypersimplex that maximises ``<u, x> - temperature * f(x)``, rounded to a dtype."""
    return _relaxed_fwd(be, u, k=k, temperature=temperature, regularizer=regularizer, dtype=dtype)[0]


def _relaxed_fwd(
    be: Backend, u: Array, *, k: int, temperature: float, regularizer: str, dtype: Any
) -> tuple[Array, tuple[Array | None, ...]]:
    n = u.shape[-1]
    both = be.program(_BODIES[regularizer][0], widened(be, (u,))[0], k=k, temperature=temperature)
    return be.xp.astype(both[..., :n], dtype), (both[..., n:], None if u.dtype == both.dtype else u)


def _relaxed_vjp(
    be: Backend,
    residuals: Any,
    g: Array,
    *,
    k: int,
    temperature: float,
    regularizer: str,
    dtype: Any,  # noqa: ARG001
) -> tuple[Array]:
    kept, u = residuals
    back = be.program(_BODIES[regularizer][1], kept, be.cast(g, kept.dtype), k=k, temperature=temperature)
    return (back if u is None else be.cast(back, u.dtype),)


relaxed.defvjp(_relaxed_fwd, _relaxed_vjp)


def check_regularizer(regularizer: Any) -> None:
    """Raise ValueError if there is no such regularizer."""
    if regularizer not in _BODIES:
        raise InvalidValueError(f"regularizer: expected one of {', '.join(_BODIES)}, got {regularizer!r}")


@primitive(native=True)
def tempered(be: Backend, u: Array, temperature: Array, *, k: int) -> Array:
    """Utilities over a temperature that has a gradient, less a constant per row: for what ignores such constants."""
    return _tempered_fwd(be, u, temperature, k=k)[0]


def _tempered_fwd(be: Backend, u: Array, temperature: Array, *, k: int) -> tuple[Array, Any]:
    xp, wide = be.xp, widened(be, (u,))[0]
    t = be.cast(temperature, wide.dtype)
    ordered = xp.sort(be.stop_gradient(wide), axis=-1, stable=False)
    at = u.shape[-1] - max(k, 1)
    origin = ordered[..., at : at + 1]
    below = wide - xp.where(origin == -xp.inf, 0.0, origin)
    # Beyond +-2000 an item is in or out in every dtype: cut there, so that the derivative in t has no 0 * inf.
    bound = 2000.0 * be.stop_gradient(t)
    cut = xp.abs(below) >= bound
    z = xp.where(cut, xp.where(below > 0, bound, -bound), below) / t
    return xp.where(wide == -xp.inf, -xp.inf, z), (z, cut, u, temperature)


tempered.defvjp(_tempered_fwd, cut_vjp)
