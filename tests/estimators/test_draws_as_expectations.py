"""Entry.expectation: the mean of f over draws, with the draws' gradient, beside the estimators that take f themselves."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, pulled
from problems import PROBLEMS, wave

import backdraw
from backdraw.estimators import ESTIMATORS, estimator

KEY = backdraw.key(21)
DRAWS = [name for name, e in ESTIMATORS.items() if e.kind == "draw"]
WITH_GRADIENT = [name for name in DRAWS if ESTIMATORS[name].gradient != "none"]
W = PROBLEMS["shared"].weights


def dist_for(name: str, lib: Library, n: int = 2) -> Any:
    """A batch of three factors of what the estimator is for."""
    if ESTIMATORS[name].domain == "continuous":
        return backdraw.Normal(lib.asarray(np.broadcast_to(W, (n, 3))), 0.6)
    return ESTIMATORS[name].array(lib.asarray(np.broadcast_to(W, (n, 3))))


def noise(name: str) -> dict[str, Any]:
    """A key, where the estimator draws."""
    return {"rng": KEY} if "rng" in ESTIMATORS[name].function.__kwdefaults__ else {}


@pytest.mark.parametrize("name", DRAWS)
def test_is_the_mean_of_f_over_draws(name: str, framework: Library) -> None:
    lib, entry = framework, ESTIMATORS[name]
    p = dist_for(name, lib)
    value = entry.expectation(lambda x: wave(x, lib.asarray(W), event=1), p, samples=4, **noise(name))
    draws = lib.to_numpy(entry(p.repeated(4), **noise(name)))
    s = draws @ W
    lib.check(value, (np.cos(s) + s * s / 4).mean(0), rtol=1e-12)
    assert draws.shape == (4, 2, 3)
    assert name in ("select", "blackbox") or not np.array_equal(
        draws[0], draws[1]
    )  # independent draws, and not one four times


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_has_the_gradient_of_the_draws(name: str, framework: Library) -> None:
    lib, entry = framework, ESTIMATORS[name]
    g, x = lib.asarray(np.asarray([1.0, -0.5])), dist_for(name, lib).params[0]
    make = (lambda l: backdraw.Normal(l, 0.6)) if entry.domain == "continuous" else entry.array

    def value(l: Any) -> Any:
        return entry.expectation(lambda x: wave(x, lib.asarray(W), event=1), make(l), samples=4, **noise(name))

    _, (found,) = pulled(lib, value, g, x)
    plain = Library(Backend.NUMPY)
    draws, pullback = backdraw.vjp(lambda l: entry(make(l).repeated(4), **noise(name)), dist_for(name, plain).params[0])
    s = draws @ W
    slopes = (s / 2 - np.sin(s))[..., None] * W * np.asarray([1.0, -0.5])[:, None] / 4
    lib.check(found, pullback(slopes)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 5])
def test_of_straight_through_is_exact_for_linear_f(samples: int, framework: Library) -> None:
    lib = framework
    f = backdraw.Categorical(lib.asarray(np.log([0.2, 0.3, 0.5]))).log_prob
    logits, g = dist_for("straight_through", lib).logits, lib.asarray(np.asarray([1.0, 2.0]))
    _, ours = pulled(lib, lambda l: estimator("straight_through").expectation(f, l, samples=samples, rng=KEY), g, logits)
    _, exact = pulled(lib, lambda l: estimator("exact").expectation(f, l), g, logits)
    lib.check(ours[0], lib.to_numpy(exact[0]), rtol=1e-12, atol=1e-14)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize("name", [n for n in DRAWS if ESTIMATORS[n].law and ESTIMATORS[n].domain != "continuous"])
def test_has_the_mean_of_f(name: str) -> None:
    p = dist_for(name, Library(Backend.NUMPY), 20_000)
    f = lambda x: wave(x, W, event=1)  # noqa: E731
    values = estimator(name).expectation(f, p, **noise(name))
    error = values.mean() - backdraw.exact(f, backdraw.Categorical(W))
    assert abs(error) < 4.5 * values.std() / len(values) ** 0.5


def test_samples_by_default() -> None:
    f, logits = lambda x: x[..., 0], np.zeros((4, 3))
    for name, count in (("rloo", 2), ("reinforce", 1), ("straight_through", 1)):
        seen = []
        estimator(name).expectation(lambda x, seen=seen: (seen.append(x.shape[0]), f(x))[1], logits, rng=KEY)
        assert seen == [count]
    estimator("exact").expectation(f, logits)


def test_bad_samples() -> None:
    f = lambda x: x[..., 0]  # noqa: E731
    for name in ("straight_through", "reinforce"):
        with pytest.raises(ValueError, match=f"samples: {name} needs at least 1, got 0"):
            estimator(name).expectation(f, np.zeros((4, 3)), samples=0, rng=KEY)
        with pytest.raises(TypeError, match="samples: expected an int, got float"):
            estimator(name).expectation(f, np.zeros((4, 3)), samples=2.0, rng=KEY)  # type: ignore[arg-type]
