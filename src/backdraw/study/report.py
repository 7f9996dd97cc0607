"""What a measurement found: rows of numbers, and how they are shown."""

import dataclasses
import importlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from backdraw.errors import BackendError, InvalidValueError
from backdraw.study.moments import Estimate

_ESTIMATES = ("bias", "variance", "error", "cosine", "direction", "scatter", "seconds", "work")


def drawing(name: str) -> Any:
    """Return a module of this package that draws, or say what is missing for it."""
    try:
        return importlib.import_module(f"backdraw.study.{name}")
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise BackendError(f"pictures need {missing}, not installed here: pip install 'backdraw[cli]'") from error


class LeftOut(NamedTuple):
    """An estimator that was not measured, and why."""

    name: str
    reason: str


class Choice(NamedTuple):
    """The estimator that `Report.best` names, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Row:
    """What was measured of one estimator; an `Estimate` is a number with its 95 % confidence interval.

    Attributes
    ----------
    name : str
        The estimator, with the options that were set.
    stated : {"biased", "unbiased"}
        What the registry states of it.
    repeats : int
        How many gradients the numbers are made of.
    complete : bool
        Whether these are all that were asked for.
    nan : int
        How many more gradients were not finite; they are left out of the numbers.
    bias : Estimate
        The norm of the mean's difference from the true gradient.
    bias_error : float
        The standard error of that: a bound, the root of the variance of the difference.
    z, bound : float
        The largest bias of a coordinate, or of 50 random combinations of more, in its standard errors; and what it must not
        exceed without a bias.
    flagged : bool
        Whether it is stated to be unbiased and found not to be; by 300 repeats or more, if it draws.
    variance : Estimate
        The trace of the covariance of one gradient.
    error : Estimate
        The mean squared error of one gradient.
    cosine : Estimate
        The cosine of the mean gradient to the true one; NaN if one of them is zero.
    direction : Estimate
        The mean cosine of one gradient to the true one.
    scatter : Estimate
        One less the mean cosine of one gradient to the mean gradient.
    seconds : Estimate
        The median time of one gradient, where a block of repeats is computed together.
    work : Estimate
        Variance times time.
    """

    name: str
    stated: str
    repeats: int
    complete: bool
    nan: int
    bias: Estimate
    bias_error: float
    z: float
    bound: float
    flagged: bool
    variance: Estimate
    error: Estimate
    cosine: Estimate
    direction: Estimate
    scatter: Estimate
    seconds: Estimate
    work: Estimate


@dataclass(frozen=True)
class Report:
    """The measurements of estimators on one problem, and how they are shown.

    Attributes
    ----------
    problem : str
        Its title.
    backend, dtype, distribution : str
        What computed, and what was drawn from.
    coordinates : int
        The size of the gradient.
    reference : str
        "exact", or what the true gradient was taken from.
    gradient_norm : Estimate
        The norm of the true gradient.
    repeats : int
        How many gradients of each estimator were asked for.
    interrupted : bool
        Whether the measurement was ended early; the rows are then of fewer repeats.
    rows : tuple of Row
        In the order of their mean squared error.
    left_out : tuple of LeftOut
        The estimators that could not be measured.
    """

    problem: str
    backend: str
    dtype: str
    distribution: str
    coordinates: int
    reference: str
    gradient_norm: Estimate
    repeats: int
    interrupted: bool
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]

    def table(self) -> str:
        """Return the rows as text of at most 100 columns, and below them what must be said beside the numbers."""
        from backdraw.study import table

        return table.text(self)

    def directions(self) -> str:
        """Return the cosines of mean and single gradients to the true one, and of single ones to the mean, as text."""
        from backdraw.study import table

        return table.directions(self)

    def plot(self, path: str | Path) -> None:
        """Write a picture of bias, variance and time as a PNG file; this needs matplotlib."""
        drawing("plots").save_report(self, Path(path))

    def to_json(self) -> str:
        """Return the report as JSON; what is not finite is null."""
        return json.dumps(finite(dataclasses.asdict(self)), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Return the report that `to_json` made this text of; null is NaN, and what else the text says is passed over."""
        said = json.loads(text)
        fields = {field.name: said[field.name] for field in dataclasses.fields(cls)}
        fields["gradient_norm"] = _estimate(fields["gradient_norm"])
        fields["left_out"] = tuple(LeftOut(*pair) for pair in fields["left_out"])
        fields["rows"] = tuple(
            Row(**{k: _estimate(v) if k in _ESTIMATES else number(v) for k, v in row.items()}) for row in fields["rows"]
        )
        return cls(**fields)

    def to_html(self) -> str:
        """Return the report as one HTML page that needs nothing else, its picture included; this needs matplotlib."""
        return str(drawing("page").html(self))

    def best(self, budget: float | None = None) -> Choice:
        """Name the estimator of the least mean squared error within a time.

        Parameters
        ----------
        budget : float, optional
            Seconds for one gradient; as many estimates as fit into them are averaged. By default ten times the fastest
            estimator's.

        Returns
        -------
        Choice
            The name and, in a sentence, the reason.

        Raises
        ------
        ValueError
            If `budget` is not positive, or no estimator fits into it.

        Notes
        -----
        The error of an estimator of variance V and bias b, of which n fit into the budget, is ``V / n + b**2``. The bias
        of one stated unbiased is zero; who is flagged, or gave gradients that are not finite, is not named.
        """
        sound = [r for r in self.rows if not (r.flagged or r.nan or math.isnan(r.variance.value + r.seconds.value))]
        if budget is not None and not budget > 0:
            raise InvalidValueError(f"budget: expected a positive number of seconds, got {budget}")
        if budget is None:
            budget = 10.0 * min((r.seconds.value for r in sound), default=0.0)
        fitting = [(_error_within(r, budget), r) for r in sound if r.seconds.value <= budget]
        if not fitting:
            raise InvalidValueError(f"budget: no sound estimator gives a gradient within {budget:.2g} s")
        fitting.sort(key=lambda pair: (pair[0], pair[1].seconds.value))
        (error, row), *others = fitting
        n, next_best = int(budget / row.seconds.value), others[0] if others else None
        said = f"{row.name}: within {1e6 * budget:.3g} us a gradient, the mean of {n} of its estimates has "
        said += f"the mean squared error {error:.2g}" if error else "no error"
        if next_best is not None:
            said += f"; {next_best[1].name}, the next, has " + (f"{next_best[0]:.2g}" if next_best[0] else "none either")
        return Choice(row.name, f"{said}.")


def _error_within(r: Row, budget: float) -> float:
    squared = 0.0 if r.stated == "unbiased" else max(0.0, r.bias.value**2 - r.bias_error**2)
    return r.variance.value / int(budget / r.seconds.value) + squared


def number(value: Any) -> Any:
    """Return what JSON said as a number: null is NaN."""
    return math.nan if value is None else value


def _estimate(values: Any) -> Any:
    return Estimate(*map(number, values))


def finite(x: Any) -> Any:
    """Return nested values as JSON can say them: None for what is not finite."""
    if isinstance(x, dict):
        return {k: finite(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [finite(v) for v in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
