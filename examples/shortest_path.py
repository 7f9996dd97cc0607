"""Learning what terrain costs from nothing but the shortest paths that others took, through one's own solver.

Maps are grids of noisy colours, of four kinds of terrain with a cost each that nobody tells. A path leads from the upper left
to the lower right corner by steps right, down or diagonally, and is known for every map of the training set: the cheapest.
A small network, the same for every cell, makes utilities (minus costs) of the colours of a cell; the solver, plain NumPy,
finds the path of the greatest utility; and one of four estimators brings the gradient back through it, as in Vlastelica et
al., arXiv 1912.02175. The picture ``shortest_path.png`` shows by how much the paths on held-out maps are dearer than need
be, and what a network has learned. The loss made for it, `backdraw.fenchel_young`, does best; `backdraw.blackbox`, without
noise to average over, is as fast at first and then unsteady. (One seed, and little tuning: no benchmark.)

    python examples/shortest_path.py [FOLDER] [--quick]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

import backdraw
from backdraw.study.adam import Adam
from backdraw.study.layers import reshape, two_layers
from backdraw.study.pictures import save

SIDE = 12
COLOURS = np.asarray([[0.5, 0.75, 0.35], [0.85, 0.75, 0.5], [0.15, 0.4, 0.2], [0.25, 0.45, 0.75]])  # meadow, sand, wood, water
COSTS = np.asarray([1.0, 2.0, 4.0, 8.0])
BATCH = 32
HIDDEN = 16
STEPS = ((0, 1), (1, 0), (1, 1))


def maps(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of n maps and their costs."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE))
    height = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, SIDE, SIDE))) / (0.05 + frequency) ** 1.5).real  # smooth
    kind = np.searchsorted(np.quantile(height, [0.4, 0.65, 0.85]), height)
    return COLOURS[kind] + 0.06 * rng.normal(size=(n, SIDE, SIDE, 3)), COSTS[kind]


def best_paths(u: np.ndarray) -> np.ndarray:
    """Find the paths of greatest utility by dynamic programming, on a batch of grids."""
    n, best = len(u), np.full((len(u), SIDE + 1, SIDE + 1), -np.inf)
    best[:, SIDE, SIDE] = 0.0  # past the last cell
    turn = np.zeros(u.shape, int)
    for i in reversed(range(SIDE)):
        for j in reversed(range(SIDE)):
            ahead = np.stack([best[:, i + di, j + dj] for di, dj in STEPS], -1)
            turn[:, i, j] = ahead.argmax(-1)
            best[:, i, j] = u[:, i, j] + ahead.max(-1)
    x, i, j, rows = np.zeros_like(u), np.zeros(n, int), np.zeros(n, int), np.arange(n)
    for _ in range(2 * SIDE - 1):
        x[rows, i, j] = 1.0
        step = np.asarray(STEPS)[turn[rows, i, j]]
        i, j = np.minimum(i + step[:, 0], SIDE - 1), np.minimum(j + step[:, 1], SIDE - 1)
    return x


def grid(images: np.ndarray, *weights: Any) -> backdraw.Oracle:
    """Return the solver on the utilities that the network gives the cells."""
    out = two_layers(images.reshape(-1, 3), *weights)
    return backdraw.Oracle(reshape(out, shape=images.shape[:-1]), best_paths, event_ndim=2, noise="normal")


# Each makes of a grid, the known paths and a key the value to differentiate, and gives its cotangent: of the share of cells
# that differ (linear in the path), of half the squared distance, or of the loss itself.
def misses(x: np.ndarray, paths: np.ndarray) -> np.ndarray:
    return (1.0 - 2.0 * paths) / BATCH


def distance(x: np.ndarray, paths: np.ndarray) -> np.ndarray:
    return (x - paths) / BATCH


ESTIMATORS: dict[str, tuple[Callable[..., Any], Callable[..., np.ndarray], str, str]] = {
    "fenchel_young": (
        lambda p, paths, key: backdraw.fenchel_young(p, paths, samples=4, sigma=0.5, rng=key),
        lambda x, paths: np.full(BATCH, 1.0 / BATCH),
        "#0072B2",
        "-",
    ),
    "perturbed_argmax": (
        lambda p, paths, key: backdraw.perturbed_argmax(p, samples=8, sigma=1.0, rng=key),
        distance,
        "#D55E00",
        "--",
    ),
    "implicit_mle": (
        lambda p, paths, key: backdraw.implicit_mle(p, step_size=BATCH * 2.0, rng=key),
        misses,
        "#009E73",
        "-.",
    ),
    "blackbox": (
        lambda p, paths, key: backdraw.blackbox(p, step_size=BATCH * 5.0),
        misses,
        "#000000",
        ":",
    ),
}


def excess(images: np.ndarray, costs: np.ndarray, weights: Any) -> float:
    """Return by what share the network's paths are dearer than the cheapest."""
    p = grid(images, *weights)
    found, best = p.argmax(p.logits), best_paths(-costs)
    return float((costs * found).sum() / (costs * best).sum() - 1.0)


def train(name: str, steps: int) -> tuple[list[float], Any]:
    """Return the excess on held-out maps, step by step, and the trained network."""
    value, cotangent, _, _ = ESTIMATORS[name]
    rng = np.random.default_rng(0)
    images, costs = maps(rng, 512)
    paths, held_out = best_paths(-costs), maps(rng, 128)
    weights = (rng.normal(size=(3, HIDDEN)), np.zeros(HIDDEN), rng.normal(size=(HIDDEN, 1)) / HIDDEN**0.5, np.zeros(1))
    adam = Adam(learning_rate=0.01)
    state, curve = adam.init(weights), [excess(*held_out, weights)]
    for step in range(steps):
        rows, key = rng.integers(0, len(images), BATCH), backdraw.fold_in(backdraw.key(1), step)
        out, pullback = backdraw.vjp(lambda *w, rows=rows, key=key: value(grid(images[rows], *w), paths[rows], key), *weights)
        weights, state = adam.update(weights, pullback(cotangent(out, paths[rows])), state)
        if (step + 1) % 10 == 0:
            curve.append(excess(*held_out, weights))
    return curve, weights


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Draw the picture; return the last excess of each estimator."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    given = parser.parse_args(arguments)
    steps = 60 if given.quick else 300
    with threadpool_limits(1):  # the arrays are small: threads would only wait for each other
        trained = {name: train(name, steps) for name in ESTIMATORS}

    fig = Figure(figsize=(12.0, 3.8), layout="constrained", dpi=150)
    ax, *panels = fig.subplots(1, 4, width_ratios=[1.5, 1, 1, 1])
    for name, (curve, _) in trained.items():
        ax.semilogy(
            10 * np.arange(len(curve)), np.maximum(curve, 1e-4), ESTIMATORS[name][3], color=ESTIMATORS[name][2], label=name
        )
    ax.set_xlabel("step")
    ax.set_ylabel("excess cost of held-out paths")
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    image, cost = (a[:1] for a in maps(np.random.default_rng(5), 1))
    p = grid(image, *trained["fenchel_young"][1])
    shown = (
        (image[0].clip(0, 1), "map and cheapest path"),
        (cost[0], "true costs"),
        (-p.logits[0], "costs learned, and their path"),
    )
    for panel, (picture, title) in zip(panels, shown, strict=True):
        path = p.argmax(p.logits)[0] if "learned" in title else best_paths(-cost)[0]
        panel.imshow(picture, cmap="cividis")
        panel.plot(*np.nonzero(path)[::-1], "o-", color="#D55E00", markersize=3)
        panel.set_title(title, fontsize="medium")
        panel.set_axis_off()
    save(fig, given.folder / "shortest_path.png")
    last = {name: curve[-1] for name, (curve, _) in trained.items()}
    print("excess cost of held-out paths:", ", ".join(f"{name} {value:.2%}" for name, value in last.items()))
    return last


if __name__ == "__main__":
    main()
