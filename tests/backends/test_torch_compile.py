"""Primitives and draws under torch.compile and torch.export."""

from typing import Any

import numpy as np
import pytest
from helpers import run_python
from user_primitives import DRAWS, KEY, PRIMITIVES

import backdraw

torch: Any = pytest.importorskip("torch")
from backdraw_backends import torch_noise  # noqa: E402  (needs torch)

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings(r"ignore:[\s\S]*torch\.jit\.script:DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning"),  # and this
]

X = torch.tensor(np.random.default_rng(0).normal(size=(3, 4)))
LOGITS = X.clone()


def leaf(x: Any = X) -> Any:
    return x.clone().requires_grad_()


@pytest.mark.parametrize("name", [*PRIMITIVES, *DRAWS])
def test_compile_fullgraph(name: str) -> None:
    torch._dynamo.reset()
    f = {**PRIMITIVES, **DRAWS}[name]
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    x, y = leaf(), leaf()
    out = compiled(x)
    torch.testing.assert_close(out, f(y))
    (out * torch.cos(X)).sum().backward()
    (f(y) * torch.cos(X)).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("name", [*PRIMITIVES, *DRAWS, "intermediate_loss"])
def test_compile_where_no_gradient_is_wanted(name: str) -> None:
    torch._dynamo.reset()
    f = {**PRIMITIVES, **DRAWS}.get(name, lambda x: backdraw.intermediate_loss(x, rng=KEY))
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X), f(X))
    with torch.no_grad():
        torch.testing.assert_close(compiled(leaf()), f(X))


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compile_with_own_generator(backend: str) -> None:
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend=backend)
    def step(x: Any, t: Any) -> Any:
        soft = backdraw.gumbel_softmax(x, temperature=t)
        hard = backdraw.straight_through(x, temperature=t)
        return soft, hard, (soft * hard * torch.cos(x)).sum()

    x, t = leaf(X.float()), torch.tensor(0.5, requires_grad=True)
    torch.manual_seed(0)
    soft, hard, loss = step(x, t)
    again = step(x, t)
    loss.backward()
    torch.testing.assert_close(soft.sum(-1), torch.ones(3))
    assert torch.equal(hard, (hard == hard.max(-1, keepdim=True).values).float())
    assert not torch.equal(soft, again[0])  # fresh noise at each call
    assert x.grad.abs().sum() > 0
    assert t.grad.abs() > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_draws_have_the_gradient_of_the_softmax(backend: str, axis: int, dtype: str) -> None:
    torch._dynamo.reset()
    x, g = X.to(getattr(torch, dtype)), torch.cos(X).to(getattr(torch, dtype))

    def run(*, hard: bool) -> tuple[Any, Any]:
        compiled = torch.compile(
            lambda x: backdraw.gumbel_softmax(x, temperature=0.5, axis=axis, hard=hard), fullgraph=True, backend=backend
        )
        torch.manual_seed(3)
        out = compiled(at := leaf(x))
        return out.detach(), torch.autograd.grad(out, at, g)[0]

    (soft, of_soft), (hard, of_hard) = run(hard=False), run(hard=True)
    assert torch.equal(hard, (soft == soft.amax(axis, True)).to(x.dtype))
    tolerance = {} if dtype == "float32" else {"rtol": 0.03, "atol": 0.03}
    for found in (of_soft, of_hard):
        torch.testing.assert_close(found, soft * (g - (soft * g).sum(axis, True)) / 0.5, **tolerance)


def test_transforms_inside_compile() -> None:
    torch._dynamo.reset()
    w = torch.arange(4.0, dtype=X.dtype)

    def loss(x: Any) -> Any:
        y = backdraw.gumbel_softmax(x, temperature=0.5)
        return (y * w).sum(), y

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x: Any) -> Any:
        hard = torch.func.vmap(lambda x: backdraw.gumbel_softmax(x, hard=True), randomness="different")(x)
        return torch.func.grad(loss, has_aux=True)(x), hard

    (grad, y), hard = step(X)
    torch.testing.assert_close(grad, y * (w - (y * w).sum(-1, True)) / 0.5)
    assert torch.equal(hard.sort(-1).values, torch.tensor([0.0, 0, 0, 1]).expand(3, 4).to(X.dtype))


@pytest.mark.parametrize("rng", [None, KEY], ids=["torch", "key"])
def test_compile_serves_other_shapes(rng: Any) -> None:
    # From the second shape on, torch.compile traces with symbolic sizes.
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x: Any) -> Any:
        return backdraw.gumbel_softmax(x, hard=True, rng=rng), backdraw.straight_through(x, rng=rng)

    for shape in ((4, 3), (6, 5), (7, 8)):
        x = torch.zeros(shape, requires_grad=True)
        first, second = step(x)
        for hard in (first, second):
            assert torch.equal(hard.sum(-1), torch.ones(shape[0]))
        (first + second)[:, 0].sum().backward()
        assert x.grad.shape == shape


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_law(backend: str) -> None:
    torch._dynamo.reset()
    p = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])
    logits = p.log().expand(50_000, 5).contiguous()
    torch.manual_seed(1)
    for f in (backdraw.draw, backdraw.gumbel_max, lambda x: backdraw.gumbel_softmax(x, hard=True)):
        count = torch.compile(f, fullgraph=True, backend=backend)(logits).sum(0)
        z = (count - 50_000 * p) / (50_000 * p * (1 - p)).sqrt()
        assert z.abs().max() < 5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(40, 50), (1, 301, 101)], ids=["few", "many"])
def test_traced_uniforms(shape: tuple[int, ...], dtype: str) -> None:
    u = torch_noise._traced_uniform(torch.Generator().manual_seed(2), shape, getattr(torch, dtype), "cpu")
    assert u.shape == shape
    assert u.dtype == getattr(torch, dtype)
    v = u.flatten().double().sort().values
    distance = (v - (torch.arange(len(v)) + 0.5) / len(v)).abs().max()  # Kolmogorov's
    assert distance * len(v) ** 0.5 < 2.2
    halves = u[..., : shape[-1] // 2 * 2].reshape(-1, 2).T.double()  # of one number, where there are many
    assert torch.corrcoef(halves)[0, 1].abs() < 5 / halves.shape[1] ** 0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_traced_uniforms_of_all_words_lie_inside(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.tensor([0, 1, 2**31 - 1, -(2**31), -2, -1], dtype=torch.int32)
    monkeypatch.setattr(torch_noise, "_randint", lambda *_: words)
    u = torch_noise._traced_uniform(None, (6,), getattr(torch, dtype), "cpu")
    expected = torch.tensor([0.5, 1.5, 2**31 - 0.5, 2**31 + 0.5, 2**32 - 1.5, 2**32 - 0.5], dtype=torch.float64) / 2**32
    torch.testing.assert_close(u.double(), expected, rtol=1.3e-7, atol=0)
    assert u.min() > 0
    assert u.max() < 1


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("free", [(0,), (0, 1)], ids=["rows", "both"])
def test_export_of_draws_with_free_sizes(strict: bool, free: tuple[int, ...]) -> None:
    class Drawn(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return backdraw.gumbel_softmax(x), backdraw.gumbel_softmax(x, hard=True)

    sizes = {i: torch.export.Dim(f"size{i}", min=2) for i in free}
    program = torch.export.export(Drawn(), (torch.zeros(6, 5),), dynamic_shapes=(sizes,), strict=strict).module()
    for shape in ((3, 5), (7, 5 if len(free) == 1 else 4), (5000, 5)):
        for y in program(torch.zeros(shape)):
            torch.testing.assert_close(y.sum(-1), torch.ones(shape[0]))
            assert y.shape == shape


def test_cold_first_call_inside_compile() -> None:
    # Nothing of backdraw has seen a tensor before, and backdraw was imported before torch.
    code = """
import backdraw, torch
@torch.compile(fullgraph=True, backend="aot_eager")
def f(x):
    return backdraw.gumbel_softmax(x, temperature=0.5, rng=backdraw.key(0)).square().sum()
x, y = (torch.ones(3, 4, requires_grad=True) for _ in range(2))
f(x).backward()
backdraw.gumbel_softmax(y, temperature=0.5, rng=backdraw.key(0)).square().sum().backward()
torch.testing.assert_close(x.grad, y.grad)
key = backdraw.key(1)
torch._dynamo.reset()
compiled = torch.compile(lambda x: backdraw.draw(x, rng=key), fullgraph=True, backend="eager")
print(torch.equal(compiled(x), backdraw.draw(x, rng=key)))
"""
    assert run_python(code) == "True"


def test_cold_key_outside_compile() -> None:
    code = """
import backdraw, torch
key = backdraw.Key(0, 3)  # made by hand: no adapter is loaded before the compiled call
f = torch.compile(lambda x: backdraw.draw(x, rng=key), fullgraph=True, backend="eager")
print(torch.equal(f(torch.zeros(5)), backdraw.draw(torch.zeros(5), rng=key)))
"""
    assert run_python(code) == "True"


def test_second_derivative_under_compile_is_an_error_and_no_zero() -> None:
    torch._dynamo.reset()
    x = leaf()
    out = torch.compile(lambda x: backdraw.intermediate_loss(x, rng=KEY), fullgraph=True, backend="aot_eager")(x)
    (grad,) = torch.autograd.grad((out**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()
