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
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.temperature import scaled
from backdraw.primitive import primitive

RANGE = 250.0


def _top(be: Backend, z: Array) -> Array:
    return be.at_least(be.stop_gradient(be.xp.max(z, axis=(-2, -1), keepdims=True)), be.lowest(z))


def _is_safe(be: Backend, z: Array) -> Array:
    return be.xp.all(z - _top(be, z) > -RANGE)


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
def _kernel(be: Backend, z: Array) -> Array:
    return be.xp.exp(z - _top(be, z))


def _over_rows(kernel: Array, u: Array) -> Array:
    return (u[..., None, :] @ kernel)[..., 0, :]


def _over_columns(kernel: Array, v: Array) -> Array:
    return (kernel @ v[..., None])[..., 0]


def _scales_by_products(be: Backend, z: Array, **options: Any) -> tuple[Array, Array | None]:
    xp, kernel, one = be.xp, _kernel(be, z), be.xp.ones_like(z[..., 0, :])
    every, made = _iterate(
        be,
        (xp.zeros_like(one), one),
        lambda v: 1.0 / _over_columns(kernel, v),
        lambda u: 1.0 / _over_rows(kernel, u),
        lambda u, new: u / new,
        **options,
    )
    return xp.log(every) - xp.stack([_top(be, z)[..., 0], xp.zeros_like(z[..., 0, :1])]), made


def _pull_by_products(be: Backend, made: Array | None, z: Array, f: Array, g: Array, to_f: Array) -> Array:
    """Return the gradient in z by way of f; it is K times a sum of outer products."""
    xp, kernel = be.xp, _kernel(be, z)
    u, v = xp.exp(f + _top(be, z)[..., 0]), xp.exp(g[:-1, ...])
    start = xp.ones_like(g[:1, ...])
    left, right = [u[1:, ...][:0, ...]], [v[:0, ...]]
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

        xs = tuple(xp.flip(x, axis=0) for x in (u[1:, ...], u[:-1, ...], v))
        to_f, pairs = be.scan(step, to_f, (*xs, *_made(be, f, made)))
        left, right = [pairs[:, 0, ...], xs[1]], [xs[2], pairs[:, 1, ...]]
    a = xp.concat([*left, (u[0, ...] * to_f)[None, ...]], axis=0)
    b = xp.concat([*right, start], axis=0)
    axes = tuple(range(1, a.ndim))
    return kernel * (xp.permute_dims(a, (*axes, 0)) @ xp.permute_dims(b, (*axes[:-1], 0, axes[-1])))


# ------------------------------------------------------------------------------------------------- logarithms
def _log_scale(be: Backend, z: Array) -> Array:
    """Return the logarithms of what makes the rows of exp(z) add up to 1; 0 for a row with nothing in it."""
    total = be.logsumexp(z)[..., 0]
    return be.xp.where(total == -be.xp.inf, 0.0, -total)


def _scales_by_logarithms(be: Backend, z: Array, **options: Any) -> tuple[Array, Array | None]:
    xp = be.xp
    across, zero = xp.matrix_transpose(z), xp.zeros_like(z[..., 0, :])
    return _iterate(
        be,
        (zero - xp.inf, zero),
        lambda g: _log_scale(be, z + g[..., None, :]),
        lambda f: _log_scale(be, across + f[..., None, :]),
        lambda f, new: xp.exp(f - new),
        **options,
    )


def _pull_by_logarithms(be: Backend, made: Array | None, z: Array, f: Array, g: Array, to_f: Array) -> Array:
    xp = be.xp

    def step(carry: tuple[Array, Array], x: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        f, before, g, *live = x

        def pull(to_f: Array, back: Array) -> tuple[Array, Array]:
            moved = to_f * live[0] if live else to_f
            rows = moved[..., None] * xp.exp(z + f[..., None] + g[..., None, :])
            to_g = -xp.sum(rows, axis=-2)
            columns = to_g[..., None, :] * xp.exp(z + before[..., None] + g[..., None, :])
            to_before = -xp.sum(columns, axis=-1)
            return to_before + (to_f - moved) if live else to_before, back + rows + columns

        return _unless_idle(be, pull, lambda *carry: carry, live, *carry), None

    back = xp.zeros_like(z)
    if f.shape[0] > 1:
        xs = tuple(xp.flip(x, axis=0) for x in (f[1:, ...], f[:-1, ...], g[:-1, ...]))
        (to_f, back), _ = be.scan(step, (to_f, back), (*xs, *_made(be, f, made)))
    return back + to_f[..., None] * xp.exp(z + f[0, ...][..., None])


# ------------------------------------------------------------------------------------------------- the primitive
def _columns(be: Backend, z: Array, f: Array) -> Array:
    return be.xp.matrix_transpose(be.softmax(be.xp.matrix_transpose(z) + f[..., None, :]))


@primitive
def sinkhorn(be: Backend, u: Array, *, iterations: int, tolerance: float | None, temperature: float, dtype: Any) -> Array:
    """Return exp(u / temperature) with its rows and columns normalised in turn, the columns last, rounded to a dtype."""
    return _sinkhorn_fwd(be, u, iterations=iterations, tolerance=tolerance, temperature=temperature, dtype=dtype)[0]


def _sinkhorn_fwd(be: Backend, u: Array, *, temperature: float, dtype: Any, **options: Any) -> tuple[Array, tuple[Any, ...]]:
    with be.double():
        z = scaled(be, u, temperature)
        scales, made = be.either(
            _is_safe(be, z),
            lambda z: _scales_by_products(be, z, **options),
            lambda z: _scales_by_logarithms(be, z, **options),
            z,
        )
        return be.cast(_columns(be, z, scales[-1, 0, ...]), dtype), (u, scales, made)


def _sinkhorn_bwd(be: Backend, residuals: Any, c: Array, *, temperature: float, **options: Any) -> tuple[Array]:  # noqa: ARG001
    # With R = exp(z + f_l + g_(l-1)), of rows that add up to 1, f_l changes by -R (dz + dg_(l-1)); with exp(z + f_l + g_l),
    # of columns that do, g_l likewise. The last of them is the result.
    u, scales, made = residuals
    xp = be.xp
    with be.double():
        z, f, g = scaled(be, u, temperature), scales[:, 0, ...], scales[:, 1, ...]
        y, c = _columns(be, z, f[-1, ...]), be.cast(c, z.dtype)
        to_z = y * (c - xp.sum(y * c, axis=-2, keepdims=True))
        through = be.either(
            _is_safe(be, z),
            lambda *arrays: _pull_by_products(be, made, *arrays),
            lambda *arrays: _pull_by_logarithms(be, made, *arrays),
            *(z, f, g, xp.sum(to_z, axis=-1)),
        )
        back = to_z - through
        return (be.cast(back if temperature == 1.0 else back / temperature, u.dtype),)


sinkhorn.defvjp(_sinkhorn_fwd, _sinkhorn_bwd)
