"""REBAR and RELAX: a control variate made of a relaxed draw, as it is and as it is conditioned on the exact one."""

from typing import Any

from backdraw.backend import Array, Backend, belongs
from backdraw.distributions import Distribution
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators.arguments import as_distribution, check_positive
from backdraw.estimators.expectation import Function, attach, check_samples, constant, evaluate, mean, sealed
from backdraw.estimators.registry import register

NEEDS = ("score", "perturb", "argmax", "relax", "pull_given_argmax")
_STATED: dict[str, Any] = {
    "kind": "expectation", "gradient": "unbiased", "forward": "hard", "law": True, "differentiable_f": True,
    "domain": "discrete", "needs": NEEDS,
}  # fmt: skip


@register(**_STATED, reference="arXiv 1703.07370")
def rebar(
    f: Function,
    dist: Distribution | Array,
    *,
    temperature: Any = 0.5,
    scale: Any = 1.0,
    samples: int = 1,
    rng: Any = None,
) -> Array:
    r"""Mean of f over draws, with REBAR's gradient: f at relaxed draws is the control variate.

    .. math::
        \nabla E[f(b)] \approx \bigl(f(b) - \eta f(\tilde z)\bigr) \nabla \log p(b)
        + \eta \nabla f(z) - \eta \nabla f(\tilde z)

    where :math:`z = \mathrm{relax}(u, t)` and :math:`b = \arg\max u` come of the same random utilities u, and
    :math:`\tilde z = \mathrm{relax}(\tilde u, t)` of utilities that are drawn given b. The last two terms differentiate
    through the noise, conditional noise included. Noise is shared, so that :math:`\tilde u = u`: the two differ in their
    derivatives alone. For one category with p = softmax(logits),

    .. math::
        \frac{\partial u_j}{\partial l_k} - \frac{\partial \tilde u_j}{\partial l_k} = e^{u_j - \max u} (\delta_{jk} - p_k).

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`, and differentiable at points inside the hull of the values. On NumPy it is made of
        backdraw's functions and primitives.
    dist : Distribution or array
        `backdraw.Categorical` or `backdraw.Bernoulli`; an array means ``Categorical(array)``.
    temperature : float or scalar array
        t > 0, of the relaxed draws. It changes the variance only.
    scale : float or scalar array
        :math:`\eta`, of the control variate; 0 leaves `backdraw.reinforce`.
    samples : int
        S, the number of independent draws.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f over the exact draws, in its dtype. Its gradient goes to the distribution's parameters and to all that
        f closes over.

    Raises
    ------
    TypeError
        If the random utilities of `dist` given a draw are not known, or as `backdraw.reinforce`.
    ValueError
        If `temperature` is not positive, or as `backdraw.reinforce`.
    GradientError
        If a second derivative is asked for, or on NumPy if f is not made of primitives.

    Notes
    -----
    Unbiased for every temperature and scale; `backdraw.variance_loss` tunes them. f is called with S exact draws, and once
    more with S relaxed ones, where it is differentiated.

    References
    ----------
    G. Tucker, A. Mnih, C. J. Maddison, J. Lawson, J. Sohl-Dickstein, REBAR, arXiv 1703.07370.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: backdraw.Categorical(np.log([0.2, 0.3, 0.5])).log_prob(x)
    >>> estimate = lambda l: backdraw.rebar(f, l, samples=1000, rng=backdraw.key(0))
    >>> value, (grad,) = backdraw.value_and_grad(estimate)(np.zeros(3))
    >>> grad.round(2)
    array([-0.15, -0.01,  0.15])
    """
    p = as_distribution(dist, "rebar", *NEEDS)
    return _estimate(f, f, p, temperature, _check_scale(scale, p.backend), check_samples("rebar", samples), rng, "rebar")


@register(**{**_STATED, "differentiable_f": False}, reference="arXiv 1711.00123")
def relax(
    f: Function,
    dist: Distribution | Array,
    *,
    surrogate: Function,
    temperature: Any = 0.5,
    samples: int = 1,
    rng: Any = None,
) -> Array:
    r"""Mean of f over draws, with RELAX's gradient: a function c of relaxed draws, of your own, is the control variate.

    .. math::
        \nabla E[f(b)] \approx \bigl(f(b) - c(\tilde z)\bigr) \nabla \log p(b) + \nabla c(z) - \nabla c(\tilde z)

    with the exact draw b and the relaxed draws z and :math:`\tilde z`, of shared noise, of `backdraw.rebar`.

    Parameters
    ----------
    f : callable
        As for `backdraw.reinforce`; it may be a black box.
    dist : Distribution or array
        `backdraw.Categorical` or `backdraw.Bernoulli`; an array means ``Categorical(array)``.
    surrogate : callable
        c, which takes relaxed x as f takes x, and is differentiable. On NumPy it is made of backdraw's functions and
        primitives.
    temperature : float or scalar array
        t > 0, of the relaxed draws.
    samples : int
        S, the number of independent draws.
    rng : optional
        As for `backdraw.draw`.

    Returns
    -------
    array, shape ``batch``
        The mean of f over the exact draws, in its dtype. Its gradient goes to the distribution's parameters and to all that
        f closes over, but not to the surrogate's: `backdraw.variance_loss` trains that.

    Raises
    ------
    TypeError, ValueError, GradientError
        As `backdraw.rebar`.

    Notes
    -----
    Unbiased for every surrogate. f is called once, and the surrogate once, with S samples each.

    References
    ----------
    W. Grathwohl, D. Choi, Y. Wu, G. Roeder, D. Duvenaud, Backpropagation through the Void, arXiv 1711.00123.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> f = lambda x: np.argmax(x, -1) ** 2.0
    >>> c = lambda x: backdraw.Categorical(np.array([0.0, 1.0, 4.0])).log_prob(x)
    >>> estimate = lambda l: backdraw.relax(f, l, surrogate=c, samples=1000, rng=backdraw.key(0))
    >>> value, (grad,) = backdraw.value_and_grad(estimate)(np.zeros(3))
    >>> grad.round(2)
    array([-0.51, -0.28,  0.79])
    """
    p = as_distribution(dist, "relax", *NEEDS)
    return _estimate(f, surrogate, p, temperature, 1.0, check_samples("relax", samples), rng, "relax")


def _estimate(f: Function, c: Function, p: Any, temperature: Any, scale: Any, n: int, rng: Any, estimator: str) -> Array:
    be = p.backend
    xp = be.xp
    t = check_positive("temperature", temperature, p)
    many = p.stopped().repeated(n)
    u = many.perturb(many.perturb_noise(rng))
    b = many.argmax(u)
    values = evaluate(f, b, p)
    with sealed(be):
        relaxed, pullback = be.vjp(lambda u: evaluate(c, many.relax(u, t), p, name="f" if c is f else "surrogate"), (u,))
        tilde = be.cast(relaxed, be.wide(relaxed.dtype))
        (path,) = pullback(be.cast(scale / n * xp.ones_like(tilde), relaxed.dtype))
        scores = p.weighted_score(b, (constant(be, values) - scale * tilde) / n)
        paths = p.stopped().pull_given_argmax(u, b, path)
        grads = tuple(score + path for score, path in zip(scores, paths, strict=True))
    return attach(mean(values), p, grads, estimator=estimator)


def _check_scale(scale: Any, be: Backend) -> Any:
    if isinstance(scale, (int, float)) and not isinstance(scale, bool):
        return float(scale)
    if not (belongs(scale, be) and be.is_floating(scale.dtype)):
        raise InvalidTypeError(f"scale: expected a number or a scalar {be.name} array, got {type(scale).__name__}")
    if tuple(scale.shape) != ():
        raise InvalidValueError(f"scale: expected a scalar array of shape (), got shape {tuple(scale.shape)}")
    return scale
