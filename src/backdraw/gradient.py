"""Gradients by one call on every backend."""

from collections.abc import Callable
from typing import Any

from backdraw.backend import Array, backend_of
from backdraw.errors import InvalidTypeError, InvalidValueError


def vjp(fn: Callable[..., Any], *arrays: Array) -> tuple[Any, Callable[[Any], tuple[Array, ...]]]:
    """Evaluate a function and return what carries a cotangent back to its arguments.

    Parameters
    ----------
    fn : callable
        Takes the arrays, returns an array or a tuple of arrays. On NumPy, CuPy and other array libraries without
        automatic differentiation it must lead from the inputs to the output through backdraw's functions and
        primitives (your own: `backdraw.primitive`); array arithmetic in between is not recorded.
    *arrays : array
        Real floating arrays of one framework.

    Returns
    -------
    out : array or tuple of array
        ``fn(*arrays)``.
    pullback : callable
        ``pullback(cotangent)`` with a cotangent like `out` is the tuple of gradients, one per array, each of the
        array's shape and dtype. It may be called more than once.

    Raises
    ------
    TypeError
        If the arrays are of several frameworks, or not real floating.
    GradientError
        On NumPy, CuPy and the like, if the output cannot be reached from an input through recorded primitives.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits = np.array([0.0, 1.0, 2.0])
    >>> x, pullback = backdraw.vjp(lambda l: backdraw.straight_through(l, rng=backdraw.key(0)), logits)
    >>> x
    array([0., 0., 1.])
    >>> pullback(np.array([1.0, 0.0, 0.0]))[0].round(4)
    array([ 0.0819, -0.022 , -0.0599])
    """
    be = backend_of(*arrays)
    for i, x in enumerate(arrays):
        if not be.is_floating(x.dtype):
            raise InvalidTypeError(f"arrays: expected real floating arrays, got {x.dtype} at position {i}")
    return be.vjp(fn, arrays)


def value_and_grad(fn: Callable[..., Array]) -> Callable[..., tuple[Array, tuple[Array, ...]]]:
    """Make of a scalar function one that returns its value and its gradients.

    Parameters
    ----------
    fn : callable
        Takes arrays, returns an array of shape ``()``; see `vjp` for what it may be made of.

    Returns
    -------
    callable
        Takes the same arrays, returns ``(value, gradients)``, gradients a tuple with one per array.

    Raises
    ------
    ValueError
        When called, if `fn` returns anything but a scalar.
    TypeError, GradientError
        As `vjp`.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda l: backdraw.Categorical(l).log_prob(np.array([1.0, 0.0]))
    >>> value, (grad,) = backdraw.value_and_grad(f)(np.array([0.0, 0.0]))
    >>> grad
    array([ 0.5, -0.5])
    """

    def value_and_gradients(*arrays: Array) -> tuple[Array, tuple[Array, ...]]:
        value, pullback = vjp(fn, *arrays)
        if getattr(value, "shape", None) != ():
            got = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
            raise InvalidValueError(f"fn: expected a function that returns a scalar array of shape (), got {got}")
        xp = backend_of(value).xp
        return value, pullback(xp.ones_like(value))

    return value_and_gradients


def stop_gradient(x: Array) -> Array:
    """Return the same values with no gradient, on every backend.

    Parameters
    ----------
    x : array
        An array of any framework.

    Returns
    -------
    array
        The values of `x`, a constant to `vjp`. On NumPy this is how an array that was derived from the arguments by
        plain arithmetic is declared a constant.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> backdraw.stop_gradient(np.array([1.0, 2.0]))
    array([1., 2.])
    """
    return backend_of(x).stop_gradient(x)
