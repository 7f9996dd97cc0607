"""Draws in the modes of torch that look on: forward mode, inference, dispatch modes, batched gradients, export, defaults."""

from typing import Any

import numpy as np
import pytest
from helpers import run_python

import backdraw

torch: Any = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings(r"ignore:[\s\S]*torch\.jit\.script:DeprecationWarning"),  # torch's own, in forward mode
]

KEY = backdraw.key(1)
DRAWS: dict[str, Any] = {
    "gumbel_softmax": lambda x: backdraw.gumbel_softmax(x, temperature=0.7, rng=KEY),
    "gumbel_softmax_hard": lambda x: backdraw.gumbel_softmax(x, temperature=0.7, hard=True, rng=KEY),
    "straight_through": lambda x: backdraw.straight_through(x, rng=KEY),
    "select": backdraw.select,
    "bits": lambda x: backdraw.gumbel_softmax(backdraw.Bernoulli(x), rng=KEY),
    "hard_concrete": lambda x: backdraw.hard_concrete(x, rng=KEY),
}
draws = pytest.mark.parametrize("f", DRAWS.values(), ids=DRAWS)
traces = pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning")
SHAPES = [(4, 5), (2000, 5)]  # NumPy's side has a part in the larger


def logits(shape: tuple[int, ...], dtype: Any = torch.float64) -> Any:
    return torch.tensor(np.random.default_rng(0).normal(size=shape), dtype=dtype)


@draws
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_mode_without_torch_func(f: Any, shape: tuple[int, ...]) -> None:
    x, v = logits(shape), torch.cos(torch.arange(10_000.0, dtype=torch.float64))[: shape[0] * shape[1]].reshape(shape)
    with torch.autograd.forward_ad.dual_level():
        y, tangent = torch.autograd.forward_ad.unpack_dual(f(torch.autograd.forward_ad.make_dual(x, v)))
    expected = torch.func.jvp(f, (x,), (v,))
    torch.testing.assert_close(y, expected[0])
    torch.testing.assert_close(tangent, expected[1])


@pytest.mark.parametrize("name", ["reinmax", "gumbel_rao", "intermediate_loss", "gumbel_softmax", "rloo", "rebar"])
def test_gradients_are_plain_where_nothing_outside_wants_one(name: str) -> None:
    def loss(l: Any) -> Any:
        if name in ("rloo", "rebar"):
            return getattr(backdraw, name)(lambda x: (x @ torch.arange(5.0, dtype=x.dtype)) ** 2, l, rng=KEY).sum()
        return (getattr(backdraw, name)(l, rng=KEY) * torch.arange(5.0, dtype=torch.float64)).sum()

    for _ in range(2):
        _, (grad,) = backdraw.value_and_grad(loss)(logits((4, 5)))
        assert not grad.requires_grad
    with torch.inference_mode():
        _, (found,) = backdraw.value_and_grad(loss)(logits((4, 5)))
    torch.testing.assert_close(found.clone(), grad)
    assert grad.abs().max() > 0


def test_a_default_dtype_or_device_is_none_of_the_noise() -> None:
    x = logits((20, 5), torch.float32)
    torch.manual_seed(3)
    expected = [f(x) for f in (backdraw.gumbel_softmax, backdraw.draw, backdraw.hard_concrete)]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            torch.manual_seed(3)
            found = [f(x) for f in (backdraw.gumbel_softmax, backdraw.draw, backdraw.hard_concrete)]
    finally:
        torch.set_default_dtype(before)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("n", "bits"), [(200, 24), (20_000, 32)])
def test_noise_is_as_fine_as_its_uniforms(n: int, bits: int) -> None:
    x = torch.zeros(n, dtype=torch.float32)
    torch.manual_seed(1)
    p = backdraw.Categorical(x)
    noise = torch.cat([p.perturb_noise(None) for _ in range(4_000_000 // n)]).double()
    assert torch.isfinite(noise).all()
    top = torch.topk(noise, 400).values
    # exp(-g) is exponential: the smallest of many are as far apart as their ranks, or as the uniforms.
    ratio = torch.exp(-top) * noise.numel() / torch.arange(1, 401)
    assert abs(float(ratio[100:].mean()) - 1.0) < 0.25
    assert float(torch.exp(-top).min()) > 0.49 * 2.0**-bits
    u = torch.exp(-torch.exp(-noise)).sort().values
    assert float((u - torch.arange(1, u.numel() + 1) / u.numel()).abs().max()) < 1.63 / u.numel() ** 0.5  # Kolmogorov, 1 %
    assert len(torch.unique(top)) > (390 if bits == 32 else 300)


@draws
@pytest.mark.parametrize("shape", SHAPES)
def test_batched_gradients(f: Any, shape: tuple[int, ...]) -> None:
    x = logits(shape).requires_grad_()
    g = logits((3, *shape))
    y = f(x)
    (found,) = torch.autograd.grad(y, x, g, is_grads_batched=True, retain_graph=True)
    expected = torch.stack([torch.autograd.grad(y, x, row, retain_graph=True)[0] for row in g])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["reinmax", "gumbel_rao", "intermediate_loss", "implicit_mle", "rloo", "arm"])
def test_batched_gradients_of_estimates(name: str) -> None:
    law = backdraw.Bernoulli if name == "arm" else backdraw.Categorical

    def f(x: Any) -> Any:
        draw_or_mean = getattr(backdraw, name)
        if name in ("rloo", "arm"):
            return draw_or_mean(lambda y: y[..., 0] ** 2, law(x), rng=KEY)
        return draw_or_mean(law(x), rng=KEY)

    x = logits((4, 5))
    found = torch.autograd.functional.jacobian(f, x, vectorize=True)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(f, x))


@pytest.mark.parametrize("regularizer", ["entropy", "euclidean", "tsallis"])
@pytest.mark.parametrize("axis", [0, 1])
def test_batched_gradients_of_another_axis(regularizer: str, axis: int) -> None:
    def f(x: Any) -> Any:
        return backdraw.gumbel_softmax(x, regularizer=regularizer, axis=axis, rng=KEY)

    x = logits((4, 5))
    found = torch.autograd.functional.jacobian(f, x, vectorize=True)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(f, x))


@draws
@pytest.mark.parametrize("shape", SHAPES)
@traces
def test_jit_trace(f: Any, shape: tuple[int, ...]) -> None:
    traced = torch.jit.trace(f, torch.zeros(shape, dtype=torch.float64), check_trace=False)
    x, g = logits(shape).requires_grad_(), torch.cos(logits(shape))
    y, expected = traced(x), f(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y, x, g), torch.autograd.grad(expected, x, g))


@traces
def test_jit_trace_draws_anew_and_keeps_no_solution() -> None:
    traced = torch.jit.trace(backdraw.straight_through, torch.zeros(30, 4), check_trace=False)
    first, second = (traced(torch.zeros(30, 4)) for _ in range(2))
    assert torch.equal(first.sum(-1), torch.ones(30))
    assert not torch.equal(first, second)
    with pytest.raises(TypeError, match=r"torch\.jit\.trace would keep what a solver answers once"):
        torch.jit.trace(lambda l: backdraw.gumbel_max(backdraw.Permutation(l)), torch.zeros(3, 3), check_trace=False)


def test_indecater_among_hooks_on_saved_tensors() -> None:
    x = logits((2, 3)).requires_grad_()

    def f(x: Any) -> Any:
        return backdraw.indecater(lambda y: y[..., 0] ** 2, x, rng=KEY).sum()

    (expected,) = torch.autograd.grad(f(x), x)
    loss = torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)


def _identity(f: Any) -> Any:
    return f


@pytest.mark.parametrize(
    "transform", [_identity, torch.func.vmap, lambda f: torch.compile(f, fullgraph=True)], ids=["eager", "vmap", "compile"]
)
def test_autocast_takes_no_digits(transform: Any) -> None:
    loc, tril = logits((5, 3), torch.float32), torch.tril(logits((5, 3, 3), torch.float32)) + 2.0 * torch.eye(3)
    x = logits((5, 3), torch.float32)

    def values(loc: Any, tril: Any, x: Any) -> list[Any]:
        p, q = backdraw.MultivariateNormal(loc, tril), backdraw.MultivariateNormal(-loc, 2.0 * tril)
        return [p.log_prob(x), backdraw.kl(p, q), backdraw.draw(p, shape=2, rng=KEY)]

    f = transform(values)
    expected = f(loc, tril, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = f(loc, tril, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@draws
def test_fake_tensors(f: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert f(torch.zeros(3, 4)).shape == (3, 4)


@draws
def test_export_of_any_batch(f: Any) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return f(x)

    batch = torch.export.Dim("batch")
    exported = torch.export.export(Module(), (logits((4, 6)),), dynamic_shapes={"x": {0: batch}})
    x = logits((7, 6))
    torch.testing.assert_close(exported.module()(x), f(x))


def test_cold_trace_that_is_begun_anew() -> None:
    code = """
import torch, backdraw
@torch.compile(backend="eager")
def f(x):
    y = backdraw.straight_through(x, rng=backdraw.key(0))
    torch._dynamo.graph_break()
    return y
x = torch.zeros(3, 6)
print(torch.equal(f(x), backdraw.straight_through(x, rng=backdraw.key(0))))
"""
    assert run_python(code) == "True"
