"""The structures under torch.compile and in forward mode."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backdraw
from backdraw import Arborescence, Chain, Permutation, PlackettLuce, SpanningTree, Subset

torch: Any = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings(r"ignore:[\s\S]*torch\.jit\.script:DeprecationWarning"),  # torch's own, in jvp
    pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning"),  # and in torch.compile
]

RNG = np.random.default_rng(5)
KEY = backdraw.key(1)
STEPS = torch.tensor(RNG.normal(size=(2, 1, 2, 2)))
EDGES = ((0, 1), (2, 1), (0, 2))
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "mean": lambda p: p.mean(),
    "log_partition": lambda p: p.log_partition(),
    "entropy": lambda p: p.entropy(),
    "log_prob": lambda p: p.log_prob(backdraw.draw(p, rng=backdraw.key(2))),
    "draw": lambda p: backdraw.draw(p, rng=KEY),
    "gumbel_max": lambda p: backdraw.gumbel_max(p, rng=KEY),
    "straight_through": lambda p: backdraw.straight_through(p, rng=KEY),
    "stochastic_softmax": lambda p: backdraw.stochastic_softmax(p, temperature=0.7, rng=KEY),
    "stochastic_softmax_hard": lambda p: backdraw.stochastic_softmax(p, hard=True, rng=KEY),
}
EXPONENTIAL = ("mean", "log_partition", "entropy", "straight_through")  # what only such families have
# What makes the distribution, the shape of its logits, and the functions that it has not, or that say nothing new of it.
STRUCTURES: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], tuple[str, ...]]] = {
    "chain": (lambda l: Chain(l, STEPS), (2, 2, 2), ()),
    "tree": (SpanningTree, (2, 3), ()),
    "edges": (lambda l: SpanningTree(l, EDGES), (2, 3), tuple(name for name in FUNCTIONS if name != "log_partition")),
    "arborescence": (lambda l: Arborescence(l, root=1), (2, 3, 3), ()),
    "subset": (lambda l: Subset(l, 2), (2, 4), ()),
    "plackett_luce": (lambda l: PlackettLuce(l, 2), (2, 4), EXPONENTIAL),
    "permutation": (lambda l: Permutation(l, iterations=2), (2, 3, 3), (*EXPONENTIAL, "log_prob", "draw")),
}
CASES = [(name, of) for name, (*_, lacks) in STRUCTURES.items() for of in FUNCTIONS if of not in lacks]
# To compile takes seconds each. The gradient of straight_through is that of the mean, and a hard draw has a soft one in it.
AGAIN = [("tree", of) for of in ("log_partition", "entropy")]
AGAIN += [(name, of) for name in ("chain", "tree", "arborescence", "subset") for of in ("mean", "stochastic_softmax")]
GRADIENTS = [case for case in CASES if case[1] not in ("draw", "gumbel_max")]
DERIVATIVES = [case for case in GRADIENTS if case[1] not in ("straight_through", "stochastic_softmax_hard")]


def numbers(*shape: int) -> Any:
    return torch.tensor(RNG.normal(size=shape))


def of_case(name: str, of: str) -> tuple[Callable[[Any], Any], Any]:
    """Return the function of the logits, and logits."""
    make, shape, _ = STRUCTURES[name]
    return lambda x: FUNCTIONS[of](make(x)), numbers(*shape)


@pytest.mark.parametrize(("name", "of"), [case for case in CASES if case not in AGAIN])
def test_compile_fullgraph(name: str, of: str) -> None:
    torch._dynamo.reset()
    f, x = of_case(name, of)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    out, expected = torch.compile(f, fullgraph=True, backend="eager")(a), f(b)
    torch.testing.assert_close(out, expected)
    assert out.requires_grad == expected.requires_grad == ((name, of) in GRADIENTS)
    if out.requires_grad:
        g = numbers(*out.shape)
        for y in (out, expected):
            (y * g).sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
        assert a.grad.abs().sum() > 0.01


@pytest.mark.parametrize("name", ["tree", "arborescence"])
def test_compile_serves_other_sizes(name: str) -> None:
    # From the second shape on, torch.compile traces with symbolic sizes.
    torch._dynamo.reset()
    draw = torch.compile(lambda x: backdraw.draw(STRUCTURES[name][0](x), rng=KEY), fullgraph=True, backend="eager")
    for shape in ((2, 3), (4, 6)) if name == "tree" else ((2, 3, 3), (4, 4, 4)):
        x = numbers(*shape)
        assert torch.equal(draw(x), backdraw.draw(STRUCTURES[name][0](x), rng=KEY))


@pytest.mark.parametrize(("name", "of"), GRADIENTS)
def test_forward_mode(name: str, of: str) -> None:
    f, x = of_case(name, of)
    v = numbers(*x.shape)
    value, tangent = torch.func.jvp(f, (x,), (v,))
    torch.testing.assert_close(value, f(x))
    g = numbers(*value.shape)
    torch.testing.assert_close((tangent * g).sum(), (torch.func.vjp(f, x)[1](g)[0] * v).sum())
    assert tangent.abs().sum() > 0.01
    with torch.autograd.forward_ad.dual_level():
        dual = f(torch.autograd.forward_ad.make_dual(x, v))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)


@pytest.mark.parametrize(("name", "of"), DERIVATIVES)
def test_hessian_and_finite_differences(name: str, of: str) -> None:
    f, x = of_case(name, of)
    v, step = numbers(*x.shape), 1e-5
    tangent = torch.func.jvp(f, (x,), (v,))[1]
    torch.testing.assert_close(tangent, (f(x + step * v) - f(x - step * v)) / (2 * step), rtol=1e-6, atol=1e-8)
    g = numbers(*tangent.shape)

    def value(x: Any) -> Any:
        return (f(x) * g).sum()

    torch.testing.assert_close(torch.func.hessian(value)(x), torch.func.jacrev(torch.func.jacrev(value))(x))
    # The same by a level of forward mode around the backward pass.
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.clone().requires_grad_(), v)
        (grad,) = torch.autograd.grad(value(dual), dual, create_graph=True)
        product = torch.autograd.forward_ad.unpack_dual(grad).tangent
    torch.testing.assert_close(product, torch.func.jvp(torch.func.grad(value), (x,), (v,))[1])


@pytest.mark.parametrize("name", ["chain", "tree", "arborescence", "subset", "plackett_luce", "permutation"])
def test_forward_mode_in_a_temperature(name: str) -> None:
    make, shape, _ = STRUCTURES[name]
    x, t, step = numbers(*shape), torch.tensor(0.7, dtype=torch.float64), 1e-6
    f = make(x).relax
    tangent = torch.func.jvp(lambda t: f(x, t), (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(tangent, (f(x, 0.7 + step) - f(x, 0.7 - step)) / (2 * step), rtol=1e-6, atol=1e-8)


# ------------------------------------------------------------------------------------------------- many cotangents
@pytest.mark.parametrize(("name", "of"), GRADIENTS)
def test_batched_gradients(name: str, of: str) -> None:
    f, x = of_case(name, of)
    found = torch.autograd.functional.jacobian(f, x, vectorize=True)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(f, x))
