"""fenchel_young: against closed forms, its gradient against finite differences of the sampled loss, and learning by it."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.special
from helpers import Backend, Library, eps, finite_difference, pulled, sigmoid, softmax

import backdraw
from backdraw import Bernoulli, Categorical, Oracle, Subset, fenchel_young
from backdraw.random import noise

KEY = backdraw.key(6)
RNG = np.random.default_rng(8)
LOGITS = RNG.normal(size=(4, 5))
SOFT, BITS = softmax(RNG.normal(size=(4, 5))), (RNG.random((4, 5)) < 0.5) * 1.0
HARD = np.eye(5)[RNG.integers(0, 5, size=4)]
G = RNG.normal(size=4)
HERE = Library(Backend.NUMPY)


def one_hot(u: np.ndarray) -> np.ndarray:
    return np.eye(u.shape[-1])[u.argmax(-1)]


def top2(u: np.ndarray) -> np.ndarray:
    return (u >= np.sort(u, -1)[..., -2:-1]).astype(u.dtype)


EXACT = {
    "one-hot": (Categorical, HARD, lambda l, y: scipy.special.logsumexp(l, -1) - (l * y).sum(-1), softmax),
    "probabilities": (Categorical, SOFT, lambda l, y: scipy.special.logsumexp(l, -1) - (l * y).sum(-1), softmax),
    "bits": (Bernoulli, BITS, lambda l, y: np.logaddexp(0, l) - l * y, sigmoid),
    "means of bits": (Bernoulli, SOFT, lambda l, y: np.logaddexp(0, l) - l * y, sigmoid),
}


def test_mean_of_subsets_as_a_target(lib: Library) -> None:
    y = np.asarray(
        [[0.5, 0.5, 0.5, 0.25, 0.25], [1.0, 0.0, 1.0, 0.0, 0.0], [0.2, 0.4, 0.4, 0.5, 0.5], [0.0, 0.9, 0.1, 1.0, 0.0]]
    )
    values = np.asarray([v for v in itertools.product((0.0, 1.0), repeat=5) if sum(v) == 2])

    def plain(l: np.ndarray) -> np.ndarray:
        return np.asarray(scipy.special.logsumexp(l @ values.T, -1) - (l * y).sum(-1))

    loss, (back,) = pulled(lib, lambda l: fenchel_young(Subset(l, 2), lib.asarray(y)), lib.asarray(G), lib.asarray(LOGITS))
    lib.check(loss, plain(LOGITS), rtol=1e-12, atol=1e-14)
    lib.check(back, finite_difference(plain, LOGITS, G), rtol=1e-7, atol=1e-9)
    _, (_, to_y) = pulled(
        lib, lambda l, y: fenchel_young(Subset(l, 2), y), lib.asarray(G), lib.asarray(LOGITS), lib.asarray(y)
    )
    lib.check(to_y, -G[:, None] * LOGITS, rtol=1e-12)
    barred = np.where(np.arange(5) == 4, -np.inf, LOGITS)
    loss, (back,) = pulled(lib, lambda l: fenchel_young(Subset(l, 2), lib.asarray(y)), lib.asarray(G), lib.asarray(barred))
    assert np.array_equal(lib.to_numpy(loss) == np.inf, y[:, 4] > 0)


@pytest.mark.parametrize("case", EXACT.values(), ids=EXACT)
def test_exact(lib: Library, case: Any) -> None:
    make, y, plain, mean = case
    value = plain(LOGITS, y)
    g = np.broadcast_to(G if value.ndim == 1 else G[:, None], value.shape)
    loss, grads = pulled(lib, lambda l, y: fenchel_young(make(l), y), lib.asarray(g), lib.asarray(LOGITS), lib.asarray(y))
    lib.check(loss, value, rtol=1e-12)
    g = g if g.ndim == 2 else g[:, None]
    lib.check(grads[0], g * (mean(LOGITS) - y), rtol=1e-11, atol=1e-14)
    l = lib.asarray(LOGITS)
    close = {"rtol": 1e-12, "atol": 1e-15}
    total, (back,) = pulled(lib, lambda l: make(l).log_partition(), lib.asarray(np.ones(value.shape)), l)
    lib.check(total, plain(LOGITS, 0 * y), **close)
    lib.check(back, mean(LOGITS), **close)


def test_of_any_axis_and_dtype(lib: Library) -> None:
    l = np.moveaxis(LOGITS[None], -1, 1)
    y = np.moveaxis(HARD[None], -1, 1)
    expected = EXACT["one-hot"][2](LOGITS, HARD)[None]
    lib.check(Categorical(lib.asarray(l), 1).log_partition(), scipy.special.logsumexp(l, 1), rtol=1e-12)
    for target in (lib.asarray(y.astype(np.int64)), lib.asarray(y == 1)):
        lib.check(fenchel_young(Categorical(lib.asarray(l), 1), target), expected, rtol=1e-12)
    for dtype in [d for d in ("bfloat16", "float32") if d in lib.dtypes]:
        g, target = lib.asarray(np.ones((1, 4)), dtype), lib.asarray(y, dtype)
        loss, (grad,) = pulled(
            lib, lambda l, y=target: fenchel_young(Categorical(l, 1), y, samples=2, rng=KEY), g, lib.asarray(l, dtype)
        )
        u = lib.to_numpy(lib.asarray(l, dtype)).astype(float)
        u = np.moveaxis(u + noise(HERE.be, "gumbel", KEY, (2, 1, 5, 4), l), 2, -1)
        value = u.max(-1).mean(0) - (np.moveaxis(l, 1, -1) * HARD).sum(-1)
        lib.check(loss, value, dtype=dtype, rtol=0, atol=16 * eps(dtype))
        lib.check(grad, np.moveaxis(one_hot(u).mean(0) - HARD, -1, 1), dtype=dtype, rtol=0)


PERTURBED = {
    "Categorical": (Categorical, one_hot, HARD, "gumbel"),
    "Categorical, soft": (Categorical, one_hot, SOFT, "normal"),
    "Bernoulli": (Bernoulli, lambda u: (u > 0) * 1.0, BITS, "logistic"),
    "Oracle": (lambda l: Oracle(l, top2), top2, SOFT, "gumbel"),
}


@pytest.mark.parametrize("case", PERTURBED.values(), ids=PERTURBED)
def test_perturbed(lib: Library, case: Any) -> None:
    make, solve, y, kind = case
    z, sigma = noise(HERE.be, kind, KEY, (7, *LOGITS.shape), LOGITS), 0.6
    bits = make is Bernoulli
    g = np.broadcast_to(G[:, None], (4, 5)) if bits else G

    def plain(l: np.ndarray) -> np.ndarray:
        u = l + sigma * z
        terms = (u * solve(u)).mean(0) - l * y
        return terms if bits else terms.sum(-1)

    def f(l: Any, y: Any) -> Any:
        return fenchel_young(make(l), y, samples=7, sigma=sigma, noise=kind, rng=KEY)

    loss, (to_l, to_y) = pulled(lib, f, lib.asarray(g), lib.asarray(LOGITS), lib.asarray(y))
    lib.check(loss, plain(LOGITS), rtol=1e-10, atol=1e-13)
    lib.check(to_l, finite_difference(plain, LOGITS, g), rtol=1e-6, atol=1e-8)
    weight = g if bits else g[:, None]
    lib.check(to_l, weight * (solve(LOGITS + sigma * z).mean(0) - y), rtol=1e-12, atol=1e-15)
    lib.check(to_y, -weight * LOGITS, rtol=1e-12)


def test_gumbel_noise_gives_the_log_partition() -> None:
    # E max(l + z) = logsumexp(l) + Euler's constant, and with noise of scale sigma sigma times that of l / sigma.
    row, n, sigma = np.asarray([0.3, -0.5, 1.0]), 40_000, 0.5
    loss, pullback = backdraw.vjp(
        lambda l: fenchel_young(l, np.broadcast_to(np.eye(3)[0], (n, 3)), samples=2, sigma=sigma, rng=KEY),
        np.broadcast_to(row, (n, 3)),
    )
    grads = pullback(np.ones(n))[0]
    value = sigma * (scipy.special.logsumexp(row / sigma) + np.euler_gamma) - row[0]
    for estimate, true in ((loss, value), (grads, softmax(row / sigma) - np.eye(3)[0])):
        assert np.all(np.abs((estimate.mean(0) - true) / (estimate.std(0) / n**0.5)) < 4.5)


@pytest.mark.parametrize("samples", [None, 3])
def test_excluded_categories_and_huge_logits(lib: Library, samples: int | None) -> None:
    inf, rows = np.inf, np.asarray([[0.3, -np.inf, 1.0], [-np.inf, -np.inf, 2.0], [1e4, -1e4, 0.0], [1e30, -1e30, 0.0]])
    y = np.eye(3)[[2, 2, 0, 0]]
    l = lib.asarray(rows)
    loss, (grad,) = pulled(
        lib,
        lambda l: fenchel_young(l, lib.asarray(y), samples=samples, rng=KEY),
        lib.asarray(np.ones(4)),
        l,
    )
    assert np.all(np.isfinite(lib.to_numpy(loss)))
    grad = lib.to_numpy(grad)
    assert np.all(grad[1:] == 0.0)
    assert grad[0, 1] == 0.0
    assert np.isfinite(grad).all()
    impossible = fenchel_young(l, lib.asarray(np.eye(3)[[1, 0, 0, 0]]), samples=samples, rng=KEY)
    assert np.all(lib.to_numpy(impossible)[:2] == inf)
    bits = lib.asarray(np.asarray([inf, -inf, 0.5]))
    loss = fenchel_young(Bernoulli(bits), lib.asarray(np.asarray([1.0, 0.0, 1.0])), samples=samples, rng=KEY)
    assert np.all(np.isfinite(lib.to_numpy(loss)))
    expected = noise(HERE.be, "logistic", KEY, (3, 3), LOGITS).mean(0)[0] if samples else 0.0
    np.testing.assert_allclose(lib.to_numpy(loss)[0], expected, rtol=1e-12)


# ------------------------------------------------------------------------------------------------ learning a solver's costs
def shortest_paths(u: np.ndarray) -> np.ndarray:
    """Paths from corner to corner, right or down, of greatest total utility, by dynamic programming."""
    n, h, w = u.shape
    best = np.full((n, h + 1, w + 1), -np.inf)
    for i in reversed(range(h)):
        for j in reversed(range(w)):
            ahead = np.maximum(best[:, i + 1, j], best[:, i, j + 1])
            best[:, i, j] = u[:, i, j] + (0.0 if (i, j) == (h - 1, w - 1) else ahead)
    x, at, row = np.zeros_like(u), np.zeros((n, 2), int), np.arange(n)
    for _ in range(h + w - 1):
        x[row, at[:, 0], at[:, 1]] = 1.0
        down = best[row, at[:, 0] + 1, at[:, 1]] >= best[row, at[:, 0], np.minimum(at[:, 1] + 1, w)]
        at[row, np.where(down, 0, 1)] += 1
        at = np.minimum(at, [h - 1, w - 1])
    return x


@backdraw.primitive(native=True)
def costs(be: Any, weights: Any, features: Any) -> Any:
    """Utilities of cells with features."""
    return -be.xp.sum(features * weights, axis=-1)


costs.defvjp(
    lambda be, w, x: (costs.function(be, w, x), (x,)),
    lambda be, res, g: (-be.xp.sum(g[..., None] * res[0], axis=(0, 1, 2)), None),
)


def test_learning_the_costs_of_shortest_paths() -> None:
    rng = np.random.default_rng(0)
    features = rng.exponential(size=(32, 5, 6, 4))
    truth = np.asarray([1.0, 0.2, 2.0, 0.6])
    paths = shortest_paths(-features @ truth)
    assert np.all(paths.sum((1, 2)) == 10)
    w = np.full(4, 0.5)

    def loss(w: Any, seed: int) -> Any:
        p = Oracle(costs(w, features), shortest_paths, event_ndim=2, noise="normal")
        return fenchel_young(p, paths, samples=4, sigma=0.3, rng=backdraw.key(seed))

    missed = lambda w: np.abs(shortest_paths(-features @ w) - paths).mean()  # noqa: E731
    before = missed(w)
    for step in range(40):
        w = w - 0.01 * backdraw.vjp(lambda w, step=step: loss(w, step), w)[1](np.ones(32))[0]
    assert before > 0.1
    assert missed(w) < 0.02
    np.testing.assert_allclose(w / w.sum(), truth / truth.sum(), atol=0.05)


# ------------------------------------------------------------------------------------------------------------- errors
class Ranks(Categorical):
    """Draws of another shape than the utilities."""

    def argmax(self, utilities: Any) -> Any:
        x = super().argmax(utilities)
        return self.backend.xp.concat([x, x], axis=-2)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"target: expected dist's shape \(4, 5\), got \(5,\)"):
        fenchel_young(LOGITS, SOFT[0])
    with pytest.raises(TypeError, match="target: expected a numpy array, got list"):
        fenchel_young(LOGITS, [[0.0] * 5] * 4)
    with pytest.raises(TypeError, match="target: expected real values, got complex128"):
        fenchel_young(LOGITS, SOFT * 1j)
    with pytest.raises(
        TypeError, match=r"fenchel_young needs log_partition\(\) of Oracle, but its log-partition is not known"
    ):
        fenchel_young(Oracle(LOGITS, top2), SOFT)
    with pytest.raises(ValueError, match="samples: fenchel_young needs at least 1, got 0"):
        fenchel_young(LOGITS, SOFT, samples=0)
    with pytest.raises(ValueError, match="sigma: expected a positive finite number"):
        fenchel_young(LOGITS, SOFT, samples=1, sigma=0.0)
    with pytest.raises(ValueError, match="noise: expected one of gumbel, logistic, normal or None, got 'uniform'"):
        fenchel_young(LOGITS, SOFT, samples=1, noise="uniform")
    with pytest.raises(
        TypeError, match=r"dist: with samples, fenchel_young needs draws that maximise .* those of Ranks do not"
    ):
        fenchel_young(Ranks(LOGITS), SOFT, samples=1)
    with pytest.raises(TypeError, match=r"needs draws that maximise .* those of PlackettLuce do not"):
        fenchel_young(backdraw.PlackettLuce(LOGITS, 2), np.zeros((4, 2, 5)), samples=1)
    with pytest.raises(TypeError, match=r"dist: fenchel_young needs perturb\(\) of Normal"):
        fenchel_young(backdraw.Normal(LOGITS, 1.0), SOFT, samples=1)
