"""Trainings with every estimator: their curves against plain formulas, and that they depend on nothing but the key."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from helpers import Library, sigmoid

import backdraw
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators import ESTIMATORS
from backdraw.study.adam import SGD, Adam
from backdraw.study.costs import power
from backdraw.study.curves import Curves
from backdraw.study.problems import PROBLEMS
from backdraw.study.sampler import unfit
from backdraw.study.spread import over_processes
from backdraw.study.training import Training, points, train

KEY = backdraw.key(5)
START = np.asarray([0.4, -0.3, 0.9])
C = np.asarray([0.6, 0.51, 0.48])
PLAIN = Training(SGD(0.5), 40)
numpy_only = pytest.mark.needs("numpy")


def run(*names: str, training: Training = PLAIN, xp: Any = np, f: Any = None, **options: Any) -> Curves:
    """Train three bits."""
    start, c = (xp.asarray(x.tolist(), dtype=xp.float64) for x in (START, C))
    cost = f or (lambda x: power(x, c, p=2.0, axes=1, scale=1.0))
    options = {"trainings": 3, "gradients": 4, "rng": KEY} | options
    return train(cost, backdraw.Bernoulli(start), training, names or None, **options)


def values(curves: Curves) -> Any:
    """What is drawn, by estimator, as numbers."""
    return {c.name: np.asarray([c.objective, c.variance]) for c in curves.curves}


def loss(logits: np.ndarray) -> float:
    """E of the sum of (x - C)^2."""
    p = sigmoid(logits)
    return float((p * (1 - C) ** 2 + (1 - p) * C**2).sum())


# ------------------------------------------------------------------------------------------------------- the numbers
@numpy_only
@pytest.mark.parametrize("optimizer", [SGD(0.5), Adam(0.1)])
def test_the_exact_gradient_descends_as_by_hand(optimizer: Any) -> None:
    (curve,) = run("exact", training=Training(optimizer, 40)).curves
    logits, mean, square, expected = START, 0.0, 0.0, {0: loss(START)}
    for n in range(1, 41):
        p = sigmoid(logits)
        g = p * (1 - p) * (1 - 2 * C)
        if isinstance(optimizer, SGD):
            logits = logits - 0.5 * g
        else:
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
            logits = logits - 0.1 * mean / (1 - 0.9**n) / (np.sqrt(square / (1 - 0.999**n)) + 1e-8)
        expected[n] = loss(logits)
    np.testing.assert_allclose([e.value for e in curve.objective], [expected[n] for n in points(40)], rtol=1e-12)
    assert {e.value for e in curve.variance} == {0.0}


@numpy_only
def test_the_variance_is_that_of_one_gradient() -> None:
    x = np.asarray(np.meshgrid([0.0, 1.0], [0.0, 1.0], [0.0, 1.0], indexing="ij")).reshape(3, -1).T
    p = sigmoid(START)
    probs = np.prod(np.where(x == 1, p, 1 - p), -1)
    single = ((x - C) ** 2).sum(-1)[:, None] * (x - p)
    true = probs @ (single**2).sum(-1) - ((probs @ single) ** 2).sum()
    curve = run("reinforce", training=Training(SGD(0.5), 1), trainings=40, gradients=500).curves[0]
    assert curve.variance[0].low < true < curve.variance[0].high
    assert curve.variance[0].high - curve.variance[0].low < 0.1 * true


@numpy_only
def test_toy_kl_draws_the_true_kl() -> None:
    f, p = PROBLEMS["toy-kl"].make(np)
    training: Any = PROBLEMS["toy-kl"].training
    curve = train(f, p, dataclasses.replace(training, steps=1), ["rloo"], 2, gradients=2, rng=KEY).curves[0]
    true = np.random.default_rng(0).uniform(size=(2, 5, 5))[1]
    true = true / true.sum(-1, keepdims=True)
    assert curve.objective[0].value == pytest.approx((true * (np.log(true) - p.params[0])).sum(-1).mean(), rel=1e-12)


@numpy_only
def test_problems_train_with_all_that_is_asked_of_them() -> None:
    toy, bits = PROBLEMS["toy-kl"].training, PROBLEMS["bernoulli-toy"].training
    assert toy is not None
    assert bits is not None
    assert (toy.optimizer, toy.steps) == (SGD(0.01), 50_000)
    assert toy.grid == (
        *(f"intermediate_loss:step_size={s}" for s in (0.1, 0.01, 0.001)),
        *(f"gumbel_softmax:temperature={t}" for t in (0.1, 1, 10)),
    )
    for problem, training in (("toy-kl", toy), ("bernoulli-toy", bits)):
        f, p = PROBLEMS[problem].make(np)
        found = train(f, p, dataclasses.replace(training, steps=1), None, 2, gradients=2, rng=KEY)
        named = {c.name for c in found.curves}
        draws = {n for n, e in ESTIMATORS.items() if e.kind == "draw" and not unfit(e, p)}
        assert draws - {"intermediate_loss", "gumbel_softmax"} <= named
        assert set(training.grid) <= named
        assert {"rloo"} <= named
    assert {"rebar", "relax", "disarm", "reinforce", "hard_concrete"} <= named


# ------------------------------------------------------------------------------------------------------ reproducible
def test_one_key_gives_one_curve(framework: Library) -> None:
    names, short = ("disarm", "straight_through", "gumbel_softmax:temperature=0.5"), Training(Adam(0.1), 5)
    with framework.be.double():
        ours = values(run(*names, training=short, xp=framework.xp))
    theirs = values(run(*names, training=short))
    assert set(ours) == set(names)
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12)


@numpy_only
def test_the_first_steps_are_the_same_however_many_follow() -> None:
    short, long = (run("rloo", training=Training(SGD(0.5), n)) for n in (10, 40))
    n = len(short.steps)
    assert long.steps[:n] == short.steps
    np.testing.assert_array_equal(values(long)["rloo"][:, :n], values(short)["rloo"])
    assert not np.array_equal(values(run("rloo", rng=backdraw.key(6)))["rloo"], values(run("rloo"))["rloo"])
    alone, beside = values(run("rloo")), values(run("arm", "rloo"))
    np.testing.assert_array_equal(alone["rloo"], beside["rloo"])


@numpy_only
def test_in_processes() -> None:
    pytest.importorskip("joblib")
    f, p = PROBLEMS["shared-bernoulli"].make(np)
    here, there = (train(f, p, PLAIN, ["rloo", "arm"], 2, rng=KEY, spread=s).to_json() for s in (map, over_processes(2)))
    assert here == there


# ------------------------------------------------------------------------------------------------------ what goes wrong
@numpy_only
def test_what_cannot_be_trained_with_is_listed() -> None:
    black_box = lambda x: np.asarray(((x - C) ** 2).sum(-1))  # noqa: E731
    found = run("rloo", "straight_through", "relax", "pathwise", f=black_box)
    assert [c.name for c in found.curves] == ["rloo"]
    reasons = dict(found.left_out)
    assert set(reasons) == {"straight_through", "relax", "pathwise"}
    assert reasons["straight_through"] == reasons["relax"] == "it needs the gradient of f, which torch and jax have, not numpy"


@numpy_only
def test_an_f_that_takes_exact_draws_alone() -> None:
    def strict(x: Any) -> Any:
        if not np.isin(x, (0.0, 1.0)).all():
            raise ValueError("bits\nalone")
        return power(x, C, p=2.0, axes=1, scale=1.0)

    found = run("rloo", "rebar", f=strict)
    assert [c.name for c in found.curves] == ["rloo"]
    assert dict(found.left_out)["rebar"] == "f, differentiated or given relaxed draws, raised ValueError: bits"


@numpy_only
def test_trainings_that_are_lost_are_counted() -> None:
    with np.errstate(all="ignore"):
        found = run("straight_through", f=lambda x: power(x, C, p=2.0, axes=1, scale=1e308))
    (curve,) = found.curves
    assert curve.lost == 3
    assert math.isnan(curve.objective[-1].value)
    assert "straight_through: 3 trainings came to numbers that are not finite" in found.table()
    assert math.isnan(Curves.from_json(found.to_json()).curves[0].objective[-1].value)


@numpy_only
def test_an_interruption_keeps_who_is_through() -> None:
    def stop(done: int, total: int, name: str) -> None:
        assert (total, name) == (2, ("arm", "rloo")[done - 1])
        raise KeyboardInterrupt

    found = run("arm", "rloo", progress=stop)
    assert found.interrupted
    assert [c.name for c in found.curves] == ["arm"]
    assert "Interrupted" in found.table()


@numpy_only
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainings": 1}, "trainings: expected 2 or more, got 1"),
        ({"gradients": 1}, "gradients: expected 2 or more, got 1"),
        ({"training": Training(SGD(0.5), 0)}, "steps: expected 1 or more, got 0"),
    ],
)
def test_bad_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        run("rloo", **options)
    with pytest.raises(InvalidTypeError, match="trainings: expected an int, got float"):
        run("rloo", trainings=2.0)


# ----------------------------------------------------------------------------------------------------- how it is shown
@pytest.mark.parametrize("steps", [1, 2, 9, 10, 1234, 50_000])
def test_points(steps: int) -> None:
    found = points(steps)
    assert found[0] == 0
    assert found[-1] == steps
    assert list(found) == sorted(set(found))
    assert {n for n in (1, 10, 100, 1000, 10_000) if n <= steps} <= set(found)


@numpy_only
@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
def test_table_json_and_pictures(tmp_path: Any) -> None:
    names = ("rloo", "arm", "gumbel_softmax:temperature=0.5", "gapped_straight_through", "implicit_mle:step_size=0.125")
    found = dataclasses.replace(run(*names, problem="bits"), grid=names[2:])
    lines = found.table().splitlines()
    assert max(map(len, lines)) <= 100
    heads = ("estimator ", *(name[:4] for name in names))
    assert len({len(line) for line in lines if line.startswith(heads)}) == 1
    assert lines[0] == "bits: Bernoulli, SGD, learning rate 0.5, 3 trainings on numpy"
    last = [c.objective[-1].value for c in found.curves]
    assert last == sorted(last)
    text = found.to_json()
    json.loads(text, parse_constant=pytest.fail)
    assert Curves.from_json(text).to_json() == text
    found.plot(tmp_path / "a.png")
    found.plot_grid(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
