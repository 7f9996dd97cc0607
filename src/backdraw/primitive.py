"""A function with its own gradient rule, written once for every backend."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, overload

from backdraw.backend import Array, Backend, backend_of
from backdraw.errors import GradientError

Residuals = tuple[Any, ...]


class Primitive(ABC):
    """A pure array function together with the rule that carries a cotangent back through it.

    Both methods use the Array API only, write to none of their inputs and do not branch on values, so that every
    framework can trace them. An estimator whose gradient is not the derivative of its forward pass (a surrogate) is
    exactly a primitive whose `backward` is the estimator.

    Attributes
    ----------
    native : bool
        ``backward`` is the derivative of ``forward`` and ``forward`` consists of operations that a framework with
        automatic differentiation differentiates rightly: it may do so instead of calling ``backward``.
    symmetric : bool
        The Jacobian that ``backward`` applies, in the first array, equals its transpose, and the other arrays have no
        gradient: ``backward`` is the forward-mode rule too.
    linear : bool
        ``backward`` is linear in the cotangent and consists of operations that a framework with automatic differentiation
        differentiates rightly. On torch its transpose is the forward-mode rule; on JAX, where it would have to be compiled,
        there is none, unless the primitive is `native` or `symmetric`.
    rows : bool
        The first array is reduced along its rows. Frameworks whose kernels are slow on short rows may then prefer the rule
        to a derivative of their own.
    loops : bool
        It is many small steps, whose calls are what it costs. Where NumPy's cost less on the same memory, it may run there.
    """

    native: bool = False
    symmetric: bool = False
    linear: bool = False
    rows: bool = False
    loops: bool = False

    @property
    def forward_mode(self) -> bool:
        """Whether there is a forward-mode rule, `pushforward`."""
        return self.symmetric

    @property
    def name(self) -> str:
        """The name that error messages use."""
        return type(self).__name__

    @abstractmethod
    def forward(self, be: Backend, *arrays: Array, **static: Any) -> tuple[Array, Residuals]:
        """Return the output array and a tuple of arrays (or None) that `backward` wants to see again."""

    @abstractmethod
    def backward(self, be: Backend, residuals: Residuals, cotangent: Array, **static: Any) -> tuple[Array | None, ...]:
        """Return one gradient, or None for no gradient, per input array."""

    def pushforward(self, be: Backend, residuals: Residuals, tangents: tuple[Array, ...], **static: Any) -> Array:
        """Return the output's tangent, linear in the inputs' `tangents`; it must be the transpose of `backward`."""
        if not self.symmetric:
            raise GradientError(f"primitive {self.name!r} has no forward-mode rule")
        return self.backward(be, residuals, tangents[0], **static)[0]

    def __call__(self, *arrays: Array, **static: Any) -> Array:
        """Apply the primitive to arrays of one backend; the keyword arguments are hashable and carry no gradient."""
        return backend_of(*arrays).apply(self, arrays, static)


class FunctionPrimitive(Primitive):
    """The primitive that `primitive` makes of a plain function."""

    def __init__(self, function: Callable[..., Array], **flags: bool) -> None:
        self.function = function
        self.__dict__.update(flags)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    @property
    def name(self) -> str:
        """The name of the wrapped function."""
        return self.function.__name__

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"

    def defvjp(self, fwd: Callable[..., tuple[Array, Residuals]], bwd: Callable[..., tuple[Array | None, ...]]) -> None:
        """Set the gradient rule: ``fwd(be, *arrays, **static) -> (y, residuals)``, ``bwd(be, residuals, g, **static)``."""
        self.forward, self.backward = fwd, bwd  # type: ignore[method-assign]

    def forward(self, be: Backend, *arrays: Array, **static: Any) -> tuple[Array, Residuals]:
        """Call the bare function: there is no rule yet."""
        return self.function(be, *arrays, **static), ()

    def backward(self, be: Backend, residuals: Residuals, cotangent: Array, **static: Any) -> tuple[Array | None, ...]:  # noqa: ARG002
        """Raise: there is no rule yet."""
        raise GradientError(f"primitive {self.name!r} has no gradient rule: give it one with {self.name}.defvjp")


@overload
def primitive(
    function: Callable[..., Array],
    *,
    native: bool = ...,
    symmetric: bool = ...,
    linear: bool = ...,
    rows: bool = ...,
    loops: bool = ...,
) -> FunctionPrimitive: ...


@overload
def primitive(
    function: None = None,
    *,
    native: bool = ...,
    symmetric: bool = ...,
    linear: bool = ...,
    rows: bool = ...,
    loops: bool = ...,
) -> Callable[[Callable[..., Array]], FunctionPrimitive]: ...


def primitive(
    function: Callable[..., Array] | None = None,
    *,
    native: bool = False,
    symmetric: bool = False,
    linear: bool = False,
    rows: bool = False,
    loops: bool = False,
) -> Any:
    """Make a function of arrays a primitive, as `jax.custom_vjp` does, on every backend.

    Parameters
    ----------
    function : callable
        ``f(be, *arrays, **static) -> array``. ``be.xp`` is the array namespace; keyword arguments are hashable.
    native : bool
        The rule is the function's true derivative, and torch and JAX may differentiate the function themselves.
    symmetric : bool
        The function takes one array and its Jacobian is symmetric: the rule serves forward mode too.
    linear : bool
        The rule is linear in the cotangent, and made of operations that torch differentiates: torch has forward mode by its
        transpose.
    rows : bool
        The function reduces its first array along rows; for speed alone.
    loops : bool
        The function is a loop of many small steps; for speed alone.

    Returns
    -------
    Primitive
        A callable with the method ``defvjp(fwd, bwd)``, where ``fwd(be, *arrays, **static) -> (y, residuals)`` and
        ``bwd(be, residuals, cotangent, **static) -> gradients``, one or None per array. Residuals are a tuple of
        arrays or None.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> @backdraw.primitive
    ... def square(be, x):
    ...     return x * x
    >>> square.defvjp(lambda be, x: (x * x, (x,)), lambda be, res, g: (2 * g * res[0],))
    >>> y, pullback = backdraw.vjp(square, np.array([1.0, 3.0]))
    >>> pullback(np.ones(2))
    (array([2., 6.]),)
    """
    flags = {"native": native, "symmetric": symmetric, "linear": linear, "rows": rows, "loops": loops}
    if function is None:
        return lambda f: FunctionPrimitive(f, **flags)
    return FunctionPrimitive(function, **flags)
