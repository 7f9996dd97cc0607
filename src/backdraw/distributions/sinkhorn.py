"""Sinkhorn's normalisation of rows and columns in turn, with the exact gradient of the finite iteration.

After iteration l the matrix is exp(z + f_l + g_l), with scales f of the rows and g of the columns, and g_0 = 0. Where all
entries of every matrix lie within `RANGE` of its largest, the scales are products with the kernel K = exp(z - top), which
never leave the range of a float: log(u) and log(v) stay within the spread of z, as one iteration brings no two of them
further apart. Else the iteration is one of logarithms.

With a tolerance each matrix stops by itself, once its rows add up to 1 within it; the columns do in any case. It keeps its
scales while others go on, and when all have stopped, the rest of the loop does nothing. The gradient is that of the iterations
that were made.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.temperature import scaled
from backdraw.primitive import primitive

RANGE = 250.0


def _is_safe(be: Backend, u: Array, temperature: float) -> Array:
    largest, smallest = (scaled(be, f(u, axis=(-2, -1), keepdims=True), temperature) for f in (be.xp.max, be.xp.min))
    return be.xp.all(be.at_least(largest, be.lowest(largest)) - smallest < RANGE)


# ------------------------------------------------------------------------------------------------- the loop
def _iterate(
    be: Backend,
    scales: tuple[Array, Array],
    rows: Callable[[Array], Array],
    columns: Callable[[Array], Array],
    ratio: Callable[[Array, Array], Array],
    *,
    iterations: int,
    tolerance: float | None,
) -> tuple[Array, Array | None]:
    """Return the scales after every iteration, and how many were made; None if that is all of them."""
    # The ratio of the scale of a row to the next is what the row adds up to; that of the first scales is to be 0.
    xp, device = be.xp, be.device(scales[1])
    if tolerance is None:

        def step(right: Array, _: Array) -> tuple[Array, Array]:
            left = rows(right)
            right = columns(left)
            return right, xp.stack([left, right])

        return be.scan(step, scales[1], xp.arange(iterations, device=device))[1], None

    def step_of_those_left(state: Any, _: Array) -> tuple[Any, Array]:
        def go(left: Array, right: Array, made: Array, going: Array) -> tuple[Array, ...]:
            new = rows(right)
            going = going & ~xp.all(xp.abs(ratio(left, new) - 1.0) <= tolerance, axis=-1, keepdims=True)
            new = xp.where(going, new, left)
            return new, xp.where(going, columns(new), right), made + xp.astype(going, made.dtype), going

        state = be.either(over(state), lambda *state: state, go, *state)
        return state, xp.stack(state[:2])

    def over(state: Any) -> Array:
        return ~xp.any(state[3])

    none = xp.zeros_like(scales[1][..., :1])
    state, every = be.scan(step_of_those_left, (*scales, none, none == 0), xp.arange(iterations, device=device), until=over)
    return every, state[2]


def _made(be: Backend, f: Array, made: Array | None) -> tuple[Array, ...]:
    """Return for each iteration after the first, the last in front, 1 where it was made, else 0; nothing if all were."""
    if made is None:
        return ()
    xp = be.xp
    numbers = xp.arange(f.shape[0], 1, -1, dtype=f.dtype, device=be.device(f))
    return (xp.astype(xp.reshape(numbers, (-1, *(1,) * made.ndim)) <= made, f.dtype),)


def _unless_idle(be: Backend, pull: Callable[..., Any], stay: Callable[..., Any], live: list[Array], *carry: Array) -> Any:
    """``pull(*carry)``, or ``stay(*carry)`` where an iteration was made for no matrix."""
    return be.either(be.xp.all(live[0] == 0), stay, pull, *carry) if live else pull(*carry)


# ------------------------------------------------------------------------------------------------- products with a kernel
def _kernel(be: Backend, z: Array) -> tuple[Array, Array]:
    """Return K = exp(z - top), and top, of the shape of the scales."""
    top = be.at_least(be.stop_gradient(be.xp.max(z, axis=(-2, -1), keepdims=True)), be.lowest(z))
    return be.xp.exp(z - top), top[..., 0]


def _over_rows(kernel: Array, u: Array) -> Array:
    return (u[..., None, :] @ kernel)[..., 0, :]


def _over_columns(kernel: Array, v: Array) -> Array:
    return (kernel @ v[..., None])[..., 0]


def _scaled(kernel: Array, u: Array, v: Array) -> Array:
    return kernel * u[..., None] * v[..., None, :]


def _by_products(be: Backend, z: Array, **options: Any) -> tuple[Array, Array, Array | None]:
    xp, one = be.xp, be.xp.ones_like(z[..., 0, :])
    kernel, top = _kernel(be, z)
    every, made = _iterate(
        be,
        (xp.zeros_like(one), one),
        lambda v: 1.0 / _over_columns(kernel, v),
        lambda u: 1.0 / _over_rows(kernel, u),
        lambda u, new: u / new,
        **options,
    )
    y = _scaled(kernel, every[-1, 0, ...], every[-1, 1, ...])
    return y, xp.log(every) - xp.stack([top, xp.zeros_like(top)]), made


def _pull_by_products(be: Backend, z: Array, c: Array, f: Array, g: Array, made: Array | None) -> Array:
    """Return the gradient in z: c times the result, less K times a sum of outer products."""
    xp = be.xp
    kernel, top = _kernel(be, z)
    u, v = xp.exp(f + top), xp.exp(g)
    direct = _scaled(kernel * c, u[-1, ...], v[-1, ...])
    last = v[-1, ...] * xp.sum(direct, axis=-2)
    to_f = xp.sum(direct, axis=-1) - u[-1, ...] * _over_columns(kernel, last)
    left, right = [u[-1:, ...]], [last[None, ...]]
    if f.shape[0] > 1:

        def step(to_f: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
            u, before, v, *live = x

            def pull(to_f: Array) -> tuple[Array, Array]:
                moved = to_f * live[0] if live else to_f
                a = u * moved
                b = -v * v * _over_rows(kernel, a)
                back = -before * _over_columns(kernel, b)
                return back + (to_f - moved) if live else back, xp.stack([a, b])

            return _unless_idle(be, pull, lambda to_f: (to_f, xp.stack([xp.zeros_like(u)] * 2)), live, to_f)

        xs = tuple(xp.flip(x, axis=0) for x in (u[1:, ...], u[:-1, ...], v[:-1, ...]))
        to_f, pairs = be.scan(step, to_f, (*xs, *_made(be, f, made)))
        left, right = [*left, pairs[:, 0, ...], xs[1]], [*right, xs[2], pairs[:, 1, ...]]
    a = xp.concat([*left, (u[0, ...] * to_f)[None, ...]], axis=0)
    b = xp.concat([*right, xp.ones_like(v[:1, ...])], axis=0)
    axes = tuple(range(1, a.ndim))
    return direct - kernel * (xp.permute_dims(a, (*axes, 0)) @ xp.permute_dims(b, (*axes[:-1], 0, axes[-1])))


# ------------------------------------------------------------------------------------------------- logarithms
def _log_scale(be: Backend, z: Array) -> Array:
    """Return the logarithms of what makes the rows of exp(z) add up to 1; 0 for a row with nothing in it."""
    total = be.logsumexp(z)[..., 0]
    return be.xp.where(total == -be.xp.inf, 0.0, -total)


def _columns(be: Backend, z: Array, f: Array) -> Array:
    return be.xp.matrix_transpose(be.softmax(be.xp.matrix_transpose(z) + f[..., None, :]))


def _by_logarithms(be: Backend, z: Array, **options: Any) -> tuple[Array, Array, Array | None]:
    xp = be.xp
    across, zero = xp.matrix_transpose(z), xp.zeros_like(z[..., 0, :])
    every, made = _iterate(
        be,
        (zero - xp.inf, zero),
        lambda g: _log_scale(be, z + g[..., None, :]),
        lambda f: _log_scale(be, across + f[..., None, :]),
        lambda f, new: xp.exp(f - new),
        **options,
    )
    return _columns(be, z, every[-1, 0, ...]), every, made


def _pull_by_logarithms(be: Backend, z: Array, c: Array, f: Array, g: Array, made: Array | None) -> Array:
    xp = be.xp

    def step(carry: tuple[Array, Array], x: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        f, before, g, *live = x

        def pull(to_f: Array, back: Array) -> tuple[Array, Array]:
            moved = to_f * live[0] if live else to_f
            rows = moved[..., None] * xp.exp(z + f[..., None] + g[..., None, :])
            to_g = -xp.sum(rows, axis=-2)
            columns = to_g[..., None, :] * xp.exp(z + before[..., None] + g[..., None, :])
            to_before = -xp.sum(columns, axis=-1)
            return to_before + (to_f - moved) if live else to_before, back - rows - columns

        return _unless_idle(be, pull, lambda *carry: carry, live, *carry), None

    y = _columns(be, z, f[-1, ...])
    back = y * (c - xp.sum(y * c, axis=-2, keepdims=True))
    to_f = xp.sum(back, axis=-1)
    if f.shape[0] > 1:
        xs = tuple(xp.flip(x, axis=0) for x in (f[1:, ...], f[:-1, ...], g[:-1, ...]))
        (to_f, back), _ = be.scan(step, (to_f, back), (*xs, *_made(be, f, made)))
    return back - to_f[..., None] * xp.exp(z + f[0, ...][..., None])


# ------------------------------------------------------------------------------------------------- the primitive
@primitive(linear=True)
def sinkhorn(be: Backend, u: Array, *, iterations: int, tolerance: float | None, temperature: float, dtype: Any) -> Array:
    """Return exp(u / temperature) with its rows and columns normalised in turn, the columns last, rounded to a dtype."""
    return _sinkhorn_fwd(be, u, iterations=iterations, tolerance=tolerance, temperature=temperature, dtype=dtype)[0]


def _sinkhorn_fwd(be: Backend, u: Array, *, temperature: float, dtype: Any, **options: Any) -> tuple[Array, tuple[Any, ...]]:
    def by(iterate: Callable[..., tuple[Array, Array, Array | None]], u: Array) -> tuple[Array, Array, Array | None]:
        y, scales, made = iterate(be, scaled(be, u, temperature), **options)
        return be.cast(y, dtype), scales, made

    with be.double():
        y, *rest = be.either(_is_safe(be, u, temperature), partial(by, _by_products), partial(by, _by_logarithms), u)
        return y, (u, *rest)


def _sinkhorn_bwd(be: Backend, residuals: Any, c: Array, *, temperature: float, **options: Any) -> tuple[Array]:  # noqa: ARG001
    # With R = exp(z + f_l + g_(l-1)), of rows that add up to 1, f_l changes by -R (dz + dg_(l-1)); with exp(z + f_l + g_l),
    # of columns that do, g_l likewise. The last of them is the result.
    u, scales, made = residuals

    # All that has the size of u is made in there: JAX then needs less memory, and that is time.
    def by(pull: Callable[..., Array], u: Array, c: Array, scales: Array) -> Array:
        z = scaled(be, u, temperature)
        back = pull(be, z, be.cast(c, z.dtype), scales[:, 0, ...], scales[:, 1, ...], made)
        return be.cast(back if temperature == 1.0 else back / temperature, u.dtype)

    with be.double():
        by_products, by_logarithms = partial(by, _pull_by_products), partial(by, _pull_by_logarithms)
        return (be.either(_is_safe(be, u, temperature), by_products, by_logarithms, u, c, scales),)


sinkhorn.defvjp(_sinkhorn_fwd, _sinkhorn_bwd)
