"""What the registry states of every estimator, as the table that surveys of the field make."""

from backdraw.estimators import ESTIMATORS, Entry

HEAD = ("estimator", "call", "draws are", "exact law", "backprop", "gradient", "needs f'")
WIDTHS = (23, 11, 10, 9, 8, 8, 8)


def properties(entry: Entry) -> tuple[str, ...]:
    """Return an estimator's cells of the table.

    Parameters
    ----------
    entry : Entry
        The estimator.

    Returns
    -------
    tuple of str
        Its name; "draw" or "expectation", what it returns; "discrete", "continuous" or "both", what it draws; whether the
        value follows the exact distribution or, of an expectation, is a plain mean over exact draws, or exact; whether a
        gradient comes back to the parameters; whether that is the true one in the mean, "-" if there is none; whether f must
        be differentiable.
    """
    yes = {True: "yes", False: "no"}
    backprop = entry.gradient != "none"
    gradient = entry.gradient if backprop else "-"
    return entry.name, entry.kind, entry.domain, yes[entry.law], yes[backprop], gradient, yes[entry.differentiable_f]


def tabulate() -> str:
    """Return the table as text of at most 100 columns."""
    rows = [HEAD, *(properties(ESTIMATORS[name]) for name in sorted(ESTIMATORS))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, WIDTHS, strict=True)).rstrip() for row in rows)
