"""Location-scale families: loc + scale * z, for z of a fixed law."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from backdraw.backend import Array, Backend
from backdraw.distributions.continuous import FixedSupport, Formulas, divergence
from backdraw.distributions.elementwise import Elementwise
from backdraw.distributions.special import digamma, log_gamma

EULER = 0.5772156649015329  # the mean of a standard Gumbel


@dataclass(frozen=True, eq=False)
class LocationScale(FixedSupport):
    """Base of the families ``loc + scale * z``, whose `formulas` are `of_standard` the law of z."""

    loc: Array
    scale: Array

    arrays: ClassVar[tuple[str, ...]] = ("loc", "scale")
    parameters: ClassVar[tuple[str, ...]] = ("loc", "scale")
    positive: ClassVar[tuple[str, ...]] = ("scale",)

    def project(self, x: Array, step: Array, projection: str) -> Array:  # noqa: ARG002
        """Return the target of intermediate loss sampling: ``x - step``, for every point is in the support."""
        return x - step


def of_standard(
    log_density: Callable[[Backend, Array], Array],
    slope: Callable[[Backend, Array], Array],
    *,
    mean: float,
    variance: float,
    entropy: float,
) -> Formulas:
    """Make the formulas of a location-scale family of the law of z: its log-density with its slope, and its moments."""

    def standardised(formula: Callable[..., Array]) -> Callable[..., Array]:
        return lambda be, x, loc, scale: formula(be, (x - loc) / scale, scale)

    return Formulas(
        transport=Elementwise(lambda be, z, loc, scale: loc + scale * z, None, 1.0, lambda be, z, loc, scale: z),
        log_prob=Elementwise(
            standardised(lambda be, z, scale: log_density(be, z) - be.xp.log(scale)),
            standardised(lambda be, z, scale: slope(be, z) / scale),
            standardised(lambda be, z, scale: -slope(be, z) / scale),
            standardised(lambda be, z, scale: -(1.0 + z * slope(be, z)) / scale),
        ),
        mean=Elementwise(lambda be, loc, scale: loc + mean * scale, 1.0, mean),
        variance=Elementwise(
            lambda be, loc, scale: variance * scale * scale, 0.0, lambda be, loc, scale: 2.0 * variance * scale
        ),
        entropy=Elementwise(lambda be, loc, scale: entropy + be.xp.log(scale), 0.0, lambda be, loc, scale: 1.0 / scale),
    )


class Laplace(LocationScale):
    r"""Laplace distribution: :math:`p(x) = \frac{1}{2 s} \exp(-|x - m| / s)`.

    Parameters
    ----------
    loc : array or float, any shape
        m, mean and median. Any real floating dtype.
    scale : array or float, broadcasts against `loc`
        s > 0. At least one of the two is an array. A value of an array is not checked: where it is not positive, what is
        computed from it is NaN or meaningless, as in the formula.

    Raises
    ------
    TypeError
        If a parameter is not a number or a real floating array, or the arrays are of different frameworks or dtypes.
    ValueError
        If the shapes do not broadcast, or a number is not finite or, as a scale, not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Laplace(np.array([0.0, 1.0]), 2.0)
    >>> p.log_prob(np.array([0.0, 0.0])).round(4)
    array([-1.3863, -1.8863])
    >>> p.variance()
    array([8., 8.])
    """

    noise: ClassVar[str] = "laplace"
    formulas: ClassVar[Formulas] = of_standard(
        lambda be, z: -be.xp.abs(z) - math.log(2.0),
        lambda be, z: -be.xp.sign(z),
        mean=0.0,
        variance=2.0,
        entropy=1.0 + math.log(2.0),
    )

    def kl(self, other: "Laplace") -> Array:
        """KL(self || other) in nats, of the batch shape."""
        return divergence(_laplace_kl, self, other)


class Logistic(LocationScale):
    r"""Logistic distribution: :math:`p(x) = \sigma(z) (1 - \sigma(z)) / s` with :math:`z = (x - m) / s`.

    Parameters
    ----------
    loc : array or float, any shape
        m, mean and median. Any real floating dtype.
    scale : array or float, broadcasts against `loc`
        s > 0. At least one of the two is an array. A value of an array is not checked: where it is not positive, what is
        computed from it is NaN or meaningless, as in the formula.

    Raises
    ------
    TypeError
        If a parameter is not a number or a real floating array, or the arrays are of different frameworks or dtypes.
    ValueError
        If the shapes do not broadcast, or a number is not finite or, as a scale, not positive.

    Notes
    -----
    The divergence of two logistics has no closed form: `backdraw.kl` refuses it.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Logistic(np.array([0.0, 1.0]), 2.0)
    >>> p.log_prob(np.array([0.0, 0.0])).round(4)
    array([-2.0794, -2.1413])
    >>> p.entropy().round(4)
    array([2.6931, 2.6931])
    """

    noise: ClassVar[str] = "logistic"
    formulas: ClassVar[Formulas] = of_standard(
        lambda be, z: be.log_sigmoid(z) + be.log_sigmoid(-z),
        lambda be, z: be.sigmoid(-z) - be.sigmoid(z),
        mean=0.0,
        variance=math.pi**2 / 3.0,
        entropy=2.0,
    )


class Gumbel(LocationScale):
    r"""Gumbel distribution of maxima: :math:`p(x) = \exp(-z - e^{-z}) / s` with :math:`z = (x - m) / s`.

    Parameters
    ----------
    loc : array or float, any shape
        m, the mode. Any real floating dtype.
    scale : array or float, broadcasts against `loc`
        s > 0. At least one of the two is an array. A value of an array is not checked: where it is not positive, what is
        computed from it is NaN or meaningless, as in the formula.

    Raises
    ------
    TypeError
        If a parameter is not a number or a real floating array, or the arrays are of different frameworks or dtypes.
    ValueError
        If the shapes do not broadcast, or a number is not finite or, as a scale, not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Gumbel(np.array([0.0, 1.0]), 2.0)
    >>> p.log_prob(np.array([0.0, 0.0])).round(4)
    array([-1.6931, -1.8419])
    >>> p.mean().round(4)
    array([1.1544, 2.1544])
    """

    noise: ClassVar[str] = "gumbel"
    formulas: ClassVar[Formulas] = of_standard(
        lambda be, z: -z - be.xp.exp(-z),
        lambda be, z: be.xp.exp(-z) - 1.0,
        mean=EULER,
        variance=math.pi**2 / 6.0,
        entropy=1.0 + EULER,
    )

    def kl(self, other: "Gumbel") -> Array:
        """KL(self || other) in nats, of the batch shape."""
        return divergence(_gumbel_kl, self, other)


# ------------------------------------------------------- divergences, of the parameters m, s of p and then n, t of q
def laplace_kl(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    """``log(t / s) + (s * exp(-d / s) + d) / t - 1`` with ``d = abs(m - n)``."""
    xp, d = be.xp, be.xp.abs(m - n)
    return xp.log(t) - xp.log(s) + (s * xp.exp(-d / s) + d) / t - 1.0


def _laplace_to_loc(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    return -be.xp.sign(m - n) * be.xp.expm1(-be.xp.abs(m - n) / s) / t


def _laplace_to_scale(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    z = be.xp.abs(m - n) / s
    return be.xp.exp(-z) * (1.0 + z) / t - 1.0 / s


def _laplace_to_other_scale(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    d = be.xp.abs(m - n)
    return (1.0 - (s * be.xp.exp(-d / s) + d) / t) / t


_laplace_kl = Elementwise(
    laplace_kl,
    _laplace_to_loc,
    _laplace_to_scale,
    lambda *args: -_laplace_to_loc(*args),
    _laplace_to_other_scale,
)


def _gumbel_terms(be: Backend, m: Array, s: Array, n: Array, t: Array) -> tuple[Array, Array, Array]:
    """Return ``s / t``, ``(m - n) / t`` and ``E[exp(-(x - n) / t)]``."""
    ratio, shift = s / t, (m - n) / t
    return ratio, shift, be.xp.exp(log_gamma(be, 1.0 + ratio) - shift)


def gumbel_kl(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    """``log(t / s) + (m - n + EULER * (s - t)) / t + gamma(1 + s / t) * exp((n - m) / t) - 1``."""
    ratio, shift, e = _gumbel_terms(be, m, s, n, t)
    return be.xp.log(t) - be.xp.log(s) + shift + EULER * (ratio - 1.0) + e - 1.0


def _gumbel_to_loc(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    return (1.0 - _gumbel_terms(be, m, s, n, t)[2]) / t


def _gumbel_to_scale(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    ratio, _, e = _gumbel_terms(be, m, s, n, t)
    return (EULER + e * digamma(be, 1.0 + ratio)) / t - 1.0 / s


def _gumbel_to_other_scale(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    ratio, shift, e = _gumbel_terms(be, m, s, n, t)
    return (1.0 - shift - EULER * ratio + e * (shift - digamma(be, 1.0 + ratio) * ratio)) / t


_gumbel_kl = Elementwise(
    gumbel_kl,
    _gumbel_to_loc,
    _gumbel_to_scale,
    lambda *args: -_gumbel_to_loc(*args),
    _gumbel_to_other_scale,
)
