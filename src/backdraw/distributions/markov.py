"""A chain of variables as a Markov chain: its kernels, its marginals, and how a sum along the path varies with them.

With utilities u of the states and w of the steps, and the messages ``v_T = u_T`` and

    v_t(j) = u_t(j) + log(sum_k(exp(w_t(j, k) + v_(t+1)(k)))),

the first variable has the law softmax(v_1), and the next one, given the state j of the one before, softmax(w_t(j) + v_(t+1)).
From these kernels all else follows by sums of products of probabilities, and nothing is subtracted. All of it is computed in
float64: a sum of utilities of +-1000 has no digits left in float32.

A kernel is kept as its factors l(j) s(j, k) r(k). By products, s is exp(w_t - max), r is exp(v_(t+1)) to a factor, and l is
one over the sum of s r, q. Whatever lies too far below the largest to be a float then has no weight beside q, as long as no q
is under `FLOOR`: this is looked at afterwards. Else, and where a backend fuses operations, messages are logarithms, s is the
kernel, and l and r are 1.

The axis of time is in front here: u is (T, ..., K), w and the kernels are (T - 1, ..., K, K).
"""

from collections.abc import Callable

from backdraw.backend import Array, Backend
from backdraw.distributions.temperature import scaled

Kernels = tuple[Array, Array, Array]  # l, s and r
FLOOR = 1e-100


def time_first(be: Backend, u: Array, w: Array, temperature: float = 1.0) -> tuple[Array, Array]:
    """Return both utilities over the temperature, in float64, with the axis of time in front."""
    return scaled(be, to_front(be, u, 2), temperature), scaled(be, to_front(be, w, 3), temperature)


def to_front(be: Backend, x: Array, event: int) -> Array:
    """Move the axis of time, the first of the `event` last ones, to the front."""
    return be.moveaxis(x, -event, 0)


def from_front(be: Backend, x: Array, event: int) -> Array:
    """Move it back."""
    return be.moveaxis(x, 0, -event)


def kernels(be: Backend, u: Array, w: Array, temperature: float = 1.0) -> tuple[Array, Kernels]:
    """Return the message of the first variable, and the kernels; a state with no way on has a kernel of zeros."""
    if w.shape[-3] == 0:
        last, steps = time_first(be, u, w, temperature)
        return last[0, ...], (last[:0, ...], steps, last[:0, ...])
    if be.fuses or 0 in w.shape:  # what is empty has no largest
        v, *kernels = _by_logarithms(be, u, w, temperature)
        return v, tuple(kernels)
    enough, *found = _by_products(be, u, w, temperature)
    v, *kernels = be.either(
        enough,
        lambda u, w, *found: found,  # noqa: ARG005
        lambda u, w, *found: _by_logarithms(be, u, w, temperature),  # noqa: ARG005
        u,
        w,
        *found,
    )
    return v, tuple(kernels)


def _by_products(be: Backend, u: Array, w: Array, temperature: float) -> tuple[Array, ...]:
    """Return whether no sum is too small, and the message and the kernels by sums of products of exponentials."""
    xp = be.xp

    def top(x: Array, axes: tuple[int, ...] | None = None) -> Array:
        z = scaled(be, be.stop_gradient(xp.max(x, axis=axes, keepdims=True)), temperature)
        return xp.where(z == -xp.inf, 0.0, z)

    def back(p: Array, x: tuple[Array, Array]) -> tuple[Array, tuple[Array, ...]]:
        steps = xp.exp(scaled(be, x[1], temperature) - shift)
        q = (steps @ p[..., None])[..., 0]
        p = x[0] * q
        return p / be.at_least(be.row_sum(p), FLOOR), (steps, q)

    u, w = to_front(be, u, 2), to_front(be, w, 3)
    tops, shift = top(u, (-1,)), xp.reshape(top(w), ())
    weights = xp.exp(scaled(be, u, temperature) - tops)
    # All that is of one time is made together, while it is in cache.
    steps, q = be.scan(back, weights[-1, ...], (weights[:-1, ...], w), reverse=True)[1]
    p = weights[:-1, ...] * q
    total = be.at_least(be.row_sum(p), FLOOR)
    p = xp.concat([p / total, weights[-1:, ...]], axis=0)
    first, scale = p[0, ...], xp.sum(tops, axis=0) + xp.sum(shift + xp.log(total), axis=0)
    live = first != 0  # a NaN lives on
    v = xp.where(live, scale + xp.log(xp.where(live, first, 1.0)), -xp.inf)
    return xp.all(q >= FLOOR), v, 1.0 / be.at_least(q, FLOOR), steps, p[1:, ...]


def _by_logarithms(be: Backend, u: Array, w: Array, temperature: float) -> tuple[Array, ...]:
    """Return message and kernels, whatever the utilities."""
    xp, u, w = be.xp, scaled(be, to_front(be, u, 2), temperature), to_front(be, w, 3)

    def back(v: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        s = scaled(be, x[1], temperature) + v[..., None, :]
        top = be.at_least(be.stop_gradient(be.row_max(s)), be.lowest(s))
        e = xp.exp(s - top)
        total = be.row_sum(e)
        live = total != 0
        total = xp.where(live, total, 1.0)
        return x[0] + xp.where(live, top + xp.log(total), -xp.inf)[..., 0], e / total

    v, kernels = be.scan(back, u[-1, ...], (u[:-1, ...], w), reverse=True)
    one = xp.ones_like(u[1:, ...])
    return v, one, kernels, one


def times(v: Array, matrix: Array) -> Array:
    """Sum over the state before."""
    return (v[..., None, :] @ matrix)[..., 0, :]


def onward(v: Array, left: Array, steps: Array, right: Array) -> Array:
    """Sum over the state before, by a kernel."""
    return times(v * left, steps) * right


def whole(kernels: Kernels) -> Array:
    """Probabilities of the next state given the one before."""
    left, steps, right = kernels
    return left[..., None] * steps * right[..., None, :]


def run(be: Backend, first: Array, step: Callable[..., Array], *xs: Array, reverse: bool = False) -> Array:
    """Return ``first`` and all that follow it, each ``step(the one before, x...)``, stacked; in reverse it is the last."""

    def body(v: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
        v = step(v, *x)
        return v, v

    every = [first[None, ...]]
    if xs[0].shape[0]:
        every.insert(0 if reverse else 1, be.scan(body, first, xs, reverse=reverse)[1])
    return be.xp.concat(every, axis=0)


def marginals(be: Backend, v: Array, kernels: Kernels) -> Array:
    """Probability of each state at each time."""
    return run(be, be.softmax(v), onward, *kernels)


def pairs(m: Array, kernels: Kernels) -> Array:
    """Probability of each pair of consecutive states."""
    left, *rest = kernels
    return whole((m[:-1, ...] * left, *rest))


def outer(y: Array) -> Array:
    """Pairs of consecutive states of a path."""
    return y[:-1, ..., :, None] * y[1:, ..., None, :]


def covariance(be: Backend, kernels: Kernels, m: Array, g: Array, w: Array, pair: Array | None = None) -> tuple[Array, Array]:
    """Covariance of the states, and of the pairs of states, with the sum of g, and of `pair`, along the path."""
    # It has the axis of time where w has it, and the dtype of w.
    # h_t(k) = E[from t on | y_t = k] and d_t(k) = m_t(k) E[up to t | y_t = k], of sums whose terms have mean zero.
    xp = be.xp
    left, _, right = kernels
    g = g - be.row_sum(m * g)
    own = m * g
    if w.shape[-3] == 0:
        return be.cast(from_front(be, own, 2), w.dtype), xp.zeros_like(w)
    before, after = own[1:, ...], g[:-1, ...]
    more: tuple[Array, ...] = ()
    if pair is not None:
        both = pairs(m, kernels)
        pair = pair - xp.sum(both * pair, axis=(-2, -1), keepdims=True)
        more = (both * pair,)
        before, after = before + xp.sum(more[0], axis=-2), after + xp.sum(whole(kernels) * pair, axis=-1)
    h = run(
        be,
        g[-1, ...],
        lambda h, left, steps, right, g: g + left * (steps @ (right * h)[..., None])[..., 0],
        *kernels,
        after,
        reverse=True,
    )

    def step(d: Array, x: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        left, steps, right, before, m, rows, *more = x
        d = left * d
        to_w = steps * (xp.stack([d, m], axis=-1) @ rows)
        d = before + times(d, steps) * right
        return d, (d, be.cast(to_w + more[0] if more else to_w, w.dtype))

    # That of a pair is its kernel times d + m h: a product of two columns with two rows.
    rows = xp.stack([right, right * h[1:, ...]], axis=-2)
    d, to_w = be.scan(step, own[0, ...], (*kernels, before, left * m[:-1, ...], rows, *more))[1]
    to_u = m * (h - g) + xp.concat([own[:1, ...], d], axis=0)
    return be.cast(from_front(be, to_u, 2), w.dtype), from_front(be, to_w, 3)
