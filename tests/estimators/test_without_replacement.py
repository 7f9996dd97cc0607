"""Draws without replacement: expectations over every set that can be drawn, the ratios, and what has no probability."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from helpers import Backend, Library, eps, sigmoid, softmax
from problems import Problem, hash_of, shared

import backdraw
from backdraw.estimators import without_replacement
from backdraw.estimators.leave_one_out import log_completions, ratios

RNG = np.random.default_rng(3)
KEY = backdraw.key(7)
BOTH = pytest.mark.parametrize("estimator", [backdraw.unordered_set, backdraw.sum_and_sample])
ONE = Problem(backdraw.Categorical, np.asarray([0.4, -1.0, 2.0, 0.1, -0.7, 1.1]), lambda x: np.argmax(x, -1) ** 2 % 7 + 3.0)
PAIR = Problem(backdraw.Categorical, np.asarray([[0.3, -0.5, 0.9], [0.0, 1.0, -1.0]]), lambda x: hash_of(np.repeat(x, 2, -2)))
BITS = Problem(backdraw.Bernoulli, np.asarray([0.4, -0.7, 1.1]), shared)


def completion(p: np.ndarray, chosen: tuple[int, ...], without: tuple[int, ...]) -> float:
    """Probability that draws from all but `without` are first the rest of `chosen`: the sum over the orders of drawing."""
    total = 0.0
    for order in itertools.permutations(set(chosen) - set(without)):
        gone, path = sum(p[list(without)]), 1.0
        for s in order:
            path *= p[s] / (1.0 - gone)
            gone += p[s]
        total += path
    return total


# --------------------------------------------------------------------------------------------------------- ratios
def test_completions(lib: Library) -> None:
    chosen = (4, 0, 2, 3)
    p = softmax(RNG.normal(size=(2, 7)) * 2)
    outside = p[:, [1, 5, 6]].sum(-1, keepdims=True)
    logp, out = lib.asarray(np.log(p[:, list(chosen)])), lib.asarray(np.log(outside))
    for size, found in enumerate(log_completions(lib.be, logp, out)):
        subsets = list(itertools.combinations(chosen, size))
        lib.check(found, np.log([[completion(row, chosen, a) for a in subsets] for row in p]), rtol=1e-10, atol=1e-12)
    weights, others = ratios(lib.be, logp, out)
    of = [[completion(row, chosen, (s,)) for s in chosen] for row in p]
    lib.check(weights, np.log([p[i][list(chosen)] * of[i] / completion(p[i], chosen, ()) for i in range(2)]), rtol=1e-10)
    both = [[[row[t] * completion(row, chosen, tuple({s, t})) for t in chosen] for s in chosen] for row in p]
    lib.check(others, np.log(both / np.asarray(of)[:, :, None]), rtol=1e-10)


@pytest.mark.needs("numpy")
def test_completions_are_the_integral_of_the_paper() -> None:
    chosen, p = (1, 3, 4), softmax(np.asarray([0.5, -1.0, 0.3, 1.2, 0.0]))
    outside = p[[0, 2]].sum()
    logs = log_completions(Library(Backend.NUMPY).be, np.log(p[list(chosen)]), np.log(outside)[None])
    for size, found in enumerate(logs):
        for a, value in zip(itertools.combinations(chosen, size), found, strict=True):
            powers = p[[s for s in chosen if s not in a]] / outside
            expected, _ = scipy.integrate.quad(lambda v, powers=powers: np.prod(1.0 - v**powers), 0.0, 1.0, epsabs=1e-11)
            assert abs(np.exp(value) - expected) < 1e-9


# ---------------------------------------------------------------------------------- expectations over all that is drawn
def every_set(p: np.ndarray, k: int) -> tuple[np.ndarray, Callable[..., Any]]:
    """Return the probabilities of the sets, and the noise that draws the i-th of them, but its first, in batch element i."""
    sets = list(itertools.combinations(range(p.size), k))
    high = np.asarray([[1e3 if s in a else 0.0 for s in range(p.size)] for a in sets])
    return np.asarray([completion(p, a, ()) for a in sets]), lambda *_: high.copy()


def every_rest(p: np.ndarray, k: int) -> tuple[np.ndarray, Callable[..., Any]]:
    """Return the probabilities of the values that are not summed, and the noise that draws each."""
    rest = np.asarray([s for s in range(p.size) if s not in np.argsort(-p)[: k - 1]])
    share = p[rest] / p[rest].sum()
    return share, lambda *_: (np.cumsum(share) - share / 2)[None, :, None]


def order_of_states(problem: Problem) -> np.ndarray:
    """Return where the states stand in the numbering of joint values: the first factor counts fastest."""
    m = problem.logits.size if problem.make is backdraw.Bernoulli else max(1, problem.logits.size // problem.logits.shape[-1])
    n = round(len(problem.states()) ** (1 / m))
    return np.arange(n**m).reshape((n,) * m).T.ravel()


@pytest.mark.needs("numpy")
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("problem", [ONE, PAIR, BITS], ids=["one", "pair", "bits"])
@pytest.mark.parametrize("every", [every_set, every_rest])
def test_exactly_unbiased(monkeypatch: pytest.MonkeyPatch, every: Any, problem: Problem, k: int) -> None:
    estimator = backdraw.unordered_set if every is every_set else backdraw.sum_and_sample
    p, x = problem.probs(problem.logits), problem.states()
    order = order_of_states(problem)
    chances, noise = every(p[order], k)
    assert abs(chances.sum() - 1.0) < 1e-12
    monkeypatch.setattr(backdraw.random, "noise", noise)
    if every is every_set:
        first = x[order][[a[0] for a in itertools.combinations(range(p.size), k)]]
        monkeypatch.setattr(without_replacement, "draw_samples", lambda *_: first[None])
    logits, w = (np.broadcast_to(a, (len(chances), *a.shape)) for a in (problem.logits, problem.weights))

    def expected_score(f: np.ndarray) -> np.ndarray:
        mean = sigmoid(problem.logits) if problem.make is backdraw.Bernoulli else softmax(problem.logits)
        return np.tensordot(p * f, x - mean, 1)

    value, pullback = backdraw.vjp(lambda l: estimator(problem.f, problem.make(l), samples=k), logits)
    assert abs(chances @ value - p @ problem.f(x)) < 1e-10
    grad = np.tensordot(chances, pullback(np.ones_like(value))[0], 1)
    np.testing.assert_allclose(grad, expected_score(problem.f(x)), rtol=0, atol=1e-10)
    assert np.std(value) > 1e-3  # the sets differ

    _, pullback = backdraw.vjp(lambda l, w: estimator(problem.smooth(w), problem.make(l), samples=k), logits, w)
    to_logits, to_w = (np.tensordot(chances, g, 1) for g in pullback(np.ones_like(value)))
    values, back = backdraw.vjp(lambda w: problem.smooth(w)(x), np.broadcast_to(problem.weights, x.shape))
    np.testing.assert_allclose(to_logits, expected_score(values), rtol=0, atol=1e-10)
    np.testing.assert_allclose(to_w, back(p)[0].sum(0), rtol=0, atol=1e-10)


def run(estimator: Any, lib: Library, f: Any, logits: Any, make: Any = lambda l: l, **options: Any) -> tuple[Any, Any]:
    """Return the value, and the gradient of its sum, in the logits; on JAX compiled."""

    def both(l: Any) -> tuple[Any, Any]:
        value, pullback = backdraw.vjp(lambda l: estimator(f, make(l), **options), l)
        return value, pullback(lib.xp.ones_like(value))[0]

    if lib.backend is Backend.JAX:
        import jax

        both = jax.jit(both)
    return both(logits)


@BOTH
@pytest.mark.parametrize(
    ("kind", "event", "samples"), [("pairs", (3, 2), 9), ("one", (4,), 4), ("bits", (3,), 8), ("bit", (), 2)]
)
def test_all_values_are_exact(lib: Library, estimator: Any, kind: str, event: tuple[int, ...], samples: int) -> None:
    make: Any = backdraw.Bernoulli if "bit" in kind else lambda l: backdraw.Categorical(l, axis=-len(event))
    batch = (2,) if kind in ("pairs", "bits") else ()
    logits, w = (lib.asarray(RNG.normal(size=shape)) for shape in ((*batch, *event), event))
    axes = tuple(range(-len(event), 0))
    f = lambda x: lib.xp.exp(lib.xp.sum(x * w, axis=axes) if axes else x * w)  # noqa: E731
    found = run(estimator, lib, f, logits, make, samples=samples, rng=KEY)
    for ours, exact in zip(found, run(backdraw.exact, lib, f, logits, make), strict=True):
        lib.check(ours, lib.to_numpy(exact), rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------------------------------------ what is not drawn
@BOTH
@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_what_has_no_probability_adds_nothing(lib: Library, estimator: Any, spoil: float) -> None:
    logits = np.asarray([[-np.inf, 0.3, 1.0, -np.inf, -0.4], [-np.inf] * 5, [-np.inf, 0.0, -np.inf, -np.inf, -np.inf]])
    mask = lib.asarray(np.asarray([True, True, True, True, False]))
    w = lib.asarray(np.asarray([spoil, 2.0, 5.0, spoil, spoil]))
    f = lambda x: lib.xp.sum(lib.xp.where(x > 0, w, 0.0), axis=-1)  # noqa: E731
    masked = lambda l: backdraw.Categorical(l, where=mask)  # noqa: E731
    value, grad = run(estimator, lib, f, lib.asarray(logits), masked, samples=4, rng=KEY)
    p = softmax(logits[:, [1, 2]])
    lib.check(value, p @ np.asarray([2.0, 5.0]), rtol=1e-12)
    lib.check(grad, np.prod(p, -1)[:, None] * np.asarray([0.0, -3.0, 3.0, 0.0, 0.0]), rtol=1e-12, atol=1e-15)
    assert np.all(lib.to_numpy(grad)[:, [0, 3, 4]] == 0.0)


@BOTH
@pytest.mark.parametrize("samples", [2, 12])
@pytest.mark.parametrize("step", [0.05, 1e4, 1e30])
def test_peaked_logits(framework: Library, estimator: Any, samples: int, step: float) -> None:
    logits = np.float32(step) * np.arange(1000, dtype=np.float32) * np.asarray([[-1], [1], [-1], [1]], np.float32)
    w = framework.asarray(np.where(np.arange(4)[:, None] < 2, 3.0, np.arange(1000) == 0).astype(np.float32))
    f = lambda x: framework.xp.sum(x * w, axis=-1)  # noqa: E731
    value, grad = run(estimator, framework, f, framework.asarray(logits), samples=samples, rng=KEY)
    assert np.all(np.isfinite(framework.to_numpy(grad)))
    framework.check(value[:2], np.full(2, 3.0), dtype="float32", rtol=1e-5)  # the weights sum to one
    if step > 1.0:
        framework.check(value[2:], np.asarray([1.0, 0.0]), dtype="float32", rtol=1e-6)


@BOTH
def test_the_first_of_equals(framework: Library, estimator: Any) -> None:
    def values(lib: Library) -> Any:
        f = lambda x: lib.xp.sum(x * lib.asarray(np.arange(40.0)), axis=-1)  # noqa: E731
        return run(estimator, lib, f, lib.asarray(np.zeros((3, 40))), samples=6, rng=KEY)

    for ours, expected in zip(values(framework), values(Library(Backend.NUMPY)), strict=True):
        framework.check(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize("samples", [2, 3, 5])
def test_a_constant_adds_nothing_to_the_gradient(samples: int) -> None:
    logits, lib = RNG.normal(size=(50, 6)), Library(Backend.NUMPY)
    value, grad = run(backdraw.unordered_set, lib, ONE.f, logits, samples=samples, rng=KEY)
    lifted = run(backdraw.unordered_set, lib, lambda x: ONE.f(x) + 100.0, logits, samples=samples, rng=KEY)
    np.testing.assert_allclose(lifted[0], value + 100.0, rtol=1e-12)
    np.testing.assert_allclose(lifted[1], grad, rtol=0, atol=1e-10)
    np.testing.assert_allclose(grad.sum(-1), 0.0, atol=1e-12)  # the weights of the scores sum to zero
    assert np.abs(grad).max() > 0.1


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(framework: Library, estimator: Any, dtype: str) -> None:
    if dtype not in framework.dtypes:
        pytest.skip(f"{framework.backend.value} has no {dtype}")
    x = framework.asarray(RNG.normal(size=(20, 6)) * 3, dtype)
    f = lambda x: framework.xp.sum(x[..., ::2], axis=-1)  # noqa: E731
    value, grad = run(estimator, framework, f, x, samples=6, rng=KEY)
    p = softmax(framework.to_numpy(x).astype(np.float64))
    framework.check(value, p[:, ::2].sum(-1), dtype=dtype, rtol=eps(dtype))
    framework.check(
        grad, p * (np.asarray([1.0, 0.0] * 3) - p[:, ::2].sum(-1, keepdims=True)), dtype=dtype, rtol=0, atol=2 * eps(dtype)
    )


# -------------------------------------------------------------------------------------------------- draws and calls
@pytest.mark.needs("numpy")
def test_law_of_the_draws() -> None:
    seen: list[Any] = []

    def f(x: Any) -> Any:
        seen.append(np.argmax(x, -1))
        return x[..., 0]

    n, p = 20_000, softmax(ONE.logits)
    logits = np.broadcast_to(ONE.logits, (n, 6))
    backdraw.unordered_set(f, logits, samples=3, rng=KEY)
    assert [len(x) for x in seen] == [1, 2]  # how often f is called
    drawn = np.sort(np.concatenate(seen), 0).T @ [36, 6, 1]
    sets = list(itertools.combinations(range(6), 3))
    counts = np.asarray([(drawn == np.asarray(a) @ [36, 6, 1]).sum() for a in sets])
    assert counts.sum() == n
    assert scipy.stats.chisquare(counts, [n * completion(p, a, ()) for a in sets]).pvalue > 1e-6

    backdraw.sum_and_sample(f, logits, samples=3, rng=KEY)
    assert [len(x) for x in seen[2:]] == [1, 2]
    summed, rest = np.split(np.argsort(-p), [2])
    assert np.all(np.stack([seen[2][0], seen[3][0]]) == summed[:, None])
    counts = np.bincount(seen[3][1], minlength=6)[rest]
    assert scipy.stats.chisquare(counts, n * p[rest] / p[rest].sum()).pvalue > 1e-6


@BOTH
def test_bad_arguments(framework: Library, estimator: Any) -> None:
    name, logits = estimator.__name__, framework.asarray(np.zeros((2, 3)))
    f = lambda x: framework.xp.sum(x, axis=-1)  # noqa: E731
    with pytest.raises(ValueError, match=f"samples: {name} needs at least 2, got 1"):
        estimator(f, logits, samples=1, rng=KEY)
    with pytest.raises(ValueError, match="samples: expected at most 3, the number of joint values, got 4"):
        estimator(f, logits, samples=4, rng=KEY)
    with pytest.raises(ValueError, match=f"joint values, got {2**21}, of 21 factors with 2 values each"):
        estimator(f, backdraw.Bernoulli(framework.asarray(np.zeros((2, 21)))), rng=KEY)
    with pytest.raises(TypeError, match=f"dist: {name} needs support\\(\\) of Distribution"):
        estimator(f, backdraw.Distribution(), rng=KEY)
    with pytest.raises(ValueError, match=r"samples: unordered_set takes at most 12, .*got 13"):
        backdraw.unordered_set(f, framework.asarray(np.zeros(20)), samples=13, rng=KEY)
