"""The score-function estimators: f weighs the gradient of the log-probability, and need not be differentiable."""

from typing import Any

from backdraw.backend import Array, Backend, belongs
from backdraw.distributions import Distribution
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.expectation import Function, attach, check_samples, constant, draw_samples, evaluate, mean, option
from backdraw.estimators.registry import register

_STATED: dict[str, Any] = {
    "kind": "expectation", "gradient": "unbiased", "forward": "hard", "law": True, "differentiable_f": False,
    "domain": "both", "needs": ("sample", "score"),
}  # fmt: skip


@register(**_STATED, reference="Williams 1992")
def reinforce(f: Function, dist: Distribution | Array, *, samples: int = 1, baseline: Any = None, rng: Any = None) -> Array:
    r"""Mean of f over draws, with the score-function gradient.

    .. math:: \nabla E[f(x)] \approx \frac{1}{S} \sum_s \bigl[(f(x_s) - b) \nabla \log p(x_s) + \nabla f(x_s)\bigr]

    Parameters
    ----------
    f : callable
        Takes x of shape ``(samples, *dist's shape)`` and returns values of shape ``(samples, *batch)``, batch any number of
        dist's batch axes from the left; the others are event axes that f has summed up. It may be a black box.
    dist : Distribution or array
        What x is drawn from; an array means ``Categorical(array)``.
    samples : int
        S, the number of independent draws.
    baseline : number or array, of the batch's shape or (), optional
        b, which must not depend on the draws; it takes no gradient.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f, in its dtype. Its gradient goes to the distribution's parameters and to all that f closes over.

    Raises
    ------
    TypeError
        If `dist` has no score, f returns no array of its framework, or an argument is of another type.
    ValueError
        If f's values or `baseline` have another shape, or `samples` is below 1.
    GradientError
        If a second derivative is asked for.

    Notes
    -----
    Unbiased. The variance grows with E[(f - b)^2] and with the number of coordinates. f is called once, with S samples.

    References
    ----------
    R. J. Williams, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning, 1992.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: np.argmax(x, -1) ** 2.0
    >>> estimate = lambda l: backdraw.reinforce(f, l, samples=1000, baseline=1.0, rng=backdraw.key(0))
    >>> value, (grad,) = backdraw.value_and_grad(estimate)(np.zeros(3))
    >>> float(value), grad.round(2)
    (1.672, array([-0.55, -0.22,  0.77]))
    """
    p = as_distribution(dist, "reinforce", "sample", "score")
    x = draw_samples(p, check_samples("reinforce", samples), rng)
    values = evaluate(f, x, p)
    be = p.backend
    weights = constant(be, values)
    if baseline is not None:
        weights = weights - _check_baseline(be, baseline, tuple(values.shape[1:]))
    return attach(mean(values), p, p.weighted_score(x, weights / x.shape[0]), estimator="reinforce")


def _check_baseline(be: Backend, baseline: Any, batch: tuple[int, ...]) -> Any:
    if isinstance(baseline, (int, float)) and not isinstance(baseline, bool):
        return baseline
    if not (belongs(baseline, be) and be.is_floating(baseline.dtype)):
        got = f"{type(baseline).__name__} of dtype {getattr(baseline, 'dtype', None)}"
        raise InvalidTypeError(f"baseline: expected a number or a real floating {be.name} array, got {got}")
    if tuple(baseline.shape) not in ((), batch):
        raise InvalidValueError(f"baseline: expected the batch's shape {batch}, got {tuple(baseline.shape)}")
    return option(be, baseline)


@register(**_STATED, reference="Kool et al. 2019; arXiv 2010.10436")
def rloo(f: Function, dist: Distribution | Array, *, samples: int = 2, rng: Any = None) -> Array:
    r"""Mean of f over draws, with the score-function gradient and the mean of the other draws as each one's baseline.

    .. math::
        \nabla E[f(x)] \approx \frac{1}{S} \sum_s \Bigl[\Bigl(f(x_s) - \frac{1}{S - 1} \sum_{r \ne s} f(x_r)\Bigr)
        \nabla \log p(x_s) + \nabla f(x_s)\Bigr]

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`.
    dist : Distribution or array
        What x is drawn from; an array means ``Categorical(array)``.
    samples : int
        S, at least 2.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f, in its dtype. Its gradient goes to the distribution's parameters and to all that f closes over.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.reinforce`; ValueError also if `samples` is below 2.

    Notes
    -----
    Unbiased, and invariant to adding a constant to f. Where f is itself a log-ratio of densities this is the gradient of
    VarGrad's log-variance loss. f is called once, with S samples.

    References
    ----------
    W. Kool, H. van Hoof, M. Welling, Buy 4 REINFORCE Samples, Get a Baseline for Free!, 2019.

    L. Richter et al., VarGrad, arXiv 2010.10436.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: np.argmax(x, -1) ** 2.0
    >>> value, (grad,) = backdraw.value_and_grad(lambda l: backdraw.rloo(f, l, samples=1000, rng=backdraw.key(0)))(np.zeros(3))
    >>> float(value), grad.round(2)
    (1.672, array([-0.54, -0.23,  0.77]))
    """
    p = as_distribution(dist, "rloo", "sample", "score")
    n = check_samples("rloo", samples, 2)
    x = draw_samples(p, n, rng)
    values = evaluate(f, x, p)
    plain = constant(p.backend, values)
    weights = (plain - p.backend.mean_samples(plain)) / (n - 1)
    return attach(mean(values), p, p.weighted_score(x, weights, centred=True), estimator="rloo")
