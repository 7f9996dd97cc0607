"""What torch has of its own for the operations that every backend comes with, and where NumPy is faster on its memory."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import array_api_compat.torch as xp
import torch

from backdraw.operations import Array, Operations
from backdraw_backends.numpy import backend as on_numpy
from backdraw_backends.torch_by_numpy import LARGE, NUMPY, WORDS, by_numpy, free, many, numpy_wins, on_host, recorded, watched
from backdraw_backends.torch_noise import template


class TorchOperations(Operations):
    """Operations on tensors."""

    __slots__ = ()

    xp = xp

    def either(self, flag: Array, fast: Callable[..., Array], safe: Callable[..., Array], *arrays: Array) -> Array:
        """Look at the flag, unless torch.compile traces it or torch.func.vmap hides it."""
        if torch.compiler.is_compiling():
            return safe(*arrays)
        try:
            holds = bool(flag)
        except RuntimeError:
            holds = False
        return fast(*arrays) if holds else safe(*arrays)

    def inverse(self, x: Array) -> Array:
        """Without the check that raises."""
        return torch.linalg.inv_ex(x).inverse

    def rowwise(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """Run the body, by NumPy where that is faster."""
        if numpy_wins(arrays[0]) and free(arrays):
            return by_numpy(on_numpy.rowwise, body, *arrays, **static)
        return body(self, *arrays, **static)

    def add_to(self, fresh: Array, x: Array) -> Array:
        """Add in place where torch does not watch."""
        large = numpy_wins(fresh, rows=False) and free((fresh, x))
        return by_numpy(on_numpy.add_to, fresh, x) if large else fresh + self.cast(x, fresh.dtype)

    def row_max(self, x: Array) -> Array:
        """Torch's own kernel."""
        return torch.amax(x, -1, True)

    def sum_samples(self, x: Array) -> Array:
        """Torch's own kernel, which adds pairwise."""
        return torch.sum(x, 0)

    def row_sum(self, x: Array) -> Array:
        """Torch's own kernel."""
        return torch.sum(x, -1, True)

    def softmax(self, x: Array, temperature: float = 1.0) -> Array:
        """Torch's own kernel where its result is a number, the shifted form where it is not; NumPy's where faster."""
        if not on_host((x,)):
            return super().softmax(x, temperature)
        if many(x) and not recorded((x,)):
            return by_numpy(on_numpy.softmax, x, temperature=temperature)
        y = kernel_softmax(x, temperature)
        return super().softmax(x, temperature) if y is None else y

    def noisy_softmax(self, x: Array, noise: Array, temperature: float) -> Array:
        """Likewise."""
        if not on_host((x,)):
            return super().noisy_softmax(x, noise, temperature)
        if not many(x) or recorded((x, noise)):
            return self.softmax(x - noise.log(), temperature)
        return by_numpy(on_numpy.noisy_softmax, x, noise, temperature=temperature)

    def noisy_hardmax(self, x: Array, noise: Array, temperature: float) -> tuple[Array, Array]:
        """NumPy's where faster."""
        if numpy_wins(x) and free((x, noise)):
            return by_numpy(on_numpy.noisy_hardmax, x, noise, temperature=temperature)
        return super().noisy_hardmax(x, noise, temperature)

    def hardmax(self, x: Array) -> Array:
        """Torch's own kernels; NumPy's where faster."""
        if not free((x,)):
            return super().hardmax(x)
        if many(x, rows=False):
            return by_numpy(on_numpy.hardmax, x)
        top, index = x.max(-1, keepdim=True)  # the first of equals
        top = top - top  # a NaN where it is infinite
        return torch.zeros_like(x).scatter_(-1, index, 1.0) if top.equal(top) else super().hardmax(x)

    def softmax_vjp(self, y: Array, g: Array, temperature: float = 1.0) -> Array:
        """NumPy's where faster."""
        if numpy_wins(y) and free((y, g)):
            return by_numpy(on_numpy.softmax_vjp, y, g, temperature=temperature)
        return super().softmax_vjp(y, g, temperature)

    def is_floating(self, dtype: Any) -> bool:
        """Ask the dtype."""
        return dtype.is_floating_point

    def cast(self, x: Array, dtype: Any) -> Array:
        """Torch's own conversion; to ask first costs a tenth of it, where there is nothing to convert."""
        return x if x.dtype == dtype else x.to(dtype)

    def wide(self, dtype: Any) -> Any:
        """Ask for the size."""
        return dtype if dtype.itemsize >= 4 else torch.float32

    def lowest(self, x: Array) -> float:
        """Ask torch."""
        return torch.finfo(x.dtype).min

    def at_least(self, x: Array, bound: float) -> Array:
        """Torch's own kernel."""
        return torch.clamp_min(x, bound)

    def clip(self, x: Array, low: float, high: float) -> Array:
        """Torch's own kernel."""
        return torch.clamp(x, low, high)

    def sigmoid(self, x: Array, temperature: float = 1.0) -> Array:
        """Torch's own kernel."""
        return torch.sigmoid(x if temperature == 1.0 else x / temperature)

    def log_sigmoid(self, x: Array) -> Array:
        """Torch's own kernel."""
        return torch.nn.functional.logsigmoid(x)

    def cumsum(self, x: Array) -> Array:
        """Torch's own kernel."""
        return torch.cumsum(x, -1)

    def weights(self, x: Array) -> Array:
        """Return the softmax, by torch's own kernel."""
        return self.softmax(self.cast(x, self.wide(x.dtype)))

    def invert_cdf(self, weights: Array, uniform: Array) -> Array:
        """Search the running sums, by torch's own kernel."""
        extra = uniform.ndim - weights.ndim  # samples in front
        rows = weights.shape[:-1]
        if watched() or extra < 0 or uniform.shape[extra:-1] != rows:
            return super().invert_cdf(weights, uniform)
        edges = weights.cumsum(-1, dtype=torch.float64)
        aim = uniform * edges[..., -1:]
        if extra == 0:
            return torch.searchsorted(edges, aim, right=True)
        aim = aim.reshape(math.prod(uniform.shape[:extra]), *rows).movedim(0, -1).contiguous()
        return torch.searchsorted(edges, aim, right=True).movedim(-1, 0).reshape(uniform.shape)

    def one_hot(self, index: Array, n: int, dtype: Any) -> Array:
        """Set the ones among zeros."""
        if not on_host((index,)):
            return super().one_hot(index, n, dtype)
        if dtype in NUMPY and index.numel() * n >= LARGE:
            return by_numpy(on_numpy.one_hot, index, n=n, dtype=NUMPY[dtype])
        try:
            return torch.zeros_like(template((*index.shape[:-1], n), dtype)).scatter_(-1, index, 1.0)
        except RuntimeError:  # an index is n
            return super().one_hot(index, n, dtype)

    def top_k(self, x: Array, k: int) -> tuple[Array, Array]:
        """Torch's own kernel."""
        return tuple(torch.topk(x, k, -1))


def kernel_softmax(x: Array, temperature: float) -> Array | None:
    """Return torch's own softmax of rows, or None where it has a NaN."""
    y = torch.softmax(x if temperature == 1.0 else x / _scalar(temperature, x.dtype), -1)
    # Equal to itself, but for a NaN: a row of -inf alone, or finite logits too large to divide. It fills the whole row.
    seen = y if y.numel() < WORDS else y.detach()[..., 0]
    return y if seen.equal(seen) else None


@lru_cache(64)
def _scalar(x: float, dtype: Any) -> Array:
    """Return a number as a tensor, which torch would make of it anew in every operation."""
    with torch.inference_mode(False):
        return torch.tensor(x, dtype=dtype, device="cpu")
