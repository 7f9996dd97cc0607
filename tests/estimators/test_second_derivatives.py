"""Second derivatives of expectations: true ones where the estimator is a derivative itself, an error elsewhere."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library
from problems import PROBLEMS, expectation

import backdraw
from backdraw.estimators import ESTIMATORS

KEY = backdraw.key(5)
ESTIMATES = [n for n, e in ESTIMATORS.items() if e.kind == "expectation" and n not in ("exact", "pathwise")]


def problem_of(name: str) -> str:
    """A problem that the estimator can be asked."""
    needs = ESTIMATORS[name].needs
    return next(k for k in ("four factors", "shared") if all(hasattr(PROBLEMS[k].make(np.zeros((2, 3))), n) for n in needs))


def estimate(name: str, problem: str, f: Any, logits: Any) -> Any:
    """Call the estimator on the problem's distribution."""
    return expectation(name, f, PROBLEMS[problem].make(logits), KEY)


@pytest.mark.parametrize("name", ESTIMATES)
def test_mixed_ones_are_refused(framework: Library, name: str) -> None:
    # Of the parameters' gradient in the weights of f, and of the weights' gradient in the parameters: a framework that
    # took the estimate, or the draws, for constants would give zero.
    if not framework.backend.differentiates:
        pytest.skip("a framework without second derivatives")
    problem = problem_of(name)
    p = PROBLEMS[problem]
    arrays = framework.asarray(p.logits[None]), framework.asarray(p.weights)

    def value(logits: Any, w: Any) -> Any:
        return framework.xp.sum(estimate(name, problem, p.smooth(w), logits))

    for first in (0, 1):
        for second in (0, 1):
            if first and second:
                continue
            with pytest.raises(backdraw.GradientError, match=f"{name} has no second derivative"):
                twice(framework, value, arrays, first, second)


def twice(lib: Library, f: Any, arrays: tuple[Any, ...], first: int, second: int) -> Any:
    """Differentiate f in one argument, and the sum of that in another."""
    if lib.backend is Backend.JAX:
        import jax

        grad = lambda *a: jax.numpy.sum(jax.grad(f, first)(*a))  # noqa: E731
        return jax.eval_shape(jax.grad(grad, second), *arrays)
    import torch

    leaves = [x.requires_grad_() for x in arrays]
    (grad,) = torch.autograd.grad(f(*leaves), leaves[first], create_graph=True)
    return torch.autograd.grad(grad.sum(), leaves[second])


@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", ["rloo", "muprop", "rebar", "disarm", "indecater", "unordered_set"])
def test_in_the_weights_of_f_alone_it_is_right(name: str) -> None:
    import torch

    lib, problem = Library(Backend.TORCH), problem_of(name)
    p = PROBLEMS[problem]
    logits = lib.asarray(p.logits[None])
    torch.autograd.gradgradcheck(
        lambda w: estimate(name, problem, p.smooth(w), logits), lib.asarray(p.weights).requires_grad_()
    )


@pytest.mark.needs("torch")
@pytest.mark.parametrize("problem", ["four factors", "shared"])
def test_exact_has_them(problem: str) -> None:
    import torch

    lib, p = Library(Backend.TORCH), PROBLEMS[problem]
    x = lib.asarray(p.states())

    def enumerated(logits: Any, w: Any) -> Any:
        if p.make is backdraw.Bernoulli:
            signs = 2 * x - 1
            logp = torch.nn.functional.logsigmoid(signs * logits).sum(-1)
        else:
            logp = (x * torch.log_softmax(logits, -1)).sum((-1, -2))
        s = (x * w).flatten(1).sum(-1)
        return torch.sum(torch.exp(logp) * (torch.cos(s) + s * s / 4))

    point = lib.asarray(p.logits), lib.asarray(p.weights)
    ours = torch.autograd.functional.hessian(lambda l, w: estimate("exact", problem, p.smooth(w), l), point)
    expected = torch.autograd.functional.hessian(enumerated, point)
    for row, other in zip(ours, expected, strict=True):
        for block, true in zip(row, other, strict=True):
            torch.testing.assert_close(block, true)
            assert torch.any(block != 0)


@pytest.mark.needs("jax", "torch")
def test_exact_has_them_on_jax_too() -> None:
    import jax
    import torch

    p = PROBLEMS["shared"]
    f = lambda l, w: estimate("exact", "shared", p.smooth(w), l)  # noqa: E731
    ours = jax.jit(jax.hessian(f, argnums=(0, 1)))(p.logits, p.weights)
    lib = Library(Backend.TORCH)
    expected = torch.autograd.functional.hessian(f, (lib.asarray(p.logits), lib.asarray(p.weights)))
    for row, other in zip(ours, expected, strict=True):
        for block, true in zip(row, other, strict=True):
            np.testing.assert_allclose(block, true, rtol=1e-10, atol=1e-12)


# E[cos x] of a normal x is exp(-scale**2 / 2) cos(loc).
LOC, SCALE = 0.7, 0.6


def cosine_hessian() -> np.ndarray:
    """Its second derivatives in loc and scale."""
    decay, c, s = np.exp(-(SCALE**2) / 2), np.cos(LOC), np.sin(LOC)
    return np.asarray([[-c, SCALE * s], [SCALE * s, (SCALE**2 - 1) * c]]) * decay


@pytest.mark.needs("jax")
def test_pathwise_has_them() -> None:
    import jax

    def value(params: Any, key: Any) -> Any:
        return backdraw.pathwise(jax.numpy.cos, backdraw.Normal(params[0], params[1]), rng=key)

    keys = jax.random.split(jax.random.key(3), 20_000)
    found = np.asarray(jax.jit(jax.vmap(jax.hessian(value), (None, 0)))(jax.numpy.asarray([LOC, SCALE]), keys))
    assert np.all(np.abs(found.mean(0) - cosine_hessian()) < 4.5 * found.std(0) / len(found) ** 0.5)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("make", [backdraw.Normal, backdraw.Laplace, backdraw.Gumbel])
def test_pathwise_has_them_on_torch(make: Any) -> None:
    import torch

    lib = Library(Backend.TORCH)
    params = (lib.asarray([LOC, -0.2]).requires_grad_(), lib.asarray([SCALE, 1.1]).requires_grad_())
    w = lib.asarray([0.4, 1.3]).requires_grad_()

    def value(loc: Any, scale: Any, w: Any) -> Any:
        return backdraw.pathwise(lambda x: torch.cos(x * w), make(loc, scale), samples=3, rng=KEY)

    torch.autograd.gradgradcheck(value, (*params, w))


@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", ["reinforce", "rloo", "measure_valued"])
def test_continuous_ones_are_refused(name: str) -> None:
    lib = Library(Backend.TORCH)
    loc = lib.asarray([LOC]).requires_grad_()
    (grad,) = lib.xp.autograd.grad(
        ESTIMATORS[name](lib.xp.cos, backdraw.Normal(loc, 1.0), rng=KEY).sum(), loc, create_graph=True
    )
    with pytest.raises(backdraw.GradientError, match=f"{name} has no second derivative"):
        grad.sum().backward()
