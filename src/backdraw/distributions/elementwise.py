"""A formula and its partial derivatives, as one primitive."""

import math
from collections.abc import Callable
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.primitive import Primitive, Residuals, primitive

Formula = Callable[..., Array]  # of the backend and the arrays
Partial = Formula | float | None


class Elementwise(Primitive):
    """A function of arrays that broadcast against each other, with its partial derivatives in closed form.

    All is computed in the widest of their dtypes, float32 at least, and the value is rounded to the dtype of the last
    one, a parameter.

    Parameters
    ----------
    value : callable
        The formula; its result has the batch axes alone.
    *partials : callable, float or None
        The derivative in each array, with the batch axes and then the array's own; None for no gradient.
    events : tuple of int, optional
        How many axes at the end of each array are its own and no batch axes; none unless told.
    """

    native = True

    def __init__(self, value: Formula, *partials: Partial, events: tuple[int, ...] | None = None) -> None:
        self.value, self.partials = value, partials
        self.events = events or (0,) * len(partials)
        self.label = value.__name__

    @property
    def name(self) -> str:
        """The name of the formula, or of the method that it is the formula of."""
        return self.label

    def forward(self, be: Backend, *arrays: Array, **static: Any) -> tuple[Array, Residuals]:  # noqa: ARG002
        """Evaluate the formula."""
        return be.cast(self._evaluate(be, self.value, widened(be, arrays)), arrays[-1].dtype), arrays

    def backward(self, be: Backend, residuals: Residuals, cotangent: Array, **static: Any) -> tuple[Array | None, ...]:  # noqa: ARG002
        """Multiply with each partial, and sum over the axes along which its argument was broadcast."""
        wide = widened(be, residuals)
        g = be.cast(cotangent, wide[0].dtype)
        grads: list[Array | None] = []
        for x, partial, n in zip(residuals, self.partials, self.events, strict=True):
            if partial is None:
                grads.append(None)
                continue
            slope = partial if isinstance(partial, float) else self._evaluate(be, partial, wide)
            grads.append(be.cast(unbroadcast(be, g[(..., *(None,) * n)] * slope, x.shape), x.dtype))
        return tuple(grads)

    def slopes(self, be: Backend, *arrays: Array) -> tuple[Array, ...]:
        """Return the partials that are formulas, not summed over anything."""
        wide = widened(be, arrays)
        return tuple(self._evaluate(be, partial, wide) for partial in self.partials if callable(partial))

    def _evaluate(self, be: Backend, formula: Formula, wide: tuple[Array, ...]) -> Array:
        return formula(be, *wide) if any(self.events) else be.rowwise(formula, *wide)


def widened(be: Backend, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Cast arrays to the widest of their dtypes, and to float32 at least."""
    dtype = be.wide(be.xp.result_type(*arrays))
    return tuple(be.cast(x, dtype) for x in arrays)


def unbroadcast(be: Backend, g: Array, shape: tuple[int, ...]) -> Array:
    """Sum a cotangent over the axes that broadcasting added to an array of this shape."""
    extra = g.ndim - len(shape)
    if extra:
        g = be.sum_samples(g if extra == 1 else be.xp.reshape(g, (math.prod(g.shape[:extra]), *g.shape[extra:])))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return be.xp.sum(g, axis=stretched, keepdims=True) if stretched else g


@primitive(native=True)
def broadcast(be: Backend, x: Array, *, shape: tuple[int, ...]) -> Array:
    """`x` in a larger shape."""
    return be.xp.broadcast_to(x, shape)


broadcast.defvjp(
    lambda be, x, *, shape: (be.xp.broadcast_to(x, shape), (x,)),
    lambda be, residuals, g, *, shape: (unbroadcast(be, g, residuals[0].shape),),  # noqa: ARG005
)
