"""A NaN among the logits: every result of its batch element is NaN, and a diverged network is not taken for a sure law."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, pulled

from backdraw import Arborescence, Bernoulli, Categorical, Chain, PlackettLuce, SpanningTree, Subset, draw, key

RNG = np.random.default_rng(17)
NUMPY = Library(Backend.NUMPY)

# The law of an array, with the shape of a batch element of it.
LAWS: dict[str, tuple[Callable[[Library, Any], Any], tuple[int, ...]]] = {
    "categorical": (lambda lib, u: Categorical(u), (4,)),
    "bit": (lambda lib, u: Bernoulli(u), (1,)),
    "tree": (lambda lib, u: SpanningTree(u), (3,)),
    "arborescence": (lambda lib, u: Arborescence(u, root=1), (3, 3)),
    "order": (lambda lib, u: PlackettLuce(u), (4,)),
    "states": (lambda lib, u: Chain(u, lib.asarray(np.eye(2))), (3, 2)),
    "one state": (lambda lib, u: Chain(u, lib.asarray(np.eye(2))), (1, 2)),
    "steps": (lambda lib, w: Chain(lib.asarray(np.ones((2, 3, 2))), w), (2, 2, 2)),
    "none": (lambda lib, u: Subset(u, 0), (4,)),
    "two": (lambda lib, u: Subset(u, 2), (4,)),
    "all": (lambda lib, u: Subset(u, 4), (4,)),
}
REGULARIZERS = {
    **dict.fromkeys(("categorical", "bit"), ("entropy", "euclidean", "tsallis")),
    "order": ("softsort", "neuralsort"),
    **dict.fromkeys(("none", "two", "all"), ("entropy", "binary", "euclidean")),
}


def functions(lib: Library, name: str, x: np.ndarray) -> dict[str, Callable[[Any], Any]]:
    """Return what a law has to give, as functions of its logits, where x is a draw."""
    make = LAWS[name][0]

    def relaxed(u: Any, temperature: Any, regularizer: str) -> Any:
        p = make(lib, u)
        return p.relax(p.utilities, temperature, regularizer)

    found: dict[str, Callable[[Any], Any]] = {"log_prob": lambda u: make(lib, u).log_prob(lib.asarray(x))}
    for r in REGULARIZERS.get(name, ("entropy",)):
        found[r] = lambda u, r=r: relaxed(u, 0.5, r)
        found[f"{r} at an array"] = lambda u, r=r: relaxed(u, lib.asarray(0.5), r)
    for method in ("log_partition", "entropy"):
        if name != "order":
            found[f"{method}()"] = lambda u, method=method: getattr(make(lib, u), method)()
    if name == "bit":
        found["stretched"] = lambda u: Bernoulli(u).stretch(u, 0.5, (-0.1, 1.1))
    return found


@pytest.mark.parametrize("name", LAWS)
def test_one_nan(lib: Library, name: str) -> None:
    make, event = LAWS[name]
    u = RNG.normal(size=(2, *event))
    x = draw(make(NUMPY, u), rng=key(0))
    bad = u.copy()
    bad[(1, *(n - 1 for n in event[:-1]), 0)] = np.nan
    for label, f in functions(lib, name, x).items():
        good = functions(NUMPY, name, x)[label]
        g = RNG.normal(size=good(u).shape)
        clean = pulled(NUMPY, good, g, u)
        found = pulled(lib, f, lib.asarray(g), lib.asarray(bad))
        for actual, expected in ((found[0], clean[0]), (found[1][0], clean[1][0])):
            lib.check(actual, np.stack([expected[0], np.full_like(expected[1], np.nan)]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_draws_are_made_nevertheless(lib: Library, name: str) -> None:
    make, event = LAWS[name]

    def both(u: Any) -> tuple[Any, Any]:
        p = make(lib, u)
        return p.argmax(p.perturbed(key(0))), draw(p, shape=5, rng=key(0))

    if lib.backend is Backend.JAX:
        import jax

        both = jax.jit(both)
    vertex, draws = both(lib.asarray(np.full((2, *event), np.nan)))
    assert tuple(draws.shape) == (5, *vertex.shape)


@pytest.mark.parametrize("shape", [(3,), (2, 200)])
def test_a_draw_from_a_nan_is_no_category(lib: Library, shape: tuple[int, ...]) -> None:
    u = np.zeros(shape)
    u[..., 1] = np.nan
    lib.check(draw(Categorical(lib.asarray(u)), rng=key(0)), np.zeros(shape))
