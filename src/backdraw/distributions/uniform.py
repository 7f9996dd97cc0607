"""The uniform distribution of an interval."""

from dataclasses import dataclass
from typing import ClassVar

from backdraw.backend import Array, Backend
from backdraw.distributions.continuous import Continuous, Formulas, divergence
from backdraw.distributions.elementwise import Elementwise


def _inside(x: Array, low: Array, high: Array) -> Array:
    return (low <= x) & (x <= high)


def _draw(be: Backend, u: Array, low: Array, high: Array) -> Array:
    # Rounding must not carry it out of the interval, where its log-probability would be -inf.
    return be.xp.minimum(be.xp.maximum(low + (high - low) * u, low), high)


def _kl(be: Backend, a: Array, b: Array, low: Array, high: Array) -> Array:
    inside = (low <= a) & (b <= high)
    return be.xp.where(inside, be.xp.log(high - low) - be.xp.log(b - a), be.xp.inf)


def _over_width(be: Backend, inside: Array, low: Array, high: Array) -> Array:
    """``1 / (high - low)`` where inside, else 0."""
    return be.xp.where(inside, 1.0 / (high - low), 0.0)


@dataclass(frozen=True, eq=False)
class Uniform(Continuous):
    r"""Uniform distribution: :math:`p(x) = 1 / (b - a)` for :math:`a \le x \le b`.

    Parameters
    ----------
    low : array or float, any shape
        a. Any real floating dtype.
    high : array or float, broadcasts against `low`
        b > a. At least one of the two is an array. A value of an array is not checked: where b does not exceed a, what is
        computed from it is NaN or meaningless, as in the formula.

    Raises
    ------
    TypeError
        If a parameter is not a number or a real floating array, or the arrays are of different frameworks or dtypes.
    ValueError
        If the shapes do not broadcast, or a number is not finite.

    Notes
    -----
    Its support moves with its parameters, so that the gradient of the log-probability does not have mean zero and the
    score-function estimators would be wrong. It therefore has no `score`; take `backdraw.reparameterize`.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Uniform(np.array([0.0, 1.0]), 3.0)
    >>> p.log_prob(np.array([0.5, 0.5])).round(4)
    array([-1.0986,    -inf])
    >>> p.mean()
    array([1.5, 2. ])
    """

    low: Array
    high: Array

    arrays: ClassVar[tuple[str, ...]] = ("low", "high")
    parameters: ClassVar[tuple[str, ...]] = ("low", "high")
    noise: ClassVar[str] = "uniform"
    formulas: ClassVar[Formulas] = Formulas(
        transport=Elementwise(_draw, None, lambda be, u, low, high: 1.0 - u, lambda be, u, low, high: u),
        log_prob=Elementwise(
            lambda be, x, low, high: be.xp.where(_inside(x, low, high), -be.xp.log(high - low), -be.xp.inf),
            0.0,
            lambda be, x, low, high: _over_width(be, _inside(x, low, high), low, high),
            lambda be, x, low, high: -_over_width(be, _inside(x, low, high), low, high),
        ),
        mean=Elementwise(lambda be, low, high: 0.5 * low + 0.5 * high, 0.5, 0.5),
        variance=Elementwise(
            lambda be, low, high: (high - low) ** 2 / 12.0,
            lambda be, low, high: (low - high) / 6.0,
            lambda be, low, high: (high - low) / 6.0,
        ),
        entropy=Elementwise(
            lambda be, low, high: be.xp.log(high - low),
            lambda be, low, high: -1.0 / (high - low),
            lambda be, low, high: 1.0 / (high - low),
        ),
    )

    def kl(self, other: "Uniform") -> Array:
        """KL(self || other) in nats, of the batch shape; +inf where the support of `other` does not hold that of this."""
        return divergence(_uniform_kl, self, other)


def _contained(be: Backend, a: Array, b: Array, low: Array, high: Array) -> Array:
    return _over_width(be, (low <= a) & (b <= high), a, b)


def _containing(be: Backend, a: Array, b: Array, low: Array, high: Array) -> Array:
    return _over_width(be, (low <= a) & (b <= high), low, high)


_uniform_kl = Elementwise(
    _kl,
    _contained,
    lambda *args: -_contained(*args),
    lambda *args: -_containing(*args),
    _containing,
)
