"""Gumbel-softmax: the relaxed draw, and its straight-through form."""

from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Categorical, Distribution
from backdraw.errors import InvalidValueError
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.registry import register
from backdraw.estimators.surrogate import surrogate

_STATED: dict[str, Any] = {
    "kind": "draw", "gradient": "biased", "differentiable_f": True, "domain": "discrete",
    "reference": "arXiv 1611.01144, arXiv 1611.00712",
}  # fmt: skip


@register(
    **_STATED, name="gumbel_softmax_hard", forward="hard", law=True, needs=("perturb", "argmax", "relax"),
    options={"hard": True},
)  # fmt: skip
@register(**_STATED, forward="relaxed", law=False, needs=("perturb", "relax"))
def gumbel_softmax(
    logits: Array | Distribution,
    *,
    temperature: Any = 1.0,
    hard: bool = False,
    axis: int = -1,
    where: Array | None = None,
    rng: Any = None,
) -> Array:
    r"""Relaxed draw of a category: :math:`y = \mathrm{softmax}((l + g) / t)` with Gumbel noise g.

    Parameters
    ----------
    logits : array, shape (..., K, ...)
        Unnormalised log-probabilities, of any real floating dtype; or a distribution with a relaxation, such as
        `backdraw.Bernoulli`, whose draw is :math:`\mathrm{sigmoid}((l + \text{logistic noise}) / t)`.
    temperature : float or scalar array
        t > 0: towards 0 the draw tends to a vertex and the gradient's variance grows. An array is traced and has its own
        gradient.
    hard : bool
        Return the vertex :math:`\arg\max(l + g)`, exactly 0 and 1, with the gradient of the relaxed draw:
        straight-through Gumbel-softmax.
    axis : int
        The axis of the categories.
    where : array of bool, optional
        Broadcasts to `logits`; False takes a category out, with probability and gradient exactly 0.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of the shape of `logits`
        In the logits' dtype and on their device.

    Raises
    ------
    TypeError
        If an array is not real floating, of another framework, or `rng` is.
    ValueError
        If the temperature is not positive, or `axis` or the shape of `where` does not fit.

    Notes
    -----
    The gradient is exact for the relaxed draw, whose law is the Concrete distribution and not the categorical one: as a
    gradient of E[f(x)] over categories it is biased, less so for small t, and its variance grows as t falls. f must be
    differentiable; with ``hard=False`` it sees points inside the simplex. Noise is drawn in float32 or wider.

    References
    ----------
    E. Jang, S. Gu, B. Poole, Categorical Reparameterization with Gumbel-Softmax, arXiv 1611.01144.

    C. J. Maddison, A. Mnih, Y. W. Teh, The Concrete Distribution, arXiv 1611.00712.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits = np.array([0.0, 1.0, 2.0])
    >>> backdraw.gumbel_softmax(logits, temperature=2.0, rng=backdraw.key(0)).round(3)
    array([0.102, 0.148, 0.75 ])
    >>> backdraw.gumbel_softmax(logits, hard=True, rng=backdraw.key(0))
    array([0., 0., 1.])
    """
    if isinstance(logits, Distribution):
        if axis != -1 or where is not None:
            raise InvalidValueError("axis, where: expected none beside a distribution, which carries its own")
        p: Any = as_distribution(logits, "gumbel_softmax", "perturb", "relax")
    else:
        p = Categorical(logits, axis, where)
    t = check_positive("temperature", temperature, p.backend, p.logits)
    u = p.perturbed(rng)
    soft = p.relax(u, t)
    return surrogate(p.backend, p.argmax(u), soft) if hard else soft
