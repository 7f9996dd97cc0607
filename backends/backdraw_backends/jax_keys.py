"""Keys for JAX: its own, old and new style, and the portable ones, which are pytrees here."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backdraw.backend import Array, Backend
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.random import Key, wrong_rng


def bits(be: Backend, rng: Any, shape: tuple[int, ...]) -> Array:
    """Words of a jax.random key, or of a portable key, as jax.random gives them."""
    with jax.threefry_partitionable(True) if isinstance(rng, Key) else jax.named_scope("backdraw"):
        return jax.random.bits(jax_key(be, rng), shape, jnp.uint32)


def jax_key(be: Backend, rng: Any) -> Array:
    """Return the jax.random key that ``rng=`` names."""
    if isinstance(rng, Key):
        return _of_words(rng)
    if isinstance(rng, numbers.Integral) and not isinstance(rng, bool):
        if rng < 0:
            raise InvalidValueError(f"rng: expected a seed of 0 or more, got {rng}")
        return jax.random.key(int(rng))
    if rng is None:
        raise InvalidTypeError("rng: JAX has no default source; pass a jax.random key, an int or backdraw.key(seed)")
    typed = isinstance(rng, jax.Array) and jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
    if (typed and rng.shape != ()) or (_is_raw_key(rng) and rng.ndim != 1):
        raise InvalidValueError(f"rng: expected a single key, got keys of shape {rng.shape}")
    if not (typed or _is_raw_key(rng)):
        raise wrong_rng(rng, be)
    return rng


def _is_raw_key(rng: Any) -> bool:
    return isinstance(rng, (jax.Array, np.ndarray)) and rng.dtype == np.uint32 and rng.ndim >= 1


def _of_words(key: Key) -> Array:
    return jax.random.wrap_key_data(key_words(key), impl="threefry2x32")


def key_words(key: Key) -> Array:
    """Return the words of a portable key as a JAX array."""
    if isinstance(key.high, int):
        return jnp.asarray(np.asarray([key.high, key.low], np.uint32))
    return jnp.stack([jnp.asarray(key.high, jnp.uint32), jnp.asarray(key.low, jnp.uint32)])


def _portable(key: Array) -> Key:
    high, low = jax.random.key_data(key)
    return Key(high, low)


def split(key: Key, num: int) -> list[Key]:
    """Split a key that JAX traces."""
    with jax.threefry_partitionable(True):
        return [_portable(k) for k in jax.random.split(_of_words(key), num)]


def fold_in(key: Key, data: Any) -> Key:
    """Fold into a key, one of the two traced."""
    return _portable(jax.random.fold_in(_of_words(key), data))


def _flatten_key(key: Key) -> tuple[tuple[Any, Any], None]:
    if isinstance(key.high, int):  # as Python ints they would be taken for int32
        return (np.uint32(key.high), np.uint32(key.low)), None
    return (key.high, key.low), None


jax.tree_util.register_pytree_node(Key, _flatten_key, lambda _, words: Key(*words))
