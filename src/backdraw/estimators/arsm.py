"""ARSM: the score of a category under Dirichlet noise, averaged over all exchanges of two categories' shares of it."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.expectation import Function, attach, check_samples, constant, evaluate, expand, mean
from backdraw.estimators.registry import register


@register(
    kind="expectation", gradient="unbiased", forward="hard", law=True, differentiable_f=False, domain="discrete",
    needs=("swaps",), reference="arXiv 1905.01413",
)  # fmt: skip
def arsm(f: Function, dist: Distribution | Array, *, samples: int = 1, rng: Any = None) -> Array:
    r"""Mean of f over draws with swapped noise, with the augment-REINFORCE-swap-merge gradient.

    With :math:`\pi \sim \mathrm{Dirichlet}(1_C)` for each factor, :math:`\pi^{m \leftrightarrow j}` its copy with two entries
    exchanged and :math:`z^{m \leftrightarrow j}` the draw :math:`\arg\min_i \pi_i^{m \leftrightarrow j} e^{-l_i}`, in all
    factors of a batch element together,

    .. math::
        \nabla_{l_c} E[f(x)] \approx \sum_{j=1}^{C} \Bigl(f(z^{c \leftrightarrow j})
        - \frac{1}{C} \sum_{m=1}^{C} f(z^{m \leftrightarrow j})\Bigr) \Bigl(\frac{1}{C} - \pi_j\Bigr)

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`.
    dist : Distribution or array
        Categories: `backdraw.Categorical`; an array means ``Categorical(array)``.
    samples : int
        The number of independent :math:`\pi`, each with all its swaps.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f over all the draws, in its dtype; each of them is an exact draw, though they depend on each other.
        Its gradient goes to the distribution's parameters and to all that f closes over.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.reinforce`; TypeError also if `dist` has no categories.

    Notes
    -----
    Unbiased; for two categories it is ARM. A category that is masked or whose logit is -inf is never drawn and has the
    gradient 0. Its share of :math:`\pi` is exchanged like any other, which costs variance and no bias; m runs over the others
    alone. f is called once, with samples * (C (C - 1) / 2 + 1) samples: the swaps that differ.

    References
    ----------
    M. Yin, Y. Yue, M. Zhou, ARSM: Augment-REINFORCE-Swap-Merge Estimator for Gradient Backpropagation Through Categorical
    Variables, arXiv 1905.01413.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: np.argmax(x, -1) ** 2.0
    >>> estimate = lambda l: backdraw.arsm(f, l, samples=1000, rng=backdraw.key(0))
    >>> value, (grad,) = backdraw.value_and_grad(estimate)(np.zeros(3))
    >>> grad.round(2)  # exactly -0.56, -0.22, 0.78
    array([-0.57, -0.23,  0.8 ])
    """
    p = as_distribution(dist, "arsm", "swaps")
    n = check_samples("arsm", samples)
    be = p.backend
    xp = be.xp
    states = p.params[0].shape[p.axis]
    x, shares = p.swaps(p.swap_noise(rng, (n,)), _pairs(states))
    values = evaluate(f, xp.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:])), p)
    plain = xp.reshape(constant(be, values), (*x.shape[:2], *values.shape[1:]))
    # Less the first, which changes nothing: the weights of the shares sum to zero.
    swapped = _square(be, plain - plain[:1, ...], states)
    weights = 1.0 / states - shares
    each = be.mean_samples(be.moveaxis(xp.sum(expand(be, swapped, weights.ndim + 1) * weights, axis=1), 1, 0))
    grad = _centred(be, be.moveaxis(each, 0, p.axis), be.stop_gradient(p.utilities) > -xp.inf, p.axis)
    return attach(mean(values), p, (grad,), estimator="arsm")


def _pairs(n: int) -> list[tuple[int, int]]:
    """Return the exchanges of two of n entries that differ, the one that changes nothing first."""
    return [(0, 0), *((m, j) for m in range(n) for j in range(m + 1, n))]


def _square(be: Backend, values: Array, n: int) -> Array:
    """Values of all exchanges, in rows and columns, from those of the `_pairs`."""
    number = {pair: i for i, pair in enumerate(_pairs(n))}
    every = [0 if m == j else number[min(m, j), max(m, j)] for m in range(n) for j in range(n)]
    xp, device = be.xp, be.device(values)
    index = xp.asarray(every, dtype=xp.arange(1, device=device).dtype, device=device)
    return xp.reshape(xp.take(values, index, axis=0), (n, n, *values.shape[1:]))


def _centred(be: Backend, x: Array, live: Array, axis: int) -> Array:
    """Less the mean of the live entries, and 0 for the others."""
    xp = be.xp
    total = xp.sum(xp.where(live, x, 0.0), axis=axis, keepdims=True)
    count = xp.sum(be.cast(live, x.dtype), axis=axis, keepdims=True)
    return xp.where(live, x - total / be.at_least(count, 1.0), 0.0)
