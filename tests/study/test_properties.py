"""Every cell of the table that `backdraw study --properties` prints, verified by calling the estimator."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers import sigmoid, softmax

import backdraw
from backdraw.estimators import ESTIMATORS, Entry
from backdraw.study import measure
from backdraw.study.costs import cosine, power
from backdraw.study.properties import HEAD, properties, tabulate

pytestmark = pytest.mark.needs("numpy")
KEY = backdraw.key(21)
ROW = np.asarray([0.8, -0.4, 0.1])
LAWS: dict[str, Any] = {
    "Categorical": lambda row: backdraw.Categorical(row),
    "Bernoulli": lambda row: backdraw.Bernoulli(row),
    "Subset": lambda row: backdraw.Subset(row, 2),
    "Normal": lambda row: backdraw.Normal(row, np.asarray(0.8)),
}
DISCRETE, CONTINUOUS = ("Categorical", "Bernoulli", "Subset"), ("Normal",)
names = pytest.mark.parametrize("name", sorted(ESTIMATORS))


def smooth(x: Any) -> Any:
    """A differentiable f of the last axis that is not additive over it."""
    return cosine(power(x, np.asarray([0.2, 0.9, 0.5]), p=3.0, axes=1, scale=2.0), k=1.7)


def cells(name: str) -> dict[str, str]:
    """Return a row of the table by its head."""
    return dict(zip(HEAD, properties(ESTIMATORS[name]), strict=True))


def entry(name: str) -> Entry:
    """Return an entry that can be called without further options."""
    e = ESTIMATORS[name]
    return dataclasses.replace(e, options={**e.options, "surrogate": smooth}) if name == "relax" else e


def call(name: str, p: Any, f: Any = smooth) -> Any:
    """Call an estimator of either kind."""
    e = entry(name)
    noise = {"rng": KEY} if "rng" in (e.function.__kwdefaults__ or {}) else {}
    return e(p, **noise) if e.kind == "draw" else e(f, p, **noise)


def fits(name: str, laws: tuple[str, ...] = DISCRETE + CONTINUOUS) -> list[str]:
    """Return the laws that an estimator can be called with."""
    found = []
    for law in laws:
        try:
            call(name, LAWS[law](np.zeros((2, 3))))
        except backdraw.errors.InvalidTypeError:
            continue
        found.append(law)
    return found


def test_the_table_has_every_estimator_in_100_columns() -> None:
    text = tabulate()
    lines, note = text.partition("\n\n")[0].splitlines(), text.partition("\n\n")[2]
    assert all(f"{word}:" in note for word in ("exact law", "backprop", "gradient", "needs f'"))
    assert [line.split()[0] for line in lines[1:]] == sorted(ESTIMATORS)
    assert max(map(len, text.splitlines())) <= 100
    for line in lines[1:]:
        assert tuple(line.split()) == properties(ESTIMATORS[line.split()[0]])


@names
def test_call(name: str) -> None:
    p = LAWS[fits(name)[0]](np.zeros((2, 3)))
    assert call(name, p).shape == {"draw": (2, 3), "expectation": (2,)}[cells(name)["call"]]


@names
def test_draws_are(name: str) -> None:
    stated = cells(name)["draws are"]
    assert bool(fits(name, DISCRETE)) == (stated in ("discrete", "both"))
    assert bool(fits(name, CONTINUOUS)) == (stated in ("continuous", "both"))


@names
def test_backprop(name: str) -> None:
    make = LAWS[fits(name)[0]]
    if cells(name)["backprop"] == "yes":
        x, pullback = backdraw.vjp(lambda row: call(name, make(row)), np.tile(ROW, (50, 1)))
        assert np.any(pullback(np.cos(np.arange(x.size)).reshape(x.shape))[0] != 0)
    else:
        with pytest.raises(backdraw.GradientError):
            backdraw.vjp(lambda row: call(name, make(row)), np.tile(ROW, (50, 1)))


@names
def test_needs_the_derivative_of_f(name: str) -> None:
    """A black box serves, or the error says that the chain broke; a draw gives a gradient to a differentiable f alone."""
    e, make = entry(name), LAWS[fits(name)[0]]
    if cells(name)["backprop"] == "no":
        assert cells(name)["needs f'"] == "no"
        return
    black_box = lambda x: np.asarray(smooth(np.array(x)))  # noqa: E731
    noise: dict[str, Any] = {"rng": KEY} if "rng" in (e.function.__kwdefaults__ or {}) else {}
    run = lambda row: (e if e.kind == "expectation" else e.expectation)(black_box, make(row), **noise)  # noqa: E731
    if cells(name)["needs f'"] == "yes":
        with pytest.raises(backdraw.GradientError):
            backdraw.vjp(run, np.tile(ROW, (50, 1)))
    else:
        value, pullback = backdraw.vjp(run, np.tile(ROW, (50, 1)))
        assert np.any(pullback(np.ones_like(value))[0] != 0)


@names
def test_exact_law(name: str) -> None:
    n = 5000
    for law in fits(name):
        rows, discrete = np.tile(ROW, (n, 1)), law in DISCRETE
        p = LAWS[law](rows)
        if cells(name)["call"] == "draw":
            x = np.asarray(call(name, p))
            follows = _categories_follow(x, law) if discrete else _normals_follow(x)
        else:
            follows = _is_a_mean_of_draws(name, p, law)
        # Where the argmax of the utilities follows another law, so do the draws that take it.
        other = "perturb" in ESTIMATORS[name].needs and not p.argmax_law
        assert follows == (cells(name)["exact law"] == "yes" and not other), law


@backdraw.primitive
def hit(be: Any, x: Any) -> Any:
    """Whether the first number of a row is above a half."""
    return (x[..., 0] > 0.5) * 1.0


hit.defvjp(lambda be, x: (hit.function(be, x), (x,)), lambda be, res, g: (np.zeros_like(res[0]),))


def _categories_follow(x: np.ndarray, law: str) -> bool:
    if not np.all((x == 0) | (x == 1)):
        return False
    code = (x @ np.asarray([1, 2, 4])).astype(int)
    probs = np.zeros(8)
    if law == "Categorical":
        probs[[1, 2, 4]] = softmax(ROW)
    elif law == "Subset":
        probs[[6, 5, 3]] = softmax(-ROW)  # which one is left out
    else:
        bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
        probs = np.where(bits == 1, sigmoid(ROW), sigmoid(-ROW)).prod(-1)
    counts = np.bincount(code, minlength=8)
    if np.any(counts[probs == 0]):
        return False
    return bool(scipy.stats.chisquare(counts[probs > 0], len(x) * probs[probs > 0]).pvalue > 1e-6)


def _normals_follow(x: np.ndarray) -> bool:
    return all(scipy.stats.kstest(x[:, j], scipy.stats.norm(ROW[j], 0.8).cdf).pvalue > 1e-6 for j in range(3))


def _is_a_mean_of_draws(name: str, p: Any, law: str) -> bool:
    """Whether the values of an indicator are plain means of a few draws, or the exact mean."""

    prob = {
        "Categorical": softmax(ROW)[0],
        "Bernoulli": sigmoid(ROW[0]),
        "Subset": 1.0 - softmax(-ROW)[0],
        "Normal": scipy.stats.norm.sf(0.5, ROW[0], 0.8),
    }[law]
    value = np.asarray(call(name, p, hit))
    if name == "vimco":  # of f = exp(hit), the value of two draws is one of three logarithms
        return bool(np.allclose(np.sort(np.unique(value.round(9))), np.log([1.0, (1 + np.e) / 2, np.e])))
    if name == "exact":
        return bool(np.allclose(value, prob, rtol=1e-12))
    spread = value.std() / len(value) ** 0.5
    assert abs(value.mean() - prob) < 4.5 * spread + 1e-12  # without bias, whether of exact draws or not
    return bool(np.allclose(12 * value, np.round(12 * value), atol=1e-9))


@names
def test_gradient(name: str) -> None:
    """The study itself: no z above the bound where none is stated, one where there is a bias."""
    stated = cells(name)["gradient"]
    if stated == "-" or name == "vimco":  # vimco has another objective: tests/estimators/test_expectations.py
        return
    zs = []
    for law in fits(name):
        report = measure(smooth, LAWS[law](ROW), [entry(name)], 4000, rng=KEY, reference=1_000_000 if law == "Normal" else 200)
        (row,) = report.rows
        zs.append(row.z - row.bound)
        assert row.nan == 0
    assert max(zs) > 0 if stated == "biased" else max(zs) < 0
