"""What errors tell to take instead: it must take the distribution that the error was about."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library
from latents import KEY, LATENTS, logits

import backdraw
from backdraw.estimators import ESTIMATORS

HERE = Library(Backend.NUMPY)
OTHERS: dict[str, Callable[[], Any]] = {
    "oracle": lambda: backdraw.Oracle(np.zeros(3), lambda u: (u >= u.max(-1, keepdims=True)).astype(u.dtype)),
    "concrete": lambda: backdraw.Concrete(np.zeros(3), 0.5),
    "uniforms": lambda: backdraw.Uniform(np.zeros(3), 1.0),
    "logistics": lambda: backdraw.Logistic(np.zeros(3), 1.0),
    "vectors": lambda: backdraw.MultivariateNormal(np.zeros(3), np.eye(3)),
}
MAKE = OTHERS | {name: (lambda name=name: LATENTS[name][0](logits(name), HERE)) for name in LATENTS}


def call(estimator: str, p: Any) -> None:
    """Run an estimator on p, whatever comes of it."""
    entry = ESTIMATORS[estimator]
    noise = {"rng": KEY} if "rng" in (entry.function.__kwdefaults__ or {}) else {}
    entry(*([lambda x: x.sum(axis=tuple(range(1, x.ndim)))] if entry.kind == "expectation" else []), p, **noise)


@pytest.mark.parametrize("latent", MAKE)
def test_what_to_take_instead(latent: str) -> None:
    p = MAKE[latent]()
    for name in ESTIMATORS:
        try:
            call(name, p)
        except TypeError as error:
            for other in re.findall(r"(?:take|or|,) (?:backdraw\.)?(\w+)\b(?! for bits| if continuous)", str(error)):
                if other in ESTIMATORS:
                    call(other, p)
        except backdraw.errors.GradientError:
            pass  # f is a black box to NumPy


@pytest.mark.parametrize("latent", MAKE)
@pytest.mark.parametrize("method", ["entropy", "kl", "log_partition", "mean"])
def test_no_method_without_a_reason(latent: str, method: str) -> None:
    p = MAKE[latent]()
    if not hasattr(p, method):
        with pytest.raises(TypeError, match=rf"{type(p).__name__} has no {method}\(\): "):
            getattr(p, method)


def test_fenchel_young_of_an_order() -> None:
    p, target = backdraw.PlackettLuce(np.zeros(3)), np.eye(3)
    for options in ({}, {"samples": 5, "rng": KEY}):
        with pytest.raises(TypeError, match=r"take -log_prob\(target\) for a loss"):
            backdraw.fenchel_young(p, target, **options)
