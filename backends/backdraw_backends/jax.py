"""JAX: custom_jvp and custom_vjp for primitives, jax.random for keys; pure, so that every transformation traces it."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.primitive import Primitive
from backdraw.random import Key
from backdraw.transforms import TRANSFORMS, uniform_of_words
from backdraw_backends.jax_keys import bits, jax_key
from backdraw_backends.jax_keys import fold_in as fold_in
from backdraw_backends.jax_keys import key_words as key_words
from backdraw_backends.jax_keys import split as split

_SUMMED = 256  # samples

# "open", "detached" or "final"; a context of JAX's own, so that no cache takes what was traced in one for another.
_mode = jax.make_user_context("open")


class JaxBackend(Backend):
    """JAX arrays and tracers."""

    name = "jax"
    native_rng = "a jax.random key"
    fuses = True

    def __init__(self) -> None:
        self.xp = jnp

    def array_types(self) -> tuple[type, ...]:
        """Return the array type known beforehand; tracers are learned as they come."""
        return (type(jnp.zeros(())),)

    def owns(self, x: object) -> bool:
        """Whether `x` is a JAX array or a tracer."""
        return isinstance(x, jax.Array)

    def apply(self, primitive: Primitive, arrays: tuple[Array, ...], static: dict[str, Any]) -> Array:
        """Leave true derivatives to JAX, whose compiler does better on them; give it the rules of the others."""
        if primitive.native:
            return primitive.forward(self, *arrays, **static)[0]
        return _with_rule(primitive, tuple(sorted(static.items())))(*_alike(arrays))

    def stop_gradient(self, x: Array) -> Array:
        """Stop the gradient."""
        return jax.lax.stop_gradient(x)

    def vjp(self, fn: Callable[..., Any], arrays: tuple[Array, ...]) -> tuple[Any, Callable[[Any], tuple[Array, ...]]]:
        """Differentiate by JAX."""
        if _mode.value != "detached":
            out, pullback = jax.vjp(fn, *arrays)
            return out, lambda cotangent: pullback(cotangent)
        with _mode("open"):  # what fn itself differentiates is differentiated again here
            out, pullback = jax.vjp(fn, *arrays)

        def final(cotangent: Any) -> tuple[Array, ...]:
            with _mode("final"):
                return pullback(cotangent)

        return out, final

    def detached(self) -> AbstractContextManager[Any]:
        """Say that nothing in the context is differentiated again: it saves a refusal that would come too early.

        JAX computes the tangents of a traced gradient whether or not they are used, so that a draw inside the function
        would refuse a second derivative that nobody asks for.
        """
        return _mode("detached")

    def refuses_second_derivatives(self) -> bool:
        """Say yes where there is no second derivative to refuse."""
        return bool(_mode.value == "final")

    def scan(
        self,
        f: Callable[[Any, Any], tuple[Any, Array]],
        init: Any,
        xs: Any,
        until: Callable[[Any], Array] | None = None,  # noqa: ARG002
        *,
        reverse: bool = False,
    ) -> tuple[Any, Array]:
        """Loop without unrolling, to the end: the number of y is part of their shape."""
        if _in_shard_map():  # what f makes of init may differ over more devices
            init = _alike(init, f(init, jax.tree.map(lambda x: x[0], xs)))
        return jax.lax.scan(f, init, xs, reverse=reverse)

    def program(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """Compile it, also where the user's code runs operation by operation; floats are arguments, all else is constant."""
        numbers = {name: value for name, value in static.items() if isinstance(value, float)}
        rest = tuple((name, value) for name, value in sorted(static.items()) if name not in numbers)
        return _compiled(body, rest)(arrays, numbers)

    def either(self, flag: Array, fast: Callable[..., Array], safe: Callable[..., Array], *arrays: Array) -> Array:
        """Compile both."""
        return jax.lax.cond(flag, fast, safe, *arrays)

    def inverse(self, x: Array) -> Array:
        """By Cholesky's factor, a third of the time that the general inverse takes to run and to compile."""
        factor = jnp.linalg.cholesky(x)
        one = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
        half = jax.lax.linalg.triangular_solve(factor, one, left_side=True, lower=True)
        return half.mT @ half

    def host(self, f: Callable[..., Any], *arrays: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Call back from wherever the arrays are."""

        def call(*on_host: Any) -> np.ndarray:
            return np.asarray(f(*(np.asarray(x) for x in on_host))).reshape(shape).astype(dtype, copy=False)

        stopped = (jax.lax.stop_gradient(x) for x in arrays)
        return jax.pure_callback(call, jax.ShapeDtypeStruct(shape, dtype), *stopped, vmap_method="sequential")

    def double(self) -> AbstractContextManager[Any]:
        """Turn 64-bit types on for the operations inside, also while tracing."""
        return jax.enable_x64(True)

    def device(self, x: Array) -> Any:  # noqa: ARG002
        """Leave placement to JAX: a tracer has no device."""
        return None

    def softmax(self, x: Array, temperature: float = 1.0) -> Array:
        """Give it its own derivative, a tenth faster than that of the quotient."""
        return _softmax(x, temperature)

    def sigmoid(self, x: Array, temperature: float = 1.0) -> Array:
        """JAX's own, with its derivative."""
        return jax.nn.sigmoid(x if temperature == 1.0 else x / temperature)

    def log_sigmoid(self, x: Array) -> Array:
        """JAX's own, with its derivative."""
        return jax.nn.log_sigmoid(x)

    def at_least(self, x: Array, bound: float) -> Array:
        """JAX's maximum."""
        return jnp.maximum(x, bound)

    def clip(self, x: Array, low: float, high: float) -> Array:
        """JAX's own."""
        return jnp.clip(x, low, high)

    def argmax(self, x: Array, axis: int = -1) -> Array:
        """Take the least of the places: compiled inside `double`, XLA's own fails on float64 where JAX has none."""
        n = x.shape[axis]
        places = jnp.expand_dims(jnp.arange(n), tuple(i for i in range(x.ndim) if i != axis % x.ndim))
        return jnp.min(jnp.where(x == jnp.max(x, axis=axis, keepdims=True), places, n - 1), axis=axis)

    def sum_samples(self, x: Array) -> Array:
        """Few of them as a product of matrices: XLA's sum over a first axis then takes up to twenty times as long on CPUs."""
        if x.shape[0] > _SUMMED:  # where the product loses digits, and the sum does not
            return jnp.sum(x, axis=0)
        return jnp.tensordot(jnp.ones(x.shape[0], x.dtype), x, 1, precision=jax.lax.Precision.HIGHEST)

    def invert_cdf(self, weights: Array, uniform: Array) -> Array:
        """Do as the base class, on edges that no empty interval moves: XLA sums in parallel, and its last bits vary."""
        sums = self.cumsum(weights.astype(jnp.float64))
        edges = jax.lax.cummax(jnp.where(weights > 0, sums, 0.0), axis=weights.ndim - 1)
        return jnp.count_nonzero(edges <= uniform * edges[..., -1:], axis=-1, keepdims=True)

    def top_k(self, x: Array, k: int) -> tuple[Array, Array]:
        """XLA's own."""
        return tuple(jax.lax.top_k(x, k))

    def noise(self, kind: str, rng: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> Array:  # noqa: ARG002
        """Noise from a jax.random key, or a portable key, whose words jax.random gives too."""
        planes, transform = TRANSFORMS[kind]
        n, rng = math.prod(shape), rng if isinstance(rng, Key) else jax_key(self, rng)  # of a seed as wide as out here
        with self.double() if dtype == jnp.float64 else nullcontext():
            words = bits(self, rng, (planes, n) if planes > 1 else shape)
            u = uniform_of_words(self, words, dtype)
            return transform(jnp, u) if planes == 1 else transform(jnp, *u).reshape(shape)

    def words(self, rng: Any, n: int, device: Any) -> Array:  # noqa: ARG002
        """Words of a jax.random key, or a portable key."""
        return bits(self, rng, (n,))

    def streams(self, rng: Any, num: int, device: Any) -> tuple[Any, ...]:  # noqa: ARG002
        """Split the jax.random key."""
        return tuple(jax.random.split(jax_key(self, rng), num))

    def scalars(self, x: Array) -> tuple[Any, ...]:
        """Return scalars: they may be traced."""
        return tuple(x)

    def number(self, x: Array) -> float | None:
        """Ask concrete arrays on the host."""
        return None if isinstance(x, jax.core.Tracer) or x.platform() != "cpu" else float(x)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(x: Array, temperature: float) -> Array:
    return Backend.softmax(backend, x, temperature)


@_softmax.defjvp
def _(temperature: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = _softmax(*primals, temperature)
    return y, backend.softmax_vjp(y, *tangents, temperature)  # the Jacobian is symmetric


def _in_shard_map() -> bool:
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def _alike(arrays: Any, *others: Any) -> Any:
    """Return the same values; inside `jax.shard_map`, as arrays that all vary over the devices that one of them does."""
    # Its types say over which, and the arguments and the results of a rule, or of the body of a loop, must agree in them.
    if not _in_shard_map():
        return arrays
    # What is joined of several varies as they all do; where a type keeps its axes has changed from release to release.
    nothing = jnp.concatenate([jnp.ravel(x)[:0].astype(jnp.float32) for x in jax.tree.leaves((arrays, others))])

    def varying(x: Array) -> Array:
        return jnp.concatenate([jnp.ravel(x), nothing.astype(x.dtype)]).reshape(x.shape)

    return jax.tree.map(varying, arrays)


@cache
def _compiled(body: Callable[..., Array], items: tuple[tuple[str, Any], ...]) -> Callable[..., Array]:
    return jax.jit(lambda arrays, numbers: body(backend, *arrays, **dict(items), **numbers))


@lru_cache(256)  # a solver or an annealed temperature is in the key of its entry
def _with_rule(primitive: Primitive, items: tuple[tuple[str, Any], ...]) -> Callable[..., Array]:
    static = dict(items)

    def function(*arrays: Array) -> Array:
        return primitive.forward(backend, *arrays, **static)[0]

    if not primitive.forward_mode:  # where there is such a rule, it serves both modes
        with_vjp = jax.custom_vjp(function)
        with_vjp.defvjp(
            lambda *arrays: primitive.forward(backend, *arrays, **static),
            # What the user gave as NumPy arrays comes back as such: only JAX arrays may meet a rule.
            lambda residuals, g: tuple(primitive.backward(backend, jax.tree.map(jnp.asarray, residuals), g, **static)),
        )
        return with_vjp

    def rule(arrays: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
        out, residuals = primitive.forward(backend, *arrays, **static)
        tangent = primitive.pushforward(backend, residuals, tangents, **static)
        return out, tangent.astype(out.dtype)  # the rule may give it the dtype of the input

    with_jvp = jax.custom_jvp(function)
    with_jvp.defjvp(rule)
    return with_jvp


def _register(cls: type[Distribution]) -> None:
    def flatten(dist: Distribution) -> tuple[Any, Any]:
        values = [getattr(dist, name) for name in cls.arrays]
        numbers = tuple(v if isinstance(v, float) else None for v in values)  # configuration: not to be traced
        leaves = [None if isinstance(v, float) else v for v in values]
        plain = tuple(getattr(dist, name) for name in cls.plain)
        return tuple(zip(map(jax.tree_util.GetAttrKey, cls.arrays), leaves, strict=True)), (numbers, plain)

    def unflatten(aux: Any, leaves: Any) -> Distribution:
        numbers, plain = aux
        return cls.rebuild((x if n is None else n for n, x in zip(numbers, leaves, strict=True)), plain)

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)


for _cls in Distribution.classes:
    _register(_cls)
Distribution.on_subclass.append(_register)

backend = JaxBackend()
