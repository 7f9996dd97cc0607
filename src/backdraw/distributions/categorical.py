"""The categorical distribution over one-hot vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.distributions import gumbels, simplex, simplex_law, sparse
from backdraw.distributions.categories import check_rows
from backdraw.distributions.checks import as_value
from backdraw.distributions.perturbed import Canonical
from backdraw.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class Categorical(Canonical):
    r"""One of K categories, as a one-hot vector: :math:`p(x = e_k) = \exp(l_k) / \sum_j \exp(l_j)`.

    Parameters
    ----------
    logits : array, shape (..., K, ...)
        Unnormalised log-probabilities along `axis`; the other axes are batch axes. Any real floating dtype. -inf is a
        category of probability 0.
    axis : int
        The axis of the categories.
    where : array of bool, optional
        Broadcasts to the shape of `logits`; False takes a category out, as -inf does. A row with no category left gives
        an all-zero draw and no gradient.

    Raises
    ------
    TypeError
        If `logits` is not a real floating array, or `where` not a boolean one of the same framework.
    ValueError
        If `logits` is a scalar or has no category, `axis` is out of range, or `where` does not broadcast.

    Notes
    -----
    `sample`, and with it `backdraw.draw`, takes the largest logit off first. `perturb` does not: in float32, logits that share
    an offset of a million round the noise that is added to a sixteenth, and the argmax of that prefers the first categories.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Categorical(np.log([0.2, 0.3, 0.5]))
    >>> p.mean().round(3)
    array([0.2, 0.3, 0.5])
    >>> float(p.entropy().round(4))
    1.0297
    >>> backdraw.draw(p, shape=3, rng=backdraw.key(1))
    array([[0., 1., 0.],
           [0., 0., 1.],
           [0., 1., 0.]])
    """

    logits: Array
    axis: int = -1
    where: Array | None = None

    arrays: ClassVar[tuple[str, ...]] = ("logits", "where")
    plain: ClassVar[tuple[str, ...]] = ("axis",)
    parameters: ClassVar[tuple[str, ...]] = ("logits",)

    def __post_init__(self) -> None:
        be, axis = check_rows(self.logits, self.axis, self.where)
        object.__setattr__(self, "backend", be)
        if axis != self.axis:
            object.__setattr__(self, "axis", axis)

    @property
    def utilities(self) -> Array:
        """The logits, -inf where masked."""
        return self.logits if self.where is None else simplex.masked(self.logits, self.where)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the logits without the axis of the categories."""
        shape = list(self.logits.shape)
        del shape[self.axis]
        return tuple(shape)

    @property
    def leading_shape(self) -> tuple[int, ...]:
        """The batch axes in front of the categories."""
        return tuple(self.logits.shape[: self.axis])

    def over_event(self, x: Array) -> Array:
        """Give an array of the batch shape, or with samples in front, the axis of the categories, of size 1."""
        return self.backend.xp.expand_dims(x, axis=self.axis)

    def event_axes(self, x: Array) -> tuple[int, ...]:  # noqa: ARG002
        """Return the axis of the categories."""
        return (self.axis,)

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Uniforms for `sample`: one a draw, float64, the axis of the categories of size 1."""
        be = self.backend
        kept = list(self.logits.shape)
        kept[self.axis] = 1
        return random.noise(be, "uniform", rng, (*shape, *kept), self.logits, be.xp.float64)

    def sample(self, noise: Array) -> Array:
        """Exact draws by inverse CDF: the category whose interval of the float64 cumulative sum holds the uniform."""
        be = self.backend
        logits = simplex.last(be, be.stop_gradient(self.utilities), self.axis)
        with be.double():
            index = be.rowwise(simplex.inverse_cdf, logits, simplex.last(be, noise, self.axis))
            return self._one_hot(index)

    def sample_with_mean(self, noise: Array) -> tuple[Array, Array]:
        """`sample`, and the mean in float32 or wider, from one exponential a logit; no gradients."""
        be = self.backend
        logits = simplex.last(be, be.stop_gradient(self.utilities), self.axis)
        with be.double():
            index, mean = be.rowwise(simplex.drawn, logits, simplex.last(be, noise, self.axis))
            return self._one_hot(index), simplex.unlast(be, mean, self.axis)

    def _one_hot(self, index: Array) -> Array:
        be = self.backend
        x = be.one_hot(index, self.logits.shape[self.axis], self.logits.dtype)
        return simplex.unlast(be, x, self.axis)

    def log_prob(self, x: Array) -> Array:
        """Log-probability of one-hot `x`, of the batch shape; differentiable in the logits and in x."""
        x = as_value(x, self.logits, events=(self.axis,))
        return simplex_law.log_prob(self.utilities, x, axis=self.axis)

    def score(self, x: Array) -> Array:
        """Gradient of ``log_prob(x)`` in the logits: ``x - sum(x) * mean()``."""
        x = as_value(x, self.logits, events=(self.axis,))
        total = self.backend.xp.sum(x, axis=self.axis, keepdims=True)
        return x - total * self.stopped().mean()

    def mean(self, *, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Probabilities, of the logits divided by `temperature`; or what `relax` makes of the logits in their place."""
        return self.relax(self.utilities, temperature, regularizer)

    def support(self) -> tuple[Array, Array]:
        """Return all values, shape ``(K, *logits.shape)``, and their probabilities, shape ``(K, *batch_shape)``."""
        be = self.backend
        xp, n, ndim = be.xp, self.logits.shape[self.axis], self.logits.ndim
        shape = [n] + [1] * ndim
        shape[self.axis] = n
        eye = xp.reshape(xp.eye(n, dtype=self.logits.dtype, device=be.device(self.logits)), tuple(shape))
        return xp.broadcast_to(eye, (n, *self.logits.shape)), simplex.axis_first(self.mean(), axis=self.axis)

    def log_partition(self) -> Array:
        """Return ``log(sum(exp(logits)))``, of the batch shape; its gradient is the mean."""
        return simplex_law.log_partition(self.utilities, axis=self.axis)

    def entropy(self) -> Array:
        """Entropy in nats, of the batch shape."""
        return simplex_law.entropy(self.utilities, axis=self.axis)

    def kl(self, other: "Categorical") -> Array:
        """KL(self || other) in nats, of the batch shape."""
        if self.axis != other.axis or tuple(self.logits.shape) != tuple(other.logits.shape):
            raise InvalidValueError(
                f"q: expected logits of shape {tuple(self.logits.shape)} with axis {self.axis}, "
                f"got {tuple(other.logits.shape)} with axis {other.axis}"
            )
        return simplex_law.kl(self.utilities, other.utilities, axis=self.axis)

    def conditional_perturb(self, x: Array, noise: Array) -> Array:
        """Random utilities given that their argmax is the draw x, from Gumbel noise; differentiable in the logits."""
        return gumbels.conditional_gumbels(self.utilities, x, noise, axis=self.axis)

    def pull_given_argmax(self, u: Array, x: Array, g: Array) -> tuple[Array]:  # noqa: ARG002
        """`gumbels.pull_given_argmax`, summed over samples."""
        return (gumbels.pull_given_argmax(self.backend, self.utilities, u, g, axis=self.axis),)

    def relaxed_draw(self, rng: Any, temperature: Any, regularizer: str, *, hard: bool = False) -> Array:
        """Do as the base class; with the softmax in one go with the noise, and with the argmax."""
        if regularizer != "entropy" or not isinstance(temperature, float):
            return super().relaxed_draw(rng, temperature, regularizer, hard=hard)
        return self.backend.relaxed(
            simplex.vertex if hard else simplex.relaxed,
            self.utilities,
            rng,
            {"axis": self.axis, "temperature": temperature, "dtype": self.logits.dtype},
        )

    def argmax(self, utilities: Array) -> Array:
        """One-hot vector of the largest utility, the first of equals; no gradient."""
        be = self.backend
        u = simplex.last(be, be.stop_gradient(utilities), self.axis)
        return be.cast(simplex.unlast(be, be.hardmax(u), self.axis), self.logits.dtype)

    def relax(self, utilities: Array, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Softmax, sparsemax ("euclidean") or 1.5-entmax ("tsallis") of ``utilities / temperature`` with its exact vjp."""
        if not isinstance(temperature, float):
            utilities, temperature = simplex.tempered(utilities, temperature, axis=self.axis), 1.0
        if regularizer != "entropy":
            sparse.check_regularizer(regularizer)
            return sparse.sparse(
                utilities, axis=self.axis, temperature=temperature, regularizer=regularizer, dtype=self.logits.dtype
            )
        static = {"axis": self.axis, "temperature": temperature, "dtype": self.logits.dtype}
        return self.backend.apply(simplex.softmax, (utilities,), static)

    def project(self, x: Array, step: Array, projection: str) -> Array:
        """Return the target of intermediate loss sampling: from the draw x against `step`, back onto the simplex."""
        be = self.backend
        live = be.stop_gradient(self.utilities) > -be.xp.inf
        y = x - step
        y = y + be.xp.sum((1.0 - y) * x, axis=self.axis, keepdims=True)  # so that the drawn entry stays 1
        body = simplex.normalize if projection == "normalize" else simplex.project
        rows = (simplex.last(be, z, self.axis) for z in (be.xp.where(live, y, -be.xp.inf), x))
        return simplex.unlast(be, be.rowwise(body, *rows), self.axis)

    def gapped(self, x: Array, gap: float) -> Array:
        """Return the logits, less a constant, moved no further than to where x is their argmax by `gap`; no gradient."""
        be = self.backend
        rows = (simplex.last(be, be.stop_gradient(z), self.axis) for z in (self.utilities, x))
        return be.cast(simplex.unlast(be, be.rowwise(simplex.gapped, *rows, gap=gap), self.axis), self.logits.dtype)

    def covariance_product(self, mean: Array, c: Array) -> Array:
        """Covariance of the draws whose mean is given, ``diag(mean) - mean mean^T``, times c."""
        be = self.backend
        rows = (simplex.last(be, x, self.axis) for x in (mean, c))
        return simplex.unlast(be, be.softmax_vjp(*rows), self.axis)

    def trapezoid(self, mean: Array, x: Array, c: Array) -> Array:
        """Half the sum of the covariance and of ``(x - mean) (x - mean)^T``, times c."""
        be = self.backend
        if self.axis == -1:
            return be.rowwise(simplex.trapezoid, mean, x, c)
        rows = (simplex.last(be, a, self.axis) for a in (mean, x, c))
        return simplex.unlast(be, be.rowwise(simplex.trapezoid, *rows), self.axis)

    def rowwise(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """``body(p, *arrays, **static)``, where p are blocks of rows, the categories along the last axis."""
        be = self.backend
        if self.axis == -1:
            return be.rowwise(_of_rows, self.utilities, *arrays, of_rows=body, **static)
        rows = [simplex.last(be, x, self.axis) if x.ndim else x for x in (self.utilities, *arrays)]
        return simplex.unlast(be, be.rowwise(_of_rows, *rows, of_rows=body, **static), self.axis)

    def swap_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Gumbel noise for `swaps`."""
        return random.noise(self.backend, "gumbel", rng, (*shape, *self.logits.shape), self.logits)

    def swaps(self, noise: Array, pairs: list[tuple[int, int]]) -> tuple[Array, Array]:
        """Exact draws with the noise of two categories exchanged, for each of the `pairs`, in front; and that noise."""
        # The noise is returned as a point of the simplex, uniformly distributed, with the categories in front.
        be = self.backend
        xp, device = be.xp, be.device(noise)
        logits = simplex.last(be, be.stop_gradient(self.utilities), self.axis)
        noise = simplex.last(be, noise, self.axis)
        places = xp.arange(noise.shape[-1], device=device)
        first, second = (xp.asarray([[pair[i]] for pair in pairs], dtype=places.dtype, device=device) for i in (0, 1))
        index = xp.where(places == first, second, xp.where(places == second, first, places))
        swapped = xp.reshape(xp.take(noise, xp.reshape(index, (-1,)), axis=-1), (*noise.shape[:-1], *index.shape))
        x = be.hardmax(logits + be.moveaxis(swapped, -2, 0))
        # Gumbel noise is -log of exponentials, and these over their sum are uniform on the simplex.
        return be.cast(simplex.unlast(be, x, self.axis), self.logits.dtype), be.moveaxis(be.softmax(-noise), -1, 0)

    def measure_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Noise for `derivative_measures`: that of `sample`."""
        return self.draw_noise(rng, shape)

    def derivative_measures(self, noise: Array) -> tuple[Array, Any]:
        """Draws, and the parts of the derivative: of each category but the draw's the category, and the draw."""
        # The other categories are those after the draw's, in a circle: no effect of its own is computed, and the rows that f
        # gets depend on the draw. (Those that do not are constants to a compiler, and jaxlib 0.10.2 gets sums over them wrong
        # on CPUs: jax-ml/jax#39103.)
        be, p, x = self.backend, self.stopped(), self.sample(noise)
        xp, n = be.xp, self.logits.shape[self.axis]
        drawn = xp.argmax(simplex.last(be, x, self.axis), axis=-1, keepdims=True)
        steps = xp.arange(1, max(n, 2), dtype=drawn.dtype, device=be.device(x))
        after = (drawn + xp.reshape(steps, (-1, *(1,) * drawn.ndim))) % n
        others = simplex.unlast(be, be.one_hot(after, n, x.dtype), self.axis)
        probs = simplex.softmax(p.utilities, axis=self.axis, temperature=1.0, dtype=be.wide(self.logits.dtype))
        return x, ((probs * others, others, None),)


def _of_rows(be: Backend, logits: Array, *arrays: Array, of_rows: Callable[..., Array], **static: Any) -> Array:
    return of_rows(Categorical.rebuild((logits, None), (-1,), be), *arrays, **static)
