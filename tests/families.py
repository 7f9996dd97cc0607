"""The continuous families of one-dimensional values: a table of their laws in SciPy and of parameters to test with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.stats

import backdraw

RNG = np.random.default_rng(3)
LOC, SCALE = RNG.normal(size=(3,)), RNG.uniform(0.4, 1.5, size=(2, 1))
LOC2, SCALE2 = RNG.normal(size=(2, 3)), RNG.uniform(0.4, 1.5, size=(2, 3))
BATCH = (2, 3)
KEY = backdraw.key(12)


@dataclass(frozen=True)
class Family:
    """A class, its law in SciPy, and the parameters of two distributions."""

    law: Callable[..., Any]
    params: tuple[np.ndarray, ...] = (LOC, SCALE)
    others: tuple[np.ndarray, ...] = (LOC2, SCALE2)


FAMILIES = {
    "Normal": Family(scipy.stats.norm),
    "LogNormal": Family(lambda m, s: scipy.stats.lognorm(s, scale=np.exp(m)), (0.3 * LOC, 0.5 * SCALE)),
    "Laplace": Family(scipy.stats.laplace),
    "Logistic": Family(scipy.stats.logistic),
    "Gumbel": Family(scipy.stats.gumbel_r),
    "Uniform": Family(lambda a, b: scipy.stats.uniform(a, b - a), (LOC, LOC + SCALE), (LOC - 0.5, LOC + SCALE2 + 2.0)),
    "Exponential": Family(lambda r: scipy.stats.expon(scale=1 / r), (SCALE + LOC**2,), (SCALE2,)),
}
families = pytest.mark.parametrize("name", FAMILIES)


def make(name: str, *params: Any) -> Any:
    """Make the distribution."""
    return getattr(backdraw, name)(*params)


def points(name: str, *shape: int) -> np.ndarray:
    """Points of the support, away from its ends and from kinks."""
    return np.asarray(FAMILIES[name].law(*FAMILIES[name].params).ppf(RNG.uniform(0.1, 0.9, size=(*shape, *BATCH))))
