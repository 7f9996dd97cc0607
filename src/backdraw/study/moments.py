"""The statistics of repeated gradients, gathered block by block in memory that does not grow with the repeats."""

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

WIDTH = NormalDist().inv_cdf(0.975)  # of the intervals, in standard errors: they cover 95 %
ONE_COORDINATE = 4.5
COORDINATES = 50  # that are tested for a bias one by one; of more, as many random combinations are
ENOUGH = 300  # repeats: of fewer, the law of a mean is not normal enough for a bias to be told from chance
NAN = math.nan


class Estimate(NamedTuple):
    """A number with its 95 % confidence interval."""

    value: float
    low: float
    high: float


NOTHING = Estimate(NAN, NAN, NAN)


def about(value: float, error: float, *, least: float = -math.inf) -> Estimate:
    """Return a number with the interval of its standard error."""
    return Estimate(value, max(least, value - WIDTH * error), value + WIDTH * error)


@dataclass
class Sums:
    """Sums of numbers and of their squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Add numbers."""
        self.count += values.size
        self.total += float(values.sum())
        self.squares += float((values * values).sum())

    @property
    def mean(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / self.count if self.count else NAN

    @property
    def error(self) -> float:
        """The standard error of the mean; NaN of less than two numbers."""
        if self.count < 2:
            return NAN
        return math.sqrt(max(0.0, self.squares - self.total * self.mean) / (self.count - 1) / self.count)


@dataclass
class Moments:
    """What is kept of the gradients of one estimator; blocks must be added in one order for the last bits to agree."""

    target: np.ndarray
    count: int = 0
    nan: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))  # of the deviations from the mean, by coordinate
    spread: Sums = field(default_factory=Sums)  # of each repeat around its block's mean, its expectation the variance
    miss: Sums = field(default_factory=Sums)  # of each repeat from the target, squared
    aim: Sums = field(default_factory=Sums)  # the cosine of each repeat to the target
    unit: np.ndarray = field(default_factory=lambda: np.zeros(0))  # the sum of the repeats, each of length 1

    def add(self, grads: np.ndarray) -> None:
        """Add the gradients of a block, one a row; those that are not finite are counted and left out."""
        kept = grads[np.all(np.isfinite(grads), axis=1)]
        self.nan += len(grads) - len(kept)
        n = len(kept)
        if not n:
            return
        mean = kept.mean(axis=0)
        around = (kept - mean) ** 2
        if n > 1:
            self.spread.add(around.sum(axis=1) * (n / (n - 1)))
        self.miss.add(((kept - self.target) ** 2).sum(axis=1))
        units = _units(kept)
        self.aim.add((units * _units(self.target[None])).sum(axis=1))
        self.unit = self.unit + units.sum(axis=0) if self.count else units.sum(axis=0)
        if not self.count:
            self.count, self.mean, self.squares = n, mean, around.sum(axis=0)
            return
        total, shift = self.count + n, mean - self.mean
        self.squares = self.squares + around.sum(axis=0) + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    @property
    def variances(self) -> np.ndarray:
        """The unbiased variance of each coordinate."""
        return self.squares / (self.count - 1) if self.count > 1 else np.full_like(self.mean, NAN)

    @property
    def variance(self) -> Estimate:
        """The trace of the covariance."""
        return about(float(self.variances.sum()), self.spread.error, least=0.0) if self.count > 1 else NOTHING


@dataclass(frozen=True)
class Target:
    """The gradient that the estimates are compared with, and the variance of its own error by coordinate.

    Its probes are what is tested for a bias, with the variances of their errors.
    """

    mean: np.ndarray
    variances: np.ndarray
    probes: np.ndarray
    probe_variances: np.ndarray

    @property
    def variance(self) -> float:
        """The variance of the error, all coordinates together."""
        return float(self.variances.sum())


def probes(grads: np.ndarray) -> np.ndarray:
    """Return the coordinates of gradients, or random combinations of them where they are many."""
    # A coordinate whose gradient is seldom not zero is far from normal for long, and of thousands there are always some
    # whose mean is off and whose variance does not show it. In a combination they count by what they add to the variance.
    n = grads.shape[1]
    if n <= COORDINATES:
        return grads
    signs = 2.0 * np.random.default_rng(0).integers(0, 2, size=(n, COORDINATES)) - 1.0
    return grads @ (signs / math.sqrt(n))


def bias(m: Moments, target: Target) -> tuple[Estimate, float]:
    """Return the norm of the bias, and a bound of its standard error."""
    # The norm is off by no more than the norm of the noise in it, whose mean square is the variance of the mean.
    if m.count < 2:
        return NOTHING, NAN
    error = math.sqrt(float(m.variances.sum()) / m.count + target.variance)
    return about(float(np.linalg.norm(m.mean - target.mean)), error, least=0.0), error


def largest_z(m: Moments, target: Target, rounding: float) -> float:
    """Return the largest bias of the probes in standard errors; `rounding` is what an estimate without variance may err."""
    # The quotient follows Student's law: it is carried over to the normal quantile of the same probability (Wallace 1959).
    if m.count < 2:
        return NAN
    error = np.sqrt(m.variances / m.count + target.probe_variances + rounding**2)
    t = np.abs(m.mean - target.probes) / np.where(error > 0, error, 1.0)
    nu = m.count - 1
    return float(np.max((8 * nu + 1) / (8 * nu + 3) * np.sqrt(nu * np.log1p(t * t / nu)), initial=0.0))


def bound(coordinates: int) -> float:
    """Return what the largest z of a gradient exceeds as seldom as a single one exceeds 4.5, seven times in a million."""
    law = NormalDist()
    return -law.inv_cdf(law.cdf(-ONE_COORDINATE) / max(1, min(coordinates, COORDINATES)))


def error(m: Moments, target: Target) -> Estimate:
    """Return the mean squared error, less what is the target's own."""
    own = target.variance
    spread = about(m.miss.mean - own, m.miss.error)
    return Estimate(*(max(0.0, x) for x in spread)) if m.count > 1 and math.isfinite(spread.value) else NOTHING


def cosine(m: Moments, target: Target) -> Estimate:
    """Return the cosine of the mean to the target, with the angles that the noise in both can turn them by."""
    lengths = float(np.linalg.norm(m.mean)), float(np.linalg.norm(target.mean))
    if m.count < 2 or not all(0.0 < x < math.inf for x in lengths):
        return NOTHING
    noises = math.sqrt(float(m.variances.sum()) / m.count), math.sqrt(target.variance)
    value = min(1.0, max(-1.0, float(m.mean @ target.mean) / lengths[0] / lengths[1]))
    turns = (WIDTH * noise / length for noise, length in zip(noises, lengths, strict=True))
    turn = sum(math.asin(s) if s < 1.0 else math.pi for s in turns)
    angle = math.acos(value)
    return Estimate(value, math.cos(min(math.pi, angle + turn)), math.cos(max(0.0, angle - turn)))


def direction(m: Moments) -> Estimate:
    """Return the mean cosine of one gradient to the target; what is zero points nowhere, and counts as 0."""
    known = m.count > 1 and 0.0 < float(np.linalg.norm(m.target)) < math.inf
    return about(m.aim.mean, m.aim.error) if known else NOTHING


def scatter(m: Moments) -> Estimate:
    """Return one less the mean cosine of one gradient to the mean of all; the interval is a bound."""
    length = float(np.linalg.norm(m.mean))
    if m.count < 2 or not length:
        return NOTHING
    value = float(m.unit @ m.mean) / m.count / length
    return about(max(0.0, 1.0 - value), math.sqrt(max(0.0, 1.0 - value * value) / m.count), least=0.0)


def _units(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def median(values: list[float]) -> Estimate:
    """Return the median with the interval between two of the values that covers it, whatever their law; NaN below six."""
    if len(values) < 6:
        return Estimate(float(np.median(values)), NAN, NAN) if values else NOTHING
    ordered, n = sorted(values), len(values)
    k = max(0, math.floor((n - WIDTH * math.sqrt(n)) / 2))  # so many values on either side are left out
    return Estimate(float(np.median(ordered)), ordered[k], ordered[n - 1 - k])


def product(a: Estimate, b: Estimate) -> Estimate:
    """Return the product of two numbers that are not negative."""
    return Estimate(a.value * b.value, a.low * b.low, a.high * b.high)


def above(e: Estimate, rounding: float) -> Estimate:
    """Return a number that is not negative, zero where it is no more than rounding."""
    return Estimate(0.0, 0.0, 0.0) if e.value <= rounding else e
