"""The exponential distribution."""

from dataclasses import dataclass
from typing import Any, ClassVar

from backdraw import random
from backdraw.backend import Array
from backdraw.distributions.continuous import FixedSupport, Formulas, divergence
from backdraw.distributions.elementwise import Elementwise


@dataclass(frozen=True, eq=False)
class Exponential(FixedSupport):
    r"""Exponential distribution: :math:`p(x) = r \exp(-r x)` for :math:`x \ge 0`.

    Parameters
    ----------
    rate : array, any shape
        r > 0. Any real floating dtype. Its values are not checked: where one is not positive, what is computed from it is
        NaN or meaningless, as in the formula.

    Raises
    ------
    TypeError
        If `rate` is not a real floating array.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Exponential(np.array([0.5, 2.0]))
    >>> p.mean()
    array([2. , 0.5])
    >>> p.log_prob(np.array([-1.0, 1.0])).round(4)
    array([   -inf, -1.3069])
    """

    rate: Array

    arrays: ClassVar[tuple[str, ...]] = ("rate",)
    parameters: ClassVar[tuple[str, ...]] = ("rate",)
    events: ClassVar[tuple[int, ...]] = (0,)
    positive: ClassVar[tuple[str, ...]] = ("rate",)
    noise: ClassVar[str] = "waiting"
    formulas: ClassVar[Formulas] = Formulas(
        transport=Elementwise(lambda be, e, r: e / r, None, lambda be, e, r: -e / r / r),
        log_prob=Elementwise(
            lambda be, x, r: be.xp.where(x < 0, -be.xp.inf, be.xp.log(r) - r * x),
            lambda be, x, r: be.xp.where(x < 0, 0.0, -r),
            lambda be, x, r: be.xp.where(x < 0, 0.0, 1.0 / r - x),
        ),
        mean=Elementwise(lambda be, r: 1.0 / r, lambda be, r: -1.0 / r / r),
        variance=Elementwise(lambda be, r: 1.0 / r / r, lambda be, r: -2.0 / r / r / r),
        entropy=Elementwise(lambda be, r: 1.0 - be.xp.log(r), lambda be, r: -1.0 / r),
    )

    def kl(self, other: "Exponential") -> Array:
        """KL(self || other) in nats, of the batch shape."""
        return divergence(_exponential_kl, self, other)

    def measure_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Noise for `derivative_measures`: two exponentials a draw, the first of them that of `sample`."""
        return random.noise(self.backend, self.noise, rng, (2, *shape, *self.rate.shape), self.rate)

    def derivative_measures(self, noise: Array) -> tuple[Array, Any]:
        """Draws, and the parts of the derivative in rate: the draw, and its sum with another draw."""
        be = self.backend
        c = 1.0 / be.cast(be.stop_gradient(self.rate), be.wide(self.rate.dtype))[None, None, ...]
        return self.sample(noise[0, ...]), ((c, None, self.sample(noise[0, ...] + noise[1, ...])[None, ...]),)


_exponential_kl = Elementwise(
    lambda be, p, q: be.xp.log(p) - be.xp.log(q) + q / p - 1.0,
    lambda be, p, q: (1.0 - q / p) / p,
    lambda be, p, q: 1.0 / p - 1.0 / q,
)
