"""Schedules: their end points, their formulas, and their steps as numbers or arrays, traced or not."""

import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
from helpers import Library

from backdraw import schedules

A, B, N = 2.0, 0.5, 100
SHAPES = {
    "linear": lambda s: A + (B - A) * s,
    "exponential": lambda s: A * (B / A) ** s,
    "cosine": lambda s: B + (A - B) * (1 + math.cos(math.pi * s)) / 2,
}


@pytest.mark.parametrize("name", SHAPES)
def test_formula(name: str) -> None:
    schedule = getattr(schedules, name)(A, B, N)
    for step in (0, 1, 37, 99, 100, 1000, 50.5):
        assert schedule(step) == pytest.approx(SHAPES[name](min(step / N, 1.0)), rel=1e-12)
        assert isinstance(schedule(step), float)
    assert schedule(-5) == pytest.approx(A)
    values = [schedule(k) for k in range(N + 1)]
    assert all(x > y for x, y in itertools.pairwise(values))
    assert getattr(schedules, name)(B, A, N)(N) == pytest.approx(A)


@pytest.mark.parametrize("name", SHAPES)
def test_says_what_it_is(name: str) -> None:
    schedule = getattr(schedules, name)(2, 0.5, 100)
    assert repr(schedule) == f"{name}(start=2.0, stop=0.5, steps=100)"
    assert repr(schedules.constant(1)) == "constant(value=1.0)"
    copied = pickle.loads(pickle.dumps(schedule))
    assert copied == schedule
    assert copied(37) == schedule(37)
    assert schedule != getattr(schedules, name)(2, 0.5, 101)
    assert len({schedules.linear(A, B, N), schedules.exponential(A, B, N), schedules.cosine(A, B, N)}) == 3


def test_constant() -> None:
    assert [schedules.constant(0.5)(k) for k in (0, 10**6)] == [0.5, 0.5]


@pytest.mark.parametrize("name", SHAPES)
def test_array_steps(lib: Library, name: str) -> None:
    schedule = getattr(schedules, name)(A, B, N)
    for step in (0.0, 37.0, 200.0):
        out = schedule(lib.asarray(np.asarray(step), "float32"))
        lib.check(out, np.asarray(SHAPES[name](min(step / N, 1.0))), dtype="float32", rtol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_integer_array_steps(lib: Library, name: str) -> None:
    out = getattr(schedules, name)(A, B, N)(lib.asarray(np.asarray(37)))
    assert float(lib.to_numpy(out)) == pytest.approx(SHAPES[name](0.37), rel=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_numpy_scalars(name: str) -> None:
    for step in (np.int64(37), np.float64(37.0)):
        assert float(getattr(schedules, name)(A, B, N)(step)) == pytest.approx(SHAPES[name](0.37))


@pytest.mark.needs("jax")
@pytest.mark.parametrize("name", SHAPES)
def test_under_jit(name: str) -> None:
    import jax

    schedule = getattr(schedules, name)(A, B, N)
    for step in (0, 37, 500):
        assert float(jax.jit(schedule)(step)) == pytest.approx(SHAPES[name](min(step / N, 1.0)), rel=1e-6)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", SHAPES)
def test_under_compile(name: str) -> None:
    import torch

    torch._dynamo.reset()
    compiled = torch.compile(getattr(schedules, name)(A, B, N), fullgraph=True, backend="eager")
    assert float(compiled(torch.tensor(37.0))) == pytest.approx(SHAPES[name](0.37), rel=1e-6)


def test_as_a_temperature(lib: Library) -> None:
    import backdraw

    x = lib.asarray(np.asarray([0.1, 0.2, 0.3]))
    t = schedules.linear(A, B, N)(lib.asarray(np.asarray(50.0)))
    lib.check(backdraw.select(x, temperature=t), [0.0, 0.0, 1.0], dtype="float64")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1, 10), ValueError, "start: expected a positive finite number, got 0"),
        ((1, -1.0, 10), ValueError, "stop: expected a positive finite number, got -1.0"),
        ((1, math.inf, 10), ValueError, "stop: expected a positive finite number, got inf"),
        ((1, 0.5, 0), ValueError, "steps: expected at least 1, got 0"),
        ((1, 0.5, 2.0), TypeError, "steps: expected an int, got float"),
        ((1, 0.5, True), TypeError, "steps: expected an int, got bool"),
        (("1", 0.5, 2), TypeError, "start: expected a positive number, got str"),
    ],
)
def test_bad_arguments(name: str, arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(schedules, name)(*arguments)


def test_numbers_of_numpy() -> None:
    assert schedules.linear(np.float32(1.0), 0.5, np.int64(4))(2) == schedules.linear(1.0, 0.5, 4)(2)


def test_bad_constant() -> None:
    with pytest.raises(ValueError, match="value: expected a positive finite number, got 0"):
        schedules.constant(0)
