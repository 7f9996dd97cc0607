"""Every estimator of the registry, with every distribution that offers what it needs, on every backend.

What the registry states is tested here and not trusted. A new estimator or distribution needs no new test in this file;
a distribution adds its line to `DISTRIBUTIONS`.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers import Backend, Library, eps, pulled, sigmoid, softmax, suits

import backdraw
from backdraw.estimators import ESTIMATORS, Entry

KEY = backdraw.key(2)
RNG = np.random.default_rng(11)


@dataclass(frozen=True)
class Case:
    """How to make a distribution of one array, and its exact law.

    A continuous one has no `values`: its laws, and what is unbiased, are tested with the distributions.
    """

    make: Callable[[Any, Library], Any]
    logits: np.ndarray
    values: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None  # a row's logits -> all values and probabilities


def _categories(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.eye(row.size), softmax(row)


def _bits(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(list(itertools.product([0.0, 1.0], repeat=row.size)))
    return values, np.prod(np.where(values == 1.0, sigmoid(row), sigmoid(-row)), -1)


def best(u: np.ndarray) -> np.ndarray:
    """A solver on NumPy."""
    return np.eye(u.shape[-1])[u.argmax(-1)]


def _pairs(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray([v for v in itertools.product([0.0, 1.0], repeat=row.size) if sum(v) == 2])
    return values, softmax(values @ row)


MASK = np.asarray([True, True, False, True])
DISTRIBUTIONS = {
    "array": Case(lambda x, lib: x, RNG.normal(size=(5, 4)), _categories),
    "Categorical": Case(lambda x, lib: backdraw.Categorical(x), RNG.normal(size=(2, 3, 4)), _categories),
    "Categorical, masked": Case(
        lambda x, lib: backdraw.Categorical(x, where=lib.asarray(MASK)),
        RNG.normal(size=(5, 4)),
        lambda row: _categories(np.where(MASK, row, -np.inf)),
    ),
    "Bernoulli": Case(lambda x, lib: backdraw.Bernoulli(x), RNG.normal(size=(5, 3)), _bits),
    "Oracle": Case(lambda x, lib: backdraw.Oracle(x, best), RNG.normal(size=(2, 3, 4)), _categories),
    "Subset": Case(lambda x, lib: backdraw.Subset(x, 2), RNG.normal(size=(5, 4)), _pairs),
    "Normal": Case(lambda x, lib: backdraw.Normal(x, 0.7), np.linspace(-3.0, 2.0, 15).reshape(5, 3), None),
}


def _meets(dist: str, entry: Entry) -> bool:
    """Whether a distribution has what an estimator states that it is for."""
    made = DISTRIBUTIONS[dist].make(np.zeros(4), Library(Backend.NUMPY))
    p = backdraw.Categorical(made) if dist == "array" else made  # those for bits test an array in their own files
    return suits(entry, p)


PAIRS = [(e, d) for e, d in itertools.product(ESTIMATORS, DISTRIBUTIONS) if _meets(d, ESTIMATORS[e])]
CONTINUOUS = [d for d, case in DISTRIBUTIONS.items() if case.values is None]
DRAWS = [(e, d) for e, d in PAIRS if ESTIMATORS[e].kind == "draw"]
WITH_GRADIENT = [(e, d) for e, d in DRAWS if ESTIMATORS[e].gradient != "none"]
WITHOUT = [(e, d) for e, d in DRAWS if ESTIMATORS[e].gradient == "none"]
pairs = pytest.mark.parametrize(("name", "dist"), DRAWS)
differentiable_pairs = pytest.mark.parametrize(("name", "dist"), WITH_GRADIENT)


def call(entry: Entry, dist: Any, rng: Any = KEY) -> Any:
    """Call an estimator that may or may not take noise."""
    noise = {"rng": rng} if "rng" in entry.function.__kwdefaults__ else {}
    return entry(dist, **noise)


def estimate(name: str, dist: str, lib: Library, rng: Any = KEY) -> Callable[[Any], Any]:
    """Return the function from logits to the draw."""
    return lambda x: call(ESTIMATORS[name], DISTRIBUTIONS[dist].make(x, lib), rng)


def test_every_entry_is_complete() -> None:
    for name, entry in ESTIMATORS.items():
        assert entry.name == name
        assert entry.reference
        assert entry.function.__doc__
        assert entry.needs
        assert getattr(backdraw, entry.function.__name__) is entry.function
        assert any(e == name for e, _ in PAIRS), f"{name} is tested with no distribution"


@pairs
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_shape_dtype_device(lib: Library, name: str, dist: str, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    entry, logits = ESTIMATORS[name], DISTRIBUTIONS[dist].logits
    f, x = estimate(name, dist, lib), lib.asarray(logits, dtype)
    rounded = lib.to_numpy(x).astype(np.float64)  # NumPy's answer for the same numbers
    here = Library(Backend.NUMPY)
    expected = estimate(name, dist, here)(rounded)
    tolerance = {"rtol": None, "atol": 4 * eps(dtype)}
    value = f(x)
    lib.check(value, expected, dtype=dtype, **tolerance)
    if entry.forward == "hard" and dist not in CONTINUOUS:
        assert set(np.unique(lib.to_numpy(value))) <= {0.0, 1.0}
    lib.check(x, rounded, dtype=dtype, rtol=0)
    if entry.gradient == "none":
        return
    g = RNG.normal(size=logits.shape)
    g = lib.to_numpy(lib.asarray(g, dtype)).astype(np.float64)
    y, (grad,) = pulled(lib, f, lib.asarray(g, dtype), x)
    lib.check(y, expected, dtype=dtype, **tolerance)
    expected_grad = backdraw.vjp(estimate(name, dist, here), rounded)[1](g)[0]
    lib.check(grad, expected_grad, dtype=dtype, rtol=None, atol=8 * eps(dtype))


@differentiable_pairs
def test_agrees_with_numpy(lib: Library, name: str, dist: str) -> None:
    logits = DISTRIBUTIONS[dist].logits
    g = RNG.normal(size=logits.shape)
    value, pullback = backdraw.vjp(estimate(name, dist, Library(Backend.NUMPY)), logits)
    y, (grad,) = pulled(lib, estimate(name, dist, lib), lib.asarray(g), lib.asarray(logits))
    lib.check(y, value, rtol=1e-10)
    lib.check(grad, pullback(g)[0], rtol=1e-10, atol=1e-14)
    # and so does the value outside vjp
    lib.check(estimate(name, dist, lib)(lib.asarray(logits)), value, rtol=1e-10)


@pytest.mark.parametrize(("name", "dist"), WITHOUT)
def test_none_means_no_gradient(lib: Library, name: str, dist: str) -> None:
    x = lib.asarray(DISTRIBUTIONS[dist].logits)
    if not lib.backend.differentiates:
        with pytest.raises(backdraw.GradientError, match="cannot be reached"):
            backdraw.vjp(estimate(name, dist, lib), x)
    elif lib.backend is Backend.TORCH:
        assert not estimate(name, dist, lib)(x.requires_grad_()).requires_grad
    else:
        grad = backdraw.vjp(estimate(name, dist, lib), x)[1](x)[0]
        lib.check(grad, np.zeros(x.shape), rtol=0)


@pairs
def test_masked_entries_are_exactly_zero(lib: Library, name: str, dist: str) -> None:
    if dist != "Categorical, masked":
        pytest.skip("this one has no mask")
    f, x = estimate(name, dist, lib), lib.asarray(np.zeros((50, 4)))
    assert np.all(lib.to_numpy(f(x))[:, ~MASK] == 0.0)
    if ESTIMATORS[name].gradient != "none":
        grad = lib.to_numpy(backdraw.vjp(f, x)[1](lib.asarray(RNG.normal(size=(50, 4))))[0])
        assert np.all(grad[:, ~MASK] == 0.0)
        assert np.abs(grad).max() > 0.0


# ------------------------------------------------------------------------------------------------- transformations
@pytest.mark.needs("jax")
@differentiable_pairs
def test_under_jit_and_vmap(name: str, dist: str) -> None:
    import jax

    lib = Library(Backend.JAX)
    f, x = estimate(name, dist, lib), lib.asarray(DISTRIBUTIONS[dist].logits)
    g = lib.asarray(RNG.normal(size=x.shape))
    value, pullback = jax.vjp(f, x)

    def both(x: Any) -> Any:
        y, back = jax.vjp(f, x)
        return y, back(g)[0]

    jitted = jax.jit(both)
    for ours, expected in zip(jitted(x), (value, pullback(g)[0]), strict=True):
        lib.check(ours, np.asarray(expected), rtol=1e-10, atol=1e-14)
    if dist != "Categorical, masked":  # the mask does not have the batch axis
        y, grad = jax.vmap(jitted)(jax.numpy.stack([x, 2 * x]))
        for i, factor in enumerate((1, 2)):
            expected, expected_grad = jitted(factor * x)
            lib.check(y[i], np.asarray(expected), rtol=1e-10)
            lib.check(grad[i], np.asarray(expected_grad), rtol=1e-10, atol=1e-14)


@pytest.mark.needs("torch")
@differentiable_pairs
def test_under_vmap_and_compile(name: str, dist: str) -> None:
    import torch

    lib = Library(Backend.TORCH)
    f, x = estimate(name, dist, lib), lib.asarray(DISTRIBUTIONS[dist].logits)
    g = lib.asarray(RNG.normal(size=x.shape))
    value, pullback = torch.func.vjp(f, x)
    batch = torch.func.vmap(torch.func.grad_and_value(lambda x: (f(x) * g).sum()), randomness="same")
    grads, totals = batch(torch.stack([x, 2 * x]))
    torch.testing.assert_close(totals[0], (value * g).sum())
    torch.testing.assert_close(grads[0], pullback(g)[0])
    torch.testing.assert_close(grads[1], torch.func.vjp(f, 2 * x)[1](g)[0])


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("name", "dist"), [(e, d) for e, d in DRAWS if d in ("Categorical", "Bernoulli", "Subset", "Normal")])
def test_under_compile(name: str, dist: str) -> None:
    import torch

    torch._dynamo.reset()
    lib = Library(Backend.TORCH)
    f = estimate(name, dist, lib)
    x, y = (lib.asarray(DISTRIBUTIONS[dist].logits).requires_grad_() for _ in range(2))
    out = torch.compile(f, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(out, f(y))
    if ESTIMATORS[name].gradient != "none":
        for result in (out, f(y)):
            (result * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)


# ------------------------------------------------------------------------------------------------------ statements
N = 20_000


def _batch(dist: str) -> tuple[np.ndarray, np.ndarray]:
    """N rows of the same logits."""
    row = DISTRIBUTIONS[dist].logits.reshape(-1, DISTRIBUTIONS[dist].logits.shape[-1])[0]
    return np.broadcast_to(row, (N, row.size)), row


def _values(dist: str, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = DISTRIBUTIONS[dist].values
    assert values is not None
    return values(row)


def _follows(dist: str, entry: Entry) -> bool:
    """Whether a value of the estimator follows the distribution."""
    p = DISTRIBUTIONS[dist].make(np.zeros(4), Library(Backend.NUMPY))
    return entry.law and ("perturb" not in entry.needs or dist == "array" or p.argmax_law)


@pytest.mark.parametrize(("name", "dist"), [(e, d) for e, d in DRAWS if _follows(d, ESTIMATORS[e]) and d not in CONTINUOUS])
def test_law(framework: Library, name: str, dist: str) -> None:
    batch, row = _batch(dist)
    x = framework.to_numpy(estimate(name, dist, framework)(framework.asarray(batch)))
    values, probs = _values(dist, row)
    counts = np.asarray([(x == v).all(-1).sum() for v in values])
    assert counts.sum() == N
    assert np.all(counts[probs == 0] == 0)
    assert scipy.stats.chisquare(counts[probs > 0], N * probs[probs > 0]).pvalue > 1e-6


def _f(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A function of a row that is far from quadratic, and its gradient."""
    w = np.arange(1.0, x.shape[-1] + 1) / 2
    s = (w * x).sum(-1, keepdims=True)
    return s[..., 0] ** 6, 6 * s**5 * w


def _true_gradient(dist: str, row: np.ndarray) -> np.ndarray:
    """The gradient of E[f] by central differences of the enumeration."""

    def mean(l: np.ndarray) -> float:
        values, probs = _values(dist, l)
        return float((probs * _f(values)[0]).sum())

    steps = 1e-5 * np.eye(row.size)
    return np.asarray([(mean(row + h) - mean(row - h)) / 2e-5 for h in steps])


@pytest.mark.parametrize(("name", "dist"), [(e, d) for e, d in WITH_GRADIENT if d not in CONTINUOUS])
def test_biased_or_unbiased(name: str, dist: str) -> None:
    batch, row = _batch(dist)
    x, pullback = backdraw.vjp(estimate(name, dist, Library(Backend.NUMPY)), batch)
    grads = pullback(_f(np.asarray(x))[1])[0]
    error = grads.mean(0) - _true_gradient(dist, row)
    z = error / np.maximum(grads.std(0) / N**0.5, 1e-12)
    if ESTIMATORS[name].gradient == "biased":
        assert np.abs(z).max() > 6.0
    else:
        assert np.abs(z).max() < 4.5
