"""Batches without elements, and trees without edges: legal arrays, with results and gradients of their shapes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import Library, pulled, suits

import backdraw
from backdraw.estimators import ESTIMATORS

KEY = backdraw.key(0)

LAWS: dict[str, tuple[Callable[[Library, Any], Any], tuple[int, ...]]] = {
    "Categorical": (lambda lib, u: backdraw.Categorical(u), (0, 3)),
    "Bernoulli": (lambda lib, u: backdraw.Bernoulli(u), (2, 0)),
    "Subset": (lambda lib, u: backdraw.Subset(u, 2), (0, 3)),
    "PlackettLuce": (lambda lib, u: backdraw.PlackettLuce(u, 2), (0, 3)),
    "Chain": (lambda lib, u: backdraw.Chain(u, lib.asarray(np.zeros((2, 2)))), (0, 3, 2)),
    "SpanningTree": (lambda lib, u: backdraw.SpanningTree(u), (0, 3)),
    "SpanningTree of one node": (lambda lib, u: backdraw.SpanningTree(u), (0,)),
    "SpanningTree of one node, twice": (lambda lib, u: backdraw.SpanningTree(u), (2, 0)),
    "Arborescence": (lambda lib, u: backdraw.Arborescence(u), (0, 2, 2)),
}
FAMILIES: dict[str, Callable[[Any], Any]] = {
    "Categorical": backdraw.Categorical,
    "Bernoulli": backdraw.Bernoulli,
    "Normal": lambda u: backdraw.Normal(u, 1.0),
}


EXPECTATIONS = [
    (e.name, d)
    for e in ESTIMATORS.values()
    for d, make in FAMILIES.items()
    if e.kind == "expectation" and suits(e, make(np.zeros(3)))
]


def check(lib: Library, f: Callable[[Any], Any], u: np.ndarray, shape: tuple[int, ...]) -> None:
    """Compare the shapes of ``f(u)`` and of its gradient with what they should be."""
    y, (grad,) = pulled(lib, f, lib.asarray(np.ones(shape)), lib.asarray(u))
    assert tuple(y.shape) == shape
    lib.check(grad, u)


@pytest.mark.parametrize("name", LAWS)
def test_laws(lib: Library, name: str) -> None:
    make, shape = LAWS[name]
    u = np.zeros(shape)
    p = make(lib, lib.asarray(u))
    x = backdraw.draw(p, shape=4, rng=KEY)
    event = tuple(x.shape[1:])
    check(lib, lambda u: make(lib, u).relax(u, 0.5), u, event)
    check(lib, lambda u: make(lib, u).log_prob(x), u, (4, *p.batch_shape))
    if event == shape:  # draws of the shape of their utilities
        check(lib, lambda u: backdraw.implicit_mle(make(lib, u), relative=True, rng=KEY), u, event)


@pytest.mark.parametrize(("name", "dist"), EXPECTATIONS)
def test_expectations(lib: Library, name: str, dist: str) -> None:
    entry, make = ESTIMATORS[name], FAMILIES[dist]
    f = make(lib.asarray(np.zeros(3))).log_prob
    options = {"surrogate": f} if name == "relax" else {}
    options |= {"rng": KEY} if "rng" in (entry.function.__kwdefaults__ or {}) else {}
    batch = (0,) if dist == "Categorical" else (0, 3)
    check(lib, lambda u: entry(f, make(u), **options), np.zeros((0, 3)), batch)
