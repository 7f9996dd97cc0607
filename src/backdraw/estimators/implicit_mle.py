"""Implicit MLE: the difference of two argmaxes, with the utilities and against the cotangent, under the same noise."""

import math
from numbers import Integral
from typing import Any, NamedTuple

from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.distributions.checks import check_logits, positive
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.baselines import check_decay
from backdraw.estimators.registry import register
from backdraw.primitive import Primitive
from backdraw.surrogate import once


@register(
    kind="draw", gradient="biased", forward="hard", law=True, differentiable_f=True, domain="discrete",
    needs=("perturb", "argmax"), reference="arXiv 2106.01798",
)  # fmt: skip
def implicit_mle(
    dist: Distribution | Array, *, step_size: Any = 1.0, relative: bool = False, symmetric: bool = False, rng: Any = None
) -> Array:
    r"""Draw by perturbing and maximising, and back-propagate how the draw changes as its utilities step down the loss.

    Forward :math:`y(u) = \arg\max_x \langle u, x \rangle` at utilities :math:`u = l + z` with the distribution's own noise
    z. Backward, for the cotangent c and the step :math:`\lambda`, with the same z,

    .. math:: \frac{y(u) - y(u - \lambda c)}{\lambda} \qquad \text{or, symmetric,} \qquad
        \frac{y(u + \lambda c) - y(u - \lambda c)}{2 \lambda}.

    Over the noise this is a finite difference of the mean :math:`m(l) = \mathrm{E}\,y`, whose Jacobian is symmetric: for
    small :math:`\lambda` its mean is :math:`(\partial m / \partial l)^\top c`.

    Parameters
    ----------
    dist : Distribution or array
        What to draw from; an array means ``Categorical(array)``.
    step_size : float or scalar array
        :math:`\lambda > 0`, in utility per unit of cotangent. An array may be traced, and has no gradient.
    relative : bool
        Take ``step_size`` in units of the logits over those of the cotangent: :math:`\lambda` is the step size times
        :math:`\lVert l \rVert / \lVert c \rVert`, both norms over the whole array and clipped to 1e-15 and 1e15. With
        `adaptive_step` this is AIMLE.
    symmetric : bool
        Take the symmetric difference, which solves twice in the backward pass: less bias.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of dist's shape
        In the logits' dtype and on their device; exactly 0 and 1, but for an `Oracle`, whose solver decides.

    Raises
    ------
    TypeError
        If `dist` has no argmax of perturbed utilities, or its draws have another shape than they, or an argument is of
        another type or framework.
    ValueError
        If the step size is not positive.
    GradientError
        If a second derivative is asked for: there is none.

    Notes
    -----
    Biased, for f that is not linear as for any relaxation, and for linear f by the finite step: less as it is small. The
    variance is of the order :math:`1 / \lambda`, as most draws then do not change at all and the others by
    :math:`1 / \lambda`. The paper leaves out the division, which makes the gradient's scale that of the draws; here it is
    that of the loss. Its noise is of another kind, a sum of Gammas, meant for subsets of a fixed size.

    The gradient goes to the utilities alone: parameters of another kind, where a distribution has them, get none (on torch and
    JAX none or zero, on NumPy a GradientError if it is asked for).

    References
    ----------
    M. Niepert, P. Minervini, L. Franceschi, Implicit MLE: Backpropagating Through Discrete Exponential Family
    Distributions, arXiv 2106.01798.

    P. Minervini, L. Franceschi, M. Niepert, Adaptive Perturbation-Based Gradient Estimation for Discrete Latent Variable
    Models, arXiv 2209.04862, for the relative and the symmetric step.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits = np.array([0.0, 0.0, 0.0])
    >>> f = lambda l: backdraw.implicit_mle(l, step_size=2.0, rng=backdraw.key(0))
    >>> x, pullback = backdraw.vjp(f, logits)
    >>> x
    array([0., 0., 1.])
    >>> pullback(np.array([0.0, 0.0, 1.0]))
    (array([-0.5,  0. ,  0.5]),)
    """
    p = as_distribution(dist, "implicit_mle", "perturb", "argmax")
    return difference(p, p.perturbed(rng), "implicit_mle", step_size, relative=bool(relative), symmetric=bool(symmetric))


def difference(p: Any, u: Array, estimator: str, step_size: Any, *, relative: bool = False, symmetric: bool = False) -> Array:
    """Return the argmax at u, whose gradient is a finite difference against the cotangent."""
    step = check_positive("step_size", step_size, p)
    constant = p.stopped()
    x = constant.argmax(u)
    if tuple(x.shape) != tuple(u.shape):
        raise InvalidTypeError(
            f"dist: {estimator} moves utilities along the cotangent of draws, but {type(p).__name__} has utilities of shape "
            f"{tuple(u.shape)} and draws of shape {tuple(x.shape)}; take backdraw.perturbed_argmax"
        )
    static = {"family": type(p), "plain": tuple(getattr(p, name) for name in p.plain), "estimator": estimator}
    static |= {"relative": relative, "symmetric": symmetric}
    arrays = (x, u, *(getattr(constant, name) for name in p.arrays))
    if isinstance(step, float):
        return _argmax(*arrays, **static, step_size=step)
    return _argmax(*arrays, step, **static, step_size=None)


class ArgmaxDifference(Primitive):
    """Forward the argmax it is given; backward how it changes as the utilities move along the cotangent."""

    name = "argmax"

    def forward(self, be: Backend, x: Array, *arrays: Array, **static: Any) -> tuple[Array, Any]:  # noqa: ARG002
        """Return the argmax as it is."""
        return x, (x, *arrays)

    def backward(  # type: ignore[override]  # the static arguments by name
        self,
        be: Backend,
        residuals: Any,
        cotangent: Array,
        *,
        family: type[Distribution],
        plain: tuple[Any, ...],
        estimator: str,
        step_size: float | None,
        relative: bool,
        symmetric: bool,
    ) -> tuple[Array | None, ...]:
        """Solve again, with the utilities that are kept."""
        utilities = residuals[1]
        wide = be.wide(utilities.dtype)
        x, u, c = (be.cast(be.stop_gradient(a), wide) for a in (residuals[0], utilities, cotangent))
        others = [None if a is None else be.stop_gradient(a) for a in residuals[2:]]
        step = be.cast(others.pop(), wide) if step_size is None else step_size
        p: Any = family.rebuild(others, plain)
        if relative:
            step = step * (norm(be, be.cast(p.utilities, wide)) / norm(be, c))
        step = be.xp.asarray(step, dtype=wide, device=be.device(u)) if isinstance(step, float) else step

        def solved(step: Array) -> Array:
            return be.cast(p.argmax(be.rowwise(_moved, u, c, step)), wide)

        ahead, width = (solved(step), 2.0 * step) if symmetric else (x, step)
        grad = be.cast((ahead - solved(-step)) / width, utilities.dtype)
        return (None, once(be, grad, cotangent, utilities, estimator=estimator), *(None for _ in residuals[2:]))


def norm(be: Backend, x: Array) -> Array:
    """Euclidean norm of all finite entries, within the bounds: neither it nor a ratio of two overflows in float32."""
    xp, bound = be.xp, 1e15
    x = be.clip(xp.where(xp.isfinite(x), x, 0.0), -bound, bound)
    return be.clip(xp.sqrt(xp.sum(x**2)), 1.0 / bound, bound)


def _moved(be: Backend, u: Array, c: Array, step: Array) -> Array:
    """Move the utilities, but for the infinite ones, which stay what they are."""
    return be.xp.where(be.xp.isfinite(u), u + step * c, u)


_argmax = ArgmaxDifference()


class StepState(NamedTuple):
    """What `adaptive_step` carries: the step size, and the running mean of how many entries of a gradient are not zero."""

    step_size: Any
    nonzeros: Any


def adaptive_step(
    state: StepState | float,
    gradient: Array,
    *,
    event_ndim: int = 1,
    target: float = 1.0,
    decay: float = 0.9,
    rate: float = 1e-4,
) -> StepState:
    r"""Adapt the step size of `implicit_mle` to how sparse its gradients are, as AIMLE does.

    With the mean number g of entries of a gradient that are not zero, per example, :math:`m \leftarrow \gamma m + (1 -
    \gamma) g` is its running mean; the step size grows by `rate` where m is below the target, and falls by it elsewhere,
    but not below `rate`.

    Parameters
    ----------
    state : StepState or float
        The last one, or the first step size, to start with; AIMLE starts with a running mean of the target.
    gradient : array, shape (..., \*event)
        The gradient in the logits that ``implicit_mle(logits, step_size=state.step_size, relative=True)`` gave.
    event_ndim : int
        How many axes, the last ones, belong to one example.
    target : float
        The number of entries that are to change, on average; > 0.
    decay : float
        :math:`\gamma`, from 0 to 1.
    rate : float
        The change of the step size, > 0.

    Returns
    -------
    StepState
        With scalar arrays in the dtype of the gradient; a pytree, so that it can be carried under `jax.jit`.

    Raises
    ------
    TypeError
        If `gradient` is not a real floating array, or an option is no number.
    ValueError
        If an option is out of its range, or `gradient` has not so many axes or no example.

    Notes
    -----
    A pure function: the caller carries the state from step to step. (The published rule lets the step size fall to 0,
    where every gradient is 0.)

    References
    ----------
    P. Minervini, L. Franceschi, M. Niepert, Adaptive Perturbation-Based Gradient Estimation for Discrete Latent Variable
    Models, arXiv 2209.04862.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> state = backdraw.adaptive_step(1.0, np.array([[0.0, 0.5, -0.5], [0.5, 0.0, -0.5]]), rate=0.125)
    >>> float(state.step_size), float(state.nonzeros)
    (0.875, 1.1)
    """
    be = check_logits(gradient, name="gradient")
    xp, dtype = be.xp, be.wide(gradient.dtype)
    target, decay, rate = positive("target", target), check_decay(decay), positive("rate", rate)
    shape = tuple(gradient.shape)
    if isinstance(event_ndim, bool) or not isinstance(event_ndim, Integral):
        raise InvalidTypeError(f"event_ndim: expected an int, got {type(event_ndim).__name__}")
    if not 0 <= event_ndim <= len(shape):
        raise InvalidValueError(f"event_ndim: expected 0 to {len(shape)} for a gradient of shape {shape}, got {event_ndim}")
    examples = math.prod(shape[: len(shape) - event_ndim])
    if examples == 0:
        raise InvalidValueError(f"gradient: expected at least one example, got shape {shape}")
    step, mean = state if isinstance(state, tuple) else (state, target)
    g = xp.sum(xp.astype(gradient != 0, dtype)) / examples
    mean = decay * mean + (1.0 - decay) * g
    step = step + xp.where(mean < target, rate, xp.full_like(mean, -rate))
    return StepState(be.at_least(step, rate), mean)
