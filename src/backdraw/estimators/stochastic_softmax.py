"""Stochastic softmax: the relaxed draw of any structure, and its straight-through form."""

from typing import Any

from backdraw.backend import Array
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.registry import register
from backdraw.surrogate import surrogate

_STATED: dict[str, Any] = {
    "kind": "draw", "gradient": "biased", "differentiable_f": True, "domain": "discrete",
    "reference": "arXiv 2006.08063",
}  # fmt: skip


@register(
    **_STATED, name="stochastic_softmax_hard", forward="hard", law=True, needs=("perturb", "argmax", "relax"),
    options={"hard": True},
)  # fmt: skip
@register(**_STATED, forward="relaxed", law=False, needs=("perturb", "relax"))
def stochastic_softmax(
    dist: Distribution | Array,
    *,
    temperature: Any = 1.0,
    backward_temperature: Any = None,
    regularizer: str = "entropy",
    hard: bool = False,
    rng: Any = None,
) -> Array:
    r"""Relaxed draw of a structure: :math:`y = \arg\max_{y \in P} \langle U, y \rangle - t f(y)` with random utilities U.

    P is the convex hull of the distribution's values and f strongly convex; as t falls, y tends to
    :math:`\arg\max_x \langle U, x \rangle` over the values themselves. For categories this is `backdraw.gumbel_softmax`.

    Parameters
    ----------
    dist : Distribution or array
        What to draw from; an array means ``Categorical(array)``. Its class says which noise makes U of the logits.
    temperature : float or scalar array
        t > 0: towards 0 the draw tends to a vertex and the gradient's variance grows. An array is traced and has its own
        gradient.
    backward_temperature : float or scalar array, optional
        Take the gradient at this temperature and leave the value as it is, as `backdraw.gumbel_softmax` does.
    regularizer : str
        f, as the distribution names it in its ``relax``. For "entropy" y is the mean of the exponential family of P, at the
        logits U / t.
    hard : bool
        Return the vertex :math:`\arg\max_x \langle U, x \rangle`, exactly 0 and 1, with the gradient of the relaxed draw.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of dist's shape
        In the logits' dtype and on their device.

    Raises
    ------
    TypeError
        If `dist` is not an argmax of perturbed utilities or has no relaxation, or an argument is of another framework.
    ValueError
        If a temperature is not positive, or there is no such regularizer.

    Notes
    -----
    The gradient is exact for the relaxed draw; as a gradient of E[f(x)] over the vertices it is biased, less so for small
    t, and its variance grows as t falls. f must be differentiable; with ``hard=False`` it sees points inside P.

    The vertices follow the law of the perturbed argmax. For `backdraw.Categorical` and `backdraw.Bernoulli` that is the
    distribution's own; for other structures, such as `backdraw.Subset`, it is another one, and neither ``log_prob`` nor
    ``sample`` belong to it.

    References
    ----------
    M. B. Paulus, D. Choi, D. Tarlow, A. Krause, C. J. Maddison, Gradient Estimation with Stochastic Softmax Tricks,
    arXiv 2006.08063.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Subset(np.array([0.0, 1.0, 2.0, -1.0]), k=2)
    >>> backdraw.stochastic_softmax(p, temperature=0.5, rng=backdraw.key(0)).round(3)
    array([0.121, 0.525, 0.999, 0.355])
    >>> backdraw.stochastic_softmax(p, hard=True, rng=backdraw.key(0))
    array([0., 1., 1., 0.])
    """
    p = as_distribution(dist, "stochastic_softmax", "perturb", "relax")
    return relaxed_draw(p, temperature, backward_temperature, regularizer, hard, rng)


def relaxed_draw(p: Any, temperature: Any, backward_temperature: Any, regularizer: str, hard: bool, rng: Any) -> Array:
    """Return the relaxed draw of a distribution that has one, or the vertex with its gradient."""
    t = check_positive("temperature", temperature, p)
    if backward_temperature is None:
        return p.relaxed_draw(rng, t, regularizer, hard=hard)
    t_back = check_positive("backward_temperature", backward_temperature, p)
    u = p.perturbed(rng)
    value = p.argmax(u) if hard else p.backend.stop_gradient(p.relax(u, t, regularizer))
    return surrogate(p.backend, value, p.relax(u, t_back, regularizer))
