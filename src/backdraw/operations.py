"""Operations on arrays that the standard lacks, or that a library does better, written once in terms of the standard."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

_SUMMED = 256  # samples: so many are added up one after the other

Array = Any  # an array of whichever framework; the Array API has no common base class


class Operations:
    """What the estimators compute with, beside the namespace; an adapter replaces what its library does better.

    Attributes
    ----------
    xp : module
        The Array API namespace.
    fuses : bool
        Several operations make one pass over the memory, and both ways of `either` are compiled: two algorithms for one thing
        then cost more than they save.
    """

    # An instance that needs none has no dictionary, in which torch.compile would look for every method before every call.
    __slots__ = ()

    xp: Any
    fuses: bool = False
    if TYPE_CHECKING:

        def stop_gradient(self, x: Array) -> Array: ...  # noqa: D102

    def device(self, x: Array) -> Any:
        """Return the device of `x`, to be passed to creation functions; None leaves it to the framework."""
        return x.device

    def scan(
        self,
        f: Callable[[Any, Any], tuple[Any, Array]],
        init: Any,
        xs: Any,
        until: Callable[[Any], Array] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Any, Array]:
        """Loop ``carry, y = f(carry, x)`` over the first axis of `xs`; return the last carry and the stacked y, or None."""
        # xs is an array, or a tuple of arrays, and then x is a tuple too; so may y be. Once the bool `until` of a carry holds,
        # f changes nothing, and the loop may end: there are as many y as steps were made. In reverse the last x comes first;
        # its y is the last all the same.
        carry, n, y = init, (xs[0] if isinstance(xs, tuple) else xs).shape[0], None
        kept: list[Any] = []
        for i in range(n)[:: -1 if reverse else 1]:
            carry, y = f(carry, tuple(x[i, ...] for x in xs) if isinstance(xs, tuple) else xs[i, ...])
            if y is not None:
                parts = y if isinstance(y, tuple) else (y,)
                kept = kept or [self.collector(n) for _ in parts]
                for place, part in zip(kept, parts, strict=True):
                    place[i] = part
            if until is not None and self.either(until(carry), lambda: True, lambda: False):
                break
        every = tuple(self.stacked(place) for place in kept)
        return carry, every if isinstance(y, tuple) else every[0] if every else None

    def collector(self, n: int) -> Any:  # noqa: ARG002
        """Return what takes up to `n` results of `scan`, each set at its index."""
        return {}

    def stacked(self, ys: Any) -> Array:
        """Return what a collector took as one array, in the order of the indices."""
        return self.xp.stack([ys[i] for i in sorted(ys)])

    def either(self, flag: Array, fast: Callable[..., Array], safe: Callable[..., Array], *arrays: Array) -> Array:
        """``fast(*arrays)`` where a scalar of bool holds, else ``safe(*arrays)``, which is right in any case."""
        return (fast if bool(flag) else safe)(*arrays)

    def shortcut(self, flag: Array, fast: Callable[..., Array], safe: Callable[..., Array], *arrays: Array) -> Array:
        """`either`, or ``safe(*arrays)`` in any case where a second way costs more than it saves."""
        return safe(*arrays) if self.fuses else self.either(flag, fast, safe, *arrays)

    def moveaxis(self, x: Array, source: int, destination: int) -> Array:
        """Move an axis, in half the time of NumPy's moveaxis, and as torch.func.vmap can, which has no rule for torch's."""
        axes = list(range(x.ndim))
        axes.insert(destination % x.ndim, axes.pop(source))
        return self.xp.permute_dims(x, tuple(axes))

    def rowwise(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """``body(be, *arrays, **static)``, for a body that treats the rows along the last axis one by one."""
        return body(self, *arrays, **static)

    def program(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """`rowwise`, for a body of many steps: a function of a module, which may be compiled once and for all."""
        return self.rowwise(body, *arrays, **static)

    def add_to(self, fresh: Array, x: Array) -> Array:
        """``fresh + x``, where `fresh` has the wider dtype and belongs to nobody: its memory may be used."""
        return fresh + self.cast(x, fresh.dtype)

    def gather(self, x: Array, index: Array) -> Array:
        """``take_along_axis`` along the last axis; the axes in front are the same."""
        return self.xp.take_along_axis(x, index, axis=-1)

    def inverse(self, x: Array) -> Array:
        """Inverses of positive definite matrices; NaN or anything, but no error, where one is singular."""
        return self.xp.linalg.inv(x)

    def row_max(self, x: Array) -> Array:
        """Maximum along the last axis, which is kept with size 1."""
        return self.xp.max(x, axis=-1, keepdims=True)

    def row_sum(self, x: Array) -> Array:
        """Sum along the last axis, which is kept with size 1."""
        return self.xp.sum(x, axis=-1, keepdims=True)

    def argmax(self, x: Array, axis: int = -1) -> Array:
        """Index of the largest entry along an axis, the first of equals."""
        return self.xp.argmax(x, axis=axis)

    def sum_samples(self, x: Array) -> Array:
        """Sum of floats over the first axis."""
        # By blocks: NumPy adds row to row, and of a hundred thousand of them loses the third digit of a float32.
        xp, n = self.xp, x.shape[0]
        if n <= _SUMMED:
            return xp.sum(x, axis=0)
        whole = n // _SUMMED * _SUMMED
        total = self.sum_samples(xp.sum(xp.reshape(x[:whole, ...], (-1, _SUMMED, *x.shape[1:])), axis=1))
        return total if whole == n else total + xp.sum(x[whole:, ...], axis=0)

    def mean_samples(self, x: Array) -> Array:
        """Mean of floats over the first axis, computed in float32 or wider."""
        return self.cast(self.sum_samples(self.cast(x, self.wide(x.dtype))) / x.shape[0], x.dtype)

    def sum_of(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """`sum_samples` of ``body(be, *arrays, **static)``, for a body that treats the samples one by one."""
        return self.sum_samples(body(self, *arrays, **static))

    def softmax(self, x: Array, temperature: float = 1.0) -> Array:
        """Softmax of ``x / temperature`` along the last axis; a row of -inf alone gives zeros."""
        return self.rowwise(_softmax, x, temperature=temperature)

    def noisy_softmax(self, x: Array, noise: Array, temperature: float) -> Array:
        """`softmax` of ``x - log(noise)``, where the noise belongs to nobody: its memory may be used."""
        return self.rowwise(_noisy_softmax, x, noise, temperature=temperature)

    def noisy_hardmax(self, x: Array, noise: Array, temperature: float) -> tuple[Array, Array]:
        """Return the `hardmax` of ``x - log(noise)`` and its `softmax`, for which the memory of the noise may be used."""
        u = x - self.xp.log(noise)
        return self.hardmax(self.stop_gradient(u)), self.softmax(u, temperature)

    def softmax_vjp(self, y: Array, g: Array, temperature: float = 1.0) -> Array:
        """Pull a cotangent of ``y = softmax(x, temperature)`` back to x."""
        return self.rowwise(_softmax_vjp, y, g, temperature=temperature)

    def hardmax(self, x: Array) -> Array:
        """One-hot of the largest entry along the last axis, the first of equals; a row of -inf alone gives zeros."""
        return self.rowwise(_hardmax, x)

    def at_least(self, x: Array, bound: float) -> Array:
        """``maximum(x, bound)``, NaN where x is."""
        return self.xp.where(x < bound, bound, x)

    def clip(self, x: Array, low: float, high: float) -> Array:
        """``minimum(maximum(x, low), high)``, NaN where x is."""
        return self.xp.where(x < low, low, self.xp.where(x > high, high, x))

    def logsumexp(self, x: Array) -> Array:
        """``log(sum(exp(x)))`` along the last axis, which is kept with size 1; a row of -inf alone gives -inf."""
        xp = self.xp
        top = self.at_least(self.stop_gradient(self.row_max(x)), self.lowest(x))
        total = self.row_sum(xp.exp(x - top))
        live = total != 0  # a NaN lives on
        return xp.where(live, top + xp.log(xp.where(live, total, 1.0)), -xp.inf)

    def cumsum(self, x: Array) -> Array:
        """Cumulative sum along the last axis."""
        return self.xp.cumulative_sum(x, axis=-1)

    def sums_beyond(self, x: Array, *, after: bool = False) -> Array:
        """Sum of all entries before each one along the last axis, or of all after it."""
        if after:
            return self.xp.flip(self.sums_beyond(self.xp.flip(x, axis=-1)), axis=-1)
        return self.xp.concat([self.xp.zeros_like(x[..., :1]), self.cumsum(x)[..., :-1]], axis=-1)

    def weights(self, x: Array) -> Array:
        """``exp(x - max(x))`` along the last axis, or a multiple of it; a row of -inf alone gives zeros."""
        wide = self.cast(x, self.wide(x.dtype))
        return self.xp.exp(wide - self.at_least(self.row_max(wide), self.lowest(x)))

    def invert_cdf(self, weights: Array, uniform: Array) -> Array:
        """Index i, on an axis of size 1, with ``cumsum(weights)[i - 1] <= uniform * sum(weights) < cumsum(weights)[i]``."""
        # Sums in float64, whatever the weights; n where all n are 0, or one is NaN.
        edges = self.cumsum(self.cast(weights, self.xp.float64))
        return weights.shape[-1] - self.xp.count_nonzero(edges > uniform * edges[..., -1:], axis=-1, keepdims=True)

    def sigmoid(self, x: Array, temperature: float = 1.0) -> Array:
        """``1 / (1 + exp(-x / temperature))`` without overflow."""
        z = x if temperature == 1.0 else x / temperature
        e = self.xp.exp(-self.xp.abs(z))
        return self.xp.where(z >= 0, 1.0, e) / (1.0 + e)

    def log_sigmoid(self, x: Array) -> Array:
        """``log(sigmoid(x))`` without overflow."""
        return self.xp.where(x < 0, x, 0.0) - self.xp.log1p(self.xp.exp(-self.xp.abs(x)))

    def one_hot(self, index: Array, n: int, dtype: Any) -> Array:
        """Make a last axis of size 1 one of length `n` that is 1 at `index` and 0 elsewhere; an index of `n` gives zeros."""
        places = self.xp.arange(n, dtype=index.dtype, device=self.device(index))
        return self.xp.astype(index == self.xp.reshape(places, (*(1,) * (index.ndim - 1), n)), dtype)

    def top_k(self, x: Array, k: int) -> tuple[Array, Array]:
        """Return the `k` largest values along the last axis, in descending order, and their indices."""
        index = self.xp.argsort(x, axis=-1, descending=True, stable=True)[..., :k]
        return self.gather(x, index), index

    def is_floating(self, dtype: Any) -> bool:
        """Whether a dtype is one of real floating numbers."""
        return self.xp.isdtype(dtype, "real floating")

    def cast(self, x: Array, dtype: Any) -> Array:
        """`x` itself where it has the dtype, else a copy in it."""
        return x if x.dtype == dtype else self.xp.astype(x, dtype)

    def wide(self, dtype: Any) -> Any:
        """Return the dtype to compute in: float32 for the half-precision types, else `dtype` itself."""
        if dtype == self.xp.float32 or dtype == self.xp.float64:
            return dtype
        return self.xp.float32 if self.xp.finfo(dtype).bits < 32 else dtype

    def lowest(self, x: Array) -> float:
        """Return the most negative finite number of the dtype of `x`."""
        return max(float(self.xp.finfo(x.dtype).min), -sys.float_info.max)


def _softmax(be: Operations, x: Array, *, temperature: float) -> Array:
    # Shift before the division: finite logits, however large, then never meet inf - inf. The total is at least 1, the
    # largest entry's, and 0 only in a row of -inf alone.
    z = x - be.at_least(be.stop_gradient(be.row_max(x)), be.lowest(x))
    e = be.xp.exp(z if temperature == 1.0 else z / temperature)
    return e / be.at_least(be.row_sum(e), 0.5)


def _noisy_softmax(be: Operations, x: Array, noise: Array, *, temperature: float) -> Array:
    return be.softmax(x - be.xp.log(noise), temperature)


def _hardmax(be: Operations, x: Array) -> Array:
    xp, n = be.xp, x.shape[-1]
    index = xp.where(be.row_max(x) == -xp.inf, n, xp.argmax(x, axis=-1, keepdims=True))
    return be.one_hot(index, n, x.dtype)


def _softmax_vjp(be: Operations, y: Array, g: Array, *, temperature: float) -> Array:
    back = y * (g - be.row_sum(y * g))
    return back if temperature == 1.0 else back / temperature
