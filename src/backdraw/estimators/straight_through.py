"""Straight-through estimators: a vertex forward, the mean's gradient back."""

from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.registry import register
from backdraw.surrogate import surrogate


@register(
    kind="draw", gradient="biased", forward="hard", law=True, differentiable_f=True, domain="discrete",
    needs=("sample", "mean"), reference="arXiv 1308.3432",
)  # fmt: skip
def straight_through(
    dist: Distribution | Array, *, temperature: Any = 1.0, regularizer: str = "entropy", rng: Any = None
) -> Array:
    r"""Draw exactly, and back-propagate as if the draw were the mean at logits / t.

    Forward an exact draw :math:`x \sim p`; backward, for the cotangent c, the vjp of the mean, for one category
    :math:`J^\top c` with :math:`J = (\mathrm{diag}(m) - m m^\top) / t` and :math:`m = \mathrm{softmax}(l / t)`.

    Parameters
    ----------
    dist : Distribution or array
        What to draw from; an array means ``Categorical(array)``.
    temperature : float or scalar array
        t > 0. An array is traced and has its own gradient.
    regularizer : {"entropy", "euclidean", "tsallis"}
        Back-propagate as if the draw were the mean, or sparsemax(l / t), or 1.5-entmax(l / t): with
        :math:`m` that point and :math:`s = 1` ("euclidean") or :math:`s = \sqrt{m}` ("tsallis") where :math:`m > 0`,
        and 0 elsewhere, :math:`J = (\mathrm{diag}(s) - s s^\top / \sum_k s_k) / t`.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of dist's shape
        In the logits' dtype and on their device; exactly 0 and 1.

    Raises
    ------
    TypeError
        If `dist` has no exact draws or no mean, or an argument is of another framework.
    ValueError
        If the temperature is not positive, or there is no such regularizer.

    Notes
    -----
    Biased, except for f linear at t = 1, where the mean gradient is exact. The variance is that of the cotangent alone:
    low. f must be differentiable; it sees exact draws only. Under a sparse regularizer a category outside the support gets
    no gradient, also where it is drawn: more bias, also for linear f.

    References
    ----------
    Y. Bengio, N. Leonard, A. Courville, Estimating or Propagating Gradients Through Stochastic Neurons, arXiv 1308.3432.

    A. F. T. Martins, R. F. Astudillo, From Softmax to Sparsemax, arXiv 1602.02068.

    B. Peters, V. Niculae, A. F. T. Martins, Sparse Sequence-to-Sequence Models, arXiv 1905.05702, for 1.5-entmax.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits = np.array([0.0, 0.0])
    >>> x, pullback = backdraw.vjp(lambda l: backdraw.straight_through(l, rng=backdraw.key(0)), logits)
    >>> x
    array([0., 1.])
    >>> pullback(np.array([1.0, 0.0]))
    (array([ 0.25, -0.25]),)
    """
    p = as_distribution(dist, "straight_through", "sample", "mean")
    t = check_positive("temperature", temperature, p)
    return surrogate(p.backend, p.sample(p.draw_noise(rng)), p.mean(temperature=t, regularizer=regularizer))


@register(
    kind="draw", gradient="biased", forward="hard", law=False, differentiable_f=True, domain="discrete",
    needs=("argmax", "mean"), reference="arXiv 1308.3432",
)  # fmt: skip
def select(dist: Distribution | Array, *, temperature: Any = 0.6, regularizer: str = "entropy") -> Array:
    r"""Take the likeliest value, with no noise, and back-propagate as if it were the mean at logits / t.

    Parameters
    ----------
    dist : Distribution or array
        What to select from; an array means ``Categorical(array)``.
    temperature : float or scalar array
        t > 0. An array is traced and has its own gradient.
    regularizer : {"entropy", "euclidean", "tsallis"}
        As for `backdraw.straight_through`.

    Returns
    -------
    array, of dist's shape
        :math:`\arg\max_x \langle l, x \rangle`, exactly 0 and 1, the first of equals; in the logits' dtype and on their
        device.

    Raises
    ------
    TypeError
        If `dist` has no argmax or no mean.
    ValueError
        If the temperature is not positive, or there is no such regularizer.

    Notes
    -----
    Deterministic: no variance, and as a gradient of E[f(x)] biased, since it never leaves the mode. For evaluation, and
    for selections that need no exploration.

    References
    ----------
    Y. Bengio, N. Leonard, A. Courville, arXiv 1308.3432, for the straight-through gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> backdraw.select(np.array([0.3, 0.1, 0.2]))
    array([1., 0., 0.])
    """
    p = as_distribution(dist, "select", "argmax", "mean")
    t = check_positive("temperature", temperature, p)
    return surrogate(p.backend, p.argmax(p.utilities), p.mean(temperature=t, regularizer=regularizer))
