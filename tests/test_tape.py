"""The tape of the libraries without automatic differentiation: every broken chain is an error, and says where."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from helpers import Library
from user_primitives import cube, exp, scaled

import backdraw
from backdraw import Categorical, GradientError

X, G = np.asarray([[0.3, -0.7], [1.1, 0.4]]), np.asarray([[1.0, 2.0], [-3.0, 0.5]])
on_numpy = pytest.mark.needs("numpy")


# ----------------------------------------------------------------------------------------------------- broken chains
BROKEN = {
    "arithmetic before": lambda x: exp(x * 2.0),
    "arithmetic after": lambda x: exp(x) * 2.0,
    "arithmetic between": lambda x: exp(cube(x) + 1.0),
    "indexing before": lambda x: exp(x[0, ...]),
    "indexing after": lambda x: exp(x)[0, ...],
    "the input itself, changed": lambda x: -x,
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_chain(taped: Library, case: str) -> None:
    with pytest.raises(GradientError, match=r"backdraw\.primitive.*backdraw\.stop_gradient"):
        backdraw.vjp(BROKEN[case], taped.asarray(X))


def test_unused_input(taped: Library) -> None:
    with pytest.raises(GradientError, match=r"input 1 of fn, of shape \(2, 2\), does not lead to its output.*recorded: cube"):
        backdraw.vjp(lambda a, b: cube(a), taped.asarray(X), taped.asarray(X))


def test_constant_output(taped: Library) -> None:
    constant = taped.asarray(X)
    with pytest.raises(GradientError, match=r"the output of fn, of shape \(2, 2\), cannot be reached.*recorded: none"):
        backdraw.vjp(lambda x: constant, taped.asarray(X))


@on_numpy
@pytest.mark.parametrize(
    ("fn", "operation"),
    [
        (lambda x: exp(x * 2.0), "numpy.multiply"),
        (lambda x: exp(np.sin(x)), "numpy.sin"),
        (lambda x: exp(np.sum(x, axis=0)), "numpy.(sum|add)"),
        (lambda x: exp(x.sum(axis=0)), "numpy.add"),
        (lambda x: exp(np.concatenate([x, x])), "numpy.concatenate"),
        (lambda x: exp(np.where(x > 0, x, 0.0)), "numpy.where"),
        (lambda x: exp(x @ np.eye(2)), "numpy.matmul"),
        (lambda x: exp(x[0]), "a NumPy view"),
        (lambda x: exp(x.reshape(4)), "a NumPy view"),
        (lambda x: exp(x.T), "a NumPy view"),
        (lambda x: exp(np.asanyarray(x) + 1.0), "numpy.add"),
        (lambda x: exp(x[0] * 2.0 + 1.0), "numpy.add"),
    ],
)  # fmt: skip
def test_before_a_primitive_names_the_operation(fn: Any, operation: str) -> None:
    with pytest.raises(GradientError, match=rf"broke before exp: an argument of shape .* came from {operation}"):
        backdraw.vjp(fn, X)


@on_numpy
@pytest.mark.parametrize(
    ("fn", "operation"),
    [
        (lambda x: exp(x) * 2.0, "numpy.multiply"),
        (lambda x: np.sum(exp(x)), "numpy.(sum|add)"),
        (lambda x: exp(x)[0], "a NumPy view"),
        (lambda x: x, None),
    ],
)
def test_after_a_primitive_names_the_operation(fn: Any, operation: str | None) -> None:
    if operation is None:  # the identity is no break
        np.testing.assert_array_equal(backdraw.vjp(fn, X)[1](G)[0], G)
        return
    with pytest.raises(GradientError, match=rf"the output of fn.*came from {operation}"):
        backdraw.vjp(fn, X)


@on_numpy
def test_only_one_of_two_paths_is_broken() -> None:
    # A gradient does come back through the first argument: without the mark it would silently be half of the truth.
    with pytest.raises(GradientError, match=r"broke before scaled.*numpy\.multiply"):
        backdraw.vjp(lambda x: scaled(x, X, x * 2.0), X)


@on_numpy
def test_escape_through_asarray() -> None:
    for escape in (np.asarray, np.array, lambda x: np.ascontiguousarray(x), lambda x: x.view(np.ndarray)):
        with pytest.raises(GradientError):
            backdraw.vjp(lambda x, escape=escape: exp(escape(x)), X)
        with pytest.raises(GradientError):  # the other argument does not hide it
            backdraw.vjp(lambda x, y, escape=escape: scaled(x, X, escape(y)), X, X)


@on_numpy
def test_assignment_into_an_array() -> None:
    def fn(x: Any) -> Any:
        out = np.zeros((2, 2))
        out[...] = x
        return exp(out)

    with pytest.raises(GradientError):
        backdraw.vjp(fn, X)


@on_numpy
def test_pullback_inside_an_outer_vjp_is_no_constant() -> None:
    def gradient_norm(x: Any) -> Any:
        (inner,) = backdraw.vjp(cube, x)[1](G)
        return exp(inner)

    with pytest.raises(GradientError, match=r"the pullback of an inner backdraw\.vjp"):
        backdraw.vjp(gradient_norm, X)


# ------------------------------------------------------------------------------------------------ what is no break
@on_numpy
def test_metrics_inside_fn() -> None:
    seen: dict[str, Any] = {}

    def fn(x: Any) -> Any:
        y = exp(x)
        seen["mean"], seen["max"], seen["norm"] = float(np.mean(y)), y.max(), np.linalg.norm(x)
        seen["text"], seen["any"], seen["index"] = f"{y[0, 0]:.3f}", bool((y > 1).any()), int(np.argmax(y))
        return cube(y)

    _, pullback = backdraw.vjp(fn, X)
    np.testing.assert_allclose(pullback(G)[0], 3 * np.exp(X) ** 3 * G, rtol=1e-14)
    assert seen["mean"] == np.mean(np.exp(X))
    assert seen["index"] == np.argmax(X)


@on_numpy
def test_derived_arrays_leave_the_vjp_as_plain_numpy() -> None:
    kept: list[Any] = []

    def fn(x: Any) -> Any:
        kept.append(x)
        return exp(x)

    y, _ = backdraw.vjp(fn, X)
    assert type(y) is np.ndarray
    assert type(kept[0] + 1.0) is np.ndarray  # the tape is off: arithmetic breaks nothing any more
    np.testing.assert_array_equal(exp(kept[0] + 1.0), np.exp(X + 1.0))


def test_stop_gradient_declares_a_constant(taped: Library) -> None:
    def fn(x: Any) -> Any:
        constant = backdraw.stop_gradient(x) * 2.0
        return scaled(x, constant, x)

    _, pullback = backdraw.vjp(fn, taped.asarray(X))
    taped.check(pullback(taped.asarray(G))[0], G * 2.0 * X + G, rtol=1e-14)


@on_numpy
def test_stop_gradient_of_derived_array() -> None:
    _, pullback = backdraw.vjp(lambda x: scaled(x, backdraw.stop_gradient(x * 2.0), x), X)
    np.testing.assert_allclose(pullback(G)[0], G * 2.0 * X + G, rtol=1e-14)


@on_numpy
def test_fn_sees_read_only_arrays_and_the_caller_keeps_its_own() -> None:
    def fn(x: Any) -> Any:
        with pytest.raises(ValueError, match="read-only"):
            x[0, 0] = 5.0
        with pytest.raises(ValueError, match=r"read-only|could not be assigned|not writeable"):
            x += 1.0
        return exp(x)

    mine = X.copy()
    backdraw.vjp(fn, mine)
    assert mine.flags.writeable
    np.testing.assert_array_equal(mine, X)


@on_numpy
def test_rule_of_the_wrong_shape() -> None:
    @backdraw.primitive
    def wrong(be: Any, x: Any) -> Any:
        return x * x

    wrong.defvjp(lambda be, x: (x * x, (x,)), lambda be, res, g: (g[0],))
    with pytest.raises(
        GradientError, match=r"wrong: its rule returned a gradient of shape \(2,\) for an input of shape \(2, 2\)"
    ):
        backdraw.vjp(wrong, X)[1](G)


@on_numpy
def test_an_error_in_fn_leaves_no_tape_behind() -> None:
    with pytest.raises(ZeroDivisionError):
        backdraw.vjp(lambda x: 1 // 0, X)
    assert type(exp(X)) is np.ndarray
    np.testing.assert_array_equal(exp(X * 2.0), np.exp(X * 2.0))


@on_numpy
def test_tapes_of_threads_are_separate() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def work(i: int) -> Any:
        return backdraw.vjp(lambda x: exp(cube(x)), X + 0.01 * i)[1](G)[0]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(64)))
    for i, grad in enumerate(results):
        x = X + 0.01 * i
        np.testing.assert_allclose(grad, G * np.exp(x**3) * 3 * x**2, rtol=1e-13)


def test_other_threads_record_nothing_and_say_so() -> None:
    def run(f: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(f).result()

    logits, g = np.asarray([0.1, 0.2, 0.9]), np.asarray(1.0)
    for elsewhere in (
        lambda l: Categorical(l).mean(),
        lambda l: backdraw.vjp(lambda q: Categorical(q).mean(), l)[1](np.arange(3.0))[0],
    ):
        with pytest.raises(GradientError, match="was used on another thread"):
            backdraw.vjp(lambda l, f=elsewhere: Categorical(l).log_prob(run(lambda: f(l))), logits)
    with pytest.raises(GradientError, match=r"came from numpy\.multiply"):
        backdraw.vjp(lambda l: Categorical(l).log_prob(run(lambda: l * 2.0)), logits)
    constant = run(lambda: Categorical(logits).mean())
    expected = backdraw.vjp(lambda l: Categorical(l).log_prob(constant), logits)[1](g)[0]

    def stopped(l: Any) -> Any:
        s = backdraw.stop_gradient(l)
        return Categorical(l).log_prob(run(lambda: Categorical(s).mean()))

    np.testing.assert_array_equal(backdraw.vjp(stopped, logits)[1](g)[0], expected)
