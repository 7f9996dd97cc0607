"""The pictures of trainings: all curves over the variances on the way, and a panel each for some of them."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backdraw.study import pictures
from backdraw.study.curves import Curves
from backdraw.study.moments import Estimate

# Okabe and Ito's colours, which the colour-blind tell apart, but for their yellow, pale on white; a dash pattern says more.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (9, 2)))
FEW = 3  # that have no row of their own
BANDS = "medians of the trainings, bands: their 95 % intervals; a variance of zero has no line"


def save_overlay(curves: Curves, path: Path) -> None:
    """Write the picture of all curves as a PNG file."""
    pictures.save(overlay(curves), path)


def save_grid(curves: Curves, path: Path) -> None:
    """Write the picture of a panel each as a PNG file."""
    pictures.save(grid(curves), path)


def overlay(curves: Curves) -> Figure:
    """Draw the objective and the variance by estimator, in a row for what is stated unbiased and one for what is not."""
    groups = [[c for c in curves.curves if c.stated == stated] for stated in ("unbiased", "biased")]
    if min(map(len, groups)) < FEW:
        groups = [list(curves.curves)]
    heights = [max(3.0, 0.5 + 0.19 * len(group)) for group in groups]
    fig = Figure(figsize=(11.0, 0.7 + sum(heights)), layout="constrained", dpi=120)
    fig.suptitle(f"{curves.title}\n{BANDS}", fontsize=10)
    axes = fig.subplots(len(groups), 2, sharex=True, sharey="col", squeeze=False, height_ratios=heights)
    for (objective, variance), group in zip(axes, groups, strict=True):
        for i, c in enumerate(group):
            style = {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i // len(COLORS) % len(DASHES)], "label": c.name}
            _curve(objective, curves.steps, c.objective, **style)
            _curve(variance, curves.steps, c.variance, **style)
        stated = f"stated {group[0].stated}, " if len(groups) > 1 else ""
        variance.legend(
            bbox_to_anchor=(1.02, 0.5), loc="center left", frameon=False, fontsize=8, alignment="left",
            title=f"{stated}by the last point", title_fontsize=8,
        )  # fmt: skip
        _finish(objective, curves, curves.label)
        _scale(objective, curves)
        _finish(variance, curves, "variance of one gradient (trace)")
        variance.set_yscale("log")
    seen = [e.value for c in curves.curves for e in c.variance if e.value > 0]
    if seen:  # not the bands, some of which end nowhere, nor a last trace of what is all but zero
        axes[0, 1].set_ylim(float(np.quantile(seen, 0.02)) / 3.0, 3.0 * max(seen))
    for ax in axes[:-1].flat:
        ax.set_xlabel("")
    return fig


def grid(curves: Curves) -> Figure:
    """Draw a panel for each estimator of the grid, three in a row, on common axes."""
    named = {c.name: c for c in curves.curves}
    rows = -(-len(curves.grid) // 3)
    fig = Figure(figsize=(11.0, 0.9 + 2.7 * rows), layout="constrained", dpi=120)
    fig.suptitle(f"{curves.title}\n{BANDS.partition(';')[0]}", fontsize=10)
    panels = fig.subplots(rows, 3, sharex=True, sharey=True, squeeze=False)
    for i, (name, ax) in enumerate(zip(curves.grid, panels.flat, strict=False)):
        if name in named:
            _curve(ax, curves.steps, named[name].objective, color=COLORS[i // 3 % len(COLORS)])
        _finish(ax, curves, "")
        _scale(ax, curves)
        ax.set_title(name, fontsize=10)
        ax.label_outer()
    fig.supylabel(curves.label, fontsize=10)
    return fig


def _curve(ax: Axes, steps: tuple[int, ...], estimates: tuple[Estimate, ...], **style: Any) -> None:
    value, low, high = (np.asarray(x) for x in zip(*estimates, strict=True))
    shown = value != 0  # a variance of zero has no place on a logarithmic axis
    style["marker"] = "." if np.count_nonzero(shown) == 1 else ""
    ax.plot(steps, np.where(shown, value, np.nan), linewidth=1.6, **style)
    least = np.where(shown, np.where(low > 0, low, value), np.nan)
    ax.fill_between(steps, least, np.where(shown, high, np.nan), color=style["color"], alpha=0.2, linewidth=0)


def _finish(ax: Axes, curves: Curves, label: str) -> None:
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.4)
    ax.set_xlim(0, curves.steps[-1])
    ax.set_xlabel("step")
    ax.set_ylabel(label)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def _scale(ax: Axes, curves: Curves) -> None:
    """Scale the objective's axis, and mark the least value that it can have."""
    if curves.logarithmic:
        ax.set_yscale("log")
    elif np.isfinite(curves.least):
        ax.axhline(curves.least, color="0.4", linewidth=0.8, linestyle=":")
