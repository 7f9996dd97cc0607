"""Divergences between two distributions of the same family."""

from numbers import Integral
from typing import Any

from backdraw.backend import Array, backend_of
from backdraw.distributions.base import Distribution
from backdraw.distributions.checks import require
from backdraw.distributions.continuous import broadcast_shape
from backdraw.distributions.elementwise import broadcast
from backdraw.errors import InvalidTypeError, InvalidValueError


def kl(p: Distribution, q: Distribution, *, samples: int = 1, rng: Any = None) -> Array:
    r"""Kullback-Leibler divergence :math:`\sum_x p(x) \log(p(x) / q(x))`, differentiable in both.

    Exact where a closed form is known, as for Categorical, Bernoulli and Normal, or an algorithm for the sum over all values,
    as for Subset, SpanningTree, Arborescence and Chain. Otherwise, as for Concrete, the mean of
    :math:`\log p(x) - \log q(x)` over draws x of p, which are functions of p's parameters and noise: in log space, where
    draws at low temperature do not underflow and the divergence is the same.

    Parameters
    ----------
    p, q : Distribution
        Two distributions of the same class and framework, whose batch shapes broadcast: q may be one prior for a batch.
    samples : int
        How many draws to average; for those without a closed form only.
    rng : optional
        As for `backdraw.draw`; for those without a closed form only.

    Returns
    -------
    array, of the batch shapes' common shape
        In nats. +inf where p gives weight to a value that q excludes; 0, with no gradient, where p has no value, such as a row
        of which all is masked. An estimate may be negative.

    Raises
    ------
    TypeError
        If `p` and `q` are not two distributions of one class that knows its divergence, or of different frameworks, or
        `samples` is no integer, or `rng` is given for a closed form or of another framework.
    ValueError
        If their shapes do not broadcast, k, edges or root differ, or `samples` is less than 1 or given for a closed form.

    Notes
    -----
    A closed form has neither bias nor variance. The estimate and its gradient are unbiased, with a variance that falls
    as 1 / samples. See Kullback and Leibler 1951.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p, q = backdraw.Bernoulli(np.array(0.0)), backdraw.Bernoulli(np.array(1.0))
    >>> float(backdraw.kl(p, q).round(4))
    0.1201
    >>> p, q = (backdraw.Concrete(np.array(l), 0.5) for l in ([0.0, 0.0], [0.0, 1.0]))
    >>> float(backdraw.kl(p, q, samples=1000, rng=backdraw.key(0)).round(2))
    0.14
    """
    for name, dist in (("p", p), ("q", q)):
        if not isinstance(dist, Distribution):
            raise InvalidTypeError(f"{name}: expected a distribution, got {type(dist).__name__}")
    # Of the class: torch.compile cannot trace the error that an instance raises.
    exact: Any = getattr(type(p), "kl", None)
    estimate: Any = getattr(type(p), "kl_estimate", None)
    if type(p) is not type(q):
        raise InvalidTypeError(f"q: expected a distribution of p's class, {type(p).__name__}, got {type(q).__name__}")
    if exact is None and estimate is None:
        require(p, "kl", "kl")
    backend_of(*p.params, *q.params)
    if isinstance(samples, bool) or not isinstance(samples, Integral):
        raise InvalidTypeError(f"samples: expected an integer, got {type(samples).__name__}")
    if p.batch_shape != q.batch_shape:
        p, q = _matched(p, q)
    if exact is None:
        if samples < 1:
            raise InvalidValueError(f"samples: expected at least 1, got {samples}")
        return estimate(p, q, p.transport_noise(rng, (int(samples),)))
    if samples != 1:
        raise InvalidValueError(f"samples: expected none for {type(p).__name__}, whose KL is exact, got {samples}")
    if rng is not None:
        raise InvalidTypeError(f"rng: expected None for {type(p).__name__}, whose KL is exact, got {type(rng).__name__}")
    return exact(p, q)


def _matched(p: Distribution, q: Distribution) -> tuple[Distribution, Distribution]:
    """Give the parameters of both the shapes that they have together; leave those whose events differ to the family."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in p.parameters:
        a, b = getattr(p, name), getattr(q, name)
        if not (hasattr(a, "shape") and hasattr(b, "shape")):
            continue
        one, other = tuple(a.shape), tuple(b.shape)
        shape = broadcast_shape(one, other)
        if shape is None or any(-i > len(other) or one[i] != other[i] for i in p.event_axes(a)):
            return p, q
        shapes[name] = shape
    p, q = (d.replace(**{name: broadcast(getattr(d, name), shape=shape) for name, shape in shapes.items()}) for d in (p, q))
    return p, q
