"""Rows of NumPy arrays: reductions, softmaxes and draws, in few calls where they are small, in place where they are large."""

from functools import cache
from typing import Any

import numpy as np

from backdraw.backend import Backend

SHORT = 32  # elements of a row
_MANY = 1 << 12  # elements
_CHUNKED = 80  # weights: from here on a draw finds its chunk first


class Collector:
    """Room for `n` arrays of one shape, made when the first of them comes."""

    def __init__(self, n: int) -> None:
        self.n, self.made = n, 0
        self.out: Any = None

    def __setitem__(self, i: int, y: np.ndarray) -> None:
        if self.out is None:
            self.out = np.empty((self.n, *y.shape), y.dtype)
        self.out[i, ...] = y
        self.made += 1


@cache
def _ones(n: int, dtype: Any) -> np.ndarray:
    return np.ones((n, 1), dtype)


def reduce_rows(ufunc: np.ufunc, x: np.ndarray, initial: float | None = None) -> np.ndarray:
    """Reduce along the last axis, which is kept with size 1."""
    # NumPy reduces row by row, at tens of nanoseconds each: for short rows it is faster to combine the columns.
    n = x.shape[-1]
    given: dict[str, Any] = {} if initial is None else {"initial": initial}
    if n >= SHORT or not x.size:
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


def sum_rows(x: np.ndarray) -> np.ndarray:
    """Sum of floats along the last axis, which is kept with size 1."""
    if x.size < _MANY and x.dtype.char in "fd":  # a quarter of a reduction's cost; a large one would start threads of its own
        return x.dot(_ones(x.shape[-1], x.dtype))
    return reduce_rows(np.add, x)


def mark_largest(out: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Set ones among the zeros of `out`, at the largest entry of each row unless that is -inf; return these entries."""
    n = x.shape[-1]
    if n < SHORT and x.size >= _MANY:  # argmax takes its time for each row
        largest = reduce_rows(np.maximum, x)
        hits = x == largest
        if np.isfinite(largest).all() and np.count_nonzero(hits) == largest.size:  # one in every row
            out[...] = hits
            return largest
    places = x.argmax(-1).reshape(-1)
    places += n * np.arange(places.size)
    largest = x.reshape(-1)[places]
    out.reshape(-1)[places] = largest != -np.inf
    return largest.reshape(*x.shape[:-1], 1)


@np.errstate(over="ignore")  # huge logits: a difference or quotient may overflow, to where a weight is 0
def softmax(be: Backend, out: np.ndarray | None, temperature: float, x: np.ndarray) -> np.ndarray:
    """Set `out`, or fresh memory, to the softmax of ``x / temperature``."""
    return _shifted_softmax(np.subtract(x, top(be, x), out), temperature)


@np.errstate(over="ignore")
def noisy_softmax(be: Backend, out: np.ndarray | None, temperature: float, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Set `out`, or fresh memory, to the softmax of ``(x - log(noise)) / temperature``."""
    z = np.log(noise, out)
    np.subtract(x, z, z)
    z -= top(be, z)
    return _shifted_softmax(z, temperature)


@np.errstate(over="ignore")
def noisy_hardmax(
    be: Backend,
    out: np.ndarray | None,
    temperature: float,
    x: np.ndarray,
    noise: np.ndarray,
    hard: np.ndarray,
) -> np.ndarray:
    """Do as `noisy_softmax`, and set ones in `hard`, zeros, at what is largest."""
    z = np.log(noise, out)
    np.subtract(x, z, z)
    z -= np.maximum(mark_largest(hard, z), be.lowest(z))
    return _shifted_softmax(z, temperature)


def top(be: Backend, x: np.ndarray) -> np.ndarray:
    """Return the largest entry of each row, and the lowest number in a row of -inf alone."""
    return reduce_rows(np.maximum, x, be.lowest(x))


def _shifted_softmax(z: np.ndarray, temperature: float) -> np.ndarray:
    # backdraw.operations._softmax, in place
    if temperature != 1.0:
        z /= temperature
    np.exp(z, z)
    z /= np.maximum(sum_rows(z), 0.5)
    return z


def softmax_vjp(
    be: Backend,  # noqa: ARG001
    out: np.ndarray | None,
    temperature: float,
    y: np.ndarray,
    g: np.ndarray,
) -> np.ndarray:
    """Set `out`, or fresh memory, to the cotangent g of a softmax y, pulled back."""
    few = y.size < _MANY or y.shape[-1] < SHORT // 2
    back = np.subtract(g, sum_rows(y * g) if few else np.vecdot(y, g)[..., np.newaxis], out)
    back *= y
    if temperature != 1.0:
        back /= temperature
    return back


def invert_cdf(weights: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Sum by chunks, and search one chunk: a running sum costs more than all else in a draw."""
    n, weights = weights.shape[-1], weights.astype(np.float64, copy=False)
    if n < _CHUNKED or weights.shape[:-1] != uniform.shape[:-1]:
        edges = np.add.accumulate(weights, axis=-1)
        return n - np.add.reduce(edges > uniform * edges[..., -1:], axis=-1, dtype=np.intp, keepdims=True)
    flat, places, size = weights.reshape(-1, n), np.arange(weights.size // n), 1 << n.bit_length() // 2
    edges = np.add.accumulate(_chunk_sums(flat, size), axis=-1)
    total = edges[:, -1]
    aim = uniform.reshape(-1) * total
    chunk = np.minimum(np.add.reduce(edges <= aim[:, np.newaxis], axis=-1, dtype=np.intp), edges.shape[-1] - 1)
    aim -= np.where(chunk > 0, edges[places, chunk - 1], 0.0)
    first = chunk * size
    columns = np.minimum(first[:, np.newaxis] + np.arange(size), n - 1)
    inside = np.add.accumulate(flat[places[:, np.newaxis], columns], axis=-1)
    # Sums in another order differ in the last bits: none of them may lead out of the chunk.
    aim = np.minimum(aim, np.nextafter(inside[places, np.minimum(size, n - first) - 1], 0.0))
    index = first + np.add.reduce(inside <= aim[:, np.newaxis], axis=-1, dtype=np.intp)
    return np.where(total > 0.0, index, n).reshape(uniform.shape)
