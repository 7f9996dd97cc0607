"""The surrogate: the value of one array, the gradient of another."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.errors import GradientError
from backdraw.primitive import primitive


@primitive
def surrogate(be: Backend, hard: Array, soft: Array) -> Array:  # noqa: ARG001
    """Return `hard`; its cotangent goes to `soft`."""
    return hard


surrogate.defvjp(
    lambda be, hard, soft: (hard, (soft,)),
    lambda be, residuals, g: (None, be.xp.astype(g, residuals[0].dtype, copy=False)),
)


@primitive(symmetric=True)
def once(be: Backend, gradient: Array, *, name: str) -> Array:  # noqa: ARG001
    """Return a gradient that has no derivative of its own."""
    return gradient


def _refuse(be: Backend, residuals: Any, g: Array, *, name: str) -> tuple[Array]:  # noqa: ARG001
    raise GradientError(
        f"{name} has no second derivative: its gradient is an estimate, not the derivative of a function of the parameters"
    )


once.defvjp(lambda be, gradient, *, name: (gradient, ()), _refuse)  # noqa: ARG005
