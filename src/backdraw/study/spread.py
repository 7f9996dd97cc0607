"""Blocks of repeats computed by several processes, or by the machines of a Dask cluster."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from backdraw.errors import BackendError, InvalidValueError

ATTEMPTS = 3  # without a result between them


def over_processes(workers: int) -> Callable[[Callable[..., Any], Iterable[Any]], Iterator[Any]]:
    """Return what calls a function as ``map`` does, in `workers` processes of this machine.

    Parameters
    ----------
    workers : int
        How many; -1 is one for each core.

    Returns
    -------
    callable
        For ``spread=`` of `backdraw.study.measure`. What a process that died was to compute is computed again.

    Raises
    ------
    ValueError
        If `workers` is 0 or below -1.
    ImportError
        If joblib is not installed.
    """
    if workers < -1 or workers == 0:
        raise InvalidValueError(f"workers: expected 1 or more, or -1 for all cores, got {workers}")
    try:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError
    except ImportError as error:
        raise BackendError(f"workers: this needs joblib: {error}. Install it with: pip install 'backdraw[study]'") from error

    def spread(work: Callable[..., Any], jobs: Iterable[Any]) -> Iterator[Any]:
        left, failed = list(jobs), 0
        while left:
            done = 0
            try:
                for result in Parallel(n_jobs=workers, return_as="generator")(delayed(work)(job) for job in left):
                    done += 1
                    yield result
            except TerminatedWorkerError:
                failed = 0 if done else failed + 1
                if failed == ATTEMPTS:
                    raise
            left = left[done:]

    return spread


def over_cluster(address: str) -> Callable[[Callable[..., Any], Iterable[Any]], Iterator[Any]]:
    """Return what calls a function as ``map`` does, on a Dask cluster.

    Parameters
    ----------
    address : str
        The scheduler's, such as ``"tcp://127.0.0.1:8786"``.

    Returns
    -------
    callable
        For ``spread=`` of `backdraw.study.measure`, once. Dask gives the blocks of a worker that died to another.

    Raises
    ------
    ValueError
        If there is no scheduler at the address.
    ImportError
        If dask.distributed is not installed.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise BackendError(
            f"scheduler: this needs dask.distributed: {error}. Install it with: pip install 'backdraw[study]'"
        ) from error
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"scheduler: there is none at {address!r}: {error}") from None

    def spread(work: Callable[..., Any], jobs: Iterable[Any]) -> Iterator[Any]:
        # The function goes with every job: scattered, it would be lost if all workers died at once.
        futures = [client.submit(work, job, pure=False) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        finally:
            client.cancel(futures)
            client.close()

    return spread
