"""The surrogate: the value of one array, the gradient of another."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.errors import GradientError
from backdraw.primitive import Primitive, Residuals


class Surrogate(Primitive):
    """The first of two arrays; what is differentiated is the second."""

    name = "surrogate"
    forward_mode = True

    def forward(self, be: Backend, hard: Array, soft: Array, **static: Any) -> tuple[Array, Residuals]:  # noqa: ARG002
        """Return `hard` as it is."""
        return hard, ()

    def backward(self, be: Backend, residuals: Residuals, cotangent: Array, **static: Any) -> tuple[Array | None, ...]:  # noqa: ARG002
        """Hand the cotangent to `soft`."""
        return None, cotangent

    def pushforward(self, be: Backend, residuals: Residuals, tangents: tuple[Array, ...], **static: Any) -> Array:  # noqa: ARG002
        """Take the tangent of `soft`."""
        return tangents[1]


class Once(Primitive):
    """The first of its arrays, a gradient; a derivative in any of the others, its sources, is refused."""

    name = "once"
    symmetric = True

    def forward(self, be: Backend, gradient: Array, *sources: Array, **static: Any) -> tuple[Array, Residuals]:  # noqa: ARG002
        """Return the gradient as it is."""
        return gradient, ()

    def backward(self, be: Backend, residuals: Residuals, cotangent: Array, **static: Any) -> tuple[Array | None, ...]:  # noqa: ARG002
        """Refuse."""
        raise GradientError(
            f"{static['estimator']} has no second derivative: its gradient is an estimate and not the derivative of a "
            "function of the parameters"
        )


_surrogate = Surrogate()
_once = Once()


def surrogate(be: Backend, hard: Array, soft: Array) -> Array:
    """Return the value of `hard` with the gradient of `soft`."""
    return be.surrogate(_surrogate, hard, soft)


def once(be: Backend, gradient: Array, *sources: Array, estimator: str) -> Array:
    """Return a gradient whose own derivative, in what it was computed from, is a `GradientError`."""
    if be.refuses_second_derivatives():
        return gradient
    return be.apply(_once, (gradient, *sources), {"estimator": estimator})


def refusing(be: Backend, x: Array, *sources: Array, estimator: str) -> Array:
    """Return `x`, with its own derivative, and with a `GradientError` for one in the sources."""
    if be.refuses_second_derivatives():
        return x
    zero = be.xp.zeros((), dtype=x.dtype, device=be.device(x))
    return x + be.apply(_once, (zero, *sources), {"estimator": estimator})
