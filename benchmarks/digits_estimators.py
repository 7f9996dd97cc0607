"""The held-out ELBO of the digits model by every draw that can train it, after equal budgets, three seeds each.

On categories, and on bits and normals those that are for them alone, beside the default.

    python benchmarks/digits_estimators.py DIR

keeps each result in DIR as it comes, goes on from what is there, and writes docs/digits.md. On one core it takes about
half an hour.
"""

import json
import statistics
import sys
from pathlib import Path

from backdraw.study import digits
from backdraw.study.latents import LATENTS, latent_for, trainable

SEEDS = (0, 1, 2)
DOCS = Path(__file__).parent.parent / "docs" / "digits.md"
HEAD = """# The digits model, by estimator

Held-out negative ELBO in nats per image, from 20 exact draws of each image's code, after 200 epochs of `backdraw train
digits` with the settings of the default run on NumPy; lower is better. Relaxed draws are annealed from temperature 0.5 to
0.2, the others are trained at 1. Written by `benchmarks/digits_estimators.py`.

What a relaxed draw is trained with is not what it is measured with: the measure takes exact draws for all. `select` never
draws in training. Bits and normals are other models: their rows compare among themselves only.

| latents | estimator | seed 0 | seed 1 | seed 2 | mean |
| --- | --- | --- | --- | --- | --- |
"""


def result(folder: Path, latent: str, estimator: str, seed: int) -> float:
    """Train, or read what an earlier run has found."""
    path = folder / f"{latent}-{estimator}-{seed}.json"
    if not path.exists():
        trained = digits.train(digits.Config(latent=latent, estimator=estimator, seed=seed), *digits.load())
        path.write_text(json.dumps({"held_out": trained.held_out}), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))["held_out"]


def main(folder: Path) -> None:
    """Train all and write the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for latent in LATENTS:
        # The stochastic softmax of categories and bits is Gumbel-softmax.
        known = [name for name in trainable(latent) if not name.startswith("stochastic_softmax")]
        names = [name for name in known if latent_for(name) == latent or name == LATENTS[latent].estimator]
        found = {name: [result(folder, latent, name, seed) for seed in SEEDS] for name in names}
        for name, values in sorted(found.items(), key=lambda item: statistics.fmean(item[1])):
            cells = " | ".join(f"{v:.2f}" for v in (*values, statistics.fmean(values)))
            rows.append(f"| {latent} | `{name}` | {cells} |")
    DOCS.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
