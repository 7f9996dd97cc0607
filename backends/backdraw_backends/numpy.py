"""NumPy: the tape, and loops over blocks of rows that stay in cache."""

from collections.abc import Callable
from functools import cache
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from backdraw.backend import Array
from backdraw.errors import InvalidTypeError
from backdraw.random import Key
from backdraw_backends import blocks, host_noise, rows
from backdraw_backends.standard import StandardBackend
from backdraw_backends.tape import Tape, active_tapes
from backdraw_backends.traced import Traced, mark

_FEW_ENTRIES = 256  # up to here running sums are products of matrices


@np.errstate(over="ignore")  # huge logits: a difference or quotient may overflow, to where a weight is 0
def _quietly(body: Callable[..., Array], *args: Any, **static: Any) -> Array:
    return body(*args, **static)


class NumPyBackend(StandardBackend):
    """NumPy arrays; small ones in one go, large ones by blocks of rows on several threads."""

    name = "numpy"

    def __init__(self) -> None:
        self.xp = xp
        known: list[np.dtype[Any]] = [np.dtype(t) for t in (np.float16, np.float32, np.float64)]
        self._lowest = {t: float(np.finfo(t).min) for t in known}
        self._wide = {t: max(t, np.dtype(np.float32)) for t in known}

    def array_types(self) -> tuple[type, ...]:
        """Return the array types known beforehand."""
        return (np.ndarray, Traced)

    def owns(self, x: object) -> bool:
        """Whether `x` is a NumPy array or scalar."""
        if type(x) is np.ndarray or type(x) is Traced:
            return True
        if isinstance(x, np.ma.MaskedArray):
            raise InvalidTypeError("expected an array without a mask, got a masked one; take where= of the distribution")
        return isinstance(x, (np.ndarray, np.generic))

    def raw(self, x: Array) -> Array:
        """Return a plain ndarray."""
        if type(x) is np.ndarray or x is None:
            return x
        if type(x) is Traced and x._tape is not None and x._tape.open and x._tape not in active_tapes():
            x.refuse_thread()
        return np.asarray(x)

    def track(self, x: Array, tape: Tape) -> Array:
        """Return a read-only view that carries the mark of the tape."""
        if x is None:
            return None
        view = x.view(Traced) if isinstance(x, np.ndarray) else np.asarray(x).view(Traced)
        view.setflags(write=False)
        view._tape = tape
        return view

    def broken(self, x: Array, tape: Tape) -> str | None:
        """Return the NumPy operation that derived `x` from an array of this tape."""
        return x._origin if isinstance(x, Traced) and x._tape is tape else None

    def taint(self, x: Array, tape: Tape, origin: str) -> Array:
        """Mark `x` as derived outside the tape."""
        return mark(x, tape, origin)

    def stop_gradient(self, x: Array) -> Array:
        """Return a plain view: no mark, and unknown to every tape."""
        return self.raw(x)[...] if isinstance(x, Traced) or active_tapes() else x

    def device(self, x: Array) -> Any:  # noqa: ARG002
        """Return NumPy's only device."""
        return "cpu"

    def noise(self, kind: str, rng: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> Array:  # noqa: ARG002
        """Noise from NumPy's generators or a key."""
        if not isinstance(rng, Key):
            if not isinstance(rng, np.random.Generator):
                rng = host_noise.generator(rng, self)
            little = host_noise.little_noise(kind, rng, shape, dtype)
            if little is not None:
                return little
        return host_noise.noise(kind, host_noise.source(rng, self), shape, dtype)

    def collector(self, n: int) -> Any:
        """Return what puts every result where it stays: to stack them at the end copies all of them into fresh memory."""
        return rows.Collector(n)

    def stacked(self, ys: Any) -> Array:
        """Return the rows that were filled: all, or the first, as only a loop from the front may end early."""
        return ys.out[: ys.made, ...]

    def constant(self, x: np.ndarray, like: Array) -> Array:
        """Return the array itself where it has the dtype."""
        return x.astype(like.dtype, copy=False) if x.dtype.kind == "f" else x

    def rowwise(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """Run the body on blocks of rows."""
        plain = tuple(x if type(x) is np.ndarray else self.raw(x) for x in arrays)
        if plain[0].size < blocks.BLOCK:
            out = _quietly(body, self, *plain, **static)
        else:
            out = blocks.map_rows(lambda *parts: _quietly(body, self, *parts, **static), plain)
        return out if isinstance(out, (np.ndarray, tuple)) else np.asarray(out)

    def sum_of(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """Sum block by block: what is summed is never all in memory."""
        plain = tuple(map(self.raw, arrays))
        return blocks.sum_slices(lambda *parts: self.sum_samples(_quietly(body, self, *parts, **static)), plain)

    def add_to(self, fresh: Array, x: Array) -> Array:
        """Add in place, by blocks of any shape."""
        blocks.add_to(fresh, self.raw(x))
        return fresh

    def gather(self, x: Array, index: Array) -> Array:
        """Take from the flat array: take_along_axis spends 15 microseconds on its arguments."""
        if x.ndim == 1:
            return x.take(index)
        first = x.shape[-1] * np.arange(x.size // x.shape[-1])
        return x.reshape(-1).take(index + first.reshape((*x.shape[:-1], 1)))

    def row_max(self, x: Array) -> Array:
        """Maximum along the last axis."""
        return rows.reduce_rows(np.maximum, x)

    def row_sum(self, x: Array) -> Array:
        """Sum along the last axis."""
        return rows.sum_rows(x)

    def softmax(self, x: Array, temperature: float = 1.0) -> Array:
        """Softmax of ``x / temperature``, in place on each block."""
        return self._filled(rows.softmax, None, temperature, x)

    def noisy_softmax(self, x: Array, noise: Array, temperature: float) -> Array:
        """Likewise, in the memory of the noise where it has rows."""
        noise = self.raw(noise)
        out = noise if noise.flags.carray else None
        if noise.size < blocks.BLOCK:
            return rows.noisy_softmax(self, out, temperature, self.raw(x), noise)
        return self._filled(rows.noisy_softmax, out, temperature, x, noise)

    def noisy_hardmax(self, x: Array, noise: Array, temperature: float) -> tuple[Array, Array]:
        """Both in one pass; the softmax likewise."""
        noise = self.raw(noise)
        hard = np.zeros(noise.shape, noise.dtype)
        soft = self._filled(rows.noisy_hardmax, noise if noise.flags.carray else None, temperature, x, noise, hard)
        return hard, soft

    def softmax_vjp(self, y: Array, g: Array, temperature: float = 1.0) -> Array:
        """Pull a cotangent back, in place on each block."""
        if y.size < blocks.BLOCK:
            return rows.softmax_vjp(self, None, temperature, self.raw(y), self.raw(g))
        return self._filled(rows.softmax_vjp, None, temperature, y, g)

    def _filled(self, body: Callable[..., Array], out: np.ndarray | None, temperature: float, *arrays: Array) -> Array:
        plain = tuple([x if type(x) is np.ndarray else self.raw(x) for x in arrays])
        if plain[0].size < blocks.BLOCK:
            return body(self, out, temperature, *plain)
        return blocks.fill_rows(lambda out, *parts: body(self, out, temperature, *parts), out, plain)

    def hardmax(self, x: Array) -> Array:
        """Set the ones among zeros that are never written."""
        x = self.raw(x)
        out = np.zeros(x.shape, x.dtype)
        if x.size < blocks.BLOCK:
            rows.mark_largest(out, x)
            return out
        return blocks.fill_rows(rows.mark_largest, out, (x,))

    def is_floating(self, dtype: Any) -> bool:
        """Look at the kind."""
        return dtype.kind == "f"

    def at_least(self, x: Array, bound: float) -> Array:
        """NumPy's maximum."""
        return np.maximum(x, bound)

    def clip(self, x: Array, low: float, high: float) -> Array:
        """Both bounds by ufuncs: numpy.clip, and that of array_api_compat even more, costs many times as much."""
        y = np.maximum(x, low)
        return np.minimum(y, high, out=y) if isinstance(y, np.ndarray) else np.minimum(y, high)

    @np.errstate(over="ignore")
    def sigmoid(self, x: Array, temperature: float = 1.0) -> Array:
        """Do as the base class; a quotient may overflow, to where the sigmoid is 0 or 1."""
        return super().sigmoid(x, temperature)

    def one_hot(self, index: Array, n: int, dtype: Any) -> Array:
        """Compare where that is little; else set the ones among zeros that are never written."""
        if index.size * n < 1 << 12:
            return np.equal(index, np.arange(n)).astype(dtype)
        out = np.zeros((*index.shape[:-1], n), dtype)
        at, columns = np.arange(index.size), index.reshape(-1)
        if columns.max(initial=0) == n:
            at = np.flatnonzero(columns < n)
            columns = columns[at]
        out.reshape(-1)[at * n + columns] = 1
        return out

    def cumsum(self, x: Array) -> Array:
        """NumPy's own."""
        return np.add.accumulate(x, axis=-1)

    def sums_beyond(self, x: Array, *, after: bool = False) -> Array:
        """Multiply with zeros and ones, if the entries are few: a running sum takes several nanoseconds for each."""
        n = x.shape[-1]
        return x @ _ones_beyond(n, x.dtype, after) if n <= _FEW_ENTRIES else super().sums_beyond(x, after=after)

    def weights(self, x: Array) -> Array:
        """In place: fresh memory costs more than the exponentials."""
        w = np.subtract(x, rows.top(self, x), dtype=self.wide(x.dtype))
        return np.exp(w, w)

    def invert_cdf(self, weights: Array, uniform: Array) -> Array:
        """Sum by chunks, and search one chunk."""
        return rows.invert_cdf(weights, uniform)

    def host(self, f: Callable[..., Any], *arrays: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Call ``f``: the arrays are on the host already."""
        return np.asarray(f(*(self.raw(x) for x in arrays))).reshape(shape).astype(dtype, copy=False)

    def wide(self, dtype: Any) -> Any:
        """Look the dtype up."""
        return self._wide.get(dtype) or super().wide(dtype.newbyteorder("="))

    def lowest(self, x: Array) -> float:
        """Look the number up: numpy.finfo costs a microsecond."""
        return self._lowest.get(x.dtype) or super().lowest(x)


@cache
def _ones_beyond(n: int, dtype: Any, after: bool) -> np.ndarray:
    ones = np.triu(np.ones((n, n), dtype), 1)
    return np.ascontiguousarray(ones.T) if after else ones


backend = NumPyBackend()
