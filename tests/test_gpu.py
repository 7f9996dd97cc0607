"""CuPy, torch on CUDA and JAX on CUDA, each against NumPy."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, eps, pulled
from latents import CASES, GRADIENTS, estimate, logits, ramp
from user_primitives import cube, exp, sort

import backdraw
from backdraw.estimators import ESTIMATORS
from backdraw.transforms import TRANSFORMS

pytestmark = pytest.mark.gpu
KEY = backdraw.key(2)
RNG = np.random.default_rng(0)
X, G = RNG.normal(size=(20, 7)), RNG.normal(size=(20, 7))
HERE = Library(Backend.NUMPY)


@pytest.mark.parametrize(("name", "latent"), CASES)
def test_value_and_gradient(gpu: Library, name: str, latent: str) -> None:
    f, expected_f, x = estimate(name, latent, gpu), estimate(name, latent, HERE), logits(latent)
    if ESTIMATORS[name].gradient == "none":
        gpu.check(f(gpu.asarray(x)), expected_f(x), rtol=1e-6, atol=1e-9)
        return
    expected, expected_back = backdraw.vjp(expected_f, x)
    g = ramp(expected.shape)
    y, (grad,) = pulled(gpu, f, gpu.asarray(g), gpu.asarray(x))
    gpu.check(y, expected, rtol=1e-6, atol=1e-9)
    gpu.check(grad, expected_back(g)[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "latent"), [c for c in GRADIENTS if c[1] in ("categories", "bits") and ESTIMATORS[c[0]].kind == "draw"]
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_dtypes(gpu: Library, name: str, latent: str, dtype: str) -> None:
    x = logits(latent).astype(dtype)
    expected, back = backdraw.vjp(estimate(name, latent, HERE), x)
    g = ramp(expected.shape).astype(dtype)
    y, (grad,) = pulled(gpu, estimate(name, latent, gpu), gpu.asarray(g), gpu.asarray(x))
    gpu.check(y, expected, dtype=dtype, atol=4 * eps(dtype))
    gpu.check(grad, back(g)[0], dtype=dtype, atol=4 * eps(dtype))


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
