"""The reparameterisation trick: the draw as a differentiable function of its parameters and of noise."""

from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.distributions.checks import check_shape
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.registry import register


@register(
    kind="draw", gradient="unbiased", forward="hard", law=True, differentiable_f=True, domain="continuous",
    needs=("transport",), reference="arXiv 1312.6114",
)  # fmt: skip
def reparameterize(dist: Distribution, *, shape: int | tuple[int, ...] = (), rng: Any = None) -> Array:
    r"""Draw exactly, as a differentiable function of the parameters: :math:`x = t(\epsilon, \theta)`.

    :math:`\nabla_\theta E[f(x)] = E[\nabla_\theta f(t(\epsilon, \theta))]` for noise :math:`\epsilon` whose law does not
    depend on :math:`\theta`: for a normal, :math:`t(\epsilon, (m, s)) = m + s \epsilon`.

    Parameters
    ----------
    dist : Distribution
        A continuous one, such as `backdraw.Normal`.
    shape : int or tuple of int
        Independent draws, as further axes in front.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``shape + dist's shape``
        In the parameters' dtype and on their device; the value is that of ``backdraw.draw(dist, shape=shape, rng=rng)``.

    Raises
    ------
    TypeError
        If `dist` has no differentiable path from noise to draw, or `rng` is of another framework.
    ValueError
        If `shape` is not made of non-negative integers.

    Notes
    -----
    Unbiased for f that is differentiable, or continuous and differentiable almost everywhere. Of low variance where f is
    smooth on the scale of the distribution. The noise is drawn in float32 or wider.

    References
    ----------
    D. P. Kingma, M. Welling, Auto-Encoding Variational Bayes, arXiv 1312.6114.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> loc, scale = np.array(1.0), np.array(2.0)
    >>> draw = lambda loc, scale: backdraw.reparameterize(backdraw.Normal(loc, scale), rng=backdraw.key(1))
    >>> x, pullback = backdraw.vjp(draw, loc, scale)
    >>> float(x.round(3))
    -1.51
    >>> to_loc, to_scale = pullback(np.array(1.0))
    >>> float(to_loc), float(to_scale.round(3))
    (1.0, -1.255)
    """
    p = as_distribution(dist, "reparameterize", "transport")
    return p.transport(p.transport_noise(rng, check_shape(shape)))
