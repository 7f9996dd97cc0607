"""Chains small enough for an enumeration of all paths, for their tests."""

import itertools
from typing import Any

import numpy as np
import scipy.special
from helpers import Backend, Library

RNG = np.random.default_rng(17)
T, K = 4, 3
U, W = RNG.normal(size=(2, T, K)) * 1.5, RNG.normal(size=(2, T - 1, K, K)) * 1.5
SHARED = RNG.normal(size=(K, K)) * 1.5
BARRED = np.where(RNG.random((2, T - 1, K, K)) < 0.3, -np.inf, W)


def paths(t: int, k: int) -> np.ndarray:
    return np.eye(k)[list(itertools.product(range(k), repeat=t))]


def steps_of(x: np.ndarray) -> np.ndarray:
    return np.asarray(x[..., :-1, :, None] * x[..., 1:, None, :])


def energies(u: np.ndarray, w: np.ndarray, x: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All paths, shape (N, 1, T, K), and their utilities, shape (N, B)."""
    t, k = u.shape[-2:]
    u, w = np.atleast_3d(u) if u.ndim > 2 else u[None], np.broadcast_to(w, (*np.shape(w)[:-3], t - 1, k, k))
    w = w if w.ndim > 3 else w[None]
    x = paths(t, k)[:, None] if x is None else x
    with np.errstate(invalid="ignore"):
        of_states = np.where(x != 0, x * u, 0.0).sum((-2, -1))
        of_steps = np.where(steps_of(x) != 0, steps_of(x) * w, 0.0).sum((-3, -2, -1))
    return x, of_states + of_steps


def law(u: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, e = energies(u, w)
    return x, scipy.special.softmax(e, 0)


def plain_mean(u: np.ndarray, w: np.ndarray, t: float = 1.0) -> np.ndarray:
    x, p = law(u / t, w / t)
    return np.asarray((p[..., None, None] * x).sum(0))


def plain_entropy(u: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.entr(law(u, w)[1]).sum(0))


def plain_log_partition(u: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.logsumexp(energies(u, w)[1], 0))


def compiled(lib: Library, f: Any) -> Any:
    """Compile on JAX, where operation by operation takes long."""
    if lib.backend is not Backend.JAX:
        return f
    import jax

    return jax.jit(f)
