"""Enumeration: the exact expectation."""

from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution
from backdraw.estimators.expectation import Function, evaluate, evaluate_rest
from backdraw.estimators.joint import joint_support
from backdraw.estimators.registry import register
from backdraw.primitive import Residuals, primitive


@register(
    kind="expectation", gradient="unbiased", forward="hard", law=True, differentiable_f=False, domain="discrete",
    needs=("support", "log_prob"), reference="enumeration",
)  # fmt: skip
def exact(f: Function, dist: Distribution | Array) -> Array:
    r"""Compute the expectation of f by enumeration: :math:`\sum_x p(x) f(x)` over all joint values of the event axes.

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`. It receives every joint value of its event axes, up to 2**20, as the samples.
    dist : Distribution or array
        A distribution whose values can be enumerated; an array means ``Categorical(array)``.

    Returns
    -------
    array, shape ``batch``
        The expectation, exact but for rounding, in the dtype of f's values. It is differentiable in the distribution's
        parameters and in all that f closes over, as often as f is.

    Raises
    ------
    TypeError
        If `dist` cannot be enumerated, or f returns no array of its framework.
    ValueError
        If there are more than 2**20 joint values, or f's values have another shape.

    Notes
    -----
    Neither bias nor variance. f is called twice: with one value, which shows which axes it keeps as batch axes, and with all
    others. A value of probability 0 adds nothing, whatever f makes of it.

    References
    ----------
    The definition of the expectation.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: np.argmax(x, -1) ** 2.0
    >>> value, (grad,) = backdraw.value_and_grad(lambda l: backdraw.exact(f, l))(np.zeros(3))
    >>> float(value.round(3)), grad.round(3)
    (1.667, array([-0.556, -0.222,  0.778]))
    """
    p = as_distribution(dist, "exact", "support", "log_prob")
    first = evaluate(f, p.stopped().support()[0][:1, ...], p)  # its axes say which of the batch axes f leaves
    n = first.ndim - 1
    x = joint_support(p, n)
    joint_log_prob = sum_last(p.log_prob(x), count=len(p.batch_shape) - n)
    return expect(joint_log_prob, evaluate_rest(f, first, x, p))


@primitive(native=True)
def sum_last(be: Backend, x: Array, *, count: int) -> Array:
    """Sum over the last axes."""
    return be.xp.sum(x, axis=tuple(range(-count, 0))) if count else x


sum_last.defvjp(
    lambda be, x, *, count: (sum_last.function(be, x, count=count), (x,)),
    lambda be, residuals, g, *, count: (be.xp.broadcast_to(be.xp.reshape(g, (*g.shape, *(1,) * count)), residuals[0].shape),),
)


@primitive(native=True)
def expect(be: Backend, logp: Array, values: Array) -> Array:
    """``sum(exp(logp) * values)`` over the first axis; what has probability 0 adds nothing."""
    return _expect_fwd(be, logp, values)[0]


def _expect_fwd(be: Backend, logp: Array, values: Array) -> tuple[Array, Residuals]:
    p = be.xp.exp(logp)
    parts = p * be.xp.where(p > 0, values, 0.0)
    return be.cast(be.sum_samples(parts), values.dtype), (p, parts, logp, values)


def _expect_vjp(be: Backend, residuals: Residuals, g: Array) -> tuple[Array, Array]:
    p, parts, logp, values = residuals
    return be.cast(g * parts, logp.dtype), be.cast(g * p, values.dtype)


expect.defvjp(_expect_fwd, _expect_vjp)
