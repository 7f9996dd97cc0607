"""Any array with ``__array_namespace__`` and no adapter of its own: a tape for gradients, noise made by NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from backdraw.backend import Array, Backend
from backdraw.primitive import Primitive
from backdraw.random import Key, words
from backdraw_backends import host_noise, tape


class StandardBackend(Backend):
    """An Array API namespace without automatic differentiation."""

    native_rng = "numpy.random.SeedSequence, numpy.random.Generator"
    vjp = tape.vjp

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.name = xp.__name__

    def owns(self, x: object) -> bool:
        """Whether `x` comes from this namespace."""
        return hasattr(x, "__array_namespace__") and x.__array_namespace__() is self.xp

    def raw(self, x: Array) -> Array:
        """Return the array without anything that tracks it."""
        return x

    def track(self, x: Array, tape: tape.Tape) -> Array:  # noqa: ARG002
        """Return the same values as a new object, so that its identity names one place on one tape."""
        return None if x is None else x[...]

    def broken(self, x: Array, tape: tape.Tape) -> str | None:  # noqa: ARG002
        """Return the operation that derived `x` from a tracked array outside the tape, where that can be known."""
        return None

    def taint(self, x: Array, tape: tape.Tape, origin: str) -> Array:  # noqa: ARG002
        """Mark `x` as derived outside the tape, where that can be done."""
        return x

    def apply(self, primitive: Primitive, arrays: tuple[Array, ...], static: dict[str, Any]) -> Array:
        """Run the primitive; record it where a tape is on."""
        if not tape.active_tapes():
            return self.raw(primitive.forward(self, *arrays, **static)[0])
        return tape.apply(self, primitive, arrays, static)

    def stop_gradient(self, x: Array) -> Array:
        """Return the values as an array that no tape knows."""
        return self.raw(x)[...] if tape.active_tapes() else x

    def rowwise(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """Run the body; a difference of huge logits may be -inf, and where the library computes by NumPy that is no news."""
        with np.errstate(over="ignore"):
            return body(self, *arrays, **static)

    def logsumexp(self, x: Array) -> Array:
        """Likewise."""
        with np.errstate(over="ignore"):
            return super().logsumexp(x)

    def inverse(self, x: Array) -> Array:
        """NaN throughout where the library raises for one of the matrices, or has no linear algebra."""
        try:
            return self.xp.linalg.inv(x)
        except (np.linalg.LinAlgError, AttributeError):
            return self.xp.full_like(x, self.xp.nan)

    def noise(self, kind: str, rng: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> Array:
        """Make the noise with NumPy and hand it over."""
        wide = np.float64 if self.xp.finfo(dtype).bits == 64 else np.float32
        return self.xp.asarray(host_noise.noise(kind, host_noise.source(rng, self), shape, wide), device=device)

    def words(self, rng: Any, n: int, device: Any) -> Array:
        """Words made by NumPy."""
        found = words(rng, 0, n) if isinstance(rng, Key) else host_noise.generator_words(rng, n, self)
        return self.xp.asarray(found, device=device)

    def streams(self, rng: Any, num: int, device: Any) -> tuple[Any, ...]:  # noqa: ARG002
        """One NumPy generator."""
        return (host_noise.generator(rng, self),) * num

    def host(self, f: Callable[..., Any], *arrays: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Run ``f`` on NumPy copies, made through DLPack."""
        on_host = (np.from_dlpack(self.xp.asarray(self.raw(x), copy=True, device=None)) for x in arrays)
        out = np.asarray(f(*on_host)).reshape(shape)
        return self.xp.astype(self.xp.asarray(out, device=self.device(arrays[0])), dtype)


_BY_NAMESPACE: dict[str, StandardBackend] = {}


def backend_for(x: Array) -> StandardBackend:
    """Return the backend of an array that no adapter owns."""
    xp = x.__array_namespace__()
    return _BY_NAMESPACE.setdefault(xp.__name__, StandardBackend(xp))
