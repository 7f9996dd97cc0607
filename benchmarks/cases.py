"""What is measured: Gumbel-softmax forward and backward, ours and what a user would write instead.

Every case is a function of a shape that returns two callables, ours and the peer's, that do one forward and backward
pass in float32 and return the gradient.
"""

from collections.abc import Callable

import numpy as np
from timing import Pair

import backdraw

SHAPES = ((64, 10), (4096, 100), (1024, 50257))
TEMPERATURE = 0.7


def _inputs(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape, dtype=np.float32), rng.standard_normal(shape, dtype=np.float32)


def numpy_soft(shape: tuple[int, ...]) -> Pair:
    """NumPy: against the plain expression with its manual gradient."""
    logits, c = _inputs(shape)
    rng = np.random.default_rng(1)

    def ours() -> object:
        _, pullback = backdraw.vjp(lambda l: backdraw.gumbel_softmax(l, temperature=TEMPERATURE, rng=rng), logits)
        return pullback(c)

    def peer() -> object:
        z = (logits + rng.gumbel(size=shape).astype(np.float32)) / TEMPERATURE
        z = np.exp(z - z.max(axis=-1, keepdims=True))
        y = z / z.sum(axis=-1, keepdims=True)
        return y * (c - (y * c).sum(axis=-1, keepdims=True)) / TEMPERATURE

    return ours, peer


def _torch(shape: tuple[int, ...], *, hard: bool, compiled: bool) -> Pair:
    import torch

    array, cotangent = _inputs(shape)
    logits, c = torch.tensor(array, requires_grad=True), torch.tensor(cotangent)
    wrap = (lambda f: torch.compile(f, fullgraph=True)) if compiled else (lambda f: f)
    f = wrap(lambda l: backdraw.gumbel_softmax(l, temperature=TEMPERATURE, hard=hard))
    g = wrap(lambda l: torch.nn.functional.gumbel_softmax(l, tau=TEMPERATURE, hard=hard))
    return (lambda: torch.autograd.grad(f(logits), logits, c)), (lambda: torch.autograd.grad(g(logits), logits, c))


def torch_soft(shape: tuple[int, ...]) -> Pair:
    """Torch, eager: against torch.nn.functional.gumbel_softmax."""
    return _torch(shape, hard=False, compiled=False)


def torch_hard(shape: tuple[int, ...]) -> Pair:
    """Torch, eager, hard=True."""
    return _torch(shape, hard=True, compiled=False)


def torch_compiled(shape: tuple[int, ...]) -> Pair:
    """Torch, both compiled."""
    return _torch(shape, hard=False, compiled=True)


def jax_jit(shape: tuple[int, ...]) -> Pair:
    """JAX, jitted: against a hand-written Gumbel-softmax and its grad, with the same key."""
    import jax
    import jax.numpy as jnp

    array, cotangent = _inputs(shape)
    logits, c, key = jnp.asarray(array), jnp.asarray(cotangent), jax.random.key(0)

    def hand_written(l: object, key: object) -> object:
        return jax.nn.softmax((l + jax.random.gumbel(key, l.shape, l.dtype)) / TEMPERATURE)

    def gradient(f: Callable[..., object]) -> Callable[[], object]:
        step = jax.jit(lambda l, c, key: jax.vjp(lambda l: f(l, key), l)[1](c))
        return lambda: jax.block_until_ready(step(logits, c, key))

    return gradient(lambda l, key: backdraw.gumbel_softmax(l, temperature=TEMPERATURE, rng=key)), gradient(hand_written)


CASES = (torch_soft, torch_hard, torch_compiled, jax_jit, numpy_soft)
