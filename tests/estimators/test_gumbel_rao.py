"""gumbel_rao: utilities given the draw against their law, the rule against the paper's formula, mean and variance."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers import Backend, Library, finite_difference, sigmoid, softmax, softmax_vjp

import backdraw
from backdraw import Bernoulli, Categorical, GradientError, gumbel_rao, gumbel_softmax
from backdraw.random import bits, noise

KEY = backdraw.key(6)
RNG = np.random.default_rng(8)
LOGITS, G = RNG.normal(size=(20, 5)), RNG.normal(size=(20, 5))
HERE = Library(Backend.NUMPY)


def given_category(l: np.ndarray, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The paper's formula, of exponentials exp(-g), entry by entry."""
    e, z, out = np.exp(-g), np.exp(l).sum(-1), np.empty_like(l)
    for i, k in enumerate(x.argmax(-1)):
        for j in range(l.shape[-1]):
            both = e[i, k] / z[i] + (0.0 if j == k else e[i, j] / np.exp(l[i, j]))
            out[i, j] = -np.log(both)
    return out


def given_bit(l: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Inverse CDF of the logistic law on one side of 0."""
    p, v = sigmoid(l), sigmoid(z)
    v = np.where(x > 0, v * p + (1 - p), v * (1 - p))
    return np.asarray(l + np.log(v) - np.log1p(-v))


CASES = {
    "Categorical": (Categorical, "gumbel", given_category, softmax, softmax_vjp),
    "Bernoulli": (Bernoulli, "logistic", given_bit, sigmoid, lambda p, g: p * (1 - p) * g),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
def test_utilities_given_the_draw(lib: Library, case: Any) -> None:
    dist, kind, plain, _, _ = case
    l, g = lib.asarray(LOGITS), noise(HERE.be, kind, backdraw.key(3), (20, 5), LOGITS)
    x = lib.to_numpy(backdraw.draw(dist(l), rng=KEY))
    u, pullback = backdraw.vjp(lambda l: dist(l).conditional_perturb(lib.asarray(x), lib.asarray(g)), l)
    lib.check(u, plain(LOGITS, x, g), rtol=1e-9, atol=1e-12)
    lib.check(dist(l).argmax(u), x, rtol=0)
    expected = finite_difference(lambda l: plain(l, x, g), LOGITS, G)
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-6, atol=1e-8)


@cases
def test_their_law(case: Any) -> None:
    # Over draws, they are the logits plus noise again.
    dist, kind, n = case[0], case[1], 20_000
    row = np.asarray([0.3, -1.5, 1.0])
    l = np.broadcast_to(row, (n, 3))
    x = backdraw.draw(dist(l), rng=KEY)
    u = dist(l).conditional_perturb(x, noise(HERE.be, kind, backdraw.key(3), (n, 3), l))
    law = scipy.stats.gumbel_r if kind == "gumbel" else scipy.stats.logistic
    for j in range(3):
        assert scipy.stats.kstest(u[:, j] - row[j], law.cdf).pvalue > 1e-5
    assert np.abs(np.corrcoef(u.T) - np.eye(3)).max() < 4.5 / np.sqrt(n)


@cases
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_rule(lib: Library, case: Any, temperature: float) -> None:
    dist, kind, plain, mean, vjp = case
    x, pullback = backdraw.vjp(lambda l: gumbel_rao(dist(l), temperature=temperature, samples=3, rng=KEY), lib.asarray(LOGITS))
    for_draw, for_utilities = backdraw.split(KEY)
    lib.check(x, lib.to_numpy(backdraw.draw(dist(lib.asarray(LOGITS)), rng=for_draw)), rtol=0)
    expected = np.zeros_like(LOGITS)
    for words in bits(for_utilities, (3, 2)):
        z = noise(HERE.be, kind, backdraw.Key(*map(int, words)), (20, 5), LOGITS)
        y = mean(plain(LOGITS, lib.to_numpy(x), z) / temperature)
        expected += vjp(y, G) / temperature / 3
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_any_axis(framework: Library, axis: int) -> None:
    l, g = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 3, 4))
    x, pullback = backdraw.vjp(lambda l: gumbel_rao(Categorical(l, axis), rng=KEY), framework.asarray(l))
    (grad,) = pullback(framework.asarray(g))
    assert np.all(framework.to_numpy(x).sum(axis) == 1.0)
    np.testing.assert_allclose(framework.to_numpy(grad).sum(axis), 0.0, atol=1e-14)
    shape, k = l.shape, np.moveaxis(l, axis, -1).shape[-1]
    draw = framework.to_numpy(x)
    expected = np.zeros(shape)
    for words in bits(backdraw.split(KEY)[1], (10, 2)):
        z = noise(HERE.be, "gumbel", backdraw.Key(*map(int, words)), shape, l)
        rows = [np.moveaxis(a, axis, -1).reshape(-1, k) for a in (l, draw, z, g)]
        back = softmax_vjp(softmax(given_category(*rows[:3])), rows[3]) / 10
        expected += np.moveaxis(back.reshape(np.moveaxis(l, axis, -1).shape), -1, axis)
    framework.check(grad, expected, rtol=1e-8, atol=1e-12)


def _gradients(f: Any, seed: int, n: int = 20_000) -> np.ndarray:
    """Gradients of a cubic over many rows of the same logits."""
    l, w = np.asarray([0.3, -0.5, 1.0, 0.1]), np.asarray([1.0, -2.0, 0.5, 3.0])
    x, pullback = backdraw.vjp(lambda rows: f(rows, rng=backdraw.key(seed)), np.broadcast_to(l, (n, 4)))
    return np.asarray(pullback(3.0 * (np.asarray(x) @ w)[:, None] ** 2 * w)[0])


def test_mean_and_variance() -> None:
    t = 0.5
    straight = _gradients(lambda l, rng: gumbel_softmax(l, temperature=t, hard=True, rng=rng), 1)
    ours = {n: _gradients(lambda l, rng, n=n: gumbel_rao(l, temperature=t, samples=n, rng=rng), 2 + n) for n in (1, 10, 100)}
    for grads in ours.values():
        error = np.sqrt((straight.var(0) + grads.var(0)) / len(grads))
        assert np.abs((grads.mean(0) - straight.mean(0)) / error).max() < 4.5
    total = {n: grads.var(0).sum() for n, grads in ours.items()}
    np.testing.assert_allclose(total[1], straight.var(0).sum(), rtol=0.05)
    assert total[1] > 1.5 * total[10]
    assert total[10] > 1.05 * total[100]


def test_traced_temperature_has_no_gradient(lib: Library) -> None:
    def of(l: Any, t: Any) -> Any:
        return gumbel_rao(l, temperature=t, samples=2, rng=KEY)

    l, t = lib.asarray(LOGITS), lib.asarray(np.asarray(0.7))
    expected = lib.to_numpy(backdraw.vjp(lambda l: of(l, 0.7), l)[1](lib.asarray(G))[0])
    lib.check(backdraw.vjp(lambda l: of(l, t), l)[1](lib.asarray(G))[0], expected, rtol=1e-10, atol=1e-14)
    if lib.backend.differentiates:
        to_t = backdraw.vjp(of, l, t)[1](lib.asarray(G))[1]
        assert to_t is None or lib.to_numpy(to_t) == 0.0
    else:
        with pytest.raises(GradientError):
            backdraw.vjp(of, l, t)[1](lib.asarray(G))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_excluded_categories_and_huge_logits(lib: Library, dtype: str, temperature: float) -> None:
    inf, b = np.inf, {"float32": 3e38, "float64": 1.7e308}[dtype]
    rows = np.asarray([[0.3, -inf, 1.0], [-inf, -inf, 2.0], [-inf, -inf, -inf], [1e4, -1e4, 0.0], [b, -b, b], [b, -b, 0.0]])
    g = RNG.normal(size=rows.shape)
    t = lib.asarray(np.asarray(temperature), dtype)
    for given in (temperature, t):
        x, pullback = backdraw.vjp(
            lambda l, given=given: gumbel_rao(l, temperature=given, samples=2, rng=KEY), lib.asarray(rows, dtype)
        )
        np.testing.assert_array_equal(lib.to_numpy(x).sum(-1), [1, 1, 0, 1, 1, 1])
        grad = lib.to_numpy(pullback(lib.asarray(g, dtype))[0])
        assert np.all(np.isfinite(grad))
        assert grad[0, 1] == 0.0
        assert np.all(grad[[1, 2, 3, 5]] == 0.0)
    for dist, l in ((Categorical, rows), (Bernoulli, np.asarray([[-inf, inf, b], [-b, 1e4, 0.0]]))):
        z = noise(lib.be, "logistic", KEY, l.shape, lib.asarray(l, dtype))
        d = backdraw.draw(dist(lib.asarray(l, dtype)), rng=KEY)
        u, pullback = backdraw.vjp(lambda l, dist=dist, d=d, z=z: dist(l).conditional_perturb(d, z), lib.asarray(l, dtype))
        assert not np.any(np.isnan(lib.to_numpy(u)))
        assert np.all(np.isfinite(lib.to_numpy(pullback(lib.xp.ones_like(u))[0])))


@pytest.mark.parametrize("bad", [0, -1])
def test_samples_out_of_range(bad: int) -> None:
    with pytest.raises(ValueError, match=f"samples: gumbel_rao needs at least 1, got {bad}"):
        gumbel_rao(LOGITS, samples=bad)


@pytest.mark.parametrize("bad", [1.0, "1", None, True])
def test_samples_of_another_type(bad: Any) -> None:
    with pytest.raises(TypeError, match=f"samples: expected an int, got {type(bad).__name__}"):
        gumbel_rao(LOGITS, samples=bad)
