"""What every distribution is: a frozen dataclass of arrays and plain values, and what an estimator may ask of it."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

from backdraw import random
from backdraw.backend import Array, Backend, backend_of
from backdraw.errors import NotOfferedError
from backdraw.primitive import primitive
from backdraw.surrogate import surrogate

# What an estimator may need of a distribution, with what to say when it is missing.
NEEDS = {
    "sample": "it has no exact draws",
    "log_prob": "it has no log-probability",
    "score": "it has no score (gradient of the log-probability)",
    "support": "its values cannot be enumerated",
    "perturb": "it is no argmax of perturbed utilities; take backdraw.straight_through, or reparameterize if continuous",
    "argmax": "it has no argmax over its vertices; take backdraw.draw",
    "relax": "it has no relaxation; take an estimator that draws exactly, such as backdraw.straight_through",
    "stretch": "its relaxation cannot be stretched and clipped, as that of bits can",
    "log_partition": "its log-partition is not known; take backdraw.fenchel_young with samples",
    "mean": "its mean is not known in closed form; take an estimator that relaxes, such as backdraw.gumbel_softmax",
    "covariance_product": "the covariance at a given mean is not known in closed form; take backdraw.straight_through",
    "conditional_perturb": "the law of its utilities given the draw is not known; take an estimator that does without",
    "trapezoid": "the covariance at a given mean is not known in closed form; take backdraw.straight_through",
    "pull_given_argmax": "the law of its utilities given the draw is not known; take backdraw.rloo",
    "gapped": "its utilities cannot be moved so that a draw is their argmax; take backdraw.straight_through",
    "project": "it has no projection onto its mean parameters; take backdraw.straight_through",
    "transport": "it has no differentiable path from noise to draw",
    "antithetic": "it has no bits, which come in antithetic pairs; take backdraw.rloo",
    "swaps": "it has no categories to swap; take backdraw.disarm for bits, or backdraw.rloo",
    "derivative_measures": "its derivative is not known as a difference of measures; take backdraw.reinforce",
    "entropy": "its entropy is not known in closed form, only as the mean of -log_prob(x); take backdraw.rloo",
    "kl": "its divergence is not known in closed form, only as the mean of log p(x) - log q(x); take backdraw.rloo",
}
DIFFERENTIABLE = "take backdraw.reparameterize or backdraw.pathwise"  # what all continuous ones can be given to


class Distribution:
    """Base of all distributions.

    A subclass is a frozen dataclass. Its array fields are named in `arrays`; they are the leaves of the pytree that it
    is under JAX, and the first of them, `parameters`, are what gradients go to. Where a field may also be a number, a
    float in it is configuration and no leaf. Its other fields are named in `plain` and are hashable. What it can do, it
    has a method for: `NEEDS` lists those that estimators ask for; of what it cannot do, `hasattr` is false, and asking for it
    raises a TypeError with the reason. With some come others: with `perturb` the `utilities` that it is about and
    `perturb_noise(rng)`, as in `Perturbed`, and `argmax_law`, which says whether their `argmax` follows the distribution; with
    `transport` `transport_noise`, with `swaps` `swap_noise`, and with `derivative_measures` `measure_noise`.

    ``sample(noise)`` gets what ``draw_noise(rng, shape)`` returns, with the samples of `shape` in front, and returns a draw
    for each: unless the class has its own, uniforms, one for each element of the first parameter. `batch_shape` is the shape
    of ``log_prob(x)``, and so of f's values: unless the class has its own, that of the first parameter. ``over_event(x)``
    gives an array of that shape the axes of a draw, of size 1.
    """

    arrays: ClassVar[tuple[str, ...]]
    plain: ClassVar[tuple[str, ...]] = ()
    parameters: ClassVar[tuple[str, ...]]
    discrete: ClassVar[bool] = True
    noise: ClassVar[str] = "gumbel"  # the kind that `perturb` adds to utilities
    argmax_law: ClassVar[bool] = True
    lacks: ClassVar[dict[str, str]] = {}  # methods that it cannot have, with the reason if it is not that of NEEDS
    instead: ClassVar[str | None] = None  # what to take, where that of NEEDS would not take the distribution either
    classes: ClassVar[list[type["Distribution"]]] = []
    on_subclass: ClassVar[list[Callable[[type["Distribution"]], None]]] = []  # adapters that register pytrees

    def __init_subclass__(cls) -> None:
        if hasattr(cls, "sample") and not hasattr(cls, "draw_noise"):
            cls.draw_noise = _uniforms  # type: ignore[attr-defined]
        Distribution.classes.append(cls)
        for hook in Distribution.on_subclass:
            hook(cls)

    if TYPE_CHECKING:
        backend: Backend  # of the parameters, which are of one framework; looked up once
    else:  # where any name would pass for that of an attribute

        def __getattr__(self, name: str) -> Any:
            if name == "backend":
                found = backend_of(getattr(self, self.parameters[0]))
                object.__setattr__(self, "backend", found)
                return found
            kind = type(self)
            if name not in kind.lacks and name not in NEEDS:
                raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")
            raise NotOfferedError(f"{kind.__name__} has no {name}(): {kind.reason(name)}")

    @classmethod
    def reason(cls, need: str) -> str:
        """Say why it lacks a method, and what to take instead."""
        if need in cls.lacks:
            return cls.lacks[need]
        why, _, hint = NEEDS[need].partition("; ")
        return "; ".join(part for part in (why, cls.instead or hint) if part)

    @property
    def params(self) -> tuple[Array, ...]:
        """The parameter arrays, in order."""
        values = [getattr(self, name) for name in self.parameters]
        return tuple([value for value in values if not isinstance(value, float)])

    def with_params(self, params: Iterable[Array]) -> Self:
        """Return a copy with other parameter arrays."""
        names = [name for name in self.parameters if not isinstance(getattr(self, name), float)]
        return self.replace(**dict(zip(names, params, strict=True)))

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*self.arrays, *self.plain)}

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the first parameter: every element of it is a draw's."""
        return tuple(getattr(self, self.parameters[0]).shape)

    @property
    def leading_shape(self) -> tuple[int, ...]:
        """The batch axes in front of all others: those that f may leave."""
        return self.batch_shape

    def event_axes(self, x: Array) -> tuple[int, ...]:
        """Return the axes of a draw x, counted from the end, that are no batch axes."""
        return tuple(range(len(self.batch_shape) - x.ndim, 0))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, and nothing checked again."""
        arrays = [changes.get(name, getattr(self, name)) for name in self.arrays]
        return self.rebuild(arrays, [changes.get(name, getattr(self, name)) for name in self.plain])

    @classmethod
    def rebuild(cls, arrays: Iterable[Any], plain: Iterable[Any], backend: Backend | None = None) -> Self:
        """Make a distribution of its fields, and check nothing: the arrays may be tracers or placeholders."""
        new = object.__new__(cls)
        for name, value in zip((*cls.arrays, *cls.plain), (*arrays, *plain), strict=True):
            object.__setattr__(new, name, value)
        if backend is not None:
            object.__setattr__(new, "backend", backend)
        return new

    def perturbed(self, rng: Any) -> Array:
        """Return what `perturb` makes of fresh noise; for those whose noise is added to their utilities."""
        return self.backend.apply(perturb, (self.utilities, self.perturb_noise(rng)), {"fresh": True})  # type: ignore[attr-defined]

    def relaxed_draw(self, rng: Any, temperature: Any, regularizer: str, *, hard: bool = False) -> Array:
        """Return what `relax` makes of fresh random utilities, or their argmax with its gradient."""
        u = self.perturbed(rng)
        soft = self.relax(u, temperature, regularizer)  # type: ignore[attr-defined]
        return surrogate(self.backend, self.argmax(u), soft) if hard else soft  # type: ignore[attr-defined]

    def log_prob_of_mean(self, x: Array) -> Array:
        """`log_prob`, continued linearly to means of values."""
        return self.log_prob(x)  # type: ignore[attr-defined]

    def weighted_score(self, x: Array, weights: Array, *, centred: bool = False) -> tuple[Array, ...]:  # noqa: ARG002
        """Return the sum over samples of weight times score, one array per parameter."""
        # x has the samples in front, the weights too, and then as many of the batch axes as f has left. `centred` says that
        # the weights sum to zero over the samples, which may save a part of the score.
        xp = self.backend.xp
        scores = self.score(x)  # type: ignore[attr-defined]
        every = scores if isinstance(scores, tuple) else (scores,)
        wide = (xp.reshape(weights, (*weights.shape, *(1,) * (s.ndim - weights.ndim))) for s in every)
        return tuple(self.backend.sum_samples(w * s) for w, s in zip(wide, every, strict=True))

    def repeated(self, n: int) -> Self:
        """Return the distribution of `n` independent draws: the parameters with one more batch axis, in front."""
        return self.replace(**{name: repeat(getattr(self, name), n=n) for name in self.parameters})

    def rowwise(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """``body(p, *arrays, **static)``, where p is this distribution or, one after the other, blocks of its rows."""
        return body(self, *arrays, **static)

    def sample_with_mean(self, noise: Array) -> tuple[Array, Array]:
        """`sample`, and the mean in float32 or wider; no gradients."""
        be, p = self.backend, self.stopped()
        wide: Any = p.replace(**{name: be.cast(x, be.wide(x.dtype)) for name, x in zip(p.parameters, p.params, strict=True)})
        return p.sample(noise), wide.mean()  # type: ignore[attr-defined]

    def stopped(self) -> Self:
        """Return the distribution with constants for parameters."""
        be, values = self.backend, {name: getattr(self, name) for name in self.parameters}
        return self.replace(**{n: v if isinstance(v, float) else be.stop_gradient(v) for n, v in values.items()})


def _uniforms(self: Distribution, rng: Any, shape: tuple[int, ...] = ()) -> Array:
    """Uniforms for `sample`, one for each element of the first parameter, in float32 or wider."""
    like = getattr(self, self.parameters[0])
    return random.noise(self.backend, "uniform", rng, (*shape, *like.shape), like)


def fold(be: Backend, g: Array, x: Array) -> Array:
    """Sum the cotangent of several samples in front over them, to the shape of their parameter x."""
    if g.ndim == x.ndim:
        return g
    samples = math.prod(g.shape[: g.ndim - x.ndim])  # of arrays without elements, reshape could not tell
    return be.sum_samples(be.xp.reshape(g, (samples, *x.shape)))


def finite(be: Backend, x: Array) -> Array:
    """Return x with 0 for -inf."""
    return be.xp.where(x == -be.xp.inf, 0.0, x)


def times(be: Backend, weight: Array, logp: Array) -> Array:
    """Return weight times log-probability: what cannot happen adds nothing, whatever its -inf is multiplied with."""
    return weight * finite(be, logp)


@primitive(native=True)
def perturb(be: Backend, logits: Array, noise: Array, *, fresh: bool = False) -> Array:
    """Logits plus noise, which may have samples in front; `fresh` noise belongs to nobody and may be overwritten."""
    if noise.ndim > logits.ndim:
        return logits + noise
    return be.add_to(noise, logits) if fresh else be.rowwise(_add, logits, noise)


def _add(be: Backend, a: Array, b: Array) -> Array:  # noqa: ARG001
    return a + b


perturb.defvjp(
    lambda be, logits, noise, *, fresh=False: (perturb.function(be, logits, noise, fresh=fresh), (logits,)),
    lambda be, residuals, g, *, fresh=False: (be.cast(fold(be, g, residuals[0]), residuals[0].dtype), None),  # noqa: ARG005
)


@primitive(native=True)
def repeat(be: Backend, x: Array, *, n: int) -> Array:
    """`n` times the same array, along a new first axis."""
    return be.xp.broadcast_to(x, (n, *x.shape))


repeat.defvjp(
    lambda be, x, *, n: (repeat.function(be, x, n=n), ()),
    lambda be, residuals, g, *, n: (be.sum_samples(g),),  # noqa: ARG005
)
