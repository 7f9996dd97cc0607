"""stochastic_softmax: the relaxation of perturbed utilities, its limit, and its gradient, for any structure."""

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import Library, finite_difference, pulled

import backdraw
from backdraw import Bernoulli, Categorical, Subset, gumbel_softmax, stochastic_softmax
from backdraw.random import bits

KEY = backdraw.key(7)
RNG = np.random.default_rng(2)
LOGITS, G = RNG.normal(size=(4, 6)), RNG.normal(size=(4, 6))
GUMBEL = -np.log(-np.log1p(-(bits(KEY, (4, 6)) + 0.5) / 2.0**32))
REGULARIZERS = ("entropy", "binary", "euclidean")


@pytest.mark.parametrize("options", [{}, {"hard": True}, {"backward_temperature": 2.0}, {"regularizer": "euclidean"}], ids=str)
@pytest.mark.parametrize("dist", [Categorical, Bernoulli], ids=lambda d: d.__name__)
def test_is_gumbel_softmax_for_categories_and_bits(lib: Library, dist: Any, options: dict[str, Any]) -> None:
    x, g = lib.asarray(LOGITS), lib.asarray(G)
    results = []
    for f in (stochastic_softmax, gumbel_softmax):
        y, pullback = backdraw.vjp(lambda l, f=f: f(dist(l), temperature=0.7, rng=KEY, **options), x)
        results.append((lib.to_numpy(y), lib.to_numpy(pullback(g)[0])))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("hard", [False, True])
def test_subsets(lib: Library, hard: bool, regularizer: str) -> None:
    def draw(l: Any, t: Any) -> Any:
        return stochastic_softmax(Subset(l, 2), temperature=t, hard=hard, regularizer=regularizer, rng=KEY)

    def soft(l: np.ndarray, t: Any) -> np.ndarray:
        return Subset(l + GUMBEL, 2).mean(temperature=float(t), regularizer=regularizer)

    t = np.asarray(0.8)
    y, (to_l, to_t) = pulled(lib, draw, lib.asarray(G), lib.asarray(LOGITS), lib.asarray(t))
    top = np.argsort(np.argsort(-(LOGITS + GUMBEL), -1), -1) < 2
    lib.check(y, top * 1.0 if hard else soft(LOGITS, t), rtol=1e-9, atol=1e-12)
    lib.check(to_l, finite_difference(lambda l: soft(l, t), LOGITS, G), rtol=1e-6, atol=1e-8)
    lib.check(to_t, finite_difference(lambda t: soft(LOGITS, t), t, G), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_tends_to_the_hard_draw(framework: Library, regularizer: str) -> None:
    p = Subset(framework.asarray(LOGITS), 3)
    hard = framework.to_numpy(stochastic_softmax(p, hard=True, rng=KEY))
    assert np.all(hard.sum(-1) == 3)
    np.testing.assert_array_equal(hard, framework.to_numpy(backdraw.gumbel_max(p, rng=KEY)))
    errors = []
    for t in (1.0, 0.1, 0.01, 1e-4):
        y = framework.to_numpy(stochastic_softmax(p, temperature=t, regularizer=regularizer, rng=KEY))
        np.testing.assert_allclose(y.sum(-1), 3, rtol=1e-12)
        errors.append(np.abs(y - hard).max())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


def test_straight_through_of_subsets_is_simple(lib: Library) -> None:
    # Forward the exact draw, backward the covariance of the subsets: the vjp of the marginals.
    values = np.asarray([v for v in itertools.product([0.0, 1.0], repeat=6) if sum(v) == 3])
    w = np.exp(LOGITS @ values.T)
    w /= w.sum(-1, keepdims=True)
    m = w @ values
    expected = np.einsum("bs,si,sj,bj->bi", w, values, values, G) - m * (m * G).sum(-1, keepdims=True)
    x, (grad,) = pulled(lib, lambda l: backdraw.straight_through(Subset(l, 3), rng=KEY), lib.asarray(G), lib.asarray(LOGITS))
    lib.check(x, backdraw.draw(Subset(LOGITS, 3), rng=KEY), rtol=0)
    lib.check(grad, expected, rtol=1e-10, atol=1e-13)


def test_bad_input(lib: Library) -> None:
    p = Subset(lib.asarray(LOGITS), 2)
    with pytest.raises(ValueError, match="regularizer: expected one of entropy, binary, euclidean, got 'tsallis'"):
        stochastic_softmax(p, regularizer="tsallis", rng=KEY)
    with pytest.raises(ValueError, match="temperature: expected a positive finite number, got 0"):
        stochastic_softmax(p, temperature=0, rng=KEY)
    with pytest.raises(TypeError, match=r"dist: stochastic_softmax needs perturb\(\) of Normal"):
        stochastic_softmax(backdraw.Normal(lib.asarray(LOGITS), 1.0), rng=KEY)
    with pytest.raises(TypeError, match="logits: expected an array"):
        stochastic_softmax("logits", rng=KEY)
