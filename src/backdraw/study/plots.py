"""The picture of a report: bias, variance, error and variance times time of each estimator, with their intervals."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backdraw.study import pictures
from backdraw.study.moments import Estimate
from backdraw.study.report import Report, Row
from backdraw.study.table import title

PANELS = (
    ("bias", "bias (norm)", 1.0),
    ("variance", "variance (trace)", 1.0),
    ("error", "mean squared error", 1.0),
    ("work", "variance x time (us)", 1e6),
)
# Colour and marker say the same: what the registry states.
STYLES = {"unbiased": (pictures.BLUE, "o"), "biased": (pictures.ORANGE, "s")}


def save_report(report: Report, path: Path) -> None:
    """Write the picture as a PNG file."""
    pictures.save(figure(report), path)


def png(report: Report) -> bytes:
    """Return the picture as the bytes of a PNG file."""
    return pictures.png(figure(report))


def figure(report: Report) -> Figure:
    """Draw a panel for each number, a line for each estimator, the best at the top."""
    rows = report.rows[::-1]
    fig = Figure(figsize=(11.0, 1.7 + 0.26 * max(4, len(rows))), layout="constrained", dpi=120)
    fig.suptitle(title(report), fontsize=10)
    axes = fig.subplots(1, len(PANELS), sharey=True)
    for ax, (field, label, unit) in zip(axes, PANELS, strict=True):
        _panel(ax, rows, field, unit)
        ax.set_xlabel(label)
        ax.grid(axis="x", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), [r.name + (" (flagged)" if r.flagged else "") for r in rows], fontsize=9)
    for stated, (color, marker) in STYLES.items():
        axes[0].plot([], [], color=color, marker=marker, linestyle="", label=f"stated {stated}")
    fig.legend(
        loc="outside lower center", ncols=3, frameon=False, fontsize=9, title="hollow, at the left edge: zero; bars: 95 %"
    )
    return fig


def _panel(ax: Axes, rows: tuple[Row, ...], field: str, unit: float) -> None:
    found = [Estimate(*(unit * x for x in getattr(r, field))) for r in rows]
    positive = [e.value for e in found if e.value > 0]
    low, high = (min(positive), max(positive)) if positive else (0.1, 1.0)
    edge = 10.0 ** (math.floor(math.log10(low)) - 1)
    ax.set_xscale("log")
    ax.set_xlim(edge, 10.0 ** (math.floor(math.log10(high)) + 1.2))
    for place, (row, e) in enumerate(zip(rows, found, strict=True)):
        color, marker = STYLES[row.stated]
        if e.value > 0:
            ax.plot(e.value, place, color=color, marker=marker, markersize=5)
            ax.plot([max(e.low, edge), max(e.high, edge)], [place, place], color=color, linewidth=1.5)
        elif e.value == 0:
            ax.plot(edge, place, color=color, marker=marker, markersize=5, fillstyle="none", clip_on=False)
