"""Bernoulli: its functions against plain formulas, its gradients against finite differences, its draws against its law."""

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import Backend, Library, finite_difference, sigmoid

import backdraw
from backdraw import Bernoulli

RNG = np.random.default_rng(5)
LOGITS, OTHER, G = (RNG.normal(size=(3, 4)) * 2 for _ in range(3))
BITS = (RNG.random((3, 4)) < 0.5).astype(np.float64)


def log_prob(l: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(x * scipy.special.log_expit(l) + (1 - x) * scipy.special.log_expit(-l))


def entropy(l: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.entr(sigmoid(l)) + scipy.special.entr(sigmoid(-l)))


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    rel = scipy.special.rel_entr
    return np.asarray(rel(sigmoid(p), sigmoid(q)) + rel(sigmoid(-p), sigmoid(-q)))


def test_values(lib: Library) -> None:
    p, x = Bernoulli(lib.asarray(LOGITS)), lib.asarray(BITS)
    close = {"rtol": 1e-12, "atol": 1e-15}
    lib.check(p.mean(), sigmoid(LOGITS), **close)
    lib.check(p.mean(temperature=0.5), sigmoid(LOGITS / 0.5), **close)
    lib.check(p.log_prob(x), log_prob(LOGITS, BITS), **close)
    lib.check(p.entropy(), entropy(LOGITS), **close)
    lib.check(backdraw.kl(p, Bernoulli(lib.asarray(OTHER))), kl(LOGITS, OTHER), **close)
    lib.check(p.score(x), BITS - sigmoid(LOGITS), **close)
    values, probs = p.support()
    lib.check(values, np.stack([0 * LOGITS, 0 * LOGITS + 1]), rtol=0)
    lib.check(probs, np.stack([sigmoid(-LOGITS), sigmoid(LOGITS)]), **close)
    assert p.batch_shape == (3, 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    x = lib.asarray(LOGITS, dtype)
    exact = lib.to_numpy(x).astype(np.float64)
    rtol = {"float16": 2e-3, "bfloat16": 1.6e-2}.get(dtype)
    p = Bernoulli(x)
    lib.check(p.mean(), sigmoid(exact), dtype=dtype, rtol=rtol)
    lib.check(p.entropy(), entropy(exact), dtype=dtype, rtol=rtol)
    lib.check(p.log_prob(lib.asarray(BITS, dtype)), log_prob(exact, BITS), dtype=dtype, rtol=rtol)
    assert p.support()[0].dtype == x.dtype
    assert backdraw.kl(p, p).dtype == x.dtype


def test_scalars(lib: Library) -> None:
    p = Bernoulli(lib.asarray(np.asarray(0.3)))
    lib.check(p.mean(), sigmoid(0.3), rtol=1e-14)
    assert tuple(backdraw.draw(p, rng=backdraw.key(0)).shape) == ()
    assert tuple(backdraw.draw(p, shape=5, rng=backdraw.key(0)).shape) == (5,)


def test_certain_bits(lib: Library) -> None:
    x = lib.asarray(np.asarray([-np.inf, np.inf, 0.7]))
    q = Bernoulli(lib.asarray(np.asarray([0.1, 0.2, 0.3])))
    p = Bernoulli(x)
    lib.check(p.mean(), np.asarray([0.0, 1.0, sigmoid(0.7)]), rtol=1e-14)
    lib.check(p.entropy(), np.asarray([0.0, 0.0, entropy(np.asarray(0.7))]), rtol=1e-14)
    lib.check(p.log_prob(lib.asarray(np.asarray([0.0, 1.0, 1.0]))), [0.0, 0.0, np.log(sigmoid(0.7))], rtol=1e-14)
    lib.check(p.log_prob(lib.asarray(np.asarray([1.0, 0.0, 0.0]))), [-np.inf, -np.inf, np.log(sigmoid(-0.7))], rtol=1e-14)
    expected = [-np.log(sigmoid(-0.1)), -np.log(sigmoid(0.2)), kl(np.asarray(0.7), np.asarray(0.3))]
    lib.check(backdraw.kl(p, q), expected, rtol=1e-13)
    lib.check(backdraw.kl(q, p), [np.inf, np.inf, kl(np.asarray(0.3), np.asarray(0.7))], rtol=1e-12)
    draws = lib.to_numpy(backdraw.draw(p, shape=1000, rng=backdraw.key(0)))
    assert set(draws[:, 0]) == {0.0}
    assert set(draws[:, 1]) == {1.0}
    g = lib.asarray(np.ones(3))
    bits = lib.asarray(np.asarray([0.0, 1.0, 1.0]))
    (to_x,) = backdraw.vjp(lambda b: p.log_prob(b), bits)[1](g)
    lib.check(to_x, [0.0, 0.0, 0.7], rtol=1e-13)
    for f in (
        lambda x: Bernoulli(x).mean(),
        lambda x: Bernoulli(x).entropy(),
        lambda x: Bernoulli(x).log_prob(lib.asarray(np.asarray([0.0, 1.0, 1.0]))),
        lambda x: backdraw.kl(Bernoulli(x), q),
        lambda x: backdraw.straight_through(Bernoulli(x), rng=backdraw.key(0)),
        lambda x: backdraw.gumbel_softmax(Bernoulli(x), rng=backdraw.key(0)),
    ):
        value, pullback = backdraw.vjp(f, x)
        grad = lib.to_numpy(pullback(g)[0])
        assert list(grad[:2]) == [0.0, 0.0]
        assert abs(grad[2]) > 1e-3
        assert np.all(np.isfinite(lib.to_numpy(value)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("temperature", [1e-2, 1.0, 1e3])
def test_huge_logits(lib: Library, dtype: str, temperature: float) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    b = {"float16": 6e4, "float32": 3e38, "float64": 1.7e308}[dtype]
    x, g = lib.asarray(np.asarray([b, -b, 0.0, 1.0]), dtype), lib.asarray(np.asarray([1.0, -2.0, 3.0, 0.5]), dtype)
    lib.check(
        Bernoulli(x).mean(temperature=temperature), [1, 0, 0.5, sigmoid(1 / temperature)], dtype=dtype, rtol=2e-3, atol=1e-25
    )
    t = lib.asarray(temperature, dtype)
    for f in (
        lambda x, t: Bernoulli(x).mean(temperature=t),
        lambda x, t: backdraw.gumbel_softmax(Bernoulli(x), temperature=t, rng=backdraw.key(0)),
        lambda x, t: backdraw.straight_through(Bernoulli(x), temperature=t, rng=backdraw.key(0)),
    ):
        y, pullback = backdraw.vjp(f, x, t)
        for out in (y, *pullback(g), *backdraw.vjp(lambda x, f=f: f(x, temperature), x)[1](g)):
            assert np.all(np.isfinite(lib.to_numpy(out)))
    assert not np.any(np.isnan(lib.to_numpy(Bernoulli(x).entropy())))


def _functions(lib: Library) -> dict[str, tuple[Any, Any, list[np.ndarray], np.ndarray]]:
    bits = lib.asarray(BITS)
    return {
        "mean": (lambda x: Bernoulli(x).mean(), sigmoid, [LOGITS], G),
        "mean at t": (lambda x: Bernoulli(x).mean(temperature=0.3), lambda x: sigmoid(x / 0.3), [LOGITS], G),
        "log_prob": (lambda x: Bernoulli(x).log_prob(bits), lambda x: log_prob(x, BITS), [LOGITS], G),
        "log_prob in x": (lambda l, x: Bernoulli(l).log_prob(x), log_prob, [LOGITS, sigmoid(OTHER)], G),
        "entropy": (lambda x: Bernoulli(x).entropy(), entropy, [LOGITS], G),
        "kl": (lambda p, q: backdraw.kl(Bernoulli(p), Bernoulli(q)), kl, [LOGITS, OTHER], G),
        "probabilities of the support": (
            lambda x: Bernoulli(x).support()[1],
            lambda x: np.stack([sigmoid(-x), sigmoid(x)]),
            [LOGITS],
            RNG.normal(size=(2, 3, 4)),
        ),
    }


@pytest.mark.parametrize("name", _functions(Library(Backend.NUMPY)))
def test_gradients_by_finite_differences(lib: Library, name: str) -> None:
    f, plain, arrays, g = _functions(lib)[name]
    value, pullback = backdraw.vjp(f, *(lib.asarray(x) for x in arrays))
    lib.check(value, plain(*arrays), rtol=1e-12)
    for i, grad in enumerate(pullback(lib.asarray(g))):

        def at(x: np.ndarray, i: int = i) -> np.ndarray:
            return np.asarray(plain(*arrays[:i], x, *arrays[i + 1 :]))

        lib.check(grad, finite_difference(at, arrays[i], g), rtol=1e-6, atol=1e-8)


def test_log_prob_gradient_sums_over_samples_in_front(lib: Library) -> None:
    bits, g = (RNG.random((5, 3, 4)) < 0.5) * 1.0, RNG.normal(size=(5, 3, 4))
    (grad,) = backdraw.vjp(lambda x: Bernoulli(x).log_prob(lib.asarray(bits)), lib.asarray(LOGITS))[1](lib.asarray(g))
    lib.check(grad, (g * (bits - sigmoid(LOGITS))).sum(0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("source", ["key", "own"])
@pytest.mark.parametrize("f", [backdraw.draw, backdraw.gumbel_max], ids=lambda f: f.__name__)
def test_law(framework: Library, f: Any, source: str) -> None:
    p, n = np.asarray([0.5, 0.01, 0.9, 0.3]), 100_000
    x = f(
        Bernoulli(framework.asarray(np.broadcast_to(scipy.special.logit(p), (n, 4)), "float32")),
        rng=backdraw.key(8) if source == "key" else 8,
    )
    values = framework.to_numpy(x).astype(np.float64)
    counts = values.sum(0)
    assert scipy.stats.chi2.sf(np.sum((counts - n * p) ** 2 / (n * p * (1 - p))), 4) > 1e-6
    assert np.abs(np.corrcoef(values.T) - np.eye(4)).max() < 5 / np.sqrt(n)  # the bits are independent


def test_inverse_cdf(lib: Library) -> None:
    p = Bernoulli(lib.asarray(np.asarray(scipy.special.logit(1e-8))))
    for u, bit in ((1e-8 * (1 - 1e-6), 1.0), (1e-8 * (1 + 1e-6), 0.0), (2.0**-33, 1.0), (1 - 2.0**-33, 0.0)):
        assert lib.to_numpy(p.sample(lib.asarray(np.asarray(u)))) == bit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), 3, (2, 1)])
def test_one_key_gives_one_draw_everywhere(lib: Library, dtype: str, shape: Any) -> None:
    logits = (3 * RNG.normal(size=(100, 33))).astype(dtype)
    expected = backdraw.draw(Bernoulli(logits), shape=shape, rng=backdraw.key(5))
    actual = backdraw.draw(Bernoulli(lib.asarray(logits, dtype)), shape=shape, rng=backdraw.key(5))
    lib.check(actual, expected, dtype=dtype, rtol=0)
