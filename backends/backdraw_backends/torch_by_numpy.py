"""NumPy on torch's memory: where its blocks of rows or its cheaper calls win, and torch watches no gradient."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._C import _is_tracing as is_tracing
from torch._C._functorch import is_legacy_batchedtensor as is_legacy_batched
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling
from torch.utils import _python_dispatch

from backdraw.backend import Array, Backend
from backdraw.primitive import Primitive
from backdraw_backends.blocks import limit_threads
from backdraw_backends.numpy import backend as on_numpy

_HOSTED = (torch.float32, torch.float64, torch.int64, torch.bool)  # dtypes that NumPy has too, and computes well in
_PLAIN = (torch.Tensor, torch.nn.Parameter)
WORDS = 1 << 13  # elements: from here on NumPy's generators pay for their seeding
_SHORT = 32  # elements of a row: in rows shorter than this its blocks win from WORDS elements on
LARGE = 1 << 20  # elements: from here on NumPy's blocks of rows, on torch's memory, beat torch's kernels
NUMPY = {torch.float32: np.dtype("float32"), torch.float64: np.dtype("float64")}


def numpy_wins(x: Array, *, rows: bool = True) -> bool:
    """Whether NumPy is faster, where torch lets it do the work."""
    return not watched() and many(x, rows=rows)


def many(x: Array, *, rows: bool = True) -> bool:
    """Whether there are enough elements for NumPy to be faster; fewer will do at `rows`, if these are short."""
    n = x.numel()
    return n >= WORDS and (n >= LARGE or (rows and x.shape[-1] < _SHORT))


def recorded(arrays: tuple[Array, ...]) -> bool:
    """Whether torch records a gradient for one of these."""
    if torch.is_grad_enabled():
        for x in arrays:
            if x is not None and x.requires_grad:
                return True
    return False


def watched() -> bool:
    """Whether torch traces or transforms what runs: compilers, torch.func, forward mode or a dispatch mode."""
    return (
        is_dynamo_compiling()
        or transforms_active()
        or forward_ad._current_level >= 0
        or _python_dispatch._is_in_torch_dispatch_mode
        or is_tracing()
    )


def traced() -> bool:
    """Whether torch.compile, torch.export, torch.jit.trace or another dispatch mode takes down what runs."""
    return is_dynamo_compiling() or _python_dispatch._is_in_torch_dispatch_mode or is_tracing()


def in_dual_level() -> bool:
    """Whether forward mode is on."""
    return forward_ad._current_level >= 0


def on_host(arrays: tuple[Array, ...]) -> bool:
    """Whether these are plain CPU tensors of a dtype that NumPy has."""
    if watched():  # first: there sizes may be symbols
        return False
    for x in arrays:  # a loop: all() of a generator costs twice as much, and this runs before every operation
        if x is None or x.dtype not in _HOSTED or not x.is_cpu or type(x) not in _PLAIN or is_legacy_batched(x):
            return False
    return True


def free(arrays: tuple[Array, ...]) -> bool:
    """Whether NumPy may compute instead: no gradient of torch's own is wanted."""
    return not recorded(arrays) and on_host(arrays)


def present(arrays: tuple[Array | None, ...]) -> tuple[Array, ...]:
    """Return those that are not None."""
    return tuple(x for x in arrays if x is not None)


def by_numpy(f: Callable[..., Array], *arguments: Any, **static: Any) -> Array:
    """Call a function of the NumPy backend on the same memory, on as many threads as torch is set to."""
    with limit_threads(torch.get_num_threads()):
        out = f(*[_memory(x) if isinstance(x, torch.Tensor) else x for x in arguments], **static)
    return tuple(map(torch.from_numpy, out)) if type(out) is tuple else torch.from_numpy(np.asarray(out))


def _memory(x: Array) -> np.ndarray:
    return x.detach().resolve_neg().numpy()


class ByNumPy(Primitive):
    """A primitive, by NumPy on torch's memory wherever no gradient of torch's own is wanted."""

    def __init__(self, primitive: Primitive) -> None:
        self.primitive, self.symmetric = primitive, primitive.symmetric

    def forward(self, be: Backend, *arrays: Array, **static: Any) -> tuple[Array, tuple[Any, ...]]:
        """Run it there, and find its arrays again among the residuals."""
        if not free(present(arrays)):
            return self.primitive.forward(be, *arrays, **static)
        out, residuals = _hosted(self.primitive.forward, *arrays, **static)
        # Torch does not know of memory that two arrays of NumPy share, and the user may write to the output.
        shared = any(x is not out and np.may_share_memory(_memory(out), _memory(x)) for x in present((*arrays, *residuals)))
        return out.clone() if shared else out, residuals

    def backward(self, be: Backend, residuals: tuple[Any, ...], cotangent: Array, **static: Any) -> tuple[Array | None, ...]:
        """Run it there."""
        if not free((*present(residuals), cotangent)):
            return self.primitive.backward(be, residuals, cotangent, **static)
        return tuple(_hosted(self.primitive.backward, residuals, cotangent, **static))


def _hosted(f: Callable[..., Any], *arguments: Any, **static: Any) -> Any:
    """Return ``f(on_numpy, ...)``, tensors and their dtypes being NumPy's on the way; a tensor comes back as itself."""
    # That tells where a residual is an argument, or the output.
    pairs: list[tuple[np.ndarray, torch.Tensor]] = []

    def down(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(down, x))
        if isinstance(x, torch.Tensor):
            pairs.append((_memory(x), x))
            return pairs[-1][0]
        return NUMPY[x] if isinstance(x, torch.dtype) else x

    def up(x: Any) -> Any:
        if x is None or isinstance(x, tuple):
            return x if x is None else tuple(map(up, x))
        for array, tensor in pairs:
            if array is x:
                return tensor
        pairs.append((x, torch.from_numpy(np.asarray(x))))
        return pairs[-1][1]

    with limit_threads(torch.get_num_threads()):
        out = f(on_numpy, *map(down, arguments), **{name: down(x) for name, x in static.items()})
    return up(out)
