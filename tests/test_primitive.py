"""Users' own primitives: one rule, every backend."""

from typing import Any

import numpy as np
import pytest
from helpers import Library
from user_primitives import cube, exp, power, scaled, soft, sort, x_sin

import backdraw
from backdraw import primitive
from backdraw.backend import remembered

RNG = np.random.default_rng(7)
X, G = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))


S = np.exp(X) / np.exp(X).sum(-1, keepdims=True)

CASES = {
    "cube": (cube, X**3, 3 * X**2 * G),
    "exp": (exp, np.exp(X), np.exp(X) * G),
    "x_sin": (lambda x: x_sin(x, factor=2.0), 2 * X * np.sin(X), 2 * G * (np.sin(X) + X * np.cos(X))),
    "sort": (sort, np.sort(X), np.take_along_axis(G, np.argsort(np.argsort(X)), -1)),
    "soft": (soft, S, S * (G - (S * G).sum(-1, keepdims=True))),
    "power": (lambda x: power(x, n=3), X**3, 3 * X**2 * G),
    "chain": (lambda x: exp(cube(x)), np.exp(X**3), np.exp(X**3) * 3 * X**2 * G),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(lib: Library, case: str) -> None:
    f, value, gradient = CASES[case]
    x = lib.asarray(X)
    lib.check(f(x), value, rtol=1e-14)
    y, pullback = backdraw.vjp(f, x)
    lib.check(y, value, rtol=1e-14)
    (grad,) = pullback(lib.asarray(G))
    lib.check(grad, gradient, rtol=1e-12, atol=1e-15)
    lib.check(x, X, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept(lib: Library, dtype: str) -> None:
    y, pullback = backdraw.vjp(lambda x: exp(cube(x)), lib.asarray(X, dtype))
    lib.check(y, np.exp(X**3), dtype=dtype)
    lib.check(pullback(lib.asarray(G, dtype))[0], np.exp(X**3) * 3 * X**2 * G, dtype=dtype)


def test_several_inputs_and_none(lib: Library) -> None:
    a, b, c = (lib.asarray(v) for v in (X, X + 1.0, X - 1.0))
    y, pullback = backdraw.vjp(lambda a, c: scaled(a, b, c), a, c)
    lib.check(y, X * (X + 1.0) + X - 1.0, rtol=1e-14)
    to_a, to_c = pullback(lib.asarray(G))
    lib.check(to_a, G * (X + 1.0), rtol=1e-14)
    lib.check(to_c, G, rtol=0)


def test_none_gradient_of_an_input(lib: Library) -> None:
    arrays = [lib.asarray(v) for v in (X, X + 1.0, X - 1.0)]
    if lib.backend.differentiates:
        grads = backdraw.vjp(scaled, *arrays)[1](lib.asarray(G))
        lib.check(grads[1], 0.0 * X, rtol=0)
    else:
        _, pullback = backdraw.vjp(scaled, *arrays)
        with pytest.raises(backdraw.GradientError, match=r"input 1 of fn, of shape \(3, 4\).*None"):
            pullback(lib.asarray(G))


def test_same_array_twice(lib: Library) -> None:
    _, pullback = backdraw.vjp(lambda x: scaled(x, lib.asarray(X), x), lib.asarray(X))
    lib.check(pullback(lib.asarray(G))[0], G * X + G, rtol=1e-14)


def test_without_a_rule(lib: Library) -> None:
    @primitive
    def bare(be: Any, x: Any) -> Any:
        return x + 1.0

    x = lib.asarray(X)
    lib.check(bare(x), X + 1.0, rtol=0)
    with pytest.raises(backdraw.GradientError, match=r"'bare' has no gradient rule: give it one with bare\.defvjp"):
        backdraw.vjp(bare, x)[1](lib.asarray(G))


def test_no_forward_mode_without_symmetry(lib: Library) -> None:
    with pytest.raises(backdraw.GradientError, match="'cube' has no forward-mode rule"):
        cube.pushforward(lib.be, (lib.asarray(X),), (lib.asarray(G),))


def test_name_and_repr() -> None:
    assert cube.name == "cube"
    assert repr(cube) == "<primitive cube>"
    assert power.name == "Power"
    assert cube.__doc__ == "An input as residual."


@pytest.mark.parametrize("bad", [[1.0, 2.0], 1.0, "x"])
def test_not_an_array(bad: Any) -> None:
    with pytest.raises(TypeError, match=f"expected an array of NumPy.*got {type(bad).__name__}"):
        cube(bad)


@pytest.mark.needs("torch", "jax")
def test_mixed_frameworks() -> None:
    import jax.numpy as jnp
    import torch

    with pytest.raises(TypeError, match=r"one framework, got: numpy ndarray, torch Tensor"):
        scaled(np.ones(3), torch.ones(3), np.ones(3))
    with pytest.raises(TypeError, match=r"one framework, got: jaxlib ArrayImpl, torch Tensor"):
        scaled(jnp.ones(3), torch.ones(3), jnp.ones(3))
    with pytest.raises(TypeError, match=r"one framework"):
        backdraw.vjp(lambda a, b: cube(a), np.ones(3), jnp.ones(3))


def test_operations_that_adapters_offer(lib: Library) -> None:
    values, index = lib.be.top_k(lib.asarray([[3.0, 1.0, 2.0, 5.0], [-1.0, -2.0, 0.0, -3.0]]), 2)
    lib.check(values, np.asarray([[5.0, 3.0], [0.0, -1.0]]))
    np.testing.assert_array_equal(lib.to_numpy(index), [[3, 0], [2, 0]])


def test_what_is_remembered_is_bounded() -> None:
    calls: list[int] = []
    once = remembered(lambda n: calls.append(n))
    for n in (0, 0, *range(1, 200)):  # as many graphs as a data set has
        once(n)
    assert calls == list(range(200))
    once(0)
    assert calls[-1] == 0
