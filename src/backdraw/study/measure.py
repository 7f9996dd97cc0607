"""Measure estimators on one problem: the bias, the variance and the time of the gradients that they give there."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from backdraw.backend import Array
from backdraw.distributions import Categorical, Distribution
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators import ESTIMATORS, Entry
from backdraw.random import as_key
from backdraw.study import moments
from backdraw.study.report import LeftOut, Report, Row
from backdraw.study.sampler import DRAWS, Job, Result, Sampler, Work, draws, options_of, target, unfit, with_surrogate

Progress = Callable[[int, int, str], None]
Spread = Callable[[Callable[[Job], Result], Iterable[Job]], Iterable[Result]]


def measure(
    f: Callable[[Array], Array],
    dist: Distribution | Array,
    estimators: Iterable[str | Entry] | None = None,
    repeats: int = 1000,
    *,
    rng: Any = None,
    reference: int = 200_000,
    shared: bool = False,
    progress: Progress | None = None,
    spread: Spread = map,
    problem: str = "",
) -> Report:
    r"""Measure the gradients of E[f(x)] that estimators give, against the true one.

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`, and with one more batch axis in front of the others, the repeats: it takes x of shape
        ``(samples, repeats, *dist's shape)``. What is differentiated is the sum of its mean over the batch. On NumPy an
        estimator that differentiates f can be measured if f is made of primitives.
    dist : Distribution or array
        What x is drawn from; an array means ``Categorical(array)``. The gradient is that in its parameters.
    estimators : iterable of str or Entry, optional
        Names in the registry; ``"gumbel_softmax:temperature=0.1"`` sets an option. By default every estimator.
    repeats : int
        How many independent gradients of each, at least 2.
    rng : optional
        As for `backdraw.draw`. A `backdraw.key` gives the same report, but for the times, on every backend.
    reference : int
        How many draws the reference takes where the exact gradient cannot be enumerated.
    shared : bool
        Whether all the parameters are one number: the gradient is then in that, the sum over the coordinates.
    progress : callable, optional
        Called as ``progress(done, total, estimator)`` after each block of repeats.
    spread : callable, optional
        What computes the blocks, called as the builtin ``map`` is, and with its order of results: `backdraw.study.spread`
        has others, for several processes or machines.
    problem : str, optional
        A title for the report.

    Returns
    -------
    Report
        A row for each estimator that can be measured, the best first, and the reason for each that cannot.

    Raises
    ------
    TypeError
        If f returns no array of the distribution's framework, or an argument is of another type.
    ValueError
        If there is no such estimator or option, f's values have another shape, or a number is too small.

    Notes
    -----
    The true gradient is enumerated where there are at most 2**20 joint values, and otherwise the mean of rloo over
    `reference` draws, whose own error enters every interval. Repeats are a leading batch axis, in blocks of 100, or of
    fewer where they would take too much memory. The key of a block is folded from the estimator's name and the number of
    the block: the first repeats of an estimator are the same however many follow, and whatever else is measured.
    An estimator that draws nothing is measured in one block. f itself serves as the surrogate of `backdraw.relax`, if its
    entry has no other.

    An estimator stated unbiased is flagged if the bias of its only coordinate exceeds 4.5 standard errors, or the largest
    of several the bound that it exceeds as seldom; of more than 50 coordinates, 50 random combinations are tested. The law
    of a mean is taken for normal: under 300 repeats, where it is not yet, nobody that draws is flagged; and of a coordinate
    that is zero but once in a thousand repeats, a thousand say little, and the flag may err.

    Ctrl-C ends the measurement and keeps what there is; the report says so.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> from backdraw.study.measure import measure
    >>> f = lambda x: (x - 0.49) ** 2
    >>> report = measure(f, backdraw.Bernoulli(np.array(0.0)), ["reinforce", "disarm"], rng=backdraw.key(0))
    >>> [(row.name, float(f"{row.variance.value:.2g}"), row.flagged) for row in report.rows]
    [('disarm', 0.0, False), ('reinforce', 0.016, False)]
    """
    p: Any = dist if isinstance(dist, Distribution) else Categorical(dist)
    p = p.stopped()
    check_count("repeats", repeats, 2)
    check_count("reference", reference, 2 * DRAWS)
    entries = [with_surrogate(entry_of(e), f) for e in (ESTIMATORS if estimators is None else estimators)]
    key, sampler = as_key(p.backend, rng, p.params[0]), Sampler(f, p, shared=shared)
    truth, how = target(sampler, key, reference)
    runs, left_out = [], []
    for entry in entries:
        reason = unfit(entry, p)
        if reason:
            left_out.append(LeftOut(entry.name, reason))
        else:
            runs.append(_Run(sampler, entry, repeats, truth))
    interrupted, work = False, Work(sampler, tuple(run.entry for run in runs), key)
    try:
        for index, grads, seconds, failure in spread(work, _jobs(runs)):
            runs[index].add(grads, seconds, failure)
            if progress is not None:
                going = [run for run in runs if not run.failure]
                progress(sum(run.block for run in going), sum(run.blocks for run in going), runs[index].entry.name)
    except KeyboardInterrupt:
        interrupted = True
    left_out += [LeftOut(run.entry.name, run.failure) for run in runs if run.failure]
    rows = [run.row() for run in runs if not run.failure]
    return Report(
        problem=problem,
        backend=p.backend.name,
        dtype=str(p.params[0].dtype).rpartition(".")[2],
        distribution=type(p).__name__,
        coordinates=truth.mean.size,
        reference=how,
        gradient_norm=moments.about(float(np.linalg.norm(truth.mean)), math.sqrt(truth.variance), least=0.0),
        repeats=repeats,
        interrupted=interrupted,
        rows=tuple(sorted(rows, key=lambda row: (math.isnan(row.error.value), row.error.value))),
        left_out=tuple(left_out),
    )


def entry_of(estimator: str | Entry) -> Entry:
    """Return the entry of a name, with the options that may follow it: ``"rloo:samples=8"``."""
    if isinstance(estimator, Entry):
        return estimator
    if not isinstance(estimator, str):
        raise InvalidTypeError(f"estimators: expected names or entries, got {type(estimator).__name__}")
    name, _, rest = estimator.partition(":")
    if name not in ESTIMATORS:
        near = difflib.get_close_matches(name, ESTIMATORS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InvalidValueError(f"estimators: there is no {name!r}{hint}")
    entry = ESTIMATORS[name]
    options = dict(entry.options)
    for part in rest.split(",") if rest else ():
        option, equals, value = part.partition("=")
        known = [o for o, p in options_of(entry).items() if o != "rng" and p.default is not p.empty]
        if option not in known or not equals:
            raise InvalidValueError(f"estimators: {name} takes {', '.join(known) or 'no options'}, got {part!r}")
        options[option] = _parsed(value)
    return dataclasses.replace(entry, name=estimator, options=options)


def _parsed(value: str) -> Any:
    if value in ("True", "False"):
        return value == "True"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def check_count(name: str, value: Any, least: int) -> None:
    """Raise if a number is no int, or less than it may be."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{name}: expected an int, got {type(value).__name__}")
    if value < least:
        raise InvalidValueError(f"{name}: expected {least} or more, got {value}")


class _Run:
    """The measurement of one estimator."""

    def __init__(self, sampler: Sampler, entry: Entry, repeats: int, truth: moments.Target) -> None:
        self.sampler, self.entry, self.truth = sampler, entry, truth
        self.n = sampler.block(entry)
        self.repeats = repeats if draws(entry) else min(repeats, self.n)
        self.blocks = -(-self.repeats // self.n)
        self.block, self.failure = 0, ""
        self.moments, self.probed = moments.Moments(truth.mean), moments.Moments(truth.probes)
        self.seconds: list[float] = []

    def add(self, grads: np.ndarray | None, seconds: float, failure: str) -> None:
        """Add the next block, or note why there is none."""
        self.failure = self.failure or failure
        if grads is not None:
            grads = grads[: self.repeats - self.block * self.n]
            self.moments.add(grads)
            self.probed.add(moments.probes(grads))
            self.seconds.append(seconds / self.n)
            self.block += 1

    def row(self) -> Row:
        """Return what has been measured so far."""
        m, truth, sampler = self.moments, self.truth, self.sampler
        eps = float(sampler.p.backend.xp.finfo(sampler.p.params[0].dtype).eps)
        sizes = (float(np.max(np.abs(x), initial=0.0)) for x in (truth.mean, m.mean))
        rounding = 16.0 * eps * (sampler.size + sum(sizes))
        z, bound = moments.largest_z(self.probed, truth, rounding), moments.bound(truth.mean.size)
        bias, bias_error = moments.bias(m, truth)
        enough = m.count >= moments.ENOUGH or not draws(self.entry)  # what draws nothing leaves nothing to chance
        rounded = truth.mean.size * rounding**2
        variance, seconds = moments.above(m.variance, rounded), moments.median(self.seconds)
        return Row(
            name=self.entry.name,
            stated=self.entry.gradient,
            repeats=m.count,
            complete=self.block == self.blocks,
            nan=m.nan,
            bias=moments.above(bias, rounding),
            bias_error=bias_error,
            z=z,
            bound=bound,
            flagged=self.entry.gradient == "unbiased" and enough and z > bound,
            variance=variance,
            error=moments.above(moments.error(m, truth), rounded),
            cosine=moments.cosine(m, truth),
            direction=moments.direction(m),
            scatter=moments.scatter(m),
            seconds=seconds,
            work=moments.product(variance, seconds),
        )


def _jobs(runs: list[_Run]) -> Iterator[Job]:
    """Give each run in turn its next block, so that an interruption leaves them equally far."""
    for block in range(max((run.blocks for run in runs), default=0)):
        yield from ((i, block) for i, run in enumerate(runs) if block < run.blocks and not run.failure)
