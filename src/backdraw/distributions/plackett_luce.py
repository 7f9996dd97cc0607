"""Ordered draws without replacement."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

from backdraw import random
from backdraw.backend import Array
from backdraw.distributions import orders
from backdraw.distributions.checks import as_value, check_logits
from backdraw.distributions.perturbed import Perturbed
from backdraw.distributions.temperature import tempered
from backdraw.errors import InvalidTypeError, InvalidValueError

SORTS = ("softsort", "neuralsort")


@dataclass(frozen=True, eq=False)
class PlackettLuce(Perturbed):
    r"""The first k of n items, drawn one after the other without replacement, each with probability in proportion to exp(l).

    .. math:: p(x) = \prod_{i=1}^{k} \frac{\exp(l_{\pi_i})}{\sum_{j \notin \{\pi_1, \ldots, \pi_{i-1}\}} \exp(l_j)}

    for the k x n matrix x whose row i is one-hot at the item :math:`\pi_i`.

    Parameters
    ----------
    logits : array, shape (..., n)
        l. Any real floating dtype. -inf is an item that is never drawn; where fewer than k others are left, the last rows
        of a draw are all zeros.
    k : int, optional
        How many items are drawn, from 1 to n; all of them unless told: x is then a permutation matrix.

    Raises
    ------
    TypeError
        If `logits` is not a real floating array, or `k` not an int.
    ValueError
        If `logits` is a scalar or has no item, or `k` is out of range.

    Notes
    -----
    The items in the order of logits plus Gumbel noise follow this law exactly: `backdraw.gumbel_max` and `backdraw.draw`
    draw from p.

    `relax` is SoftSort or NeuralSort of u at the temperature t, where i counts the rows, and j the items with a utility:

    .. math::

        \text{softsort}: \quad & y_i = \mathrm{softmax}_j(-|u_{[i]} - u_j| / t), \quad u_{[i]} \text{ the i-th largest} \\
        \text{neuralsort}: \quad & y_i = \mathrm{softmax}_j\big(((n + 1 - 2 i)\, u_j - \textstyle\sum_l |u_j - u_l|) / t\big)

    The rows of both are distributions whose largest entry is that of the sorted order, if no utilities are equal; the
    columns do not add up to 1. "softsort" is the default, also for the estimators, whose "entropy" means it; it costs
    k n and not n^2. Where two utilities are equal the functions have a kink,
    and the gradient is the mean of those to its sides.

    References
    ----------
    J. I. Yellott, The Relationship between Luce's Choice Axiom, Thurstone's Theory of Comparative Judgment, and the Double
    Exponential Distribution, 1977.

    A. Grover, E. Wang, A. Zweig, S. Ermon, Stochastic Optimization of Sorting Networks via Continuous Relaxations,
    arXiv 1903.08850.

    S. Prillo, J. M. Eisenschlos, SoftSort, arXiv 2006.16038.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.PlackettLuce(np.log([0.1, 0.2, 0.7]), k=2)
    >>> x = backdraw.draw(p, rng=backdraw.key(0))
    >>> x
    array([[0., 0., 1.],
           [0., 1., 0.]])
    >>> float(np.exp(p.log_prob(x)).round(4))  # 0.7 * 0.2 / 0.3
    0.4667
    >>> p.relax(p.logits, 0.5).round(2)
    array([[0.02, 0.07, 0.91],
           [0.19, 0.75, 0.06]])
    """

    logits: Array
    k: int | None = None

    arrays: ClassVar[tuple[str, ...]] = ("logits",)
    plain: ClassVar[tuple[str, ...]] = ("k",)
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    lacks: ClassVar[dict[str, str]] = {
        "log_partition": "its draws do not maximise their product with the logits; take -log_prob(target) for a loss"
    }
    instead: ClassVar[str] = "take backdraw.gumbel_softmax or backdraw.rloo"

    def __post_init__(self) -> None:
        check_logits(self.logits)
        shape = tuple(self.logits.shape)
        if not shape or shape[-1] == 0:
            raise InvalidValueError(f"logits: expected shape (..., n) with n at least 1, got {shape}")
        if self.k is None:
            object.__setattr__(self, "k", shape[-1])
        if isinstance(self.k, bool) or not isinstance(self.k, Integral):
            raise InvalidTypeError(f"k: expected an int, got {type(self.k).__name__}")
        if not 1 <= self.k <= shape[-1]:
            raise InvalidValueError(f"k: expected 1 to {shape[-1]} for logits of shape {shape}, got {self.k}")
        object.__setattr__(self, "k", int(self.k))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the logits without the items."""
        return tuple(self.logits.shape[:-1])

    def over_event(self, x: Array) -> Array:
        """Give an array of the batch shape, or with samples in front, the axes of places and items, of size 1."""
        return x[..., None, None]

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Gumbel noise for `sample`, float64."""
        be = self.backend
        return random.noise(be, "gumbel", rng, (*shape, *self.logits.shape), self.logits, be.xp.float64)

    def sample(self, noise: Array) -> Array:
        """Exact draws: the items in the order of logits plus noise."""
        be = self.backend
        with be.double():
            u = be.cast(be.stop_gradient(self.logits), noise.dtype) + noise
            return be.cast(orders.first(be, u, self._rows), self.logits.dtype)

    @property
    def _rows(self) -> int:
        assert self.k is not None
        return self.k

    def log_prob(self, x: Array) -> Array:
        """Log-probability of draws `x`, of the batch shape; differentiable in the logits."""
        return orders.log_prob(self.logits, self._as_value(x))

    def score(self, x: Array) -> Array:
        """Gradient of ``log_prob(x)`` in the logits: summed over the rows, one-hot less the probabilities of what is left."""
        return orders.score(self.backend, self.backend.stop_gradient(self.logits), self._as_value(x))

    def _as_value(self, x: Array) -> Array:
        return as_value(x, self.logits, (*self.logits.shape[:-1], self._rows, self.logits.shape[-1]))

    def argmax(self, utilities: Array) -> Array:
        """One-hot rows of the k largest utilities, in descending order, of equals the first; no gradient."""
        be = self.backend
        return be.cast(orders.first(be, be.stop_gradient(utilities), self._rows), self.logits.dtype)

    def relax(self, utilities: Array, temperature: Any = 1.0, regularizer: str = "softsort") -> Array:
        """SoftSort or NeuralSort of the utilities, with its exact vjp in them and in the temperature."""
        if regularizer == "entropy":
            regularizer = "softsort"
        if regularizer not in SORTS:
            raise InvalidValueError(f"regularizer: expected one of {', '.join(SORTS)}, got {regularizer!r}")
        if not isinstance(temperature, float):
            utilities, temperature = tempered(utilities, temperature), 1.0
        return orders.relaxed_sort(
            utilities, k=self._rows, temperature=temperature, regularizer=regularizer, dtype=self.logits.dtype
        )
