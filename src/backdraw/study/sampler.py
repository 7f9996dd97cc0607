"""The gradients of one problem, computed a block of repeats at a time, and the gradient that they should be."""

import dataclasses
import inspect
import math
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import backdraw
from backdraw.backend import Array
from backdraw.errors import BackdrawError, GradientError, InvalidTypeError, InvalidValueError
from backdraw.estimators import ESTIMATORS, Entry
from backdraw.estimators.expectation import evaluate
from backdraw.estimators.joint import LIMIT
from backdraw.random import Key, fold_in
from backdraw.study import moments
from backdraw.study.digits import to_numpy

BLOCK = 100  # repeats that are computed together
NUMBERS = 2**23  # in the largest array of a block, about
DRAWS = 100  # of each rloo gradient in the reference
Step = Callable[[Any, Array], tuple[Any, Array]]
Job = tuple[int, int]  # the number of an estimator, and of a block
Result = tuple[int, np.ndarray | None, float, str]  # the estimator, its gradients, seconds; or why there are none


class Sampler:
    """The problem, and how its gradients are computed: a block of repeats at a time."""

    def __init__(self, f: Callable[[Array], Array], p: Any, *, shared: bool = False) -> None:
        self.f, self.p, self.shared = f, p, shared
        two = p.repeated(2).stopped()
        if any(tuple(x.shape[:1]) != (2,) for x in two.params):  # repeats that share a temperature have no gradient each
            raise InvalidTypeError("dist: expected a number as its temperature, to be measured, got an array")
        values = evaluate(f, backdraw.draw(two, shape=1, rng=Key(0, 0)), two)  # what is wrong with f is told here
        if values.ndim < 2:
            raise InvalidValueError(
                "f: expected values of shape (samples, repeats, *batch), one more batch axis than dist has, "
                f"got shape {tuple(values.shape)}"
            )
        self.kept = values.ndim - 2
        self.size = float(p.backend.xp.max(p.backend.xp.abs(p.backend.stop_gradient(values))))

    @property
    def joint(self) -> float:
        """The number of joint values, infinite where they cannot be enumerated."""
        if not (hasattr(self.p, "support") and hasattr(self.p, "log_prob")):
            return math.inf
        states, factors = self.p.support()[0].shape[0], math.prod(self.p.batch_shape[self.kept :])
        return math.inf if factors * math.log2(states) > math.log2(LIMIT) else states**factors

    def block(self, entry: Entry) -> int:
        """Return how many repeats go into a block."""
        return max(2, min(BLOCK, NUMBERS // max(1, self.numbers * self.evaluations(entry))))

    @property
    def numbers(self) -> int:
        """How many numbers the parameters have."""
        return sum(math.prod(x.shape) for x in self.p.params)

    def evaluations(self, entry: Entry) -> int:
        """Return about how many values f is given for one gradient."""
        states = self.p.support()[0].shape[0] if hasattr(self.p, "support") else 3
        needs = set(entry.needs)
        if "support" in needs and needs & {"score", "log_prob"}:
            return int(min(self.joint, LIMIT))
        if needs & {"support", "derivative_measures"}:  # a coordinate is changed at a time
            return states * math.prod(self.p.batch_shape[self.kept :])
        return states**2 if "swaps" in needs else 1

    def gradients(self, entry: Entry, key: Key, *params: Array) -> tuple[Array, ...]:
        """Return an estimate of the gradient in each of the parameters, which have one more axis in front."""
        p = self.p
        noise: dict[str, Any] = {"rng": key} if draws(entry) else {}

        def estimate(*params: Array) -> Array:
            q = p.with_params(params)
            return entry(self.f, q, **noise) if entry.kind == "expectation" else entry.expectation(self.f, q, **noise)

        value, pullback = backdraw.vjp(estimate, *params)
        return pullback(p.backend.xp.ones_like(value))

    def step(self, entry: Entry, key: Key, n: int) -> Step:
        """Return the step of a `Backend.scan`, from the number of a block to its n gradients, one a row."""
        xp = self.p.backend.xp
        params = [xp.broadcast_to(x, (n, *x.shape)) for x in self.p.params]

        def step(carry: Any, index: Array) -> tuple[Any, Array]:
            return carry, self.flat(self.gradients(entry, fold_in(key, index), *params))

        return step

    def flat(self, grads: tuple[Array, ...]) -> Array:
        """Return gradients as rows."""
        be = self.p.backend
        rows = be.xp.concat([be.xp.reshape(be.stop_gradient(g), (g.shape[0], -1)) for g in grads], axis=1)
        return be.xp.sum(rows, axis=1, keepdims=True) if self.shared else rows

    def run(self, step: Step, block: int) -> tuple[np.ndarray, float]:
        """Return the gradients of a block, and the seconds that they took."""
        be = self.p.backend
        number = be.xp.asarray([block], dtype=be.xp.int32, device=be.device(self.p.params[0]))
        start = time.perf_counter()
        grads = be.scan(step, (), number)[1]
        float(grads[0, 0, 0])  # it has been computed then
        seconds = time.perf_counter() - start
        return to_numpy(grads[0, ...]).astype(np.float64), seconds


@dataclass(frozen=True)
class Work:
    """What computes the blocks of several estimators, here or, sent there, in another process."""

    sampler: Sampler
    entries: tuple[Entry, ...]
    key: Key
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, job: Job) -> Result:
        """Compute a block of one estimator."""
        index, block = job
        steps, entry = _steps(self.token), self.entries[index]
        try:
            if index not in steps:
                key = fold_in(self.key, zlib.crc32(entry.name.encode()))
                steps[index] = self.sampler.step(entry, key, self.sampler.block(entry))
                self.sampler.run(steps[index], block)  # what compiles does so now, outside the time
            return (index, *self.sampler.run(steps[index], block), "")
        except Exception as error:
            return index, None, 0.0, refusal(error, entry, self.sampler.p)


# The steps of the measurement that now runs in this process, of which a worker may get many blocks: each compiles once.
_compiled: dict[str, dict[int, Step]] = {}


def _steps(token: str) -> dict[int, Step]:
    if token not in _compiled:
        _compiled.clear()
        _compiled[token] = {}
    return _compiled[token]


def draws(entry: Entry) -> bool:
    """Whether an estimator takes noise."""
    return "rng" in options_of(entry)


def with_surrogate(entry: Entry, f: Callable[[Array], Array]) -> Entry:
    """Return the entry with f as the surrogate that it may ask for and not have."""
    asks = "surrogate" in options_of(entry) and "surrogate" not in entry.options
    return dataclasses.replace(entry, options={**entry.options, "surrogate": f}) if asks else entry


def options_of(entry: Entry) -> dict[str, inspect.Parameter]:
    """Return what an estimator takes by name."""
    return {n: p for n, p in inspect.signature(entry.function).parameters.items() if p.kind is p.KEYWORD_ONLY}


def refusal(error: Exception, entry: Entry, p: Any) -> str:
    """Return why an estimator that fits raised an error; raise it again if f did so at its own draws."""
    differentiates = entry.differentiable_f or "surrogate" in entry.options
    if isinstance(error, GradientError) and differentiates:
        return f"it needs the gradient of f, which torch and jax have, not {p.backend.name}"
    if isinstance(error, BackdrawError):
        return str(error)
    if not differentiates:
        raise error
    return f"f, differentiated or given relaxed draws, raised {type(error).__name__}: {str(error).partition(chr(10))[0]}"


def unfit(entry: Entry, p: Any) -> str:
    """Return why an estimator cannot be measured with a distribution; an empty string where it can."""
    kind = "discrete" if p.discrete else "continuous"
    if entry.gradient == "none":
        return "its draws carry no gradient"
    if entry.domain not in ("both", kind):
        return f"it is for {entry.domain} distributions"
    for need in entry.needs:
        if not hasattr(p, need):
            return f"it needs {need}() of {type(p).__name__}, but {p.reason(need)}"
    if entry.objective != "mean":
        return f"its gradient is that of another objective, the {entry.objective} of f"
    taken = options_of(entry).items()
    missing = [n for n, p in taken if p.default is p.empty and n not in entry.options and n != "rng"]
    return f"it needs the option {missing[0]}, which has no default" if missing else ""


def target(sampler: Sampler, key: Key, reference: int) -> tuple[moments.Target, str]:
    """Return the true gradient: enumerated, or as the mean of rloo over so many draws; and which of the two it is."""
    if math.isfinite(sampler.joint):
        grads, _ = sampler.run(sampler.step(ESTIMATORS["exact"], key, 1), 0)
        probes = moments.probes(grads)[0]
        return moments.Target(grads[0], np.zeros_like(grads[0]), probes, np.zeros_like(probes)), "exact"
    rloo = dataclasses.replace(ESTIMATORS["rloo"], options={"samples": DRAWS})
    why = unfit(rloo, sampler.p)
    if why:
        raise InvalidTypeError(f"dist: its gradient cannot be enumerated, and rloo cannot take its place: {why}")
    n = max(2, min(BLOCK, NUMBERS // DRAWS // max(1, sampler.numbers)))
    step = sampler.step(rloo, fold_in(key, zlib.crc32(b"reference")), n)
    m, probed, blocks = moments.Moments(np.zeros(1)), moments.Moments(np.zeros(1)), -(-reference // (n * DRAWS))
    for block in range(blocks):
        grads, _ = sampler.run(step, block)
        m.add(grads)
        probed.add(moments.probes(grads))
    if m.count < 2:
        raise InvalidValueError("f: the gradients of its reference, by rloo, are not finite")
    parts = m.mean, m.variances / m.count, probed.mean, probed.variances / m.count
    return moments.Target(*parts), f"rloo, {blocks * n * DRAWS} draws"
