"""Gumbel-Rao: straight-through Gumbel-softmax, averaged over the noise that leads to the same draw."""

from typing import Any

from backdraw import random
from backdraw.backend import Array, Backend
from backdraw.distributions import Distribution
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.expectation import check_samples
from backdraw.estimators.registry import register
from backdraw.primitive import Primitive
from backdraw.surrogate import once


@register(
    kind="draw", gradient="biased", forward="hard", law=True, differentiable_f=True, domain="discrete",
    needs=("sample", "conditional_perturb", "relax", "covariance_product"), reference="arXiv 2010.04838",
)  # fmt: skip
def gumbel_rao(dist: Distribution | Array, *, temperature: Any = 1.0, samples: int = 10, rng: Any = None) -> Array:
    r"""Draw exactly, and back-propagate the mean of the softmax's gradients at Gumbels given the draw.

    Forward an exact draw :math:`D = e_k`. Backward, for the cotangent c,

    .. math:: \frac{1}{n} \sum_{i=1}^{n} \left(\frac{\partial\,\mathrm{softmax}(u / t)}{\partial u}\right)^{\!\top}_{u^{(i)}} c

    at utilities :math:`u^{(i)} = l + g` whose Gumbel noise g is drawn given D: with :math:`E_j \sim \mathrm{Exp}(1)` and
    :math:`Z = \sum_j \exp l_j`, :math:`u_k = \log Z - \log E_k` and :math:`u_j = -\log(E_j / \exp l_j + E_k / Z)`. For
    bits, the sigmoid and logistic noise. The gradient does not go through the law of u given D: only so is its mean that
    of straight-through Gumbel-softmax.

    Parameters
    ----------
    dist : Distribution or array
        What to draw from; an array means ``Categorical(array)``.
    temperature : float or scalar array
        t > 0. An array may be traced but gets no gradient (on torch and JAX none or zero, on NumPy a GradientError if it is
        asked for).
    samples : int
        n > 0, the number of noises for each draw. They are drawn one after the other in the backward pass: it takes n
        times as long, and no more memory.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, of dist's shape
        In the logits' dtype and on their device; exactly 0 and 1.

    Raises
    ------
    TypeError
        If `dist` lacks a draw, utilities given the draw or a relaxation, or an argument is of another type or framework.
    ValueError
        If the temperature or `samples` is not positive.
    GradientError
        If a second derivative is asked for: there is none.

    Notes
    -----
    The mean gradient is that of ``gumbel_softmax(..., hard=True)`` for every f and every n, with its bias; the variance
    falls with n, towards that of the draw alone. f must be differentiable; it sees exact draws only.

    References
    ----------
    M. B. Paulus, C. J. Maddison, A. Krause, Rao-Blackwellizing the Straight-Through Gumbel-Softmax Gradient Estimator,
    arXiv 2010.04838.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> logits = np.zeros(2)
    >>> x, pullback = backdraw.vjp(lambda l: backdraw.gumbel_rao(l, samples=1000, rng=backdraw.key(0)), logits)
    >>> x
    array([0., 1.])
    >>> pullback(np.array([1.0, 0.0]))[0].round(2)
    array([ 0.16, -0.16])
    """
    p = as_distribution(dist, "gumbel_rao", "sample", "conditional_perturb", "relax", "covariance_product")
    be, like = p.backend, p.params[0]
    t = check_positive("temperature", temperature, p)
    samples = check_samples("gumbel_rao", samples)
    for_draw, for_utilities = random.streams(be, rng, 2, like)
    x = p.sample(p.draw_noise(for_draw))
    words = random.key_words(be, for_utilities, samples, like)
    static = {"family": type(p), "plain": tuple(getattr(p, name) for name in p.plain)}
    arrays = (x, words, *(getattr(p, name) for name in p.arrays))
    if isinstance(t, float):
        return _gumbel_rao(*arrays, **static, temperature=t)
    return _gumbel_rao(*arrays, t, **static, temperature=None)


def softmax_gradient(p: Any, x: Array, noise: Array, c: Array, *traced: Array, temperature: float | None) -> Array:
    """Return the gradient at one noise, given the draw x."""
    t = traced[0] if temperature is None else temperature
    return p.covariance_product(p.relax(p.conditional_perturb(x, noise), t), c) / t


class GumbelRao(Primitive):
    """Forward the draw; backward the mean over the noises whose keys it is given."""

    name = "gumbel_rao"
    loops = True

    def forward(self, be: Backend, x: Array, *arrays: Array, **static: Any) -> tuple[Array, Any]:  # noqa: ARG002
        """Return the draw as it is."""
        return x, (x, *arrays)

    def backward(  # type: ignore[override]  # the static arguments by name
        self,
        be: Backend,
        residuals: Any,
        cotangent: Array,
        *,
        family: type[Distribution],
        plain: tuple[Any, ...],
        temperature: float | None,
    ) -> tuple[Array | None, ...]:
        """Sum the gradients, noise by noise, in float32 or wider."""
        logits, words = residuals[2], residuals[1]
        wide = be.wide(logits.dtype)
        x, c, u = (be.cast(be.stop_gradient(a), wide) for a in (residuals[0], cotangent, logits))
        others = [None if a is None else be.stop_gradient(a) for a in residuals[3:]]
        traced = [be.cast(others.pop(), wide)] if temperature is None else []
        p: Any = family.rebuild((u, *others), plain)

        def add(total: Array, key: Array) -> tuple[Array, None]:
            noise = p.perturb_noise(random.Key(*be.scalars(key)))
            return total + p.rowwise(softmax_gradient, x, noise, c, *traced, temperature=temperature), None

        total, _ = be.scan(add, be.xp.zeros_like(c), words)
        grad = be.cast(total / words.shape[0], logits.dtype)
        return (None, None, once(be, grad, cotangent, logits, estimator=self.name), *(None for _ in residuals[3:]))


_gumbel_rao = GumbelRao()
