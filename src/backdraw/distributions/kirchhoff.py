r"""Spanning trees by the inverse of the Laplacian, where its rounding errors are small for certain.

With the Laplacian L of weights w on n nodes and :math:`G = (L + s 1 1^\top / n)^{-1}` for any s > 0, the resistance between
nodes i and j is :math:`R_{ij} = G_{ii} + G_{jj} - 2 G_{ij}`, and an edge is in the tree with probability :math:`w_e R_e`. The
tangent of R consists of the same differences of :math:`-G \dot L G`. These cancel where weights differ much in size: then
`star_mesh` takes over, which subtracts nothing and costs several times as much.
"""

from backdraw.backend import Array, Backend
from backdraw.distributions import trees
from backdraw.distributions.family_law import flat

# Of a resistance, relative, in the worst case of all roundings; what is seen is a thousandth of that and less.
_TOLERANCE = 1e-8


def inverse(be: Backend, w: Array, edges: trees.Edges | None) -> tuple[Array, Array]:
    """Return G, with the mean weight of a node as s, and the diagonal of what it is the inverse of."""
    xp, n = be.xp, trees.nodes_of(edges, trees.count_of(w))
    matrix, own = trees.laplacian(be, w, edges, (2.0 / n**2) * xp.sum(w, axis=-1, keepdims=True))
    return be.inverse(matrix), own


def resistances(be: Backend, g: Array, edges: trees.Edges | None, count: int) -> tuple[Array, Array]:
    """Return the resistance of each edge, and ``G_ii + G_jj`` alone."""
    both = trees.sums_of_ends(be, _diagonal(be, g), edges, count)
    return both - 2.0 * trees.of_edges(be, g, edges, count), both


def accurate(be: Backend, g: Array, own: Array, r: Array, both: Array) -> Array:
    r"""Say whether all resistances r are exact to the tolerance, given ``G_ii + G_jj`` of their nodes."""
    # With D the diagonal of A = 1 / G, elimination inverts, for each column, some A + E with |E| <= n u d d^T, d = sqrt(D) and
    # the unit roundoff u. For v = e_i - e_j then |dR_ij| <= n u (d |G v|) (d |G e_i| + d |G e_j|) to first order. As D is at
    # most A tau, tau = tr(G D), a product d |G x| is at most sqrt(n tau x^T G x), and R_ij = v^T G v.
    n = g.shape[-1]
    diagonal = _diagonal(be, g)
    tau = be.row_sum(own * diagonal)
    bound = tau * (0.5 * float(be.xp.finfo(g.dtype).eps) * n * n / _TOLERANCE)
    # Where the graph is not connected, A is singular and G anything, also of negative diagonal.
    return be.xp.all(both * (2.0 * bound * bound) <= r) & be.xp.all(diagonal > 0)


def tangent(be: Backend, g: Array, dw: Array, edges: trees.Edges | None) -> Array:
    """Return the tangent of the resistances of the edges for that of their weights."""
    # Rounded, the product is not symmetric by far: what the products with G amplify cancels between its two halves alone.
    # With both, w_e times the error is at most n u sqrt(2 tau) (G_ii + G_jj) / R_e of the marginal, per largest |dw / w|. As R
    # is at least 1 / D_ii, the fraction is at most 2 tau, and where `accurate` holds all of it is under the tolerance.
    count, x = trees.count_of(dw), g @ (trees.laplacian(be, dw, edges)[0] @ g)
    twice = trees.of_edges(be, x + be.xp.matrix_transpose(x), edges, count)
    return twice - trees.sums_of_ends(be, _diagonal(be, x), edges, count)


def _diagonal(be: Backend, g: Array) -> Array:
    return flat(be, g)[..., :: g.shape[-1] + 1]
