r"""Leave-one-out ratios of a set S drawn without replacement (Kool et al., arXiv 2002.06043), as exact sums.

They are ratios of G(A), A a subset of S: the probability that draws without replacement from all values but A are first
the rest of S. Seen from the first of these draws,

.. math:: G(A) = \sum_{t \in S \setminus A} \frac{p(t)}{1 - p(A)} G(A + t), \qquad G(S) = 1,

a sum of positive terms. Where nothing is left to be drawn but what has no probability, G is 1. `logp` is that of the
values of S, on the last axis, and `log_outside` that of all others together, with a last axis of size 1.
"""

from itertools import combinations

from backdraw.backend import Array, Backend


def ratios(be: Backend, logp: Array, log_outside: Array) -> tuple[Array, Array]:
    r"""Return ``log(p(s) R(S, s))`` and, in row s and column s', ``log(p(s') R^{D \ s}(S, s'))``."""
    xp, k = be.xp, logp.shape[-1]
    none, one, two = log_completions(be, logp, log_outside)[:3]
    pairs = [sum(1 << i for i in pair) for pair in combinations(range(k), 2)]
    table = [[s if s == t else k + pairs.index(1 << s | 1 << t) for t in range(k)] for s in range(k)]
    both = _take(be, xp.concat([one, two], axis=-1), table)
    return logp + one - none, xp.expand_dims(logp, axis=-2) + both - xp.expand_dims(one, axis=-1)


def log_completions(be: Backend, logp: Array, log_outside: Array) -> list[Array]:
    """Return log G(A) for all subsets A: a list by their size, each in the order of `combinations`."""
    xp, k = be.xp, logp.shape[-1]
    every = xp.concat([logp, log_outside], axis=-1)  # at place k what completes no set
    certain = xp.zeros_like(log_outside)
    never = certain - xp.inf
    layers = [certain]
    places = {(1 << k) - 1: 0}  # of the subsets, as bits, in the last layer
    for size in range(k - 1, -1, -1):
        subsets = [sum(1 << i for i in a) for a in combinations(range(k), size)]
        left = [[t for t in range(k) if not a >> t & 1] for a in subsets]
        larger = [[places[a | 1 << t] for t in ts] for a, ts in zip(subsets, left, strict=True)]
        first = _take(be, every, [[*ts, k] for ts in left])
        then = _take(be, xp.concat([layers[0], never], axis=-1), [[*ps, len(places)] for ps in larger])
        both = be.logsumexp(xp.stack([first, first + then]))[..., 0]
        total, ways = both[0, ...], both[1, ...]  # total: 1 - p(A), summed of its parts
        over = total == -xp.inf
        layers = [xp.where(over, 0.0, ways - xp.where(over, 0.0, total)), *layers]
        places = {a: i for i, a in enumerate(subsets)}
    return layers


def _take(be: Backend, x: Array, places: list[list[int]]) -> Array:
    """Return the entries of the last axis at these places, in place of it two axes."""
    flat = be.xp.asarray([i for row in places for i in row], device=be.device(x))
    return be.xp.reshape(be.xp.take(x, flat, axis=-1), (*x.shape[:-1], len(places), len(places[0])))
