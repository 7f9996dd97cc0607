"""Oracle: the user's own solver on every backend, under jit, vmap and compile, and what is wrong with its answers."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers import Backend, Library

import backdraw
from backdraw import Oracle

KEY = backdraw.key(3)
RNG = np.random.default_rng(4)
LOGITS, G = RNG.normal(size=(2, 3, 5)), RNG.normal(size=(2, 3, 5))


def top2(u: np.ndarray) -> np.ndarray:
    """Of n problems, of whatever size: the two largest entries of each."""
    assert type(u) is np.ndarray
    assert u.dtype in (np.float32, np.float64)
    flat = u.reshape(len(u), -1)
    x = (flat >= np.sort(flat, -1)[:, -2:-1]).astype(int).reshape(u.shape)
    u[...] = np.nan  # what it is given is its own
    return x


def expected(u: np.ndarray, event: int) -> np.ndarray:
    return top2(u.reshape(-1, *u.shape[u.ndim - event :]).copy()).reshape(u.shape).astype(float)


@pytest.mark.parametrize("event", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_argmax(lib: Library, event: int, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    l = lib.asarray(LOGITS, dtype)
    p = Oracle(l, top2, event_ndim=event)
    assert p.batch_shape == LOGITS.shape[: 3 - event]
    lib.check(p.argmax(l), expected(LOGITS, event), dtype=dtype, rtol=0)
    lib.check(l, lib.to_numpy(lib.asarray(LOGITS, dtype)), dtype=dtype, rtol=0)
    u = lib.asarray(RNG.normal(size=(4, *LOGITS.shape)), "float32")
    lib.check(p.repeated(4).argmax(u), expected(lib.to_numpy(u), event), dtype=dtype, rtol=0)


@pytest.mark.parametrize(("noise", "law"), [("gumbel", scipy.stats.gumbel_r), ("normal", scipy.stats.norm)])
def test_draws(noise: str, law: Any) -> None:
    p = Oracle(LOGITS, top2, noise=noise)
    assert scipy.stats.kstest(p.repeated(200).perturb_noise(KEY).ravel(), law.cdf).pvalue > 1e-5
    np.testing.assert_array_equal(backdraw.gumbel_max(p, rng=KEY), expected(LOGITS + p.perturb_noise(KEY), 1))


@pytest.mark.needs("jax")
def test_as_a_pytree_under_jit_and_vmap() -> None:
    import jax

    lib = Library(Backend.JAX)
    p = Oracle(lib.asarray(LOGITS), top2, event_ndim=2)
    lib.check(jax.jit(lambda p: p.argmax(p.logits * 2))(p), expected(LOGITS, 2), rtol=0)
    lib.check(jax.vmap(lambda p: p.argmax(-p.logits))(p), expected(-LOGITS, 2), rtol=0)


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning")
def test_under_compile() -> None:
    import torch

    torch._dynamo.reset()
    for f in (
        lambda l: backdraw.perturbed_argmax(Oracle(l, top2), samples=3, rng=KEY),
        lambda l: backdraw.blackbox(Oracle(l, top2, event_ndim=2)),
    ):
        x, y = (torch.tensor(LOGITS, requires_grad=True) for _ in range(2))
        out = torch.compile(f, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(out, f(y))
        for result in (out, f(y)):
            (result * torch.tensor(G)).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.needs("torch")
def test_under_vmap() -> None:
    import torch

    l = torch.tensor(LOGITS)
    out = torch.func.vmap(lambda l: backdraw.blackbox(Oracle(l, top2)))(l)
    torch.testing.assert_close(out, torch.tensor(expected(LOGITS, 1)))
    grads = torch.func.vmap(torch.func.grad(lambda l, g: (backdraw.blackbox(Oracle(l, top2)) * g).sum()))(l, torch.tensor(G))
    torch.testing.assert_close(grads, torch.tensor(expected(LOGITS, 1) - expected(LOGITS - G, 1)))


# ------------------------------------------------------------------------------------------------------------- errors
BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "shape": (lambda u: u[:, :-1], {}, r"argmax: .*lambda.* returned shape \(6, 4\) for utilities of shape \(6, 5\)"),
    "index": (lambda u: u.argmax(-1), {}, r"returned shape \(6,\) for utilities of shape \(6, 5\)"),
    "nan": (lambda u: u * np.nan, {}, "returned a solution that is not finite"),
    "dtype": (lambda u: u * 1j, {}, "returned complex128, expected real numbers"),
    "member": (top2, {"member": lambda x: x[:, 0] == 0}, "argmax: top2 returned solutions that `member` denies, 1 of 6"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_solutions(lib: Library, case: Any) -> None:
    solver, options, message = case
    p = Oracle(lib.asarray(LOGITS), solver, **options)
    # JAX wraps what its callback raises.
    kind: Any = Exception if lib.backend is Backend.JAX else backdraw.BackdrawError
    with pytest.raises(kind, match=message):
        lib.to_numpy(p.argmax(p.logits))


def test_members(lib: Library) -> None:
    p = Oracle(lib.asarray(LOGITS), top2, member=lambda x: (x.sum(-1) == 2) & np.all((x == 0) | (x == 1), -1))
    lib.check(p.argmax(p.logits), expected(LOGITS, 1), rtol=0)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="argmax: expected a function of NumPy arrays, got str"):
        Oracle(LOGITS, "top2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="member: expected a function of NumPy arrays, got bool"):
        Oracle(LOGITS, top2, member=True)  # type: ignore[arg-type]

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, u: Any) -> Any:
            return u

    with pytest.raises(TypeError, match="argmax: expected a hashable function, got Unhashable"):
        Oracle(LOGITS, Unhashable())
    with pytest.raises(ValueError, match=r"event_ndim: expected 0 to 3 for logits of shape \(2, 3, 5\), got 4"):
        Oracle(LOGITS, top2, event_ndim=4)
    with pytest.raises(TypeError, match="event_ndim: expected an int, got float"):
        Oracle(LOGITS, top2, event_ndim=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise: expected one of gumbel, normal, got 'logistic'"):
        Oracle(LOGITS, top2, noise="logistic")
    with pytest.raises(TypeError, match="logits: expected a real floating dtype, got int64"):
        Oracle(np.zeros(3, int), top2)
    p = Oracle(LOGITS, top2)
    for f, need in ((backdraw.straight_through, "sample"), (backdraw.gumbel_softmax, "relax"), (backdraw.select, "mean")):
        with pytest.raises(TypeError, match=rf"needs {need}\(\) of Oracle, but it"):
            f(p)  # type: ignore[operator]
