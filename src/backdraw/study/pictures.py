"""The pictures of a training run: the loss curve, and digits in rows. Files are written whole or not at all."""

import io
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Two of Okabe and Ito's colours, which the colour-blind tell apart; line styles and labels say the same once more.
BLUE, ORANGE = "#0072B2", "#D55E00"
UNIT = "negative ELBO (nats per image)"


def curve(path: Path, train: list[float], held_out: list[float]) -> None:
    """Draw the negative ELBO by epoch, of the training images and of those held out."""
    fig = Figure(figsize=(6.4, 4.0), layout="constrained", dpi=150)
    ax: Axes = fig.subplots()
    epochs = range(1, len(train) + 1)
    marker = "o" if len(train) == 1 else ""
    ax.plot(epochs, train, color=BLUE, linestyle="--", marker=marker, label="training images")
    ax.plot(epochs, held_out, color=ORANGE, marker=marker, label="held-out images")
    # The first epochs fall so far that the rest would be flat: cut them off above what a tenth of the epochs exceed.
    values = np.asarray([*train, *held_out])
    low, high = values.min(), np.quantile(values, 0.9) if len(train) >= 20 else values.max()
    margin = 0.05 * (high - low) or 0.5
    ax.set_ylim(low - margin, high + 4 * margin)
    ax.set_xlabel("epoch")
    ax.set_ylabel(UNIT)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    save(fig, path)


def samples(path: Path, images: np.ndarray) -> None:
    """Draw images of 64 pixels from 0 to 1 in a square grid."""
    columns = math.isqrt(len(images) - 1) + 1
    rows = -(-len(images) // columns)
    fig = Figure(figsize=(0.6 * columns, 0.6 * rows + 0.4), layout="constrained", dpi=150)
    fig.suptitle("Digits decoded from random codes", fontsize=11)
    for ax, image in zip(_grid(fig, rows, columns), images, strict=False):
        _digit(ax, image)
    save(fig, path)


def reconstructions(path: Path, originals: np.ndarray, decoded: np.ndarray, columns: int = 10) -> None:
    """Draw images and, under each, what was decoded from a draw of its code."""
    rows = 2 * -(-len(originals) // columns)
    fig = Figure(figsize=(0.6 * columns + 0.9, 0.6 * rows + 0.4), layout="constrained", dpi=150)
    fig.suptitle("Held-out digits, and each as decoded from its code", fontsize=11)
    axes = _grid(fig, rows, columns)
    for i, pair in enumerate(zip(originals, decoded, strict=True)):
        place = 2 * columns * (i // columns) + i % columns
        for j, (image, label) in enumerate(zip(pair, ("original", "decoded"), strict=True)):
            ax = axes[place + j * columns]
            _digit(ax, image)
            if i % columns == 0:
                ax.text(-0.2, 0.5, label, transform=ax.transAxes, ha="right", va="center", fontsize=9)
    save(fig, path)


def save(fig: Figure, path: Path) -> None:
    """Write a figure as a PNG file."""
    data = png(fig)
    atomically(path, lambda temporary: temporary.write_bytes(data))


def png(fig: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file, of 256 colours: a third of the size, and no eye tells."""
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    fig.savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, and put it there only when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _grid(fig: Figure, rows: int, columns: int) -> list[Axes]:
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    return axes


def _digit(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0.0, vmax=1.0)
