"""Sinkhorn's normalisation of rows and columns in turn, in log space, with the exact gradient of the finite iteration."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.temperature import scaled
from backdraw.primitive import primitive


def _log_scale(be: Backend, z: Array) -> Array:
    """Return the logarithms of what makes the rows of exp(z) add up to 1; 0 for a row with nothing in it."""
    total = be.logsumexp(z)[..., 0]
    return be.xp.where(total == -be.xp.inf, 0.0, -total)


def _scales(be: Backend, z: Array, iterations: int) -> tuple[Array, Array]:
    """Return the scales f of the rows and g of the columns after each iteration, one along the first axis."""
    xp = be.xp
    across = xp.matrix_transpose(z)

    def step(g: Array, _: Array) -> tuple[Array, Array]:
        f = _log_scale(be, z + g[..., None, :])
        g = _log_scale(be, across + f[..., None, :])
        return g, xp.stack([f, g])

    start = xp.zeros_like(z[..., 0, :])
    every = be.scan(step, start, xp.arange(iterations, device=be.device(z)))[1]
    return every[:, 0, ...], every[:, 1, ...]


def _columns(be: Backend, z: Array, f: Array) -> Array:
    return be.xp.matrix_transpose(be.softmax(be.xp.matrix_transpose(z) + f[..., None, :]))


@primitive
def sinkhorn(be: Backend, u: Array, *, iterations: int, temperature: float, dtype: Any) -> Array:
    """Return exp(u / temperature) with its rows and columns normalised in turn, the columns last, rounded to a dtype."""
    return _sinkhorn_fwd(be, u, iterations=iterations, temperature=temperature, dtype=dtype)[0]


def _sinkhorn_fwd(
    be: Backend, u: Array, *, iterations: int, temperature: float, dtype: Any
) -> tuple[Array, tuple[Array, Array, Array]]:
    with be.double():
        z = scaled(be, u, temperature)
        f, g = _scales(be, z, iterations)
        return be.cast(_columns(be, z, f[-1, ...]), dtype), (u, f, g)


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
    u, f, g = residuals
    xp = be.xp
    with be.double():
        z = scaled(be, u, temperature)
        y, c = _columns(be, z, f[-1, ...]), be.cast(c, z.dtype)
        to_z = y * (c - xp.sum(y * c, axis=-2, keepdims=True))
        to_f = xp.sum(to_z, axis=-1)

        def step(carry: tuple[Array, Array], x: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
            to_f, to_z = carry
            f, before, g = x
            rows = to_f[..., None] * xp.exp(z + f[..., None] + g[..., None, :])
            to_g = -xp.sum(rows, axis=-2)
            columns = to_g[..., None, :] * xp.exp(z + before[..., None] + g[..., None, :])
            return (-xp.sum(columns, axis=-1), to_z - rows - columns), None

        if f.shape[0] > 1:
            backwards = (xp.flip(x, axis=0) for x in (f[1:, ...], f[:-1, ...], g[:-1, ...]))
            (to_f, to_z), _ = be.scan(step, (to_f, to_z), tuple(backwards))
        to_z = to_z - to_f[..., None] * xp.exp(z + f[0, ...][..., None])
        return (be.cast(to_z if temperature == 1.0 else to_z / temperature, u.dtype),)


sinkhorn.defvjp(_sinkhorn_fwd, _sinkhorn_bwd)
