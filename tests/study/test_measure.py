"""The measurement: its numbers against enumeration, what it flags, that it depends on nothing but the key."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pytest
from helpers import Library, sigmoid

import backdraw
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators import ESTIMATORS, Entry
from backdraw.estimators.expectation import attach
from backdraw.study import measure, moments, sampler
from backdraw.study.costs import power
from backdraw.study.problems import PROBLEMS
from backdraw.study.report import Report, Row

KEY = backdraw.key(3)
LOGITS = np.asarray([0.4, -0.3, 0.9])
C = np.asarray([0.6, 0.51, 0.48])


def cost(x: Any) -> Any:
    """The three bits' loss, as a black box."""
    return ((x - C) ** 2).sum(-1)


def run(*names: str | Entry, f: Any = cost, p: Any = None, repeats: int = 400, **options: Any) -> Report:
    """Measure on three bits."""
    return measure(f, backdraw.Bernoulli(LOGITS) if p is None else p, names or None, repeats, rng=KEY, **options)


def row(report: Report, name: str) -> Row:
    """Return the row of an estimator."""
    return next(r for r in report.rows if r.name == name)


def states() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all values of the three bits, their probabilities and their scores."""
    x = np.asarray(np.meshgrid([0.0, 1.0], [0.0, 1.0], [0.0, 1.0], indexing="ij")).reshape(3, -1).T
    p = sigmoid(LOGITS)
    return x, np.prod(np.where(x == 1, p, 1 - p), -1), x - p


# ------------------------------------------------------------------------------------------------------- the numbers
@pytest.mark.needs("numpy")
def test_against_exact_moments() -> None:
    x, probs, scores = states()
    truth = probs @ (cost(x)[:, None] * scores)
    single = cost(x)[:, None] * scores
    pairs = (cost(x)[:, None] - cost(x))[..., None] * (scores[:, None] - scores) / 2
    variances = {
        "reinforce": probs @ (single**2).sum(-1) - truth @ truth,
        "rloo": np.einsum("i,j,ijk->", probs, probs, pairs**2) - truth @ truth,
    }
    report = run(*variances, repeats=20_000)
    assert report.reference == "exact"
    assert report.gradient_norm == pytest.approx([np.linalg.norm(truth)] * 3, rel=1e-12)
    for name, variance in variances.items():
        r = row(report, name)
        for found in (r.variance, r.error):
            error = (found.high - found.low) / 2 / moments.WIDTH
            assert abs(found.value - variance) < 4.5 * error
            assert error < 0.03 * variance
        assert r.bias.value < 4.5 * r.bias_error
        assert r.bias_error == pytest.approx(math.sqrt(r.variance.value / 20_000), rel=1e-12)
        assert r.z < r.bound
        assert r.work.value == pytest.approx(r.variance.value * r.seconds.value)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(("name", "f", "truth"), [
    ("normal-quadratic", lambda m, s: (m - 1) ** 2 + s**2, None),
    ("normal-exponential", lambda m, s: math.exp(-m * m / (1 + 2 * s * s)) / (1 + 2 * s * s) ** 0.5, None),
    ("normal-cosine", lambda m, s: math.cos(m) * math.exp(-s * s / 2), None),
])  # fmt: skip
def test_the_long_run_carries_its_error(name: str, f: Any, truth: Any) -> None:
    cost, p = PROBLEMS[name].make(np)
    report = measure(cost, p, ["pathwise"], 1000, rng=KEY, reference=100_000, problem=name)
    assert report.reference == "rloo, 100000 draws"
    h = 1e-6
    truth = np.asarray([f(1 + h, 1.5) - f(1 - h, 1.5), f(1, 1.5 + h) - f(1, 1.5 - h)]) / (2 * h)
    norm = report.gradient_norm
    error = (norm.high - norm.value) / moments.WIDTH
    assert 0 < error < 0.1
    assert abs(norm.value - np.linalg.norm(truth)) < 4.5 * error
    r = row(report, "pathwise")
    assert r.bias_error > error  # that of the run and that of the estimates
    assert not r.flagged


# ------------------------------------------------------------------------------------------- what is flagged, left out
def wrong(f: Any, dist: Any, *, samples: int = 2, rng: Any = None) -> Any:
    """The mean of all draws as the baseline, a draw's own value too, and no correction: a common mistake."""
    x = dist.sample(dist.draw_noise(rng, (samples,)))
    values = f(x)
    weights = (values - values.mean(0)) / samples
    return attach(values.mean(0), dist, dist.weighted_score(x, weights), estimator="wrong")


@pytest.mark.needs("numpy")
def test_a_wrong_estimator_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "wrong", dataclasses.replace(ESTIMATORS["rloo"], name="wrong", function=wrong))
    report = run("wrong", "reinforce", "rloo", repeats=5000)
    assert [r.name for r in report.rows if r.flagged] == ["wrong"]
    assert "FLAGGED: wrong is stated to be unbiased" in report.table()
    assert "wrong!" in report.table()
    assert report.best().name == "rloo"  # though the wrong one has a smaller variance
    # and it is no matter of the order in which they come
    assert row(run("wrong", repeats=5000), "wrong").z == row(report, "wrong").z


@pytest.mark.needs("numpy")
def test_few_repeats_flag_nobody() -> None:
    p = PROBLEMS["quadratic-categorical"]
    f, d = p.make(np)
    reports = [measure(f, d, ["rloo", "reinforce"], 10, rng=backdraw.key(seed)) for seed in range(5)]
    assert any(r.z > r.bound for report in reports for r in report.rows)  # ten are no normal law
    assert not any(r.flagged for report in reports for r in report.rows)
    assert any("z says nothing yet of" in report.table() for report in reports)


@pytest.mark.needs("numpy")
def test_a_wrong_estimator_that_draws_nothing_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(f: Any, dist: Any) -> Any:
        return attach(backdraw.exact(f, dist), dist, (dist.mean(),), estimator="twice")

    monkeypatch.setitem(ESTIMATORS, "twice", dataclasses.replace(ESTIMATORS["exact"], name="twice", function=twice))
    assert row(run("twice", repeats=1000), "twice").flagged


@pytest.mark.needs("numpy")
def test_a_partial_function_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    part = functools.partial(backdraw.rloo, samples=3)
    monkeypatch.setitem(ESTIMATORS, "part", dataclasses.replace(ESTIMATORS["rloo"], name="part", function=part))
    assert [r.name for r in run("part", repeats=100).rows] == ["part"]


@pytest.mark.needs("numpy")
def test_an_f_that_takes_exact_draws_alone() -> None:
    def strict(x: Any) -> Any:
        if not np.isin(x, (0.0, 1.0)).all():
            raise ValueError("bits\nalone")
        return cost(x)

    report = run("rloo", "rebar", f=strict, repeats=20)
    assert [r.name for r in report.rows] == ["rloo"]
    assert dict(report.left_out)["rebar"] == "f, differentiated or given relaxed draws, raised ValueError: bits"

    def broken(x: Any) -> Any:
        if x.shape[0] == 2:  # rloo's samples, and not those of the reference
            raise KeyError("lost")
        return cost(x)

    with pytest.raises(KeyError, match="lost"):
        run("rloo", f=broken, repeats=20)


@pytest.mark.needs("numpy")
def test_what_cannot_be_measured_is_listed() -> None:
    report = run(repeats=20)
    reasons = dict(report.left_out)
    assert {r.name for r in report.rows} | set(reasons) == set(ESTIMATORS)
    assert reasons["draw"] == "its draws carry no gradient"
    assert reasons["pathwise"] == "it is for continuous distributions"
    assert reasons["arsm"].startswith("it needs swaps() of Bernoulli, but ")
    assert reasons["vimco"] == "its gradient is that of another objective, the log mean exp of f"
    assert reasons["relax"] == "it needs the gradient of f, which torch and jax have, not numpy"  # f is its own surrogate
    for name, e in ESTIMATORS.items():
        if e.differentiable_f and e.domain != "continuous":
            assert reasons[name] == "it needs the gradient of f, which torch and jax have, not numpy"
    smooth = run(f=lambda x: power(x, C, p=2.0, axes=1, scale=1.0), repeats=20)
    assert {r.name for r in smooth.rows} > {"rebar", "muprop", "straight_through", "gumbel_softmax", "rloo"}


@pytest.mark.needs("numpy")
def test_relaxed_draws_can_be_measured_at_a_number_of_a_temperature() -> None:
    f = lambda x: (x * x).sum(-1)  # noqa: E731
    report = measure(f, backdraw.Concrete(LOGITS, 0.7), ["rloo", "reinforce"], 200, rng=backdraw.key(0))
    assert [row.name for row in report.rows] == ["rloo", "reinforce"]
    assert not any(row.flagged for row in report.rows)
    with pytest.raises(TypeError, match="dist: expected a number as its temperature, to be measured, got an array"):
        measure(f, backdraw.Concrete(LOGITS, np.asarray(0.7)), ["rloo"], 20)


@pytest.mark.needs("numpy")
def test_options_make_another_row() -> None:
    report = run(
        "rloo", "rloo:samples=8", "disarm", dataclasses.replace(ESTIMATORS["rloo"], name="mine", options={"samples": 8})
    )
    assert {r.name for r in report.rows} == {"rloo", "rloo:samples=8", "disarm", "mine"}
    assert numbers(row(report, "rloo:samples=8"))[1:] != numbers(row(report, "mine"))[1:]  # each has noise of its own
    for name in ("rloo:samples=8", "mine"):  # better than the mean of four of the pairs: the baseline is better too
        assert row(report, name).variance.value < row(report, "rloo").variance.value / 4


@pytest.mark.needs("numpy")
def test_nan_gradients_are_counted() -> None:
    f = lambda x: np.where(x.sum(-1) == 3, np.nan, cost(x))  # noqa: E731
    report = run("rloo", f=f)
    r = row(report, "rloo")
    assert 0 < r.nan < 400
    assert r.repeats == 400 - r.nan
    assert r.complete
    assert f"rloo: {r.nan} gradients were not finite" in report.table()


# ------------------------------------------------------------------------------------- what the result does not depend on
def numbers(r: Row) -> tuple[Any, ...]:
    """What a row says apart from the time."""
    return (r.name, r.repeats, *r.bias, *r.variance, *r.error, *r.cosine, r.z)


@pytest.mark.needs("numpy")
def test_what_else_is_measured_changes_nothing() -> None:
    alone, among = run("rloo", repeats=250), run("disarm", "reinforce", "rloo", repeats=250)
    assert numbers(row(alone, "rloo")) == numbers(row(among, "rloo"))


@pytest.mark.needs("numpy")
def test_the_first_repeats_are_the_same_however_many_follow() -> None:
    seen: dict[int, list[np.ndarray]] = {}
    s = sampler.Sampler(cost, backdraw.Bernoulli(LOGITS))
    for order in ((0, 1, 2), (2, 0, 1)):
        step = s.step(ESTIMATORS["rloo"], KEY, 100)
        for block in order:
            seen.setdefault(block, []).append(s.run(step, block)[0])
    for first, second in seen.values():
        assert np.array_equal(first, second)
    assert not np.array_equal(seen[0][0], seen[1][0])


@pytest.mark.needs("numpy")
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def f(x: Any) -> Any:
        shapes.append(x.shape)
        return cost(x)

    monkeypatch.setattr(sampler, "NUMBERS", 30)
    report = run("rloo", f=f, repeats=35)
    assert row(report, "rloo").repeats == 35
    assert max(shape[1] for shape in shapes) == 10


def test_on_every_framework(framework: Library) -> None:
    with framework.be.double():
        c = framework.asarray(C)
        names = ("rloo", "unordered_set", "gumbel_softmax", "select")
        report = measure(
            lambda x: power(x, c, p=2.0, axes=1, scale=1.0), backdraw.Bernoulli(framework.asarray(LOGITS)), names, 150, rng=KEY
        )
    expected = run(*names, f=lambda x: power(x, C, p=2.0, axes=1, scale=1.0), repeats=150)
    assert [r.name for r in report.rows] == [r.name for r in expected.rows]
    for ours, other in zip(report.rows, expected.rows, strict=True):
        np.testing.assert_allclose(numbers(ours)[1:], numbers(other)[1:], rtol=1e-6, atol=1e-9)
        assert ours.seconds.value > 0


# ------------------------------------------------------------------------------------------- progress, Ctrl-C, bad input
@pytest.mark.needs("numpy")
def test_interruption_keeps_what_there_is() -> None:
    calls: list[tuple[int, int, str]] = []

    def progress(*call: Any) -> None:
        calls.append(call)
        if len(calls) == 5:
            raise KeyboardInterrupt

    report = run("rloo", "disarm", repeats=1000, progress=progress)
    assert calls == [(1, 20, "rloo"), (2, 20, "disarm"), (3, 20, "rloo"), (4, 20, "disarm"), (5, 20, "rloo")]
    assert report.interrupted
    assert (row(report, "rloo").repeats, row(report, "disarm").repeats) == (300, 200)
    assert not any(r.complete for r in report.rows)
    assert "Interrupted" in report.table()
    assert numbers(row(report, "rloo")) == numbers(row(run("rloo", repeats=300), "rloo"))
    assert Report.from_json(report.to_json()).to_json() == report.to_json()


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"estimators": ["rlo"]}, InvalidValueError, "there is no 'rlo'; did you mean rloo?"),
        ({"estimators": [3]}, InvalidTypeError, "estimators: expected names or entries, got int"),
        ({"estimators": ["rloo:n=2"]}, InvalidValueError, "estimators: rloo takes samples, got 'n=2'"),
        ({"repeats": 1}, InvalidValueError, "repeats: expected 2 or more, got 1"),
        ({"repeats": 2.0}, InvalidTypeError, "repeats: expected an int, got float"),
        ({"reference": 3}, InvalidValueError, "reference: expected 200 or more, got 3"),
        ({"f": lambda x: x.sum()}, InvalidValueError, "f: expected values of shape"),
        ({"f": lambda x: x[:, 0, 0]}, InvalidValueError, "one more batch axis than dist has"),
        ({"f": lambda x: None}, InvalidTypeError, "f: expected a function that returns numpy arrays"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"f": cost, "dist": backdraw.Bernoulli(LOGITS), "rng": KEY, **options}
    with pytest.raises(error) as raised:
        measure(given.pop("f"), given.pop("dist"), **given)
    assert message in str(raised.value)
