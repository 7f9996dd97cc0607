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


NOTE = """
exact law: the value follows the distribution or, of an expectation, is a plain mean over draws
  that do. A draw that takes the argmax of perturbed utilities does so only where that follows the
  law, as it does of categories and bits but not of subsets or trees: Distribution.argmax_law.
backprop: a gradient comes back to the parameters. gradient: whether it is right in the mean.
needs f': f must be differentiable."""


def tabulate() -> str:
    """Return the table as text of at most 100 columns, and below it what the columns mean."""
    rows = [HEAD, *(properties(ESTIMATORS[name]) for name in sorted(ESTIMATORS))]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, WIDTHS, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, NOTE])
