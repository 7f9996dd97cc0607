"""kl of relaxed draws by Monte Carlo, and how Concrete passes through the frameworks."""

from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.special
from helpers import Library, call_anyhow, finite_difference, pulled

import backdraw
from backdraw import Concrete, ExpConcrete
from backdraw.estimators import ESTIMATORS

RNG = np.random.default_rng(8)
P, Q = RNG.normal(size=(2, 3, 4))
G = RNG.normal(size=3)
S, T = np.asarray(0.6), np.asarray(0.9)
KEY = backdraw.key(5)
both = pytest.mark.parametrize("family", [Concrete, ExpConcrete], ids=lambda f: f.__name__)


def log_prob(l: np.ndarray, z: np.ndarray, t: Any) -> np.ndarray:
    a = l - t * z
    n = l.shape[-1]
    return np.asarray((n - 1) * np.log(t) + a.sum(-1) - n * scipy.special.logsumexp(a, -1))


def estimate(noise: np.ndarray, p: np.ndarray, q: np.ndarray, s: Any, t: Any) -> np.ndarray:
    """Mean log ratio over draws that move with p and s."""
    z = scipy.special.log_softmax((p + noise) / s, -1)
    return np.asarray((log_prob(p, z, s) - log_prob(q, z, t)).mean(0))


def quadrature(p: np.ndarray, q: np.ndarray, s: Any, t: Any) -> float:
    """KL of two categories: log(y_1 / y_2) = a has the density s f(s a - d), f the logistic one."""

    def log_density(a: float, l: np.ndarray, t: float) -> float:
        x = t * a - (l[0] - l[1])
        return float(np.log(t) + scipy.special.log_expit(x) + scipy.special.log_expit(-x))

    def integrand(x: float) -> float:
        a = x / s
        return float(np.exp(log_density(a, p, s)) / s * (log_density(a, p, s) - log_density(a, q, t)))

    return float(scipy.integrate.quad(integrand, -50.0, 50.0, limit=200, epsabs=1e-11)[0])


@both
def test_value_and_gradients(lib: Library, family: Any) -> None:
    arrays = (P, Q, S, T)
    noise = lib.to_numpy(family(lib.asarray(P), 0.6).transport_noise(KEY, (3,)))
    value, grads = pulled(
        lib,
        lambda p, q, s, t: backdraw.kl(family(p, s), family(q, t), samples=3, rng=KEY),
        lib.asarray(G),
        *map(lib.asarray, arrays),
    )
    lib.check(value, estimate(noise, *arrays), rtol=1e-11, atol=1e-12)
    for i, grad in enumerate(grads):

        def at(x: np.ndarray, i: int = i) -> np.ndarray:
            return estimate(noise, *arrays[:i], x, *arrays[i + 1 :])

        lib.check(grad, finite_difference(at, arrays[i], G), rtol=1e-6, atol=1e-7)
    plain = backdraw.kl(family(lib.asarray(P), 0.6), family(lib.asarray(Q), 0.9), samples=3, rng=KEY)
    lib.check(plain, lib.to_numpy(value), rtol=1e-12)
    same = family(lib.asarray(P), 0.6)
    lib.check(backdraw.kl(same, same, rng=KEY), np.zeros(3), rtol=0)


@pytest.mark.parametrize(("s", "t"), [(0.6, 0.9), (0.05, 0.1)])
def test_mean_and_mean_gradient_are_those_of_the_divergence(s: float, t: float) -> None:
    p, q, n = np.asarray([0.7, -0.2]), np.asarray([-0.4, 0.3]), 20_000
    rows = [np.broadcast_to(l, (n, 2)) for l in (p, q)]
    value, pullback = backdraw.vjp(
        lambda p, q: backdraw.kl(Concrete(p, s), Concrete(q, t), samples=2, rng=backdraw.key(1)), *rows
    )
    z = (value.mean() - quadrature(p, q, s, t)) / (value.std() / n**0.5)
    assert abs(z) < 4.5
    to_p, to_q = pullback(np.ones(n))
    for grads, expected in (
        (to_p, finite_difference(lambda l: quadrature(l, q, s, t), p, 1.0, step=1e-4)),
        (to_q, finite_difference(lambda l: quadrature(p, l, s, t), q, 1.0, step=1e-4)),
    ):
        assert np.abs((grads.mean(0) - expected) / (grads.std(0) / n**0.5)).max() < 4.5
        assert np.abs(expected).max() > 10 * (grads.std(0) / n**0.5).max()  # the test can tell it from zero


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_thousand_categories(framework: Library, dtype: str) -> None:
    p, q = (3 * np.random.default_rng(0).normal(size=(2, 1000))).astype(dtype)
    a, b = Concrete(framework.asarray(p, dtype), 0.05), Concrete(framework.asarray(q, dtype), 0.07)
    noise = framework.to_numpy(a.transport_noise(KEY, (4,))).astype(np.float64)
    expected = estimate(noise, p.astype(np.float64), q.astype(np.float64), 0.05, 0.07)
    framework.check(backdraw.kl(a, b, samples=4, rng=KEY), expected, dtype=dtype, rtol={"float32": 1e-5}.get(dtype, 1e-11))


# ----------------------------------------------------------------------------------------------------------- bad input
def test_bad_samples_and_rng(lib: Library) -> None:
    p, c = Concrete(lib.asarray(P), 0.5), backdraw.Categorical(lib.asarray(P))
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        backdraw.kl(p, p, samples=0, rng=KEY)
    with pytest.raises(TypeError, match="samples: expected an integer, got float"):
        backdraw.kl(p, p, samples=2.0, rng=KEY)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rng: expected None for Categorical, whose KL is exact, got Key"):
        backdraw.kl(c, c, rng=KEY)
    with pytest.raises(ValueError, match="samples: expected none for Categorical, whose KL is exact, got 3"):
        backdraw.kl(c, c, samples=3)
    with pytest.raises(TypeError, match=r"rng: expected None, an int, a backdraw\.Key"):
        backdraw.kl(p, p, rng="seed")
    with pytest.raises(TypeError, match="q: expected a distribution of p's class, Concrete, got ExpConcrete"):
        backdraw.kl(p, ExpConcrete(lib.asarray(P), 0.5))
    with pytest.raises(ValueError, match=r"q: expected logits of shape \(3, 4\) with axis -1, got \(3, 4\) with axis -2"):
        backdraw.kl(p, Concrete(lib.asarray(P), 0.5, axis=0), rng=KEY)


@both
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((P, 0.0), ValueError, "temperature: expected a positive finite number, got 0.0"),
        ((P, True), TypeError, "temperature: expected a positive number, got bool"),
        ((P, "1"), TypeError, "temperature: expected a number or a scalar array, got str"),
        ((P, np.ones(2)), ValueError, r"temperature: expected a scalar array of shape \(\), got shape \(2,\)"),
        ((P, np.asarray(1)), TypeError, "temperature: expected a real floating array, got int64"),
        ((P.astype(int), 1.0), TypeError, "logits: expected a real floating dtype, got int64"),
        ((P[0, 0], 1.0), ValueError, "logits: expected at least one axis"),
        ((P, 1.0, 2), ValueError, "axis: expected -2 to 1 for logits of shape"),
        ((P, 1.0, -1, P), TypeError, "where: expected a boolean numpy array"),
    ],
)
def test_bad_arguments(family: Any, arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        family(*arguments)


@both
@pytest.mark.parametrize("name", [name for name, e in ESTIMATORS.items() if e.domain == "discrete" or "project" in e.needs])
def test_estimators_of_discrete_draws_refuse_it(family: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"needs \w+\(\) of {family.__name__}, but"):
        call_anyhow(ESTIMATORS[name], family(P, 0.5))


# ----------------------------------------------------------------------------------------------------- transformations
@pytest.mark.needs("jax")
@both
def test_as_an_argument_under_jit(family: Any) -> None:
    import jax

    l, q = jax.numpy.asarray(P), family(jax.numpy.asarray(Q), 0.9)

    def f(p: Any) -> Any:
        assert isinstance(q.temperature, float)
        return backdraw.kl(p, q, samples=2, rng=KEY).sum()

    for t in (0.6, jax.numpy.asarray(0.6)):
        p = family(l, t)
        value, grads = jax.jit(jax.value_and_grad(f))(p)
        np.testing.assert_allclose(value, f(p), rtol=1e-10)
        expected = jax.grad(lambda l, t: f(family(l, t)), argnums=(0, 1))(l, jax.numpy.asarray(0.6))
        assert isinstance(grads, family)
        np.testing.assert_allclose(grads.logits, expected[0], rtol=1e-9, atol=1e-12)
        if isinstance(t, float):
            assert grads.temperature == t  # configuration: neither traced nor differentiated
            assert len(jax.tree.leaves(p)) == 1
        else:
            np.testing.assert_allclose(grads.temperature, expected[1], rtol=1e-9)


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning")
@both
def test_under_compile_and_vmap(family: Any) -> None:
    import torch

    torch._dynamo.reset()
    l, q, t = (torch.tensor(a, requires_grad=True) for a in (P, Q, S))

    def f(l: Any, t: Any) -> Any:
        p = family(l, t)
        x = p.transport(p.transport_noise(KEY))
        return p.log_prob(x) + backdraw.kl(p, family(q, 0.9), samples=2, rng=KEY)

    out = torch.compile(f, fullgraph=True, backend="aot_eager")(l, t)
    torch.testing.assert_close(out, f(l, t))
    grads = [torch.autograd.grad(y.sum(), (l, q, t)) for y in (out, f(l, t))]
    torch.testing.assert_close(*grads)
    batch = torch.func.vmap(f, in_dims=(0, None), randomness="same")(torch.stack([l, 2 * l]), t)
    torch.testing.assert_close(batch, torch.stack([f(l, t), f(2 * l, t)]))


@pytest.mark.needs("torch")
@both
def test_second_derivatives(family: Any) -> None:
    import torch

    x = torch.log_softmax(torch.tensor(Q), -1)
    x = x.exp() if family is Concrete else x
    arrays = [torch.tensor(a, requires_grad=True) for a in (P[0], x[0].numpy(), S)]
    assert torch.autograd.gradgradcheck(lambda l, x, t: family(l, t).log_prob(x), arrays)
