"""NumPy: the tape, and loops over blocks of rows that stay in cache."""

from collections.abc import Callable
from functools import cache
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from backdraw.backend import Array
from backdraw.errors import InvalidTypeError
from backdraw.random import Key
from backdraw_backends import blocks, host_noise
from backdraw_backends.standard import StandardBackend
from backdraw_backends.tape import Tape, active_tapes
from backdraw_backends.traced import Traced, mark

_SHORT = 32  # elements of a row
_MANY = 1 << 12  # elements
_CHUNKED = 80  # weights: from here on a draw finds its chunk first
_SUMMED = 256  # entries: up to here running sums are products of matrices


@np.errstate(over="ignore")  # huge logits: a difference or quotient may overflow, to where a weight is 0
def _quietly(body: Callable[..., Array], *args: Any, **static: Any) -> Array:
    return body(*args, **static)


class _Rows:
    """Room for `n` arrays of one shape, made when the first of them comes."""

    def __init__(self, n: int) -> None:
        self.n, self.made = n, 0
        self.out: Any = None

    def __setitem__(self, i: int, y: np.ndarray) -> None:
        if self.out is None:
            self.out = np.empty((self.n, *y.shape), y.dtype)
        self.out[i, ...] = y
        self.made += 1


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
        if type(x) is Traced and x._tape is not None:
            x.check_thread()
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
            rng = host_noise.generator(rng, self)
            little = host_noise.little_noise(kind, rng, shape, dtype)
            if little is not None:
                return little
        return host_noise.noise(kind, host_noise.source(rng, self), shape, dtype)

    def collector(self, n: int) -> Any:
        """Return what puts every result where it stays: to stack them at the end copies all of them into fresh memory."""
        return _Rows(n)

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
        return _reduce_rows(np.maximum, x)

    def row_sum(self, x: Array) -> Array:
        """Sum along the last axis."""
        return _sum_rows(x)

    def first_argmax(self, x: Array) -> Array:
        """NumPy's own."""
        return x.argmax(axis=0)

    def softmax(self, x: Array, temperature: float = 1.0) -> Array:
        """Softmax of ``x / temperature``, in place on each block."""
        return self._filled(_softmax, None, temperature, x)

    def noisy_softmax(self, x: Array, noise: Array, temperature: float) -> Array:
        """Likewise, in the memory of the noise where it has rows."""
        noise = self.raw(noise)
        return self._filled(_noisy_softmax, noise if noise.flags.carray else None, temperature, x, noise)

    def softmax_vjp(self, y: Array, g: Array, temperature: float = 1.0) -> Array:
        """Pull a cotangent back, in place on each block."""
        if y.size < blocks.BLOCK:
            return _softmax_vjp(self, None, temperature, self.raw(y), self.raw(g))
        return self._filled(_softmax_vjp, None, temperature, y, g)

    def _filled(self, body: Callable[..., Array], out: np.ndarray | None, temperature: float, *arrays: Array) -> Array:
        plain = tuple([x if type(x) is np.ndarray else self.raw(x) for x in arrays])
        if plain[0].size < blocks.BLOCK:
            return _quietly(body, self, out, temperature, *plain)
        return blocks.fill_rows(lambda out, *parts: _quietly(body, self, out, temperature, *parts), out, plain)

    def hardmax(self, x: Array) -> Array:
        """Set the ones among zeros that are never written."""
        if x.size < blocks.MANY or x.shape[-1] < _SHORT:
            return self.rowwise(_hardmax, x)
        return self.one_hot(self.rowwise(_argmax, x), x.shape[-1], x.dtype)

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
        rows, columns = np.arange(index.size), index.reshape(-1)
        if columns.max(initial=0) == n:
            rows = np.flatnonzero(columns < n)
            columns = columns[rows]
        out.reshape(-1)[rows * n + columns] = 1
        return out

    def cumsum(self, x: Array) -> Array:
        """NumPy's own."""
        return np.add.accumulate(x, axis=-1)

    def sums_beyond(self, x: Array, *, after: bool = False) -> Array:
        """Multiply with zeros and ones, if the entries are few: a running sum takes several nanoseconds for each."""
        n = x.shape[-1]
        return x @ _ones_beyond(n, x.dtype, after) if n <= _SUMMED else super().sums_beyond(x, after=after)

    def weights(self, x: Array) -> Array:
        """In place: fresh memory costs more than the exponentials."""
        w = np.subtract(x, _top(self, x), dtype=self.wide(x.dtype))
        return np.exp(w, w)

    def invert_cdf(self, weights: Array, uniform: Array) -> Array:
        """Sum by chunks, and search one chunk: a running sum costs more than all else in a draw."""
        n, weights = weights.shape[-1], weights.astype(np.float64, copy=False)
        if n < _CHUNKED or weights.shape[:-1] != uniform.shape[:-1]:
            edges = np.add.accumulate(weights, axis=-1)
            return np.add.reduce(edges <= uniform * edges[..., -1:], axis=-1, dtype=np.intp, keepdims=True)
        flat, rows, size = weights.reshape(-1, n), np.arange(weights.size // n), 1 << n.bit_length() // 2
        edges = np.add.accumulate(_chunk_sums(flat, size), axis=-1)
        total = edges[:, -1]
        aim = uniform.reshape(-1) * total
        chunk = np.minimum(np.add.reduce(edges <= aim[:, np.newaxis], axis=-1, dtype=np.intp), edges.shape[-1] - 1)
        aim -= np.where(chunk > 0, edges[rows, chunk - 1], 0.0)
        first = chunk * size
        columns = np.minimum(first[:, np.newaxis] + np.arange(size), n - 1)
        inside = np.add.accumulate(flat[rows[:, np.newaxis], columns], axis=-1)
        # Sums in another order differ in the last bits: none of them may lead out of the chunk.
        aim = np.minimum(aim, np.nextafter(inside[rows, np.minimum(size, n - first) - 1], 0.0))
        index = first + np.add.reduce(inside <= aim[:, np.newaxis], axis=-1, dtype=np.intp)
        return np.where(total == 0.0, n, index).reshape(uniform.shape)

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
def _ones(n: int, dtype: Any) -> np.ndarray:
    return np.ones((n, 1), dtype)


@cache
def _ones_beyond(n: int, dtype: Any, after: bool) -> np.ndarray:
    ones = np.triu(np.ones((n, n), dtype), 1)
    return np.ascontiguousarray(ones.T) if after else ones


def _reduce_rows(ufunc: np.ufunc, x: np.ndarray, initial: float | None = None) -> np.ndarray:
    # NumPy reduces row by row, at tens of nanoseconds each: for short rows it is faster to combine the columns.
    n = x.shape[-1]
    given: dict[str, Any] = {} if initial is None else {"initial": initial}
    if n >= _SHORT or not x.size:
        return ufunc.reduce(x, -1, keepdims=True, **given)
    if x.size < _MANY:
        return ufunc.reduce(x.reshape(-1, n).T.copy(), 0, **given).reshape((*x.shape[:-1], 1))
    out = x[..., 0].copy() if initial is None else ufunc(x[..., 0], initial)
    for k in range(1, n):
        ufunc(out, x[..., k], out=out)
    return out[..., np.newaxis]


def _chunk_sums(x: np.ndarray, size: int) -> np.ndarray:
    whole = x.shape[-1] // size * size  # einsum sums short rows in half the time of a reduction
    sums = np.einsum("rcs->rc", x[:, :whole].reshape(len(x), -1, size))
    return sums if whole == x.shape[-1] else np.hstack([sums, np.einsum("rs->r", x[:, whole:])[:, np.newaxis]])


def _sum_rows(x: np.ndarray) -> np.ndarray:
    if x.size < _MANY and x.dtype.char in "fd":  # a quarter of a reduction's cost; a large one would start threads of its own
        return x.dot(_ones(x.shape[-1], x.dtype))
    return _reduce_rows(np.add, x)


def _hardmax(be: NumPyBackend, x: np.ndarray) -> np.ndarray:  # noqa: ARG001
    n = x.shape[-1]
    if n < _SHORT and x.size >= _MANY:  # argmax takes its time for each row
        top = _reduce_rows(np.maximum, x)
        hits = x == top
        if np.isfinite(top).all() and np.count_nonzero(hits) == top.size:  # one in every row
            return hits.astype(x.dtype)
    places = x.argmax(-1).reshape(-1)
    places += n * np.arange(places.size)
    out = np.zeros(x.shape, x.dtype)
    out.reshape(-1)[places] = x.reshape(-1)[places] != -np.inf
    return out


def _argmax(be: NumPyBackend, x: np.ndarray) -> np.ndarray:  # noqa: ARG001
    index = x.argmax(-1, keepdims=True)
    return np.where(np.take_along_axis(x, index, -1) == -np.inf, x.shape[-1], index)


def _softmax(be: NumPyBackend, out: np.ndarray | None, temperature: float, x: np.ndarray) -> np.ndarray:
    return _shifted_softmax(np.subtract(x, _top(be, x), out), temperature)


def _noisy_softmax(
    be: NumPyBackend, out: np.ndarray | None, temperature: float, x: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    z = np.add(x, noise, out)
    z -= _top(be, z)
    return _shifted_softmax(z, temperature)


def _top(be: NumPyBackend, x: np.ndarray) -> np.ndarray:
    return _reduce_rows(np.maximum, x, be.lowest(x))


def _shifted_softmax(z: np.ndarray, temperature: float) -> np.ndarray:
    # backdraw.backend._softmax, in place
    if temperature != 1.0:
        z /= temperature
    np.exp(z, z)
    z /= np.maximum(_sum_rows(z), 0.5)
    return z


def _softmax_vjp(
    be: NumPyBackend,  # noqa: ARG001
    out: np.ndarray | None,
    temperature: float,
    y: np.ndarray,
    g: np.ndarray,
) -> np.ndarray:
    few = y.size < _MANY or y.shape[-1] < _SHORT // 2
    back = np.subtract(g, _sum_rows(y * g) if few else np.vecdot(y, g)[..., np.newaxis], out)
    back *= y
    if temperature != 1.0:
        back /= temperature
    return back


backend = NumPyBackend()
