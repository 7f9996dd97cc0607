"""The built-in problems that estimators are measured on: each a function f, a distribution, and where it is from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import backdraw
from backdraw.backend import Array
from backdraw.errors import InvalidTypeError
from backdraw.estimators import ESTIMATORS
from backdraw.study import digits_elbo
from backdraw.study.adam import SGD, Adam
from backdraw.study.costs import bell, cosine, cross_entropy, power, quadratic_form
from backdraw.study.training import Training

Made = tuple[Callable[[Array], Array], backdraw.Distribution]
SEED = 0  # of the problems that are drawn themselves


@dataclass(frozen=True)
class Problem:
    """A problem with a name.

    Attributes
    ----------
    name : str
        Its name on the command line.
    summary, source : str
        What it is, and where it is from.
    make : callable
        From an Array API namespace, f and the distribution, in float64.
    estimators : tuple of str
        What is measured beside every estimator at its defaults, such as ``"gumbel_softmax:temperature=0.1"``.
    remark : str
        What to know of the numbers.
    reference : int
        How many draws the gradient takes where it cannot be enumerated.
    training : Training, optional
        How it is trained, if it can be.
    shared : bool
        Whether all the parameters are one number, in which the gradient is taken.
    directions : bool
        Whether the cosines of single gradients are printed, too.
    """

    name: str
    summary: str
    source: str
    make: Callable[[Any], Made]
    estimators: tuple[str, ...] = ()
    remark: str = ""
    reference: int = 200_000
    training: Training | None = None
    shared: bool = False
    directions: bool = False


def _float64(xp: Any, values: Any) -> Array:
    return xp.asarray(np.asarray(values, np.float64).tolist(), dtype=xp.float64)


def _toy_kl(xp: Any) -> Made:
    logits, true = _toy()
    p = backdraw.Categorical(_float64(xp, logits - np.log(np.exp(logits).sum(-1, keepdims=True))))
    target = _float64(xp, true)
    return lambda x: cross_entropy(x, target), p


def _toy() -> tuple[np.ndarray, np.ndarray]:
    logits, true = np.random.default_rng(SEED).uniform(size=(2, 5, 5))
    return logits, true / true.sum(-1, keepdims=True)


def _true_kl(f: Callable[[Array], Array], dist: Any) -> Array:  # noqa: ARG001
    """KL(true || p) of each training, a mean over the five categoricals."""
    xp = dist.backend.xp
    log_true = _float64(xp, np.log(_toy()[1]))
    true = backdraw.Categorical(xp.broadcast_to(log_true, dist.logits.shape))
    return xp.mean(backdraw.kl(true, dist), axis=-1)


def _bits(logits: Any, c: Any, p: float, scale: float = 1.0) -> Callable[[Any], Made]:
    """Return what makes bits and ``scale * sum(abs(x - c)**p)``."""

    def make(xp: Any) -> Made:
        target = _float64(xp, c)
        axes = np.ndim(logits)
        return lambda x: power(x, target, p=p, axes=axes, scale=scale), backdraw.Bernoulli(_float64(xp, logits))

    return make


def _quadratic_categorical(xp: Any) -> Made:
    rng = np.random.default_rng(SEED)
    root = rng.normal(size=(16, 16))
    q, c, logits = _float64(xp, root @ root.T / 16), _float64(xp, np.full((4, 4), 0.45)), rng.normal(size=(4, 4))
    return lambda x: quadratic_form(x, c, q), backdraw.Categorical(_float64(xp, logits))


def _subset(xp: Any) -> Made:
    logits, b = (_float64(xp, x) for x in np.random.default_rng(SEED).normal(size=(2, 10)))
    return lambda x: power(x, b, p=2.0, axes=1, scale=1.0), backdraw.Subset(logits, 5)


def _normal(cost: Callable[[Any], Callable[[Array], Array]]) -> Callable[[Any], Made]:
    return lambda xp: (cost(xp), backdraw.Normal(_float64(xp, 1.0), _float64(xp, 1.5)))


def _square(xp: Any) -> Callable[[Array], Array]:
    k = _float64(xp, 1.0)
    return lambda x: power(x, k, p=2.0, axes=0, scale=1.0)


_REBAR = "the toy of REBAR (arXiv 1703.07370) and RELAX (arXiv 1711.00123)"
_LIU = "Liu et al. (arXiv 1810.04777), Kool et al. (arXiv 2002.06043)"
_REINMAX = "after ReinMax (arXiv 2304.08612), which has 128 bits; here the exact gradient can be enumerated"
_SURVEY = "the costs of Mohamed et al., Monte Carlo Gradient Estimation (arXiv 1906.10652), at k = 1"
_TOY = (
    *(f"intermediate_loss:step_size={s}" for s in (0.01, 0.001)),
    *(f"gumbel_softmax:temperature={t}" for t in (0.1, 10.0)),
)
_GRID = (
    *(f"intermediate_loss:step_size={s}" for s in (0.1, 0.01, 0.001)),
    *(f"gumbel_softmax:temperature={t}" for t in (0.1, 1, 10)),
)
_TOY_DRAWS = tuple(
    name
    for name, entry in ESTIMATORS.items()
    if entry.kind == "draw" and entry.gradient != "none" and name not in ("intermediate_loss", "gumbel_softmax")
)
_TOY_TRAINING = Training(
    SGD(0.01), 50_000, (*_GRID, *_TOY_DRAWS, "rloo"), _true_kl, "KL(true || p), nats per categorical", 0.0, True, _GRID,
    "The step sizes of intermediate_loss make no difference: the slope of the loss at a hard draw, -true / 1e-8 where the "
    "draw is 0, carries even the smallest step to one and the same target, and p settles near true (1 - true), not at true. "
    "Draws that hand that slope itself to the logits run off at the first step. What the loss itself descends to, as rloo "
    "shows, is a vertex: it is no divergence from true.",
)  # fmt: skip
_TOY_REMARK = (
    "The loss of a hard draw has the slope -true / 1e-8 wherever the draw is 0, which is most of it: an estimator that takes "
    "the slope at hard draws is off by orders of magnitude, and only relaxed draws and those that take values of the loss "
    "alone give its gradient."
)
_SHARED_REMARK = (
    "By enumeration, the variance of one gradient is 0.4384 for reinforce, 0.007275 for rloo, 0.006112 for unordered_set, "
    "0.004650 for disarm, and 0 for those that go over all values."
)
_SUBSET = ("implicit_mle:step_size=0.1", "stochastic_softmax:temperature=0.1")
_SUBSET_REMARK = (
    "straight_through, an exact draw with the gradient of the marginals, is SIMPLE. |x - b|^2 is linear in a subset x, but "
    "its slope 2 (x - b) is not that of the linear function: the x in it is what biases the estimators that take the slope."
)
PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem(
            "toy-kl", "5 five-way categoricals, mean(-true (log x - log true)), x and true + 1e-8",
            "toy example 1 of intermediate loss sampling", _toy_kl, _TOY, _TOY_REMARK,
            training=_TOY_TRAINING,
        ),
        *(
            Problem(
                f"bernoulli-toy{suffix}", f"one bit at logit 0, (x - {t})^2", _REBAR, _bits(0.0, t, 2.0),
                training=Training(Adam(0.01), 10_000, label=f"E[(x - {t})^2]", least=t * t),
            )
            for suffix, t in (("", 0.49), ("-0.45", 0.45), ("-0.499", 0.499))
        ),
        Problem(
            "shared-bernoulli", "3 bits at logit 0, sum_i (x_i - c_i)^2 for c = (.6, .51, .48); one logit for all",
            _LIU, _bits(np.zeros(3), (0.6, 0.51, 0.48), 2.0), remark=_SHARED_REMARK, shared=True,
        ),
        Problem(
            "quadratic-categorical", "4 four-way categoricals, (x - 0.45)' Q (x - 0.45), Q random and positive",
            _REINMAX.replace("128 bits", "its quadratic of 128 bits"), _quadratic_categorical,
        ),
        *(
            Problem(
                f"polynomial{suffix}", f"10 bits at logit 0, mean_i |x_i - 0.45|^{p:g}", _REINMAX,
                _bits(np.zeros(10), np.full(10, 0.45), p, 0.1),
            )
            for suffix, p in (("", 2.0), ("-1.5", 1.5), ("-3", 3.0))
        ),
        Problem(
            "subset", "5 of 10 items, |x - b|^2, b and the logits from N(0, 1)",
            "the synthetic experiment of SIMPLE (arXiv 2210.01941)", _subset, _SUBSET, _SUBSET_REMARK, directions=True,
        ),
        Problem(
            "digits-elbo", "64 digits coded by 20 ten-way categoricals each, their cost given the code; takes minutes",
            "the model of backdraw train digits after 30 epochs", digits_elbo.make, reference=20_000,
        ),
        Problem("normal-quadratic", "Normal(1, 1.5), (x - 1)^2", _SURVEY, _normal(_square)),
        Problem("normal-exponential", "Normal(1, 1.5), exp(-x^2)", _SURVEY, _normal(lambda _: lambda x: bell(x, k=1.0))),
        Problem("normal-cosine", "Normal(1, 1.5), cos(x)", _SURVEY, _normal(lambda _: lambda x: cosine(x, k=1.0))),
    )
}  # fmt: skip


def check_made(made: Any, origin: str) -> Made:
    """Return the f and the distribution that a user's function made, or say what it should have made."""
    pair = isinstance(made, tuple) and len(made) == 2
    if not (pair and callable(made[0]) and isinstance(made[1], backdraw.Distribution)):
        got = f"({', '.join(type(x).__name__ for x in made)})" if isinstance(made, tuple) else type(made).__name__
        raise InvalidTypeError(f"problem: expected {origin} to return f and a distribution, got {got}")
    return made[0], made[1]
