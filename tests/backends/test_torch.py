"""One primitive under every transformation of torch."""

from typing import Any

import numpy as np
import pytest
from user_primitives import DRAWS, KEY, PRIMITIVES, exp, scaled

import backdraw

torch: Any = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings(r"ignore:[\s\S]*torch\.jit\.script:DeprecationWarning"),  # torch's own, in jvp
]

X = torch.tensor(np.random.default_rng(0).normal(size=(3, 4)))
LOGITS = X.clone()


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


@pytest.mark.parametrize("name", [*PRIMITIVES, *DRAWS])
def test_func_grad_and_vmap(name: str) -> None:
    f = {**PRIMITIVES, **DRAWS}[name]
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


@pytest.mark.parametrize("name", ["soft", *DRAWS])
def test_func_jvp(name: str) -> None:
    f = {**PRIMITIVES, **DRAWS}[name]
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
    f = DRAWS.get(name, lambda x: backdraw.intermediate_loss(x, rng=KEY))
    x, y = (torch.randn((n, 4), generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    g = torch.linspace(-1, 1, 4).expand(n, 4)
    out = f(x)
    out.mul_(2.0)
    out.backward(g)
    (f(y) * 2.0).backward(g)
    torch.testing.assert_close(x.grad, y.grad)
