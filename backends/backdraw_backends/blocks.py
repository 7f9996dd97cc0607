"""Loops over blocks of host memory that stay in cache, on as many threads as the user allows."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

BLOCK = 1 << 16  # elements: a block and its temporaries fit in cache
WIDE = 1 << 18  # elements: the block of a thread among several, each of whose calls takes its turn with the others
MANY = 1 << 20  # elements: below it threads cost more than they save

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    global _pool  # a forked child inherits the pool without its threads
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


class _Limit(threading.local):
    threads: int | None = None


_limit = _Limit()


class limit_threads:  # noqa: N801  (a context manager; contextlib's costs more than the calls that it is wrapped around)
    """Use no more than so many threads inside: for a framework with a setting of its own."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> None:
        self.before, _limit.threads = _limit.threads, self.threads

    def __exit__(self, *error: object) -> None:
        _limit.threads = self.before


def allowed_threads() -> int:
    """Return the number of threads: the processors this process may use, and no more than OMP_NUM_THREADS."""
    if _limit.threads is not None:
        return _limit.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, min(cores, int(limit))) if limit.isdigit() else cores


def run(task: Callable[[int], None], count: int, threads: int) -> None:
    """Call ``task(i)`` for each i below `count`; the first error of a thread is raised here."""
    global _pool, _pool_size
    if threads <= 1 or count <= 1:
        for i in range(count):
            task(i)
        return
    if _pool is None or _pool_size < threads:
        _pool, _pool_size = ThreadPoolExecutor(threads, thread_name_prefix="backdraw"), threads
    workers = min(threads, count)

    def work(first: int) -> None:
        for i in range(first, count, workers):
            task(i)

    list(_pool.map(work, range(workers)))


def _steps(arrays: tuple[np.ndarray, ...]) -> tuple[tuple[np.ndarray, ...], int, int] | None:
    """Return arrays to be cut along their first axis, the length of a piece, and the threads; None where one piece will do."""
    first = arrays[0]
    lead = first.shape[:-1]
    if first.size < 2 * BLOCK or first.ndim < 2 or any(a.shape[:-1] != lead for a in arrays):
        return None
    if all(a.flags.c_contiguous for a in arrays):
        arrays = tuple(a.reshape(-1, a.shape[-1]) for a in arrays)
    threads = allowed_threads() if first.size >= MANY else 1
    size = BLOCK if threads == 1 else min(WIDE, -(-first.size // threads))
    if threads > 1:  # what takes three arrays has more temporaries, which the allocator then fetches and drops every time
        size //= max(1, sum(a.size for a in arrays) // first.size - 1)
    return arrays, max(1, size * arrays[0].shape[0] // first.size), threads


def map_rows(body: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Any:
    """``body(*arrays)`` for a body that treats the rows along the last axis one by one, block by block."""
    lead, found = arrays[0].shape[:-1], _steps(arrays)
    if found is None:
        return body(*arrays)
    arrays, step, threads = found
    n = arrays[0].shape[0]
    sample = body(*(a[:1] for a in arrays))  # says what the body returns: an array, or a tuple of them
    several = isinstance(sample, tuple)
    outs = [np.empty((n, *y.shape[1:]), y.dtype) for y in (sample if several else (sample,))]

    def task(i: int) -> None:
        here = slice(i * step, (i + 1) * step)
        found = body(*(a[here] for a in arrays))
        for out, y in zip(outs, found if several else (found,), strict=True):
            out[here] = y

    run(task, -(-n // step), threads)
    shaped = tuple(out.reshape(*lead, out.shape[-1]) for out in outs)
    return shaped if several else shaped[0]


def fill_rows(body: Callable[..., Any], out: np.ndarray | None, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """`map_rows` for a body that sets `out`, of the first array's shape, or fresh memory where that is None."""
    if out is None:
        out = np.empty(arrays[0].shape, np.result_type(*arrays))
    found = _steps((*arrays, out))
    if found is None:
        body(out, *arrays)
        return out
    (*pieces, target), step, threads = found

    def task(i: int) -> None:
        here = slice(i * step, (i + 1) * step)
        body(target[here], *(a[here] for a in pieces))

    run(task, -(-target.shape[0] // step), threads)
    return out


def sum_slices(body: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Any:
    """Sum what the body makes of blocks along the first axis; the blocks, and with them the sum, do not depend on threads."""
    first = arrays[0]
    step = max(1, BLOCK * len(first) // max(1, first.size))
    parts: list[Any] = [None] * -(-len(first) // step)

    def task(i: int) -> None:
        parts[i] = body(*(a[i * step : (i + 1) * step] for a in arrays))

    run(task, len(parts), allowed_threads() if first.size >= MANY else 1)
    return sum(parts[1:], parts[0])


def add_to(out: np.ndarray, x: np.ndarray) -> None:
    """``out += x``, on several threads where there is much of it; `out` is contiguous."""
    if out.size < MANY or not x.flags.c_contiguous:
        out += x
        return
    flat, other = out.reshape(-1), x.reshape(-1)

    def task(i: int) -> None:
        flat[i * WIDE : (i + 1) * WIDE] += other[i * WIDE : (i + 1) * WIDE]

    run(task, -(-out.size // WIDE), allowed_threads())
