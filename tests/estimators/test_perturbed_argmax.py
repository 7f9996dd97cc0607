"""perturbed_argmax: the rule against its formula, the mean and its Jacobian against closed forms."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers import Backend, Library, finite_difference, pulled, sigmoid, softmax, softmax_vjp

import backdraw
from backdraw import Bernoulli, Categorical, Oracle, perturbed_argmax
from backdraw.random import noise

KEY = backdraw.key(6)
RNG = np.random.default_rng(8)
LOGITS, G = RNG.normal(size=(4, 5)), RNG.normal(size=(4, 5))
HERE = Library(Backend.NUMPY)
N = 20_000

SCORES = {"gumbel": lambda z: 1 - np.exp(-z), "logistic": lambda z: np.tanh(z / 2), "normal": lambda z: z}


def one_hot(u: np.ndarray) -> np.ndarray:
    return np.eye(u.shape[-1])[u.argmax(-1)]


def top2(u: np.ndarray) -> np.ndarray:
    return (u >= np.sort(u, -1)[..., -2:-1]).astype(u.dtype)


def rule(u: np.ndarray, c: np.ndarray, z: np.ndarray, solve: Any, kind: str, sigma: float, event: int) -> Any:
    """Mean, gradient and gradient in sigma, sample by sample, the baseline of each from the others."""
    x = solve(u + sigma * z)
    worth = (x * c).reshape(*x.shape[: x.ndim - event], -1).sum(-1) if event else x * c
    n, grad, to_sigma = len(z), np.zeros_like(u), 0.0
    for s in range(n):
        b = np.mean(np.delete(worth, s, 0), 0) if n > 1 else 0.0
        a = (worth[s] - b).reshape(*worth.shape[1:], *(1,) * event)
        grad += a * SCORES[kind](z[s]) / (n * sigma)
        to_sigma += (a * (SCORES[kind](z[s]) * z[s] - 1) / (n * sigma)).sum()
    return x.mean(0), grad, to_sigma


CASES = {
    "Categorical": (Categorical, one_hot, 1),
    "Bernoulli": (Bernoulli, lambda u: (u > 0) * 1.0, 0),
    "Oracle": (lambda l: Oracle(l, top2), top2, 1),
    "Oracle of grids": (lambda l: Oracle(l, lambda u: (u > 0.3) * 1.0, event_ndim=2), lambda u: (u > 0.3) * 1.0, 2),
}


@pytest.mark.parametrize(
    ("case", "kind", "samples"),
    [
        ("Categorical", "gumbel", 3),
        ("Categorical", "logistic", 1),
        ("Bernoulli", "normal", 2),
        ("Oracle", "gumbel", 3),
        ("Oracle of grids", "normal", 2),
    ],
)
def test_rule(lib: Library, case: str, kind: str, samples: int) -> None:
    make, solve, event = CASES[case]
    z = noise(HERE.be, kind, KEY, (samples, *LOGITS.shape), LOGITS)
    mean, grad, to_sigma = rule(LOGITS, G, z, solve, kind, 0.7, event)

    def f(l: Any, sigma: Any) -> Any:
        return perturbed_argmax(make(l), samples=samples, sigma=sigma, noise=kind, rng=KEY)

    close = {"rtol": 1e-9, "atol": 1e-13}
    y, grads = pulled(lib, f, lib.asarray(G), lib.asarray(LOGITS), lib.asarray(np.asarray(0.7)))
    lib.check(y, mean, **close)
    lib.check(grads[0], grad, **close)
    lib.check(grads[1], to_sigma, **close)


def test_any_axis(framework: Library) -> None:
    axis, l, g = 1, RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 3, 4))
    z = noise(HERE.be, "gumbel", KEY, (10, 2, 3, 4), l)
    last = [np.moveaxis(a, axis - 3, -1) for a in (l, g, z)]
    mean, grad, _ = rule(*last, one_hot, "gumbel", 1.0, 1)
    y, (back,) = pulled(
        framework, lambda l: perturbed_argmax(Categorical(l, axis), rng=KEY), framework.asarray(g), framework.asarray(l)
    )
    framework.check(y, np.moveaxis(mean, -1, axis - 3), rtol=1e-12)
    framework.check(back, np.moveaxis(grad, -1, axis - 3), rtol=1e-9, atol=1e-13)


# ------------------------------------------------------------------------------------------------- what it estimates
ROW, C = np.asarray([0.3, -0.5, 1.0]), np.asarray([1.0, -2.0, 0.5])


def pairs(u: np.ndarray) -> np.ndarray:
    """Which two of the Gumbels at u are the largest: the law of Plackett and Luce."""
    p, out = softmax(u), np.zeros(u.size)
    for i, j in itertools.permutations(range(u.size), 2):
        out[[i, j]] += p[i] * p[j] / (1 - p[i])
    return out


MEANS: dict[str, tuple[Any, str | None, Any]] = {
    "softmax": (Categorical, None, softmax),
    "sigmoid": (Bernoulli, None, sigmoid),
    "probit": (Bernoulli, "normal", scipy.stats.norm.cdf),
    "Plackett-Luce": (lambda l: Oracle(l, top2), None, pairs),
}


@pytest.mark.parametrize("case", MEANS.values(), ids=MEANS)
@pytest.mark.parametrize(("sigma", "samples"), [(0.5, 2), (1.0, 10)])
def test_mean_and_gradient(case: Any, sigma: float, samples: int) -> None:
    make, kind, mean = case
    y, pullback = backdraw.vjp(
        lambda l: perturbed_argmax(make(l), samples=samples, sigma=sigma, noise=kind, rng=KEY), np.broadcast_to(ROW, (N, 3))
    )
    grads = pullback(np.broadcast_to(C, (N, 3)))[0]
    expected = finite_difference(lambda u: mean(u / sigma), ROW, C)
    if mean is softmax:
        np.testing.assert_allclose(expected, softmax_vjp(softmax(ROW / sigma), C) / sigma, atol=1e-9)
    for estimate, true in ((y, mean(ROW / sigma)), (grads, expected)):
        assert np.abs((estimate.mean(0) - true) / (estimate.std(0) / N**0.5)).max() < 4.5


@pytest.mark.parametrize("case", MEANS.values(), ids=MEANS)
def test_gradient_in_sigma(case: Any) -> None:
    make, kind, mean = case
    sigmas = np.asarray(0.8)
    grads = []
    for seed in range(30):
        y, pullback = backdraw.vjp(
            lambda l, s, seed=seed: perturbed_argmax(make(l), samples=4, sigma=s, noise=kind, rng=backdraw.key(seed)),
            np.broadcast_to(ROW, (1000, 3)),
            sigmas,
        )
        grads.append(pullback(np.broadcast_to(C, y.shape))[1] / 1000)
    expected = finite_difference(lambda s: mean(ROW / s), sigmas, C)
    assert abs(np.mean(grads) - expected) < 4.5 * np.std(grads) / 30**0.5


def test_what_the_baseline_does() -> None:
    # On categories a constant in the cotangent changes nothing; and more samples mean less variance.
    def grads(c: np.ndarray, samples: int) -> Any:
        f = backdraw.vjp(lambda l: perturbed_argmax(l, samples=samples, rng=KEY), np.broadcast_to(ROW, (N, 3)))[1]
        return f(np.broadcast_to(c, (N, 3)))[0]

    np.testing.assert_allclose(grads(C + 100.0, 2), grads(C, 2), atol=1e-11)
    variance = {n: grads(C, n).var(0) for n in (1, 2, 10)}
    assert np.abs(grads(C + 100.0, 1)).max() > 100.0
    assert np.all(4.0 * variance[10] < variance[2])
    assert np.all(np.abs(grads(C, 2).mean(0) - grads(C, 1).mean(0)) < 4.5 * np.sqrt((variance[1] + variance[2]) / N))


# ------------------------------------------------------------------------------------------------------------- edges
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_excluded_categories_and_huge_logits(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    inf, b = np.inf, {"float16": 6e4, "float32": 3e38}[dtype]
    rows = np.asarray([[0.3, -inf, 1.0], [-inf, -inf, 2.0], [-inf, -inf, -inf], [1e4, -1e4, 0.0], [b, -b, b], [b, -b, 0.0]])
    g, l = lib.asarray(RNG.normal(size=rows.shape), dtype), lib.asarray(rows, dtype)
    s = lib.asarray(np.asarray(0.05), dtype)
    y, (grad, to_s) = pulled(lib, lambda l, s: perturbed_argmax(l, sigma=s, rng=KEY), g, l, s)
    y, grad = lib.to_numpy(y), lib.to_numpy(grad)
    np.testing.assert_allclose(y.sum(-1), [1, 1, 0, 1, 1, 1], rtol=2e-3)
    assert np.all(y[rows == -inf] == 0.0)
    assert np.all(np.isfinite(grad))
    assert np.isfinite(lib.to_numpy(to_s))
    assert np.all(grad[rows == -inf] == 0.0)
    assert np.all(grad[[1, 3, 5]] == 0.0)
    y, (grad,) = pulled(
        lib, lambda l: perturbed_argmax(Bernoulli(l), rng=KEY), g[0, ...], lib.asarray([-inf, inf, b / 2], dtype)
    )
    np.testing.assert_array_equal(lib.to_numpy(y), [0.0, 1.0, 1.0])
    np.testing.assert_array_equal(lib.to_numpy(grad), [0.0, 0.0, 0.0])


def test_a_gradient_of_sigma_leaves_out_what_is_excluded(lib: Library) -> None:
    l, mask = np.asarray([0.3, 0.1, 1.0]), np.asarray([True, False, True])

    def f(dist: Any) -> Any:
        return lambda l, s: perturbed_argmax(dist(l), sigma=s, rng=KEY)

    g, s = lib.asarray(C), lib.asarray(np.asarray(0.5))
    _, (to_l, to_s) = pulled(lib, f(lambda l: Categorical(l, where=lib.asarray(mask))), g, lib.asarray(l), s)
    _, (expected_l, expected_s) = pulled(lib, f(Categorical), g, lib.asarray(np.where(mask, l, -np.inf)), s)
    lib.check(to_l, lib.to_numpy(expected_l), rtol=1e-12)
    lib.check(to_s, lib.to_numpy(expected_s), rtol=1e-12)
    assert lib.to_numpy(to_l)[1] == 0.0


@pytest.mark.parametrize("bad", [0, -1])
def test_samples_out_of_range(bad: int) -> None:
    with pytest.raises(ValueError, match=f"samples: perturbed_argmax needs at least 1, got {bad}"):
        perturbed_argmax(LOGITS, samples=bad)


def test_bad_options() -> None:
    with pytest.raises(TypeError, match="samples: expected an int, got float"):
        perturbed_argmax(LOGITS, samples=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sigma: expected a positive finite number, got -1\.0"):
        perturbed_argmax(LOGITS, sigma=-1.0)
    with pytest.raises(ValueError, match="noise: expected one of gumbel, logistic, normal or None, got 'uniform'"):
        perturbed_argmax(LOGITS, noise="uniform")
