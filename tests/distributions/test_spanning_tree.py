"""SpanningTree: against the enumeration of all trees, rational arithmetic, and the law of its draws."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, finite_difference, pulled, softmax, softmax_vjp
from trees import (
    GRAPHS,
    compiled,
    complete,
    covariance_product,
    exact_marginals,
    graph,
    grid,
    normal,
    probabilities,
    spanning_trees,
)

import backdraw
from backdraw import SpanningTree


@pytest.mark.parametrize(("n", "count"), list(enumerate([1, 1, 3, 16, 125, 1296], 1)))
def test_number_of_trees(n: int, count: int) -> None:
    p = SpanningTree(np.zeros(n * (n - 1) // 2))
    assert np.exp(p.log_partition()) == pytest.approx(count, rel=1e-13)
    assert p.entropy() == pytest.approx(np.log(count), rel=1e-13, abs=1e-14)
    assert len(spanning_trees(n, complete(n))) == count
    np.testing.assert_allclose(p.mean(), np.full(len(complete(n)), 2.0 / n), rtol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("name", GRAPHS)
def test_against_enumeration(lib: Library, name: str, scale: float) -> None:
    if lib.backend is Backend.JAX and (name, scale) != ("sparse", 1000.0):
        pytest.skip("one is enough: it takes seconds to compile")
    edges, pairs, n = graph(name)
    values = spanning_trees(n, pairs)
    logits, g = normal(2, 3, len(pairs))
    logits = logits * scale

    def every(u: Any) -> tuple[Any, ...]:
        p = SpanningTree(u, edges)
        return (
            p.mean(),
            p.mean(temperature=2.0),
            p.log_partition(),
            p.entropy(),
            p.log_prob(lib.asarray(values[:1] * np.ones((3, 1)))),
        )

    each = [probabilities(l, values) for l in logits]
    probs = np.stack([p for p, _ in each])
    half = np.stack([probabilities(l / 2, values)[0] for l in logits])
    logs = np.where(probs > 0, np.log(np.where(probs > 0, probs, 1.0)), 0.0)
    first = (logits * values[0]).sum(-1) - np.asarray([z for _, z in each])
    expected = (probs @ values, half @ values, [z for _, z in each], -(probs * logs).sum(-1), first)
    ones = lib.asarray(np.ones(3))
    found, (grad,) = pulled(lib, every, (lib.asarray(g), lib.asarray(g), ones, ones, ones), lib.asarray(logits))
    for actual, wanted in zip(found, expected, strict=True):
        lib.check(actual, np.asarray(wanted), rtol=1e-12, atol=1e-12 * scale)
    product = lambda l, g: covariance_product(l, values, g)  # noqa: E731
    wanted = [product(l, g - l) + product(l / 2, g) / 2 + values[0] for l, g in zip(logits, g, strict=True)]
    lib.check(grad, np.stack(wanted), rtol=1e-10, atol=1e-11 * scale)
    x = lib.to_numpy(compiled(lib, lambda u: SpanningTree(u, edges).argmax(u), lib.asarray(logits)))
    np.testing.assert_array_equal(x, values[np.argmax(logits @ values.T, -1)])


@pytest.mark.parametrize("name", ["4", "sparse"])
def test_derivatives_by_finite_differences(lib: Library, name: str) -> None:
    if lib.backend is Backend.JAX and name == "4":
        pytest.skip("one is enough: it takes seconds to compile")
    edges, pairs, n = graph(name)
    values = spanning_trees(n, pairs)
    logits, g = normal(2, len(pairs))

    def plain(l: np.ndarray, t: Any) -> np.ndarray:
        return np.asarray(probabilities(l / t, values)[0] @ values)

    arrays = lib.asarray(logits), lib.asarray(np.asarray(0.7))
    y, (to_u, to_t) = pulled(lib, lambda u, t: SpanningTree(u, edges).mean(temperature=t), lib.asarray(g), *arrays)
    lib.check(y, plain(logits, 0.7), rtol=1e-12)
    lib.check(to_u, finite_difference(lambda l: plain(l, 0.7), logits, g), rtol=1e-6, atol=1e-8)
    lib.check(to_t, finite_difference(lambda t: plain(logits, t), np.asarray(0.7), g), rtol=1e-6)


def test_weights_of_any_size(lib: Library) -> None:
    if lib.backend is Backend.JAX:
        pytest.skip("it takes seconds to compile; test_against_enumeration has such weights too")
    # Powers of two, that rational arithmetic is exact on: 2**l for l of +-1400 is exp(l) for l of +-970.
    edges = grid(3)
    bits = np.random.default_rng(3).integers(-1400, 1400, size=(3, len(edges)))
    bits[0, :3] = bits[0, 3]
    expected = np.stack([exact_marginals(row, edges) for row in bits])
    p = SpanningTree(lib.asarray(bits * np.log(2.0)), tuple(edges))
    lib.check(p.mean(), expected, rtol=1e-11, atol=1e-300)
    rounded = np.stack([exact_marginals(row, edges) for row in (bits // 100) * 100])
    p = SpanningTree(lib.asarray((bits // 100) * 100 * np.log(2.0), "float32"), tuple(edges))
    lib.check(p.mean(), rounded, dtype="float32", rtol=1e-3, atol=1e-37)  # of logits rounded to 2**-14


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("edges", [None, grid(10)], ids=["complete", "grid"])
def test_a_hundred_nodes(edges: Any, scale: float) -> None:
    count = len(edges or complete(100))
    logits = (scale * np.random.default_rng(0).uniform(-1, 1, size=count)).astype(np.float32)
    g = normal(count).astype(np.float32)
    y, pullback = backdraw.vjp(lambda u: SpanningTree(u, edges).mean(), logits)
    assert y.sum(dtype=np.float64) == pytest.approx(99.0, rel=1e-6)
    assert np.all((y >= 0) & (y <= 1))
    (grad,) = pullback(g)
    assert np.all(np.isfinite(grad))
    step = 1e-4 * g.astype(np.float64)
    up, down = (SpanningTree(logits + sign * step, edges).mean() for sign in (1, -1))
    np.testing.assert_allclose(grad, (up - down) / 2e-4, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes or (lib.backend is Backend.JAX and dtype != "bfloat16"):
        pytest.skip(f"{lib.backend.value} has no {dtype}, or it takes seconds to compile")
    logits = lib.asarray(normal(3), dtype)
    exact = SpanningTree(lib.to_numpy(logits).astype(np.float64))
    rtol = {"float16": 2e-3, "bfloat16": 1.6e-2}.get(dtype, 1e-6)

    def every(u: Any) -> tuple[Any, ...]:
        p = SpanningTree(u)
        return p.mean(temperature=0.5), p.log_partition(), p.entropy()

    ones = lib.asarray(np.asarray(1.0), dtype)
    (y, total, entropy), (grad,) = pulled(lib, every, (logits, ones, ones), logits)
    lib.check(y, exact.mean(temperature=0.5), dtype=dtype, rtol=rtol)
    assert grad.dtype == logits.dtype
    lib.check(total, exact.log_partition(), dtype=dtype, rtol=rtol)
    lib.check(entropy, exact.entropy(), dtype=dtype, rtol=rtol)
    draw = lambda u: backdraw.draw(SpanningTree(u), rng=backdraw.key(2))  # noqa: E731
    lib.check(compiled(lib, draw, logits), backdraw.draw(exact, rng=backdraw.key(2)), dtype=dtype, rtol=0)


def test_edges_of_probability_zero(lib: Library) -> None:
    inf = np.inf
    logits = np.asarray([[0.3, -inf, 1.0, 0.2, -inf, 0.5], [-inf] * 6, [0.0, -inf, -inf, 5.0, -inf, -inf]])
    logits = np.concatenate([logits, [[1e30, -1e30, 0.0, 1e30, 3.0, -2.0]]])
    kept = [0, 2, 3, 5]
    values = spanning_trees(4, [complete(4)[e] for e in kept])
    g = normal(*logits.shape)
    tree = lib.asarray(np.asarray([1.0, 1, 0, 1, 0, 0]) * np.ones((4, 1)))

    def every(u: Any) -> tuple[Any, ...]:
        p = SpanningTree(u)
        return p.mean(), p.entropy(), p.log_partition(), p.log_prob(tree)

    def hard(u: Any) -> Any:
        p = SpanningTree(u)
        return p.argmax(u), p.sample(p.draw_noise(backdraw.key(0)))

    none = lib.asarray(np.zeros(4))
    cotangents = (lib.asarray(g), lib.asarray(np.asarray([1.0, 1, 1, 0])), none, none)
    found, (grad,) = pulled(lib, every, cotangents, lib.asarray(logits))
    y, entropy, total, log_prob = (lib.to_numpy(a) for a in found)
    grad = lib.to_numpy(grad)
    np.testing.assert_allclose(y[0, kept], probabilities(logits[0, kept], values)[0] @ values, rtol=1e-13)
    expected = covariance_product(logits[0, kept], values, g[0, kept] - logits[0, kept])
    np.testing.assert_allclose(grad[0, kept], expected, rtol=1e-11)
    assert np.all(np.isfinite(grad))
    for zero in (y[0, [1, 4]], grad[0, [1, 4]], y[1:3], grad[1:3], grad[3, [0, 1, 3]]):  # rows 1 and 2: no tree at all
        assert np.all(zero == 0.0)
    p = softmax([0.0, 3.0, -2.0])  # of the edges to node 3, below two that are certain
    np.testing.assert_allclose(y[3], [1, 0, p[0], 1, p[1], p[2]], rtol=1e-13)
    np.testing.assert_allclose(grad[3, [2, 4, 5]], softmax_vjp(p, g[3, [2, 4, 5]]), rtol=1e-12)
    assert list(entropy[1:3]) == [0.0, 0.0]
    assert list(total[1:3]) == [-inf, -inf]
    assert list(log_prob[:3]) == [-inf] * 3
    for x in compiled(lib, hard, lib.asarray(logits)):
        found = lib.to_numpy(x)
        np.testing.assert_array_equal(found.sum(-1), [3, 0, 0, 3])
        assert np.all(found[0, [1, 4]] == 0.0)


def test_ties(lib: Library) -> None:
    p = SpanningTree(lib.asarray(np.zeros((2, 6))))
    lib.check(
        p.argmax(lib.asarray(np.asarray([[0.0] * 6, [0.0, 0, 0, 1, 0, 1]]))),
        [[1.0, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 1]],
        rtol=0,
    )


BAD: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "scalar": (np.asarray(0.0), None, ValueError, r"logits: expected at least one axis, got a scalar"),
    "dtype": (np.zeros(3, int), None, TypeError, "logits: expected a real floating dtype, got int64"),
    "count": (np.zeros(4), None, ValueError, r"logits: expected n \* \(n - 1\) / 2 edges .*, got 4"),
    "shape": (np.zeros(3), [(0, 1), (1, 2)], ValueError, r"edges: expected shape \(3, 2\) .*, got \(2, 2\)"),
    "ragged": (np.zeros(2), [(0, 1), (1,)], TypeError, "edges: expected integers of shape"),
    "floats": (np.zeros(1), np.zeros((1, 2)), TypeError, "edges: expected integers of shape .*float64"),
    "negative": (np.zeros(1), [(-1, 0)], ValueError, r"edges: expected pairs of different nodes from 0 on, got \(-1, 0\)"),
    "loop": (np.zeros(2), [(0, 1), (1, 1)], ValueError, r"edges: expected pairs of different nodes from 0 on, got \(1, 1\)"),
    "twice": (np.zeros(3), [(0, 1), (1, 2), (1, 0)], ValueError, r"edges: expected each edge once, got \(1, 0\) again"),
    "apart": (np.zeros(2), [(0, 1), (2, 3)], ValueError, "edges: expected a connected graph of nodes 0 to 3, got none to"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    logits, edges, error, message = BAD[case]
    with pytest.raises(error, match=message) as info:
        SpanningTree(logits, edges)
    assert isinstance(info.value, backdraw.BackdrawError)


def test_other_regularizers_and_needs() -> None:
    p = SpanningTree(np.zeros(3))
    with pytest.raises(ValueError, match="regularizer: SpanningTree has 'entropy' alone, got 'euclidean'"):
        p.relax(p.logits, 1.0, "euclidean")
    with pytest.raises(TypeError, match="its values cannot be enumerated"):
        backdraw.exact(lambda x: x.sum(-1), p)
    assert p.edges is None
    assert SpanningTree(np.zeros(1), np.asarray([[1, 0]])).edges == ((1, 0),)
