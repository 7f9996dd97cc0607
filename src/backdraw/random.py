"""Randomness: portable keys, and what ``rng=`` may be.

A `Key` names a stream of random words by counting, not by state: Threefry-2x32 (Salmon et al. 2011) applied to the
position of each word, in the layout of ``jax.random`` with ``jax_threefry_partitionable`` on. The same key therefore
gives the same words on every backend, device and shard layout, and from the words to the noise the formulas of `transforms`
are the same everywhere.
"""

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from backdraw.backend import Array, Backend, adapter, load_imported
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.threefry import MASK, threefry2x32

_BLOCK = 1 << 15  # words: three arrays of them stay in cache for the 20 rounds


# ---------------------------------------------------------------------------------------------------------- keys
@dataclass(frozen=True, slots=True)
class Key:
    """A portable random key: two 32-bit words, plain ints, or scalars that JAX or torch traces.

    Immutable: the same key gives the same draws, however often it is used. Make one with `key`, and new ones of it
    with `split` and `fold_in`.
    """

    high: Any
    low: Any

    @property
    def data(self) -> Array:
        """The two words as a uint32 array of shape (2,), as `jax.random.key_data` gives them."""
        if isinstance(self.high, int):
            return np.asarray([self.high, self.low], dtype=np.uint32)
        return adapter("jax").key_words(self)

    def ints(self) -> tuple[int, int]:
        """Return the two words as Python ints; a key that JAX traces has none."""
        return int(self.high), int(self.low)


def key(seed: int) -> Key:
    """Make a portable key of an integer seed.

    Parameters
    ----------
    seed : int
        From -2**63 to 2**64 - 1; its 64 bits (two's complement) are the key.

    Returns
    -------
    Key
        The key that ``jax.random.key(seed)`` holds when JAX has 64-bit integers.

    Raises
    ------
    TypeError
        If `seed` is not an integer.
    ValueError
        If `seed` does not fit in 64 bits.

    Examples
    --------
    >>> import backdraw
    >>> backdraw.key(0)
    Key(high=0, low=0)
    """
    seed = _integer("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise InvalidValueError(f"seed: expected an integer that fits in 64 bits, got {seed}")
    load_imported()  # JAX must know keys as pytrees before the first one goes into jax.jit
    return Key((seed >> 32) & MASK, seed & MASK)


def split(key: Key, num: int = 2) -> tuple[Key, ...]:
    """Make `num` new keys of one, as `jax.random.split` does.

    Parameters
    ----------
    key : Key
        The key to split; use it no more.
    num : int
        How many keys to make.

    Returns
    -------
    tuple of Key
        Keys whose streams are independent of each other.

    Raises
    ------
    TypeError
        If `key` is no `Key` or `num` is not an integer.
    ValueError
        If `num` is negative.

    Examples
    --------
    >>> import backdraw
    >>> first, second = backdraw.split(backdraw.key(0))
    >>> second
    Key(high=928981903, low=3453687069)
    """
    _check_key(key)
    num = _integer("num", num)
    if num < 0:
        raise InvalidValueError(f"num: expected 0 or more, got {num}")
    if not isinstance(key.high, int):
        return tuple(adapter("jax").split(key, num))
    return tuple(Key(*threefry2x32(key.high, key.low, i >> 32, i & MASK, mask=MASK)) for i in range(num))


def fold_in(key: Key, data: int) -> Key:
    """Make a new key of a key and an integer, as `jax.random.fold_in` does.

    Parameters
    ----------
    key : Key
        The key; it may be folded with as many different integers as needed.
    data : int
        From 0 to 2**32 - 1, such as a step or a worker index; under `jax.jit` it may be traced.

    Returns
    -------
    Key
        The key of this integer.

    Raises
    ------
    TypeError
        If `key` is no `Key` or `data` is not an integer.
    ValueError
        If `data` is out of range.

    Examples
    --------
    >>> import backdraw
    >>> backdraw.fold_in(backdraw.key(0), 1)
    Key(high=928981903, low=3453687069)
    """
    _check_key(key)
    if not isinstance(key.high, int) or _is_traced(data):
        return adapter("jax").fold_in(key, data)
    data = _integer("data", data)
    if not 0 <= data <= MASK:
        raise InvalidValueError(f"data: expected an integer from 0 to 2**32 - 1, got {data}")
    return Key(*threefry2x32(key.high, key.low, 0, data, mask=MASK))


def _is_traced(data: Any) -> bool:
    if not hasattr(data, "aval"):  # only JAX arrays have one
        return False
    try:
        operator.index(data)
    except TypeError:
        return True
    return False


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise InvalidTypeError(f"{name}: expected an integer, got bool")
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidTypeError(f"{name}: expected an integer, got {type(value).__name__}") from None


def _check_key(key: Any) -> None:
    if not isinstance(key, Key):
        raise InvalidTypeError(f"key: expected a backdraw.Key (from backdraw.key), got {type(key).__name__}")


# --------------------------------------------------------------------------------------------------------- words
def _encrypt_range(key: Key, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    k0, k1 = key.ints()
    count = np.arange(start, stop, dtype=np.uint64)
    return threefry2x32(k0, k1, (count >> np.uint64(32)).astype(np.uint32), count.astype(np.uint32))


def words(key: Key, start: int, stop: int) -> np.ndarray:
    """Return the 32-bit words number `start` to `stop` of the key's stream, as a NumPy array."""
    out = np.empty(stop - start, np.uint32)
    for begin in range(start, stop, _BLOCK):
        end = min(stop, begin + _BLOCK)
        np.bitwise_xor(*_encrypt_range(key, begin, end), out=out[begin - start : end - start])
    return out


def bits(key: Key, shape: int | tuple[int, ...] = (), width: int = 32) -> np.ndarray:
    """Random bits of a key, as `jax.random.bits` gives them, as a NumPy array.

    Parameters
    ----------
    key : Key
        The key.
    shape : int or tuple of int
        The shape of the result.
    width : {32, 64}
        How many bits each element has.

    Returns
    -------
    numpy.ndarray
        dtype uint32 or uint64.

    Raises
    ------
    TypeError
        If `key` is no `Key`.
    ValueError
        If `width` is neither 32 nor 64.

    Examples
    --------
    >>> from backdraw.random import bits, key
    >>> bits(key(0), 2)
    array([4070199207, 4202968722], dtype=uint32)
    """
    _check_key(key)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    n = math.prod(shape)
    if width == 32:
        return words(key, 0, n).reshape(shape)
    if width != 64:
        raise InvalidValueError(f"width: expected 32 or 64, got {width!r}")
    high, low = _encrypt_range(key, 0, n)
    return ((high.astype(np.uint64) << np.uint64(32)) | low).reshape(shape)


# ------------------------------------------------------------------------------------------------- rng arguments
def noise(be: Backend, kind: str, rng: Any, shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    """Fresh noise on the device of `like`, in its dtype or float32 if that is wider, or in `dtype`."""
    dtype = be.wide(like.dtype) if dtype is None else dtype
    return be.noise(kind, rng, shape, dtype, be.device(like))


def as_key(be: Backend, rng: Any, like: Array) -> Key:
    """Return a portable key as it is, or one whose words are drawn from the framework's own source."""
    return rng if isinstance(rng, Key) else Key(*be.scalars(be.words(rng, 2, be.device(like))))


def key_words(be: Backend, rng: Any, num: int, like: Array) -> Array:
    """Return the words of `num` keys, of shape ``(num, 2)``: keys that a primitive can take, for `Backend.scalars`."""
    return be.xp.reshape(be.words(rng, 2 * num, be.device(like)), (num, 2))


def streams(be: Backend, rng: Any, num: int, like: Array) -> tuple[Any, ...]:
    """Make of one ``rng=`` the sources of `num` noises that are independent of each other."""
    return split(rng, num) if isinstance(rng, Key) else be.streams(rng, num, be.device(like))


def wrong_rng(rng: object, be: Backend) -> InvalidTypeError:
    """Return the error for an ``rng=`` that the backend cannot use."""
    kind = type(rng)
    return InvalidTypeError(
        f"rng: expected None, an int, a backdraw.Key or {be.native_rng} for {be.name} arrays, "
        f"got {kind.__module__}.{kind.__qualname__}"
    )
