"""What the structures cost beside other libraries: prints a table, and writes it to docs/structures.md.

    python benchmarks/structures.py [--seconds 4]

Everything is measured in turns with its peer in this one process.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from structure_cases import BATCH, PEERS, tree_errors
from timing import compared, machine, versions

PAGE = Path(__file__).parent.parent / "docs" / "structures.md"


def page(table: str) -> str:
    """The page of the documentation."""
    what = "\n".join(f"- `{name}`: {text}" for name, text in {case.__name__: case.__doc__ for case, _ in PEERS}.items())
    errors = "\n".join(f"| {n} | {ours:.1e} | {peer:.1e} |" for n, (ours, peer) in ((n, tree_errors(n)) for n in (10, 30, 50)))
    return f"""# What the structures cost

Forward and backward for a batch of {BATCH}, argmaxes forward alone. Both run in turns in one process; the times are medians,
the ratio is the median over neighbouring pairs. Written by `python benchmarks/structures.py`.

{what}

{table}

Measured on {machine()}, {torch.get_num_threads()} threads for torch;
{versions("numpy=NumPy", "scipy=SciPy", "torch=torch", "jax=JAX", "optax=optax", "networkx=networkx")}, torch-struct 0.5.

## Spanning trees at temperature 0.1

The largest error of a marginal, against the matrix-tree theorem in 100 decimal digits, over 4 graphs with normal logits in
float64.

| nodes | ours | torch's logdet, differentiated |
| --- | --- | --- |
{errors}
"""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each comparison")
    given = parser.parse_args()
    np.seterr(all="ignore")  # of the peers
    cases = {f"{case.__name__}{size}".replace(",)", ")"): (partial(case, *size), goal) for (case, size), goal in PEERS.items()}
    PAGE.write_text(page(compared(cases, given.seconds)), encoding="utf-8")


if __name__ == "__main__":
    main()
