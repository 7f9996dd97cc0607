"""What the estimators of expectations cost: prints two tables, and writes them to docs/estimators.md.

    python benchmarks/expectations.py [--seconds 4] [--threads N]

Everything is measured in turns with its peer in this one process.
"""

import argparse
from pathlib import Path

import torch
from expectation_cases import BATCH, CASES, CATEGORIES, FEW, LATENTS, PEERS, SAMPLES, WIDTH, Torch
from timing import compared, machine, side_by_side, versions

from backdraw.estimators import ESTIMATORS

PAGE = Path(__file__).parent.parent / "docs" / "estimators.md"


def costs(seconds: float) -> str:
    """The table of every estimator's calls of f and time over f's own."""
    lines = ["| estimator | draws | f is called with, samples | time over f's own |", "| --- | --- | --- | --- |"]
    missing = {name for name, e in ESTIMATORS.items() if e.kind == "expectation"} ^ set(CASES)
    assert not missing, f"not measured: {missing}"
    for name, (make, size, options) in CASES.items():
        t = Torch(*size)
        given = {k: v for k, v in {"samples": SAMPLES, **options}.items() if v is not None}
        ours = t.estimator(name, make, **given)
        ours()
        calls = " + ".join(map(str, t.calls))
        ratio = side_by_side(ours, t.alone(), seconds)[-1]
        kind = f"{size[0]} of {size[1]} categories" if size[1] > 1 else f"{size[0]} {make.__name__.lower().rstrip('s')}s"
        kind = kind.replace("bernoullis", "bits")
        lines.append(f"| `{name}` | {kind} | {calls} | {ratio:.2f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def page(cost_table: str, peer_table: str) -> str:
    """The page of the documentation."""
    what = "\n".join(f"- `{case.__name__}`: {case.__doc__}" for case in PEERS)
    return f"""# What an estimator costs

A step is the value and the gradient, in the logits and in the weights of f, a network with one hidden layer of {WIDTH}
units: {BATCH} batch elements, {LATENTS} latents of {CATEGORIES} categories, {SAMPLES} samples, float32. There are
{LATENTS * CATEGORIES} bits and normals, and {FEW} latents for those that go over the joint values. "f is called with" counts
the samples of each call; relax calls its surrogate, not f, with relaxed samples. "Time over f's own" is the time of the
step over that of f alone, forward and backward with {SAMPLES} samples, on torch in eager mode. Ratios are medians over
neighbouring pairs; all run in turns in one process. Written by `python benchmarks/expectations.py`.

{cost_table}

arm and disarm take {SAMPLES // 2} pairs, arsm {SAMPLES} groups. Where f is called twice, the first values show which axes it
leaves, and the second call is for the others.

## Beside what a user would write

{what}

{peer_table}

Measured on {machine()}, {torch.get_num_threads()} threads for torch; {versions("numpy=NumPy", "torch=torch", "jax=JAX")}.
"""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each comparison")
    parser.add_argument("--threads", type=int, help="of torch")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    cases = {case.__name__: (case, goal) for case, goal in PEERS.items()}
    PAGE.write_text(page(costs(given.seconds), compared(cases, given.seconds)), encoding="utf-8")


if __name__ == "__main__":
    main()
