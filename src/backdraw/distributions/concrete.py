"""The Concrete distribution, the law of relaxed one-hot draws, on the simplex and in log space."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from backdraw import random
from backdraw.backend import Array
from backdraw.distributions import relaxed, simplex
from backdraw.distributions.base import DIFFERENTIABLE, Distribution, perturb, repeat
from backdraw.distributions.categories import check_rows
from backdraw.distributions.checks import as_value, check_logits, check_positive
from backdraw.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class _Relaxed(Distribution, ABC):
    """What the two forms share: all but the space of their draws."""

    logits: Array
    temperature: Any
    axis: int = -1
    where: Array | None = None

    arrays: ClassVar[tuple[str, ...]] = ("logits", "temperature", "where")
    plain: ClassVar[tuple[str, ...]] = ("axis",)
    parameters: ClassVar[tuple[str, ...]] = ("logits", "temperature")
    discrete: ClassVar[bool] = False
    lacks: ClassVar[dict[str, str]] = {"kl": "its divergence is estimated; take backdraw.kl(p, q, samples=...)"}
    instead: ClassVar[str] = DIFFERENTIABLE
    log_space: ClassVar[bool]

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", check_rows(self.logits, self.axis, self.where)[1])
        temperature = check_positive("temperature", self.temperature, self)
        object.__setattr__(self, "temperature", temperature)

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

    def repeated(self, n: int) -> Self:
        """Return the distribution of `n` independent draws, all at the one temperature."""
        return self.replace(logits=repeat(self.logits, n=n))

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Gumbel noise for `sample`, of shape ``(*shape, *logits.shape)``."""
        return random.noise(self.backend, "gumbel", rng, (*shape, *self.logits.shape), self.logits)

    def transport_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Gumbel noise for `transport`: the same."""
        return self.draw_noise(rng, shape)

    def sample(self, noise: Array) -> Array:
        """Exact draws, with no gradient."""
        return self.stopped().transport(noise)

    @abstractmethod
    def transport(self, noise: Array) -> Array:
        """Return the draw as a function of noise, differentiable in the parameters."""

    def log_prob(self, x: Array) -> Array:
        """Log-density at `x`, of the batch shape with samples in front; differentiable in the parameters and in x."""
        self._check(x)
        number, t = _split(self.temperature)
        return relaxed.log_prob(self.utilities, x, t, axis=self.axis, temperature=number, log_space=self.log_space)

    def score(self, x: Array) -> Array | tuple[Array, Array]:
        """Gradient of ``log_prob(x)`` in the logits, of the shape of x.

        If the temperature is an array, a pair: that gradient, and the one in the temperature, of the shape of `log_prob`.
        """
        self._check(x)
        be, p = self.backend, self.stopped()
        number, t = _split(p.temperature)
        rows = relaxed.Rows(be, p.utilities, x, t, self.axis, number, self.log_space)
        to_logits, _, to_t = rows.pull(be.xp.ones_like(rows.z[..., 0]))
        to_logits = be.cast(simplex.unlast(be, to_logits, self.axis), self.logits.dtype)
        return to_logits if t is None else (to_logits, be.cast(to_t, t.dtype))

    def _check(self, x: Array) -> None:
        check_logits(x, name="x")
        as_value(x, self.logits, events=(self.axis,))

    def kl_estimate(self, other: "_Relaxed", noise: Array) -> Array:
        """Mean of ``log p(x) - log q(x)`` over draws x of self made of `noise`, one or more in front; of the batch shape."""
        if self.axis != other.axis or tuple(self.logits.shape) != tuple(other.logits.shape):
            raise InvalidValueError(
                f"q: expected logits of shape {tuple(self.logits.shape)} with axis {self.axis}, "
                f"got {tuple(other.logits.shape)} with axis {other.axis}"
            )
        (p_number, s), (q_number, t) = _split(self.temperature), _split(other.temperature)
        u = perturb(self.utilities, noise)
        z = relaxed.log_softmax(u, s, axis=self.axis, temperature=p_number, dtype=u.dtype)
        arrays = (z, self.utilities, other.utilities, s, t)
        return relaxed.mean_log_ratio(*arrays, axis=self.axis, temperatures=(p_number, q_number))


class Concrete(_Relaxed):
    r"""The law of a relaxed one-hot draw: :math:`y = \mathrm{softmax}((l + g) / t)` with Gumbel noise g.

    Its density on the simplex, with respect to Lebesgue measure on all coordinates but one, is

    .. math:: p(y) = \Gamma(K)\, t^{K-1} \prod_k \frac{e^{l_k} y_k^{-t-1}}{\sum_j e^{l_j} y_j^{-t}}.

    Parameters
    ----------
    logits : array, shape (..., K, ...)
        Unnormalised log-probabilities along `axis`; the other axes are batch axes. Any real floating dtype. -inf is a
        category that never has weight: K counts the others, and the density is that on their face.
    temperature : float or scalar array
        t > 0. A number is configuration; an array is a parameter with a gradient of its own.
    axis : int
        The axis of the categories.
    where : array of bool, optional
        Broadcasts to the shape of `logits`; False takes a category out, as -inf does.

    Raises
    ------
    TypeError
        If `logits` or `temperature` is not real floating, or `where` not boolean, or one is of another framework.
    ValueError
        If the temperature is not positive, `logits` has no category, or `axis` or `where` does not fit.

    Notes
    -----
    At low temperature coordinates round to 0, where the density proper is 0 or infinite. Here a coordinate below the
    smallest normal number of its dtype is read as that number (float16: the smallest number, 2**-24): the value is
    finite, and such a coordinate gets no gradient. `ExpConcrete` loses nothing: prefer it in losses. Points are not
    checked to lie on the simplex; with weight on a category of logit -inf the log-density is -inf. A row of -inf alone has
    the draw 0, of log-density 0.

    References
    ----------
    C. J. Maddison, A. Mnih, Y. W. Teh, The Concrete Distribution, arXiv 1611.00712.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Concrete(np.array([0.0, 1.0, 2.0]), 0.5)
    >>> y = backdraw.draw(p, rng=backdraw.key(0))
    >>> y.round(3)
    array([0.   , 0.001, 0.998])
    >>> float(p.log_prob(y).round(4))
    9.3956
    """

    log_space = False

    def transport(self, noise: Array) -> Array:
        """Return the relaxed draw of Gumbel `noise`, differentiable in the parameters; of the shape of the noise."""
        u, t = perturb(self.utilities, noise), self.temperature
        if not isinstance(t, float):
            u, t = simplex.tempered(u, t, axis=self.axis), 1.0
        return simplex.softmax(u, axis=self.axis, temperature=t, dtype=self.logits.dtype)


class ExpConcrete(_Relaxed):
    r"""The law of the logarithm of a relaxed one-hot draw: :math:`z = \log \mathrm{softmax}((l + g) / t)`.

    .. math:: \log p(z) = \log \Gamma(K) + (K-1) \log t + \sum_k (l_k - t z_k) - K \log \sum_k \exp(l_k - t z_k)

    This is `Concrete` in coordinates that do not underflow, with respect to the measure
    :math:`\prod_k e^{-z_k}\, dy_1 \cdots dy_{K-1}`; ratios of densities, and so divergences, are the same in both.

    Parameters
    ----------
    logits : array, shape (..., K, ...)
        As for `Concrete`. The draw is -inf where the logits are.
    temperature : float or scalar array
        t > 0. A number is configuration; an array is a parameter with a gradient of its own.
    axis : int
        The axis of the categories.
    where : array of bool, optional
        Broadcasts to the shape of `logits`; False takes a category out, as -inf does.

    Raises
    ------
    TypeError
        If `logits` or `temperature` is not real floating, or `where` not boolean, or one is of another framework.
    ValueError
        If the temperature is not positive, `logits` has no category, or `axis` or `where` does not fit.

    Notes
    -----
    Points need not be normalised: a constant added to z changes nothing. Draws of live categories are finite; a
    coordinate below the lowest float16, or below minus the square root of the largest number in wider dtypes, counts as
    that and gets no gradient. Above -inf where the logit is -inf the log-density is -inf. A row of -inf alone has the draw
    -inf, of log-density 0.

    References
    ----------
    C. J. Maddison, A. Mnih, Y. W. Teh, The Concrete Distribution, arXiv 1611.00712.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.ExpConcrete(np.array([0.0, 1.0, 2.0]), 0.05)
    >>> z = backdraw.draw(p, rng=backdraw.key(0))
    >>> z.round(1)
    array([-79.8, -65.1,   0. ])
    >>> float(p.log_prob(z).round(4))
    -9.6979
    """

    log_space = True

    def transport(self, noise: Array) -> Array:
        """Return the log of the relaxed draw of Gumbel `noise`, differentiable in the parameters."""
        number, t = _split(self.temperature)
        u = perturb(self.utilities, noise)
        return relaxed.log_softmax(u, t, axis=self.axis, temperature=number, dtype=self.logits.dtype)


def _split(temperature: Any) -> tuple[float, Array | None]:
    """Return a temperature as the functions take it: a number, and an array or None."""
    return (temperature, None) if isinstance(temperature, float) else (1.0, temperature)
