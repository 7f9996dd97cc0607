"""Subsets of k of n items, as vectors of zeros and ones."""

import itertools
import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np

from backdraw import random
from backdraw.backend import Array
from backdraw.distributions import balance, elementary, hypersimplex, subset_law
from backdraw.distributions.checks import as_value, check_logits
from backdraw.distributions.perturbed import Canonical
from backdraw.errors import InvalidTypeError, InvalidValueError

LIMIT = 2**20


@dataclass(frozen=True, eq=False)
class Subset(Canonical):
    r"""Subset of k among n items: :math:`p(x) = \exp \langle l, x \rangle / Z` over vectors of k ones and n - k zeros.

    :math:`Z = e_k(\exp l)` is the elementary symmetric polynomial; it, the marginals and exact draws come from a dynamic
    programme of O(nk).

    Parameters
    ----------
    logits : array, shape (..., n)
        Unnormalised log-odds of the items; the axes in front are batch axes. Any real floating dtype. -inf is an item that
        is never drawn. A row with fewer than k others has no value: it gives an all-zero draw and mean, a log-partition of
        -inf, and no gradient.
    k : int
        The number of ones, from 0 to n.

    Raises
    ------
    TypeError
        If `logits` is not a real floating array, or `k` not an int.
    ValueError
        If `logits` is a scalar or has no item, or `k` is out of range.

    Notes
    -----
    `sample`, and with it `backdraw.draw` and `backdraw.straight_through`, follow this law exactly; with its gradient, that of
    the marginals, `backdraw.straight_through` is SIMPLE. The k largest of the logits plus Gumbel noise (`perturb`, then
    `argmax`: `backdraw.gumbel_max`, `backdraw.stochastic_softmax`) follow another one, that of k items drawn one after the
    other without replacement, with probabilities proportional to :math:`\exp l` each time. The two agree for k = 1.

    `relax` maximises :math:`\langle u, x \rangle - t f(x)` over the convex hull, :math:`0 \le x_i \le 1` with
    :math:`\sum_i x_i = k`. With the regularizer "entropy", f is that of the law above, and x the marginals at logits
    :math:`u / t`; with "binary", :math:`f = \sum_i x_i \log x_i + (1 - x_i) \log(1 - x_i)` and
    :math:`x = \mathrm{sigmoid}(u / t - \tau)`; with "euclidean", :math:`f = \lVert x \rVert^2 / 2` and x is the projection
    of :math:`u / t`, with exact zeros and ones.

    References
    ----------
    K. Ahmed, Z. Zeng, M. Niepert, G. Van den Broeck, SIMPLE: A Gradient Estimator for k-Subset Sampling, arXiv 2210.01941.

    M. B. Paulus, D. Choi, D. Tarlow, A. Krause, C. J. Maddison, Gradient Estimation with Stochastic Softmax Tricks,
    arXiv 2006.08063.

    B. Amos, V. Koltun, J. Z. Kolter, The Limited Multi-Label Projection Layer, arXiv 1906.08707, for "binary".

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Subset(np.array([0.0, 1.0, 2.0, -1.0]), k=2)
    >>> p.mean().round(3)
    array([0.306, 0.694, 0.881, 0.119])
    >>> backdraw.draw(p, shape=2, rng=backdraw.key(0))
    array([[1., 0., 1., 0.],
           [0., 1., 1., 0.]])
    >>> backdraw.stochastic_softmax(p, temperature=0.5, rng=backdraw.key(0)).round(3)
    array([0.121, 0.525, 0.999, 0.355])
    """

    logits: Array
    k: int

    arrays: ClassVar[tuple[str, ...]] = ("logits",)
    plain: ClassVar[tuple[str, ...]] = ("k",)
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    argmax_law: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_logits(self.logits)
        shape = tuple(self.logits.shape)
        if not shape or shape[-1] == 0:
            raise InvalidValueError(f"logits: expected at least one item along the last axis, got shape {shape}")
        if isinstance(self.k, bool) or not isinstance(self.k, Integral):
            raise InvalidTypeError(f"k: expected an int, got {type(self.k).__name__}")
        if not 0 <= self.k <= shape[-1]:
            raise InvalidValueError(f"k: expected 0 to {shape[-1]} for logits of shape {shape}, got {self.k}")
        object.__setattr__(self, "k", int(self.k))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the logits without the last axis."""
        return tuple(self.logits.shape[:-1])

    def over_event(self, x: Array) -> Array:
        """Give an array of the batch shape, or with samples in front, the axis of the items, of size 1."""
        return self.backend.xp.expand_dims(x, axis=-1)

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Uniforms for `sample`, float64, one an item."""
        be = self.backend
        return random.noise(be, "uniform", rng, (*shape, *self.logits.shape), self.logits, be.xp.float64)

    def sample(self, noise: Array) -> Array:
        """Exact draws, item by item from the last to the first, each given those before; in float64."""
        be = self.backend
        with be.double():
            return be.program(elementary.sample, be.stop_gradient(self.logits), noise, k=self.k)

    def log_prob(self, x: Array) -> Array:
        """Log-probability of `x`, of the batch shape, differentiable in both; -inf unless x is k ones and else zeros."""
        x = as_value(x, self.logits)
        return subset_law.log_prob(self.logits, x, k=self.k)

    def log_prob_of_mean(self, x: Array) -> Array:
        """``sum(logits * x) - log_partition()`` for a mean of subsets, of the batch shape."""
        return subset_law.log_prob_of_mean(self.logits, x, k=self.k)

    def log_partition(self) -> Array:
        """Logarithm of the sum of ``exp(<logits, x>)`` over all subsets, of the batch shape."""
        return subset_law.log_partition(self.logits, k=self.k)

    def mean(self, *, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Marginals, of the logits divided by `temperature`; or what `relax` makes of the logits in their place."""
        return self.relax(self.logits, temperature, regularizer)

    def support(self) -> tuple[Array, Array]:
        """Return all subsets, shape ``(C(n, k), *logits.shape)``, and their probabilities, ``(C(n, k), *batch_shape)``."""
        be, n = self.backend, int(self.logits.shape[-1])
        if math.comb(n, self.k) > LIMIT:
            raise InvalidValueError(f"k: expected at most {LIMIT} subsets to enumerate, got {math.comb(n, self.k)}")
        every = list(itertools.combinations(range(n), self.k))
        members = be.constant(np.asarray(every, np.int64).reshape(len(every), self.k), self.logits)
        values = subset_law.indicators(be, members, n, self.logits.dtype)
        values = be.xp.reshape(values, (len(every), *(1,) * len(self.batch_shape), n))
        return be.xp.broadcast_to(values, (len(every), *self.logits.shape)), subset_law.chances(self.logits, members)

    def entropy(self) -> Array:
        """Entropy in nats, of the batch shape."""
        return subset_law.entropy(self.logits, k=self.k)

    def kl(self, other: "Subset") -> Array:
        """KL(self || other) in nats, of the batch shape."""
        if self.k != other.k or tuple(self.logits.shape) != tuple(other.logits.shape):
            raise InvalidValueError(
                f"q: expected logits of shape {tuple(self.logits.shape)} with k = {self.k}, "
                f"got {tuple(other.logits.shape)} with k = {other.k}"
            )
        return subset_law.kl(self.logits, other.logits, k=self.k)

    def argmax(self, utilities: Array) -> Array:
        """Ones at the k largest utilities, the first of equals; no gradient."""
        be = self.backend
        u = be.stop_gradient(utilities)
        return be.cast(be.program(balance.top, be.cast(u, be.wide(u.dtype)), k=self.k), self.logits.dtype)

    def relax(self, utilities: Array, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Point between the subsets at ``utilities / temperature``, by regularizer, with its exact vjp."""
        hypersimplex.check_regularizer(regularizer)
        if not isinstance(temperature, float):
            utilities, temperature = hypersimplex.tempered(utilities, temperature, k=self.k), 1.0
        return hypersimplex.relaxed(
            utilities, k=self.k, temperature=temperature, regularizer=regularizer, dtype=self.logits.dtype
        )

    def project(self, x: Array, step: Array, projection: str) -> Array:  # noqa: ARG002
        """Return the target of intermediate loss sampling: ``x - step`` projected to sums of k, whatever the `projection`."""
        be = self.backend
        y = be.xp.where(be.stop_gradient(self.logits) > -be.xp.inf, x - step, -be.xp.inf)
        return be.program(balance.project, y, k=self.k, temperature=1.0)
