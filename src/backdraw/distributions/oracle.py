"""The distribution that a user's own solver makes of random utilities."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from backdraw.backend import Array
from backdraw.distributions.base import NEEDS
from backdraw.distributions.checks import check_logits
from backdraw.distributions.perturbed import Perturbed
from backdraw.errors import InvalidTypeError, InvalidValueError

Solver = Callable[[np.ndarray], Any]

NOISES = ("gumbel", "normal")


@dataclass(frozen=True, eq=False, init=False)
class Oracle(Perturbed):
    r"""What a solver finds best: :math:`x = \arg\max_{x \in X} \langle u, x \rangle` for random utilities u.

    The law is that of the solutions for :math:`u = l + z` with independent noise z. There is no probability in closed form
    and no relaxation: estimators for it are `backdraw.perturbed_argmax`, `backdraw.implicit_mle`, `backdraw.blackbox` and
    the loss `backdraw.fenchel_young`.

    Parameters
    ----------
    logits : array, shape (..., \*event)
        Utilities of the parts of a solution. Any real floating dtype.
    argmax : callable
        The solver, for NumPy: takes utilities of shape ``(n, *event)``, n problems in float32 or float64, and returns their
        solutions in the same shape. It must maximise (a solver of costs gets ``-u``), be a pure function and hashable, as
        functions are; give the same one on every call where JAX compiles, or it compiles again.
    event_ndim : int
        How many axes, the last ones, are those of one problem: 1 for vectors, 2 for grids.
    noise : {"gumbel", "normal"}
        The noise on the utilities.
    member : callable, optional
        Checks the solutions, on NumPy: takes them as ``(n, *event)`` and returns n booleans.

    Raises
    ------
    TypeError
        If `logits` is not a real floating array, or `argmax` or `member` not a hashable function.
    ValueError
        If `logits` has fewer than `event_ndim` axes, or there is no such noise. When solving, if a solution has the wrong
        shape, is not finite, or `member` denies it; JAX reports that as an error of its callback, with the same message.

    Notes
    -----
    The solver runs on the host: within `jax.jit` by a callback, for arrays on a GPU on copies. Batch axes, and the samples
    of an estimator, come as one axis in front, so that one call solves all of them.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> def best_pair(u):  # the two largest
    ...     return (u >= np.sort(u, axis=-1)[:, -2:-1]).astype(u.dtype)
    >>> p = backdraw.Oracle(np.array([0.3, 0.1, 2.0, -1.0]), best_pair)
    >>> p.argmax(p.logits)
    array([1., 0., 1., 0.])
    >>> backdraw.perturbed_argmax(p, samples=100, rng=backdraw.key(0))
    array([0.54, 0.4 , 0.9 , 0.16])
    """

    logits: Array
    solver: Solver
    event_ndim: int
    noise: str  # type: ignore[misc]  # here every instance has its own
    member: Solver | None

    arrays: ClassVar[tuple[str, ...]] = ("logits",)
    plain: ClassVar[tuple[str, ...]] = ("solver", "event_ndim", "noise", "member")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    instead: ClassVar[str] = "take backdraw.perturbed_argmax, implicit_mle or blackbox"
    lacks: ClassVar[dict[str, str]] = {
        "log_partition": NEEDS["log_partition"],
        **dict.fromkeys(("entropy", "kl"), NEEDS["log_prob"]),
    }

    def __init__(
        self, logits: Array, argmax: Solver, *, event_ndim: int = 1, noise: str = "gumbel", member: Solver | None = None
    ) -> None:
        check_logits(logits)
        _check_function("argmax", argmax)
        if member is not None:
            _check_function("member", member)
        if isinstance(event_ndim, bool) or not isinstance(event_ndim, int):
            raise InvalidTypeError(f"event_ndim: expected an int, got {type(event_ndim).__name__}")
        if not 0 <= event_ndim <= len(logits.shape):
            shape = tuple(logits.shape)
            raise InvalidValueError(f"event_ndim: expected 0 to {len(shape)} for logits of shape {shape}, got {event_ndim}")
        if noise not in NOISES:
            raise InvalidValueError(f"noise: expected one of {', '.join(NOISES)}, got {noise!r}")
        for name, value in zip((*self.arrays, *self.plain), (logits, argmax, event_ndim, noise, member), strict=True):
            object.__setattr__(self, name, value)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the logits without the axes of one problem."""
        return tuple(self.logits.shape[: len(self.logits.shape) - self.event_ndim])

    def argmax(self, utilities: Array) -> Array:
        """Return the solver's solutions; no gradient."""
        be = self.backend
        u = be.cast(be.stop_gradient(utilities), be.wide(utilities.dtype))
        solve = partial(_solve, solver=self.solver, event_ndim=self.event_ndim, member=self.member)
        return be.host(solve, u, shape=tuple(u.shape), dtype=self.logits.dtype)


def _solve(u: np.ndarray, *, solver: Solver, event_ndim: int, member: Solver | None) -> np.ndarray:
    """Call the solver with one batch axis, and check its solutions."""
    given = u.reshape(-1, *u.shape[u.ndim - event_ndim :])
    name = getattr(solver, "__qualname__", repr(solver))
    x = np.asarray(solver(given.copy()))  # it may write to what it gets
    if x.shape != given.shape:
        raise InvalidValueError(f"argmax: {name} returned shape {x.shape} for utilities of shape {given.shape}")
    if x.dtype.kind not in "biuf":
        raise InvalidTypeError(f"argmax: {name} returned {x.dtype}, expected real numbers")
    if not np.all(np.isfinite(x)):
        raise InvalidValueError(f"argmax: {name} returned a solution that is not finite")
    if member is not None:
        wrong = np.count_nonzero(~np.asarray(member(x), dtype=bool))
        if wrong:
            raise InvalidValueError(f"argmax: {name} returned solutions that `member` denies, {wrong} of {len(x)}")
    return x.astype(u.dtype, copy=False).reshape(u.shape)


def _check_function(name: str, value: Any) -> None:
    if not callable(value):
        raise InvalidTypeError(f"{name}: expected a function of NumPy arrays, got {type(value).__name__}")
    try:
        hash(value)
    except TypeError:
        raise InvalidTypeError(f"{name}: expected a hashable function, got {type(value).__name__}") from None
