"""CuPy, torch on CUDA and JAX on CUDA, each against NumPy."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library
from user_primitives import cube, exp, sort

import backdraw
from backdraw.estimators import ESTIMATORS
from backdraw.random import TRANSFORMS

pytestmark = pytest.mark.gpu
KEY = backdraw.key(2)
RNG = np.random.default_rng(0)
X, G = RNG.normal(size=(20, 7)), RNG.normal(size=(20, 7))
NAMES = [name for name, entry in ESTIMATORS.items() if entry.kind == "draw"]


def _call(name: str, dist: Any, rng: Any = KEY) -> Any:
    entry = ESTIMATORS[name]
    return entry(dist, **({"rng": rng} if "rng" in (entry.function.__kwdefaults__ or {}) else {}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_value_and_gradient(gpu: Library, name: str, dtype: str) -> None:
    here = Library(Backend.NUMPY)
    x, g = X.astype(dtype), G.astype(dtype)
    for dist in (backdraw.Categorical, backdraw.Bernoulli):
        expected = _call(name, dist(here.asarray(x)))
        gpu.check(_call(name, dist(gpu.asarray(x))), expected, dtype=dtype, atol=1e-7)
        if ESTIMATORS[name].gradient != "none":
            expected_grad = backdraw.vjp(lambda l, dist=dist: _call(name, dist(l)), x)[1](g)[0]
            y, pullback = backdraw.vjp(lambda l, dist=dist: _call(name, dist(l)), gpu.asarray(x))
            gpu.check(y, expected, dtype=dtype, atol=1e-7)
            gpu.check(pullback(gpu.asarray(g))[0], expected_grad, dtype=dtype, atol=4e-3 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_noise_of_a_key(gpu: Library, kind: str) -> None:
    for dtype in ("float32", "float64"):
        for shape in ((5,), (3, 2**17)):
            expected = Library(Backend.NUMPY).be.noise(kind, KEY, shape, np.dtype(dtype), "cpu")
            actual = gpu.be.noise(kind, KEY, shape, gpu.dtype(dtype), gpu.device)
            gpu.check(actual, expected, dtype=dtype, rtol=1e-5, atol=1e-5)


def test_own_sources(gpu: Library) -> None:
    x = gpu.asarray(np.zeros((4, 1000)), "float32")
    first, again, other = (gpu.to_numpy(backdraw.gumbel_softmax(x, rng=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("f", [cube, exp, sort], ids=lambda f: f.name)
def test_user_primitives(gpu: Library, f: Any) -> None:
    y, pullback = backdraw.vjp(f, gpu.asarray(X))
    value, back = backdraw.vjp(f, X)
    gpu.check(y, value, rtol=1e-12)
    gpu.check(pullback(gpu.asarray(G))[0], back(G)[0], rtol=1e-12)


def test_masks_and_distributions(gpu: Library) -> None:
    where = RNG.random((20, 7)) < 0.7
    where[0] = False
    p, q = (backdraw.Categorical(lib.asarray(X), where=lib.asarray(where)) for lib in (gpu, Library(Backend.NUMPY)))
    for name in ("mean", "entropy"):
        gpu.check(getattr(p, name)(), getattr(q, name)(), rtol=1e-12)
    gpu.check(backdraw.draw(p, shape=3, rng=KEY), backdraw.draw(q, shape=3, rng=KEY), rtol=0)
