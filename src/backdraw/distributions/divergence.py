"""Divergences between two distributions of the same family."""

from typing import Any

from backdraw.backend import Array, backend_of
from backdraw.distributions.base import Distribution
from backdraw.errors import InvalidTypeError


def kl(p: Distribution, q: Distribution) -> Array:
    r"""Kullback-Leibler divergence :math:`\sum_x p(x) \log(p(x) / q(x))`, exact and differentiable.

    Parameters
    ----------
    p, q : Distribution
        Two distributions of the same class, shape and framework.

    Returns
    -------
    array, shape ``batch_shape``
        In nats. +inf where p gives weight to a value that q excludes.

    Raises
    ------
    TypeError
        If `p` and `q` are not two distributions of one class that knows its divergence, or of different frameworks.
    ValueError
        If their shapes differ.

    Notes
    -----
    Exact: neither bias nor variance. See Kullback and Leibler 1951.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p, q = backdraw.Bernoulli(np.array(0.0)), backdraw.Bernoulli(np.array(1.0))
    >>> float(backdraw.kl(p, q).round(4))
    0.1201
    """
    for name, dist in (("p", p), ("q", q)):
        if not isinstance(dist, Distribution):
            raise InvalidTypeError(f"{name}: expected a distribution, got {type(dist).__name__}")
    method: Any = getattr(p, "kl", None)
    if type(p) is not type(q) or method is None:
        raise InvalidTypeError(f"q: expected a distribution whose KL to {type(p).__name__} is known, got {type(q).__name__}")
    backend_of(*p.params, *q.params)
    return method(q)
