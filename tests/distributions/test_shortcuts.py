"""Shortcuts of trees and subsets: taken where they are right, and only there."""

from typing import Any

import numpy as np
import pytest
from helpers import Library, eps, pulled
from trees import exact_marginals, grid

import backdraw
from backdraw import SpanningTree, Subset
from backdraw.distributions import kirchhoff, polynomials


def recorded(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *, refuse: bool = False) -> list[bool]:
    """Note what a check says, and if it is to `refuse`, let it say no."""
    said, check = [], getattr(module, name)

    def noted(*arguments: Any) -> Any:
        answer = check(*arguments)
        said.append(bool(answer))
        return answer & (answer != answer) if refuse else answer

    monkeypatch.setattr(module, name, noted)
    return said


@pytest.mark.parametrize(("scale", "taken"), [(0.0, True), (1.0, True), (3.0, None), (10.0, False), (100.0, False)])
@pytest.mark.parametrize("edges", [None, tuple(grid(4))], ids=["complete", "grid"])
def test_trees_by_the_inverse(
    taped: Library, monkeypatch: pytest.MonkeyPatch, edges: Any, scale: float, taken: bool | None
) -> None:
    rng = np.random.default_rng(7)
    count = 45 if edges is None else len(edges)
    logits, g = taped.asarray(scale * rng.normal(size=(4, count))), taped.asarray(rng.normal(size=(4, count)))

    def mean(u: Any) -> Any:
        return SpanningTree(u, edges).mean()

    with monkeypatch.context() as patch:
        said = recorded(patch, kirchhoff, "accurate")
        y, (grad,) = pulled(taped, mean, g, logits)
    with monkeypatch.context() as patch:
        recorded(patch, kirchhoff, "accurate", refuse=True)
        expected, (wanted,) = pulled(taped, mean, g, logits)
    if taken is not None and hasattr(taped.xp, "linalg"):
        assert said == [taken]
    taped.check(y, taped.to_numpy(expected), rtol=1e-10, atol=1e-300)
    taped.check(grad, taped.to_numpy(wanted), rtol=1e-9, atol=1e-11)


def test_the_inverse_is_refused_where_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two cliques of weights exp(8), joined by edges of exp(-8): the bound must hold for each error, and the tolerance for it.
    edges = grid(3)
    said = recorded(monkeypatch, kirchhoff, "accurate")
    for bits in range(0, 40, 2):
        row = np.where(np.arange(len(edges)) % 3 == 0, -bits, bits)
        found = SpanningTree(row * np.log(2.0), tuple(edges)).mean()
        np.testing.assert_allclose(found, exact_marginals(row, edges), rtol=1e-9)
    assert said[0]
    assert not said[-1]


def test_the_inverse_cancels_little_in_gradients() -> None:
    # A triangle with one strong edge a: trees (a, b), (a, c) and (b, c), which the third hardly ever is.
    logits = np.asarray([9.667650679328675, -3.469685785210005, -2.2713859221440766])
    g = np.asarray([2.6, -1.07, 0.42])
    p = np.exp([logits[0] + logits[1], logits[0] + logits[2], logits[1] + logits[2]])
    ab, ac, bc = p / np.sum(p)
    # p_i p_j (s_i - s_j) of each pair of trees, s = <g, x>, goes to the edges of the one and from those of the other.
    b_c, a_c, a_b = ab * ac * (g[1] - g[2]), ab * bc * (g[0] - g[2]), ac * bc * (g[0] - g[1])
    exact = [a_c + a_b, b_c - a_b, -b_c - a_c]
    found = backdraw.vjp(lambda u: SpanningTree(u).mean(), logits)[1](g)[0]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("weight", [-np.inf, -600.0])
def test_a_graph_in_two_parts_has_no_inverse(weight: float) -> None:
    logits = np.asarray([0.0, weight, weight, weight, weight, 0.0])  # of 4 nodes: 0-1 and 2-3, and what joins them
    y, pullback = backdraw.vjp(lambda u: SpanningTree(u).mean(), logits)
    joined = weight > -np.inf
    np.testing.assert_allclose(y, np.asarray([1.0, 0.25, 0.25, 0.25, 0.25, 1.0]) * joined, rtol=1e-12)
    (grad,) = pullback(np.arange(6.0))
    np.testing.assert_allclose(grad, np.asarray([0.0, -1.5, -0.5, 0.5, 1.5, 0.0]) * 0.25 * joined, atol=1e-12)


def test_no_graph_in_parts_has_an_inverse() -> None:
    # Random weights, those between two random parts 0: there is no tree, and the inverse of the Laplacian is anything.
    rng = np.random.default_rng(11)
    edges = tuple((i, j) for i in range(6) for j in range(i))
    first, second = np.asarray(edges).T
    for _ in range(200):
        part = rng.permutation(6) < rng.integers(1, 6)
        row = np.where(part[first] == part[second], rng.normal(size=15), -np.inf)
        y, pullback = backdraw.vjp(lambda u: SpanningTree(u, edges).mean(), row)
        assert not np.any(y)
        assert not np.any(pullback(np.arange(15.0))[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "k"), [(20, 3), (20, 15), (300, 4), (7, 0), (7, 7)])
def test_subsets_count_by_count(taped: Library, monkeypatch: pytest.MonkeyPatch, n: int, k: int, dtype: str) -> None:
    rng = np.random.default_rng(8)
    g = taped.asarray(rng.normal(size=(3, n)), dtype)
    every = []
    for scale in (0.0, 1.0, 4.0, 16.0, 64.0, 256.0):
        logits = taped.asarray(scale * rng.normal(size=(3, n)), dtype)
        with monkeypatch.context() as patch:
            said = recorded(patch, polynomials, "moderate")
            y, (grad,) = pulled(taped, lambda u: Subset(u, k).mean(), g, logits)
        with monkeypatch.context() as patch:
            recorded(patch, polynomials, "moderate", refuse=True)
            expected, (wanted,) = pulled(taped, lambda u: Subset(u, k).mean(), g, logits)
        every += said
        rtol, tiny = 40 * n**0.5 * eps(dtype), 1e-30 if dtype == "float32" else 1e-290
        taped.check(y, taped.to_numpy(expected), dtype=dtype, rtol=rtol, atol=tiny)
        taped.check(grad, taped.to_numpy(wanted), dtype=dtype, rtol=rtol, atol=40 * eps(dtype) * k)
    assert every[0]
    assert all(every) == (k in (0, n))
