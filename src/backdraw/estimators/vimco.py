"""VIMCO: the multi-sample bound, with a baseline for each sample made of the others."""

import math
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.expectation import Function, attach, check_samples, constant, draw_samples, evaluate
from backdraw.estimators.registry import register
from backdraw.primitive import Residuals, primitive


@register(
    kind="expectation", gradient="unbiased", forward="hard", law=True, differentiable_f=False, domain="both",
    needs=("sample", "score"), reference="arXiv 1602.06725", objective="log mean exp",
)  # fmt: skip
def vimco(log_f: Function, dist: Distribution | Array, *, samples: int = 2, rng: Any = None) -> Array:
    r"""Log of the mean of f over draws, the bound :math:`\hat L = \log \frac{1}{S} \sum_s f(x_s)`, with VIMCO's gradient.

    .. math::
        \nabla E[\hat L] \approx \sum_s (\hat L - \hat L_{-s}) \nabla \log p(x_s)
        + \sum_s \frac{f(x_s)}{\sum_r f(x_r)} \nabla \log f(x_s)

    where :math:`\hat L_{-s}` is :math:`\hat L` with the geometric mean of the others in place of :math:`f(x_s)`.

    Parameters
    ----------
    log_f : callable
        Returns log f; its shapes are those of `backdraw.reinforce`. For a variational bound it is
        :math:`\log p(v, x) - \log q(x)`.
    dist : Distribution or array
        What x is drawn from; an array means ``Categorical(array)``.
    samples : int
        S, at least 2.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The bound, in the dtype of log_f's values. Its gradient goes to the distribution's parameters and to all that
        log_f closes over.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.reinforce`; ValueError also if `samples` is below 2.

    Notes
    -----
    Unbiased for the gradient of :math:`E[\hat L]`, which itself is a lower bound of log E[f]. log_f must be finite: the
    geometric mean of others that are 0 is no baseline. It is called once, with S samples.

    References
    ----------
    A. Mnih, D. J. Rezende, Variational Inference for Monte Carlo Objectives, arXiv 1602.06725.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> log_f = lambda x: np.log1p(np.argmax(x, -1))
    >>> bound = backdraw.vimco(log_f, np.zeros(3), samples=5, rng=backdraw.key(1))
    >>> float(bound.round(3)), float(np.log(2.0).round(3))
    (0.788, 0.693)
    """
    p = as_distribution(dist, "vimco", "sample", "score")
    n = check_samples("vimco", samples, 2)
    x = draw_samples(p, n, rng)
    values = evaluate(log_f, x, p, name="log_f")
    bound = log_mean_exp(values)
    advantages = _advantages(p.backend, constant(p.backend, values))
    return attach(bound, p, p.weighted_score(x, advantages), estimator="vimco")


def _advantages(be: Backend, values: Array) -> Array:
    xp, n = be.xp, values.shape[0]
    own = xp.reshape(xp.eye(n, dtype=values.dtype, device=be.device(values)), (n, n, *(1,) * (values.ndim - 1))) > 0
    rows = xp.broadcast_to(values, (n, *values.shape))  # row s: all values, of which the s-th is to be replaced
    others = xp.sum(xp.where(own, 0.0, rows), axis=1, keepdims=True) / (n - 1)
    return _lme(be, values) - _lme(be, be.moveaxis(xp.where(own, others, rows), 1, 0))


def _lme(be: Backend, values: Array) -> Array:
    return be.logsumexp(be.moveaxis(values, 0, -1))[..., 0] - math.log(values.shape[0])


@primitive(native=True)
def log_mean_exp(be: Backend, values: Array) -> Array:
    """``log(mean(exp(values)))`` over the first axis."""
    return be.cast(_lme(be, be.cast(values, be.wide(values.dtype))), values.dtype)


def _log_mean_exp_vjp(be: Backend, residuals: Residuals, g: Array) -> tuple[Array]:
    (values,) = residuals
    weights = be.softmax(be.moveaxis(be.cast(values, be.wide(values.dtype)), 0, -1))
    return (be.cast(g * be.moveaxis(weights, -1, 0), values.dtype),)


log_mean_exp.defvjp(lambda be, values: (log_mean_exp.function(be, values), (values,)), _log_mean_exp_vjp)
