"""Sinkhorn's iteration in plain NumPy, for the tests of permutations."""

from typing import Any

import numpy as np
import scipy.special

RNG = np.random.default_rng(29)
L = RNG.normal(size=(2, 4, 4))


def normalised(u: np.ndarray, t: Any = 1.0, iterations: int = 20) -> np.ndarray:
    """Sinkhorn's iteration as Mena et al. write it, on logarithms."""
    z = u / t
    with np.errstate(invalid="ignore"):
        for _ in range(iterations):
            for axis in (-1, -2):
                total = scipy.special.logsumexp(z, axis, keepdims=True)
                z = np.where(z == -np.inf, -np.inf, z - total)
    return np.asarray(np.exp(z))
