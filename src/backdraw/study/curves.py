"""What the trainings of a problem found: a curve for each estimator, and how they are shown."""

import dataclasses
import json
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path

from backdraw.study.moments import Estimate
from backdraw.study.report import LeftOut, drawing, finite, number
from backdraw.study.table import fitted, reasons, row

COLUMNS, NAME = 100, 24
MARKS = 4  # columns of points


@dataclass(frozen=True)
class Curve:
    """The trainings with one estimator; an `Estimate` is a median of them with its 95 % confidence interval.

    Attributes
    ----------
    name : str
        The estimator, with the options that were set.
    stated : {"biased", "unbiased"}
        What the registry states of it.
    lost : int
        How many more trainings came to numbers that are not finite; they are left out.
    objective, variance : tuple of Estimate
        What is drawn, and the variance of one gradient (the trace of its covariance), at each point.
    """

    name: str
    stated: str
    lost: int
    objective: tuple[Estimate, ...]
    variance: tuple[Estimate, ...]


@dataclass(frozen=True)
class Curves:
    """The trainings of a problem with several estimators.

    Attributes
    ----------
    problem : str
        Its title.
    backend, distribution, optimizer : str
        What computed, what was drawn from, and what took the steps.
    trainings, gradients : int
        How many trainings a curve is the median of, and how many gradients its variance was taken from.
    label : str
        What the objective is, with its unit.
    least : float
        The least that it can be; NaN if that is not known.
    logarithmic : bool
        Whether it is drawn on a logarithmic axis.
    grid : tuple of str
        The estimators that have a panel each.
    steps : tuple of int
        After how many steps the curves have their points.
    interrupted : bool
        Whether the trainings were ended early; there are then fewer estimators.
    curves : tuple of Curve
        In the order of their last points.
    left_out : tuple of LeftOut
        The estimators that could not be trained with.
    """

    problem: str
    backend: str
    distribution: str
    optimizer: str
    trainings: int
    gradients: int
    label: str
    least: float
    logarithmic: bool
    grid: tuple[str, ...]
    steps: tuple[int, ...]
    interrupted: bool
    curves: tuple[Curve, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def title(self) -> str:
        """What was trained, in a line."""
        how = f"{self.optimizer}, {self.trainings} trainings on {self.backend}"
        return f"{self.problem or 'E[f(x)]'}: {self.distribution}, {how}"

    def table(self) -> str:
        """Return the curves at powers of ten as text of at most 100 columns, and what must be said beside the numbers."""
        tens = {10**i for i in range(1, 9)} | {self.steps[-1]}
        places = [i for i, n in enumerate(self.steps) if n in tens][-MARKS:]
        head = ["estimator", *(f"{self.steps[i]:,}" for i in places), "95 % interval", "variance"]
        what = f"{self.label}, median of the trainings after so many steps; at the end also its 95 % interval, "
        lines = [self.title, "", *textwrap.wrap(f"{what}and the variance of one gradient.", COLUMNS), ""]
        widths = [NAME, *(8 for _ in places), 18, 9]
        lines.append(row(head, widths))
        for c in self.curves:
            last, spread = c.objective[-1], c.variance[-1]
            cells = [fitted(c.name, NAME), *(f"{c.objective[i].value:.4g}" for i in places)]
            interval = f"{last.low:.4g} to {last.high:.4g}" if math.isfinite(last.low + last.high) else "-"
            lines.append(row([*cells, interval, f"{spread.value:.2g}"], widths))
        lost = [c for c in self.curves if c.lost]
        said = [f"{c.name}: {c.lost} trainings came to numbers that are not finite, and are left out." for c in lost]
        if self.interrupted:
            said.append("Interrupted: the other estimators have not been trained with.")
        said += reasons("Not trained with", self.left_out)
        return "\n".join([*lines, "", *(line for s in said for line in textwrap.wrap(s, COLUMNS, subsequent_indent="  "))])

    def plot(self, path: str | Path) -> None:
        """Write all curves and the variances on the way as a PNG file; this needs matplotlib."""
        drawing("curve_plots").save_overlay(self, Path(path))

    def plot_grid(self, path: str | Path) -> None:
        """Write the curves of `grid`, a panel each, as a PNG file; this needs matplotlib."""
        drawing("curve_plots").save_grid(self, Path(path))

    def to_json(self) -> str:
        """Return the curves as JSON; what is not finite is null."""
        return json.dumps(finite(dataclasses.asdict(self)), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Curves":
        """Return the curves that `to_json` made this text of; null is NaN, and what else the text says is passed over."""
        said = json.loads(text)
        fields = {field.name: said[field.name] for field in dataclasses.fields(cls)}
        fields |= {"least": number(fields["least"]), "grid": tuple(fields["grid"]), "steps": tuple(fields["steps"])}
        fields["left_out"] = tuple(LeftOut(*pair) for pair in fields["left_out"])
        fields["curves"] = tuple(
            Curve(c["name"], c["stated"], c["lost"], *(_estimates(c[field]) for field in ("objective", "variance")))
            for c in fields["curves"]
        )
        return cls(**fields)


def _estimates(triples: list[list[float | None]]) -> tuple[Estimate, ...]:
    return tuple(Estimate(*map(number, triple)) for triple in triples)
