"""vjp and value_and_grad: the same call on every backend."""

from typing import Any

import numpy as np
import pytest
from helpers import Library
from user_primitives import cube, exp, scaled

import backdraw

X, G = np.asarray([0.3, -0.7, 1.1]), np.asarray([1.0, 2.0, -3.0])


@backdraw.primitive
def total(be: Any, x: Any) -> Any:
    """Sum of everything."""
    return be.xp.sum(x)


total.defvjp(lambda be, x: (be.xp.sum(x), (x,)), lambda be, res, g: (g * be.xp.ones_like(res[0]),))


def test_pullback_twice(lib: Library) -> None:
    _, pullback = backdraw.vjp(cube, lib.asarray(X))
    for factor in (1.0, -2.0):
        lib.check(pullback(lib.asarray(factor * G))[0], factor * 3 * X**2 * G, rtol=1e-14)


def test_tuple_of_outputs(lib: Library) -> None:
    outs, pullback = backdraw.vjp(lambda x: (cube(x), exp(x)), lib.asarray(X))
    assert isinstance(outs, tuple)
    lib.check(outs[0], X**3, rtol=1e-14)
    lib.check(outs[1], np.exp(X), rtol=1e-14)
    (grad,) = pullback((lib.asarray(G), lib.asarray(2 * G)))
    lib.check(grad, 3 * X**2 * G + 2 * G * np.exp(X), rtol=1e-14)


def test_an_array_may_be_output_twice(lib: Library) -> None:
    def fn(x: Any) -> Any:
        y = cube(x)
        return y, y

    _, pullback = backdraw.vjp(fn, lib.asarray(X))
    lib.check(pullback((lib.asarray(G), lib.asarray(G)))[0], 6 * X**2 * G, rtol=1e-14)


def test_several_inputs(lib: Library) -> None:
    y, pullback = backdraw.vjp(lambda a, b: scaled(a, lib.asarray(X), exp(b)), lib.asarray(X), lib.asarray(2 * X))
    lib.check(y, X * X + np.exp(2 * X), rtol=1e-14)
    to_a, to_b = pullback(lib.asarray(G))
    lib.check(to_a, G * X, rtol=1e-14)
    lib.check(to_b, G * np.exp(2 * X), rtol=1e-14)


def test_same_array_as_two_inputs(lib: Library) -> None:
    x = lib.asarray(X)
    _, pullback = backdraw.vjp(lambda a, b: scaled(a, lib.asarray(X), exp(b)), x, x)
    to_a, to_b = pullback(lib.asarray(G))
    lib.check(to_a, G * X, rtol=1e-14)
    lib.check(to_b, G * np.exp(X), rtol=1e-14)


def test_value_and_grad(lib: Library) -> None:
    value, (grad,) = backdraw.value_and_grad(lambda x: total(cube(x)))(lib.asarray(X))
    lib.check(value, np.sum(X**3), rtol=1e-14)
    lib.check(grad, 3 * X**2, rtol=1e-14)


def test_value_and_grad_wants_a_scalar(lib: Library) -> None:
    with pytest.raises(
        ValueError, match=r"fn: expected a function that returns a scalar array of shape \(\), got shape \(3,\)"
    ):
        backdraw.value_and_grad(cube)(lib.asarray(X))
    with pytest.raises(ValueError, match=r"fn: expected .* scalar array .*got tuple"):
        backdraw.value_and_grad(lambda x: (total(x), total(x)))(lib.asarray(X))


def test_nested_vjp_value(lib: Library) -> None:
    # The inner vjp's output leads back to the outer vjp's input.
    def fn(x: Any) -> Any:
        y, pullback = backdraw.vjp(cube, x)
        inner = pullback(lib.asarray(G))[0]
        if not lib.backend.differentiates:  # theirs cannot be read inside
            lib.check(backdraw.stop_gradient(inner), 3 * X**2 * G, rtol=1e-14)
        return exp(y)

    y, pullback = backdraw.vjp(fn, lib.asarray(X))
    lib.check(y, np.exp(X**3), rtol=1e-14)
    lib.check(pullback(lib.asarray(G))[0], np.exp(X**3) * 3 * X**2 * G, rtol=1e-14)


def test_nested_vjp_with_closed_over_input(lib: Library) -> None:
    def fn(x: Any) -> Any:
        return backdraw.vjp(lambda b: scaled(x, lib.asarray(X), b), lib.asarray(X))[0]

    _, pullback = backdraw.vjp(fn, lib.asarray(X))
    lib.check(pullback(lib.asarray(G))[0], G * X, rtol=1e-14)


def test_wrong_cotangent(lib: Library) -> None:
    _, pullback = backdraw.vjp(cube, lib.asarray(X))
    if lib.backend.differentiates:  # the framework's own message
        with pytest.raises((ValueError, RuntimeError)):
            pullback(lib.asarray(G[:2]))
        return
    with pytest.raises(ValueError, match=r"cotangent: expected the output's shape \(3,\), got \(2,\)"):
        pullback(lib.asarray(G[:2]))
    with pytest.raises(TypeError, match=r"cotangent: expected a .* array, got list"):
        pullback([1.0, 2.0, 3.0])
    _, pullback = backdraw.vjp(lambda x: (cube(x), exp(x)), lib.asarray(X))
    with pytest.raises(ValueError, match="cotangent: expected 2, one per output, got 1"):
        pullback((lib.asarray(G),))


def test_integer_inputs_are_refused(lib: Library) -> None:
    with pytest.raises(TypeError, match=r"arrays: expected real floating arrays, got .*int64 at position 1"):
        backdraw.vjp(scaled, lib.asarray(X), lib.asarray([1, 2, 3]), lib.asarray(X))


def test_no_arrays() -> None:
    with pytest.raises(TypeError, match="expected at least one array, got none"):
        backdraw.vjp(lambda: None)


def test_inputs_are_not_written_to(lib: Library) -> None:
    x, g = lib.asarray(X), lib.asarray(G)
    backdraw.vjp(lambda x: exp(cube(x)), x)[1](g)
    lib.check(x, X, rtol=0)
    lib.check(g, G, rtol=0)


def test_stop_gradient_keeps_values(lib: Library) -> None:
    lib.check(backdraw.stop_gradient(lib.asarray(X)), X, rtol=0)


@pytest.mark.needs("jax")
def test_stop_gradient_on_jax() -> None:
    import jax

    assert jax.grad(lambda x: cube(x) * backdraw.stop_gradient(x))(2.0 * jax.numpy.ones(())) == 3 * 4.0 * 2.0


@pytest.mark.needs("torch")
def test_stop_gradient_on_torch() -> None:
    import torch

    x = torch.tensor(2.0, requires_grad=True)
    (cube(x) * backdraw.stop_gradient(x)).backward()
    assert x.grad == 3 * 4.0 * 2.0
