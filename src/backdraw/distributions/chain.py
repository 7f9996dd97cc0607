"""The linear chain: paths through states, with utilities of the states and of the steps between them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from backdraw import random
from backdraw.backend import Array, backend_of
from backdraw.distributions import paths
from backdraw.distributions.checks import as_value, check_logits
from backdraw.distributions.continuous import broadcast_shape
from backdraw.distributions.elementwise import broadcast
from backdraw.distributions.perturbed import Perturbed
from backdraw.distributions.temperature import tempered
from backdraw.errors import InvalidTypeError, InvalidValueError


@dataclass(frozen=True, eq=False)
class Chain(Perturbed):
    r"""Linear-chain conditional random field: a path of T variables with K states each.

    .. math:: p(x) \propto \exp\Big(\sum_{t=1}^{T} u_t^\top x_t + \sum_{t=1}^{T-1} x_t^\top W_t\, x_{t+1}\Big)

    for one-hot rows :math:`x_t`. The chain is filtered backwards in time, and all else follows forwards; draws are exact.

    Parameters
    ----------
    unary : array, shape (..., T, K)
        u, the utilities of the states. Any real floating dtype. -inf is a state of probability 0.
    pairwise : array, shape (..., T - 1, K, K) or (K, K)
        W, the utilities of the steps, row from and column to; of the dtype of `unary`. It broadcasts: one (K, K) is shared
        by all steps, and by the batch. -inf is a step that is never taken. Where no path is left, a draw is all zeros and
        has no gradient.

    Raises
    ------
    TypeError
        If an array is not real floating, or the two are of different frameworks or dtypes.
    ValueError
        If the shapes do not fit each other, or there is no variable or no state.

    Notes
    -----
    `perturb` adds Gumbel noise to the utilities of the states alone, and the argmax of the sum follows the law of that
    perturbation: it is p only where no step has a utility. `backdraw.draw` and `backdraw.straight_through` draw from p.

    `relax` returns the marginals of the states at the utilities, theirs and those of the steps, over the temperature. It is
    the argmax of :math:`\langle u, x \rangle + \langle W, y \rangle - t f(x, y)`, with -f the entropy, over the hull of the
    paths x with their pairs y.

    References
    ----------
    J. Lafferty, A. McCallum, F. Pereira, Conditional Random Fields, ICML 2001.

    M. B. Paulus et al., Gradient Estimation with Stochastic Softmax Tricks, arXiv 2006.08063.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> stay = np.log([[0.9, 0.1], [0.2, 0.8]])
    >>> p = backdraw.Chain(np.array([[0.0, -np.inf], [0.0, 0.0], [0.0, 0.0]]), stay)
    >>> p.mean().round(3)
    array([[1.  , 0.  ],
           [0.9 , 0.1 ],
           [0.83, 0.17]])
    >>> backdraw.draw(p, rng=backdraw.key(3))
    array([[1., 0.],
           [0., 1.],
           [0., 1.]])
    """

    unary: Array
    pairwise: Array

    arrays: ClassVar[tuple[str, ...]] = ("unary", "pairwise")
    parameters: ClassVar[tuple[str, ...]] = ("unary", "pairwise")
    argmax_law: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_logits(self.unary, name="unary")
        check_logits(self.pairwise, name="pairwise")
        try:
            backend_of(self.unary, self.pairwise)
        except InvalidTypeError as error:
            raise InvalidTypeError(f"unary, pairwise: {error}") from None
        if self.pairwise.dtype != self.unary.dtype:
            raise InvalidTypeError(f"pairwise: expected the dtype of unary, {self.unary.dtype}, got {self.pairwise.dtype}")
        shape, steps = tuple(self.unary.shape), tuple(self.pairwise.shape)
        if len(shape) < 2 or 0 in shape[-2:]:
            raise InvalidValueError(f"unary: expected shape (..., T, K) with T and K at least 1, got {shape}")
        n, k = shape[-2:]
        batch = broadcast_shape(shape[:-2], steps[:-3] or ())
        if steps[-2:] != (k, k) or steps[-3:-2] not in ((), (1,), (n - 1,)) or batch is None:
            raise InvalidValueError(
                f"pairwise: expected shape (..., {n - 1}, {k}, {k}) or ({k}, {k}) for unary of shape {shape}, got {steps}"
            )
        for name, full in (("unary", (*batch, n, k)), ("pairwise", (*batch, n - 1, k, k))):
            x = getattr(self, name)
            object.__setattr__(self, name, x if tuple(x.shape) == full else broadcast(x, shape=full))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The axes in front of time and states."""
        return tuple(self.unary.shape[:-2])

    def over_event(self, x: Array) -> Array:
        """Give an array of the batch shape, or with samples in front, the axes of time and states, of size 1."""
        return x[..., None, None]

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Uniforms for `sample`: one a variable, float64, the axis of the states of size 1."""
        be = self.backend
        return random.noise(be, "uniform", rng, (*shape, *self.unary.shape[:-1], 1), self.unary, be.xp.float64)

    def sample(self, noise: Array) -> Array:
        """Exact draws, variable by variable, each by inverse CDF given the one before it."""
        p = self.stopped()
        return paths.sample(p.backend, p.unary, p.pairwise, noise)

    def log_prob(self, x: Array) -> Array:
        """Log-probability of paths `x` of one-hot rows, of the batch shape; differentiable in the utilities and in x."""
        return paths.log_prob(self.unary, self.pairwise, as_value(x, self.unary))

    def score(self, x: Array) -> tuple[Array, Array]:
        """Gradient of ``log_prob(x)`` in the utilities of states and steps: the counts of x less their means."""
        p = self.stopped()
        return paths.score(p.backend, p.unary, p.pairwise, as_value(x, self.unary))

    def entropy(self) -> Array:
        """Entropy in nats, of the batch shape."""
        return paths.entropy(self.unary, self.pairwise)

    def kl(self, other: "Chain") -> Array:
        """KL(self || other) in nats, of the batch shape."""
        for name in self.parameters:
            mine, given = tuple(getattr(self, name).shape), tuple(getattr(other, name).shape)
            if mine != given:
                raise InvalidValueError(f"q: expected {name} of shape {mine}, got {given}")
        return paths.kl(self.unary, self.pairwise, other.unary, other.pairwise)

    def log_partition(self) -> Array:
        """Logarithm of the sum, over all paths, of the exponential of their utility; of the batch shape."""
        return paths.log_partition(self.unary, self.pairwise)

    def mean(self, *, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Probability of each state at each time, of all utilities divided by `temperature`."""
        return self.relax(self.unary, temperature, regularizer)

    def argmax(self, utilities: Array) -> Array:
        """Path of the largest utility, its states having these `utilities`; of equals the first; no gradient."""
        be = self.backend
        return be.cast(paths.best(be, be.stop_gradient(utilities), be.stop_gradient(self.pairwise)), self.unary.dtype)

    def relax(self, utilities: Array, temperature: Any = 1.0, regularizer: str = "entropy") -> Array:
        """Marginals at ``utilities / temperature`` and ``pairwise / temperature``, with their exact vjp in all three."""
        if regularizer != "entropy":
            raise InvalidValueError(f"regularizer: expected 'entropy', the one that a Chain has, got {regularizer!r}")
        w = self.pairwise
        if not isinstance(temperature, float):
            utilities, w = (tempered(x, temperature) for x in (utilities, w))
            temperature = 1.0
        return paths.marginals(utilities, w, temperature=temperature, dtype=self.unary.dtype)
