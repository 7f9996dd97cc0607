"""intermediate_loss against an independent implementation of its equations, and the measurements of its docstring."""

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, sigmoid, softmax, softmax_vjp

import backdraw
from backdraw import Bernoulli, Categorical, intermediate_loss
from backdraw.estimators.intermediate_loss import IntermediateLoss

KEY = backdraw.key(3)
RNG = np.random.default_rng(4)
LOGITS, G = RNG.normal(size=(30, 4)), RNG.normal(size=(30, 4)) * 8


def nearest_on_simplex(y: np.ndarray) -> np.ndarray:
    """The Euclidean projection by brute force: the closest of the feasible points of every support."""
    best, distance = y, np.inf
    for r in range(1, y.size + 1):
        for some in itertools.combinations(range(y.size), r):
            q, s = np.zeros_like(y), list(some)
            q[s] = y[s] - (y[s].sum() - 1.0) / r
            if q.min() >= 0 and ((q - y) ** 2).sum() < distance:
                best, distance = q, ((q - y) ** 2).sum()
    return best


def target(x: np.ndarray, c: np.ndarray, step: float, projection: str) -> np.ndarray:
    """The target of one row: q = h(x - s c') with c' = c - c[drawn]."""
    y = x - step * (c - c[x.argmax()])
    if projection == "simplex":
        return nearest_on_simplex(y)
    q = np.maximum(y, 0.0)
    return np.asarray(q / q.sum())


OPTIONS = list(itertools.product(("normalize", "simplex"), (True, False), (0.01, 0.1, 3.0)))


@pytest.mark.parametrize(("projection", "control_variate", "step"), OPTIONS)
def test_categorical(lib: Library, projection: str, control_variate: bool, step: float) -> None:
    def draw(l: Any) -> Any:
        return intermediate_loss(l, step_size=step, projection=projection, control_variate=control_variate, rng=KEY)

    x, pullback = backdraw.vjp(draw, lib.asarray(LOGITS))
    lib.check(x, backdraw.draw(LOGITS, rng=KEY), rtol=0)
    values = lib.to_numpy(x)
    q = np.stack([target(v, c, step, projection) for v, c in zip(values, G, strict=True)])
    np.testing.assert_allclose(q.sum(-1), 1.0)
    expected = values - q if control_variate else softmax(LOGITS) - q
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-10, atol=1e-14)


def test_is_the_gradient_of_the_stated_divergence(lib: Library) -> None:
    # Without the control variate: the gradient of KL(q || softmax(l)), by automatic or hand-written derivative of kl.
    _, pullback = backdraw.vjp(lambda l: intermediate_loss(l, control_variate=False, rng=KEY), lib.asarray(LOGITS))
    x = backdraw.draw(LOGITS, rng=KEY)
    q = np.stack([target(v, c, 0.1, "normalize") for v, c in zip(x, G, strict=True)])
    with np.errstate(divide="ignore"):
        fixed = Categorical(lib.asarray(np.log(q)))
    _, back = backdraw.vjp(lambda l: backdraw.kl(fixed, Categorical(l)), lib.asarray(LOGITS))
    expected = lib.to_numpy(back(lib.asarray(np.ones(30)))[0])
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("projection", ["normalize", "simplex"])
def test_axis(lib: Library, axis: int, projection: str) -> None:
    logits, g = LOGITS.reshape(5, 6, 4), G.reshape(5, 6, 4)
    dist = lambda l: Categorical(l, axis)  # noqa: E731
    x, pullback = backdraw.vjp(lambda l: intermediate_loss(dist(l), projection=projection, rng=KEY), lib.asarray(logits))
    moved = [np.moveaxis(a, axis, -1).reshape(-1, logits.shape[axis]) for a in (lib.to_numpy(x), g)]
    q = np.stack([target(v, c, 0.1, projection) for v, c in zip(*moved, strict=True)])
    shape = [n for i, n in enumerate(logits.shape) if i != axis]
    expected = np.moveaxis((moved[0] - q).reshape(*shape, -1), -1, axis)
    lib.check(pullback(lib.asarray(g))[0], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("control_variate", [True, False])
@pytest.mark.parametrize("projection", ["normalize", "simplex"])
def test_masks(lib: Library, projection: str, control_variate: bool) -> None:
    where = RNG.random((30, 4)) < 0.7
    where[3] = False
    x, pullback = backdraw.vjp(
        lambda l: intermediate_loss(
            Categorical(l, where=lib.asarray(where)), projection=projection, control_variate=control_variate, rng=KEY
        ),
        lib.asarray(LOGITS),
    )
    values, grad = lib.to_numpy(x), lib.to_numpy(pullback(lib.asarray(G))[0])
    assert np.all(grad[~where] == 0.0)
    expected = np.zeros((30, 4))
    p = softmax(np.where(where, LOGITS, -np.inf))
    for i in np.flatnonzero(where.any(-1)):
        live = where[i]
        q = target(values[i, live], G[i, live], 0.1, projection)
        expected[i, live] = (values[i, live] if control_variate else p[i, live]) - q
    np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("control_variate", [True, False])
def test_bernoulli(lib: Library, control_variate: bool) -> None:
    x, pullback = backdraw.vjp(
        lambda l: intermediate_loss(Bernoulli(l), control_variate=control_variate, rng=KEY), lib.asarray(LOGITS)
    )
    values = lib.to_numpy(x)
    q = np.clip(values - 0.1 * G, 0.0, 1.0)
    expected = (values if control_variate else sigmoid(LOGITS)) - q
    lib.check(pullback(lib.asarray(G))[0], expected, rtol=1e-10, atol=1e-14)


def test_a_zero_cotangent_with_control_variate_gives_zero(lib: Library) -> None:
    _, pullback = backdraw.vjp(lambda l: intermediate_loss(l, rng=KEY), lib.asarray(LOGITS))
    lib.check(pullback(lib.asarray(0 * G))[0], 0 * G, rtol=0)


def test_control_variate_has_mean_zero() -> None:
    # p - x, whose mean under p is zero: both forms have one mean gradient.
    p = softmax(LOGITS[0])
    grads = {cv: _mean_gradient(LOGITS[0], lambda x: x * 3.0 - 1.0, control_variate=cv) for cv in (True, False)}
    np.testing.assert_allclose(grads[True], grads[False], atol=1e-14)
    assert np.abs(grads[True]).max() > 1e-2 * p.max()


def test_half_precision_keeps_small_steps(lib: Library) -> None:
    for dtype in lib.dtypes:
        if "16" in dtype:
            _, pullback = backdraw.vjp(lambda l: intermediate_loss(l, step_size=1e-4, rng=KEY), lib.asarray(LOGITS, dtype))
            grad = lib.to_numpy(pullback(lib.asarray(np.sign(G), dtype))[0]).astype(np.float64)
            x = lib.to_numpy(backdraw.draw(lib.asarray(LOGITS, dtype), rng=KEY)).astype(np.float64)
            q = np.stack([target(v, c, 1e-4, "normalize") for v, c in zip(x, np.sign(G), strict=True)])
            np.testing.assert_allclose(grad, x - q, rtol=2e-2, atol=1e-6)


# -------------------------------------------------------------------------------------------- no second derivative
MESSAGE = "intermediate_loss has no second derivative"


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings(r"ignore:[\s\S]*torch\.jit\.script:DeprecationWarning")  # torch's own
def test_second_derivative_on_torch() -> None:
    import torch

    x = torch.tensor(LOGITS, requires_grad=True)
    (grad,) = torch.autograd.grad((intermediate_loss(x, rng=KEY) ** 2).sum(), x, create_graph=True)
    with pytest.raises(backdraw.GradientError, match=MESSAGE):
        grad.sum().backward()
    with pytest.raises(backdraw.GradientError, match=f"{MESSAGE}|no forward-mode rule"):
        torch.func.hessian(lambda l: (intermediate_loss(l, rng=KEY) ** 2).sum())(x.detach()[0])


@pytest.mark.needs("jax")
def test_second_derivative_on_jax() -> None:
    import jax

    def loss(l: Any) -> Any:
        return (intermediate_loss(l, rng=KEY) ** 2).sum()

    assert np.abs(jax.grad(loss)(LOGITS)).max() > 0
    for twice in (jax.hessian, lambda f: jax.jacrev(jax.grad(f))):
        with pytest.raises(backdraw.GradientError, match=MESSAGE):
            twice(loss)(LOGITS[0])


def test_second_derivative_on_the_tape(taped: Library) -> None:
    def gradient(l: Any) -> Any:
        return backdraw.vjp(lambda l: intermediate_loss(l, rng=KEY), l)[1](taped.asarray(G))[0]

    with pytest.raises(backdraw.GradientError, match=f"{MESSAGE}|the pullback of an inner backdraw.vjp"):
        backdraw.vjp(gradient, taped.asarray(LOGITS))[1](taped.asarray(G))


# ------------------------------------------------------------------------------------------------------- bad options
def test_bad_options(lib: Library) -> None:
    x = lib.asarray(LOGITS)
    with pytest.raises(ValueError, match="projection: expected one of normalize, simplex, got 'sparse'"):
        intermediate_loss(x, projection="sparse", rng=KEY)
    for bad in (0, -0.1, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"step_size: expected a positive finite number, got {float(bad)}"):
            intermediate_loss(x, step_size=bad, rng=KEY)
    with pytest.raises(TypeError, match=r"step_size: expected a number, got .*: it has no gradient"):
        intermediate_loss(x, step_size=lib.asarray(np.asarray(0.1)), rng=KEY)


# ------------------------------------------------------------------------------ the measurements of the docstring
def _mean_gradient(l: np.ndarray, cotangent: Any, **options: Any) -> np.ndarray:
    """The mean gradient by enumeration of the draw: one row for each category."""
    k, be = l.size, Library(Backend.NUMPY).be
    x = np.eye(k)
    static = {"step_size": 0.1, "projection": "normalize", "control_variate": True, **options}
    rows = np.broadcast_to(l, (k, k))
    grads = IntermediateLoss().backward(be, (x, rows, None), cotangent(x), family=Categorical, plain=(-1,), **static)[1]
    return np.asarray(softmax(l) @ grads)


def _toy(steps: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The author's toy, twenty at once: SGD on five five-way categoricals under a loss with a clamp of 1e-8.

    Targets and first logits are uniform in (0, 1), divided by their sum; loss = mean(-t (log(x + 1e-8) - log(t + 1e-8)))
    over the 25 entries, x the draw; learning rate 0.01. Returns the targets and the law after the steps.
    """
    rng = np.random.default_rng(0)
    t, l = (v / v.sum(-1, keepdims=True) for v in rng.random((2, 20, 5, 5)))
    for _ in range(steps):
        x, pullback = backdraw.vjp(lambda l: intermediate_loss(l, rng=rng, **options), l)
        l = l - 0.01 * pullback(-t / (x + 1e-8) / 25)[0]
    return t, softmax(l)


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum(-1).mean())


def test_toy_normalize() -> None:
    t, p = _toy(5000)
    _, other = _toy(5000, step_size=0.001)
    assert abs(_kl(t, p) - _kl(t, other)) < 1e-4  # the step size has no effect
    # q is the target without the drawn category, so that the mean gradient vanishes not at t but at t (1 - t) / Z.
    fixed = t * (1 - t) / (t * (1 - t)).sum(-1, keepdims=True)
    assert 0.006 < _kl(t, fixed) < 0.010
    assert _kl(fixed, p) < 0.006  # what is left is the noise of the steps
    assert 0.008 < _kl(t, p) < 0.014


def test_toy_simplex_collapses_to_two_categories() -> None:
    # The target is always a vertex: the likeliest category that was not drawn. The law ends on the two likeliest.
    t, p = _toy(5000, projection="simplex")
    assert 0.7 < _kl(t, p) < 1.1
    two = np.take_along_axis(p, np.argsort(t, -1)[..., -2:], -1)
    assert two.sum(-1).mean() > 0.8
    assert np.abs(two[..., 0] - two[..., 1]).mean() < 0.2


def test_cosine_of_the_mean_gradient_on_random_quadratics() -> None:
    # f(x) = x' A x / 2 + b x over one of five categories; logits, b and the entries of M, A = (M + M') / 2, normal.
    rng = np.random.default_rng(0)
    ours, plain = [], []
    for _ in range(500):
        m, b, l = rng.normal(size=(5, 5)), rng.normal(size=5), rng.normal(size=5)
        a, p = (m + m.T) / 2, softmax(l)
        c = lambda x, a=a, b=b: x @ a + b  # noqa: E731
        true = softmax_vjp(p, np.diag(a) / 2 + b)
        estimates = (_mean_gradient(l, c), (p[:, None] * softmax_vjp(p, c(np.eye(5)))).sum(0))
        for found, g in zip((ours, plain), estimates, strict=True):
            found.append(g @ true / (np.linalg.norm(g) * np.linalg.norm(true)))
    assert 0.74 < np.mean(ours) < 0.84
    assert 0.86 < np.mean(plain) < 0.94
