"""implicit_mle and blackbox: the rule against its formula, the mean gradient in closed form, the adaptive step."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, finite_difference, pulled, sigmoid, softmax, softmax_vjp

import backdraw
from backdraw import Bernoulli, Categorical, GradientError, Oracle, adaptive_step, blackbox, implicit_mle
from backdraw.random import noise

KEY = backdraw.key(6)
RNG = np.random.default_rng(8)
LOGITS, G = RNG.normal(size=(6, 5)), RNG.normal(size=(6, 5))
HERE = Library(Backend.NUMPY)


def one_hot(u: np.ndarray) -> np.ndarray:
    return np.eye(u.shape[-1])[u.argmax(-1)]


def top2(u: np.ndarray) -> np.ndarray:
    return (u >= np.sort(u, -1)[..., -2:-1]).astype(u.dtype)


CASES = {
    "Categorical": (Categorical, one_hot, "gumbel"),
    "Bernoulli": (Bernoulli, lambda u: (u > 0) * 1.0, "logistic"),
    "Oracle": (lambda l: Oracle(l, top2, noise="normal"), top2, "normal"),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"relative": True}, {"relative": True, "symmetric": True}])
def test_rule(lib: Library, case: Any, options: dict[str, bool]) -> None:
    make, solve, kind = case
    u = LOGITS + noise(HERE.be, kind, KEY, LOGITS.shape, LOGITS)
    step = 0.8 * (np.linalg.norm(LOGITS) / np.linalg.norm(G) if options.get("relative") else 1.0)
    behind = solve(u - step * G)
    expected = (solve(u + step * G) - behind) / (2 * step) if options.get("symmetric") else (solve(u) - behind) / step
    size = lib.asarray(np.asarray(0.8)) if options.get("relative") else 0.8
    x, (grad,) = pulled(
        lib, lambda l: implicit_mle(make(l), step_size=size, rng=KEY, **options), lib.asarray(G), lib.asarray(LOGITS)
    )
    lib.check(x, solve(u), rtol=0)
    lib.check(grad, expected, rtol=1e-12)
    assert 3 <= np.count_nonzero(expected) < expected.size


@cases
def test_blackbox(lib: Library, case: Any) -> None:
    make, solve, _ = case
    x, (grad,) = pulled(lib, lambda l: blackbox(make(l), step_size=0.5), lib.asarray(G), lib.asarray(LOGITS))
    lib.check(x, solve(LOGITS), rtol=0)
    lib.check(grad, (solve(LOGITS) - solve(LOGITS - 0.5 * G)) / 0.5, rtol=1e-12)
    assert np.any(lib.to_numpy(grad) != 0.0)


@cases
def test_blackbox_is_the_gradient_of_the_interpolation(case: Any) -> None:
    # Of (max <u, x> - max <u - step c, x>) / step, by finite differences.
    make, solve, _ = case

    def interpolation(u: np.ndarray) -> np.ndarray:
        v = u - 0.5 * G
        return ((u * solve(u)).sum(-1) - (v * solve(v)).sum(-1)) / 0.5

    grad = backdraw.vjp(lambda l: blackbox(make(l), step_size=0.5), LOGITS)[1](G)[0]
    np.testing.assert_allclose(grad, finite_difference(interpolation, LOGITS, np.ones(6)), atol=1e-8)


ROW, C = np.asarray([0.3, -0.5, 1.0, 0.1]), np.asarray([1.0, -2.0, 0.5, 3.0])


@pytest.mark.parametrize(("dist", "mean"), [(Categorical, softmax), (Bernoulli, sigmoid)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mean_gradient(dist: Any, mean: Any, symmetric: bool) -> None:
    # Over the noise it is the finite difference of the mean, which tends to the vjp as the step does to 0.
    n, rows, g = 40_000, np.broadcast_to(ROW, (40_000, 4)), np.broadcast_to(C, (40_000, 4))
    for step in (0.5, 0.05):
        grads = backdraw.vjp(lambda l, s=step: implicit_mle(dist(l), step_size=s, symmetric=symmetric, rng=KEY), rows)[1](g)[0]
        ahead, width = (mean(ROW + step * C), 2 * step) if symmetric else (mean(ROW), step)
        expected = (ahead - mean(ROW - step * C)) / width
        assert np.abs((grads.mean(0) - expected) / (grads.std(0) / n**0.5)).max() < 4.5
    exact = softmax_vjp(mean(ROW), C) if dist is Categorical else sigmoid(ROW) * sigmoid(-ROW) * C
    np.testing.assert_allclose(expected, exact, atol=0.04 if not symmetric else 0.004)


# ------------------------------------------------------------------------------------------------------ adaptive step
def test_adaptive_step(lib: Library) -> None:
    grads = np.asarray([[[0.0, 0.5, -0.5], [0.0, 0.0, 0.0]], [[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]])  # 1, then 0.5 a row
    step, mean, state = 0.3, 1.5, 0.3
    for i, g in enumerate(np.concatenate([grads] * 3)):
        mean = 0.6 * mean + 0.4 * (1.0, 0.5)[i % 2]
        step += 0.1 if mean < 1.5 else -0.1
        state = adaptive_step(state, lib.asarray(g), target=1.5, decay=0.6, rate=0.1)  # type: ignore[assignment]
        lib.check(state.step_size, step, rtol=1e-12)  # type: ignore[attr-defined]
        lib.check(state.nonzeros, mean, rtol=1e-12)  # type: ignore[attr-defined]
    low = adaptive_step(0.15, lib.asarray(np.ones((2, 2, 3))), event_ndim=2, rate=0.1)
    lib.check(low.nonzeros, 0.9 + 0.6, rtol=1e-12)
    lib.check(low.step_size, 0.1, rtol=1e-12)


@pytest.mark.needs("jax")
def test_adaptive_step_under_jit() -> None:
    import jax

    @jax.jit
    def update(state: Any, l: Any, seed: Any) -> Any:
        key = backdraw.fold_in(KEY, seed)
        _, pullback = jax.vjp(lambda l: implicit_mle(l, step_size=state.step_size, relative=True, rng=key), l)
        return adaptive_step(state, pullback(jax.numpy.asarray(G))[0], rate=0.05)

    l = jax.numpy.asarray(LOGITS)
    state = adaptive_step(0.01, l * 0.0)
    sizes, counts = [], []
    for i in range(150):
        state = update(state, l, i)
        sizes.append(float(state.step_size))
        counts.append(float(state.nonzeros))
    assert np.mean(sizes[50:]) > 0.1  # from 0.01
    assert abs(np.mean(counts[50:]) - 1.0) < 0.15


# ------------------------------------------------------------------------------------------------------------- edges
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_excluded_categories_and_huge_logits(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    inf, b = np.inf, {"float16": 6e4, "float32": 3e38}[dtype]
    rows = np.asarray([[0.3, -inf, 1.0], [-inf, -inf, 2.0], [-inf, -inf, -inf], [1e4, -1e4, 0.0], [b, -b, 0.0]])
    g, l = lib.asarray(RNG.normal(size=rows.shape), dtype), lib.asarray(rows, dtype)
    for f in (
        lambda l: implicit_mle(l, rng=KEY),
        lambda l: implicit_mle(l, relative=True, symmetric=True, step_size=0.05, rng=KEY),
        lambda l: implicit_mle(Categorical(l, where=l > -inf), rng=KEY),
        blackbox,
    ):
        x, (grad,) = pulled(lib, f, g, l)
        np.testing.assert_array_equal(lib.to_numpy(x).sum(-1), [1, 1, 0, 1, 1])
        grad = lib.to_numpy(grad)
        assert np.all(np.isfinite(grad))
        assert np.all(grad[rows == -inf] == 0.0)
    _, (grad,) = pulled(lib, lambda l: implicit_mle(l, relative=True, rng=KEY), lib.xp.zeros_like(l), l)
    assert np.all(lib.to_numpy(grad) == 0.0)


class Ranks(Categorical):
    """Draws of another shape than the utilities."""

    def argmax(self, utilities: Any) -> Any:
        x = super().argmax(utilities)
        return self.backend.xp.stack([x, x])


def test_bad_input() -> None:
    for f in (implicit_mle, blackbox):
        name = f.__name__
        with pytest.raises(ValueError, match=r"step_size: expected a positive finite number, got 0\.0"):
            f(LOGITS, step_size=0.0)
        message = rf"dist: {name} moves .*utilities of shape \(6, 5\) and draws of shape \(2, 6, 5\)"
        with pytest.raises(TypeError, match=message):
            f(Ranks(LOGITS))
        with pytest.raises(GradientError):
            backdraw.vjp(lambda l, f=f: backdraw.vjp(f, l)[1](G)[0], LOGITS)
    with pytest.raises(TypeError, match="gradient: expected an array, got NoneType"):
        adaptive_step(1.0, None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": 0.0}, ValueError, "target: expected a positive finite number"),
        ({"target": float("nan")}, ValueError, "target: expected a positive finite number"),
        ({"decay": 2.0}, ValueError, "decay: expected a number from 0 to 1, got 2.0"),
        ({"decay": "0.9"}, TypeError, "decay: expected a number from 0 to 1, got str"),
        ({"rate": -1.0}, ValueError, "rate: expected a positive finite number"),
        ({"event_ndim": 9}, ValueError, r"event_ndim: expected 0 to 3 for a gradient of shape \(2, 4, 3\), got 9"),
        ({"event_ndim": 1.0}, TypeError, "event_ndim: expected an int, got float"),
        ({"gradient": np.zeros((0, 3))}, ValueError, r"gradient: expected at least one example, got shape \(0, 3\)"),
    ],
)
def test_bad_input_of_adaptive_step(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        adaptive_step(1.0, **{"gradient": np.ones((2, 4, 3)), **options})


@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", ["implicit_mle", "blackbox", "perturbed_argmax", "fenchel_young"])
def test_no_second_derivative(name: str) -> None:
    import torch

    x, g = torch.tensor(LOGITS, requires_grad=True), torch.tensor(G)
    y = {
        "implicit_mle": lambda: implicit_mle(x, rng=KEY) * g,
        "blackbox": lambda: blackbox(x) * g,
        "perturbed_argmax": lambda: backdraw.perturbed_argmax(x, rng=KEY) * g,
        "fenchel_young": lambda: backdraw.fenchel_young(x, torch.softmax(g, -1), samples=3, rng=KEY),
    }[name]()
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(GradientError, match=f"{name} has no second derivative"):
        grad.sum().backward()
