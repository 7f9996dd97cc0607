"""Train a distribution's own parameters with each estimator: the curves, and the variance of the gradients on the way."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

import backdraw
from backdraw.backend import Array
from backdraw.distributions import Categorical, Distribution
from backdraw.estimators import ESTIMATORS, Entry
from backdraw.random import Key, as_key, fold_in, split
from backdraw.study import moments
from backdraw.study.adam import SGD, Adam, Arrays
from backdraw.study.curves import Curve, Curves
from backdraw.study.digits import to_numpy
from backdraw.study.measure import Progress, check_count, entry_of
from backdraw.study.report import LeftOut
from backdraw.study.sampler import Sampler, refusal, unfit, with_surrogate

Optimizer = SGD | Adam
Objective = Callable[[Callable[[Array], Array], Distribution], Array]
PER_DECADE = 10  # points of a curve


def expected(f: Callable[[Array], Array], dist: Distribution) -> Array:
    """Return E[f(x)] of each training, by enumeration."""
    return backdraw.exact(f, dist)


@dataclass(frozen=True)
class Training:
    """How a problem is trained.

    Attributes
    ----------
    optimizer : SGD or Adam
        What takes the steps.
    steps : int
        How many.
    estimators : tuple of str
        What is trained with; empty means every estimator.
    objective : callable
        From f and a distribution with an axis of trainings in front, the number of each training that is drawn.
    label : str
        What that is, with its unit.
    least : float
        The least that it can be; NaN if that is not known.
    logarithmic : bool
        Whether it is drawn on a logarithmic axis.
    grid : tuple of str
        The estimators that have a panel each.
    remark : str
        What to know of the curves.
    """

    optimizer: Optimizer
    steps: int
    estimators: tuple[str, ...] = ()
    objective: Objective = expected
    label: str = "E[f(x)]"
    least: float = np.nan
    logarithmic: bool = False
    grid: tuple[str, ...] = ()
    remark: str = ""


def train(
    f: Callable[[Array], Array],
    dist: Distribution | Array,
    training: Training,
    estimators: Iterable[str | Entry] | None = None,
    trainings: int = 20,
    *,
    rng: Any = None,
    gradients: int = 100,
    progress: Progress | None = None,
    spread: Callable[..., Iterable[Any]] = map,
    problem: str = "",
) -> Curves:
    """Descend f along the gradients of each estimator, in several trainings at a time.

    Parameters
    ----------
    f : callable
        As for `backdraw.study.measure`.
    dist : Distribution or array
        Where every training starts; an array means ``Categorical(array)``. All its parameters are trained.
    training : Training
        The optimiser, its steps, and what is drawn.
    estimators : iterable of str or Entry, optional
        As for `backdraw.study.measure`; by default those that `training` names.
    trainings : int
        How many independent trainings with each estimator, at least 2: the curves are medians of them.
    rng : optional
        As for `backdraw.draw`. A `backdraw.key` gives the same curves, but for rounding, on every backend.
    gradients : int
        How many gradients at each point of a curve the variance is taken from, at least 2.
    progress : callable, optional
        Called as ``progress(done, total, estimator)`` when an estimator is through.
    spread : callable, optional
        As for `backdraw.study.measure`: what computes the trainings of the estimators.
    problem : str, optional
        A title.

    Returns
    -------
    Curves
        A curve for each estimator, the lowest first, and the reason for each that cannot be trained with.

    Raises
    ------
    TypeError
        If f returns no array of the distribution's framework, or an argument is of another type.
    ValueError
        If there is no such estimator or option, f's values have another shape, or a number is too small.

    Notes
    -----
    The trainings of an estimator are a batch axis: one step of all of them is one call. The key of a step is folded from the
    estimator's name and the number of the step: the first steps are the same however many follow. Points lie ten to a
    decade of steps. Ctrl-C keeps the estimators that are through.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> from backdraw.study.training import SGD, Training, train
    >>> f = lambda x: (x - 0.49) ** 2
    >>> curves = train(f, backdraw.Bernoulli(np.array(0.0)), Training(SGD(10.0), 100), ["disarm"], rng=backdraw.key(0))
    >>> [round(curves.curves[0].objective[i].value, 3) for i in (0, -1)]
    [0.25, 0.241]
    """
    p: Any = dist if isinstance(dist, Distribution) else Categorical(dist)
    p = p.stopped()
    for name, value, least in (("steps", training.steps, 1), ("trainings", trainings, 2), ("gradients", gradients, 2)):
        check_count(name, value, least)
    names = estimators if estimators is not None else training.estimators or ESTIMATORS
    key, sampler = as_key(p.backend, rng, p.params[0]), Sampler(f, p)
    entries = [with_surrogate(entry_of(e), f) for e in names]
    left_out = [LeftOut(e.name, reason) for e in entries if (reason := unfit(e, p))]
    fit = tuple(e for e in entries if not unfit(e, p))
    work = Course(sampler, fit, key, training, points(training.steps), trainings, gradients)
    curves, interrupted = [], False
    try:
        for done, (index, curve, failure) in enumerate(spread(work, range(len(fit))), start=1):
            if curve is None:
                left_out.append(LeftOut(fit[index].name, failure))
            else:
                curves.append(curve)
            if progress is not None:
                progress(done, len(fit), fit[index].name)
    except KeyboardInterrupt:
        interrupted = True
    return Curves(
        problem=problem,
        backend=p.backend.name,
        distribution=type(p).__name__,
        optimizer=f"{type(training.optimizer).__name__}, learning rate {training.optimizer.learning_rate:g}",
        trainings=trainings,
        gradients=gradients,
        label=training.label,
        least=training.least,
        logarithmic=training.logarithmic,
        grid=training.grid,
        steps=points(training.steps),
        interrupted=interrupted,
        curves=tuple(sorted(curves, key=lambda c: (np.isnan(c.objective[-1].value), c.objective[-1].value))),
        left_out=tuple(left_out),
    )


def points(steps: int) -> tuple[int, ...]:
    """Return the numbers of steps after which a curve has a point: ten to a decade, and the last."""
    decades = range(int(PER_DECADE * np.log10(steps)) + 1)
    return tuple(sorted({0, steps, *(round(10 ** (i / PER_DECADE)) for i in decades)}))


@dataclass(frozen=True)
class Course:
    """What trains with one estimator, here or, sent there, in another process."""

    sampler: Sampler
    entries: tuple[Entry, ...]
    key: Key
    training: Training
    points: tuple[int, ...]
    trainings: int
    gradients: int

    def __call__(self, index: int) -> tuple[int, Curve | None, str]:
        """Train with an estimator; return its curve, or why there is none."""
        try:
            return index, self.curve(self.entries[index]), ""
        except Exception as error:
            return index, None, refusal(error, self.entries[index], self.sampler.p)

    def curve(self, entry: Entry) -> Curve:
        """Train with an estimator."""
        p, optimizer = self.sampler.p, self.training.optimizer
        be, xp = p.backend, p.backend.xp
        key, probe = split(fold_in(self.key, zlib.crc32(entry.name.encode())))
        eps = float(xp.finfo(p.params[0].dtype).eps)
        n, many = self.trainings, self.trainings * self.gradients

        def step(carry: Any, index: Array) -> tuple[Any, None]:
            parameters, state = carry
            found = self.sampler.gradients(entry, fold_in(key, index), *parameters)
            return optimizer.update(parameters, tuple(be.stop_gradient(g) for g in found), state), None

        def look(parameters: Arrays, index: Array) -> tuple[Arrays, Array]:
            value = self.training.objective(self.sampler.f, p.with_params(parameters))
            wide = (xp.reshape(xp.broadcast_to(x, (self.gradients, *x.shape)), (many, *x.shape[1:])) for x in parameters)
            rows = self.sampler.flat(self.sampler.gradients(entry, fold_in(probe, index), *wide))
            rows = xp.reshape(rows, (self.gradients, n, -1))
            variance = xp.sum(xp.var(rows, axis=0, correction=1.0), axis=-1)
            # What is no more than rounding in the gradients, or in the values of f that they are made of, is zero.
            rounding = 16.0 * eps * (self.sampler.size + xp.max(xp.abs(rows), axis=(0, 2)))
            variance = xp.where(variance > rows.shape[-1] * rounding**2, variance, 0.0)
            while value.ndim > 1:  # the batch that f leaves
                value = xp.sum(value, axis=-1)
            return parameters, xp.stack((be.stop_gradient(value), variance))

        def numbers(*values: int) -> Array:
            return xp.asarray(values, dtype=xp.int32, device=be.device(p.params[0]))

        parameters: Arrays = tuple(xp.asarray(xp.broadcast_to(x, (n, *x.shape)), copy=True) for x in p.params)
        carry: Any = (parameters, optimizer.init(parameters))
        seen, before = [], 0
        for point in self.points:
            while before < point:  # in powers of two, so that a backend which compiles has few programs to make
                ahead = 2 ** ((point - before).bit_length() - 1)
                carry = be.scan(step, carry, numbers(*range(before, before + ahead)))[0]
                before += ahead
            seen.append(to_numpy(be.scan(look, carry[0], numbers(point))[1][0, ...]))
        values = np.asarray(seen)  # points, (objective, variance), trainings
        kept = values[:, :, np.all(np.isfinite(values), axis=(0, 1))]
        objective, variance = (tuple(moments.median([float(x) for x in row]) for row in kept[:, i]) for i in (0, 1))
        return Curve(entry.name, entry.gradient, n - kept.shape[2], objective, variance)
