"""The Bernoulli distribution over {0, 1}."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.distributions import bits, sparse
from backdraw.distributions.checks import as_value, check_logits
from backdraw.distributions.perturbed import Canonical
from backdraw.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class Bernoulli(Canonical):
    r"""Independent bits: :math:`p(x = 1) = 1 / (1 + \exp(-l))`.

    Parameters
    ----------
    logits : array, any shape
        Log-odds; every axis is a batch axis. Any real floating dtype. -inf and inf are bits that never and always are 1.

    Raises
    ------
    TypeError
        If `logits` is not a real floating array.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Bernoulli(np.array([0.0, 2.0]))
    >>> p.mean().round(3)
    array([0.5  , 0.881])
    >>> backdraw.draw(p, rng=backdraw.key(0))
    array([0., 0.])
    """

    logits: Array

    noise: ClassVar[str] = "logistic"
    arrays: ClassVar[tuple[str, ...]] = ("logits",)
    parameters: ClassVar[tuple[str, ...]] = ("logits",)

    def __post_init__(self) -> None:
        check_logits(self.logits)

    def over_event(self, x: Array) -> Array:
        """Return an array of the batch shape as it is: a bit has no axes of its own."""
        return x

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Uniforms for `sample`, float64, one a bit."""
        be = self.backend
        return random.noise(be, "uniform", rng, (*shape, *self.logits.shape), self.logits, be.xp.float64)

    def sample(self, noise: Array) -> Array:
        """Exact draws: 1 where the uniform is below the mean, compared in float64."""
        be = self.backend
        xp = be.xp
        with be.double():
            p = be.sigmoid(xp.astype(be.stop_gradient(self.logits), xp.float64))
            return xp.astype(noise < p, self.logits.dtype)

    def log_prob(self, x: Array) -> Array:
        """Log-probability of bits `x`, elementwise; differentiable in the logits and in x."""
        x = as_value(x, self.logits, events=())
        return bits.log_prob(self.logits, x)

    def score(self, x: Array) -> Array:
        """Gradient of ``log_prob(x)`` in the logits: ``x - mean()``."""
        x = as_value(x, self.logits, events=())
        return x - self.stopped().mean()

    def mean(self, *, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Probability of a 1, of the logits divided by `temperature`; or what `relax` makes of the logits in its place."""
        return self.relax(self.logits, temperature, regularizer)

    def support(self) -> tuple[Array, Array]:
        """Return the values 0 and 1, of shape ``(2, *logits.shape)``, and their probabilities, of the same shape."""
        xp = self.backend.xp
        values = xp.stack([xp.zeros_like(self.logits), xp.ones_like(self.logits)])
        return values, bits.both(self.logits)

    def log_partition(self) -> Array:
        """``log(1 + exp(logits))``, elementwise; its gradient is the mean."""
        return bits.log_partition(self.logits)

    def entropy(self) -> Array:
        """Entropy in nats, elementwise."""
        return bits.entropy(self.logits)

    def kl(self, other: "Bernoulli") -> Array:
        """KL(self || other) in nats, elementwise."""
        if tuple(self.logits.shape) != tuple(other.logits.shape):
            raise InvalidValueError(f"q: expected logits of shape {tuple(self.logits.shape)}, got {tuple(other.logits.shape)}")
        return bits.kl(self.logits, other.logits)

    def conditional_perturb(self, x: Array, noise: Array) -> Array:
        """Random utilities given that their signs are the bits x, from logistic noise; differentiable in the logits."""
        return bits.conditional_logistics(self.logits, x, noise)

    def pull_given_argmax(self, u: Array, x: Array, g: Array) -> tuple[Array]:
        """`bits.pull_given_argmax`, summed over samples."""
        return (bits.pull_given_argmax(self.backend, self.logits, u, x, g),)

    def argmax(self, utilities: Array) -> Array:
        """1 where the utility is positive; no gradient."""
        be = self.backend
        return be.xp.astype(be.stop_gradient(utilities) > 0, self.logits.dtype)

    def relax(self, utilities: Array, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Sigmoid of ``utilities / temperature``, or the sparse map of them and 0 that a regularizer names; exact vjp."""
        if not isinstance(temperature, float):
            utilities, temperature = bits.tempered(utilities, temperature), 1.0
        if regularizer != "entropy":
            sparse.check_regularizer(regularizer)
            return sparse.sparse_bit(utilities, temperature=temperature, regularizer=regularizer, dtype=self.logits.dtype)
        return bits.sigmoid(utilities, temperature=temperature, dtype=self.logits.dtype)

    def stretch(self, utilities: Array, temperature: Any, limits: tuple[float, float]) -> Array:
        """Sigmoid of ``utilities / temperature``, stretched from (0, 1) to `limits` and clipped to [0, 1]."""
        if not isinstance(temperature, float):
            utilities, temperature = bits.tempered(utilities, temperature), 1.0
        return sparse.stretched(utilities, temperature=temperature, limits=limits, dtype=self.logits.dtype)

    def project(self, x: Array, step: Array, projection: str) -> Array:  # noqa: ARG002
        """Return the target of intermediate loss sampling: ``x - step`` clipped to [0, 1], whatever the `projection`."""
        return self.backend.clip(x - step, 0.0, 1.0)

    def gapped(self, x: Array, gap: float) -> Array:
        """Return the logits moved no further than to where x is their argmax by `gap`; no gradient."""
        be = self.backend
        u = be.stop_gradient(self.logits)
        return be.xp.where(x > 0, be.at_least(u, gap), -be.at_least(-u, gap))

    def covariance_product(self, mean: Array, c: Array) -> Array:
        """Covariance of the bits whose mean is given, ``mean * (1 - mean)``, times c."""
        return c * (mean * (1.0 - mean))

    def trapezoid(self, mean: Array, x: Array, c: Array) -> Array:
        """Half the sum of the covariance and of ``(x - mean)**2``, times c: for bits, of half of ``|x - mean|``."""
        return self.backend.rowwise(_trapezoid, mean, x, c)

    def rowwise(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """``body(p, *arrays, **static)``, where p are blocks of these bits."""
        return self.backend.rowwise(_of_rows, self.logits, *arrays, of_rows=body, **static)

    def antithetic(self, noise: Array) -> tuple[Array, Array]:
        """Two exact draws of one uniform each: at its reflection ``1 - noise``, and as `sample` does."""
        with self.backend.double():
            return self.sample(1.0 - noise), self.sample(noise)

    def measure_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Noise for `derivative_measures`: that of `sample`."""
        return self.draw_noise(rng, shape)

    def derivative_measures(self, noise: Array) -> tuple[Array, Any]:
        """Draws, and the parts at 1 and 0 of the derivative: the draw and the other bit, with the sign of their order."""
        be, x = self.backend, self.sample(noise)
        u = bits.widened(be, be.stop_gradient(self.logits))
        c = be.sigmoid(u) * be.sigmoid(-u) * (1.0 - 2.0 * x)
        return x, ((c[None, ...], 1.0 - x[None, ...], None),)


def _trapezoid(be: Backend, m: Array, x: Array, c: Array) -> Array:
    return c * (0.5 * be.xp.abs(be.cast(x, c.dtype) - m))


def _of_rows(be: Backend, logits: Array, *arrays: Array, of_rows: Callable[..., Array], **static: Any) -> Array:
    return of_rows(Bernoulli.rebuild((logits,), (), be), *arrays, **static)
