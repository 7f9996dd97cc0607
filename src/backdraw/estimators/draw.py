"""Draws without a gradient."""

from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.distributions.checks import check_shape
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.registry import register


@register(
    kind="draw", gradient="none", forward="hard", law=True, differentiable_f=False, domain="both",
    needs=("sample",), reference="inverse transform sampling; Devroye 1986",
)  # fmt: skip
def draw(dist: Distribution | Array, *, shape: int | tuple[int, ...] = (), rng: Any = None) -> Array:
    r"""Draw exactly, with no gradient.

    Categories are drawn by inverse CDF: one uniform a draw falls into the cumulative sum, in float64 on every backend, so
    that one portable key gives one draw everywhere.

    Parameters
    ----------
    dist : Distribution or array
        What to draw from; an array means ``Categorical(array)``.
    shape : int or tuple of int
        Independent draws, as further axes in front.
    rng : optional
        A `backdraw.key`, an int seed, the framework's own generator or key, or None for the framework's default source
        (which JAX does not have).

    Returns
    -------
    array, shape ``shape + dist's shape``
        In the parameters' dtype and on their device. Discrete values are exactly 0 and 1.

    Raises
    ------
    TypeError
        If `dist` has no exact draws or is no array of real floating dtype, or `rng` is of another framework.
    ValueError
        If `shape` is not made of non-negative integers.

    Notes
    -----
    The draw follows the distribution exactly, to the resolution of the uniforms, 2**-32. It carries no gradient.

    References
    ----------
    L. Devroye, Non-Uniform Random Variate Generation, 1986, section III.2.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> backdraw.draw(np.log([0.1, 0.2, 0.7]), rng=backdraw.key(0))
    array([0., 0., 1.])
    """
    p = as_distribution(dist, "draw", "sample")
    return p.sample(p.draw_noise(rng, check_shape(shape)))


@register(
    kind="draw", gradient="none", forward="hard", law=True, differentiable_f=False, domain="discrete",
    needs=("perturb", "argmax"), reference="Gumbel 1954; arXiv 1411.0030",
)  # fmt: skip
def gumbel_max(dist: Distribution | Array, *, rng: Any = None) -> Array:
    r"""Draw by perturbing and maximising: :math:`x = \arg\max_x \langle l + g, x \rangle`, with no gradient.

    Parameters
    ----------
    dist : Distribution or array
        What to draw from; an array means ``Categorical(array)``.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of dist's shape
        In the logits' dtype and on their device; exactly 0 and 1.

    Raises
    ------
    TypeError
        If `dist` is not an argmax of perturbed utilities, or `rng` is of another framework.

    Notes
    -----
    For Categorical, PlackettLuce (Gumbel noise) and Bernoulli (logistic noise) the draw follows the distribution exactly.
    For all others it follows the law of the perturbed argmax, which is another; `backdraw.draw` is exact where it takes
    them. It carries no gradient. The same `rng` gives the draw that ``gumbel_softmax(..., hard=True)`` makes.

    References
    ----------
    C. J. Maddison, D. Tarlow, T. Minka, A* Sampling, arXiv 1411.0030.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> backdraw.gumbel_max(np.log([0.1, 0.2, 0.7]), rng=backdraw.key(0))
    array([0., 0., 1.])
    """
    p = as_distribution(dist, "gumbel_max", "perturb", "argmax").stopped()
    return p.argmax(p.perturbed(rng))
