"""What the estimators of E[f(x)] share: how f is called, and how a gradient is handed to the parameters."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import Any

from backdraw.backend import Array, Backend, belongs
from backdraw.distributions.elementwise import unbroadcast
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.primitive import Primitive, Residuals, primitive
from backdraw.surrogate import once, refusing

Function = Callable[[Array], Array]


def check_samples(estimator: str, samples: Any, least: int = 1) -> int:
    """Return the number of samples as an int that is large enough for the estimator."""
    if isinstance(samples, bool) or not isinstance(samples, Integral):
        raise InvalidTypeError(f"samples: expected an int, got {type(samples).__name__}")
    if samples < least:
        raise InvalidValueError(f"samples: {estimator} needs at least {least}, got {samples}")
    return int(samples)


def draw_samples(dist: Any, samples: int, rng: Any) -> Array:
    """Independent exact draws, with no gradient."""
    return dist.sample(dist.draw_noise(rng, (samples,)))


def evaluate(f: Function, x: Array, dist: Any, *, name: str = "f") -> Array:
    """Call f on samples, and check that it returns one value per sample and batch element."""
    values = f(x)
    be = dist.backend
    if not belongs(values, be):
        raise InvalidTypeError(f"{name}: expected a function that returns {be.name} arrays, got {type(values).__name__}")
    shape, batch = tuple(values.shape), dist.leading_shape
    n = len(shape) - 1
    if n < 0 or n > len(batch) or shape != (x.shape[0], *batch[:n]):
        raise InvalidValueError(
            f"{name}: expected values of shape (samples, *batch) for x of shape {tuple(x.shape)}, that is "
            f"{(x.shape[0], *batch)} or fewer of its axes from the left, got shape {shape}"
        )
    if be.xp.isdtype(values.dtype, "complex floating"):
        raise InvalidTypeError(f"{name}: expected real values, got {values.dtype}")
    # Counts and hits are fair values too; they have no gradient to lose.
    return values if be.is_floating(values.dtype) else be.xp.astype(values, dist.params[0].dtype)


def evaluate_rest(f: Function, first: Array, x: Array, dist: Any) -> Array:
    """Call f on samples of whose first ones it has returned the values already."""
    n = first.shape[0]
    return concat(first, evaluate(f, x[n:, ...], dist)) if x.shape[0] > n else first


def constant(be: Backend, values: Array) -> Array:
    """Return the values as weights are made of them: without a gradient, in float32 or wider."""
    return be.cast(be.stop_gradient(values), be.wide(values.dtype))


def expand(be: Backend, weights: Array, ndim: int) -> Array:
    """Append axes of size 1, so that weights per batch element meet arrays with event axes."""
    return be.xp.reshape(weights, (*weights.shape, *(1,) * (ndim - weights.ndim)))


@primitive(native=True)
def concat(be: Backend, x: Array, y: Array) -> Array:
    """`x` and then `y`, along the first axis."""
    return be.xp.concat([x, y], axis=0)


concat.defvjp(
    lambda be, x, y: (concat.function(be, x, y), (x,)),
    lambda be, residuals, g: (g[: residuals[0].shape[0], ...], g[residuals[0].shape[0] :, ...]),  # noqa: ARG005
)


@primitive(native=True)
def mean(be: Backend, values: Array) -> Array:
    """Mean over the samples."""
    return be.mean_samples(values)


def _mean_vjp(be: Backend, residuals: Residuals, g: Array) -> tuple[Array]:
    (values,) = residuals
    return (be.xp.broadcast_to(be.xp.expand_dims(g, axis=0) / values.shape[0], values.shape),)


mean.defvjp(lambda be, values: (mean.function(be, values), (values,)), _mean_vjp)


class Attach(Primitive):
    """A value whose gradient in the parameters is an estimate that is known already, per batch element."""

    name = "expectation"

    def forward(self, be: Backend, value: Array, *arrays: Array, **static: Any) -> tuple[Array, Residuals]:  # noqa: ARG002
        """Return the value as it is; the arrays are the parameters and then their gradients."""
        return value, (value, *arrays)

    def backward(  # type: ignore[override]  # the static arguments by name
        self, be: Backend, residuals: Residuals, cotangent: Array, *, estimator: str
    ) -> tuple[Array | None, ...]:
        """Scale the gradients of each batch element by its cotangent, and sum them for a parameter that the batch shares."""
        value, *arrays = residuals
        n = len(arrays) // 2
        params, grads = arrays[:n], arrays[n:]
        scaled = (
            be.cast(be.stop_gradient(unbroadcast(be, expand(be, cotangent, g.ndim) * g, parameter.shape)), parameter.dtype)
            for parameter, g in zip(params, grads, strict=True)
        )
        # The estimates depend on what f closes over, and the mean of what comes back there on the parameters: neither
        # derivative is known, and neither is zero.
        final = [once(be, g, cotangent, value, *params, estimator=estimator) for g in scaled]
        return (refusing(be, cotangent, *params, estimator=estimator), *final, *(None for _ in grads))


class _Watch(threading.local):
    last: tuple[str, tuple[Array, ...]] | None = None
    on: bool = False


_attach = Attach()
_watch = _Watch()


def gradient_of(estimate: Callable[[], Array], *, estimator: str) -> tuple[Array, ...]:
    """Return the gradients in the parameters that an estimator makes, themselves differentiable in its options."""
    before, _watch.on, _watch.last = (_watch.on, _watch.last), True, None
    try:
        estimate()
        found = _watch.last  # the estimators inside f have come before
    finally:
        _watch.on, _watch.last = before
    if found is None or found[0] != estimator:
        raise InvalidTypeError(f"estimator: expected one whose gradient is an estimate of its own, got {estimator!r}")
    return found[1]


def option(be: Backend, x: Array) -> Array:
    """Return an array option in the dtype of weights: a constant unless somebody watches."""
    wide = be.cast(x, be.wide(x.dtype))
    return wide if _watch.on else be.stop_gradient(wide)


def sealed(be: Backend) -> AbstractContextManager[Any]:
    """Return a context for an estimator's own derivatives of f, which are constants unless somebody watches them."""
    return nullcontext() if _watch.on else be.detached()


def attach(value: Array, dist: Any, grads: tuple[Array, ...], *, estimator: str) -> Array:
    """Return the value, with these gradients in the distribution's parameters beside those that it has."""
    if _watch.on:
        _watch.last = estimator, grads
    be = dist.backend
    constants = (be.stop_gradient(g) for g in grads)
    return be.apply(_attach, (value, *dist.params, *constants), {"estimator": estimator})
