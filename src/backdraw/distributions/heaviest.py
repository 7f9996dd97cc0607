"""The heaviest arborescence, by elimination with max in place of the sum of exponentials."""

from typing import Any

from backdraw.backend import Array, Backend
from backdraw.distributions.elimination import BLOCK


def heaviest(be: Backend, logits: Array) -> tuple[Array, Array]:
    """Return the parents in the heaviest trees from node 0, (n, batch), and whether there is one; logits are (n, n, batch)."""
    # Logits are from a child to a parent. The batch comes last: to loop along it is fast however small the graph is.
    xp, (size, _, batch), device = be.xp, logits.shape, be.device(logits)
    full, lowest, blocks = logits, be.lowest(logits), []

    def eliminate(logits: Array, x: Any) -> tuple[Array, Array]:
        k, cap = x  # the cap is -inf for k and the nodes behind it
        row, column = xp.minimum(xp.take(logits, k, axis=0), cap), xp.minimum(xp.take(logits, k, axis=1), cap[:, None, :])
        mesh = column + (row - be.at_least(xp.max(row, axis=1, keepdims=True), lowest))
        return xp.maximum(logits, mesh), mesh > logits

    for n in range(size, 2, -BLOCK):
        ks = xp.arange(n - 1, max(1, n - 1 - BLOCK), -1, device=device)[:, None]
        before = xp.arange(n, device=device) < ks
        caps = xp.where(before, xp.inf, xp.full(before.shape, -xp.inf, dtype=logits.dtype, device=device))
        logits, heavier = be.scan(eliminate, logits[:n, :n, :], (ks, caps[..., None]))
        blocks.append((logits, heavier))

    _, graph, node = _numbers(be, full, size)
    parents = graph[: min(size, 2) * batch]  # of nodes 0 and 1: the root
    for block in reversed(blocks):
        parents = _put_back(be, parents, *block)
    weights = be.gather(xp.reshape(full, (-1,)), size * node + parents)
    exists = xp.all(xp.reshape(weights > -xp.inf, (size, batch))[1:, :], axis=0)
    return xp.reshape(parents // batch, (size, batch)), exists


def _numbers(be: Backend, logits: Array, n: int) -> tuple[Array, Array, Array]:
    """Return numbers of the first nodes of all graphs, graph + node * batch, and the two terms."""
    batch = logits.shape[-1]
    own = be.xp.arange(n * batch, device=be.device(logits))
    graph = own % batch
    return own, graph, own - graph


def _put_back(be: Backend, parents: Array, logits: Array, heavier: Array) -> Array:
    """Put the nodes that a block of steps eliminated back into trees, given by the numbers of the parents."""
    # This is what `draw_parents` in the module `trees` does as the temperature falls to 0: an edge of the smaller graph came
    # of k if k made it heavier.
    xp, (n, _, batch), count = be.xp, logits.shape, heavier.shape[0]
    own, graph, node = _numbers(be, logits, n)
    table, rows = xp.reshape(heavier, (-1,)), n * node

    def choose(parents: Array, x: Any) -> tuple[Array, None]:
        k, start, row = x
        came = be.gather(table, rows + start + parents)
        path = xp.where(came, own, parents)
        for _ in range((n - 3).bit_length()):  # twice as far each time
            path = be.gather(path, path)
        outside = xp.where(xp.reshape(path < batch, (n, batch)), row, -xp.inf)
        chosen = be.gather(be.argmax(outside, axis=0) * batch, graph) + graph
        return xp.where(node == k, chosen, xp.where(came, k + graph, parents)), None

    ks = xp.arange(n - count, n, device=be.device(logits))[:, None] * batch
    starts = n * n * (n * batch - batch - ks)  # the last node was the first to be eliminated
    parents = xp.concat([parents, own[parents.shape[0] :]])  # who is not in the tree leads to itself
    return be.scan(choose, parents, (ks, starts, logits[n - count :, ...]))[0]
