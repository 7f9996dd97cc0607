"""The built-in problems: f and its gradient against plain formulas, and that they can be measured."""

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import Library, finite_difference

import backdraw
from backdraw.errors import InvalidTypeError
from backdraw.study import digits, digits_elbo, measure, moments
from backdraw.study.problems import PROBLEMS, check_made

KEY = backdraw.key(0)
RNG = np.random.default_rng(2)
SMALL = [name for name in PROBLEMS if name != "digits-elbo"]  # which has its own test


def plain(name: str) -> Any:
    """Return the summary's formula in plain NumPy, where it is one."""
    powers = {"polynomial": 2.0, "polynomial-1.5": 1.5, "polynomial-3": 3.0}
    if name in powers:
        return lambda x: (np.abs(x - 0.45) ** powers[name]).mean(-1)
    centres = {"bernoulli-toy": 0.49, "bernoulli-toy-0.45": 0.45, "bernoulli-toy-0.499": 0.499, "normal-quadratic": 1.0}
    if name in centres:
        return lambda x: (x - centres[name]) ** 2
    return {
        "shared-bernoulli": lambda x: ((x - np.asarray([0.6, 0.51, 0.48])) ** 2).sum(-1),
        "subset": lambda x: ((x - np.random.default_rng(0).normal(size=(2, 10))[1]) ** 2).sum(-1),
        "normal-exponential": lambda x: np.exp(-x * x),
        "normal-cosine": np.cos,
    }.get(name)


@pytest.mark.parametrize("name", SMALL)
def test_f_and_its_gradient(name: str, framework: Library) -> None:
    with framework.be.double():
        f, p = PROBLEMS[name].make(framework.xp)
        x = RNG.uniform(0.1, 0.9, size=(2, *p.params[0].shape))
        value, pullback = backdraw.vjp(f, framework.asarray(x))
        on_numpy: Any = PROBLEMS[name].make(np)[0]
        framework.check(value, np.asarray((plain(name) or on_numpy)(x)), rtol=1e-12)
        slope = finite_difference(on_numpy, x, np.ones(np.shape(on_numpy(x))), 1e-6)
        framework.check(pullback(framework.xp.ones_like(value))[0], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.needs("numpy")
def test_toy_kl_is_the_divergence_but_for_the_entropy() -> None:
    """At one-hot draws the loss is a linear function of x: log(1e-8) where x is 0, log(1 + 1e-8) where it is 1."""
    f, p = PROBLEMS["toy-kl"].make(np)
    logits = p.params[0]
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1.0)
    x = backdraw.draw(p, shape=50, rng=KEY)
    true = np.random.default_rng(0).uniform(size=(2, 5, 5))[1]
    true = true / true.sum(-1, keepdims=True)
    expected = (-true * (np.where(x == 1, 0.0, np.log(1e-8)) - np.log(true))).mean((-2, -1))
    np.testing.assert_allclose(f(x), expected, rtol=1e-6)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize("name", SMALL)
def test_can_be_measured(name: str) -> None:
    f, p = PROBLEMS[name].make(np)
    continuous = name.startswith("normal")
    report = measure(f, p, ["rloo", "pathwise" if continuous else "straight_through"], 20, rng=KEY, reference=2000)
    assert len(report.rows) == 2
    assert report.reference.startswith("rloo" if continuous else "exact")
    assert not any(r.nan for r in report.rows)


@pytest.mark.needs("numpy")
def test_variances_of_the_shared_logit_by_enumeration() -> None:
    """Those that are told with the problem; in the logit of all three bits, at 0."""
    f, p = PROBLEMS["shared-bernoulli"].make(np)
    x = np.asarray(list(itertools.product([0.0, 1.0], repeat=3)))
    values, score = f(x), (x - 0.5).sum(-1)
    truth = (values * score).mean()
    other, chance = values[::-1], 1 / 8  # of the opposite bits; of each value
    low, mix = chance * values[:, None] + (1 - chance) * values, ~np.eye(8, dtype=bool)
    unordered = (score[:, None] * (values[:, None] - low) + score * (values - low.T)) / 2
    exact = {
        "reinforce": ((values * score) ** 2).mean(),
        "rloo": (((values[:, None] - values) * (score[:, None] - score) / 2) ** 2).mean(),
        "unordered_set": (unordered[mix] ** 2).mean(),
        "disarm": (((values - other) * score / 2) ** 2).mean(),
    }
    report = measure(f, p, [*exact, "exact"], 4000, rng=KEY, shared=PROBLEMS["shared-bernoulli"].shared)
    assert report.coordinates == 1
    assert report.gradient_norm.value == pytest.approx(abs(truth)) == pytest.approx(0.045)
    for row in report.rows:
        if row.name != "exact":
            variance = exact[row.name] - truth**2
            assert f"{variance:.4g}" in PROBLEMS["shared-bernoulli"].remark
            assert abs(row.variance.value - variance) < 4.5 / moments.WIDTH * (row.variance.high - row.variance.value)


@pytest.mark.needs("numpy")
def test_subset_is_simples() -> None:
    """5 of 10 items; its gradient by going over the 252 subsets by hand."""
    f, p = PROBLEMS["subset"].make(np)
    every = np.asarray([[i in c for i in range(10)] for c in itertools.combinations(range(10), 5)], float)
    logits = np.random.default_rng(0).normal(size=(2, 10))[0]
    weights = np.exp(every @ logits)
    probs = weights / weights.sum()
    expected = (probs * f(every)) @ (every - probs @ every)
    names = ("straight_through", "stochastic_softmax_hard", "rloo")
    report = measure(f, p, names, 100, rng=KEY)
    assert report.reference == "exact"
    assert report.gradient_norm.value == pytest.approx(np.linalg.norm(expected), rel=1e-9)
    simple, perturbed, rloo = (next(r.direction for r in report.rows if r.name == name) for name in names)
    assert simple.low > perturbed.high > perturbed.low > rloo.high


@pytest.mark.needs("numpy")
def test_digits_elbo(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(digits_elbo, "CONFIG", digits.Config(epochs=1, width=8, latents=3, categories=4))
    digits_elbo.checkpoint.cache_clear()
    f, p = PROBLEMS["digits-elbo"].make(np)
    trained, images = digits_elbo.checkpoint()
    w, b, v, c = trained.parameters[4:]
    x = backdraw.draw(p, shape=(2, 5), rng=KEY)
    pixels = np.maximum(x.reshape(2, 5, 64, 12) @ w + b, 0) @ v + c
    chance = 1 / (1 + np.exp(-pixels))
    expected = -(images * np.log(chance) + (1 - images) * np.log(1 - chance)).sum(-1)
    np.testing.assert_allclose(f(x), expected, rtol=1e-5)
    report = measure(f, p, ["rloo", "straight_through", "gumbel_softmax", "measure_valued"], 10, rng=KEY)
    assert report.reference == "exact"  # 4**3 codes for each image
    assert {r.name for r in report.rows} == {"rloo", "straight_through", "gumbel_softmax", "measure_valued"}
    assert report.coordinates == 64 * 3 * 4
    digits_elbo.checkpoint.cache_clear()


@pytest.mark.parametrize("made", [None, (1, 2), (len, np.zeros(3)), (len, backdraw.Bernoulli(np.zeros(3)), 3)])
def test_what_a_users_function_may_return(made: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"problem: expected mine\.py:f to return f and a distribution, got "):
        check_made(made, "mine.py:f")
