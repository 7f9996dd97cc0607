"""From words to noise: laws, tails, and what ``rng=`` may be."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers import Backend, Library, run_python

import backdraw
from backdraw.backend import adapter
from backdraw.random import bits
from backdraw.transforms import TRANSFORMS, uniform_of_words

LAWS = {
    "uniform": scipy.stats.uniform(),
    "exponential": scipy.stats.expon(),
    "waiting": scipy.stats.expon(),
    "gumbel": scipy.stats.gumbel_r(),
    "logistic": scipy.stats.logistic(),
    "laplace": scipy.stats.laplace(),
    "normal": scipy.stats.norm(),
}
TOP = 2**32 - 1


def test_every_kind_has_a_law() -> None:
    assert set(LAWS) == set(TRANSFORMS)


def follows(x: np.ndarray, law: Any) -> None:
    """Kolmogorov-Smirnov: a false alarm has probability 1e-6, and with a fixed key it either is one for ever or never."""
    assert scipy.stats.kstest(x.ravel(), law.cdf).pvalue > 1e-6
    shuffled = x.ravel()
    pairs = np.corrcoef(law.cdf(shuffled[:-1]), law.cdf(shuffled[1:]))[0, 1]  # neighbours are independent
    assert abs(pairs) < 5.0 / math.sqrt(shuffled.size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_law_from_a_key(framework: Library, kind: str, dtype: str) -> None:
    x = framework.be.noise(kind, backdraw.key(17), (200, 500), framework.dtype(dtype), framework.device)
    follows(framework.to_numpy(x).astype(np.float64), LAWS[kind])


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("n", [4000, 50_000, 1_300_000])
def test_law_from_the_frameworks_own_source(framework: Library, kind: str, n: int) -> None:
    # Three sizes: each framework's way for little noise, for much, and for more than one chunk.
    if n > 10**6 and (kind in ("logistic", "exponential", "waiting") or framework.backend is Backend.JAX):
        pytest.skip("the size makes no difference to this kind, or to JAX")
    x = framework.be.noise(kind, 12345, (n,), framework.dtype("float32"), framework.device)
    follows(framework.to_numpy(x).astype(np.float64)[:400_000], LAWS[kind])
    if n > 10**6:  # the chunks' streams are not the same
        values = framework.to_numpy(x)
        assert not np.array_equal(values[: n - 2**20], values[2**20 :])
        follows(values[2**20 :].astype(np.float64), LAWS[kind])


# ------------------------------------------------------------------------------------------------------- extremes
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_words(lib: Library, dtype: str) -> None:
    lowest = lib.asarray(np.asarray([0, 1, 2, 2**31, TOP - 1, TOP]), "int64")
    u = uniform_of_words(lib.be, lowest, lib.dtype(dtype))
    values = lib.to_numpy(u).astype(np.float64)
    assert values[0] == 2.0**-33
    assert np.all((values > 0) & (values < 1))
    for kind, (planes, transform) in TRANSFORMS.items():
        for v in (u, lib.xp.flip(u)):
            noise = lib.to_numpy(transform(lib.xp, *(u, v)[:planes]))
            assert np.all(np.isfinite(noise)), kind


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_words_on_the_host(dtype: str) -> None:
    from backdraw_backends import host_noise

    def constant(word: int) -> Any:
        return lambda index, n: lambda plane, start, stop: np.full(stop - start, word, np.uint32)

    for word in (0, 1, TOP - 1, TOP):
        for kind in TRANSFORMS:
            for n in (3, 70_000):
                assert np.all(np.isfinite(host_noise.noise(kind, constant(word), (n,), np.dtype(dtype))))
    low = host_noise.noise("gumbel", constant(0), (1,), np.dtype(dtype))[0]
    np.testing.assert_allclose(low, 33 * math.log(2.0), rtol=1e-6)  # 22.87: the tail goes as far as 2**-33
    np.testing.assert_allclose(host_noise.noise("exponential", constant(0), (1,), np.dtype(dtype)), 2.0**-33, rtol=1e-6)


def test_uniforms_near_zero_are_fine_grained(lib: Library) -> None:
    # P(gumbel > g) = 1 - exp(-exp(-g)) is right for every one of the lowest words, in float32: the words w below give
    # a Gumbel above that of w, so an event of probability 1e-8 is drawn that often.
    w = np.asarray([0, 1, 2, 3, 10, 42, 100, 1000, 65_537], np.int64)
    u = uniform_of_words(lib.be, lib.asarray(w, "int64"), lib.dtype("float32"))
    gumbel = lib.to_numpy(TRANSFORMS["gumbel"][1](lib.xp, u)).astype(np.float64)
    np.testing.assert_allclose(-np.expm1(-np.exp(-gumbel)), (w + 0.5) / 2.0**32, rtol=3e-6)


@pytest.mark.parametrize("kind", ["exponential", "gumbel"])
@pytest.mark.parametrize("n", [4000, 100_000])
def test_the_rarest_races_are_fine_grained_from_the_frameworks_own_source(framework: Library, kind: str, n: int) -> None:
    # Uniforms that are multiples of 2**-24 would give the least exponentials, and the largest Gumbels, from these alone.
    be, device = framework.be, framework.device
    calls = [
        framework.to_numpy(be.noise(kind, seed, (n,), framework.dtype("float32"), device)) for seed in range(800_000 // n)
    ]
    x = np.concatenate(calls).astype(np.float64)
    e = np.exp(-x) if kind == "gumbel" else x
    rare = -np.expm1(-e[e < 2.0**-13]) * 2.0**24
    assert abs(rare.size - 98) < 60
    assert np.mean(np.abs(rare - np.round(rare)) > 0.05) > 0.7  # of evenly spread ones, 0.9


@pytest.mark.parametrize(
    ("kind", "least"), [("laplace", -33 * math.log(2.0)), ("logistic", -math.log(24 * math.log(2.0) * 2**33))]
)
def test_both_tails_are_kept(lib: Library, kind: str, least: float) -> None:
    u = uniform_of_words(lib.be, lib.asarray(np.asarray([0, 2, 2**31, TOP], np.int64), "int64"), lib.dtype("float32"))
    noise = lib.to_numpy(TRANSFORMS[kind][1](lib.xp, u + 0.0, lib.xp.flip(u))).astype(np.float64)
    np.testing.assert_allclose(noise[0], least, rtol=1e-6)
    np.testing.assert_allclose(noise, -noise[::-1], rtol=1e-6)


def test_both_tails_of_waiting_times_are_kept(lib: Library) -> None:
    # Below 1 of the first uniform, P(e < x) = u; above it of the second, P(e > x) = v / e.
    w = np.asarray([0, 1, 2, 3, 10, 1000, 65_537], np.int64)
    u = uniform_of_words(lib.be, lib.asarray(w, "int64"), lib.dtype("float32"))
    late = 0.0 * u + 0.9
    early, last = (lib.to_numpy(TRANSFORMS["waiting"][1](lib.xp, *pair)).astype(np.float64) for pair in ((u, late), (late, u)))
    np.testing.assert_allclose(-np.expm1(-early), (w + 0.5) / 2.0**32, rtol=1e-6)
    np.testing.assert_allclose(np.exp(-last), math.exp(-1.0) * (w + 0.5) / 2.0**32, rtol=1e-5)


def test_the_tails_of_normal_noise_are_kept(lib: Library) -> None:
    # The farthest normals are of the lowest words. Given the radius r, P(|z| > t) = 2 arccos(t / r) / pi over the angles.
    u = uniform_of_words(lib.be, lib.asarray(np.arange(2**12, dtype=np.int64), "int64"), lib.dtype("float32"))
    radius = np.abs(lib.to_numpy(TRANSFORMS["normal"][1](lib.xp, u, 0.0 * u))).astype(np.float64)
    for t in (5.3, 5.73, 6.1):  # of the probabilities 1e-7, 1e-8 and 1e-9
        found = np.sum(2.0 / math.pi * np.arccos(t / radius[radius > t])) / 2.0**32
        np.testing.assert_allclose(found, 2.0 * scipy.stats.norm.sf(t), rtol=2e-3)


def test_float16_logits_get_float32_noise(lib: Library) -> None:
    from backdraw.random import noise

    for name in lib.dtypes:
        x = noise(lib.be, "gumbel", backdraw.key(0), (4,), lib.asarray(np.zeros(4), name))
        assert x.dtype == lib.dtype("float64" if name == "float64" else "float32")


# --------------------------------------------------------------------------------------------------- large sizes
@pytest.mark.parametrize("kind", ["gumbel", "normal"])
@pytest.mark.parametrize("n", [2**16 - 1, 2**16, 2**16 + 5, 2**17 + 1, 2**20 - 1, 2**20 + 3])
def test_blocks_of_a_key_are_the_whole(kind: str, n: int) -> None:
    planes, transform = TRANSFORMS[kind]
    be = adapter("numpy").backend
    u = uniform_of_words(be, bits(backdraw.key(4), (planes, n)), np.float32)
    # Up to rounding: NumPy's vectorised logarithms differ in the last place with an array's alignment.
    np.testing.assert_allclose(
        be.noise(kind, backdraw.key(4), (n,), np.float32, "cpu"), transform(np, *u), rtol=1e-6, atol=1e-6
    )


def _sources(name: str) -> Any:
    from backdraw_backends import host_noise

    if name == "key":
        return host_noise.key_source(backdraw.key(9))
    if name == "generator":
        return host_noise.generator_source(np.random.default_rng(9))
    return host_noise.seeded_source([1, 2, 3, 4])


@pytest.mark.parametrize("source", ["key", "generator", "seeded"])
def test_threads_do_not_matter(source: str) -> None:
    from backdraw_backends import host_noise
    from backdraw_backends.blocks import allowed_threads, limit_threads

    made = []
    for threads in (1, 2, 5):
        with limit_threads(threads):
            assert allowed_threads() == threads
            made.append(host_noise.noise("gumbel", _sources(source), (3, 2**20 + 7), np.float32))
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])


@pytest.mark.parametrize("rng", ["key", "int"])
def test_omp_num_threads_does_not_matter(monkeypatch: pytest.MonkeyPatch, rng: str) -> None:
    logits = np.zeros((3, 2**19), np.float32)
    draws = []
    for limit in ("1", "2", "8"):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        draws.append(backdraw.gumbel_softmax(logits, rng=backdraw.key(1) if rng == "key" else 1))
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


def test_omp_num_threads_limits_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from backdraw_backends.blocks import allowed_threads

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert allowed_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert allowed_threads() >= 1


@pytest.mark.needs("torch")
def test_torch_threads_do_not_matter() -> None:
    import torch

    before = torch.get_num_threads()
    draws = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(3)
            draws.append(backdraw.gumbel_softmax(torch.zeros(3, 2**19)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*draws)


# ------------------------------------------------------------------------------------------- what rng= may be
def draws(framework: Library, rng: Any, n: int = 64) -> np.ndarray:
    return framework.to_numpy(backdraw.gumbel_softmax(framework.asarray(np.zeros((2, n)), "float32"), rng=rng))


def test_an_int_seeds(framework: Library) -> None:
    for n in (64, 40_000):
        a, b, c = draws(framework, 5, n), draws(framework, 5, n), draws(framework, 6, n)
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
        np.testing.assert_array_equal(draws(framework, np.int64(5), n), a)


def test_a_key_is_reused_without_advancing(framework: Library) -> None:
    key = backdraw.key(0)
    np.testing.assert_array_equal(draws(framework, key), draws(framework, key))


@pytest.mark.parametrize("n", [64, 40_000, 1_100_000])
def test_numpy_generators_advance(n: int) -> None:
    lib = Library(Backend.NUMPY)
    first, second = np.random.default_rng(1), np.random.default_rng(1)
    a, b = draws(lib, first, n), draws(lib, first, n)
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(draws(lib, second, n), a)
    np.testing.assert_array_equal(draws(lib, second, n), b)


def test_numpy_seed_sequence_and_bit_generator() -> None:
    lib = Library(Backend.NUMPY)
    a = draws(lib, np.random.SeedSequence(5))
    np.testing.assert_array_equal(a, draws(lib, np.random.SeedSequence(5)))
    np.testing.assert_array_equal(a, draws(lib, np.random.default_rng(np.random.SeedSequence(5))))
    np.testing.assert_array_equal(draws(lib, np.random.PCG64(3)), draws(lib, np.random.default_rng(3)))


def test_none_is_fresh_noise(lib: Library) -> None:
    if lib.backend is Backend.JAX:
        with pytest.raises(TypeError, match=r"rng: JAX has no default source; pass a jax\.random key"):
            draws(lib, None)
    else:
        assert not np.array_equal(draws(lib, None), draws(lib, None))


@pytest.mark.needs("torch")
@pytest.mark.parametrize("n", [64, 40_000])
def test_torch_generators(n: int) -> None:
    import torch

    lib = Library(Backend.TORCH)
    torch.manual_seed(3)
    a, b = draws(lib, None, n), draws(lib, None, n)
    assert not np.array_equal(a, b)
    torch.manual_seed(3)
    np.testing.assert_array_equal(draws(lib, None, n), a)
    g = torch.Generator().manual_seed(3)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(draws(lib, g, n), a)
    np.testing.assert_array_equal(draws(lib, g, n), b)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator was left alone
    np.testing.assert_array_equal(draws(lib, 3, n), a)


@pytest.mark.needs("jax")
def test_jax_keys_old_and_new() -> None:
    import jax

    lib = Library(Backend.JAX)
    a = draws(lib, jax.random.key(5))
    np.testing.assert_array_equal(draws(lib, jax.random.PRNGKey(5)), a)
    np.testing.assert_array_equal(draws(lib, 5), a)
    np.testing.assert_array_equal(draws(lib, np.asarray([0, 5], np.uint32)), a)
    assert not np.array_equal(draws(lib, jax.random.key(6)), a)
    jitted = jax.jit(lambda k, x: backdraw.gumbel_softmax(x, rng=k))
    np.testing.assert_allclose(jitted(jax.random.key(5), np.zeros((2, 64), np.float32)), a, rtol=1e-5)
    with jax.threefry_partitionable(True):
        np.testing.assert_array_equal(draws(lib, backdraw.key(5)), draws(lib, jax.random.key(5)))


@pytest.mark.needs("jax")
def test_jax_rbg_keys_are_the_users_choice() -> None:
    import jax

    lib = Library(Backend.JAX)
    assert not np.array_equal(draws(lib, jax.random.key(5, impl="rbg")), draws(lib, 5))


def test_forked_children_draw_differently() -> None:
    code = """
import os, sys, numpy as np, backdraw
x = np.zeros(8)
backdraw.gumbel_softmax(x)
read, write = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        os.write(write, backdraw.gumbel_softmax(x).tobytes())
        os._exit(0)
os.wait(); os.wait()
a, b = os.read(read, 64), os.read(read, 64)
print(a != b)
"""
    assert run_python(code) == "True"


# -------------------------------------------------------------------------------------------------------- wrong rng
@pytest.mark.parametrize("bad", [True, 1.5, "0", (1, 2)])
def test_what_no_rng_is(lib: Library, bad: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"rng: expected None, an int, a backdraw\.Key or .* arrays, got .*{type(bad).__name__}"
    ):
        backdraw.draw(lib.asarray(np.zeros(3)), rng=bad)


def test_negative_seed(lib: Library) -> None:
    with pytest.raises(ValueError, match=r"rng: expected a seed .*got -1"):
        backdraw.draw(lib.asarray(np.zeros(3)), rng=-1)


@pytest.mark.needs("torch", "jax")
def test_rng_of_another_framework(lib: Library) -> None:
    import jax
    import torch

    foreign: dict[str, Any] = {
        "numpy": np.random.default_rng(0),
        "torch": torch.Generator(),
        "jax": jax.random.key(0),
    }
    own = {"strict": "numpy"}.get(lib.backend.group, lib.backend.group)
    for name, rng in foreign.items():
        if name != own:
            with pytest.raises(TypeError, match=rf"rng: expected None, an int.* for {lib.be.name} arrays, got "):
                backdraw.draw(lib.asarray(np.zeros(3)), rng=rng)


@pytest.mark.needs("jax")
def test_a_batch_of_jax_keys() -> None:
    import jax

    x = jax.numpy.zeros(3)
    for keys in (jax.random.split(jax.random.key(0), 3), jax.random.split(jax.random.PRNGKey(0), 3)):
        with pytest.raises(ValueError, match=r"rng: expected a single key, got keys of shape \(3"):
            backdraw.draw(x, rng=keys)
