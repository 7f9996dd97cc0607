"""Learning to sort pictures of digits, told nothing but how sequences of them look when sorted.

A sequence is 8 images of different handwritten digits in random order; beside it come the same images from 9 down to 0.
Nobody names a digit. One small network sees each image by itself and gives it a logit for every place (a `Permutation`,
relaxed by Sinkhorn's iteration: arXiv 1802.08665) or a single score (a `PlackettLuce`, relaxed by NeuralSort: arXiv
1903.08850, or SoftSort: 2006.16038). A relaxed draw mixes the images, and the loss is how far the mixtures are from the
sorted images. Held-out images are then sorted by the hard argmax. The baseline trains every image to find its place by itself,
by `gumbel_softmax`, and makes a permutation of that in the end.

The picture ``sort_digits.png`` shows held-out sequences, a relaxed draw before and after training, and how many sequences are
sorted without a fault. The matching corrects what a single image leaves open; scores have no such help, and overfit to
the 1200 training images, but are not tied to sequences of 8.

    python examples/sort_digits.py [FOLDER] [--quick]
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import backdraw
from backdraw.study.adam import Adam
from backdraw.study.layers import reshape, two_layers
from backdraw.study.pictures import save

PLACES, BATCH, HIDDEN, PIXELS = 8, 32, 128, 64


@backdraw.primitive(native=True)
def misfit(be: Any, x: Any, images: Any, ordered: Any) -> Any:
    """Mean over sequences of the squared distance of ``x @ images`` from the sorted images; rows of x are places."""
    return be.xp.sum((x @ images - ordered) ** 2) / len(images)


def misfit_backward(be: Any, saved: Any, g: Any) -> Any:
    x, images, ordered = saved
    return 2.0 * g / len(images) * (x @ images - ordered) @ be.xp.matrix_transpose(images), None, None


misfit.defvjp(lambda be, *arrays: (misfit.function(be, *arrays), arrays), misfit_backward)


@backdraw.primitive(native=True)
def transpose(be: Any, x: Any) -> Any:
    """Exchange the last two axes."""
    return be.xp.matrix_transpose(x)


transpose.defvjp(lambda be, x: (be.xp.matrix_transpose(x), ()), lambda be, saved, g: (be.xp.matrix_transpose(g),))


def per_place(images: Any, weights: Any) -> Any:
    """Return the logits of the places (rows) for the images (columns)."""
    return transpose(reshape(two_layers(images.reshape(-1, PIXELS), *weights), shape=(*images.shape[:-1], PLACES)))


def per_image(images: Any, weights: Any) -> Any:
    """Return the scores of the images."""
    return reshape(two_layers(images.reshape(-1, PIXELS), *weights), shape=images.shape[:-1])


# Of each method: the distribution that sorts, the numbers a network gives an image, the relaxed draw, colour and line.
METHODS: dict[str, tuple[Callable[..., Any], int, Callable[..., Any], str, str]] = {
    "Permutation, Sinkhorn": (
        lambda images, w: backdraw.Permutation(per_place(images, w)),
        PLACES,
        lambda p, key: backdraw.stochastic_softmax(p, temperature=1.0, rng=key),
        "#0072B2",
        "-",
    ),
    "PlackettLuce, SoftSort": (
        lambda images, w: backdraw.PlackettLuce(per_image(images, w)),
        1,
        lambda p, key: backdraw.stochastic_softmax(p, temperature=1.0, regularizer="softsort", rng=key),
        "#009E73",
        "-.",
    ),
    "PlackettLuce, NeuralSort": (
        lambda images, w: backdraw.PlackettLuce(per_image(images, w)),
        1,
        lambda p, key: backdraw.stochastic_softmax(p, temperature=4.0, regularizer="neuralsort", rng=key),
        "#D55E00",
        "--",
    ),
    "each image by itself": (
        lambda images, w: backdraw.Permutation(per_place(images, w)),
        PLACES,
        lambda p, key: transpose(backdraw.gumbel_softmax(transpose(p.logits), rng=key)),
        "#000000",
        ":",
    ),
}


def sequences(rng: np.random.Generator, images: np.ndarray, digits: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n sequences of images of different digits, and the permutation matrices that sort them."""
    of_digit = [np.flatnonzero(digits == d) for d in range(10)]
    chosen = rng.permuted(np.tile(np.arange(10), (n, 1)), axis=1)[:, :PLACES]
    rows = np.vectorize(lambda d: rng.choice(of_digit[d]))(chosen)
    return images[rows], np.eye(PLACES)[np.argsort(-chosen, axis=1)]


def sort(name: str, images: np.ndarray, weights: Any) -> np.ndarray:
    """Return permutation matrices: the argmax, without noise."""
    p = METHODS[name][0](images, weights)
    return p.argmax(p.logits)


def train(name: str, steps: int, data: Any) -> tuple[list[tuple[float, float]], Any, Any]:
    """Return the shares of held-out sequences and images that are right, every 20 steps, and the weights first and last."""
    distribution, size, relaxed, _, _ = METHODS[name]
    images, digits, held_out, solved = data
    rng = np.random.default_rng(1)
    shapes = (PIXELS, HIDDEN), (HIDDEN, size)
    weights = first = tuple(a for n, m in shapes for a in (rng.normal(size=(n, m)) / n**0.5, np.zeros(m)))
    adam, curve = Adam(learning_rate=0.005), []
    state = adam.init(weights)
    for step in range(steps + 1):
        if step % 20 == 0:
            right = (sort(name, held_out, weights) == solved).all(-1)
            curve.append((float(right.all(-1).mean()), float(right.mean())))
        x, solution = sequences(rng, images, digits, BATCH)
        key = backdraw.fold_in(backdraw.key(0), step)

        def loss(*weights: Any, x: Any = x, solution: Any = solution, key: Any = key) -> Any:
            return misfit(relaxed(distribution(x, weights), key), x, solution @ x)

        weights, state = adam.update(weights, backdraw.value_and_grad(loss)(*weights)[1], state)
    return curve, first, weights


def strip(images: np.ndarray) -> np.ndarray:
    """Return the images of a sequence in one row, a white line around each."""
    return np.concatenate(list(np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))), axis=1)


def draw_picture(fig: Figure, trained: Any, held_out: np.ndarray, solved: np.ndarray) -> None:
    """Draw sequences before and after, a relaxed draw before and after training, and the curves."""
    left, *squares, ax = fig.subplots(1, 4, width_ratios=[1.3, 1, 1, 1.5])
    name = "Permutation, Sinkhorn"
    found = sort(name, held_out, trained[name][2])
    shown = np.asarray([0, 1, *np.flatnonzero((found != solved).any((-2, -1)))[:1]])
    found, solved, held_out = found[shown], solved[shown], held_out[shown]
    rows = [strip(images) for x, y in zip(held_out, found, strict=True) for images in (x, y @ x)]
    left.imshow(np.concatenate([np.pad(row, ((0, 6 * (i % 2)), (0, 0))) for i, row in enumerate(rows)]), cmap="gray_r")
    for i, place in zip(*np.nonzero((found != solved).any(-1)), strict=True):
        left.text(10 * place + 4.5, 26 * i + 23, "x", color="#D55E00", ha="center", va="center", weight="bold")
    left.set_title("held out: given, and sorted below (x: wrong)", fontsize="medium")
    left.set_axis_off()
    for square, weights, title in zip(squares, trained[name][1:], ("untrained", "trained"), strict=True):
        p = METHODS[name][0](held_out[:1], weights)
        square.imshow(METHODS[name][2](p, backdraw.key(0))[0], cmap="Blues", vmin=0.0, vmax=1.0)
        square.plot(solved[0].argmax(-1), np.arange(PLACES), ".", color="#D55E00")
        square.set_title(f"relaxed draw, {title}", fontsize="medium")
        square.set_xlabel("image (dot: the right one)")
        square.set_xticks([])
        square.set_yticks([])
    squares[0].set_ylabel("place")
    for method, (curve, _, _) in trained.items():
        whole = [pair[0] for pair in curve]
        ax.plot(20 * np.arange(len(curve)), whole, METHODS[method][4], color=METHODS[method][3], label=method)
    ax.set_ylim(0.0, 1.0)
    ax.set_xlabel("step")
    ax.set_ylabel("held-out sequences without a fault")
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small", loc="upper left")


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Draw the picture; return the shares of held-out sequences and images that each method sorts rightly."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    given = parser.parse_args(arguments)
    order, known = np.random.default_rng(0).permutation(1797), load_digits()
    images, digits = known.data[order] / 16.0, known.target[order]
    data = images[:1200], digits[:1200], *sequences(np.random.default_rng(7), images[1200:], digits[1200:], 500)
    with threadpool_limits(1):  # the arrays are small: threads would only wait for each other
        trained = {name: train(name, 160 if given.quick else 1000, data) for name in METHODS}
    draw_picture(fig := Figure(figsize=(13.0, 3.6), layout="constrained", dpi=150), trained, *data[2:])
    save(fig, given.folder / "sort_digits.png")
    result = {name: curve[-1] for name, (curve, _, _) in trained.items()}
    result["untrained"], result["chance"] = trained["Permutation, Sinkhorn"][0][0], (1 / math.factorial(PLACES), 1 / PLACES)
    for name, (whole, placed) in result.items():
        print(
            f"{name}: {100 * whole:.3g}% of the held-out sequences sorted without a fault, {placed:.1%} of the images in place"
        )
    return result


if __name__ == "__main__":
    main()
