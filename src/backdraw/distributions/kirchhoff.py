r"""Spanning trees by the inverse of the Laplacian, where its rounding errors are small for certain.

With the Laplacian L of weights w on n nodes and :math:`G = (L + s 1 1^\top / n)^{-1}` for any s > 0, the resistance between
nodes i and j is :math:`R_{ij} = G_{ii} + G_{jj} - 2 G_{ij}`, an edge is in the tree with probability :math:`w_e R_e`, and the
tangent of R is :math:`-(\dot G_{ii} + \dot G_{jj} - 2 \dot G_{ij})` of :math:`\dot G = G \dot L G`. The differences cancel where
weights differ much in size: then `star_mesh` takes over, which subtracts nothing and costs several times as much.
"""

from backdraw.backend import Array, Backend
from backdraw.distributions import trees
from backdraw.distributions.exponential_family import flat

_TOLERANCE = 1e-9  # of a resistance, relative, in the worst case of all roundings; what is seen is a hundredth of that and less


def inverse(be: Backend, w: Array) -> tuple[Array, Array]:
    """Return G, with the mean weight of a node as s, and the square roots of what it is the inverse of, on the diagonal."""
    xp, n = be.xp, w.shape[-1]
    degrees = xp.sum(w, axis=-1)
    shift = xp.mean(degrees, axis=-1)[..., None, None] / n
    own = xp.eye(n, dtype=w.dtype, device=be.device(w))
    return be.inverse(own * degrees[..., None] + (shift - w)), xp.sqrt(degrees + shift[..., 0])


def resistances(be: Backend, g: Array, edges: trees.Edges | None, count: int) -> Array:
    """Return the resistance of each edge, or of another matrix than G what the same differences give."""
    first, second = trees.ends(be, flat(be, g)[..., :: g.shape[-1] + 1], edges, count)
    return first + second - 2.0 * trees.of_edges(be, g, edges, count)


def accurate(be: Backend, g: Array, roots: Array, r: Array, edges: trees.Edges | None) -> Array:
    r"""Say whether all resistances r are exact to the tolerance."""
    # Elimination is backward stable: it inverts a matrix A + D, |D| <= n u a a^T with the roots a and the unit roundoff u, so
    # that to first order |dG_ij| <= n u s_i s_j for s = |G| a.
    s = (be.xp.abs(g) @ roots[..., None])[..., 0]
    first, second = trees.ends(be, s, edges, r.shape[-1])
    u = 0.5 * float(be.xp.finfo(g.dtype).eps)
    return be.xp.all((first + second) ** 2 * (g.shape[-1] * u / _TOLERANCE) <= r)


def tangent(be: Backend, g: Array, dw: Array, edges: trees.Edges | None, count: int) -> Array:
    """Return the tangent of the resistances of the edges for that of the weights, a matrix."""
    xp, n = be.xp, g.shape[-1]
    own = xp.eye(n, dtype=g.dtype, device=be.device(g))
    return resistances(be, g @ ((dw - own * xp.sum(dw, axis=-1, keepdims=True)) @ g), edges, count)
