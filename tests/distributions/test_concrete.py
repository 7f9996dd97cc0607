"""Concrete and ExpConcrete: densities against plain formulas and torch, gradients against finite differences, their law."""

from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from helpers import Library, eps, finite_difference, pulled, sigmoid, softmax

import backdraw
from backdraw import Concrete, ExpConcrete

RNG = np.random.default_rng(4)
LOGITS = RNG.normal(size=(2, 3, 4))
Z = scipy.special.log_softmax(2 * RNG.normal(size=(2, 3, 4)), -1)
G = RNG.normal(size=(2, 3))
KEY = backdraw.key(3)
both = pytest.mark.parametrize("family", [Concrete, ExpConcrete], ids=lambda f: f.__name__)


def point(family: Any, z: np.ndarray) -> np.ndarray:
    return np.exp(z) if family is Concrete else z


def log_prob(family: Any, l: np.ndarray, x: np.ndarray, t: Any) -> np.ndarray:
    """Equation 10 of arXiv 1611.00712, and its log-space form."""
    z = np.log(x) if family is Concrete else x
    n = l.shape[-1]
    value = scipy.special.gammaln(n) + (n - 1) * np.log(t) + (l - t * z).sum(-1) - n * scipy.special.logsumexp(l - t * z, -1)
    return np.asarray(value - z.sum(-1) if family is Concrete else value)


# ------------------------------------------------------------------------------------------------------------ density
@both
@pytest.mark.parametrize("t", [0.3, 1.0, 2.5])
def test_log_prob(lib: Library, family: Any, t: float) -> None:
    p, x = family(lib.asarray(LOGITS), t), point(family, Z)
    lib.check(p.log_prob(lib.asarray(x)), log_prob(family, LOGITS, x, t), rtol=1e-12, atol=1e-12)
    several = np.stack([x, x[::-1]])
    lib.check(p.log_prob(lib.asarray(several)), log_prob(family, LOGITS, several, t), rtol=1e-12, atol=1e-12)
    assert p.batch_shape == (2, 3)


@both
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_axis(lib: Library, family: Any, axis: int) -> None:
    l, x = (np.moveaxis(a, -1, axis) for a in (LOGITS, point(family, Z)))
    p = family(lib.asarray(l), 0.7, axis)
    lib.check(p.log_prob(lib.asarray(x)), log_prob(family, LOGITS, point(family, Z), 0.7), rtol=1e-12, atol=1e-12)
    draw = lib.to_numpy(backdraw.draw(p, shape=5, rng=KEY))
    assert draw.shape == (5, *l.shape)
    total = np.exp(draw).sum if family is ExpConcrete else draw.sum
    np.testing.assert_allclose(total(axis if axis < 0 else 1 + axis), 1.0, rtol=1e-12)
    assert family(lib.asarray(l), 0.7, axis).log_prob(lib.asarray(draw)).shape == (5, 2, 3)


@both
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(lib: Library, family: Any, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    l, x = lib.asarray(LOGITS, dtype), lib.asarray(point(family, Z), dtype)
    exact = [lib.to_numpy(a).astype(np.float64) for a in (l, x)]
    p = family(l, lib.asarray(0.5, dtype))
    lib.check(p.log_prob(x), log_prob(family, *exact, 0.5), dtype=dtype, rtol=4 * eps(dtype), atol=32 * eps(dtype))
    to_l, to_t = p.score(x)
    for out in (to_l, to_t, backdraw.draw(p, rng=KEY), p.transport(p.transport_noise(KEY)), backdraw.kl(p, p, rng=KEY)):
        assert out.dtype == l.dtype


@pytest.mark.needs("torch")
@both
def test_agrees_with_torch(family: Any) -> None:
    import torch
    from torch.distributions import RelaxedOneHotCategorical
    from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

    theirs = {Concrete: RelaxedOneHotCategorical, ExpConcrete: ExpRelaxedCategorical}[family]
    t, x = torch.tensor(0.7, dtype=torch.float64), torch.tensor(point(family, Z))
    expected = theirs(t, logits=torch.tensor(LOGITS)).log_prob(x)
    np.testing.assert_allclose(family(LOGITS, 0.7).log_prob(x.numpy()), expected.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [0.6, 1.0, 2.0])
def test_integrates_to_one(t: float) -> None:
    p = Concrete(np.asarray([0.3, -0.4]), t)
    total, _ = scipy.integrate.quad(lambda a: np.exp(p.log_prob(np.asarray([a, 1 - a]))), 0, 1)
    assert total == pytest.approx(1.0, abs=1e-7)
    # Three: over all of log space with z_3 = 0 before normalising, where dy_1 dy_2 = y_1 y_2 y_3 dz_1 dz_2.
    grid = np.linspace(-60.0, 60.0, 601)
    z = scipy.special.log_softmax(np.stack([*np.meshgrid(grid, grid), np.zeros((601, 601))], -1), -1)
    q = Concrete(np.asarray([0.3, -0.4, 1.0]), t)
    density = np.exp(q.log_prob(np.exp(z)) + z.sum(-1))
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1.0, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- gradients
@both
def test_gradients_by_finite_differences(lib: Library, family: Any) -> None:
    x, t = point(family, Z), np.asarray(0.6)
    arrays = (LOGITS, x, t)
    value, grads = pulled(lib, lambda l, x, t: family(l, t).log_prob(x), lib.asarray(G), *map(lib.asarray, arrays))
    lib.check(value, log_prob(family, *arrays), rtol=1e-12, atol=1e-12)
    lib.check(grads[0], finite_difference(lambda l: log_prob(family, l, x, t), LOGITS, G), rtol=1e-6, atol=1e-7)
    # In steps of x relative to x, which spans orders of magnitude.
    step = finite_difference(lambda r: log_prob(family, LOGITS, x * (1 + r), t), np.zeros_like(x), G) / x
    lib.check(grads[1], step, rtol=1e-6, atol=1e-6)
    lib.check(grads[2], finite_difference(lambda t: log_prob(family, LOGITS, x, t), t, G), rtol=1e-6)
    to_l, to_t = family(lib.asarray(LOGITS), lib.asarray(t)).score(lib.asarray(x))
    lib.check(to_l, finite_difference(lambda l: log_prob(family, l, x, t), LOGITS, np.ones((2, 3))), rtol=1e-6, atol=1e-7)
    up, down = (log_prob(family, LOGITS, x, t + h) for h in (1e-6, -1e-6))
    lib.check(to_t, (up - down) / 2e-6, rtol=1e-6, atol=1e-7)
    lib.check(family(lib.asarray(LOGITS), 0.6).score(lib.asarray(x)), lib.to_numpy(to_l), rtol=1e-13, atol=1e-13)


@both
def test_transport(lib: Library, family: Any) -> None:
    l, t = lib.asarray(LOGITS), lib.asarray(0.6)
    noise = family(l, 0.6).transport_noise(KEY, (2,))
    n = lib.to_numpy(noise)
    g = RNG.normal(size=(2, 2, 3, 4))

    def plain(l: np.ndarray, t: Any) -> np.ndarray:
        return softmax((l + n) / t) if family is Concrete else np.asarray(scipy.special.log_softmax((l + n) / t, -1))

    for arrays in ((l,), (l, t)):
        x, grads = pulled(lib, lambda l, t=0.6: family(l, t).transport(noise), lib.asarray(g), *arrays)
        lib.check(x, plain(LOGITS, 0.6), rtol=1e-12, atol=1e-15)
        lib.check(family(l, 0.6).sample(noise), plain(LOGITS, 0.6), rtol=1e-12, atol=1e-15)
        lib.check(grads[0], finite_difference(lambda l: plain(l, 0.6), LOGITS, g), rtol=1e-6, atol=1e-7)
        if len(arrays) == 2:
            lib.check(grads[1], finite_difference(lambda t: plain(LOGITS, t), np.asarray(0.6), g), rtol=1e-6)


@both
def test_gradients_sum_over_samples_in_front(lib: Library, family: Any) -> None:
    x, g = point(family, np.stack([Z, Z[::-1], Z[:, ::-1]])), RNG.normal(size=(3, 2, 3))
    points = lib.asarray(x)
    _, grads = pulled(lib, lambda l: family(l, 0.6).log_prob(points), lib.asarray(g), lib.asarray(LOGITS))
    expected = finite_difference(lambda l: log_prob(family, l, x, 0.6), LOGITS, g)
    lib.check(grads[0], expected, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------------- law
@both
@pytest.mark.parametrize("t", [0.05, 1.5])
def test_law_of_two_categories(framework: Library, family: Any, t: float) -> None:
    # log(y_1 / y_2) = (l_1 - l_2 + logistic noise) / t.
    l, n = np.asarray([0.3, -0.6]), 20_000
    x = backdraw.draw(family(framework.asarray(np.broadcast_to(l, (n, 2))), t), rng=KEY)
    values = framework.to_numpy(x)
    with np.errstate(divide="ignore"):
        odds = values[:, 0] - values[:, 1] if family is ExpConcrete else np.log(values[:, 0]) - np.log(values[:, 1])
    assert scipy.stats.kstest(sigmoid(t * odds - 0.9), "uniform").pvalue > 1e-4


def test_law_of_the_largest(framework: Library) -> None:
    # Whatever the temperature, the largest coordinate is a draw of the categorical.
    l, n = np.asarray([0.3, -0.6, 1.0, 0.0]), 20_000
    y = framework.to_numpy(backdraw.draw(Concrete(framework.asarray(np.broadcast_to(l, (n, 4))), 0.7), rng=KEY))
    count = np.bincount(y.argmax(-1), minlength=4)
    assert scipy.stats.chisquare(count, n * softmax(l)).pvalue > 1e-4
