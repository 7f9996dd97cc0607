"""Expectations whose exact value and gradient are known by enumeration, for the tests of the estimators."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from helpers import sigmoid, softmax

import backdraw
from backdraw.estimators import ESTIMATORS

W = np.asarray([0.3, -0.8, 0.5, 0.2, 0.9, -0.4, 0.7, 0.1, -0.6, 0.4, -0.2, 0.8])


@backdraw.primitive(native=True)
def wave(be: Any, x: Any, w: Any, *, event: int) -> Any:
    """``cos(s) + s**2 / 4`` of ``s = <x, w>`` over the last `event` axes: smooth, not additive, with weights of its own."""
    return _wave_fwd(be, x, w, event=event)[0]


def _wave_fwd(be: Any, x: Any, w: Any, *, event: int) -> Any:
    s = be.xp.sum(x * w, axis=tuple(range(-event, 0))) if event else x * w
    return be.xp.cos(s) + s * s / 4, (x, w, s)


def _wave_bwd(be: Any, residuals: Any, g: Any, *, event: int) -> Any:
    x, w, s = residuals
    slope = g * (s / 2 - be.xp.sin(s))
    slope = be.xp.reshape(slope, (*slope.shape, *(1,) * event))
    return slope * w, be.xp.sum(slope * x, axis=tuple(range(x.ndim - w.ndim)))


wave.defvjp(_wave_fwd, _wave_bwd)


@backdraw.primitive(native=True)
def bowl(be: Any, x: Any, *, event: int) -> Any:
    """``sum((x - 0.3)**2)`` over the last `event` axes."""
    return be.xp.sum((x - 0.3) ** 2, axis=tuple(range(-event, 0))) if event else (x - 0.3) ** 2


bowl.defvjp(
    lambda be, x, *, event: (bowl.function(be, x, event=event), (x,)),
    lambda be, res, g, *, event: (2 * be.xp.reshape(g, (*g.shape, *(1,) * event)) * (res[0] - 0.3),),
)


def hash_of(x: np.ndarray) -> np.ndarray:
    """A function of one-hot rows that is neither additive nor differentiable: a number that mixes the categories."""
    digits = np.argmax(x, -1)
    return ((digits * np.asarray([1, 2, 4, 7])).sum(-1) ** 2 % 11) / 5.0


def toy(x: Any) -> Any:
    """The Bernoulli toy ``(b - t)**2``, t = 0.49."""
    return (x - 0.49) ** 2


def shared(x: Any) -> Any:
    """``sum((x - p)**2)``, p = (0.6, 0.51, 0.48)."""
    return ((x - np.asarray([0.6, 0.51, 0.48])) ** 2).sum(-1)


@dataclass(frozen=True)
class Problem:
    """A distribution of one row of logits, f as a black box on NumPy, and f as it is differentiated."""

    make: Callable[[Any], Any]
    logits: np.ndarray
    f: Callable[[np.ndarray], np.ndarray]

    @property
    def event(self) -> int:
        """How many axes f sums up."""
        return self.logits.ndim

    def smooth(self, w: Any) -> Callable[[Any], Any]:
        """Return a differentiable f with weights."""
        return lambda x: wave(x, w, event=self.event)

    @property
    def weights(self) -> np.ndarray:
        """The weights of the differentiable f."""
        return W[: self.logits.size].reshape(self.logits.shape)

    def states(self) -> np.ndarray:
        """Return all joint values."""
        if self.make is backdraw.Bernoulli:
            rows = [np.asarray(s, float) for s in itertools.product([0.0, 1.0], repeat=self.logits.size)]
        else:
            eye = np.eye(self.logits.shape[-1])
            rows = [eye[list(s)] for s in itertools.product(range(len(eye)), repeat=self.logits.size // len(eye))]
        return np.stack([r.reshape(self.logits.shape) for r in rows])

    def probs(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities of the joint values."""
        x = self.states()
        each = np.where(x == 1, sigmoid(logits), sigmoid(-logits)) if self.make is backdraw.Bernoulli else None
        each = (x * softmax(logits)).sum(-1) if each is None else each
        return np.asarray(each.reshape(len(x), -1).prod(-1))

    def objective(self, logits: np.ndarray, f: Callable[[Any], Any], *, samples: int, kind: str) -> float:
        """Return E[f], or E[log mean f] over `samples` draws of log f."""
        p, values = self.probs(logits), np.asarray(f(self.states()))
        if kind == "mean":
            return float(p @ values)
        total = 0.0
        for combination in itertools.product(range(len(p)), repeat=samples):
            chosen = list(combination)
            total += p[chosen].prod() * np.log(np.mean(np.exp(values[chosen])))
        return float(total)


PROBLEMS = {
    "toy": Problem(backdraw.Bernoulli, np.asarray(0.0), toy),
    "toy, unlikely": Problem(backdraw.Bernoulli, np.asarray(-2.2), toy),
    "four factors": Problem(
        backdraw.Categorical, np.asarray([[0.3, -0.5, 0.9], [0.0, 1.0, -1.0], [-0.4, 0.1, 0.2], [1.5, 0.0, 0.5]]), hash_of
    ),
    "shared": Problem(backdraw.Bernoulli, np.asarray([0.4, 0.4, 0.4]), shared),
}


def expectation(name: str, f: Any, dist: Any, rng: Any, **options: Any) -> Any:
    """Call an estimator of expectations, with a source where it draws, and f itself for relax's surrogate."""
    entry = ESTIMATORS[name]
    draws = {"rng": rng} if "rng" in (entry.function.__kwdefaults__ or {}) else {}
    return entry(f, dist, **draws, **({"surrogate": f} if name == "relax" else {}), **options)
