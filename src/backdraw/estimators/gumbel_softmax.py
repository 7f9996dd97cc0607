"""Gumbel-softmax: the relaxed draw, and its straight-through form."""

from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Categorical, Distribution
from backdraw.errors import InvalidValueError
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.registry import register
from backdraw.estimators.stochastic_softmax import relaxed_draw

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
    backward_temperature: Any = None,
    regularizer: str = "entropy",
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
        gradient; its value is checked where it is at hand: not inside a compiler or a transformation, nor on an accelerator.
    backward_temperature : float or scalar array, optional
        Take the gradient at this temperature and leave the value as it is: the value of :math:`\mathrm{softmax}((l + g)/t)`
        with the gradient of :math:`\mathrm{softmax}((l + g)/t_b)`. An array is traced and has its own gradient, and
        `temperature` then has none. None is `temperature`.
    regularizer : {"entropy", "euclidean", "tsallis"}
        Of the softmax: :math:`y = \arg\max_x \langle l + g, x \rangle - t f(x)` over the simplex, with f the negative
        entropy, :math:`\lVert x \rVert^2 / 2` (sparsemax) or Tsallis' :math:`\frac43 \sum_k (x_k^{3/2} - x_k)`
        (1.5-entmax). The latter two have exact zeros, in the value and in the gradient.
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
        If a temperature is not positive, there is no such regularizer, or `axis` or the shape of `where` does not fit.

    Notes
    -----
    The gradient is exact for the relaxed draw, whose law is the Concrete distribution and not the categorical one: as a
    gradient of E[f(x)] over categories it is biased, less so for small t, and its variance grows as t falls. f must be
    differentiable; with ``hard=False`` it sees points inside the simplex, or on its faces where the regularizer is a sparse
    one. Noise is drawn in float32 or wider.

    With a `backward_temperature` of its own the gradient is that of no function. Every temperature here divides the noise
    too, and a hard draw does not depend on it. Shah et al. divide the logits alone: their hard draw at the temperatures f
    and b is ``gumbel_softmax(logits / f, backward_temperature=b / f, hard=True)``, but for the noise behind the gradient,
    which has there the scale 1 and here f / b.

    References
    ----------
    E. Jang, S. Gu, B. Poole, Categorical Reparameterization with Gumbel-Softmax, arXiv 1611.01144.

    C. J. Maddison, A. Mnih, Y. W. Teh, The Concrete Distribution, arXiv 1611.00712.

    R. Shah, M. Yan, M. C. Mozer, D. Liu, Improving Discrete Optimisation Via Decoupled Straight-Through Gumbel-Softmax,
    arXiv 2410.13331.

    A. F. T. Martins, R. F. Astudillo, From Softmax to Sparsemax, arXiv 1602.02068.

    B. Peters, V. Niculae, A. F. T. Martins, Sparse Sequence-to-Sequence Models, arXiv 1905.05702, for 1.5-entmax.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits = np.array([0.0, 1.0, 2.0])
    >>> backdraw.gumbel_softmax(logits, temperature=2.0, rng=backdraw.key(0)).round(3)
    array([0.102, 0.148, 0.75 ])
    >>> backdraw.gumbel_softmax(logits, hard=True, rng=backdraw.key(0))
    array([0., 0., 1.])
    >>> backdraw.gumbel_softmax(logits, temperature=2.0, regularizer="tsallis", rng=backdraw.key(0)).round(3)
    array([0.  , 0.03, 0.97])
    """
    if isinstance(logits, Distribution):
        if axis != -1 or where is not None:
            raise InvalidValueError("axis, where: expected none beside a distribution, which carries its own")
        p: Any = as_distribution(logits, "gumbel_softmax", "perturb", "relax")
    else:
        p = Categorical(logits, axis, where)
    return relaxed_draw(p, temperature, backward_temperature, regularizer, hard, rng)
