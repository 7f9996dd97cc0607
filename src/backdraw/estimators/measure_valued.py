"""Measure-valued derivatives: the derivative of a law is a difference of two laws, under each of which f is evaluated."""

import math
from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.expectation import Function, attach, check_samples, constant, evaluate, mean
from backdraw.estimators.registry import register


@register(
    kind="expectation", gradient="unbiased", forward="hard", law=True, differentiable_f=False, domain="both",
    needs=("derivative_measures",), reference="arXiv 1906.10652",
)  # fmt: skip
def measure_valued(f: Function, dist: Distribution | Array, *, samples: int = 1, rng: Any = None) -> Array:
    r"""Mean of f over draws, with the measure-valued gradient: f under the two parts of the law's derivative, coupled.

    .. math::
        \frac{\partial}{\partial \theta_d} E[f(x)] \approx \frac{1}{S} \sum_s c_{\theta_d}
        \bigl(f(x_1^s, \ldots, \dot x_d^{+}, \ldots, x_D^s) - f(x_1^s, \ldots, \dot x_d^{-}, \ldots, x_D^s)\bigr),
        \qquad \frac{\partial p}{\partial \theta} = c_\theta \, (p^+ - p^-)

    ======================  ================================  ======================  ==================================
    parameter               :math:`c`                         :math:`p^+`             :math:`p^-`
    ======================  ================================  ======================  ==================================
    loc of Normal           :math:`1 / (\sigma \sqrt{2\pi})`  :math:`\mu + \sigma W`  :math:`\mu - \sigma W`
    scale of Normal         :math:`1 / \sigma`                :math:`\mu + \sigma M`  the draw, :math:`\mu + \sigma M U`
    rate of Exponential     :math:`1 / \lambda`               the draw                the draw plus another one
    logit of Bernoulli      :math:`p (1 - p)`                 1                       0
    logit k of Categorical  :math:`p_k`                       category k              the draw
    ======================  ================================  ======================  ==================================

    where W is Weibull (2, scale :math:`\sqrt 2`), M double-sided Maxwell and U uniform: the same W, and the same M, on both
    sides.

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`. The D coordinates of a batch element are the batch axes of `dist` that f sums up.
    dist : Distribution or array
        One of the table; an array means ``Categorical(array)``.
    samples : int
        S, the number of independent draws.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f over the S draws, in its dtype. Its gradient goes to the distribution's parameters and to all that f
        closes over.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.reinforce`; TypeError also if the derivative of `dist` is not known as a difference of measures.

    Notes
    -----
    Unbiased, with neither a derivative of f nor a score. The variance of a coordinate's gradient is that of the effect which
    the coordinate has on f, whatever f owes to the others; the cost grows with their number.

    f is called twice: with the S draws, and with one coordinate replaced at a time. The draw itself serves as a part
    wherever it can, so that the second call takes S * D samples for bits and Exponential, 3 * S * D for Normal and
    (K - 1) * S * D for K categories; 2 * S * D per parameter would be needed otherwise.

    References
    ----------
    S. Mohamed, M. Rosca, M. Figurnov, A. Mnih, Monte Carlo Gradient Estimation in Machine Learning, arXiv 1906.10652,
    section 6.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> estimate = lambda m, s: backdraw.measure_valued(np.square, backdraw.Normal(m, s), samples=10_000, rng=backdraw.key(0))
    >>> value, grads = backdraw.value_and_grad(estimate)(np.array(1.0), np.array(0.5))
    >>> float(value.round(2)), [float(g.round(2)) for g in grads]  # of E[x^2] = m^2 + s^2, exactly 1.25 and 2, 1
    (1.26, [2.02, 1.03])
    """
    p = as_distribution(dist, "measure_valued", "derivative_measures")
    s = check_samples("measure_valued", samples)
    be = p.backend
    xp = be.xp
    x, measures = p.derivative_measures(p.measure_noise(rng, (s,)))
    values = evaluate(f, x, p)
    plain, n = constant(be, values), values.ndim - 1
    batch, factors = p.batch_shape[:n], p.batch_shape[n:]
    d = math.prod(factors)

    # A part has in front the entries that the parameter has per coordinate, and then the samples.
    one = xp.reshape(xp.eye(d, dtype=plain.dtype, device=be.device(plain)), (d, 1, 1, *(1,) * n, *factors)) > 0
    parts = [xp.where(p.over_event(one), part, x) for _, *both in measures for part in both if part is not None]
    rows = [xp.reshape(part, (math.prod(part.shape[:3]), *x.shape[1:])) for part in parts]
    rows = rows[0] if len(rows) == 1 else xp.concat(rows)
    there, under = constant(be, evaluate(f, rows, p)), []
    for part in parts:
        count = math.prod(part.shape[:3])
        under.append(xp.reshape(there[:count, ...], (*part.shape[:3], *batch)))
        there = there[count:, ...]

    grads, left = [], iter(under)
    for c, *both in measures:
        positive, negative = (plain if part is None else next(left) for part in both)
        difference = positive - negative
        difference = xp.reshape(be.moveaxis(difference, 0, -1), (*difference.shape[1:], *factors))
        difference = xp.where(c == 0, 0.0, p.over_event(difference))  # what cannot be drawn has no effect
        grads.append(be.mean_samples(xp.sum(c * difference, axis=0)))
    return attach(mean(values), p, tuple(grads), estimator="measure_valued")
