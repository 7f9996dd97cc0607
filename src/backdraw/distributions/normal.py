"""The normal distribution, and the log-normal."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.distributions.continuous import FixedSupport, Formulas, divergence
from backdraw.distributions.elementwise import Elementwise
from backdraw.distributions.location_scale import LocationScale, of_standard

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class Normal(LocationScale):
    r"""Normal distribution: :math:`p(x) = \frac{1}{\sqrt{2 \pi} s} \exp(-(x - m)^2 / (2 s^2))`.

    Parameters
    ----------
    loc : array or float, any shape
        m, the mean. Any real floating dtype.
    scale : array or float, broadcasts against `loc`
        s > 0, the standard deviation. At least one of the two is an array. A value of an array is not checked: where it is
        not positive, what is computed from it is NaN or meaningless, as in the formula.

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
    >>> p = backdraw.Normal(np.array([0.0, 1.0]), 2.0)
    >>> p.log_prob(np.array([0.0, 0.0])).round(4)
    array([-1.6121, -1.7371])
    >>> backdraw.kl(p, backdraw.Normal(np.zeros(2), 1.0)).round(4)
    array([0.8069, 1.3069])
    """

    noise: ClassVar[str] = "normal"
    formulas: ClassVar[Formulas] = of_standard(
        lambda be, z: -0.5 * z * z - HALF_LOG_2PI,
        lambda be, z: -z,
        mean=0.0,
        variance=1.0,
        entropy=0.5 + HALF_LOG_2PI,
    )

    def kl(self, other: "Normal") -> Array:
        """KL(self || other) in nats, of the batch shape."""
        return divergence(_normal_kl, self, other)

    def measure_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Noise for `derivative_measures`: three normals a draw, the first of them that of `sample`."""
        return random.noise(self.backend, "normal", rng, (3, *shape, *self.loc.shape), self.loc)

    def derivative_measures(self, noise: Array) -> tuple[Array, Any]:
        """Draws, and the parts of the derivatives: in loc a Weibull to its two sides, in scale a Maxwell and the draw."""
        be = self.backend
        z, squares = noise[0, ...], noise[1, ...] ** 2 + noise[2, ...] ** 2
        # A coordinate of a point in space is its distance from the origin, which is Maxwell, times a uniform.
        weibull = be.xp.sqrt(squares)
        distance = be.xp.sqrt(z * z + squares)
        maxwell = be.xp.where(z < 0, -distance, distance)
        up, down, far = (self.sample(y)[None, ...] for y in (weibull, -weibull, maxwell))
        c = 1.0 / be.cast(be.stop_gradient(self.scale), be.wide(self.scale.dtype))[None, None, ...]
        return self.sample(z), ((c / math.sqrt(2.0 * math.pi), up, down), (c, far, None))


def normal_kl(be: Backend, m: Array, s: Array, n: Array, t: Array) -> Array:
    """``log(t / s) + (s**2 + (m - n)**2) / (2 * t**2) - 1 / 2``."""
    return be.xp.log(t) - be.xp.log(s) + 0.5 * ((s / t) ** 2 + ((m - n) / t) ** 2 - 1.0)


_normal_kl = Elementwise(
    normal_kl,
    lambda be, m, s, n, t: (m - n) / t / t,
    lambda be, m, s, n, t: s / t / t - 1.0 / s,
    lambda be, m, s, n, t: (n - m) / t / t,
    lambda be, m, s, n, t: (1.0 - (s / t) ** 2 - ((m - n) / t) ** 2) / t,
)


def _where_positive(be: Backend, x: Array) -> tuple[Array, Array, Array]:
    """Return where x is in the support, x there and 1 elsewhere, and the logarithm of that."""
    inside = x > 0
    safe = be.xp.where(inside, x, 1.0)
    return inside, safe, be.xp.log(safe)


def _log_normal(be: Backend, x: Array, m: Array, s: Array) -> Array:
    inside, _, y = _where_positive(be, x)
    z = (y - m) / s
    return be.xp.where(inside, -0.5 * z * z - y - be.xp.log(s) - HALF_LOG_2PI, -be.xp.inf)


def _log_normal_to_x(be: Backend, x: Array, m: Array, s: Array) -> Array:
    inside, safe, y = _where_positive(be, x)
    return be.xp.where(inside, -(1.0 + (y - m) / s / s) / safe, 0.0)


def _log_normal_to_loc(be: Backend, x: Array, m: Array, s: Array) -> Array:
    inside, _, y = _where_positive(be, x)
    return be.xp.where(inside, (y - m) / s / s, 0.0)


def _log_normal_to_scale(be: Backend, x: Array, m: Array, s: Array) -> Array:
    inside, _, y = _where_positive(be, x)
    return be.xp.where(inside, (((y - m) / s) ** 2 - 1.0) / s, 0.0)


def _log_normal_mean(be: Backend, m: Array, s: Array) -> Array:
    return be.xp.exp(m + 0.5 * s * s)


def _log_normal_variance(be: Backend, m: Array, s: Array) -> Array:
    return be.xp.expm1(s * s) * be.xp.exp(2.0 * m + s * s)


@dataclass(frozen=True, eq=False)
class LogNormal(FixedSupport):
    r"""Distribution of the exponential of a normal: :math:`p(x) = \frac{1}{\sqrt{2 \pi} s x} \exp(-(\log x - m)^2 / (2 s^2))`.

    Parameters
    ----------
    loc : array or float, any shape
        m, the mean of log(x). Any real floating dtype.
    scale : array or float, broadcasts against `loc`
        s > 0, the standard deviation of log(x). At least one of the two is an array. A value of an array is not checked:
        where it is not positive, what is computed from it is NaN or meaningless, as in the formula.

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
    >>> p = backdraw.LogNormal(np.array([0.0, 1.0]), 0.5)
    >>> p.mean().round(4)
    array([1.1331, 3.0802])
    >>> p.log_prob(np.array([-1.0, 1.0])).round(4)
    array([   -inf, -2.2258])
    """

    loc: Array
    scale: Array

    arrays: ClassVar[tuple[str, ...]] = ("loc", "scale")
    parameters: ClassVar[tuple[str, ...]] = ("loc", "scale")
    positive: ClassVar[tuple[str, ...]] = ("scale",)
    noise: ClassVar[str] = "normal"
    formulas: ClassVar[Formulas] = Formulas(
        transport=Elementwise(
            lambda be, z, m, s: be.xp.exp(m + s * z),
            None,
            lambda be, z, m, s: be.xp.exp(m + s * z),
            lambda be, z, m, s: z * be.xp.exp(m + s * z),
        ),
        log_prob=Elementwise(_log_normal, _log_normal_to_x, _log_normal_to_loc, _log_normal_to_scale),
        mean=Elementwise(_log_normal_mean, _log_normal_mean, lambda be, m, s: s * _log_normal_mean(be, m, s)),
        variance=Elementwise(
            _log_normal_variance,
            lambda be, m, s: 2.0 * _log_normal_variance(be, m, s),
            lambda be, m, s: 2.0 * s * be.xp.exp(2.0 * m + s * s) * (2.0 * be.xp.exp(s * s) - 1.0),
        ),
        entropy=Elementwise(
            lambda be, m, s: m + be.xp.log(s) + 0.5 + HALF_LOG_2PI,
            1.0,
            lambda be, m, s: 1.0 / s,
        ),
    )

    def kl(self, other: "LogNormal") -> Array:
        """KL(self || other) in nats, of the batch shape: that of the normals."""
        return divergence(_normal_kl, self, other)
