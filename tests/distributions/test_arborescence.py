"""Arborescence: against the enumeration of all arborescences, networkx, and the law of its draws."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.stats
from helpers import Backend, Library, finite_difference, pulled
from trees import arborescences, compiled, covariance_product, grid, normal, probabilities

import backdraw
from backdraw import Arborescence

CASES = [(1, 0), (2, 1), (3, 2), (4, 1), (5, 3)]


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize(("n", "root"), CASES)
def test_against_enumeration(lib: Library, n: int, root: int, scale: float) -> None:
    if lib.backend is Backend.JAX and (n, scale) != (3, 30.0):
        pytest.skip("compiling each size takes seconds: here one of them, the rest on the other backends")
    values = arborescences(n, root)
    logits, g = normal(2, 2, n, n)
    logits = logits * scale
    x = np.broadcast_to(values[0], (2, n, n))

    def every(u: Any) -> tuple[Any, ...]:
        p = Arborescence(u, root)
        return p.mean(), p.mean(temperature=2.0), p.log_partition(), p.entropy(), p.log_prob(lib.asarray(x))

    each = [probabilities(l, values) for l in logits]
    probs, totals = np.stack([p for p, _ in each]), np.asarray([z for _, z in each])
    half = np.stack([probabilities(l / 2, values)[0] for l in logits])
    logs = np.where(probs > 0, np.log(np.where(probs > 0, probs, 1.0)), 0.0)
    means = (np.tensordot(p, values, 1) for p in (probs, half))
    expected = (*means, totals, -(probs * logs).sum(-1), (logits * x).sum((-2, -1)) - totals)
    ones = lib.asarray(np.ones(2))
    found, (grad,) = pulled(lib, every, (lib.asarray(g), lib.asarray(g), ones, ones, ones), lib.asarray(logits))
    for actual, wanted in zip(found, expected, strict=True):
        lib.check(actual, wanted, rtol=1e-12, atol=1e-12 * scale)
    wanted = [
        covariance_product(l, values, c - l) + covariance_product(l / 2, values, c) / 2 + values[0]
        for l, c in zip(logits, g, strict=True)
    ]
    lib.check(grad, np.stack(wanted), rtol=1e-10, atol=1e-11 * scale)
    best = np.argmax(np.tensordot(logits, values, ((1, 2), (1, 2))), -1)
    hard = compiled(lib, lambda u: Arborescence(u, root).argmax(u), lib.asarray(logits))
    lib.check(hard, values[best], rtol=0)


def test_derivatives_by_finite_differences(lib: Library) -> None:
    values = arborescences(3, 0)
    logits, g = normal(2, 3, 3)

    def plain(l: np.ndarray, t: Any) -> np.ndarray:
        return np.tensordot(probabilities(l / t, values)[0], values, 1)

    arrays = lib.asarray(logits), lib.asarray(np.asarray(0.7))
    y, (to_u, to_t) = pulled(lib, lambda u, t: Arborescence(u).mean(temperature=t), lib.asarray(g), *arrays)
    lib.check(y, plain(logits, 0.7), rtol=1e-12)
    lib.check(to_u, finite_difference(lambda l: plain(l, 0.7), logits, g), rtol=1e-6, atol=1e-8)
    lib.check(to_t, finite_difference(lambda t: plain(logits, t), np.asarray(0.7), g), rtol=1e-6)


@pytest.mark.parametrize("n", [2, 6, 12, 30])
def test_as_heavy_as_those_of_networkx(n: int) -> None:
    for seed in range(4):
        logits = np.round(normal(n, n, seed=seed) * 3) if seed % 2 else normal(n, n, seed=seed)  # with and without ties
        x = Arborescence(logits).argmax(logits)
        graph = nx.DiGraph()
        graph.add_weighted_edges_from((i, j, logits[i, j]) for i in range(n) for j in range(1, n) if i != j)
        best = nx.maximum_spanning_arborescence(graph)
        assert (x * logits).sum() == pytest.approx(sum(logits[e] for e in best.edges), rel=1e-12)
        np.testing.assert_array_equal(x.sum(0), np.arange(n) > 0)
        assert np.linalg.matrix_power(np.eye(n) + x, n)[0].min() > 0  # the root reaches every node


def test_as_heavy_as_those_of_networkx_where_edges_are_few() -> None:
    rng, trees = np.random.default_rng(0), 0
    for logits in np.where(rng.random((30, 12, 12)) < 0.2, np.round(rng.normal(size=(30, 12, 12)) * 3), -np.inf):
        x, graph = Arborescence(logits, 5).argmax(logits), nx.DiGraph()
        graph.add_nodes_from(range(12))
        graph.add_weighted_edges_from((i, j, logits[i, j]) for i, j in np.argwhere(logits > -np.inf) if i != j != 5)
        if len(nx.descendants(graph, 5)) == 11:
            trees += 1
            best = nx.maximum_spanning_arborescence(graph)
            assert logits[x > 0].sum() == sum(logits[e] for e in best.edges)
            np.testing.assert_array_equal(x.sum(0), np.arange(12) != 5)
        else:
            assert not x.any()
    assert 5 < trees < 25


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("edges", [None, grid(10)], ids=["complete", "grid, both ways alike"])
def test_a_hundred_nodes(edges: Any, scale: float) -> None:
    rng = np.random.default_rng(0)
    logits = np.full((100, 100), -np.inf, np.float32)
    if edges:
        first, second = np.transpose(edges)
        logits[first, second] = logits[second, first] = scale * rng.uniform(-1, 1, size=len(edges))
    else:
        logits[...] = scale * rng.uniform(-1, 1, size=logits.shape)
    g = normal(100, 100).astype(np.float32)
    y, pullback = backdraw.vjp(lambda u: Arborescence(u).mean(), logits)
    np.testing.assert_allclose(y.sum(0), np.arange(100) > 0, atol=2e-6)
    (grad,) = pullback(g)
    step = 1e-4 * g.astype(np.float64)
    up, down = (Arborescence(logits + sign * step).mean() for sign in (1, -1))
    np.testing.assert_allclose(grad, (up - down) / 2e-4, rtol=1e-4, atol=1e-6)


def test_cycles_that_are_hard_to_leave() -> None:
    # Nodes 1, 2 and 3 lead to each other with weight 1 and to the root with exp(-900), which one of them must take.
    logits = np.zeros((4, 4))
    logits[0] = [0.0, -900.0, -900.0, -901.0]
    p = Arborescence(logits)
    first = np.asarray([1.0, 1.0, np.exp(-1.0)]) / (2 + np.exp(-1.0))
    np.testing.assert_allclose(p.mean()[0, 1:], first, rtol=1e-12)
    assert p.log_partition() == pytest.approx(-900.0 + np.log(3 * (2 + np.exp(-1.0))), rel=1e-14)
    x = backdraw.draw(p, shape=10_000, rng=backdraw.key(0))
    assert np.all(x.sum((-2, -1)) == 3)
    assert np.abs((x.mean(0)[0, 1:] - first) / np.sqrt(first * (1 - first) / len(x))).max() < 4.5
    (grad,) = backdraw.vjp(lambda u: Arborescence(u).mean(), logits)[1](np.eye(4)[[1, 0, 0, 0]])
    np.testing.assert_allclose(grad[0, 1:], first * (np.asarray([1.0, 0, 0]) - first[0]), rtol=1e-12)


def test_edges_of_probability_zero(lib: Library) -> None:
    inf = np.inf
    logits = np.stack([normal(3, 3)] * 3)
    logits[0, 1, 2] = logits[1, :, 2] = -inf
    logits[2, 0, :] = -inf  # nothing leaves the root
    logits[:, [0, 1, 2], [0, 1, 2]] = np.nan  # ignored
    logits[:, :, 0] = inf
    g = normal(3, 3, 3, seed=1)

    def every(u: Any) -> tuple[Any, ...]:
        p = Arborescence(u)
        return p.mean(), p.log_partition(), p.entropy()

    ones = lib.asarray(np.ones(3))
    found, (grad,) = pulled(lib, every, (lib.asarray(g), ones, lib.asarray(np.zeros(3))), lib.asarray(logits))
    y, total, entropy = (lib.to_numpy(a) for a in found)
    grad = lib.to_numpy(grad)
    values = arborescences(3, 0)
    values = values[values[:, 1, 2] == 0]
    kept = np.where(values.sum(0) > 0, logits[0], 0.0)
    np.testing.assert_allclose(y[0], np.tensordot(probabilities(kept, values)[0], values, 1), rtol=1e-12)
    np.testing.assert_allclose(grad[0], covariance_product(kept, values, g[0]) + y[0], rtol=1e-12, atol=1e-15)
    assert total[0] == pytest.approx(probabilities(kept, values)[1])
    assert np.all(y[1:] == 0.0)
    assert np.all(grad[1:] == 0.0)
    assert list(total[1:]) == [-inf, -inf]
    assert list(entropy[1:]) == [0.0, 0.0]

    def hard(u: Any) -> Any:
        p = Arborescence(u)
        return p.argmax(u), p.sample(p.draw_noise(backdraw.key(0)))

    for x in compiled(lib, hard, lib.asarray(logits)):
        np.testing.assert_array_equal(lib.to_numpy(x).sum((-2, -1)), [2, 0, 0])


def test_law_of_draws() -> None:
    values, logits = arborescences(4, 2), normal(4, 4)
    x = backdraw.draw(Arborescence(logits, 2), shape=20_000, rng=backdraw.key(1))
    counts = np.asarray([np.sum(np.all(x == v, axis=(-2, -1))) for v in values])
    assert counts.sum() == len(x)
    expected = len(x) * probabilities(logits, values)[0]
    assert scipy.stats.chi2.sf(np.sum((counts - expected) ** 2 / expected), len(values) - 1) > 1e-4


def test_estimators_and_keys(lib: Library) -> None:
    logits, g = normal(2, 3, 4, 4)
    if lib.backend is Backend.JAX:
        logits, g = logits[:, :3, :3], g[:, :3, :3]
    n = logits.shape[-1]
    values, key = arborescences(n, 0), backdraw.key(4)
    u = lib.asarray(logits)
    x, (grad,) = pulled(lib, lambda u: backdraw.straight_through(Arborescence(u), temperature=0.5, rng=key), lib.asarray(g), u)
    lib.check(x, backdraw.draw(Arborescence(logits), rng=key), rtol=0)
    expected = np.stack([covariance_product(l / 0.5, values, c) / 0.5 for l, c in zip(logits, g, strict=True)])
    lib.check(grad, expected, rtol=1e-11, atol=1e-14)
    hard = compiled(lib, lambda u: backdraw.gumbel_max(Arborescence(u), rng=key), u)
    lib.check(hard, backdraw.gumbel_max(Arborescence(logits), rng=key), rtol=0)
    np.testing.assert_array_equal(lib.to_numpy(hard).sum(-2), np.broadcast_to(np.arange(n) > 0, (3, n)))


def test_score_function_gradient() -> None:
    logits, w = normal(2, 3, 3)
    values = arborescences(3, 0)
    f = lambda x: ((x * w).sum((-2, -1))) ** 2  # noqa: E731
    p = Arborescence(logits).repeated(4000)
    _, pullback = backdraw.vjp(lambda u: backdraw.rloo(f, Arborescence(u), samples=4, rng=backdraw.key(0)), p.logits)
    g = pullback(np.ones(4000))[0]
    exact = finite_difference(lambda l: probabilities(l, values)[0] @ f(values), logits, 1.0)
    error = np.maximum(g.std(0) / 4000**0.5, 1e-12)
    assert np.abs((g.mean(0) - exact) / error).max() < 4.5


def test_draws_become_the_relaxation_as_the_temperature_falls(taped: Library) -> None:
    p = Arborescence(taped.asarray(normal(4, 5, 5)))
    u = p.perturb(p.perturb_noise(backdraw.key(3)))
    taped.check(p.relax(u, 1e-6), taped.to_numpy(p.argmax(u)), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    if lib.backend is Backend.JAX:
        pytest.skip("compiling each dtype takes seconds; all are computed in float64, which test_against_enumeration compiles")
    logits = lib.asarray(normal(4, 4), dtype)
    exact = Arborescence(lib.to_numpy(logits).astype(np.float64), 1)
    rtol = {"float16": 2e-3, "bfloat16": 1.6e-2}.get(dtype, 1e-6)
    y, pullback = backdraw.vjp(lambda u: Arborescence(u, 1).mean(temperature=0.5), logits)
    lib.check(y, exact.mean(temperature=0.5), dtype=dtype, rtol=rtol)
    assert pullback(logits)[0].dtype == logits.dtype
    lib.check(Arborescence(logits, 1).log_partition(), exact.log_partition(), dtype=dtype, rtol=rtol)


@pytest.mark.needs("torch")
def test_torch_transforms() -> None:
    import torch

    logits = torch.as_tensor(normal(2, 3, 3))
    mean = lambda u: Arborescence(u).mean()  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(mean)(logits), mean(logits))
    u = logits[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(mean, u)
    assert torch.autograd.gradgradcheck(mean, u)


BAD: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "vector": (np.zeros(3), 0, ValueError, r"logits: expected shape \(..., n, n\) with n >= 1, got \(3,\)"),
    "not square": (np.zeros((2, 3)), 0, ValueError, r"logits: expected shape \(..., n, n\) .*, got \(2, 3\)"),
    "empty": (np.zeros((0, 0)), 0, ValueError, r"logits: expected shape \(..., n, n\) with n >= 1, got \(0, 0\)"),
    "dtype": (np.zeros((2, 2), int), 0, TypeError, "logits: expected a real floating dtype, got int64"),
    "float root": (np.zeros((2, 2)), 1.0, TypeError, "root: expected an int, got float"),
    "root": (np.zeros((2, 2)), 2, ValueError, r"root: expected 0 to 1 for logits of shape \(2, 2\), got 2"),
    "negative root": (np.zeros((2, 2)), -1, ValueError, r"root: expected 0 to 1 for logits of shape \(2, 2\), got -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    logits, root, error, message = BAD[case]
    with pytest.raises(error, match=message) as info:
        Arborescence(logits, root)
    assert isinstance(info.value, backdraw.BackdrawError)
