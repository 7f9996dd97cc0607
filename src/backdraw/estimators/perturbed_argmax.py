"""Perturbed argmax: the mean of the argmax over noise, and its Jacobian by the score of the noise."""

from typing import Any

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.errors import InvalidValueError
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.expectation import check_samples
from backdraw.estimators.registry import register
from backdraw.primitive import Primitive
from backdraw.surrogate import once

# Of noise with the density exp(-nu(z)): the derivative of nu, which has mean 0.
SCORES = {
    "gumbel": lambda xp, z: 1.0 - xp.exp(-z),
    "logistic": lambda xp, z: xp.tanh(0.5 * z),
    "normal": lambda xp, z: z,  # noqa: ARG005
}


@register(
    kind="draw", gradient="biased", forward="relaxed", law=False, differentiable_f=True, domain="discrete",
    needs=("perturb", "argmax"), reference="arXiv 2002.08676",
)  # fmt: skip
def perturbed_argmax(
    dist: Distribution | Array, *, samples: int = 10, sigma: Any = 1.0, noise: str | None = None, rng: Any = None
) -> Array:
    r"""Average the argmax over noise on the utilities: a relaxation for which any solver will do.

    Forward :math:`y = \frac1n \sum_s x_s` with :math:`x_s = \arg\max_x \langle u + \sigma z_s, x \rangle`. Backward, for
    the cotangent c and noise of density :math:`\exp(-\nu(z))`, the estimate of :math:`(\partial\, \mathrm{E}\,y / \partial
    u)^\top c`

    .. math:: \frac{1}{n \sigma} \sum_{s=1}^{n} \left(\langle x_s, c \rangle - b_s\right) \nu'(z_s), \qquad
        b_s = \frac{1}{n - 1} \sum_{r \neq s} \langle x_r, c \rangle,

    with :math:`\nu'(z) = 1 - e^{-z}` for Gumbel, :math:`z` for normal and :math:`\tanh(z / 2)` for logistic noise. The
    baseline :math:`b_s` is independent of :math:`z_s`, and :math:`\mathrm{E}\,\nu'(z) = 0`: it adds no bias.

    Parameters
    ----------
    dist : Distribution or array
        Whose argmax to take; an array means ``Categorical(array)``.
    samples : int
        n > 0. All are solved in one batch: n times the memory. One sample has no baseline.
    sigma : float or scalar array
        :math:`\sigma > 0`, the scale of the noise. An array is traced and has its own gradient, that of E y likewise.
    noise : {"gumbel", "logistic", "normal"}, optional
        Independent on every utility. None is what the distribution itself perturbs with: Gumbel noise, for bits logistic
        noise, for an `Oracle` what it says.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of dist's shape
        A point of the convex hull, in the logits' dtype and on their device.

    Raises
    ------
    TypeError
        If `dist` has no argmax of perturbed utilities, or an argument is of another type or framework.
    ValueError
        If `samples` or `sigma` is not positive, or there is no such noise.
    GradientError
        If a second derivative is asked for: there is none.

    Notes
    -----
    For a given cotangent the gradient is an unbiased estimate of that of E y. With the distribution's own noise, E y is
    :math:`\mathrm{softmax}(l / \sigma)` for categories and the sigmoid for bits; otherwise it is known in no closed form, and
    is the mean of the draws that `backdraw.gumbel_max` makes, not of an exponential family. As a gradient of E[f(x)] it is
    biased, as is that of any relaxation, since f sees y and not x; and as that of f(E y) by what is left of the noise in y,
    of the order 1 / n. The variance is of the order :math:`1 / (n \sigma^2)` and grows with the number of utilities.

    The gradient goes to the utilities alone: parameters of another kind, where a distribution has them, get none (on torch and
    JAX none or zero, on NumPy a GradientError if it is asked for).

    References
    ----------
    Q. Berthet, M. Blondel, O. Teboul, M. Cuturi, J.-P. Vert, F. Bach, Learning with Differentiable Perturbed Optimizers,
    arXiv 2002.08676.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits = np.log([0.2, 0.3, 0.5])
    >>> f = lambda l: backdraw.perturbed_argmax(l, samples=1000, rng=backdraw.key(0))
    >>> y, pullback = backdraw.vjp(f, logits)
    >>> y
    array([0.214, 0.282, 0.504])
    >>> pullback(np.array([0.0, 0.0, 1.0]))[0].round(2)  # the true one is -0.1, -0.15, 0.25
    array([-0.12, -0.14,  0.26])
    """
    p = as_distribution(dist, "perturbed_argmax", "perturb", "argmax")
    be, u, samples = p.backend, p.utilities, check_samples("perturbed_argmax", samples)
    scale = check_positive("sigma", sigma, p)
    kind = check_noise(noise, p)
    x, z = perturbed(p, kind, scale, samples, rng)
    y = be.mean_samples(x)
    static = {"kind": kind, "axes": p.event_axes(y), "noise_axes": p.event_axes(u)}
    if isinstance(scale, float):
        return _perturbed_argmax(y, u, z, x, **static, sigma=scale)
    return _perturbed_argmax(y, u, z, x, scale, **static, sigma=None)


def check_noise(noise: Any, dist: Any) -> str:
    """Return the kind of noise: that of the distribution if there is none given."""
    kind = dist.noise if noise is None else noise
    if kind not in SCORES:
        raise InvalidValueError(f"noise: expected one of {', '.join(SCORES)} or None, got {kind!r}")
    return kind


def perturbed(p: Any, kind: str, sigma: Any, samples: int, rng: Any) -> tuple[Array, Array]:
    """Solve for `samples` perturbations, in front: the vertices, with no gradient, and the noise."""
    be, u = p.backend, p.backend.stop_gradient(p.utilities)
    z = random.noise(be, kind, rng, (samples, *u.shape), u)
    scaled = z if isinstance(sigma, float) and sigma == 1.0 else z * scale_of(be, sigma, z)
    return p.stopped().repeated(samples).argmax(u + scaled), z


def scale_of(be: Backend, sigma: Any, z: Array) -> Any:
    """Return the scale as a factor of the noise."""
    return sigma if isinstance(sigma, float) else be.cast(be.stop_gradient(sigma), z.dtype)


class PerturbedArgmax(Primitive):
    """Forward the mean it is given; backward the estimate from the vertices and their noise."""

    name = "perturbed_argmax"

    def forward(self, be: Backend, y: Array, *arrays: Array, **static: Any) -> tuple[Array, Any]:  # noqa: ARG002
        """Return the mean as it is."""
        return y, arrays

    def backward(  # type: ignore[override]  # the static arguments by name
        self,
        be: Backend,
        residuals: Any,
        cotangent: Array,
        *,
        kind: str,
        axes: tuple[int, ...],
        noise_axes: tuple[int, ...],
        sigma: float | None,
    ) -> tuple[Array | None, ...]:
        """Weigh the scores of the noise with what each vertex is worth, in float32 or wider."""
        xp, (u, z, x, *traced) = be.xp, residuals
        scale = scale_of(be, traced[0] if sigma is None else sigma, z)
        n, c = z.shape[0], be.cast(be.stop_gradient(cotangent), z.dtype)
        if axes == (-1,):
            worth = be.rowwise(_worth, x, xp.broadcast_to(c, x.shape))
        else:
            worth = be.cast(x, z.dtype) * c
            worth = xp.sum(worth, axis=axes) if axes else worth
        if n > 1:  # less the mean of the others, and exactly 0 where all are equal
            worth = worth - worth[:1, ...]
            worth = (worth - be.mean_samples(worth)) * (n / (n - 1))
        sizes = list(z.shape)
        for axis in noise_axes:
            sizes[axis] = 1
        worth, live = xp.reshape(worth, tuple(sizes)) / (n * scale), xp.isfinite(u)
        to_u = xp.where(live, be.sum_of(_scores, z, worth, kind=kind), 0.0)  # noise moves nothing that is infinite
        grads = [be.cast(to_u, u.dtype), None, None]
        if sigma is None:  # the density of u + sigma z has the derivative (nu'(z) z - 1) / sigma in sigma
            to_sigma = xp.sum(xp.where(live, be.sum_of(_scores_of_scale, z, worth, kind=kind), 0.0))
            grads.append(be.cast(to_sigma, traced[0].dtype))
        sources = (cotangent, u, *traced)
        return (None, *(None if g is None else once(be, g, *sources, estimator=self.name) for g in grads))


def _worth(be: Backend, x: Array, c: Array) -> Array:
    """Return what the vertices x, in rows, are worth to the cotangent c."""
    return be.row_sum(be.cast(x, c.dtype) * c)


def _scores(be: Backend, z: Array, worth: Array, *, kind: str) -> Array:
    """Return the scores of the noise z, weighted."""
    return worth * SCORES[kind](be.xp, z)


def _scores_of_scale(be: Backend, z: Array, worth: Array, *, kind: str) -> Array:
    """Return those of sigma, times sigma."""
    return worth * (SCORES[kind](be.xp, z) * z - 1.0)


_perturbed_argmax = PerturbedArgmax()
