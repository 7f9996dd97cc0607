"""The multivariate normal distribution, of its Cholesky factor."""

from dataclasses import dataclass
from typing import Any, ClassVar

from backdraw.backend import Array, Backend
from backdraw.distributions.continuous import FixedSupport, Formulas, divergence
from backdraw.distributions.elementwise import Elementwise, unbroadcast, widened
from backdraw.distributions.normal import HALF_LOG_2PI
from backdraw.errors import InvalidValueError
from backdraw.primitive import primitive


# ---------------------------------------------------------------- matrices: L is scale_tril, K is its inverse, d is x - loc
def inverse(be: Backend, tril: Array) -> Array:
    """Inverse of a lower-triangular matrix; what lies above its diagonal is ignored."""
    # [[A, 0], [B, C]] has the inverse [[A', 0], [-C' B A', C']]. Once the diagonal blocks of size n are inverted in K,
    # the blocks B between each two of them come by -K B K, all at once.
    xp = be.xp
    row, column = _places(be, tril)
    inv = xp.where(row == column, 1.0 / diagonal(be, tril)[..., None], 0.0)
    n = 1
    while n < tril.shape[-1]:
        between = (row // n == column // n + 1) & (column // n % 2 == 0)
        inv = inv - inv @ xp.where(between, tril, 0.0) @ inv
        n *= 2
    return inv


def _places(be: Backend, matrix: Array) -> tuple[Array, Array]:
    i = be.xp.arange(matrix.shape[-1], device=be.device(matrix))
    return i[:, None], i[None, :]


def diagonal(be: Backend, matrix: Array) -> Array:
    """Diagonal of square matrices."""
    row, column = _places(be, matrix)
    return be.xp.sum(be.xp.where(row == column, matrix, 0.0), axis=-1)


def _log_det(be: Backend, tril: Array) -> Array:
    return be.xp.sum(be.xp.log(diagonal(be, tril)), axis=-1)


def _to_log_det(be: Backend, tril: Array) -> Array:
    row, column = _places(be, tril)
    return be.xp.where(row == column, 1.0 / diagonal(be, tril)[..., None], 0.0)


def _times(matrix: Array, vector: Array) -> Array:
    return (matrix @ vector[..., None])[..., 0]


def _outer(a: Array, b: Array) -> Array:
    return a[..., :, None] * b[..., None, :]


def _squares(be: Backend, x: Array, ndim: int = 1) -> Array:
    return be.xp.sum(x * x, axis=tuple(range(-ndim, 0)))


# ------------------------------------------------------------------------------------------------------ the draw
@primitive(native=True)
def transport(be: Backend, noise: Array, loc: Array, tril: Array) -> Array:
    """``loc + L @ noise``."""
    z, m, t = widened(be, (noise, loc, tril))
    return be.cast(m + _times(be.xp.tril(t), z), loc.dtype)


def _transport_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array | None, ...]:
    noise, loc, tril = residuals
    z, g = widened(be, (noise, g))
    to_tril = be.xp.tril(unbroadcast(be, _outer(g, z), tril.shape))
    return None, be.cast(unbroadcast(be, g, loc.shape), loc.dtype), be.cast(to_tril, tril.dtype)


transport.defvjp(lambda be, z, loc, tril: (transport.function(be, z, loc, tril), (z, loc, tril)), _transport_vjp)


@primitive(native=True)
def variance(be: Backend, loc: Array, tril: Array) -> Array:
    """Diagonal of ``L @ L.T``."""
    (t,) = widened(be, (tril,))
    return be.cast(_squares(be, be.xp.tril(t)), tril.dtype)


def _variance_vjp(be: Backend, residuals: Any, g: Array) -> tuple[Array, Array]:
    loc, tril = residuals
    g, t = widened(be, (g, tril))
    return be.xp.zeros_like(loc), be.cast(2.0 * be.xp.tril(t) * g[..., None], tril.dtype)


variance.defvjp(lambda be, loc, tril: (variance.function(be, loc, tril), (loc, tril)), _variance_vjp)


# ---------------------------------------------------------------------------------------- log-probability and entropy
def _log_prob(be: Backend, x: Array, loc: Array, tril: Array) -> Array:
    z = _times(inverse(be, tril), x - loc)
    return -0.5 * _squares(be, z) - _log_det(be, tril) - HALF_LOG_2PI * x.shape[-1]


def _to_x(be: Backend, x: Array, loc: Array, tril: Array) -> Array:
    inv = inverse(be, tril)
    return -_times(be.xp.matrix_transpose(inv), _times(inv, x - loc))


def _to_loc(be: Backend, x: Array, loc: Array, tril: Array) -> Array:
    return -_to_x(be, x, loc, tril)


def _to_tril(be: Backend, x: Array, loc: Array, tril: Array) -> Array:
    inv = inverse(be, tril)  # K changes by -K dL K, and K d is z
    z = _times(inv, x - loc)
    return be.xp.tril(_outer(_times(be.xp.matrix_transpose(inv), z), z)) - _to_log_det(be, tril)


def _entropy(be: Backend, loc: Array, tril: Array) -> Array:
    return _log_det(be, tril) + (0.5 + HALF_LOG_2PI) * loc.shape[-1]


@dataclass(frozen=True, eq=False)
class MultivariateNormal(FixedSupport):
    r"""Multivariate normal distribution of mean m and covariance :math:`L L^\top`.

    :math:`p(x) = (2 \pi)^{-D / 2} \, |\det L|^{-1} \exp(-\|L^{-1} (x - m)\|^2 / 2)`.

    Parameters
    ----------
    loc : array, shape (..., D)
        m. Any real floating dtype.
    scale_tril : array, shape (..., D, D)
        L, lower-triangular with a positive diagonal; what lies above the diagonal is ignored and has no gradient. The
        leading axes of the two broadcast against each other. Values are not checked: where the diagonal is not positive,
        what is computed from it is NaN or meaningless, as in the formula.

    Raises
    ------
    TypeError
        If a parameter is not a real floating array, or the arrays are of different frameworks or dtypes.
    ValueError
        If `scale_tril` is not square, its size is not that of `loc`, or the leading axes do not broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.MultivariateNormal(np.zeros(2), np.array([[1.0, 0.0], [1.0, 2.0]]))
    >>> p.variance()
    array([1., 5.])
    >>> float(p.log_prob(np.array([1.0, 1.0])).round(4))
    -3.031
    """

    loc: Array
    scale_tril: Array

    arrays: ClassVar[tuple[str, ...]] = ("loc", "scale_tril")
    parameters: ClassVar[tuple[str, ...]] = ("loc", "scale_tril")
    events: ClassVar[tuple[int, ...]] = (1, 2)
    noise: ClassVar[str] = "normal"
    formulas: ClassVar[Formulas] = Formulas(
        transport=transport,
        log_prob=Elementwise(_log_prob, _to_x, _to_loc, _to_tril, events=(1, 1, 2)),
        mean=Elementwise(lambda be, loc, tril: loc, 1.0, lambda be, loc, tril: be.xp.zeros_like(tril), events=(0, 1)),
        variance=variance,
        entropy=Elementwise(
            _entropy,
            lambda be, loc, tril: be.xp.zeros_like(loc),
            lambda be, loc, tril: _to_log_det(be, tril),
            events=(1, 2),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        d, shape = self.loc.shape[-1], tuple(self.scale_tril.shape)
        if shape[-2:] != (d, d):
            raise InvalidValueError(f"scale_tril: expected shape (..., {d}, {d}) for loc of shape (..., {d}), got {shape}")

    def project(self, x: Array, step: Array, projection: str) -> Array:  # noqa: ARG002
        """Return the target of intermediate loss sampling: ``x - step``, for every point is in the support."""
        return x - step

    def kl(self, other: "MultivariateNormal") -> Array:
        """KL(self || other) in nats, of the batch shape."""
        return divergence(_kl, self, other)


# ---------------------------------------------- divergence of N(m, S S') from N(n, T T'): A = T^-1 S, b = T^-1 (m - n)
def multivariate_normal_kl(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    """``log det T - log det S + (sum(A**2) + sum(b**2) - D) / 2``."""
    _, a, b = _terms(be, m, s, n, t)
    return _log_det(be, t) - _log_det(be, s) + 0.5 * (_squares(be, a, 2) + _squares(be, b) - float(m.shape[-1]))


def _terms(be: Backend, m: Array, s: Array, n: Array, t: Array) -> tuple[Array, Array, Array]:
    inv = inverse(be, t)
    return be.xp.matrix_transpose(inv), inv @ be.xp.tril(s), _times(inv, m - n)


def _kl_to_loc(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    back, _, b = _terms(be, m, s, n, t)
    return _times(back, b)


def _kl_to_tril(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    back, a, _ = _terms(be, m, s, n, t)
    return be.xp.tril(back @ a) - _to_log_det(be, s)


def _kl_to_other_tril(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    back, a, b = _terms(be, m, s, n, t)
    return _to_log_det(be, t) - be.xp.tril(back @ (a @ be.xp.matrix_transpose(a) + _outer(b, b)))


_kl = Elementwise(
    multivariate_normal_kl,
    _kl_to_loc,
    _kl_to_tril,
    lambda *args: -_kl_to_loc(*args),
    _kl_to_other_tril,
    events=(1, 2, 1, 2),
)
