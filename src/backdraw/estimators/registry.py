"""The registry: every estimator with its stated properties, from which documentation and tests are made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backdraw.distributions import Categorical, Distribution
from backdraw.errors import InvalidValueError
from backdraw.estimators.expectation import check_samples, evaluate, mean


@dataclass(frozen=True)
class Entry:
    """An estimator and what is stated of it.

    Attributes
    ----------
    name : str
        Its name in tables and on the command line.
    function : callable
        The public function.
    kind : {"draw", "expectation"}
        A draw returns a sample that carries the gradient; an expectation takes the function f and returns its mean.
    gradient : {"none", "biased", "unbiased"}
        Whether the gradient's mean is that of E[f(x)]; "none" for a draw that carries no gradient.
    forward : {"hard", "relaxed"}
        Whether the value is one that `dist` has (0 and 1 where it is discrete) or, in between, of its convex hull.
    law : bool
        Of a draw, whether its value follows the law of `dist` exactly; one that takes the argmax of perturbed utilities does
        so where `dist` has `argmax_law`. Of an expectation, whether the value is the plain mean of f over exact draws, or
        exact.
    differentiable_f : bool
        Whether the gradient needs that of f.
    domain : {"discrete", "continuous", "both"}
        The distributions that it is for.
    needs : tuple of str
        The methods that it needs of a distribution.
    reference : str
        The source.
    options : mapping
        Options that make this entry of the function.
    array : callable
        What an array of logits in place of a distribution means.
    objective : {"mean", "log mean exp"}
        What the value of an expectation is, and its gradient that of: E[f(x)], or E[log mean f(x)] over the samples.
    """

    name: str
    function: Callable[..., Any]
    kind: Literal["draw", "expectation"]
    gradient: Literal["none", "biased", "unbiased"]
    forward: Literal["hard", "relaxed"]
    law: bool
    differentiable_f: bool
    domain: Literal["discrete", "continuous", "both"]
    needs: tuple[str, ...]
    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)
    array: Callable[..., Distribution] = Categorical
    objective: Literal["mean", "log mean exp"] = "mean"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function with this entry's options."""
        return self.function(*args, **{**self.options, **options})

    def expectation(self, f: Callable[[Any], Any], dist: Any, *, samples: int | None = None, **options: Any) -> Any:
        """Return the mean of f over `samples`, or as many as the estimator takes by default, with this one's gradient."""
        if self.kind == "expectation":
            return self(f, dist, **options, **({} if samples is None else {"samples": samples}))
        n = check_samples(self.name, 1 if samples is None else samples)
        p = dist if isinstance(dist, Distribution) else self.array(dist)
        return mean(evaluate(f, self(p.repeated(n), **options), p))


ESTIMATORS: dict[str, Entry] = {}


def register(*, name: str | None = None, **properties: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter the decorated function into the registry, under its own name or another."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        entry = Entry(name=name or function.__name__, function=function, **properties)
        ESTIMATORS[entry.name] = entry
        return function

    return enter


def estimator(name: str) -> Entry:
    """Return the entry of a name.

    Parameters
    ----------
    name : str
        A key of `ESTIMATORS`.

    Returns
    -------
    Entry
        What is stated of the estimator.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in ESTIMATORS:
        raise InvalidValueError(f"estimator: expected one of {', '.join(sorted(ESTIMATORS))}, got {name!r}")
    return ESTIMATORS[name]


def table(kind: str | None = None) -> str:
    """Return what is stated of every estimator, or of those of a kind, as a table in Markdown."""
    head = ("estimator", "gradient", "value", "law of the value", "needs f'", "for", "reference")
    rows = [head, tuple("---" for _ in head)]
    for name, e in sorted(ESTIMATORS.items()):
        if kind not in (None, e.kind):
            continue
        call = f"`{e.function.__name__}({', '.join(f'{k}={v}' for k, v in e.options.items())})`"
        needs = "yes" if e.differentiable_f else "no"
        law = "exact" if e.law else "other"
        rows.append((call if e.options else f"`{name}`", e.gradient, e.forward, law, needs, e.domain, e.reference))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
