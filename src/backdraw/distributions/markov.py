"""A chain of variables as a Markov chain: its kernels, its marginals, and how a sum along the path varies with them.

With utilities u of the states and w of the steps, and the messages ``v_T = u_T`` and

    v_t(j) = u_t(j) + log(sum_k(exp(w_t(j, k) + v_(t+1)(k)))),

the first variable has the law softmax(v_1), and the next one, given the state j of the one before, softmax(w_t(j) + v_(t+1)).
From these kernels all else follows by sums of products of probabilities, and nothing is subtracted. Only the messages are
logarithms. All of it is computed in float64: a sum of utilities of +-1000 has no digits left in float32.

The axis of time is in front here: u is (T, ..., K), w and the kernels are (T - 1, ..., K, K).
"""

from collections.abc import Callable

from backdraw.backend import Array, Backend
from backdraw.distributions.temperature import scaled


def time_first(be: Backend, u: Array, w: Array, temperature: float = 1.0) -> tuple[Array, Array]:
    """Return both utilities over the temperature, in float64, with the axis of time in front."""
    return scaled(be, to_front(be, u, 2), temperature), scaled(be, to_front(be, w, 3), temperature)


def to_front(be: Backend, x: Array, event: int) -> Array:
    """Move the axis of time, the first of the `event` last ones, to the front."""
    # torch's moveaxis fails under vmap
    n = x.ndim - event
    return be.xp.permute_dims(x, (n, *range(n), *range(n + 1, x.ndim)))


def from_front(be: Backend, x: Array, event: int) -> Array:
    """Move it back."""
    n = x.ndim - event
    return be.xp.permute_dims(x, (*range(1, n + 1), 0, *range(n + 1, x.ndim)))


def kernels(be: Backend, u: Array, w: Array) -> tuple[Array, Array]:
    """Return the message of the first variable, and the kernels; a state with no way on has a kernel of zeros."""
    xp = be.xp

    def back(v: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        s = x[1] + v[..., None, :]
        top = be.at_least(be.stop_gradient(be.row_max(s)), be.lowest(s))
        e = xp.exp(s - top)
        total = be.row_sum(e)
        live = total != 0
        total = xp.where(live, total, 1.0)
        return x[0] + xp.where(live, top + xp.log(total), -xp.inf)[..., 0], e / total

    last = u[-1, ...]
    if w.shape[0] == 0:
        return last, xp.zeros((0, *last.shape, last.shape[-1]), dtype=last.dtype, device=be.device(last))
    v, kernels = be.scan(back, last, (xp.flip(u[:-1, ...], axis=0), xp.flip(w, axis=0)))
    return v, xp.flip(kernels, axis=0)


def times(v: Array, kernel: Array) -> Array:
    """Sum over the state before."""
    return (v[..., None, :] @ kernel)[..., 0, :]


def run(be: Backend, first: Array, step: Callable[..., Array], *xs: Array) -> Array:
    """Return ``first`` and all that follow it, each ``step(the one before, x...)``, stacked."""

    def body(v: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
        v = step(v, *x)
        return v, v

    head = first[None, ...]
    return be.xp.concat([head, be.scan(body, first, xs)[1]], axis=0) if xs[0].shape[0] else head


def marginals(be: Backend, v: Array, kernels: Array) -> Array:
    """Probability of each state at each time."""
    return run(be, be.softmax(v), times, kernels)


def pairs(m: Array, kernels: Array) -> Array:
    """Probability of each pair of consecutive states."""
    return m[:-1, ..., None] * kernels


def outer(y: Array) -> Array:
    """Pairs of consecutive states of a path."""
    return y[:-1, ..., :, None] * y[1:, ..., None, :]


def covariance(be: Backend, kernels: Array, m: Array, g: Array, pair: Array | None = None) -> tuple[Array, Array]:
    """Covariance of the states, and of the pairs of states, with the sum of g, and of `pair`, along the path."""
    # h_t(k) = E[from t on | y_t = k] and d_t(k) = m_t(k) E[up to t | y_t = k], of sums whose terms have mean zero.
    xp = be.xp
    g = g - be.row_sum(m * g)
    before, after = xp.zeros_like(g[1:, ...]), xp.zeros_like(g[:-1, ...])
    if pair is not None:
        both = pairs(m, kernels)
        pair = pair - xp.sum(both * pair, axis=(-2, -1), keepdims=True)
        before, after = xp.sum(both * pair, axis=-2), xp.sum(kernels * pair, axis=-1)
    h = run(
        be,
        g[-1, ...],
        lambda h, kernel, g: g + (kernel @ h[..., None])[..., 0],
        xp.flip(kernels, axis=0),
        xp.flip(g[:-1, ...] + after, axis=0),
    )
    h, own = xp.flip(h, axis=0), m * g
    d = run(be, own[0, ...], lambda d, kernel, own: own + times(d, kernel), kernels, own[1:, ...] + before)
    gain = h[1:, ..., None, :] if pair is None else h[1:, ..., None, :] + pair
    return m * (h - g) + d, kernels * (d[:-1, ..., None] + m[:-1, ..., None] * gain)
