"""What the continuous families share: their checks, and methods made of their formulas."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from backdraw import random
from backdraw.backend import Array, Backend, backend_of
from backdraw.distributions.base import DIFFERENTIABLE, Distribution
from backdraw.distributions.checks import check_logits
from backdraw.distributions.elementwise import Elementwise, broadcast
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.primitive import Primitive


@dataclass(frozen=True)
class Formulas:
    """The primitives of a family; each takes the family's parameters, after the noise or x if there is one."""

    transport: Primitive
    log_prob: Elementwise
    mean: Primitive
    variance: Primitive
    entropy: Primitive


class Continuous(Distribution):
    """Base of the continuous distributions.

    A family states its `formulas`, the kind of its `noise`, how many axes of each parameter are no batch axes
    (`events`), and which parameters must be `positive`. Its parameters broadcast against each other, and are held in
    the shape that they have then. One of them at least is an array; the others may be numbers, which are constants.
    """

    formulas: ClassVar[Formulas]
    noise: ClassVar[str]
    events: ClassVar[tuple[int, ...]] = (0, 0)
    positive: ClassVar[tuple[str, ...]] = ()
    discrete: ClassVar[bool] = False
    instead: ClassVar[str] = DIFFERENTIABLE

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        formulas = cls.__dict__.get("formulas")
        for method, formula in vars(formulas).items() if formulas else ():
            if isinstance(formula, Elementwise):
                formula.label = f"{cls.__name__}.{method}"

    def __post_init__(self) -> None:
        be, found = self._check_arrays()
        like = next(iter(found.values()))
        full = partial(be.xp.full, (), dtype=like.dtype, device=be.device(like))
        arrays = {name: found[name] if name in found else full(float(getattr(self, name))) for name in self.parameters}
        shapes = [tuple(x.shape[: x.ndim - n]) for x, n in zip(arrays.values(), self.events, strict=True)]
        batch = broadcast_shape(*shapes)
        if batch is None:
            got = ", ".join(f"{name} of shape {tuple(x.shape)}" for name, x in arrays.items())
            raise InvalidValueError(f"{', '.join(arrays)}: expected shapes that broadcast against each other, got {got}")
        for (name, x), shape, n in zip(arrays.items(), shapes, self.events, strict=True):
            event = tuple(x.shape[x.ndim - n :])
            object.__setattr__(self, name, x if shape == batch else broadcast(x, shape=(*batch, *event)))

    def _check_arrays(self) -> tuple[Backend, dict[str, Array]]:
        """Return the backend and those parameters that are arrays, by name."""
        found: dict[str, Array] = {}
        values = [getattr(self, name) for name in self.parameters]
        # A NumPy scalar is an array of NumPy, and may have a gradient there; beside another framework's it is a number.
        elsewhere = not all(isinstance(x, (int, float, np.generic, np.ndarray)) for x in values)
        for name, x, n in zip(self.parameters, values, self.events, strict=True):
            if n == 0 and (type(x) in (int, float) or (elsewhere and isinstance(x, (np.floating, np.integer)))):
                if not math.isfinite(x) or (name in self.positive and x <= 0):
                    kind = "positive finite" if name in self.positive else "finite"
                    raise InvalidValueError(f"{name}: expected a {kind} number, got {x}")
                continue
            check_logits(x, name=name)
            if x.ndim < n:
                raise InvalidValueError(f"{name}: expected at least {n} axes, got shape {tuple(x.shape)}")
            found[name] = x
        names = ", ".join(self.parameters)
        if not found:
            raise InvalidTypeError(f"{names}: expected at least one array, got numbers only")
        try:
            be = backend_of(*found.values())
        except InvalidTypeError as error:
            raise InvalidTypeError(f"{names}: {error}") from None
        (first, like), *others = found.items()
        for name, x in others:
            if x.dtype != like.dtype:
                raise InvalidTypeError(f"{name}: expected the dtype of {first}, {like.dtype}, got {x.dtype}")
        return be, found

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape that the parameters have together, without the axes of one value."""
        first = self.params[0]
        return tuple(first.shape[: first.ndim - self.events[0]])

    def transport_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Noise for `transport`, float32 or wider: the standard form of the family."""
        first = self.params[0]
        return random.noise(self.backend, self.noise, rng, (*shape, *first.shape), first)

    def transport(self, noise: Array) -> Array:
        """Make the draw that `noise` leads to, differentiable in the parameters."""
        return self.formulas.transport(noise, *self.params)

    def draw_noise(self, rng: Any, shape: tuple[int, ...] = ()) -> Array:
        """Noise for `sample`: that of `transport`."""
        return self.transport_noise(rng, shape)

    def sample(self, noise: Array) -> Array:
        """Exact draws, with no gradient."""
        return self.stopped().transport(noise)

    def log_prob(self, x: Array) -> Array:
        """Log-density at `x`, differentiable in the parameters and in x; -inf outside the support, with no gradient."""
        check_logits(x, name="x")
        given, own, n = tuple(x.shape), tuple(self.params[0].shape), self.events[0]
        if broadcast_shape(given, own) is None or given[len(given) - n :] != own[len(own) - n :]:
            raise InvalidValueError(f"x: expected a shape that broadcasts against {own}, got {given}")
        return self.formulas.log_prob(x, *self.params)

    def mean(self) -> Array:
        """Mean."""
        return self.formulas.mean(*self.params)

    def variance(self) -> Array:
        """Variance of each coordinate."""
        return self.formulas.variance(*self.params)

    def entropy(self) -> Array:
        """Differential entropy in nats, of the batch shape."""
        return self.formulas.entropy(*self.params)

    def over_event(self, x: Array) -> Array:
        """Give an array of the batch shape, or with samples in front, the axes of one value, of size 1."""
        return x[(..., *(None,) * self.events[0])]


class FixedSupport(Continuous):
    """A continuous family whose support does not depend on its parameters, so that its score has mean zero."""

    def score(self, x: Array) -> Any:
        """Gradient of ``log_prob(x)`` in the parameter, draw by draw; a tuple of them where there are several."""
        be = self.backend
        params = self.stopped().params
        dtype = be.xp.result_type(x, *params)
        slopes = self.formulas.log_prob.slopes(be, x, *params)[1:]
        scores = tuple(be.cast(slope, dtype) for slope in slopes)
        return scores if len(scores) > 1 else scores[0]


def divergence(formula: Primitive, p: Continuous, q: Continuous) -> Array:
    """Evaluate a Kullback-Leibler divergence, of the parameters of `p` and then those of `q`."""
    mine, other = p.params, q.params
    one, two, n = tuple(mine[-1].shape), tuple(other[-1].shape), p.events[-1]
    if broadcast_shape(one, two) is None or one[len(one) - n :] != two[len(two) - n :]:
        raise InvalidValueError(f"q: expected a shape that broadcasts against the {one} of p's {p.parameters[-1]}, got {two}")
    return formula(*mine, *other)


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape that arrays of these shapes broadcast to, or None if they do not."""
    ndim = max(map(len, shapes))
    out = []
    for sizes in zip(*((1,) * (ndim - len(s)) + s for s in shapes), strict=True):
        size = next((n for n in sizes if n != 1), 1)
        if any(n not in (1, size) for n in sizes):
            return None
        out.append(size)
    return tuple(out)
