"""The layers of small networks: primitives, so that they have a gradient where the framework has none."""

import backdraw
from backdraw.backend import Array, Backend


@backdraw.primitive(native=True)
def affine(be: Backend, x: Array, weight: Array, bias: Array) -> Array:  # noqa: ARG001
    """``x @ weight + bias``."""
    return x @ weight + bias


affine.defvjp(
    lambda be, x, weight, bias: (x @ weight + bias, (x, weight)),  # noqa: ARG005
    lambda be, saved, g: (g @ saved[1].T, saved[0].T @ g, be.xp.sum(g, axis=0)),
)


@backdraw.primitive(native=True)
def relu(be: Backend, x: Array) -> Array:
    """``max(x, 0)``."""
    return be.xp.where(x > 0, x, 0.0)


relu.defvjp(
    lambda be, x: (be.xp.where(x > 0, x, 0.0), (x,)),
    lambda be, saved, g: (be.xp.where(saved[0] > 0, g, 0.0),),
)


@backdraw.primitive(native=True)
def reshape(be: Backend, x: Array, *, shape: tuple[int, ...]) -> Array:
    """Return the same elements in another shape."""
    return be.xp.reshape(x, shape)


reshape.defvjp(
    lambda be, x, *, shape: (be.xp.reshape(x, shape), (x,)),
    lambda be, saved, g, *, shape: (be.xp.reshape(g, saved[0].shape),),  # noqa: ARG005
)


def two_layers(x: Array, weight: Array, bias: Array, weight_out: Array, bias_out: Array) -> Array:
    """Return the output of a network with one hidden layer."""
    return affine(relu(affine(x, weight, bias)), weight_out, bias_out)
