"""Noise for torch, of its generators or of a key."""

import math
import numbers
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._C import _is_tracing as is_tracing
from torch.compiler import is_dynamo_compiling, is_exporting

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.errors import InvalidValueError
from backdraw.random import Key, wrong_rng
from backdraw.threefry import MASK, threefry2x32
from backdraw.transforms import TRANSFORMS, uniform_of_words
from backdraw_backends import host_noise
from backdraw_backends.torch_by_numpy import WORDS, by_numpy, traced

# A quarter of what torch's uniforms are multiples of: as their bound it takes 0 out, and rounds nothing up to 1.
_LEAST = 2.0**-55
# The number next to -1: it and all up to 0, which torch's uniforms never reach, have a finite log1p.
_LOWEST = {torch.float32: 2.0**-24 - 1.0, torch.float64: 2.0**-53 - 1.0}
_FILLED = {torch.uint32: (0, 1 << 32), torch.int32: (-(1 << 31), 1 << 31), torch.int64: (-(1 << 63), (1 << 63) - 1)}
_CPU = torch.device("cpu")  # to compare with it costs nothing; the type is a string that torch makes anew each time


def noise(be: Backend, kind: str, rng: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> Array:
    """Noise of `kind`, from torch's generators or a key."""
    planes, transform = TRANSFORMS[kind]
    n = math.prod(shape)
    eager = (device == _CPU or device.type == "cpu") and not traced()
    if isinstance(rng, Key):
        if eager and isinstance(rng.high, int):
            return _on_host(kind, host_noise.key_source(rng), shape, dtype)
        found = words(be, rng, planes * n, device).reshape(planes, *shape)
        return transform(torch, *uniform_of_words(be, found, dtype).unbind())
    source = None if rng is None else generator(be, rng, device)
    if not eager or transforms_active():
        return transform(torch, *_traced_uniform(source, (planes, *shape), dtype, device).unbind())
    if n >= WORDS:
        return _on_host(kind, host_noise.seeded_source(_randint(source, (4,), device).tolist()), shape, dtype)
    return few(kind, source, shape, dtype)


def few(kind: str, source: torch.Generator | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """Noise for less than WORDS elements on the host, where torch watches nothing: what the calls cost counts."""
    planes, transform = TRANSFORMS[kind]
    if kind == "normal":
        return torch.randn(shape, generator=source, dtype=dtype, device=_CPU)
    wide = shape if planes == 1 else (planes, *shape)
    # Of float64 first, for torch's uniforms of float32 are multiples of 2**-24.
    u = _SCRATCH.of(wide) if dtype == torch.float32 else torch.empty_like(template(wide, dtype))
    if kind in ("exponential", "gumbel"):  # the least exponentials, and so the largest Gumbels, are of uniforms near 0
        u.uniform_(_LOWEST[dtype], 0.0, generator=source)
        e = (u.float() if dtype == torch.float32 else u).log1p_().neg_()
        return e if kind == "exponential" else e.log_().neg_()
    u.uniform_(_LEAST, 1.0 if dtype == torch.float64 else 1.0 - 2.0**-24, generator=source)
    return transform(torch, *(u.unbind() if planes > 1 else (u,))).to(dtype)


class _Scratch(threading.local):
    """Memory of one thread for numbers on the way to float32: new at every call, it costs nearly as much as they do."""

    def __init__(self) -> None:
        self.of = lru_cache(16)(_doubles)


def _doubles(shape: tuple[int, ...]) -> Array:
    with torch.inference_mode(False):
        return torch.empty_like(template(shape, torch.float64))


_SCRATCH = _Scratch()


@lru_cache(256)
def template(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a tensor of one element in memory; ones like it are made in half the time that parsing a shape takes."""
    with torch.inference_mode(False):
        return torch.empty((), dtype=dtype, device=_CPU).expand(shape)


def words(be: Backend, rng: Any, n: int, device: Any) -> Array:
    """Words of torch's generators or a key, in int64: torch has no arithmetic on uint32."""
    if isinstance(rng, Key):
        if isinstance(rng.high, int):
            return _key_words(torch.tensor([rng.high, rng.low], device=device), n)
        return _key_words(torch.stack([rng.high, rng.low]), n)
    return _randint(generator(be, rng, device), (n,), device)


def _randint(source: torch.Generator | None, shape: tuple[int, ...], device: Any, dtype: Any = torch.uint32) -> Array:
    """Numbers that fill a dtype, in int64 if that is uint32; the largest of int64 is out of `randint`'s reach."""
    low, high = _FILLED[dtype]
    # Traced sizes go with generator=None in no signature of randint: leave it out.
    given = {} if source is None else {"generator": source}
    return torch.randint(low, high, shape, dtype=torch.int32 if dtype == torch.int32 else torch.int64, device=device, **given)


def _traced_uniform(source: torch.Generator | None, shape: tuple[int, ...], dtype: Any, device: Any) -> Array:
    """Do as `uniform_of_words`, on words with a sign: a compiler's conversion of wider integers costs as much as all else."""
    n, k = math.prod(shape), shape[-1]
    # To compare a symbol is to compile for sizes on the same side alone: dynamo shows it as an int, and to torch.export even
    # the odd ones would be on another side than the even ones. torch.jit.trace cannot view in another dtype.
    free = not (is_dynamo_compiling() or transforms_active() or is_tracing()) and (type(k) is int or not is_exporting())
    if free and (type(n) is not int or n >= WORDS):
        # Two words of each number: a compiler makes every one anew, at the cost of four.
        words = _randint(source, (*shape[:-1], (k + 1) // 2), device, torch.int64).view(torch.int32)[..., :k]
    else:
        words = _randint(source, shape, device, torch.int32)
    u = (words.to(dtype) + 0.5) * 2.0**-32
    u = torch.where(u < 0, u + 1.0, u)
    return u if dtype == torch.float64 else torch.clamp_max(u, 1.0 - 2.0**-24)


def _on_host(kind: str, source: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    wide = np.float64 if dtype == torch.float64 else np.float32
    return by_numpy(host_noise.noise, kind, source, shape, wide)


def generator(be: Backend, rng: Any, device: Any) -> torch.Generator | None:
    """Return the generator that ``rng=`` names; None is torch's default."""
    if rng is None or isinstance(rng, torch.Generator):
        return rng
    if isinstance(rng, numbers.Integral) and not isinstance(rng, bool):
        seed = int(rng)
        if not 0 <= seed < 1 << 64:
            raise InvalidValueError(f"rng: expected a seed from 0 to 2**64 - 1, got {seed}")
        return torch.Generator(device).manual_seed(seed)
    raise wrong_rng(rng, be)


@torch.library.custom_op("backdraw::key_words", mutates_args=())
def _key_words(key: torch.Tensor, n: int) -> torch.Tensor:
    """Words of a key, opaque to torch.compile: inlined, 20 rounds of Threefry would grow as 2**20."""
    if key.device.type == "cpu":
        return torch.from_numpy(random.words(Key(*key.tolist()), 0, n).astype(np.int64))
    count = torch.arange(n, dtype=torch.int64, device=key.device)
    high, low = key.unbind()
    x0, x1 = threefry2x32(high, low, count >> 32, count & MASK, mask=MASK)
    return x0 ^ x1


@_key_words.register_fake
def _(key: torch.Tensor, n: int) -> torch.Tensor:
    return torch.empty(n, dtype=torch.int64, device=key.device)


@_key_words.register_vmap
def _(info: Any, in_dims: Any, key: torch.Tensor, n: int) -> tuple[torch.Tensor, int]:  # noqa: ARG001
    return torch.stack([_key_words(row, n) for row in key.unbind(in_dims[0])]), 0
