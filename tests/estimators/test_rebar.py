"""rebar's conditional noise: its derivative against the inverse CDF of the law given the draw, and the rule made of it."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, finite_difference, sigmoid, softmax

import backdraw
from backdraw import Bernoulli, Categorical
from backdraw.random import noise

KEY = backdraw.key(6)
RNG = np.random.default_rng(8)
LOGITS, G = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4))
TARGET = RNG.normal(size=(6, 4))
HERE = Library(Backend.NUMPY)


def given_category(l: np.ndarray, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Gumbels whose argmax is x, from exponentials v: the least is the one of the sum of the rates."""
    top = -np.log((v * x).sum(-1, keepdims=True) / np.exp(l).sum(-1, keepdims=True))
    return np.where(x > 0, top, -np.log(v / np.exp(l) + np.exp(-top)))


def exponentials(l: np.ndarray, x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The exponentials of which `given_category` makes u."""
    top = u.max(-1, keepdims=True)
    least = np.exp(-top) * np.exp(l).sum(-1, keepdims=True)
    return np.where(x > 0, least, (np.exp(-u) - np.exp(-top)) * np.exp(l))


def given_bit(l: np.ndarray, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Logistics whose signs are x, from uniforms v, by inverse CDF."""
    q = sigmoid(-l)
    e = np.where(x > 0, q + (1 - q) * v, q * v)
    return np.asarray(l + np.log(e) - np.log1p(-e))


def uniforms(l: np.ndarray, x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The uniforms of which `given_bit` makes u."""
    e, q = sigmoid(u - l), sigmoid(-l)
    return np.asarray(np.where(x > 0, (e - q) / (1 - q), e / q))


CASES = {
    "Categorical": (Categorical, "gumbel", given_category, exponentials, softmax),
    "Bernoulli": (Bernoulli, "logistic", given_bit, uniforms, sigmoid),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
def test_derivative_given_the_argmax(lib: Library, case: Any) -> None:
    dist, kind, given, inverse, _ = case
    u = LOGITS + noise(HERE.be, kind, KEY, LOGITS.shape, LOGITS)
    x = HERE.to_numpy(dist(LOGITS).argmax(u))
    v = inverse(LOGITS, x, u)
    np.testing.assert_allclose(given(LOGITS, x, v), u, rtol=1e-9)
    expected = G - finite_difference(lambda l: given(l, x, v), LOGITS, G)
    (found,) = dist(lib.asarray(LOGITS)).pull_given_argmax(*map(lib.asarray, (u, x, G)))
    lib.check(found, expected, rtol=1e-6, atol=1e-8)


def test_categories_on_another_axis_and_masked() -> None:
    p = Categorical(LOGITS.T, axis=0)
    u = p.perturb(p.perturb_noise(KEY))
    (found,) = p.pull_given_argmax(u, p.argmax(u), G.T)
    (expected,) = Categorical(LOGITS).pull_given_argmax(u.T, p.argmax(u).T, G)
    np.testing.assert_allclose(found.T, expected, rtol=1e-14)
    logits = np.where(np.arange(4) == 2, -np.inf, LOGITS)
    logits[3] = -np.inf  # no category is left
    p = Categorical(logits)
    u = p.perturb(p.perturb_noise(KEY))
    (found,) = p.pull_given_argmax(u, p.argmax(u), G)
    assert np.all(found[:, 2] == 0)
    assert np.all(found[3] == 0)
    some = [0, 1, 2, 4, 5]
    rest = Categorical(LOGITS[some][:, [0, 1, 3]])
    (expected,) = rest.pull_given_argmax(u[some][:, [0, 1, 3]], p.argmax(u)[some][:, [0, 1, 3]], G[some][:, [0, 1, 3]])
    np.testing.assert_allclose(found[some][:, [0, 1, 3]], expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_that_are_sure(dtype: Any) -> None:
    logits = np.asarray([np.inf, -np.inf, 3e4, -3e4, 90.0, -90.0], dtype)
    p = Bernoulli(logits)
    u = p.perturb(p.perturb_noise(KEY))
    (found,) = p.pull_given_argmax(u, p.argmax(u), np.ones_like(u))
    np.testing.assert_allclose(found, np.zeros(6), atol=1e-30)


@cases
@pytest.mark.parametrize("scale", [0.6, 1.0])
def test_rule(lib: Library, case: Any, scale: float) -> None:
    dist, kind, given, inverse, relaxed = case
    bits = dist is Bernoulli
    logs = np.stack([-np.log1p(np.exp(TARGET)), -np.log1p(np.exp(-TARGET))]) if bits else np.log(softmax(TARGET))

    def plain(y: np.ndarray) -> np.ndarray:
        return np.asarray((1 - y) * logs[0] + y * logs[1] if bits else (y * logs).sum(-1))

    u = LOGITS + noise(HERE.be, kind, KEY, (1, *LOGITS.shape), LOGITS)[0]
    x = HERE.to_numpy(dist(LOGITS).argmax(u))
    v = inverse(LOGITS, x, u)
    weight = plain(x) - scale * plain(relaxed(u / 0.5))
    expected = (weight if bits else weight[:, None]) * (x - relaxed(LOGITS))
    expected += finite_difference(lambda l: plain(relaxed((l + u - LOGITS) / 0.5)), LOGITS, scale)
    expected -= finite_difference(lambda l: plain(relaxed(given(l, x, v) / 0.5)), LOGITS, scale)
    q = dist(lib.asarray(TARGET))
    rebar = lambda l: backdraw.rebar(q.log_prob, dist(l), temperature=0.5, scale=scale, rng=KEY)  # noqa: E731
    y, pullback = backdraw.vjp(rebar, lib.asarray(LOGITS))
    lib.check(y, plain(x), rtol=1e-12)
    lib.check(pullback(lib.asarray(np.ones_like(plain(x))))[0], expected, rtol=1e-6, atol=1e-8)
