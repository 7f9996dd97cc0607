"""Primitives as users write them, with every kind of residual, and what frameworks transform: these, and draws."""

from typing import Any

import backdraw
from backdraw import Primitive, primitive


@primitive
def cube(be: Any, x: Any) -> Any:
    """An input as residual."""
    return x * x * x


cube.defvjp(lambda be, x: (x * x * x, (x,)), lambda be, res, g: (3.0 * g * res[0] * res[0],))


@primitive
def exp(be: Any, x: Any) -> Any:
    """The output as residual."""
    return be.xp.exp(x)


def _exp_fwd(be: Any, x: Any) -> Any:
    y = be.xp.exp(x)
    return y, (y,)


exp.defvjp(_exp_fwd, lambda be, res, g: (g * res[0],))


@primitive
def x_sin(be: Any, x: Any, *, factor: float) -> Any:
    """Further arrays, a None and an option."""
    return factor * x * be.xp.sin(x)


def _x_sin_fwd(be: Any, x: Any, *, factor: float) -> Any:
    s, c = be.xp.sin(x), be.xp.cos(x)
    return factor * x * s, (s, None, x * c)


def _x_sin_bwd(be: Any, res: Any, g: Any, *, factor: float) -> Any:
    s, nothing, xc = res
    assert nothing is None
    return (factor * g * (s + xc),)


x_sin.defvjp(_x_sin_fwd, _x_sin_bwd)
looped = primitive(x_sin.function, loops=True)
looped.defvjp(_x_sin_fwd, _x_sin_bwd)


@primitive
def sort(be: Any, x: Any) -> Any:
    """An integer array as residual."""
    return be.xp.sort(x, axis=-1)


def _sort_fwd(be: Any, x: Any) -> Any:
    order = be.xp.argsort(x, axis=-1)
    return be.xp.take_along_axis(x, order, axis=-1), (order,)


sort.defvjp(_sort_fwd, lambda be, res, g: (be.xp.take_along_axis(g, be.xp.argsort(res[0], axis=-1), axis=-1),))


@primitive
def scaled(be: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, where b is taken for a constant."""
    return a * b + c


scaled.defvjp(lambda be, a, b, c: (a * b + c, (b,)), lambda be, res, g: (g * res[0], None, g))


@primitive(symmetric=True)
def soft(be: Any, x: Any) -> Any:
    """Softmax: its Jacobian is symmetric."""
    return be.softmax(x)


def _soft_fwd(be: Any, x: Any) -> Any:
    y = be.softmax(x)
    return y, (y,)


soft.defvjp(_soft_fwd, lambda be, res, g: (res[0] * (g - be.xp.sum(res[0] * g, axis=-1, keepdims=True)),))


class Power(Primitive):
    """A subclass with a static exponent."""

    def forward(self, be: Any, x: Any, *, n: int) -> Any:
        """x ** n."""
        return x**n, (x,)

    def backward(self, be: Any, residuals: Any, cotangent: Any, *, n: int) -> Any:
        """n x ** (n - 1)."""
        return (cotangent * n * residuals[0] ** (n - 1),)


power = Power()


KEY = backdraw.key(1)
PRIMITIVES: dict[str, Any] = {
    "cube": cube,
    "exp": exp,
    "x_sin": lambda x: x_sin(x, factor=2.0),
    "looped": lambda x: looped(x, factor=2.0),
    "sort": sort,
    "soft": soft,
    "power": lambda x: power(x, n=3),
    "chain": lambda x: exp(soft(cube(x))),
}
DRAWS: dict[str, Any] = {
    "gumbel_softmax": lambda x: backdraw.gumbel_softmax(x, temperature=0.7, rng=KEY),
    "gumbel_softmax_hard": lambda x: backdraw.gumbel_softmax(x, temperature=0.7, hard=True, rng=KEY),
    "straight_through": lambda x: backdraw.straight_through(x, rng=KEY),
    "select": lambda x: backdraw.select(x),
    "bernoulli": lambda x: backdraw.gumbel_softmax(backdraw.Bernoulli(x), temperature=0.7, rng=KEY),
}
