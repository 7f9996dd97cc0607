"""Sinkhorn's normalisation of rows and columns in turn, with the exact gradient of the finite iteration.

After iteration l the matrix is exp(z + f_l + g_l), with scales f of the rows and g of the columns, and g_0 = 0. Where all
entries of every matrix lie within `RANGE` of its largest, the scales are products with the kernel K = exp(z - top), which
never leave the range of a float: log(u) and log(v) stay within the spread of z, as one iteration brings no two of them
further apart. Else the iteration is one of logarithms.
"""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.temperature import scaled
from backdraw.primitive import primitive

RANGE = 250.0


def _top(be: Backend, z: Array) -> Array:
    return be.at_least(be.stop_gradient(be.xp.max(z, axis=(-2, -1), keepdims=True)), be.lowest(z))


def _is_safe(be: Backend, z: Array) -> Array:
    return be.xp.all(z - _top(be, z) > -RANGE)


# ------------------------------------------------------------------------------------------------- products with a kernel
def _kernel(be: Backend, z: Array) -> Array:
    return be.xp.exp(z - _top(be, z))


def _over_rows(kernel: Array, u: Array) -> Array:
    return (u[..., None, :] @ kernel)[..., 0, :]


def _over_columns(kernel: Array, v: Array) -> Array:
    return (kernel @ v[..., None])[..., 0]


def _scales_by_products(be: Backend, z: Array, iterations: int) -> Array:
    xp, kernel = be.xp, _kernel(be, z)

    def step(v: Array, _: Array) -> tuple[Array, Array]:
        u = 1.0 / _over_columns(kernel, v)
        v = 1.0 / _over_rows(kernel, u)
        return v, xp.stack([u, v])

    every = be.scan(step, xp.ones_like(z[..., 0, :]), xp.arange(iterations, device=be.device(z)))[1]
    return xp.log(every) - xp.stack([_top(be, z)[..., 0], xp.zeros_like(z[..., 0, :1])])


def _pull_by_products(be: Backend, z: Array, f: Array, g: Array, to_f: Array) -> Array:
    """Return the gradient in z by way of f; it is K times a sum of outer products."""
    xp, kernel = be.xp, _kernel(be, z)
    u, v = xp.exp(f + _top(be, z)[..., 0]), xp.exp(g[:-1, ...])
    start = xp.ones_like(g[:1, ...])
    left, right = [u[1:, ...][:0, ...]], [v[:0, ...]]
    if f.shape[0] > 1:

        def step(to_f: Array, x: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            u, before, v = x
            a = u * to_f
            b = -v * v * _over_rows(kernel, a)
            return -before * _over_columns(kernel, b), xp.stack([a, b])

        xs = tuple(xp.flip(x, axis=0) for x in (u[1:, ...], u[:-1, ...], v))
        to_f, pairs = be.scan(step, to_f, xs)
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


def _scales_by_logarithms(be: Backend, z: Array, iterations: int) -> Array:
    xp = be.xp
    across = xp.matrix_transpose(z)

    def step(g: Array, _: Array) -> tuple[Array, Array]:
        f = _log_scale(be, z + g[..., None, :])
        g = _log_scale(be, across + f[..., None, :])
        return g, xp.stack([f, g])

    return be.scan(step, xp.zeros_like(z[..., 0, :]), xp.arange(iterations, device=be.device(z)))[1]


def _pull_by_logarithms(be: Backend, z: Array, f: Array, g: Array, to_f: Array) -> Array:
    xp = be.xp

    def step(carry: tuple[Array, Array], x: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        to_f, back = carry
        f, before, g = x
        rows = to_f[..., None] * xp.exp(z + f[..., None] + g[..., None, :])
        to_g = -xp.sum(rows, axis=-2)
        columns = to_g[..., None, :] * xp.exp(z + before[..., None] + g[..., None, :])
        return (-xp.sum(columns, axis=-1), back + rows + columns), None

    back = xp.zeros_like(z)
    if f.shape[0] > 1:
        xs = tuple(xp.flip(x, axis=0) for x in (f[1:, ...], f[:-1, ...], g[:-1, ...]))
        (to_f, back), _ = be.scan(step, (to_f, back), xs)
    return back + to_f[..., None] * xp.exp(z + f[0, ...][..., None])


# ------------------------------------------------------------------------------------------------- the primitive
def _columns(be: Backend, z: Array, f: Array) -> Array:
    return be.xp.matrix_transpose(be.softmax(be.xp.matrix_transpose(z) + f[..., None, :]))


@primitive
def sinkhorn(be: Backend, u: Array, *, iterations: int, temperature: float, dtype: Any) -> Array:
    """Return exp(u / temperature) with its rows and columns normalised in turn, the columns last, rounded to a dtype."""
    return _sinkhorn_fwd(be, u, iterations=iterations, temperature=temperature, dtype=dtype)[0]


def _sinkhorn_fwd(
    be: Backend, u: Array, *, iterations: int, temperature: float, dtype: Any
) -> tuple[Array, tuple[Array, Array]]:
    with be.double():
        z = scaled(be, u, temperature)
        scales = be.either(
            _is_safe(be, z),
            lambda z: _scales_by_products(be, z, iterations),
            lambda z: _scales_by_logarithms(be, z, iterations),
            z,
        )
        return be.cast(_columns(be, z, scales[-1, 0, ...]), dtype), (u, scales)


def _sinkhorn_bwd(
    be: Backend,
    residuals: Any,
    c: Array,
    *,
    iterations: int,  # noqa: ARG001
    temperature: float,
    dtype: Any,  # noqa: ARG001
) -> tuple[Array]:
    # With R = exp(z + f_l + g_(l-1)), of rows that add up to 1, f_l changes by -R (dz + dg_(l-1)); with exp(z + f_l + g_l),
    # of columns that do, g_l likewise. The last of them is the result.
    u, scales = residuals
    xp = be.xp
    with be.double():
        z, f, g = scaled(be, u, temperature), scales[:, 0, ...], scales[:, 1, ...]
        y, c = _columns(be, z, f[-1, ...]), be.cast(c, z.dtype)
        to_z = y * (c - xp.sum(y * c, axis=-2, keepdims=True))
        through = be.either(
            _is_safe(be, z),
            lambda *arrays: _pull_by_products(be, *arrays),
            lambda *arrays: _pull_by_logarithms(be, *arrays),
            *(z, f, g, xp.sum(to_z, axis=-1)),
        )
        back = to_z - through
        return (be.cast(back if temperature == 1.0 else back / temperature, u.dtype),)


sinkhorn.defvjp(_sinkhorn_fwd, _sinkhorn_bwd)
