"""PlackettLuce: its law against an enumeration of all orders, its relaxations against the formulas of their papers."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from chains import compiled
from helpers import Backend, Library, finite_difference, pulled, softmax

import backdraw
from backdraw import PlackettLuce

RNG = np.random.default_rng(23)
L = RNG.normal(size=(2, 4))
SORTS = ("softsort", "neuralsort")
sorts = pytest.mark.parametrize("sort", SORTS)
N = 20_000


def orders(n: int, k: int) -> np.ndarray:
    return np.eye(n)[list(itertools.permutations(range(n), k))]


def log_probs(logits: np.ndarray, k: int) -> np.ndarray:
    """Of all orders, shape (N, ...), item by item."""
    out = []
    for order in itertools.permutations(range(logits.shape[-1]), k):
        w, total = np.exp(logits), 0.0
        for i, item in enumerate(order):
            rest = [j for j in range(logits.shape[-1]) if j not in order[:i]]
            total = total + np.log(w[..., item]) - np.log(w[..., rest].sum(-1))
        out.append(total)
    return np.stack(out)


def softsort(s: np.ndarray, t: Any, k: int) -> np.ndarray:
    top = -np.sort(-s, -1)[..., :k]
    return softmax(-np.abs(top[..., :, None] - s[..., None, :]) / t)


def neuralsort(s: np.ndarray, t: Any, k: int) -> np.ndarray:
    n = s.shape[-1]
    a = np.abs(s[..., :, None] - s[..., None, :]) @ np.ones(n)
    rows = [(n + 1 - 2 * i) * s - a for i in range(1, k + 1)]
    return softmax(np.stack(rows, -2) / t)


PLAIN = {"softsort": softsort, "neuralsort": neuralsort}


# ------------------------------------------------------------------------------------------------------------ the law
@pytest.mark.parametrize("k", [1, 3])
def test_log_prob(lib: Library, k: int) -> None:
    x = np.broadcast_to(orders(4, k)[:, None], (len(orders(4, k)), 2, k, 4))
    g = RNG.normal(size=x.shape[:2])
    assert np.allclose(np.exp(log_probs(L, k)).sum(0), 1.0)
    value, (grad,) = pulled(lib, lambda l: PlackettLuce(l, k).log_prob(lib.asarray(x)), lib.asarray(g), lib.asarray(L))
    lib.check(value, log_probs(L, k), rtol=1e-12)
    lib.check(grad, finite_difference(lambda l: log_probs(l, k), L, g, step=1e-5), rtol=1e-6, atol=1e-8)
    scores = compiled(lib, lambda l, x: PlackettLuce(l, k).score(x))(lib.asarray(L), lib.asarray(x))
    np.testing.assert_allclose((lib.to_numpy(scores) * g[..., None]).sum(0), lib.to_numpy(grad), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("f", [backdraw.draw, backdraw.gumbel_max], ids=lambda f: f.__name__)
def test_draws_follow_the_law(framework: Library, f: Any) -> None:
    logits = framework.asarray(np.broadcast_to(L[0] * 1.5, (N, 4)), "float32")
    x = framework.to_numpy(f(PlackettLuce(logits, 3), rng=backdraw.key(3)))
    assert x.shape == (N, 3, 4)
    code = (x.argmax(-1) * [16, 4, 1]).sum(-1)
    every = (orders(4, 3).argmax(-1) * [16, 4, 1]).sum(-1)
    counts = np.bincount(code, minlength=64)[every]
    assert counts.sum() == N
    assert scipy.stats.chisquare(counts, N * np.exp(log_probs(L[0] * 1.5, 3))).pvalue > 1e-6


def test_one_key_gives_one_draw_everywhere(lib: Library) -> None:
    logits = RNG.normal(size=(50, 7)).astype(np.float32)

    def f(l: Any) -> Any:
        soft = backdraw.gumbel_softmax(PlackettLuce(l), temperature=0.5, hard=True, rng=backdraw.key(5))
        return backdraw.draw(PlackettLuce(l, 3), shape=2, rng=backdraw.key(5)), soft

    for actual, expected in zip(compiled(lib, f)(lib.asarray(logits)), f(logits), strict=True):
        lib.check(actual, expected, dtype="float32", rtol=0)


def test_score_function_gradient(framework: Library) -> None:
    weights = RNG.normal(size=(2, 4))
    values = ((orders(4, 2) * weights).sum((-2, -1))) ** 2

    def f(x: Any) -> Any:
        return framework.xp.sum(x * framework.asarray(weights), axis=(-2, -1)) ** 2

    def estimate(l: Any) -> Any:
        return backdraw.rloo(f, PlackettLuce(l, 2), samples=N, rng=backdraw.key(1))

    p, x = np.exp(log_probs(L[0], 2)), framework.asarray(orders(4, 2))
    scores = framework.to_numpy(PlackettLuce(framework.asarray(L[0]), 2).score(x))
    each = (values - p @ values)[:, None] * scores
    exact = finite_difference(lambda l: np.exp(log_probs(l, 2)) @ values, L[0], 1.0)
    np.testing.assert_allclose(p @ each, exact, rtol=1e-6)
    (grad,) = backdraw.value_and_grad(estimate)(framework.asarray(L[0]))[1]
    spread = np.sqrt(p @ (each - exact) ** 2 / N)
    assert np.abs((framework.to_numpy(grad) - exact) / spread).max() < 4.5


# ---------------------------------------------------------------------------------------------------- the relaxations
@sorts
@pytest.mark.parametrize("k", [2, 4])
def test_relaxations(lib: Library, sort: str, k: int) -> None:
    g, plain = RNG.normal(size=(2, k, 4)), PLAIN[sort]
    value, (grad,) = pulled(lib, lambda s: PlackettLuce(s, k).relax(s, 0.7, sort), lib.asarray(g), lib.asarray(L))
    lib.check(value, plain(L, 0.7, k), rtol=1e-12)
    lib.check(grad, finite_difference(lambda s: plain(s, 0.7, k), L, g, step=1e-5), rtol=1e-6, atol=1e-8)


@sorts
def test_gradient_in_a_temperature_array(lib: Library, sort: str) -> None:
    g, t, plain = RNG.normal(size=(2, 3, 4)), np.asarray(0.4), PLAIN[sort]
    value, (to_s, to_t) = pulled(
        lib, lambda s, t: PlackettLuce(s, 3).relax(s, t, sort), lib.asarray(g), lib.asarray(L), lib.asarray(t)
    )
    lib.check(value, plain(L, 0.4, 3), rtol=1e-12)
    lib.check(to_s, finite_difference(lambda s: plain(s, 0.4, 3), L, g, step=1e-5), rtol=1e-6, atol=1e-8)
    lib.check(to_t, finite_difference(lambda t: plain(L, t, 3), t, g, step=1e-5), rtol=1e-6, atol=1e-8)


@sorts
def test_falling_temperature_leads_to_the_hard_draw(lib: Library, sort: str) -> None:
    def f(l: Any, t: Any) -> Any:
        p = PlackettLuce(l, 3)
        u = p.perturbed(backdraw.key(3))
        return p.argmax(u), p.relax(u, t, sort)

    gaps, g = [], compiled(lib, f)
    for t in (1.0, 0.3, 0.1, 0.003):
        hard, soft = g(lib.asarray(L), lib.asarray(t))
        gaps.append(np.abs(lib.to_numpy(soft) - lib.to_numpy(hard)).max())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-6


def test_estimators_relax_by_softsort(lib: Library) -> None:
    p = PlackettLuce(lib.asarray(L), 2)
    u = p.perturbed(backdraw.key(0))
    y = backdraw.gumbel_softmax(p, temperature=0.5, rng=backdraw.key(0))
    lib.check(y, softsort(lib.to_numpy(u), 0.5, 2), rtol=1e-12)


@sorts
def test_utilities_spread_over_a_thousand(lib: Library, sort: str) -> None:
    s = np.concatenate([RNG.integers(-1000, 1000, (5, 6)), RNG.integers(-2, 2, (5, 6)) + 900]).astype(np.float64)
    g = RNG.normal(size=(10, 6, 6)).astype(np.float32)
    exact = [backdraw.vjp(lambda s: PlackettLuce(s).relax(s, 1.0, sort), s)[1](g.astype(np.float64))[0]]
    value, (grad,) = pulled(lib, lambda s: PlackettLuce(s).relax(s, 1.0, sort), lib.asarray(g), lib.asarray(s, "float32"))
    lib.check(value, PLAIN[sort](s, 1.0, 6), dtype="float32", rtol=1e-5, atol=1e-30)
    lib.check(grad, exact[0], dtype="float32", rtol=1e-5, atol=1e-12)


@sorts
def test_what_cannot_be_drawn(lib: Library, sort: str) -> None:
    l = np.asarray([[0.3, -np.inf, 0.1, 0.7], [-np.inf] * 4, [-np.inf, -np.inf, 1.0, -np.inf]])
    live = l > -np.inf
    skipped, twice = (lib.asarray(np.broadcast_to(np.eye(4)[rows], (3, 3, 4))) for rows in ([0, 1, 2], [2, 2, 3]))

    def law(l: Any) -> Any:
        p = PlackettLuce(l, 3)
        x = backdraw.draw(p, shape=20, rng=backdraw.key(0))
        return x, p.log_prob(x), p.log_prob(skipped), p.log_prob(twice)

    x, possible, *impossible = compiled(lib, law)(lib.asarray(l))
    draws = lib.to_numpy(x)
    assert np.all(draws.sum(-2)[:, ~live] == 0)
    assert np.all(draws.sum((-2, -1)) == [3, 0, 1])
    lib.check(possible[:, 1:], np.zeros((20, 2)), rtol=0)
    for value in impossible:
        lib.check(value, [-np.inf] * 3)
    g, t = lib.asarray(RNG.normal(size=(3, 3, 4))), lib.asarray(0.5)
    y, (to_l, _) = pulled(lib, lambda l, t: PlackettLuce(l, 3).relax(l, t, sort), g, lib.asarray(l), t)
    lib.check(y[0, ..., 0], PLAIN[sort](l[0, live[0]], 0.5, 3)[..., 0], rtol=1e-12)
    assert np.all(lib.to_numpy(y)[1] == 0)
    (of_law,) = pulled(lib, lambda l: PlackettLuce(l, 3).log_prob(x[0, ...]), lib.asarray(np.ones(3)), lib.asarray(l))[1]
    for grad in (lib.to_numpy(to_l), lib.to_numpy(of_law)):
        assert np.all(grad[~live] == 0)
        assert np.all(np.isfinite(grad))
        assert np.abs(grad[0]).max() > 1e-3


@sorts
def test_equal_and_huge_utilities(lib: Library, sort: str) -> None:
    for dtype, b in (("float32", 3e38), ("float64", 1.7e308)):
        s = np.asarray([[b, -b, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 3.0, -b]])
        p = PlackettLuce(lib.asarray(s, dtype))
        lib.check(p.argmax(p.utilities)[1:, ...], np.eye(4)[[[0, 1, 2, 3], [1, 2, 0, 3]]], dtype=dtype, rtol=0)
        arrays = lib.asarray(s, dtype), lib.asarray(0.05, dtype)
        y, grads = pulled(
            lib, lambda s, t: PlackettLuce(s).relax(s, t, sort), lib.asarray(RNG.normal(size=(3, 4, 4)), dtype), *arrays
        )
        for out in (y, *grads):
            assert np.all(np.isfinite(lib.to_numpy(out)))
        np.testing.assert_allclose(lib.to_numpy(y).sum(-1), 1.0, rtol=1e-6)
        np.testing.assert_allclose(lib.to_numpy(y)[1], 0.25, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    l = lib.asarray(L, dtype)
    exact, rtol = lib.to_numpy(l).astype(np.float64), {"float16": 2e-3, "bfloat16": 1.6e-2}.get(dtype)

    def f(l: Any) -> Any:
        p = PlackettLuce(l, 2)
        x = backdraw.draw(p, rng=backdraw.key(0))
        return (
            p.relax(l, 0.5, "neuralsort"),
            backdraw.vjp(lambda l: p.replace(logits=l).relax(l), l)[1](x),
            p.log_prob(x),
            p.argmax(l),
        )

    y, *others = compiled(lib, f)(l)
    lib.check(y, PLAIN["neuralsort"](exact, 0.5, 2), dtype=dtype, rtol=rtol, atol=1e-6)
    assert {others[0][0].dtype, *(out.dtype for out in others[1:])} == {l.dtype}


# ------------------------------------------------------------------------------------------- transformations and input
@sorts
@pytest.mark.needs("jax")
def test_under_vmap(sort: str) -> None:
    import jax

    lib = Library(Backend.JAX)
    g, key = RNG.normal(size=(3, 4)), backdraw.key(2)

    def both(l: Any, g: Any) -> Any:
        y, back = backdraw.vjp(lambda l: PlackettLuce(l, 3).relax(PlackettLuce(l, 3).perturbed(key), 0.5, sort), l)
        return y, *back(g), PlackettLuce(l, 3).argmax(l), backdraw.draw(PlackettLuce(l, 3), rng=key)

    expected = zip(*(both(l, g) for l in L), strict=True)
    for a, b in zip(jax.jit(jax.vmap(both, (0, None)))(lib.asarray(L), lib.asarray(g)), expected, strict=True):
        lib.check(a, np.stack(b), rtol=1e-10, atol=1e-14)


@sorts
@pytest.mark.needs("torch")
def test_second_derivatives_and_vmap(sort: str) -> None:
    import torch

    l = torch.tensor(L).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda l: PlackettLuce(l, 3).relax(l, 0.9, sort), (l,))
    g = torch.tensor(RNG.normal(size=(3, 4)))
    grads = torch.func.vmap(torch.func.grad(lambda l: (PlackettLuce(l, 3).relax(l, 0.9, sort) * g).sum()))(l.detach())
    expected = torch.func.vjp(lambda l: PlackettLuce(l, 3).relax(l, 0.9, sort), l.detach())[1](g.expand(2, 3, 4))
    torch.testing.assert_close(grads, expected[0])


def test_bad_input(lib: Library) -> None:
    l = lib.asarray(L)
    for k in (0, 5, -1):
        with pytest.raises(ValueError, match=rf"k: expected 1 to 4 for logits of shape \(2, 4\), got {k}"):
            PlackettLuce(l, k)
    for bad in (1.0, "2", True):
        with pytest.raises(TypeError, match=f"k: expected an int, got {type(bad).__name__}"):
            PlackettLuce(l, bad)  # type: ignore[arg-type]
    for shape in ((), (2, 0)):
        with pytest.raises(ValueError, match=r"logits: expected shape \(\.\.\., n\) with n at least 1, got \("):
            PlackettLuce(lib.asarray(np.zeros(shape)))
    with pytest.raises(TypeError, match=r"logits: expected a real floating dtype, got .*int64"):
        PlackettLuce(lib.asarray(np.zeros(3, np.int64)))
    p = PlackettLuce(l, 2)
    with pytest.raises(ValueError, match=r"x: expected the shape \(2, 2, 4\), or more axes in front of it, got \(2, 4\)"):
        p.log_prob(l)
    with pytest.raises(ValueError, match="regularizer: expected one of softsort, neuralsort, got 'euclidean'"):
        p.relax(l, 1.0, "euclidean")
    with pytest.raises(TypeError, match=r"dist: straight_through needs mean\(\) of PlackettLuce, but its mean is not known"):
        backdraw.straight_through(p)
