"""What is done by blocks, or in another way, where there is much of it."""

import numpy as np
import pytest
from helpers import Library

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("shape", [(5,), (6, 10), (2, 3000, 7), (3000, 1), (60, 100)])
def test_hardmax(lib: Library, shape: tuple[int, ...]) -> None:
    x = RNG.normal(size=shape)
    odd = x.copy()
    rows = odd.reshape(-1, shape[-1])
    rows[0] = -np.inf
    rows[-1, -1] = np.inf
    for u in (x, odd, np.round(x)):  # the last has ties
        first = np.argmax(u, -1)[..., None] == np.arange(shape[-1])
        live = u.max(-1, keepdims=True) > -np.inf
        lib.check(lib.be.hardmax(lib.asarray(u)), np.asarray(first & live, u.dtype), rtol=0)


@pytest.mark.parametrize("shape", [(5,), (6, 10), (2, 3000, 7), (90, 1000), (2, 5, 120_000)])
def test_noisy_hardmax(lib: Library, shape: tuple[int, ...]) -> None:
    x, noise = RNG.normal(size=shape), RNG.exponential(size=shape)
    x.reshape(-1, shape[-1])[0, 1:] = -np.inf
    if x.ndim > 1:
        x.reshape(-1, shape[-1])[1] = -np.inf
    u = x - np.log(noise)
    first = np.argmax(u, -1)[..., None] == np.arange(shape[-1])
    e = np.exp((u - np.maximum(u.max(-1, keepdims=True), -1e300)) / 0.7)
    hard, soft = lib.be.noisy_hardmax(lib.asarray(x), lib.asarray(noise), 0.7)
    lib.check(hard, (first & (u.max(-1, keepdims=True) > -np.inf)).astype(u.dtype), rtol=0)
    lib.check(soft, e / np.maximum(e.sum(-1, keepdims=True), 0.5), rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 3), (3000, 8, 4), (7, 30_000)])
def test_sum_of(lib: Library, shape: tuple[int, ...]) -> None:
    x, w = RNG.normal(size=shape), RNG.normal(size=(*shape[:-1], 1))
    total = lib.be.sum_of(lambda be, x, w, *, a: w * be.xp.exp(a * x), lib.asarray(x), lib.asarray(w), a=0.5)
    lib.check(total, np.sum(w * np.exp(0.5 * x), 0), rtol=1e-11, atol=1e-11)
