"""Every estimator on every kind of latent, as PyTorch's users call it: under torch.func.vmap, and its output written to."""

from collections.abc import Callable
from typing import Any

import latents
import pytest
from helpers import Backend, Library
from latents import CASES, GRADIENTS

import backdraw
from backdraw.estimators import ESTIMATORS

torch: Any = pytest.importorskip("torch")
pytestmark = pytest.mark.needs("torch")
TORCH = Library(Backend.TORCH)


def of(name: str, latent: str) -> Callable[[Any], Any]:
    """Return the draw, or the estimate of the mean of f, as a function of the logits."""
    return latents.estimate(name, latent, TORCH)


def logits(latent: str, *more: int) -> Any:
    return TORCH.asarray(latents.logits(latent, *more))


def ramp(x: Any) -> Any:
    return TORCH.asarray(latents.ramp(tuple(x.shape)))


def test_cases() -> None:
    assert {name for name, _ in CASES} == set(ESTIMATORS)
    assert len(CASES) > 150


@pytest.mark.parametrize(("name", "latent"), CASES)
def test_vmap(name: str, latent: str) -> None:
    g, x = of(name, latent), logits(latent, 2)
    torch.testing.assert_close(torch.func.vmap(g)(x), torch.stack([g(row) for row in x]))


@pytest.mark.parametrize(("name", "latent"), GRADIENTS)
def test_vmap_of_gradients(name: str, latent: str) -> None:
    def loss(l: Any) -> Any:
        y = of(name, latent)(l)
        return (y * ramp(y)).sum()

    x = logits(latent, 2)
    found, rows = torch.func.vmap(torch.func.grad(loss))(x), [row.clone().requires_grad_() for row in x]
    for row in rows:
        loss(row).backward()
    torch.testing.assert_close(found, torch.stack([row.grad for row in rows]))


@pytest.mark.parametrize("name", ["gumbel_softmax", "reinmax", "indecater", "muprop"])
def test_tensors_made_in_inference_mode(name: str) -> None:
    with torch.inference_mode():
        x = logits("categories")
    torch.testing.assert_close(of(name, "categories")(x), of(name, "categories")(x.clone()))


def test_solvers_see_the_values_of_negative_views() -> None:
    x = logits("permutation")
    negative = torch._neg_view(-x)
    assert negative.is_neg()
    assert torch.equal(of("blackbox", "permutation")(negative), of("blackbox", "permutation")(x))


@pytest.mark.parametrize(("name", "latent"), GRADIENTS)
def test_what_a_pullback_returns_has_no_graph(name: str, latent: str) -> None:
    x = logits(latent)
    y, pullback = backdraw.vjp(of(name, latent), x)
    assert not y.requires_grad
    assert not pullback(ramp(y))[0].requires_grad


OF_A_MEAN_RELAXATION_OR_PATH = {
    *("stochastic_softmax", "stochastic_softmax_hard", "gumbel_softmax", "gumbel_softmax_hard", "hard_concrete"),
    *("gapped_straight_through", "straight_through", "select", "exact", "reparameterize", "pathwise"),
}


@pytest.mark.filterwarnings(r"ignore:[\s\S]*torch\.jit\.script:DeprecationWarning")  # torch's own, in jvp
@pytest.mark.parametrize("name", sorted({name for name, _ in GRADIENTS}))
def test_forward_mode(name: str) -> None:
    latent = next(latent for n, latent in GRADIENTS if n == name)
    g, x = of(name, latent), logits(latent)
    v = ramp(x)
    if name not in OF_A_MEAN_RELAXATION_OR_PATH:
        with pytest.raises(backdraw.GradientError, match="has no forward-mode rule"):
            torch.func.jvp(g, (x,), (v,))
        return
    y, tangent = torch.func.jvp(g, (x,), (v,))
    back = torch.func.vjp(g, x)[1](ramp(y))[0]
    torch.testing.assert_close((tangent * ramp(y)).sum(), (back * v).sum())


@pytest.mark.parametrize("write", ["output", "output without a graph", "logits"])
@pytest.mark.parametrize(("name", "latent"), GRADIENTS)
def test_writing_to_an_array_alters_no_gradient(name: str, latent: str, write: str) -> None:
    # Nor does it fail, but with torch's own message where the rule looks at what was written to.
    def gradient(write: str) -> Any:
        x = logits(latent).requires_grad_()
        z = x * 1.0
        y = of(name, latent)(z)
        g = ramp(y)
        if write == "output":
            y, g = y.mul_(2.0), g / 2.0
        elif write:
            with torch.no_grad():
                (z if write == "logits" else y).mul_(-3.0)
        y.backward(g)
        return x.grad

    try:
        found = gradient(write)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)  # noqa: PT017
        return
    torch.testing.assert_close(found, gradient(""))
