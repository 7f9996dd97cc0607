"""Fenchel-Young losses: learning utilities from solutions."""

from typing import Any

from backdraw.backend import Array, Backend, belongs
from backdraw.distributions import Distribution
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.expectation import check_samples
from backdraw.estimators.perturbed_argmax import check_noise, perturbed, scale_of
from backdraw.primitive import Primitive, primitive
from backdraw.surrogate import once


def fenchel_young(
    dist: Distribution | Array,
    target: Array,
    *,
    samples: int | None = None,
    sigma: Any = 1.0,
    noise: str | None = None,
    rng: Any = None,
) -> Array:
    r"""Loss of utilities whose solution should be the target; its gradient is the mean solution less the target.

    :math:`L = F(l) - \langle l, y \rangle` for the target y, with the log-partition :math:`F(l) = \log \sum_x
    \exp \langle l, x \rangle`, or with `samples` the mean maximum :math:`F(l) = \frac1n \sum_s \max_x \langle l + \sigma z_s,
    x \rangle` over noise. The gradient in l is then :math:`\mathrm{E}\,x - y`, or that of the draws of
    `backdraw.perturbed_argmax`, :math:`\frac1n \sum_s x_s - y`.

    Parameters
    ----------
    dist : Distribution or array
        Whose utilities l to learn; an array means ``Categorical(array)``.
    target : array, of dist's shape
        A solution, or a mean of solutions such as probabilities; of a `backdraw.Chain` a path, for the means of its pairs
        do not follow from those of its variables. Integers and booleans will do.
    samples : int, optional
        None takes the log-partition, where the distribution knows it. A number takes so many perturbations: all that it
        needs is an argmax.
    sigma : float or scalar array
        The scale of the noise. An array may be traced, and has no gradient. Without `samples` it has no effect.
    noise : {"gumbel", "logistic", "normal"}, optional
        As for `backdraw.perturbed_argmax`.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of dist's batch shape
        In the logits' dtype. Convex in the logits.

    Raises
    ------
    TypeError
        If `dist` lacks the log-partition or the argmax, or an argument is of another type or framework.
    ValueError
        If the target has another shape, or `samples` or `sigma` is not positive, or there is no such noise.
    GradientError
        If a second derivative is asked for and there are `samples`.

    Notes
    -----
    A Fenchel-Young loss has one more term, that is constant in l: the conjugate of F at the target. With it the loss is 0
    where the mean is the target, and positive elsewhere. It is 0 itself for the log-partition and a single solution, for
    which the loss is the negative log-likelihood. With `samples` the gradient is exact for the loss as sampled, and unbiased
    for its mean; no solution but the targets needs to be stored, and no score is taken: its variance is that of the draws
    alone. Gumbel noise of the scale 1 on categories gives the log-partition plus Euler's constant.

    References
    ----------
    M. Blondel, A. F. T. Martins, V. Niculae, Learning with Fenchel-Young Losses, arXiv 1901.02324.

    Q. Berthet, M. Blondel, O. Teboul, M. Cuturi, J.-P. Vert, F. Bach, Learning with Differentiable Perturbed Optimizers,
    arXiv 2002.08676, for the perturbed one.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits, target = np.log([0.2, 0.3, 0.5]), np.array([0.0, 0.0, 1.0])
    >>> loss, pullback = backdraw.vjp(lambda l: backdraw.fenchel_young(l, target), logits)
    >>> float(loss.round(4)), pullback(np.array(1.0))[0].round(4)
    (0.6931, array([ 0.2,  0.3, -0.5]))
    >>> f = lambda l: backdraw.fenchel_young(l, target, samples=1000, rng=backdraw.key(0))
    >>> backdraw.vjp(f, logits)[1](np.array(1.0))[0].round(4)
    array([ 0.214,  0.282, -0.496])
    """
    needs = ("log_partition", "log_prob") if samples is None else ("perturb", "argmax")
    p = as_distribution(dist, "fenchel_young", *needs)
    be = p.backend
    scale, kind = check_positive("sigma", sigma, p), check_noise(noise, p)
    if samples is None:
        return _negative(p.log_prob_of_mean(_check_target(p, target)))
    x, z = perturbed(p, kind, scale, check_samples("fenchel_young", samples), rng)
    u = p.utilities
    if len(p.parameters) > 1 or tuple(x.shape[1:]) != tuple(u.shape):
        instead = "it without samples" if hasattr(p, "log_partition") else "-log_prob(target) for a loss"
        raise InvalidTypeError(
            f"dist: with samples, fenchel_young needs draws that maximise their product with the utilities, and those of "
            f"{type(p).__name__} do not; take {instead}"
        )
    y = _check_target(p, target)
    return _perturbed_loss(u, y, x, z * scale_of(be, scale, z), axes=p.event_axes(u))


def _check_target(p: Any, target: Any) -> Array:
    be, like = p.backend, p.params[0]
    if not belongs(target, be):
        raise InvalidTypeError(f"target: expected a {be.name} array, got {type(target).__name__}")
    expected, got = tuple(p.utilities.shape), tuple(target.shape)
    if got != expected:
        raise InvalidValueError(f"target: expected dist's shape {expected}, got {got}")
    if be.xp.isdtype(target.dtype, "complex floating"):
        raise InvalidTypeError(f"target: expected real values, got {target.dtype}")
    return target if be.is_floating(target.dtype) else be.xp.astype(target, like.dtype)


@primitive(native=True)
def _negative(be: Backend, x: Array) -> Array:  # noqa: ARG001
    return -x


_negative.defvjp(lambda be, x: (-x, ()), lambda be, residuals, g: (-g,))  # noqa: ARG005


class PerturbedLoss(Primitive):
    """Mean maximum less the value of the target, of utilities, target, the maximisers and the noise in them."""

    name = "fenchel_young"

    def forward(self, be: Backend, u: Array, y: Array, x: Array, noise: Array, *, axes: tuple[int, ...]) -> tuple[Array, Any]:
        """Sum up where the maximisers differ from the target: what is infinite there counts, and nowhere else."""
        xp, wide = be.xp, noise.dtype
        t = be.cast(y, wide)
        d = be.cast(x, wide) - t
        terms = xp.where(d != 0, (be.cast(u, wide) + noise) * xp.where(d != 0, d, 1.0), 0.0) + noise * t
        return be.cast(be.mean_samples(_sum(be, terms, axes)), u.dtype), (u, y, x)

    def backward(  # type: ignore[override]  # the static arguments by name
        self, be: Backend, residuals: Any, cotangent: Array, *, axes: tuple[int, ...]
    ) -> tuple[Array | None, ...]:
        """Give the utilities the mean maximiser less the target, and the target the utilities."""
        xp, (u, y, x) = be.xp, residuals
        wide = be.wide(xp.result_type(u, y))
        g = be.cast(be.stop_gradient(cotangent), wide)
        for axis in sorted(axes, reverse=True):
            g = xp.expand_dims(g, axis=axis)
        a, t = be.cast(be.stop_gradient(u), wide), be.cast(be.stop_gradient(y), wide)
        to_u = be.cast(g * be.mean_samples(be.cast(x, wide) - t), u.dtype)  # exactly 0 where all are the target
        to_y = be.cast(-g * xp.where(xp.isfinite(a), a, 0.0), y.dtype)
        final = (once(be, back, cotangent, u, y, estimator=self.name) for back in (to_u, to_y))
        return (*final, None, None)


def _sum(be: Backend, x: Array, axes: tuple[int, ...]) -> Array:
    return be.xp.sum(x, axis=axes) if axes else x


_perturbed_loss = PerturbedLoss()
