"""Which particles are joined by springs? Learning the tree from how they move, as in arXiv 2006.08063.

Ten particles in the plane hang together by nine springs that form a tree; all that is seen is how they move for a while,
once, with noise. A simulator foretells the motion from edges that are there or not, or there in part, and the logits of the
edges learn to make the foretold motion that which is seen. Three distributions say what may be drawn: trees (`SpanningTree`),
any nine of the 45 edges (`Subset`), or each edge by itself (`Bernoulli`), all relaxed by `stochastic_softmax` at the same
temperature. `rloo` learns trees too, from exact draws and the values of the simulator alone, without its derivative.

The edges recovered are counted by the heaviest tree of the logits, or their nine largest, as a mean over several random
trees; and beside them those of Chow and Liu's tree of the correlations, which takes the positions of all times for
independent draws. That there are nine edges is worth most; that they form a tree adds little to that. (One setting, and
little tuning: no benchmark.) The picture ``spring_tree.png`` shows a true tree and the motion, the marginals learned
(orange: no true edge), of that tree which edges by themselves find worst, and the edges recovered while training.

    python examples/spring_tree.py [FOLDER] [--quick]
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
from backdraw.study.pictures import save

NODES, TIMES, STEP, NOISE, SAMPLES = 10, 40, 0.1, 0.1, 8
FIRST, SECOND = np.triu_indices(NODES, 1)
ENDS = np.eye(NODES)[FIRST] - np.eye(NODES)[SECOND]  # of each edge: 1 at one node, -1 at the other
EDGES = len(ENDS)


# ----------------------------------------------------------------------------------------------------------- simulator
def motion(edges: np.ndarray, start: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Return positions (times, samples, nodes, 2) of unit masses on springs of unit stiffness and no length."""
    forces, x, v, path = -stiffness(edges), start, speed, []
    for _ in range(TIMES):
        v = v + STEP * forces @ x
        x = x + STEP * v
        path.append(x)
    return np.stack(path)


def stiffness(edges: np.ndarray) -> np.ndarray:
    """Return the graph Laplacian."""
    return ENDS.T @ (edges[..., None] * ENDS)


@backdraw.primitive
def misfit(be: Any, edges: Any, start: Any, speed: Any, seen: Any) -> Any:
    """Logarithm of the mean squared distance between the motion of each sample of edges and what was seen."""
    return misfit_forward(be, edges, start, speed, seen)[0]


def misfit_forward(be: Any, edges: Any, start: Any, speed: Any, seen: Any) -> Any:
    path = motion(edges, start, speed)
    error = path - seen[:, None]
    square = (error**2).mean((0, 2, 3))
    return np.log(square), (edges, start, path, error, square)


def misfit_backward(be: Any, saved: Any, g: Any) -> Any:
    # Backwards in time: what the loss gains by moving a particle (to_x) and by its speed (to_v).
    edges, start, path, error, square = saved
    error = 2.0 / (TIMES * NODES * 2) * (g / square)[:, None, None] * error
    forces, before = -stiffness(edges), [np.broadcast_to(start, path[0].shape), *path[:-1]]
    to_x, to_v, to_edges = np.zeros_like(path[0]), np.zeros_like(path[0]), np.zeros_like(edges)
    for t in reversed(range(TIMES)):
        to_x = to_x + error[t]
        to_v = to_v + STEP * to_x
        to_edges = to_edges - STEP * ((ENDS @ to_v) * (ENDS @ before[t])).sum(-1)
        to_x = to_x + STEP * forces @ to_v
    return to_edges, None, None, None


misfit.defvjp(misfit_forward, misfit_backward)


@backdraw.primitive
def mean(be: Any, x: Any) -> Any:
    return x.mean()


mean.defvjp(lambda be, x: (x.mean(), (x,)), lambda be, saved, g: (np.full_like(saved[0], g / saved[0].size),))


# ------------------------------------------------------------------------------------------------------------ learning
def relaxed(f: Callable[..., Any], p: Any, key: Any) -> Any:
    return mean(f(backdraw.stochastic_softmax(p.repeated(SAMPLES), temperature=0.5, rng=key)))


def by_value(f: Callable[..., Any], p: Any, key: Any) -> Any:
    return backdraw.rloo(f, p, samples=SAMPLES, rng=key)


# The distribution of the logits, where they begin, the mean misfit with its gradient, colour and line.
BARE = np.log((NODES - 1) / (EDGES - NODES + 1))  # nine edges expected
METHODS: dict[str, tuple[Callable[..., Any], float, Callable[..., Any], str, str]] = {
    "trees": (backdraw.SpanningTree, 0.0, relaxed, "#0072B2", "-"),
    "any nine edges": (lambda l: backdraw.Subset(l, NODES - 1), 0.0, relaxed, "#009E73", "-."),
    "each edge by itself": (backdraw.Bernoulli, BARE, relaxed, "#000000", ":"),
    "trees, by rloo": (backdraw.SpanningTree, 0.0, by_value, "#D55E00", "--"),
}


def recovered(logits: np.ndarray, true: np.ndarray, dist: Any = backdraw.SpanningTree) -> float:
    """Return the share of the true tree's edges in the heaviest tree, or among as many of the largest logits."""
    p = backdraw.SpanningTree(logits) if dist is backdraw.SpanningTree else backdraw.Subset(logits, NODES - 1)
    return float((p.argmax(logits) * true).sum() / (NODES - 1))


def world(seed: int) -> tuple[np.ndarray, ...]:
    """Return a tree, any as likely as any other, where the particles start, how fast, and what is seen of them."""
    rng = np.random.default_rng(seed)
    true = backdraw.draw(backdraw.SpanningTree(np.zeros(EDGES)), rng=backdraw.key(seed))
    start, speed = rng.normal(size=(NODES, 2)), rng.normal(size=(NODES, 2)) / 2.0
    path = motion(true[None], start, speed)[:, 0]
    return true, start, speed, path + NOISE * rng.normal(size=path.shape)


def train(name: str, seed: int, steps: int) -> tuple[list[float], np.ndarray]:
    """Return the share of edges recovered before each step and after the last, and the logits."""
    dist, begin, value, _, _ = METHODS[name]
    true, *given = world(seed)
    logits, adam = np.full(EDGES, begin), Adam(learning_rate=0.1)
    state, curve = adam.init((logits,)), [recovered(np.full(EDGES, begin), true, dist)]
    for step in range(steps):
        key = backdraw.fold_in(backdraw.key(seed), step)
        loss = backdraw.value_and_grad(lambda l, key=key: value(lambda x: misfit(x, *given), dist(l), key))
        (logits,), state = adam.update((logits,), loss(logits)[1], state)
        curve.append(recovered(logits, true, dist))
    return curve, logits


def chow_liu(seen: np.ndarray) -> np.ndarray:
    """Return the mutual information of normal variables in place of the positions."""
    r = np.corrcoef(seen.transpose(1, 0, 2).reshape(NODES, -1))[FIRST, SECOND]
    return -0.5 * np.log1p(-(r**2))


# ------------------------------------------------------------------------------------------------------------- picture
def draw_graph(ax: Any, place: np.ndarray, weights: np.ndarray, true: np.ndarray) -> None:
    for i, j, w, right in zip(FIRST, SECOND, weights, true, strict=True):
        if w > 0.01:
            ax.plot(*place[[i, j]].T, color="#0072B2" if right else "#D55E00", alpha=min(1.0, float(w)), linewidth=2.5)
    ax.plot(*place.T, "o", color="#000000", markersize=5)
    ax.set_axis_off()
    ax.margins(0.1)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Draw the picture; return the share of edges recovered by each method, mean over the trees."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="fewer trees and steps")
    given = parser.parse_args(arguments)
    steps, seeds = (60, range(3)) if given.quick else (200, range(8))
    with threadpool_limits(1):  # the arrays are small: threads would only wait for each other
        trained = {name: [train(name, seed, steps) for seed in seeds] for name in METHODS}
    result = {name: float(np.mean([curve[-1] for curve, _ in runs])) for name, runs in trained.items()}
    result["Chow-Liu"] = float(np.mean([recovered(chow_liu(world(seed)[3]), world(seed)[0]) for seed in seeds]))

    fig = Figure(figsize=(13.0, 3.6), layout="constrained", dpi=150)
    *graphs, ax = fig.subplots(1, 4, width_ratios=[1, 1, 1, 1.5])
    shown = int(np.argmin([curve[-1] for curve, _ in trained["each edge by itself"]]))
    true, start, _, seen = world(shown)
    for node in range(NODES):
        graphs[0].plot(*seen[:, node].T, color="#999999", linewidth=0.7)
    draw_graph(graphs[0], start, true, true)
    graphs[0].set_title("true tree, and the motion seen", fontsize="medium")
    for graph, name in zip(graphs[1:], ("trees", "each edge by itself"), strict=True):
        draw_graph(graph, start, METHODS[name][0](trained[name][shown][1]).mean(), true)
        graph.set_title(f"learned: {name}", fontsize="medium")
    for name, runs in trained.items():
        ax.plot(np.mean([curve for curve, _ in runs], 0), METHODS[name][4], color=METHODS[name][3], label=name)
    ax.axhline(result["Chow-Liu"], color="#999999", linewidth=1.0, label="Chow-Liu")
    ax.set_ylim(0.0, 1.02)
    ax.set_xlabel("step")
    ax.set_ylabel("edges recovered")
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 0.2))
    save(fig, given.folder / "spring_tree.png")
    for name, share in result.items():
        print(f"{name}: {share:.1%} of the edges recovered, mean over {len(seeds)} trees")
    return result


if __name__ == "__main__":
    main()
