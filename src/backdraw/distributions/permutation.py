"""Permutations: matchings of rows with columns."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np

from backdraw.backend import Array
from backdraw.distributions.checks import check_logits
from backdraw.distributions.perturbed import Perturbed
from backdraw.distributions.sinkhorn import sinkhorn
from backdraw.distributions.temperature import tempered
from backdraw.errors import BackendError, InvalidTypeError, InvalidValueError

HARD = (
    "its normalisation is the permanent of exp(logits), which is #P-hard; take backdraw.gumbel_max or backdraw.gumbel_softmax"
)


@dataclass(frozen=True, eq=False)
class Permutation(Perturbed):
    r"""An n x n permutation matrix: :math:`x = \arg\max_{x'} \langle l + g, x' \rangle` with Gumbel noise g on every entry.

    Parameters
    ----------
    logits : array, shape (..., n, n)
        l, the utilities of matching a row with a column. Any real floating dtype. -inf is a match that is never made; where
        no matching is left, the argmax is all zeros.
    iterations : int, optional
        How many times `relax` normalises the rows and then the columns: 20, or with a tolerance at most 200.
    tolerance : float, optional
        Between 0 and 1. `relax` stops, each matrix by itself, when the rows add up to 1 within it.

    Raises
    ------
    TypeError
        If `logits` is not a real floating array, `iterations` not an int, or `tolerance` not a number.
    ValueError
        If `logits` is not square or has no row, `iterations` is not positive, or `tolerance` not between 0 and 1.

    Notes
    -----
    The law is that of the perturbation. It is not the exponential family :math:`p(x) \propto \exp \langle l, x \rangle`,
    whose normalisation is a permanent and #P-hard: there is no mean, log-probability or draw of it here; to ask for one, or
    to take an estimator that needs it, raises TypeError.

    `argmax` is SciPy's ``linear_sum_assignment``, on the host: ``pip install 'backdraw[structures]'``. Of equals it is the
    one that SciPy finds.

    `relax` is Sinkhorn's iteration of :math:`\exp(u / t)`, in float64, by products with the matrix where u / t is spread over
    no more than 250, and else in log space. It tends to the doubly stochastic matrix
    :math:`\arg\max_x \langle u, x \rangle + t H(x)`, H the entropy of the entries, and that to the permutation as t falls.
    After the stated number of iterations the columns add up to 1, the rows nearly so: the error falls by a constant factor
    with each iteration, which tends to 1 as t falls. A tolerance bounds it where `iterations` allow for that. The gradient is
    exact for the number of iterations that is made. Under ``torch.compile`` and ``vmap`` the time is that of all `iterations`,
    and there and on JAX the memory too. -inf may leave entries that are in no matching: they tend to 0 slowly.

    References
    ----------
    G. Mena, D. Belanger, S. Linderman, J. Snoek, Learning Latent Permutations with Gumbel-Sinkhorn Networks,
    arXiv 1802.08665.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Permutation(np.array([[1.0, 0.5], [0.8, 0.0]]))
    >>> p.relax(p.logits, 0.1).round(3)
    array([[0.182, 0.818],
           [0.818, 0.182]])
    >>> backdraw.gumbel_max(p, rng=backdraw.key(0))
    array([[0., 1.],
           [1., 0.]])
    """

    logits: Array
    iterations: int | None = None
    tolerance: float | None = None

    arrays: ClassVar[tuple[str, ...]] = ("logits",)
    plain: ClassVar[tuple[str, ...]] = ("iterations", "tolerance")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    lacks: ClassVar[dict[str, str]] = dict.fromkeys(
        ("sample", "draw_noise", "log_prob", "score", "support", "log_partition", "mean", "entropy", "kl"), HARD
    )
    instead: ClassVar[str] = "take backdraw.gumbel_max or backdraw.gumbel_softmax"

    def __post_init__(self) -> None:
        check_logits(self.logits)
        shape = tuple(self.logits.shape)
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
            raise InvalidValueError(f"logits: expected shape (..., n, n) with n at least 1, got {shape}")
        if self.tolerance is not None:
            if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, Real):
                raise InvalidTypeError(f"tolerance: expected a number or None, got {type(self.tolerance).__name__}")
            if not 0 < self.tolerance < 1:
                raise InvalidValueError(f"tolerance: expected a number between 0 and 1, got {self.tolerance}")
            object.__setattr__(self, "tolerance", float(self.tolerance))
        if self.iterations is None:
            object.__setattr__(self, "iterations", 20 if self.tolerance is None else 200)
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, Integral):
            raise InvalidTypeError(f"iterations: expected an int, got {type(self.iterations).__name__}")
        if self.iterations < 1:
            raise InvalidValueError(f"iterations: expected at least 1, got {self.iterations}")
        object.__setattr__(self, "iterations", int(self.iterations))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The axes in front of the matrices."""
        return tuple(self.logits.shape[:-2])

    def over_event(self, x: Array) -> Array:
        """Give an array of the batch shape, or with samples in front, the axes of the matrix, of size 1."""
        return x[..., None, None]

    def argmax(self, utilities: Array) -> Array:
        """Permutation matrix of the largest sum of utilities; no gradient."""
        be, solve = self.backend, _solver()
        u = be.stop_gradient(utilities)
        u = be.cast(u, be.wide(u.dtype))
        x = be.host(lambda u: _matchings(solve, u), u, shape=tuple(u.shape), dtype=u.dtype)
        return be.cast(x, self.logits.dtype)

    def relax(self, utilities: Array, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Sinkhorn's iteration of ``exp(utilities / temperature)``, with its exact vjp in both."""
        if regularizer != "entropy":
            raise InvalidValueError(f"regularizer: expected 'entropy', the one that a Permutation has, got {regularizer!r}")
        if not isinstance(temperature, float):
            utilities, temperature = tempered(utilities, temperature), 1.0
        return sinkhorn(
            utilities,
            iterations=self.iterations,
            tolerance=self.tolerance,
            temperature=temperature,
            dtype=self.logits.dtype,
        )


def _solver() -> Callable[..., Any]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise BackendError(
            f"Permutation.argmax needs SciPy, which cannot be used: {error}. Install it with: "
            "pip install 'backdraw[structures]'"
        ) from error
    return linear_sum_assignment


def _matchings(solve: Callable[..., Any], utilities: np.ndarray) -> np.ndarray:
    """Solve one matrix after the other: NaN gives NaN, and a matrix without a matching zeros."""
    out = np.zeros(utilities.shape)
    n = utilities.shape[-1]
    for u, x in zip(utilities.reshape(-1, n, n), out.reshape(-1, n, n), strict=True):
        if np.isnan(u).any():
            x[...] = np.nan
            continue
        try:
            x[solve(u, maximize=True)] = 1.0
        except ValueError:  # infeasible
            continue
    return out
