"""kl: what it takes, and what it says of the rest. Its values and gradients are tested beside each distribution."""

from typing import Any

import numpy as np
import pytest
from helpers import Library

import backdraw
from backdraw import Bernoulli, Categorical

POSTERIOR = np.random.default_rng(3).normal(size=(4, 2, 3))
PRIOR = np.random.default_rng(4).normal(size=(2, 3))
KEY = backdraw.key(5)

BETWEEN = {  # the divergence of two distributions whose parameters these are
    "Bernoulli": lambda p, q: backdraw.kl(Bernoulli(p), Bernoulli(q)),
    "Categorical": lambda p, q: backdraw.kl(Categorical(p), Categorical(q)),
    "axis": lambda p, q: backdraw.kl(Categorical(p, axis=-2), Categorical(q, axis=-2)),
    "Subset": lambda p, q: backdraw.kl(backdraw.Subset(p, 2), backdraw.Subset(q, 2)),
    "Concrete": lambda p, q: backdraw.kl(backdraw.Concrete(p, 0.5), backdraw.Concrete(q, 0.7), samples=3, rng=KEY),
    "Normal": lambda p, q: backdraw.kl(backdraw.Normal(p, 1.0), backdraw.Normal(q, 2.0)),
}


def test_of_a_distribution_to_itself(lib: Library) -> None:
    x = lib.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    lib.check(backdraw.kl(Categorical(x), Categorical(x)), np.zeros(3), atol=1e-15)
    lib.check(backdraw.kl(Bernoulli(x), Bernoulli(x)), np.zeros((3, 4)), atol=1e-15)


def test_is_not_negative_and_ignores_shifts(lib: Library) -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 50, 6))
    forward = lib.to_numpy(backdraw.kl(Categorical(lib.asarray(x)), Categorical(lib.asarray(y))))
    assert np.all(forward > 0)
    shifted = backdraw.kl(Categorical(lib.asarray(x + 100.0)), Categorical(lib.asarray(y - 50.0)))
    lib.check(shifted, forward, rtol=1e-9)


@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize("turned", [False, True], ids=["to one", "of one"])
def test_one_prior_for_a_batch(lib: Library, name: str, turned: bool) -> None:
    given, repeated = ((POSTERIOR, prior) for prior in (PRIOR, np.broadcast_to(PRIOR, POSTERIOR.shape)))
    found, expected = (
        backdraw.vjp(BETWEEN[name], *(lib.asarray(x) for x in (reversed(pair) if turned else pair)))
        for pair in (given, repeated)
    )
    lib.check(found[0], lib.to_numpy(expected[0]), rtol=1e-13)
    c = lib.asarray(np.random.default_rng(6).normal(size=found[0].shape))
    grads, wide = (list(pullback(c))[:: -1 if turned else 1] for _, pullback in (found, expected))
    lib.check(grads[0], lib.to_numpy(wide[0]), rtol=1e-12)
    lib.check(grads[1], lib.to_numpy(wide[1]).sum(0), rtol=1e-12, atol=1e-14)


def test_one_multivariate_normal_for_a_batch(lib: Library) -> None:
    loc, tril = POSTERIOR, np.tril(np.random.default_rng(7).uniform(0.5, 1.5, size=(4, 2, 3, 3)))
    small = (loc[0], tril[0])
    large = tuple(np.broadcast_to(x, y.shape) for x, y in zip(small, (loc, tril), strict=True))
    (value, pullback), (expected, wide) = (
        backdraw.vjp(
            lambda m, s, n, t: backdraw.kl(backdraw.MultivariateNormal(m, s), backdraw.MultivariateNormal(n, t)),
            *map(lib.asarray, (loc, tril, *q)),
        )
        for q in (small, large)
    )
    lib.check(value, lib.to_numpy(expected), rtol=1e-12, atol=1e-14)
    c = lib.asarray(np.random.default_rng(8).normal(size=(4, 2)))
    for i, (found, every) in enumerate(zip(pullback(c), wide(c), strict=True)):
        every = lib.to_numpy(every)
        lib.check(found, every if i < 2 else every.sum(0), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("bad", [np.zeros(3), 1.0, None, "p"])
def test_not_a_distribution(bad: Any) -> None:
    p = Categorical(np.zeros(3))
    with pytest.raises(TypeError, match=f"q: expected a distribution, got {type(bad).__name__}"):
        backdraw.kl(p, bad)
    with pytest.raises(TypeError, match=f"p: expected a distribution, got {type(bad).__name__}"):
        backdraw.kl(bad, p)


def test_two_classes() -> None:
    with pytest.raises(TypeError, match="q: expected a distribution of p's class, Categorical, got Bernoulli"):
        backdraw.kl(Categorical(np.zeros(3)), Bernoulli(np.zeros(3)))


def test_shapes_differ(lib: Library) -> None:
    x, y = lib.asarray(np.zeros((2, 3))), lib.asarray(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(2, 3\) with axis -1, got \(2, 4\) with axis -1"):
        backdraw.kl(Categorical(x), Categorical(y))
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(2, 3\) with axis -1, got \(2, 3\) with axis -2"):
        backdraw.kl(Categorical(x), Categorical(x, axis=0))
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(2, 3\), got \(2, 4\)"):
        backdraw.kl(Bernoulli(x), Bernoulli(y))
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(2, 3\) with axis -1, got \(1,\) with axis -1"):
        backdraw.kl(Categorical(x), Categorical(lib.asarray(np.zeros(1))))  # other categories, not other batches
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(2, 3\) with axis -2, got \(2,\) with axis -1"):
        backdraw.kl(Categorical(x, axis=0), Categorical(lib.asarray(np.zeros(2))))


@pytest.mark.needs("torch")
def test_two_frameworks() -> None:
    import torch

    with pytest.raises(TypeError, match="one framework, got: numpy ndarray, torch Tensor"):
        backdraw.kl(Categorical(np.zeros(3)), Categorical(torch.zeros(3)))
