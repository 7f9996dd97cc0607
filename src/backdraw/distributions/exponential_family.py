"""Exponential families of 0/1 arrays: what their distributions share, given the computations of a `Family`."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from backdraw import random
from backdraw.backend import Array
from backdraw.distributions import family_law
from backdraw.distributions.checks import as_value
from backdraw.distributions.family_law import Family, rows_of
from backdraw.distributions.perturbed import Canonical
from backdraw.errors import InvalidValueError


class ExponentialFamily(Canonical, ABC):
    """Base of the distributions over the values of a `Family`, with the natural parameters `logits`."""

    logits: Array
    arrays: ClassVar[tuple[str, ...]] = ("logits",)
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    event_ndim: ClassVar[int]
    argmax_law: ClassVar[bool] = False

    @property
    @abstractmethod
    def family(self) -> Family:
        """The family that the configuration names."""

    @property
    @abstractmethod
    def noise_size(self) -> int:
        """How many uniforms a draw takes."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the logits without the axes of the event."""
        return tuple(self.logits.shape[: self.logits.ndim - self.event_ndim])

    @property
    def _static(self) -> dict[str, Any]:
        return {"family": self.family, "event": self.event_ndim}

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Uniforms for `sample`, float64, in a row for each draw."""
        be = self.backend
        return random.noise(be, "uniform", rng, (*shape, *self.batch_shape, self.noise_size), self.logits, be.xp.float64)

    def sample(self, noise: Array) -> Array:
        """Exact draws, made in float64 on every backend."""
        be = self.backend
        xp, family, event = be.xp, self.family, tuple(self.logits.shape[self.logits.ndim - self.event_ndim :])
        with be.double():
            tables = be.rowwise(family.tables, rows_of(be, be.stop_gradient(self.logits), self.event_ndim))
            tables = xp.broadcast_to(tables, (*noise.shape[:-1], tables.shape[-1]))
            x = be.rowwise(family.drawn, noise, tables)
            return xp.astype(xp.reshape(x, (*noise.shape[:-1], *event)), self.logits.dtype)

    def log_partition(self) -> Array:
        """Log of the sum over all values x of ``exp(sum(logits * x))``, of the batch shape."""
        return family_law.log_partition(self.logits, **self._static)

    def log_prob(self, x: Array) -> Array:
        """``sum(logits * x) - log_partition()``, the log-probability where x is a value; differentiable in both."""
        x = as_value(x, self.logits)
        return family_law.log_prob(self.logits, x, **self._static)

    def entropy(self) -> Array:
        """Entropy in nats, of the batch shape."""
        return family_law.entropy(self.logits, **self._static)

    def kl(self, other: Self) -> Array:
        """KL(self || other) in nats, of the batch shape."""
        mine, given = tuple(self.logits.shape), tuple(other.logits.shape)
        if mine != given:
            raise InvalidValueError(f"q: expected logits of shape {mine}, got {given}")
        for name in self.plain:
            if getattr(self, name) != getattr(other, name):
                raise InvalidValueError(f"q: expected the {name} of p, {getattr(self, name)}, got {getattr(other, name)}")
        return family_law.kl(self.logits, other.logits, **self._static)

    def mean(self, *, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Marginals: the probability of each entry to be 1, of the logits divided by `temperature`."""
        return self.relax(self.utilities, temperature, regularizer)

    def argmax(self, utilities: Array) -> Array:
        """Return the heaviest value, exactly 0 and 1; no gradient."""
        be = self.backend
        u = rows_of(be, be.stop_gradient(utilities), self.event_ndim)
        return be.xp.astype(be.xp.reshape(be.rowwise(self.family.heaviest, u), utilities.shape), self.logits.dtype)

    def relax(self, utilities: Array, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Marginals of the exponential family with the logits ``utilities / temperature``, with their exact vjp."""
        if regularizer != "entropy":
            raise InvalidValueError(f"regularizer: {type(self).__name__} has 'entropy' alone, got {regularizer!r}")
        number, array = (temperature, None) if isinstance(temperature, float) else (1.0, temperature)
        return family_law.marginals(utilities, array, temperature=number, dtype=self.logits.dtype, **self._static)
