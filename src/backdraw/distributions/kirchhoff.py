r"""Spanning trees by the inverse of the Laplacian, where its rounding errors are small for certain.

With the Laplacian L of weights w on n nodes and :math:`G = (L + s 1 1^\top / n)^{-1}` for any s > 0, the resistance between
nodes i and j is :math:`R_{ij} = G_{ii} + G_{jj} - 2 G_{ij}`, and an edge is in the tree with probability :math:`w_e R_e`. The
tangent of R consists of the same differences of :math:`-G \dot L G`. These cancel where weights differ much in size: then
`star_mesh` takes over, which subtracts nothing and costs several times as much.
"""

from backdraw.backend import Array, Backend
from backdraw.distributions import trees
from backdraw.distributions.exponential_family import flat

_TOLERANCE = (
    1e-9  # of a resistance, relative, in the worst case of all roundings; what is seen is a hundredth of that and less
)


def inverse(be: Backend, w: Array, edges: trees.Edges | None) -> tuple[Array, Array]:
    """Return G, with the mean weight of a node as s, and the diagonal of what it is the inverse of."""
    xp, n = be.xp, trees.nodes_of(edges, w.shape[-1])
    matrix, own = trees.laplacian(be, w, edges, (2.0 / n**2) * xp.sum(w, axis=-1, keepdims=True))
    return be.inverse(matrix), own


def resistances(be: Backend, g: Array, edges: trees.Edges | None, count: int) -> Array:
    """Return the resistance of each edge, or of another matrix than G what the same differences give."""
    first, second = trees.ends(be, flat(be, g)[..., :: g.shape[-1] + 1], edges, count)
    return first + second - 2.0 * trees.of_edges(be, g, edges, count)


def accurate(be: Backend, g: Array, own: Array, r: Array, edges: trees.Edges | None) -> Array:
    r"""Say whether all resistances r are exact to the tolerance."""
    # Elimination is backward stable: it inverts a matrix A + D, |D| <= n u a a^T with the square roots a of A's diagonal and
    # the unit roundoff u, so that to first order |dG_ij| <= n u s_i s_j for s = |G| a.
    s = (be.xp.abs(g) @ be.xp.sqrt(own)[..., None])[..., 0]
    first, second = trees.ends(be, s, edges, r.shape[-1])
    u = 0.5 * float(be.xp.finfo(g.dtype).eps)
    return be.xp.all((first + second) ** 2 * (g.shape[-1] * u / _TOLERANCE) <= r)


def tangent(be: Backend, g: Array, dw: Array, edges: trees.Edges | None) -> Array:
    """Return the tangent of the resistances of the edges for that of their weights."""
    return -resistances(be, g @ (trees.laplacian(be, dw, edges)[0] @ g), edges, dw.shape[-1])
