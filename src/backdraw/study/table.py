"""A report as text that fits a terminal of 100 columns."""

import math
import textwrap
from collections.abc import Iterable, Sequence

from backdraw.study.moments import ENOUGH, Estimate
from backdraw.study.report import Report, Row

COLUMNS = 100
WIDTHS = (23, 13, 5, 12, 12, 6, 10, 12)
HEAD = ("estimator", "bias", "z", "variance", "mse", "cosine", "us/grad", "var x us")


def title(report: Report) -> str:
    """Return a line that says what was measured."""
    size = f"{report.coordinates} coordinate{'s' if report.coordinates > 1 else ''}"
    where = f"{report.distribution}, {size}, {report.dtype} on {report.backend}"
    return f"{report.problem or 'E[f(x)]'}: {where}, {report.repeats} repeats"


def notes(report: Report) -> list[str]:
    """Return what must be said beside the numbers, a sentence each."""
    exact = report.reference == "exact"
    truth = "the exact gradient, by enumeration" if exact else f"the gradient by {report.reference}"
    norm = report.gradient_norm
    said = [
        f"Measured against {truth}; " + (f"its norm is {_pair(norm)}." if math.isfinite(norm.value) else "it is not finite.")
    ]
    said += [
        f"FLAGGED: {r.name} is stated to be unbiased, but z = {r.z:.3g} exceeds {r.bound:.2f}."
        for r in report.rows
        if r.flagged
    ]
    said += [f"{r.name}: {r.nan} gradients were not finite, and are left out." for r in report.rows if r.nan]
    few = [r.name for r in report.rows if r.stated == "unbiased" and r.z > r.bound and not r.flagged]
    if few:
        said.append(f"z says nothing yet of {', '.join(few)}: fewer than {ENOUGH} repeats.")
    if report.interrupted:
        said.append("Interrupted: the estimators marked with * have fewer repeats.")
    return said + reasons("Not measured", report.left_out)


def reasons(said: str, left_out: Iterable[tuple[str, str]]) -> list[str]:
    """Return a sentence for each reason, with the names of all that were left out for it."""
    found: dict[str, list[str]] = {}
    for name, reason in left_out:
        found.setdefault(reason, []).append(name)
    return [f"{said}: {', '.join(names)}: {reason.removesuffix('.')}." for reason, names in found.items()]


def text(report: Report) -> str:
    """Return the table, with the notes below."""
    lines = [title(report), "", row(HEAD), *(row(_cells(r)) for r in report.rows), ""]
    lines += [line for note in notes(report) for line in textwrap.wrap(note, COLUMNS, subsequent_indent="  ")]
    return "\n".join(lines)


def directions(report: Report) -> str:
    """Return a table of the directions of the gradients alone, with their intervals."""
    widths = (23, 24, 24, 24)
    heads = ("1 - cosine, of the mean", "of one, on average", "of one to the mean")
    lines = [
        "Cosine distances to the true gradient: bias, error and variance of the direction.",
        "",
        row(("estimator", *heads), widths),
    ]
    for r in report.rows:
        away = (Estimate(*(1.0 - x for x in (e.value, e.high, e.low))) for e in (r.cosine, r.direction))
        lines.append(row((fitted(r.name, widths[0]), *(_interval(e) for e in (*away, r.scatter))), widths))
    return "\n".join(lines)


def _interval(e: Estimate) -> str:
    return (
        "-" if math.isnan(e.value) else f"{max(0.0, e.value):.3f} ({max(0.0, e.low):.3f} to {max(0.0, min(2.0, e.high)):.3f})"
    )


def _cells(r: Row) -> tuple[str, ...]:
    mark = "!" if r.flagged else "" if r.complete else "*"
    numbers = zip((r.variance, r.error, r.seconds, r.work), (1.0, 1.0, 1e6, 1e6), (12, 12, 10, 12), strict=True)
    variance, error, us, work = (_percent(e, unit, width) for e, unit, width in numbers)
    z = "-" if math.isnan(r.z) else f"{r.z:.1f}" if r.z < 999 else _short(r.z, 1)
    cosine = "-" if math.isnan(r.cosine.value) else f"{r.cosine.value:.3f}"
    return (fitted(r.name, WIDTHS[0] - len(mark)) + mark, _pair(r.bias), z, variance, error, cosine, us, work)


def row(cells: Sequence[str], widths: Sequence[int] = WIDTHS) -> str:
    """Return cells in columns, the first to the left and the others to the right."""
    first, *rest = zip(cells, widths, strict=True)
    return f"{first[0]:<{first[1]}}" + "".join(f" {cell:>{width}}" for cell, width in rest)


def fitted(name: str, width: int) -> str:
    """Shorten a name to a width: of its options first the names go, then what is left over."""
    if len(name) > width:
        entry, _, options = name.partition(":")
        values = ",".join(option.partition("=")[2] for option in options.split(","))
        name = f"{entry}:{values}" if options else entry
    return name if len(name) <= width else f"{name[: width - 2]}.."


def _short(x: float, digits: int = 3) -> str:
    """Return a number with so many digits."""
    if x == 0 or 0.01 <= abs(x) < 10**digits - 0.5:
        return f"{x:.{digits}g}"
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _pair(e: Estimate) -> str:
    """Return a number and its half-width, in as many digits as fit."""
    if math.isnan(e.value):
        return "-"
    texts = [f"{_short(e.value, digits)}\N{PLUS-MINUS SIGN}{_short(e.high - e.value, 1)}" for digits in (2, 1)]
    return next((text for text in texts if len(text) <= WIDTHS[1]), texts[-1])


def _percent(e: Estimate, unit: float, width: int) -> str:
    """Return a number and its half-width in percent, in as many digits as fit."""
    if math.isnan(e.value) or e.value == 0:
        return "-" if e.value else "0"
    half = "?" if math.isnan(e.high) else min(999, round(100 * max(e.high - e.value, e.value - e.low) / e.value))
    texts = [f"{_short(unit * e.value, digits)}±{half}%" for digits in (3, 2, 1)]
    return next((text for text in texts if len(text) <= width), texts[-1])
