"""Implicit MLE: the difference of two argmaxes, with the utilities and against the cotangent, under the same noise."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.errors import InvalidTypeError
from backdraw.estimators.arguments import as_distribution, check_positive
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
