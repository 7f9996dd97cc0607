"""Distributions that are the argmax of random utilities, and among them those whose logits are natural parameters."""

from typing import Any

from backdraw import random
from backdraw.backend import Array
from backdraw.distributions.base import Distribution, perturb
from backdraw.distributions.checks import as_value


class Perturbed(Distribution):
    """Base of those that are, exactly or nearly, the argmax of utilities with independent noise: their first parameter."""

    @property
    def utilities(self) -> Array:
        """What `perturb`, `argmax` and `relax` are about: the first parameter."""
        return getattr(self, self.parameters[0])

    def perturb_noise(self, rng: Any) -> Array:
        """Independent noise for `perturb`, of the kind `noise`, one number for each utility."""
        like = getattr(self, self.parameters[0])
        return random.noise(self.backend, self.noise, rng, tuple(like.shape), like)

    def perturb(self, noise: Array) -> Array:
        """Random utilities: these and the noise."""
        return perturb(self.utilities, noise)


class Canonical(Perturbed):
    """Base of those with p(x) proportional to ``exp(sum(logits * x))``: the score is a draw less the mean."""

    logits: Array

    def score(self, x: Array) -> Array:
        """Gradient of ``log_prob(x)`` in the logits: ``x - mean()``."""
        x = as_value(x, self.logits)
        return x - self.stopped().mean()  # type: ignore[attr-defined]

    def weighted_score(self, x: Array, weights: Array, *, centred: bool = False) -> tuple[Array, ...]:
        """Return the sum over samples of weight times score; where the weights sum to zero, the draws alone say it."""
        be = self.backend
        w = be.xp.reshape(weights, (*weights.shape, *(1,) * (x.ndim - weights.ndim)))
        total = be.sum_samples(w * x)
        return (total if centred else total - be.sum_samples(w) * self.stopped().mean(),)  # type: ignore[attr-defined]
