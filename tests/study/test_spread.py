"""Blocks of repeats in several processes: the numbers are those of one, and a process that dies loses nothing."""

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from costs import black_box, doomed

import backdraw
from backdraw.errors import InvalidValueError
from backdraw.study import Report, measure
from backdraw.study.problems import PROBLEMS
from backdraw.study.spread import over_cluster, over_processes

pytestmark = pytest.mark.needs("numpy")
NAMES = ("rloo", "disarm", "unordered_set", "straight_through", "pathwise")


def run(spread: Any = map, make: Any = None) -> Report:
    """Measure on three bits."""
    f, p = make or PROBLEMS["shared-bernoulli"].make(np)
    return measure(f, p, NAMES, 350, rng=backdraw.key(2), spread=spread)


def numbers(report: Report) -> Any:
    """What a report says apart from the times."""
    return [(r.name, r.repeats, r.complete, r.bias, r.variance, r.error, r.cosine, r.z) for r in report.rows], report.left_out


def test_in_processes() -> None:
    pytest.importorskip("joblib")
    assert numbers(run(over_processes(2))) == numbers(run())


def test_a_failure_is_told_once() -> None:
    pytest.importorskip("joblib")
    made = black_box, backdraw.Bernoulli(np.zeros(3))
    found = run(over_processes(2), made)
    assert numbers(found) == numbers(run(make=made))
    assert [name for name, _ in found.left_out] == ["pathwise", "straight_through"]


@pytest.mark.filterwarnings("ignore:A worker stopped:UserWarning")
def test_a_process_that_dies_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    f = functools.partial(doomed, mark=tmp_path / "died", parent=os.getpid())
    found = run(over_processes(2), (f, PROBLEMS["shared-bernoulli"].make(np)[1]))
    assert (tmp_path / "died").exists()
    assert numbers(found) == numbers(run())


@pytest.mark.parametrize("workers", [1, 2])
def test_on_a_cluster_of_which_a_worker_dies(tmp_path: Path, workers: int) -> None:
    distributed = pytest.importorskip("distributed")
    f = functools.partial(doomed, mark=tmp_path / "died", parent=os.getpid())
    with distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
        found = run(over_cluster(cluster.scheduler_address), (f, PROBLEMS["shared-bernoulli"].make(np)[1]))
    assert (tmp_path / "died").exists()
    assert numbers(found) == numbers(run())


def test_any_order_of_computation() -> None:
    def backwards(work: Any, jobs: Iterable[Any]) -> Iterator[Any]:
        return iter([work(job) for job in list(jobs)[::-1]][::-1])

    assert numbers(run(backwards)) == numbers(run())


@pytest.mark.parametrize("workers", [0, -2])
def test_bad_workers(workers: int) -> None:
    with pytest.raises(InvalidValueError, match="workers: expected 1 or more, or -1 for all cores, got"):
        over_processes(workers)


def test_no_scheduler() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(InvalidValueError, match=r"scheduler: there is none at 'nonsense:"):
        over_cluster("nonsense://127.0.0.1:1")
