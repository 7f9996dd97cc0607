"""Gumbel-softmax beside its peers, interleaved in one process: ``nox -s bench`` prints the table and writes it to docs/."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cases
import pytest
from timing import machine, side_by_side, versions

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
GOALS = {  # ours over the peer's, by shape
    "torch_soft": (1.0, 0.30, 0.25),
    "torch_hard": (1.0, 0.30, 0.20),
    "torch_compiled": (1.0, 1.0, 1.0),
    "jax_jit": (1.05, 1.05, 1.0),
    "numpy_soft": (1.5, 0.40, 0.10),
}
Row = tuple[str, tuple[int, ...], float, float, float]


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """Collect the rows; at the end print them, and write them where all were measured."""
    found: list[Row] = []
    yield found
    text = table(found)
    print("\n\n" + text)
    if len(found) == len(cases.CASES) * len(cases.SHAPES):
        PAGE.write_text(page(text), encoding="utf-8")


@pytest.mark.parametrize("shape", cases.SHAPES, ids=str)
@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
def test_gumbel_softmax(case: Callable[..., Any], shape: tuple[int, ...], rows: list[Row], benchmark: Any) -> None:
    ours, peer = case(shape)
    row = (case.__name__, shape, *side_by_side(ours, peer))
    rows.append(row)
    benchmark.extra_info["ratio"] = row[-1]
    benchmark.pedantic(ours, rounds=5, warmup_rounds=1)


def table(found: list[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| case | shape | ours, ms | peer, ms | ours / peer | goal |", "| --- | --- | --- | --- | --- | --- |"]
    for name, shape, mine, other, ratio in found:
        goal = GOALS[name][cases.SHAPES.index(shape)]
        lines.append(f"| {name} | {shape} | {mine * 1e3:.3f} | {other * 1e3:.3f} | {ratio:.2f} | {goal:.2f} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page of the documentation."""
    what = "\n".join(f"- `{case.__name__}`: {case.__doc__}" for case in cases.CASES)
    return f"""# Benchmarks

Gumbel-softmax, one forward and one backward pass in float32 at temperature {cases.TEMPERATURE}, ours and what a user would
write instead. Both run in turns in one process; the times are medians, the ratio is the median over neighbouring pairs.
Written by `nox -s bench`.

{what}

Measured on {machine()}; {versions("numpy=NumPy", "torch=torch", "jax=JAX")}.

{text}
"""
