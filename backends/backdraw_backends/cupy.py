"""CuPy: the tape, and noise from CuPy's generators."""

import math
import numbers
from collections.abc import Callable
from functools import cache
from typing import Any

import array_api_compat.cupy as xp
import cupy
import cupyx
import numpy as np

from backdraw.backend import Array
from backdraw.errors import InvalidValueError
from backdraw.random import Key, wrong_rng
from backdraw.threefry import MASK, threefry2x32
from backdraw.transforms import TRANSFORMS, uniform_of_words
from backdraw_backends.standard import StandardBackend


class CuPyBackend(StandardBackend):
    """CuPy arrays."""

    name = "cupy"
    native_rng = "a cupy.random.Generator"

    def __init__(self) -> None:
        self.xp = xp

    def array_types(self) -> tuple[type, ...]:
        """Return the array type known beforehand."""
        return (cupy.ndarray,)

    def owns(self, x: object) -> bool:
        """Whether `x` is a CuPy array."""
        return isinstance(x, cupy.ndarray)

    def inverse(self, x: Array) -> Array:
        """Have CuPy raise: of a singular matrix it returns whatever was in memory."""
        with cupyx.errstate(linalg="raise"):
            return super().inverse(x)

    def noise(self, kind: str, rng: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> Array:
        """Noise from CuPy's generators or a key."""
        planes, transform = TRANSFORMS[kind]
        with device:
            words = _words(rng, planes * math.prod(shape)).reshape(planes, *shape)
            return transform(cupy, *uniform_of_words(self, words, dtype))

    def words(self, rng: Any, n: int, device: Any) -> Array:
        """Words of CuPy's generators or a key."""
        with device:
            return _words(rng, n)

    def streams(self, rng: Any, num: int, device: Any) -> tuple[Any, ...]:
        """One CuPy generator."""
        with device:
            return (_generator(rng),) * num

    def number(self, x: Array) -> float | None:  # noqa: ARG002
        """Say nothing: the device would have to be waited for."""
        return None

    def host(self, f: Callable[..., Any], *arrays: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Run ``f`` on copies in host memory."""
        out = np.asarray(f(*(cupy.asnumpy(x) for x in arrays))).reshape(shape)
        with self.device(arrays[0]):
            return cupy.asarray(out, dtype=dtype)


def _words(rng: Any, n: int) -> Array:
    if not isinstance(rng, Key):
        high, low = _generator(rng).integers(0, 1 << 16, (2, n), dtype=np.int64)  # 1 << 32 overflows before CuPy 14.2
        return (high << 16) | low
    count = cupy.arange(n, dtype=np.int64)
    x0, x1 = threefry2x32(*rng.ints(), count >> 32, count & MASK, mask=MASK)
    return x0 ^ x1


@cache
def _default(device: int) -> Any:  # noqa: ARG001  # a generator works on the device alone on which it was made
    return cupy.random.default_rng()


def _generator(rng: Any) -> Any:
    if rng is None:
        return _default(cupy.cuda.get_device_id())
    if isinstance(rng, cupy.random.Generator):
        return rng
    if isinstance(rng, numbers.Integral) and not isinstance(rng, bool):
        if rng < 0:
            raise InvalidValueError(f"rng: expected a seed of 0 or more, got {rng}")
        return cupy.random.default_rng(int(rng))
    raise wrong_rng(rng, backend)


backend = CuPyBackend()
