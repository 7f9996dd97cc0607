"""The continuous families: numbers as parameters, bad input, and the frameworks' transformations."""

from typing import Any

import numpy as np
import pytest
from families import BATCH, FAMILIES, KEY, LOC, SCALE, families, make, points
from helpers import Backend, Library

import backdraw
from backdraw.estimators import ESTIMATORS


# -------------------------------------------------------------------------------------------- numbers and bad input
def test_numbers_are_constants(lib: Library) -> None:
    (grad,) = backdraw.vjp(lambda s: backdraw.Normal(1, s).entropy(), lib.asarray(SCALE))[1](lib.asarray(SCALE))
    lib.check(grad, np.ones_like(SCALE), rtol=1e-12)
    p = backdraw.Normal(lib.asarray(LOC, "float32"), 2.0)
    lib.check(p.scale, np.full(3, 2.0), dtype="float32")


@pytest.mark.parametrize("number", [np.sqrt(2.0), np.float32(2.0), np.int64(2)])
def test_scalars_of_numpy_are_numbers_beside_other_arrays(lib: Library, number: Any) -> None:
    loc = lib.asarray(LOC)
    if isinstance(loc, np.ndarray):  # there they are arrays, of a dtype
        if number.dtype != LOC.dtype:
            with pytest.raises(TypeError, match="scale: expected "):
                backdraw.Normal(loc, number)
        return
    lib.check(backdraw.Normal(loc, number).scale, np.full(LOC.shape, float(number)), rtol=1e-12)
    with pytest.raises(ValueError, match="scale: expected a positive finite number"):
        backdraw.Normal(loc, -number)


@pytest.mark.parametrize("name", ["Normal", "LogNormal", "Laplace", "Logistic", "Gumbel"])
def test_bad_parameters(lib: Library, name: str) -> None:
    loc = lib.asarray(LOC)
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"scale: expected a positive finite number, got {bad}"):
            make(name, loc, float(bad))
    with pytest.raises(ValueError, match="loc: expected a finite number, got nan"):
        make(name, float("nan"), loc)
    with pytest.raises(TypeError, match="loc, scale: expected at least one array, got numbers only"):
        make(name, 0.0, 1.0)
    with pytest.raises(TypeError, match=r"scale: expected the dtype of loc, .*float64, got .*float32"):
        make(name, loc, lib.asarray(LOC, "float32"))
    with pytest.raises(TypeError, match=r"loc: expected a real floating dtype, got .*int64"):
        make(name, lib.asarray(np.arange(3)), 1.0)
    with pytest.raises(ValueError, match=r"loc, scale: expected shapes that broadcast .*loc of shape \(3,\), scale of shape"):
        make(name, loc, lib.asarray(np.ones(2)))
    for bad in (True, None, [1.0]):
        with pytest.raises(TypeError, match=f"scale: expected an array.*got {type(bad).__name__}"):
            make(name, loc, bad)


def test_bad_arguments(lib: Library) -> None:
    p = backdraw.Normal(lib.asarray(LOC), 1.0)
    with pytest.raises(ValueError, match=r"x: expected a shape that broadcasts against \(3,\), got \(2,\)"):
        p.log_prob(lib.asarray(np.zeros(2)))
    with pytest.raises(TypeError, match="x: expected an array"):
        p.log_prob(0.0)
    with pytest.raises(ValueError, match=r"q: expected a shape that broadcasts against the \(3,\) of p's scale, got \(2,\)"):
        backdraw.kl(p, backdraw.Normal(lib.asarray(np.zeros(2)), 1.0))
    logistic = backdraw.Logistic(lib.asarray(LOC), 1.0)
    with pytest.raises(
        TypeError,
        match=r"dist: kl needs kl\(\) of Logistic, but its divergence is not known in closed form, .* take backdraw.reparam",
    ):
        backdraw.kl(logistic, logistic)


def test_needs_that_are_not_met(lib: Library) -> None:
    x = lib.asarray(LOC)
    for bad in (x, backdraw.Bernoulli(x)):
        with pytest.raises(TypeError, match=r"dist: reparameterize needs transport\(\) of (Categorical|Bernoulli)"):
            backdraw.reparameterize(bad, rng=KEY)
    with pytest.raises(TypeError, match="dist: straight_through is for discrete distributions, got Normal"):
        backdraw.straight_through(backdraw.Normal(x, 1.0), rng=KEY)
    uniform = backdraw.Uniform(x, 9.0)
    with pytest.raises(TypeError, match=r"dist: intermediate_loss needs score\(\) of Uniform"):
        backdraw.intermediate_loss(uniform, rng=KEY)
    assert ESTIMATORS["reparameterize"].domain == "continuous"


# -------------------------------------------------------------------------------------------------- transformations
@pytest.mark.needs("jax")
@families
def test_under_jit(name: str) -> None:
    import jax

    lib = Library(Backend.JAX)
    p, x = make(name, *map(lib.asarray, FAMILIES[name].params)), lib.asarray(points(name))

    def everything(p: Any, x: Any) -> Any:
        return p.log_prob(x), p.mean(), p.variance(), p.entropy(), backdraw.reparameterize(p, rng=KEY)

    for ours, expected in zip(jax.jit(everything)(p, x), everything(p, x), strict=True):
        lib.check(ours, np.asarray(expected), rtol=1e-12)


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning")
@families
def test_under_compile_and_vmap(name: str) -> None:
    import torch

    torch._dynamo.reset()
    params = [torch.tensor(np.broadcast_to(x, BATCH).copy()) for x in FAMILIES[name].params]
    x = torch.tensor(points(name))

    def f(x: Any, *params: Any) -> Any:
        p = make(name, *params)
        return p.log_prob(x) + backdraw.reparameterize(p, rng=KEY)

    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="eager")(x, *params), f(x, *params))
    g = lambda x, *params: f(x, *params).sum()  # noqa: E731
    every = tuple(range(1 + len(params)))
    batch = torch.func.vmap(torch.func.grad(g, argnums=every), randomness="same")(*(torch.stack([a, a]) for a in (x, *params)))
    for ours, expected in zip(batch, torch.func.grad(g, argnums=every)(x, *params), strict=True):
        torch.testing.assert_close(ours[1], expected)
