"""How the benchmarks measure: in turns, in one process, and where."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

Pair = tuple[Callable[[], object], Callable[[], object]]


def side_by_side(ours: Callable[[], object], peer: Callable[[], object], seconds: float = 4.0) -> tuple[float, float, float]:
    """Median times of both, in turns, and the median of the ratio of neighbours."""
    for _ in range(3):  # compile, and warm up
        ours(), peer()
    once = _time(ours) + _time(peer)
    times = [(_time(ours), _time(peer)) for _ in range(max(5, min(2000, int(seconds / once))))]
    mine, other = zip(*times, strict=True)
    return statistics.median(mine), statistics.median(other), statistics.median(a / b for a, b in times)


def _time(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def compared(cases: dict[str, tuple[Callable[[], Pair], float]], seconds: float) -> str:
    """A table of ours over what a user would run, from what makes the two by its name, and the goal for the ratio."""
    lines = ["| case | ours, ms | peer, ms | ours / peer | goal |", "| --- | --- | --- | --- | --- |"]
    for name, (make, goal) in cases.items():
        mine, other, ratio = side_by_side(*make(), seconds)
        lines.append(f"| {name} | {mine * 1e3:.2f} | {other * 1e3:.2f} | {ratio:.3g} | {goal:.3g} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def machine() -> str:
    """The processor and the system, in words."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}"


def versions(*modules: str) -> str:
    """The versions of Python and of some modules."""
    found = (f"{name} {__import__(module).__version__}" for module, name in (m.split("=") for m in modules))
    return ", ".join([f"Python {platform.python_version()}", *found])
