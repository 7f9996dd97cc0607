"""kl: what it takes, and what it says of the rest. Its values and gradients are tested beside each distribution."""

from typing import Any

import numpy as np
import pytest
from helpers import Library

import backdraw
from backdraw import Bernoulli, Categorical


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


@pytest.mark.parametrize("bad", [np.zeros(3), 1.0, None, "p"])
def test_not_a_distribution(bad: Any) -> None:
    p = Categorical(np.zeros(3))
    with pytest.raises(TypeError, match=f"q: expected a distribution, got {type(bad).__name__}"):
        backdraw.kl(p, bad)
    with pytest.raises(TypeError, match=f"p: expected a distribution, got {type(bad).__name__}"):
        backdraw.kl(bad, p)


def test_two_classes() -> None:
    with pytest.raises(TypeError, match="q: expected a distribution whose KL to Categorical is known, got Bernoulli"):
        backdraw.kl(Categorical(np.zeros(3)), Bernoulli(np.zeros(3)))


def test_shapes_differ(lib: Library) -> None:
    x, y = lib.asarray(np.zeros((2, 3))), lib.asarray(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(2, 3\) with axis -1, got \(2, 4\) with axis -1"):
        backdraw.kl(Categorical(x), Categorical(y))
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(2, 3\) with axis -1, got \(2, 3\) with axis -2"):
        backdraw.kl(Categorical(x), Categorical(x, axis=0))
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(2, 3\), got \(2, 4\)"):
        backdraw.kl(Bernoulli(x), Bernoulli(y))


@pytest.mark.needs("torch")
def test_two_frameworks() -> None:
    import torch

    with pytest.raises(TypeError, match="one framework, got: numpy ndarray, torch Tensor"):
        backdraw.kl(Categorical(np.zeros(3)), Categorical(torch.zeros(3)))
