"""Latents of every kind, in small batches, and the estimators that take them: a table for whatever is to hold of all pairs."""

from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import Backend, Library, suits
from problems import expectation, wave

import backdraw
from backdraw.estimators import ESTIMATORS

KEY = backdraw.key(3)
STEPS = np.random.default_rng(1).normal(size=(3, 3))
LATENTS: dict[str, tuple[Callable[[Any, Library], Any], tuple[int, ...]]] = {
    "categories": (lambda l, lib: backdraw.Categorical(l), (3, 5)),
    "another axis": (lambda l, lib: backdraw.Categorical(l, axis=0), (5, 3)),
    "bits": (lambda l, lib: backdraw.Bernoulli(l), (3, 5)),
    "normals": (lambda l, lib: backdraw.Normal(l, 0.7), (3, 5)),
    "subset": (lambda l, lib: backdraw.Subset(l, 2), (3, 5)),
    "order": (lambda l, lib: backdraw.PlackettLuce(l, 2), (3, 4)),
    "permutation": (lambda l, lib: backdraw.Permutation(l, iterations=2), (2, 3, 3)),
    "tree": (lambda l, lib: backdraw.SpanningTree(l), (2, 6)),
    "arborescence": (lambda l, lib: backdraw.Arborescence(l), (2, 4, 4)),
    "chain": (lambda l, lib: backdraw.Chain(l, lib.asarray(STEPS)), (2, 4, 3)),
}


def logits(latent: str, *more: int) -> np.ndarray:
    """Return logits of a latent, with more axes in front."""
    return np.random.default_rng(0).normal(size=(*more, *LATENTS[latent][1]))


def ramp(shape: tuple[int, ...]) -> np.ndarray:
    """Return weights that are all different."""
    return np.cos(np.arange(np.prod(shape))).reshape(shape)


def estimate(name: str, latent: str, lib: Library) -> Callable[[Any], Any]:
    """Return the draw, or the estimate of the mean of an f that joins the whole batch, as a function of the logits."""
    make, entry = LATENTS[latent][0], ESTIMATORS[name]
    if entry.kind == "expectation":

        def f(x: Any) -> Any:
            return wave(x, lib.asarray(ramp(tuple(x.shape[1:]))), event=x.ndim - 1)

        return lambda l: expectation(name, f, make(l, lib), KEY)
    draws = {"rng": KEY} if "rng" in (entry.function.__kwdefaults__ or {}) else {}
    return lambda l: entry(make(l, lib), **draws)


def _serves(name: str, latent: str) -> bool:
    here = Library(Backend.NUMPY)
    if not suits(ESTIMATORS[name], LATENTS[latent][0](logits(latent), here)):
        return False
    try:
        estimate(name, latent, here)(logits(latent))
    except TypeError:
        return False
    return True


CASES = [(name, latent) for latent in LATENTS for name in ESTIMATORS if _serves(name, latent)]
GRADIENTS = [case for case in CASES if ESTIMATORS[case[0]].gradient != "none"]
