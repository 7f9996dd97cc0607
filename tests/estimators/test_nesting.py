"""A draw inside the f of another draw: a sigmoid belief network of two layers, against its enumeration."""

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, finite_difference, pulled, sigmoid
from problems import expectation

import backdraw

KEYS = backdraw.split(backdraw.key(8), 2)
# The first layer's logits, the weights and biases that make the second's of it, and the weights of f.
PARAMETERS = tuple(
    np.asarray(x) for x in ([0.3, -0.6], [[1.2, -0.8], [0.5, 0.9]], [-0.2, 0.4], [0.9, -0.7, 1.1, 0.6])
)  # fmt: skip


@backdraw.primitive(native=True)
def linear(be: Any, h: Any, weight: Any, bias: Any) -> Any:
    """``h @ weight + bias`` with weights of each batch element's own, so that the spread of their gradients is seen."""
    return be.xp.sum(be.xp.expand_dims(h, axis=-1) * weight, axis=-2) + bias


def _linear_bwd(be: Any, residuals: Any, g: Any) -> Any:
    h, weight, bias = residuals
    outer = be.xp.expand_dims(h, axis=-1) * be.xp.expand_dims(g, axis=-2)
    to_h = be.xp.sum(weight * be.xp.expand_dims(g, axis=-2), axis=-1)
    return to_h, summed(be, outer, weight), summed(be, g, bias)


def summed(be: Any, g: Any, x: Any) -> Any:
    """Sum the axes in front that `x` lacks."""
    return be.xp.sum(g, axis=tuple(range(g.ndim - x.ndim)))


linear.defvjp(lambda be, *arrays: (linear.function(be, *arrays), arrays), _linear_bwd)


@backdraw.primitive(native=True)
def energy(be: Any, h: Any, g: Any, w: Any) -> Any:
    """``cos(s) + s**2 / 2`` of ``s = <h, w[:2]> + <g, w[2:]>``: the two layers' bits meet in it."""
    s = be.xp.sum(h * w[..., :2], axis=-1) + be.xp.sum(g * w[..., 2:], axis=-1)
    return be.xp.cos(s) + s * s / 2


def _energy_fwd(be: Any, h: Any, g: Any, w: Any) -> Any:
    return energy.function(be, h, g, w), (h, g, w)


def _energy_bwd(be: Any, residuals: Any, c: Any) -> Any:
    h, g, w = residuals
    s = be.xp.sum(h * w[..., :2], axis=-1) + be.xp.sum(g * w[..., 2:], axis=-1)
    slope = be.xp.expand_dims(c * (s - be.xp.sin(s)), axis=-1)
    both = be.xp.concat([be.xp.broadcast_to(h, g.shape), g], axis=-1)
    return summed(be, slope * w[..., :2], h), slope * w[..., 2:], summed(be, slope * both, w)


energy.defvjp(_energy_fwd, _energy_bwd)


def network(outer: str, inner: str, *parameters: Any) -> Any:
    """The expected energy of each batch element, by one estimator inside the f of another."""
    logits, weight, bias, w = parameters

    def given_first(h: Any) -> Any:
        second = backdraw.Bernoulli(linear(h, weight, bias))
        return expectation(inner, lambda g: energy(h, g, w), second, KEYS[1])

    return expectation(outer, given_first, backdraw.Bernoulli(logits), KEYS[0])


def objective(logits: np.ndarray, weight: np.ndarray, bias: np.ndarray, w: np.ndarray) -> float:
    """The expected energy by enumeration."""
    total = 0.0
    for h, g in itertools.product(itertools.product((0.0, 1.0), repeat=2), repeat=2):
        signs = 2 * np.asarray([*h, *g]) - 1
        p = sigmoid(signs * np.concatenate([logits, np.asarray(h) @ weight + bias])).prod()
        s = np.dot([*h, *g], w)
        total += p * (np.cos(s) + s * s / 2)
    return float(total)


def batch(n: int) -> tuple[np.ndarray, ...]:
    """The parameters, once for each of n batch elements."""
    return tuple(np.broadcast_to(p, (n, *p.shape)) for p in PARAMETERS)


# Outside, f is called with relaxed values too by those that differentiate it; the inner estimator's gradient then serves.
PAIRS = [
    ("reinforce", "reinforce"), ("rloo", "rloo"), ("rloo", "exact"), ("exact", "rloo"), ("rloo", "rebar"),
    ("rebar", "rloo"), ("rebar", "rebar"), ("rebar", "exact"), ("relax", "relax"), ("muprop", "rloo"), ("rloo", "muprop"),
    ("arm", "disarm"), ("disarm", "unordered_set"), ("sum_and_sample", "measure_valued"), ("indecater", "rloo"),
    ("unordered_set", "indecater"), ("measure_valued", "arm"),
]  # fmt: skip


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_unbiased_for_both_layers(outer: str, inner: str) -> None:
    value, pullback = backdraw.vjp(partial(network, outer, inner), *batch(20_000))
    found = (value, *pullback(np.ones_like(value)))
    exact = [np.asarray(objective(*PARAMETERS))]
    for i in range(4):
        at = lambda p, i=i: objective(*PARAMETERS[:i], p, *PARAMETERS[i + 1 :])  # noqa: E731
        exact.append(finite_difference(at, PARAMETERS[i], 1.0))
    for each, expected in zip(found, exact, strict=True):
        error, spread = each.mean(0) - expected, each.std(0) / len(each) ** 0.5
        assert np.all(np.abs(error) < 4.5 * spread + 1e-8), (error / spread, expected)


@pytest.mark.parametrize(("outer", "inner"), [("rloo", "rloo"), ("rebar", "rloo"), ("muprop", "rebar"), ("exact", "exact")])
def test_agrees_with_numpy(framework: Library, outer: str, inner: str) -> None:
    g = np.asarray([1.0, -2.0, 0.5])

    def run(lib: Library) -> Any:
        return pulled(lib, partial(network, outer, inner), lib.asarray(g), *(lib.asarray(p) for p in batch(3)))

    (value, grads), (expected, theirs) = run(framework), run(Library(Backend.NUMPY))
    for ours, other in zip((value, *grads), (expected, *theirs), strict=True):
        framework.check(ours, other, rtol=1e-10, atol=1e-12)


def slopes(w: np.ndarray, h: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The gradient of the energy in the four bits."""
    s = np.dot([*h, *g], w)
    return np.asarray(w * (s - np.sin(s)))


@pytest.mark.needs("numpy")
def test_straight_through_both_layers() -> None:
    def both(logits: Any, weight: Any, bias: Any, w: Any) -> Any:
        h = backdraw.straight_through(backdraw.Bernoulli(logits), rng=KEYS[0])
        g = backdraw.straight_through(backdraw.Bernoulli(linear(h, weight, bias)), rng=KEYS[1])
        return energy(h, g, w)

    value, pullback = backdraw.vjp(both, *batch(20_000))
    grads = pullback(np.ones_like(value))[:3]
    logits, weight, bias, w = PARAMETERS
    exact = [np.zeros_like(p) for p in PARAMETERS[:3]]
    for h, g in (np.split(np.asarray(bits), 2) for bits in itertools.product((0.0, 1.0), repeat=4)):
        second = sigmoid(h @ weight + bias)
        p = np.where([*h, *g], [*sigmoid(logits), *second], [*sigmoid(-logits), *(1 - second)]).prod()
        to_second = slopes(w, h, g)[2:] * second * (1 - second)
        to_first = (slopes(w, h, g)[:2] + weight @ to_second) * sigmoid(logits) * sigmoid(-logits)
        for total, part in zip(exact, (to_first, np.outer(h, to_second), to_second), strict=True):
            total += p * part
    for found, expected in zip(grads, exact, strict=True):
        assert np.all(np.abs(found.mean(0) - expected) < 4.5 * found.std(0) / len(found) ** 0.5)
