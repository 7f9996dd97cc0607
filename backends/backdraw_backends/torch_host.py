"""Functions on NumPy arrays, called from torch: eagerly, under torch.func and under torch.compile."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch._C import _are_functorch_transforms_active as transforms_active

_functions: dict[int, Callable[..., Any]] = {}
_indices = itertools.count()


def host(f: Callable[..., Any], arrays: list[torch.Tensor], shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Run ``f`` on NumPy arrays of the same values; the result has this shape and dtype, on the device of the first."""
    if torch.compiler.is_compiling():
        return _on_host(_keep(f), arrays, shape, dtype)
    if not transforms_active():
        return _run(f, arrays, shape, dtype)
    index = next(_indices)
    _functions[index] = f
    try:
        return _on_host(index, arrays, shape, dtype)
    finally:
        del _functions[index]


def _run(f: Callable[..., Any], arrays: Sequence[torch.Tensor], shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    out = np.asarray(f(*(x.cpu().resolve_neg().numpy() for x in arrays))).reshape(shape)
    return torch.from_numpy(np.array(out)).to(device=arrays[0].device, dtype=dtype)


def _keep(f: Callable[..., Any]) -> int:
    """Keep a function for the code now compiled, which will call it by its index."""
    _functions[index := next(_indices)] = f
    return index


_keep._dynamo_marked_constant = True  # type: ignore[attr-defined]  # to be run while tracing


@torch.library.custom_op("backdraw::host", mutates_args=())
def _on_host(index: int, arrays: Sequence[torch.Tensor], shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Run a function that is known by its index, opaque to torch's transformations."""
    return _run(_functions[index], arrays, shape, dtype)


@_on_host.register_fake
def _(index: int, arrays: Sequence[torch.Tensor], shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:  # noqa: ARG001
    return arrays[0].new_empty(shape, dtype=dtype)


@_on_host.register_vmap
def _(info: Any, in_dims: Any, index: int, arrays: Any, shape: Any, dtype: Any) -> tuple[torch.Tensor, int]:
    """Call once for every element."""
    batched = zip(arrays, in_dims[1], strict=True)
    each = zip(*([x] * info.batch_size if d is None else x.unbind(d) for x, d in batched), strict=True)
    return torch.stack([_on_host(index, list(some), shape, dtype) for some in each]), 0
