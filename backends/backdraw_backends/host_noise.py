"""Noise in host memory, for NumPy and for torch on the CPU: random words and their transform, block by block.

Drawing the words is a small part of the cost; fresh memory and the logarithms are the large one. So words, uniforms
and temporaries live in blocks that stay in cache, and only the noise itself is written to fresh memory.
"""

import math
import numbers
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from backdraw.backend import Backend
from backdraw.errors import InvalidValueError
from backdraw.random import Key, words, wrong_rng
from backdraw.transforms import TRANSFORMS
from backdraw_backends.blocks import MANY, allowed_threads, run

# A source gives the words of one chunk: a function of (plane, start, stop), called in ascending order of start.
Words = Callable[[int, int, int], np.ndarray]
Source = Callable[[int, int], Words]

BLOCK = 1 << 17  # elements: worked on at a time
CHUNK = 1 << 18  # elements: a task, and one stream of words
_ROUND = 2**32 - 129  # the words above it round up to 2**32 in float32
FEW = 1 << 12  # elements: up to here a generator's own distributions are faster than words and logarithms


@cache
def _default() -> np.random.Generator:
    return np.random.default_rng()


def _forget_default() -> None:
    _default.cache_clear()  # or forked children would all draw the same


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_default)


def source(rng: Any, be: Backend) -> Source:
    """Return the stream of words that ``rng=`` names: a key, a seed, a NumPy generator, or the default one."""
    if isinstance(rng, Key):
        return key_source(rng)
    return generator_source(generator(rng, be))


def generator(rng: Any, be: Backend) -> np.random.Generator:
    """Return the NumPy generator that ``rng=`` names."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return _default()
    if isinstance(rng, numbers.Integral) and not isinstance(rng, bool):
        if rng < 0:
            raise InvalidValueError(f"rng: expected a seed of 0 or more, got {rng}")
        return np.random.default_rng(int(rng))
    if isinstance(rng, (np.random.SeedSequence, np.random.BitGenerator)):
        return np.random.default_rng(rng)
    raise wrong_rng(rng, be)


def generator_words(rng: Any, n: int, be: Backend) -> np.ndarray:
    """Words of the NumPy generator that ``rng=`` names."""
    return generator(rng, be).integers(0, 2**32, n, dtype=np.uint32)


def key_source(key: Key) -> Source:
    """Words of a portable key: element i of plane p is word ``p * n + i``."""

    def chunk(index: int, n: int) -> Words:  # noqa: ARG001
        return lambda plane, start, stop: words(key, plane * n + start, plane * n + stop)

    return chunk


def generator_source(rng: np.random.Generator) -> Source:
    """Words of a NumPy generator: its own for little noise, those of streams that it seeds for much."""
    seeded: list[Source] = []

    def chunk(index: int, n: int) -> Words:
        if n <= BLOCK:
            return lambda plane, start, stop: rng.integers(0, 2**32, stop - start, dtype=np.uint32)  # noqa: ARG005
        if not seeded:
            seeded.append(seeded_source(rng.integers(0, 2**32, 4, dtype=np.uint32).tolist()))
        return seeded[0](index, n)

    return chunk


def seeded_source(seed: list[int]) -> Source:
    """Words of SFC64 streams, one a chunk, which do not depend on the number of threads."""

    def chunk(index: int, n: int) -> Words:  # noqa: ARG001
        raw = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(index,))).random_raw
        return lambda plane, start, stop: raw((stop - start + 1) // 2).view(np.uint32)[: stop - start]  # noqa: ARG005

    return chunk


class _InPlace:
    """The functions of the transforms, on memory that is theirs: fresh memory costs more than a logarithm."""

    log = staticmethod(lambda x: np.log(x, out=x))
    log1p = staticmethod(lambda x: np.log1p(x, out=x))
    sqrt = staticmethod(lambda x: np.sqrt(x, out=x))
    cos = staticmethod(lambda x: np.cos(x, out=x))
    negative = staticmethod(lambda x: np.negative(x, out=x))
    where = staticmethod(np.where)


def noise(kind: str, source: Source, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Noise of `kind` as a fresh NumPy array of float32 or float64."""
    planes, transform = TRANSFORMS[kind]
    n = math.prod(shape)
    out = np.empty(n, dtype)
    source(0, n)  # seeds child streams here, once, and not on whichever thread comes first

    def task(index: int) -> None:
        words = source(index, n)
        end = min(n, (index + 1) * CHUNK)
        for start in range(index * CHUNK, end, BLOCK):
            block = out[start : min(end, start + BLOCK)]
            stop = start + block.size
            others = (np.empty_like(block) for _ in range(planes - 1))
            uniforms = [_uniform(words(p, start, stop), u) for p, u in enumerate((block, *others))]
            result = transform(_InPlace, *uniforms)
            if result is not block:
                block[...] = result

    run(task, -(-n // CHUNK), allowed_threads() if n >= MANY else 1)
    return out.reshape(shape)


def little_noise(kind: str, rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    """Noise in few calls, or None if there is no short way: for few elements, the calls are what it costs."""
    if kind not in ("exponential", "waiting", "gumbel", "logistic", "normal") or math.prod(shape) > FEW:
        return None
    if kind == "normal":
        return rng.standard_normal(shape, dtype)
    # Drawn in float64: NumPy's float32 exponentials are coarse near 0, where the largest Gumbels come from. Some are 0.
    e = rng.standard_exponential((2, *shape) if kind == "logistic" else shape).astype(dtype, copy=False)
    np.maximum(e, 2.0**-60, out=e)
    if kind == "logistic":
        odds = np.divide(e[0, ...], e[1, ...], e[0, ...])
        return np.log(odds, odds)
    return np.negative(np.log(e, e), e) if kind == "gumbel" else e


def _uniform(words: np.ndarray, out: np.ndarray) -> np.ndarray:
    # backdraw.transforms.uniform_of_words, in place
    out[...] = words
    out += 0.5
    out *= 2.0**-32
    if out.dtype == np.float32 and words.max(initial=0) > _ROUND:  # one block in 250: to look costs an eighth of the minimum
        np.minimum(out, np.float32(1.0 - 2.0**-24), out=out)
    return out
