"""Loops over the nodes of a graph by blocks, and the matrices that they fill."""

from backdraw.backend import Array, Backend

BLOCK = 8  # nodes that are eliminated before the matrices are cut to those that are left


def blocks(n: int) -> list[tuple[int, int]]:
    """Return blocks of nodes, from the last to node 1: the numbers of nodes before and after its elimination."""
    return [(size, max(1, size - BLOCK)) for size in range(n, 1, -BLOCK)]


def numbers(be: Backend, like: Array, start: int, stop: int, step: int) -> Array:
    """Return the numbers of the nodes as an axis to scan and one of size 1, for `take`."""
    return be.xp.arange(start, stop, step, device=be.device(like))[:, None]


def row_of(be: Backend, x: Array, k: Array) -> Array:
    """Return row k of matrices."""
    return be.xp.take(x, k, axis=-2)[..., 0, :]


def by_node(be: Backend, x: Array) -> Array:
    """Put the rows of matrices in front, to scan."""
    return be.moveaxis(x, -2, 0)


def grown(be: Backend, x: Array, shape: tuple[int, ...]) -> Array:
    """Append zeros to the last axes."""
    xp = be.xp
    for axis in range(-len(shape), 0):
        more = shape[axis] - x.shape[axis]
        if more:
            pad = list(x.shape)
            pad[axis] = more
            x = xp.concat([x, xp.zeros(tuple(pad), dtype=x.dtype, device=be.device(x))], axis=axis)
    return x


def stacked(be: Backend, rows: Array) -> Array:
    """Make matrices of what a scan over the nodes of a block, from its last to its first, gave for each: its row."""
    return be.xp.flip(be.moveaxis(rows, 0, -2), axis=-2)


def assembled(be: Backend, found: list[Array], like: Array, fill: float = 0.0) -> Array:
    """Make one matrix of the rows of the blocks, last nodes first; filled up, and row 0 too."""
    xp, n = be.xp, like.shape[-1]
    parts = [xp.full((*like.shape[:-2], 1, n), fill, dtype=like.dtype, device=be.device(like))]
    for rows in reversed(found):
        more = xp.full((*rows.shape[:-1], n - rows.shape[-1]), fill, dtype=rows.dtype, device=be.device(rows))
        parts.append(xp.concat([rows, more], axis=-1))
    return xp.concat(parts, axis=-2)
