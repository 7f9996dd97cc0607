"""One primitive under every transformation of torch."""

from typing import Any

import numpy as np
import pytest
from helpers import run_python
from user_primitives import cube, exp, looped, power, scaled, soft, sort, x_sin

import backdraw

torch: Any = pytest.importorskip("torch")
from backdraw_backends import torch_noise  # noqa: E402  (needs torch)

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings(r"ignore:[\s\S]*torch\.jit\.script:DeprecationWarning"),  # torch's own, in jvp
    pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning"),  # and in torch.compile
]

X = torch.tensor(np.random.default_rng(0).normal(size=(3, 4)))
LOGITS = X.clone()
KEY = backdraw.key(1)
PRIMITIVES: dict[str, Any] = {
    "cube": cube,
    "exp": exp,
    "x_sin": lambda x: x_sin(x, factor=2.0),
    "looped": lambda x: looped(x, factor=2.0),
    "sort": sort,
    "soft": soft,
    "power": lambda x: power(x, n=3),
    "chain": lambda x: exp(soft(cube(x))),
}
ESTIMATORS: dict[str, Any] = {
    "gumbel_softmax": lambda x: backdraw.gumbel_softmax(x, temperature=0.7, rng=KEY),
    "gumbel_softmax_hard": lambda x: backdraw.gumbel_softmax(x, temperature=0.7, hard=True, rng=KEY),
    "straight_through": lambda x: backdraw.straight_through(x, rng=KEY),
    "select": lambda x: backdraw.select(x),
    "bernoulli": lambda x: backdraw.gumbel_softmax(backdraw.Bernoulli(x), temperature=0.7, rng=KEY),
}


def leaf(x: Any = X) -> Any:
    return x.clone().requires_grad_()


@pytest.mark.parametrize("name", PRIMITIVES)
def test_gradcheck(name: str) -> None:
    assert torch.autograd.gradcheck(PRIMITIVES[name], leaf())


@pytest.mark.parametrize("name", PRIMITIVES)
def test_gradgradcheck(name: str) -> None:
    assert torch.autograd.gradgradcheck(PRIMITIVES[name], leaf())


def test_gradcheck_of_relaxed_draws() -> None:
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for dist in (backdraw.Categorical, backdraw.Bernoulli):

        def draw(x: Any, t: Any, dist: Any = dist) -> Any:
            return backdraw.gumbel_softmax(dist(x), temperature=t, rng=KEY)

        assert torch.autograd.gradcheck(draw, (leaf(), temperature))
        assert torch.autograd.gradgradcheck(draw, (leaf(), temperature))


def test_loops_run_on_numpy_where_torch_watches_nothing() -> None:
    seen = []

    @backdraw.primitive(loops=True)
    def squared(be: Any, x: Any, *, dtype: Any) -> Any:
        return be.cast(x * x, dtype)

    def fwd(be: Any, x: Any, *, dtype: Any) -> Any:
        seen.append(type(x))
        y = squared.function(be, x, dtype=dtype)
        return y, (x, y)

    def bwd(be: Any, residuals: Any, g: Any, *, dtype: Any) -> Any:
        x, y = residuals
        seen.extend((type(x), type(y)))
        return (be.cast(2.0 * g * x, x.dtype),)

    squared.defvjp(fwd, bwd)
    x = leaf()
    for dtype, kind in ((torch.float32, np.ndarray), (torch.bfloat16, torch.Tensor)):
        y = squared(x, dtype=dtype)
        assert y.dtype == dtype
        (g,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(g, 2 * X)
        assert seen == [kind] * 3
        seen.clear()
    (g,) = torch.autograd.grad(squared(x, dtype=x.dtype).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x)
    torch.testing.assert_close(h, torch.full_like(X, 2.0))
    assert issubclass(seen[-1], torch.Tensor)


def test_none_gradients() -> None:
    a, b, c = leaf(), leaf(), leaf()
    scaled(a, b, c).sum().backward()
    assert torch.equal(a.grad, b.detach())
    assert b.grad is None
    assert torch.equal(c.grad, torch.ones_like(c))


def test_no_gradient_wanted() -> None:
    with torch.no_grad():
        assert not exp(leaf()).requires_grad
    assert not exp(X).requires_grad


def test_backward_twice_and_retained_graph() -> None:
    x = leaf()
    y = exp(x).sum()
    y.backward(retain_graph=True)
    y.backward()
    torch.testing.assert_close(x.grad, 2 * torch.exp(X))


def test_parameters() -> None:
    w = torch.nn.Parameter(X.clone())
    exp(w).sum().backward()
    torch.testing.assert_close(w.grad, torch.exp(X))


@pytest.mark.parametrize("name", [*PRIMITIVES, *ESTIMATORS])
def test_func_grad_and_vmap(name: str) -> None:
    f = {**PRIMITIVES, **ESTIMATORS}[name]
    weight = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    x = leaf()
    (f(x) * weight).sum().backward()
    torch.testing.assert_close(torch.func.grad(lambda x: (f(x) * weight).sum())(X), x.grad)
    if name in PRIMITIVES:
        torch.testing.assert_close(torch.func.vmap(f)(X), f(X))
        row_grad = torch.func.vmap(torch.func.grad(lambda x, w: (f(x) * w).sum()))
        torch.testing.assert_close(row_grad(X, weight), x.grad)
    else:
        batch = torch.stack([X, 2 * X])
        together = torch.func.vmap(f, randomness="same")(batch)
        torch.testing.assert_close(together, torch.stack([f(X), f(2 * X)]))


@pytest.mark.parametrize("name", ["soft", *ESTIMATORS])
def test_func_jvp(name: str) -> None:
    f = {**PRIMITIVES, **ESTIMATORS}[name]
    v, w = torch.cos(X), torch.sin(3 * X)
    value, tangent = torch.func.jvp(f, (X,), (v,))
    torch.testing.assert_close(value, f(X))
    _, pullback = torch.func.vjp(f, X)
    torch.testing.assert_close((tangent * w).sum(), (pullback(w)[0] * v).sum())
    assert tangent.abs().sum() > 0.1


@pytest.mark.parametrize("name", ["cube", "exp", "soft", "chain"])
def test_func_hessian(name: str) -> None:
    f, x = PRIMITIVES[name], X[0]
    ours = torch.func.hessian(lambda x: (f(x) * torch.arange(4.0)).sum()) if name in ("soft",) else None
    plain: Any = {
        "cube": lambda x: x**3,
        "exp": torch.exp,
        "soft": lambda x: torch.softmax(x, -1),
        "chain": lambda x: torch.exp(torch.softmax(x**3, -1)),
    }[name]
    expected = torch.func.hessian(lambda x: (plain(x) * torch.arange(4.0)).sum())(x)
    if ours is not None:
        torch.testing.assert_close(ours(x), expected)
    reverse = torch.func.jacrev(torch.func.jacrev(lambda x: (f(x) * torch.arange(4.0)).sum()))
    torch.testing.assert_close(reverse(x), expected)


def test_hessian_through_a_relaxed_draw() -> None:
    weight = torch.arange(4.0, dtype=torch.float64)

    def ours(x: Any) -> Any:
        return (backdraw.gumbel_softmax(x, temperature=0.7, rng=KEY) ** 2 * weight).sum()

    noise = backdraw.Categorical(X[0]).perturb_noise(KEY)
    expected = torch.func.hessian(lambda x: (torch.softmax((x + noise) / 0.7, -1) ** 2 * weight).sum())(X[0])
    torch.testing.assert_close(torch.func.hessian(ours)(X[0]), expected)


@pytest.mark.parametrize("name", [*PRIMITIVES, *ESTIMATORS])
def test_compile_fullgraph(name: str) -> None:
    torch._dynamo.reset()
    f = {**PRIMITIVES, **ESTIMATORS}[name]
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    x, y = leaf(), leaf()
    out = compiled(x)
    torch.testing.assert_close(out, f(y))
    (out * torch.cos(X)).sum().backward()
    (f(y) * torch.cos(X)).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("name", [*PRIMITIVES, *ESTIMATORS, "intermediate_loss"])
def test_compile_where_no_gradient_is_wanted(name: str) -> None:
    torch._dynamo.reset()
    f = {**PRIMITIVES, **ESTIMATORS}.get(name, lambda x: backdraw.intermediate_loss(x, rng=KEY))
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


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("n", [4, 300_000], ids=["few", "many"])
def test_second_derivative_of_a_hard_draw_is_that_of_the_relaxed_one(n: int, axis: int) -> None:
    shape = (n, 4) if axis == -1 else (4, n)
    start, g = (torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=X.dtype) for i in (0, 1))

    def second(*, hard: bool) -> Any:
        x = leaf(start)
        y = backdraw.gumbel_softmax(x, temperature=0.7, hard=hard, axis=axis, rng=KEY)
        (grad,) = torch.autograd.grad(y, x, g, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)[0]

    expected = second(hard=False)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(second(hard=True), expected)


def test_half_precision_backward() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x = X.to(dtype).requires_grad_()
        y = backdraw.gumbel_softmax(x, rng=KEY)
        assert y.dtype == dtype
        y.square().sum().backward()
        assert x.grad.dtype == dtype
        assert x.grad.isfinite().all()


def test_caller_keeps_requires_grad() -> None:
    x = leaf()
    backdraw.straight_through(x, rng=KEY)
    assert x.requires_grad
    assert x.is_leaf


@pytest.mark.parametrize("n", [4, 300_000], ids=["few", "many"])
@pytest.mark.parametrize("name", ["gumbel_softmax_hard", "straight_through", "intermediate_loss"])
def test_a_hard_draw_may_be_written_to(name: str, n: int) -> None:
    # As the output of torch's own gumbel_softmax; the gradient is that of the draw as it was made.
    f = ESTIMATORS.get(name, lambda x: backdraw.intermediate_loss(x, rng=KEY))
    x, y = (torch.randn((n, 4), generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    g = torch.linspace(-1, 1, 4).expand(n, 4)
    out = f(x)
    out.mul_(2.0)
    out.backward(g)
    (f(y) * 2.0).backward(g)
    torch.testing.assert_close(x.grad, y.grad)
