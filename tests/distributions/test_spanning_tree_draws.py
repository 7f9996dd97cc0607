"""Draws of spanning trees: their law, the estimators that take them, and the frameworks' transformations."""

import numpy as np
import pytest
import scipy.stats
from helpers import Library, finite_difference, pulled, run_python
from trees import compiled, complete, covariance_product, graph, normal, probabilities, spanning_trees

import backdraw
from backdraw import SpanningTree


def test_draws_become_the_relaxation_as_the_temperature_falls(taped: Library) -> None:
    p = SpanningTree(taped.asarray(normal(4, 10)))
    u = p.perturb(p.perturb_noise(backdraw.key(3)))
    taped.check(p.relax(u, 1e-6), taped.to_numpy(p.argmax(u)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["2", "4", "sparse"])
def test_law_of_draws(name: str) -> None:
    edges, pairs, n = graph(name)
    values, logits = spanning_trees(n, pairs), normal(len(pairs))
    x = backdraw.draw(SpanningTree(logits, edges), shape=20_000, rng=backdraw.key(1))
    counts = np.asarray([np.sum(np.all(x == v, axis=-1)) for v in values])
    assert counts.sum() == len(x)
    expected = len(x) * probabilities(logits, values)[0]
    assert scipy.stats.chi2.sf(np.sum((counts - expected) ** 2 / expected), len(values) - 1 or 1) > 1e-4


def test_draws_of_weights_of_any_size() -> None:
    # Two strong triangles with two weak edges between them that are as likely as each other, and one that is not.
    edges = [(0, 3), (3, 1), (0, 1), (2, 4), (4, 5), (2, 5), (0, 2), (5, 1), (3, 4)]
    logits = np.asarray([900.0, 900, 900, -300, -300, -300, -999, -999, -1000])
    x = backdraw.draw(SpanningTree(logits, edges), shape=10_000, rng=backdraw.key(1))
    assert np.all(x.sum(-1) == 5)
    p = np.asarray([2 / 3] * 6 + [1 / (2 + np.exp(-1))] * 2 + [1 / (1 + 2 * np.e)])
    np.testing.assert_allclose(SpanningTree(logits, edges).mean(), p, rtol=1e-13)
    assert np.abs((x.mean(0) - p) / np.sqrt(p * (1 - p) / len(x))).max() < 4.5


def test_one_key_gives_one_draw_everywhere(lib: Library) -> None:
    logits = normal(4, 10)
    expected = backdraw.draw(SpanningTree(logits), shape=(3,), rng=backdraw.key(5))
    assert set(expected.sum(-1).ravel()) == {4.0}
    draw = lambda u: backdraw.draw(SpanningTree(u), shape=(3,), rng=backdraw.key(5))  # noqa: E731
    lib.check(compiled(lib, draw, lib.asarray(logits)), expected, rtol=0)


def test_estimators(lib: Library) -> None:
    logits, g = normal(2, 3, 3)
    values = spanning_trees(3, complete(3))
    u = lib.asarray(logits)
    x, (grad,) = pulled(
        lib, lambda u: backdraw.straight_through(SpanningTree(u), temperature=0.5, rng=backdraw.key(2)), lib.asarray(g), u
    )
    lib.check(x, backdraw.draw(SpanningTree(logits), rng=backdraw.key(2)), rtol=0)
    expected = np.stack([covariance_product(l / 0.5, values, c) / 0.5 for l, c in zip(logits, g, strict=True)])
    lib.check(grad, expected, rtol=1e-11, atol=1e-14)
    hard = compiled(lib, lambda u: backdraw.gumbel_max(SpanningTree(u), rng=backdraw.key(2)), u)
    lib.check(hard, backdraw.gumbel_max(SpanningTree(logits), rng=backdraw.key(2)), rtol=0)
    assert np.all(lib.to_numpy(hard).sum(-1) == 2)


def test_select() -> None:
    logits = normal(3, 6)
    np.testing.assert_array_equal(backdraw.select(SpanningTree(logits)), SpanningTree(logits).argmax(logits))


def test_score_function_gradient() -> None:
    logits, w = normal(2, 6)
    values = spanning_trees(4, complete(4))
    f = lambda x: (x @ w) ** 2  # noqa: E731
    p = SpanningTree(logits).repeated(4000)
    _, pullback = backdraw.vjp(lambda u: backdraw.rloo(f, SpanningTree(u), samples=4, rng=backdraw.key(0)), p.logits)
    g = pullback(np.ones(4000))[0]
    exact = finite_difference(lambda l: probabilities(l, values)[0] @ f(values), logits, 1.0)
    assert np.abs((g.mean(0) - exact) / (g.std(0) / 4000**0.5)).max() < 4.5


@pytest.mark.needs("jax")
def test_vmap_and_pytree() -> None:
    import jax

    logits = normal(3, 3) * [[1.0], [300.0], [1000.0]]
    expected = SpanningTree(logits).mean()
    loss = lambda p: (p.mean() ** 2).sum()  # noqa: E731
    value, grads = jax.jit(jax.vmap(jax.value_and_grad(loss)))(SpanningTree(jax.numpy.asarray(logits)))
    np.testing.assert_allclose(value, (expected**2).sum(-1), rtol=1e-12)
    back = backdraw.vjp(lambda u: SpanningTree(u).mean(), logits)[1](2 * expected)[0]
    np.testing.assert_allclose(grads.logits, back, rtol=1e-10, atol=1e-14)


@pytest.mark.needs("torch")
def test_torch_transforms() -> None:
    import torch

    logits = torch.as_tensor(normal(2, 6))
    mean = lambda u: SpanningTree(u).mean()  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(mean)(logits), mean(logits))
    u = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(mean, u)
    assert torch.autograd.gradgradcheck(mean, u)
    assert torch.autograd.gradgradcheck(lambda u: SpanningTree(u).log_partition(), u)


@pytest.mark.needs("jax")
def test_jax_without_64_bits() -> None:
    code = """
import warnings
warnings.simplefilter("error")
import jax, numpy as np, backdraw
from backdraw import Arborescence, SpanningTree
l, key = np.asarray([0.1, 2.0, 900.0], np.float32), backdraw.key(0)
a = np.arange(9, dtype=np.float32).reshape(3, 3)
f = lambda u, a: (SpanningTree(u).mean()[0], backdraw.draw(SpanningTree(u), rng=key), Arborescence(a).argmax(a))
value, grad = jax.jit(lambda *x: (f(*x), jax.grad(lambda u: f(u, a)[0])(x[0])))(l, a)
expected, pullback = backdraw.vjp(lambda u: SpanningTree(u).mean(), l)
assert all(np.allclose(x, y) for x, y in zip(value, f(l, a)))
assert np.allclose(grad, pullback(np.eye(3, dtype=np.float32)[0])[0]) and grad.dtype == np.float32
"""
    assert run_python(code) == ""
