"""The arborescences of a complete directed graph, as a family of 0/1 arrays."""

import math
from dataclasses import dataclass

import numpy as np

from backdraw.backend import Array, Backend, remembered
from backdraw.distributions import directed, trees
from backdraw.distributions.base import finite
from backdraw.distributions.family_law import flat, scaled, square
from backdraw.distributions.heaviest import heaviest


@dataclass(frozen=True)
class Rooted:
    """The family of the arborescences of n nodes from a root; see `family_law.Family` for the methods."""

    n: int
    root: int

    def _children(self, be: Backend, u: Array) -> Array:
        """Matrix whose rows are the children, with the root as node 0; u has parents in rows, flat."""
        return square(be, be.xp.take(u, be.constant(_transposed(self.n, self.root)[0], u), axis=-1))

    def _flat(self, be: Backend, matrix: Array) -> Array:
        """Return the inverse of `_children`."""
        return be.xp.take(flat(be, matrix), be.constant(_transposed(self.n, self.root)[1], matrix), axis=-1)

    def _logits(self, be: Backend, z: Array) -> tuple[Array, Array]:
        """Logits of the parents of each node, over their largest, and that: each node but the root has one parent."""
        xp, logits = be.xp, self._children(be, z)
        places = xp.arange(self.n, device=be.device(z))
        logits = xp.where((places[:, None] == places) | (places[:, None] == 0), -xp.inf, logits)
        top = finite(be, be.stop_gradient(xp.max(logits, axis=-1)))
        top = top + 0.0 * be.row_max(top)  # with one NaN, all logits are
        return logits - top[..., None], top

    def marginals(self, be: Backend, u: Array, t: Array | None = None, *, temperature: float) -> Array:
        """Marginals alone."""
        xp, logits = be.xp, self._logits(be, scaled(be, u, temperature if t is None else t))[0]
        e = directed.eliminate(be, logits)
        logs = logits + directed.transfer(be, e)
        none = (logs == -xp.inf) | ~_exists(be, e)[..., None]
        return self._flat(be, xp.where(none, 0.0, xp.exp(xp.where(none, 0.0, logs))))

    def pulled(self, be: Backend, u: Array, packed: Array, g: Array, t: Array | None = None, *, temperature: float) -> Array:
        """Covariance times g."""
        xp, z = be.xp, scaled(be, u, temperature if t is None else t)
        logits, _ = self._logits(be, z)
        g = xp.where(logits > -xp.inf, self._children(be, xp.astype(g, xp.float64)), 0.0)
        e = directed.eliminate(be, logits)
        tau, scale = directed.tangent(be, logits, e, g)
        logs = logits + scale
        none = (logs == -xp.inf) | ~_exists(be, e)[..., None]
        back = xp.where(none, 0.0, xp.exp(xp.where(none, 0.0, logs)) * tau) + self._children(be, packed) * g
        return self._flat(be, back)

    def log_partition(self, be: Backend, u: Array) -> Array:
        """Sum of the logs of what is eliminated: Tutte's determinant."""
        xp = be.xp
        logits, top = self._logits(be, scaled(be, u, 1.0))
        return xp.sum(directed.eliminate(be, logits).total[..., 1:] + top[..., 1:], axis=-1, keepdims=True)

    def heaviest(self, be: Backend, u: Array) -> Array:
        """Eliminate with max in place of the sum, which finds what Chu, Liu and Edmonds' contractions do."""
        xp, n, device, batch = be.xp, self.n, be.device(u), math.prod(u.shape[:-1])
        with be.double():
            places = be.constant(_places(n, self.root), u)
            # An eighth, so that sums of differences are finite. It is exact, and the heaviest tree stays the heaviest.
            z = xp.astype(xp.permute_dims(xp.reshape(u, (batch, n * n)), (1, 0)), xp.float64) * 0.125
            z = be.clip(z, -xp.inf, -be.lowest(z) / 8.0)
            z = xp.concat([z, xp.full((1, batch), -xp.inf, dtype=z.dtype, device=device)])
            parents, exists = heaviest(be, xp.reshape(xp.take(z, places[2 * n :], axis=0), (n, n, batch)))
            parents = xp.take(places[:n], xp.reshape(xp.take(parents, places[n : 2 * n], axis=0), (-1,)))
            parents = xp.permute_dims(xp.reshape(parents, (n, batch)), (1, 0))
            nodes = xp.arange(n, device=device)
            x = (parents[:, None, :] == nodes[:, None]) & (nodes != self.root) & exists[:, None, None]
            return xp.reshape(x, u.shape)

    def tables(self, be: Backend, u: Array) -> Array:
        """Logits, and the logs of the weights at elimination."""
        logits, _ = self._logits(be, scaled(be, u, 1.0))
        e = directed.eliminate(be, logits)
        return be.xp.concat([flat(be, x) for x in (logits, e.rows, e.columns)], axis=-1)

    def drawn(self, be: Backend, noise: Array, tables: Array) -> Array:
        """Draw node by node against the elimination."""
        size = self.n**2
        logits, rows, columns = (square(be, tables[..., i * size : (i + 1) * size]) for i in range(3))
        e = directed.Eliminated(rows, columns, be.logsumexp(rows)[..., 0])
        parents = trees.draw_parents(be, logits, e.rows, e.columns, e.total, square(be, noise))
        return self._of(be, parents, _exists(be, e))

    def _of(self, be: Backend, parents: Array, exists: Array) -> Array:
        places = be.xp.arange(self.n, dtype=parents.dtype, device=be.device(parents))
        x = (parents[..., :, None] == places) & (places[:, None] != 0)
        return self._flat(be, x & exists[..., None])


def _nodes(n: int, root: int) -> np.ndarray:
    """Return the nodes, from the root on."""
    return np.asarray([root, *(i for i in range(n) if i != root)])


@remembered
def _transposed(n: int, root: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where `_children` and `_flat` take each entry from."""
    nodes = _nodes(n, root)
    own, found = ((x * n + x[:, None]).reshape(-1) for x in (nodes, np.argsort(nodes)))
    return own, found


@remembered
def _places(n: int, root: int) -> np.ndarray:
    """Return `_nodes`, where among them each node is, and where the logits of each pair are, or behind the last for none."""
    nodes = _nodes(n, root)
    edges = nodes * n + nodes[:, None]
    edges[(np.eye(n) > 0) | (np.arange(n)[:, None] == 0)] = n * n
    return np.concatenate([nodes, np.argsort(nodes), edges.reshape(-1)])


def _exists(be: Backend, e: directed.Eliminated) -> Array:
    return be.xp.all(e.total[..., 1:] != -be.xp.inf, axis=-1, keepdims=True)
