"""From random words to noise: uniforms, and what each kind of noise makes of them.

A uniform is fine-grained near 0, to 2**-32, and coarse near 1, to 2**-24 in float32. So log1p(-u) keeps the upper tail of a
Gumbel, which is the lower one of an exponential, and log(u) those of a normal, which are far from its centre; where both
tails of one uniform count, there are two of them.
"""

import math
from collections.abc import Callable
from typing import Any

from backdraw.backend import Array, Backend


def uniform_of_words(be: Backend, words: Array, dtype: Any) -> Array:
    """Return ``(word + 1/2) / 2**32`` for 32-bit words: never 0, and never rounded up to 1."""
    u = (be.cast(words, dtype) + 0.5) * 2.0**-32
    # The top words round up to 1 in float32. (float64 holds every value exactly.)
    return u if dtype == be.xp.float64 else be.clip(u, 0.0, 1.0 - 2.0**-24)


def _exponential(xp: Any, u: Array) -> Array:
    return xp.negative(xp.log1p(xp.negative(u)))


def _waiting(xp: Any, u: Array, v: Array) -> Array:
    early = _exponential(xp, u)  # an exponential that is over 1 is one more than an exponential
    return xp.where(early < 1.0, early, 1.0 - xp.log(v))


# Each transform takes the namespace and uniforms in (0, 1), and says how many uniforms an element takes. The namespace's
# functions get nothing that is used again, so that they may work in place.
TRANSFORMS: dict[str, tuple[int, Callable[..., Array]]] = {
    "uniform": (1, lambda xp, u: u),  # noqa: ARG005
    "exponential": (1, _exponential),  # for races, which the least one wins
    "waiting": (2, _waiting),  # an exponential with both its tails
    "gumbel": (1, lambda xp, u: xp.negative(xp.log(_exponential(xp, u)))),
    "logistic": (2, lambda xp, u, v: xp.log(_exponential(xp, u) / _exponential(xp, v))),
    "laplace": (2, lambda xp, u, v: xp.log(u / v)),
    "normal": (2, lambda xp, u, v: xp.sqrt(xp.log(u) * -2.0) * xp.cos(v * (2.0 * math.pi))),
}
