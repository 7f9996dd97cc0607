"""Permutation: its argmax against an enumeration, Sinkhorn's iteration against the plain one, and what it says it lacks."""

import itertools
from typing import Any

import numpy as np
import pytest
from chains import compiled
from helpers import Backend, Library, finite_difference, pulled, run_python
from matchings import RNG, L, normalised

import backdraw
from backdraw import Permutation

ALL = np.eye(4)[list(itertools.permutations(range(4)))]


SPREAD = np.stack(
    [RNG.integers(-1000, 1000, (3, 3)), np.where(RNG.random((3, 3)) < 0.5, -1000, 1000), 900 + np.arange(9).reshape(3, 3) % 4]
)
SPREAD, WEIGHTS = SPREAD.astype(np.float64), RNG.integers(-5, 5, SPREAD.shape) / 4.0
SLOPE = finite_difference(normalised, SPREAD, WEIGHTS, step=1e-4)


# --------------------------------------------------------------------------------------------------------- the argmax
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_argmax(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    u = lib.asarray(RNG.normal(size=(2, 3, 4, 4)), dtype)
    p = Permutation(u)
    sums = np.tensordot(lib.to_numpy(u).astype(np.float64), ALL, ([-2, -1], [-2, -1]))
    lib.check(p.argmax(u), ALL[sums.argmax(-1)], dtype=dtype, rtol=0)
    assert p.batch_shape == (2, 3)


def test_argmax_of_equals_and_of_what_cannot_be(lib: Library) -> None:
    u = np.zeros((5, 3, 3))
    u[1, 0] = 1.0  # in every matching
    u[2] = np.where(np.eye(3) == 1, -np.inf, 0.0)
    u[3, 0] = -np.inf  # no matching
    u[4, 1, 2] = np.nan
    p = Permutation(lib.asarray(u))
    x = lib.to_numpy(p.argmax(p.utilities))
    for y in x[:3]:
        assert np.all(y.sum(0) == 1)
        assert np.all(y.sum(1) == 1)
    assert np.all(x[2][np.eye(3) == 1] == 0)
    assert np.all(x[3] == 0)
    assert np.all(np.isnan(x[4]))


def test_gumbel_max_and_gumbel_softmax(lib: Library) -> None:
    key, g, plain = backdraw.key(4), RNG.normal(size=L.shape), backdraw.gumbel_max(Permutation(L), rng=backdraw.key(4))

    def f(l: Any) -> Any:
        return backdraw.gumbel_softmax(Permutation(l, iterations=9), temperature=0.5, hard=True, rng=key)

    value, (grad,) = pulled(lib, f, lib.asarray(g), lib.asarray(L))
    lib.check(value, plain, rtol=0)
    noise = lib.to_numpy(Permutation(lib.asarray(L)).perturb_noise(key))
    exact = finite_difference(lambda l: normalised(l + noise, 0.5, 9), L, g, step=1e-5)
    lib.check(grad, exact, rtol=1e-6, atol=1e-8)


# ----------------------------------------------------------------------------------------------------- the relaxation
@pytest.mark.parametrize("iterations", [1, 20])
def test_relaxation(lib: Library, iterations: int) -> None:
    g, t = RNG.normal(size=L.shape), np.asarray(0.6)
    arrays = lib.asarray(L), lib.asarray(t)

    def f(l: Any, t: Any) -> Any:
        return Permutation(l, iterations).relax(l, t)

    value, (to_l, to_t) = pulled(lib, f, lib.asarray(g), *arrays)
    lib.check(value, normalised(L, 0.6, iterations), rtol=1e-11)
    lib.check(to_l, finite_difference(lambda l: normalised(l, 0.6, iterations), L, g, step=1e-5), rtol=1e-6, atol=1e-8)
    lib.check(to_t, finite_difference(lambda t: normalised(L, t, iterations), t, g, step=1e-5), rtol=1e-6, atol=1e-8)


def test_it_tends_to_the_maximiser_that_is_stated(lib: Library) -> None:
    y = lib.to_numpy(compiled(lib, lambda l: Permutation(l, 300).relax(l, 1.0))(lib.asarray(L)))
    for axis in (-1, -2):
        np.testing.assert_allclose(y.sum(axis), 1.0, rtol=1e-10)
    # Of <u, x> + t H(x), under the constraints on rows and columns: u - t log(x) is a sum of one term a row and one a column.
    rest = L - np.log(y)
    rest = rest - rest[:, :1] - rest[:, :, :1] + rest[:, :1, :1]
    np.testing.assert_allclose(rest, 0.0, atol=1e-10)


def test_falling_temperature_leads_to_the_hard_draw(lib: Library) -> None:
    def f(l: Any, t: Any) -> Any:
        p = Permutation(l, 200)
        u = p.perturbed(backdraw.key(3))
        return p.argmax(u), p.relax(u, t)

    gaps, g = [], compiled(lib, f)
    for t in (1.0, 0.3, 0.1):
        hard, soft = g(lib.asarray(4 * L), lib.asarray(t))
        gaps.append(np.abs(lib.to_numpy(soft) - lib.to_numpy(hard)).max())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert gaps[-1] < 0.01
    assert np.all((lib.to_numpy(soft) > 0.5) == (lib.to_numpy(hard) > 0.5))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_utilities_spread_over_a_thousand(lib: Library, dtype: str) -> None:
    g, rtol = WEIGHTS, {"float32": 1e-5, "float64": 1e-9}[dtype]
    value, (grad,) = pulled(lib, lambda u: Permutation(u).relax(u), lib.asarray(g, dtype), lib.asarray(SPREAD, dtype))
    lib.check(value, normalised(SPREAD), dtype=dtype, rtol=rtol, atol=1e-30)
    lib.check(grad, SLOPE, dtype=dtype, rtol=max(rtol, 1e-6), atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_huge_and_barred_utilities(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    b, no = {"float16": 6e4, "float32": 3e38, "float64": 1.7e308}[dtype], -np.inf
    u = np.asarray(
        [[[b, -b, 0], [-b, -b, b], [0, 1, 2]], [[no, 0, 1], [2, no, 3], [1, 0, no]], [[0, no, 1], [no, no, no], [1, no, 2]]]
    )
    g = lib.asarray(RNG.normal(size=u.shape), dtype)
    y, grads = pulled(lib, lambda u: Permutation(u).relax(u, 0.05), g, lib.asarray(u, dtype))
    for out in (y, *grads):
        assert np.all(np.isfinite(lib.to_numpy(out)))
        assert out.dtype == lib.dtype(dtype)
    barred = u == no
    assert np.all(lib.to_numpy(y)[barred] == 0)
    assert np.all(lib.to_numpy(grads[0])[barred] == 0)
    lib.check(y[1, ...], normalised(u[1], 0.05), dtype=dtype, rtol=2e-3, atol=1e-7)
    x = lib.to_numpy(Permutation(lib.asarray(u, dtype)).argmax(lib.asarray(u, dtype)))
    assert np.all(x[0] == [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert np.all(x[2] == 0)


# ------------------------------------------------------------------------------------------- transformations and input
@pytest.mark.needs("jax")
def test_under_vmap() -> None:
    import jax

    lib, key, g = Library(Backend.JAX), backdraw.key(2), RNG.normal(size=(4, 4))

    def both(l: Any, g: Any) -> Any:
        y, back = backdraw.vjp(lambda l: Permutation(l, 5).relax(Permutation(l).perturbed(key), 0.5), l)
        z, again = backdraw.vjp(lambda l: Permutation(l, tolerance=1e-3).relax(l), l)
        return y, *back(g), Permutation(l).argmax(l), z, *again(g)

    expected = zip(*(both(l, g) for l in L), strict=True)
    for a, b in zip(jax.jit(jax.vmap(both, (0, None)))(lib.asarray(L), lib.asarray(g)), expected, strict=True):
        lib.check(a, np.stack(b), rtol=1e-10, atol=1e-14)


@pytest.mark.needs("torch")
def test_second_derivatives_and_vmap() -> None:
    import torch

    l, g = torch.tensor(L[:, :3, :3]).requires_grad_(), torch.tensor(RNG.normal(size=(3, 3)))
    for tolerance in (None, 0.02):
        f = lambda l, tolerance=tolerance: Permutation(l, 4, tolerance).relax(l, 0.9)  # noqa: E731
        assert torch.autograd.gradgradcheck(f, (l,))
        grads = torch.func.vmap(torch.func.grad(lambda l, f=f: (f(l) * g).sum()))(l.detach())
        torch.testing.assert_close(grads, torch.func.vjp(f, l.detach())[1](g.expand(2, 3, 3))[0])


def test_what_is_hard_is_an_error() -> None:
    p = Permutation(L)
    for f in (backdraw.draw, backdraw.straight_through, backdraw.select, lambda p: backdraw.rloo(lambda x: x, p)):
        with pytest.raises(TypeError, match=r"needs (sample|mean)\(\) of Permutation, but its normalisation is .* #P-hard"):
            f(p)  # type: ignore[operator]


def test_what_is_hard_is_said_when_asked_for() -> None:
    p = Permutation(L)
    for name in ("mean", "log_prob", "log_partition", "entropy", "score", "support", "sample", "draw_noise", "kl"):
        assert not hasattr(p, name)
        with pytest.raises(TypeError, match=rf"Permutation has no {name}\(\): its normalisation is .* #P-hard"):
            getattr(p, name)()
    with pytest.raises(AttributeError, match="'Permutation' object has no attribute 'means'"):
        p.means()  # type: ignore[attr-defined]


def test_scipy_not_installed() -> None:
    code = """
import sys
sys.modules["scipy.optimize"] = None
import numpy as np, backdraw
try:
    backdraw.gumbel_max(backdraw.Permutation(np.zeros((2, 2))))
except backdraw.BackendError as error:
    print(error)
"""
    message = run_python(code)
    assert message.startswith("Permutation.argmax needs SciPy, which cannot be used:")
    assert message.endswith("Install it with: pip install 'backdraw[structures]'")


def test_bad_input(lib: Library) -> None:
    for shape in ((), (3,), (2, 3), (2, 0, 0)):
        with pytest.raises(ValueError, match=r"logits: expected shape \(\.\.\., n, n\) with n at least 1, got \("):
            Permutation(lib.asarray(np.zeros(shape)))
    with pytest.raises(TypeError, match=r"logits: expected a real floating dtype, got .*int64"):
        Permutation(lib.asarray(np.zeros((2, 2), np.int64)))
    l = lib.asarray(L)
    with pytest.raises(ValueError, match="iterations: expected at least 1, got 0"):
        Permutation(l, 0)
    for bad in (2.0, True, "2"):
        with pytest.raises(TypeError, match=f"iterations: expected an int, got {type(bad).__name__}"):
            Permutation(l, bad)  # type: ignore[arg-type]
    for bad in (True, "1", [0.1]):
        with pytest.raises(TypeError, match=f"tolerance: expected a number or None, got {type(bad).__name__}"):
            Permutation(l, tolerance=bad)  # type: ignore[arg-type]
    for value in (0, 1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match=f"tolerance: expected a number between 0 and 1, got {value}"):
            Permutation(l, tolerance=value)
    with pytest.raises(ValueError, match="regularizer: expected 'entropy', the one that a Permutation has, got 'tsallis'"):
        Permutation(l).relax(l, 1.0, "tsallis")
