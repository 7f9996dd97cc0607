"""kl of structures: against the enumeration of all their values, and where one of the two has none."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from chains import paths, steps_of
from helpers import Backend, Library, pulled
from trees import SPARSE, arborescences, complete, spanning_trees

import backdraw
from backdraw import Arborescence, Categorical, Chain, SpanningTree, Subset

INF = np.inf


@dataclass(frozen=True)
class Case:
    """A distribution of its parameters, their shapes, and all values as counts that the parameters multiply, in rows."""

    make: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    counts: np.ndarray

    def parameters(self, seed: int, scale: float) -> list[np.ndarray]:
        """Random parameters of two batch elements."""
        rng = np.random.default_rng(seed)
        return [scale * rng.normal(size=(2, *shape)) for shape in self.shapes]


def _path_counts() -> np.ndarray:
    x = paths(4, 3)
    return np.concatenate([x.reshape(len(x), -1), steps_of(x).reshape(len(x), -1)], axis=-1)


CASES = {
    "tree": Case(SpanningTree, ((6,),), spanning_trees(4, complete(4))),
    "sparse": Case(lambda l: SpanningTree(l, tuple(SPARSE)), ((len(SPARSE),),), spanning_trees(5, SPARSE)),
    "arborescence": Case(lambda l: Arborescence(l, 1), ((4, 4),), arborescences(4, 1).reshape(-1, 16)),
    "chain": Case(Chain, ((4, 3), (3, 3, 3)), _path_counts()),
    "subset": Case(
        lambda l: Subset(l, 2), ((4,),), np.asarray([[i in s for i in range(4)] for s in itertools.combinations(range(4), 2)])
    ),
}


def rows(params: list[np.ndarray]) -> np.ndarray:
    """Each batch element's parameters in a row."""
    return np.concatenate([x.reshape(2, -1) for x in params], axis=-1)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("name", CASES)
def test_against_enumeration(lib: Library, name: str, scale: float) -> None:
    if lib.backend is Backend.JAX and scale == 1.0:
        pytest.skip("one is enough: it takes seconds to compile")
    case = CASES[name]
    p, q = case.parameters(1, scale), case.parameters(2, scale)
    n, c = len(p), np.asarray([0.7, -1.3])

    def kl(*arrays: Any) -> Any:
        return backdraw.kl(case.make(*arrays[:n]), case.make(*arrays[n:]))

    value, grads = pulled(lib, kl, lib.asarray(c), *(lib.asarray(x) for x in (*p, *q)))
    expected, to_p, to_q = [], [], []
    for theta, other in zip(rows(p), rows(q), strict=True):
        scores, scores_q = (case.counts @ x for x in (theta, other))
        logp, logq = (s - s.max() - np.log(np.sum(np.exp(s - s.max()))) for s in (scores, scores_q))
        ratio, probs, probs_q = logp - logq, np.exp(logp), np.exp(logq)
        expected.append(probs @ ratio)
        to_p.append((probs * (ratio - probs @ ratio)) @ (case.counts - probs @ case.counts))
        to_q.append((probs_q - probs) @ case.counts)
    tiny = 1e-12 * scale
    lib.check(value, np.asarray(expected), rtol=1e-11, atol=tiny)
    for found, wanted in ((grads[:n], to_p), (grads[n:], to_q)):
        flat = rows([lib.to_numpy(g) for g in found])
        np.testing.assert_allclose(flat, c[:, None] * np.stack(wanted), rtol=1e-9, atol=10 * tiny)


WITHOUT: dict[str, tuple[Callable[..., Any], Any, Any, Any]] = {  # logits of no value, of some values and of all
    "tree": (SpanningTree, [-INF, -INF, 0.0], [-INF, 0.0, 1.0], [0.0, 1.0, 2.0]),
    "arborescence": (Arborescence, [[0.0, 1.0, -INF]] * 3, [[0.0, 1.0, 2.0], [0.0, 0.0, 1.0], [0.0, -INF, 0.0]], np.eye(3)),
    "chain": (Chain, [[0.0, 1.0], [-INF, -INF]], [[0.0, 1.0], [-INF, 0.0]], np.eye(2)),
    "subset": (lambda u: Subset(u, 2), [0.0, -INF, -INF], [0.0, 1.0, -INF], [0.0, 1.0, 2.0]),
    "categories": (Categorical, [-INF, -INF, -INF], [0.0, 1.0, -INF], [0.0, 1.0, 2.0]),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_where_there_is_no_value(lib: Library, name: str) -> None:
    make, *given = WITHOUT[name]
    none, some, every = (np.asarray(x, np.float64) for x in given)
    more = [lib.asarray(np.zeros((2, 2)))] if make is Chain else []
    p, q = np.stack([none, none, none, every, every, some]), np.stack([none, some, every, none, some, every])
    value, grads = pulled(
        lib, lambda p, q: backdraw.kl(make(p, *more), make(q, *more)), lib.asarray(np.ones(6)), lib.asarray(p), lib.asarray(q)
    )
    value, grads = lib.to_numpy(value), [lib.to_numpy(g) for g in grads]
    np.testing.assert_array_equal(value[:5], [0.0, 0.0, 0.0, INF, INF])
    assert 0.0 < value[5] < INF
    for x, grad in zip((p, q), grads, strict=True):
        assert np.all(np.isfinite(grad))
        assert not np.any(grad[x == -INF])
        assert not np.any(grad[:3])
    assert np.any(grads[1][5])


def test_one_chain_for_a_batch(lib: Library) -> None:
    p, q = CASES["chain"].parameters(5, 1.0), CASES["chain"].parameters(6, 1.0)
    alone = Chain(*(lib.asarray(x[0]) for x in q))
    repeated = Chain(*(lib.asarray(np.stack([x[0]] * 2)) for x in q))
    batch = Chain(*map(lib.asarray, p))
    lib.check(backdraw.kl(batch, alone), lib.to_numpy(backdraw.kl(batch, repeated)), rtol=1e-13)


def test_other_values(lib: Library) -> None:
    x, edges = lib.asarray(np.zeros(3)), ((0, 1), (1, 2), (0, 2))
    with pytest.raises(ValueError, match=r"q: expected the edges of p, None, got \(\(0, 1\), \(1, 2\), \(0, 2\)\)"):
        backdraw.kl(SpanningTree(x), SpanningTree(x, edges))
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(3,\), got \(6,\)"):
        backdraw.kl(SpanningTree(x), SpanningTree(lib.asarray(np.zeros(6))))
    square = lib.asarray(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="q: expected the root of p, 0, got 2"):
        backdraw.kl(Arborescence(square), Arborescence(square, 2))
    with pytest.raises(ValueError, match=r"q: expected unary of shape \(3, 3\), got \(2, 3\)"):
        backdraw.kl(Chain(square, square), Chain(lib.asarray(np.zeros((2, 3))), square))


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own forward mode
@pytest.mark.parametrize("name", ["tree", "chain"])
def test_second_derivatives(name: str) -> None:
    import torch

    case = CASES[name]
    arrays = [torch.tensor(x[:1], requires_grad=True) for seed in (3, 4) for x in case.parameters(seed, 1.0)]
    n = len(case.shapes)

    def kl(*arrays: Any) -> Any:
        return backdraw.kl(case.make(*arrays[:n]), case.make(*arrays[n:]))

    assert torch.autograd.gradcheck(kl, arrays, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(kl, arrays)
