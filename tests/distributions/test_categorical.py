"""Categorical: its functions against plain formulas, its gradients against finite differences, its draws against its law."""

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import Backend, Library, finite_difference, pulled, softmax

import backdraw
from backdraw import Categorical

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(2, 3, 4))
OTHER = RNG.normal(size=(2, 3, 4))
MASK = np.asarray([True, False, True, True])
HOT = np.eye(4)[RNG.integers(0, 4, size=(2, 3))]
G = RNG.normal(size=(2, 3))


def with_minus_inf() -> np.ndarray:
    x = LOGITS.copy()
    x[0, 0, 1] = x[1, 2, 3] = -np.inf
    return x


def entropy(x: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.entr(softmax(x)).sum(-1))


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.rel_entr(softmax(p), softmax(q)).sum(-1))


def log_prob(x: np.ndarray, hot: np.ndarray) -> np.ndarray:
    return np.asarray((scipy.special.log_softmax(x, -1) * hot).sum(-1))


# ------------------------------------------------------------------------------------------------------------ values
def test_values(lib: Library) -> None:
    p, x = Categorical(lib.asarray(LOGITS)), lib.asarray(HOT)
    close = {"rtol": 1e-13, "atol": 1e-15}
    lib.check(p.mean(), softmax(LOGITS), **close)
    lib.check(p.mean(temperature=0.5), softmax(LOGITS / 0.5), **close)
    lib.check(p.log_prob(x), log_prob(LOGITS, HOT), **close)
    lib.check(p.entropy(), entropy(LOGITS), **close)
    lib.check(backdraw.kl(p, Categorical(lib.asarray(OTHER))), kl(LOGITS, OTHER), **close)
    lib.check(p.score(x), HOT - softmax(LOGITS), **close)
    assert p.batch_shape == (2, 3)


def test_support(lib: Library) -> None:
    values, probs = Categorical(lib.asarray(LOGITS)).support()
    lib.check(values, np.broadcast_to(np.eye(4)[:, None, None, :], (4, 2, 3, 4)), rtol=0)
    lib.check(probs, np.moveaxis(softmax(LOGITS), -1, 0), rtol=1e-13)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_axis(lib: Library, axis: int) -> None:
    p, q = (Categorical(lib.asarray(x), axis=axis) for x in (LOGITS, OTHER))
    m, n = np.moveaxis(LOGITS, axis, -1), np.moveaxis(OTHER, axis, -1)
    lib.check(p.mean(), softmax(LOGITS, axis), rtol=1e-13)
    lib.check(p.entropy(), entropy(m), rtol=1e-13)
    lib.check(backdraw.kl(p, q), kl(m, n), rtol=1e-12)
    draw = backdraw.draw(p, shape=(5,), rng=backdraw.key(0))
    assert tuple(draw.shape) == (5, 2, 3, 4)
    np.testing.assert_array_equal(lib.to_numpy(draw).sum(1 + axis % 3), 1.0)
    # Log-probabilities of several samples in front, along an axis counted either way.
    expected = (np.moveaxis(lib.to_numpy(draw), 1 + axis % 3, -1) * scipy.special.log_softmax(m, -1)).sum(-1)
    lib.check(p.log_prob(draw), expected, rtol=1e-13)
    values, probs = p.support()
    lib.check(p.log_prob(values), np.log(lib.to_numpy(probs)), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(lib: Library, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    x = lib.asarray(LOGITS, dtype)
    logits = lib.to_numpy(x).astype(np.float64)
    p = Categorical(x)
    tolerance = {"rtol": {"float16": 2e-3, "bfloat16": 1.6e-2}.get(dtype), "atol": 0.0}
    lib.check(p.mean(), softmax(logits), dtype=dtype, **tolerance)
    lib.check(p.entropy(), entropy(logits), dtype=dtype, **tolerance)
    lib.check(p.log_prob(lib.asarray(HOT, dtype)), log_prob(logits, HOT), dtype=dtype, **tolerance)
    assert p.support()[0].dtype == x.dtype
    assert backdraw.kl(p, p).dtype == x.dtype


# -------------------------------------------------------------------------------------------------- excluded categories
@pytest.mark.parametrize("how", ["-inf", "where"])
def test_excluded_categories(lib: Library, how: str) -> None:
    reduced, kept = LOGITS[..., MASK], np.flatnonzero(MASK)
    logits = np.where(MASK, LOGITS, -np.inf)

    def dist(x: Any) -> Categorical:
        return Categorical(x) if how == "-inf" else Categorical(x, where=lib.asarray(MASK))

    x = lib.asarray(logits if how == "-inf" else LOGITS)
    p = dist(x)
    mean = lib.to_numpy(p.mean())
    assert np.all(mean[..., ~MASK] == 0.0)
    np.testing.assert_allclose(mean[..., kept], softmax(reduced), rtol=1e-13)
    lib.check(p.entropy(), entropy(reduced), rtol=1e-13)
    q = Categorical(lib.asarray(OTHER), where=lib.asarray(MASK))
    lib.check(backdraw.kl(p, q), kl(reduced, OTHER[..., MASK]), rtol=1e-12)
    lib.check(backdraw.kl(p, Categorical(lib.asarray(OTHER))), kl(logits, OTHER), rtol=1e-12)
    lib.check(backdraw.kl(Categorical(lib.asarray(OTHER)), p), np.full((2, 3), np.inf))
    lib.check(p.log_prob(lib.asarray(np.broadcast_to(np.eye(4)[1], (2, 3, 4)))), np.full((2, 3), -np.inf))
    hot = np.eye(4)[np.full((2, 3), 2)]
    lib.check(p.log_prob(lib.asarray(hot)), log_prob(reduced, hot[..., MASK]), rtol=1e-13)

    weight = lib.asarray(RNG.normal(size=(2, 3, 4)))
    for f, cotangent in (
        (lambda x: dist(x).mean(), weight),
        (lambda x: dist(x).entropy(), lib.asarray(G)),
        (lambda x: dist(x).log_prob(lib.asarray(hot)), lib.asarray(G)),
        (lambda x: backdraw.kl(dist(x), q), lib.asarray(G)),
        (lambda x: backdraw.kl(q, dist(x)), lib.asarray(G)),
    ):
        (grad,) = backdraw.vjp(f, x)[1](cotangent)
        grad = lib.to_numpy(grad)
        assert np.all(grad[..., ~MASK] == 0.0)
        assert np.all(np.isfinite(grad))
        assert np.all(np.abs(grad[..., kept]).sum(-1) > 1e-6)


def test_fully_masked_row(lib: Library) -> None:
    where = np.ones((2, 3, 4), bool)
    where[0, 1] = False
    mask = lib.asarray(where)
    x = lib.asarray(LOGITS)
    p = Categorical(x, where=mask)
    lib.check(p.mean(), np.where(where, softmax(LOGITS), 0.0), rtol=1e-13)
    np.testing.assert_array_equal(lib.to_numpy(backdraw.draw(p, rng=backdraw.key(0))).sum(-1), where.all(-1))
    np.testing.assert_array_equal(lib.to_numpy(backdraw.gumbel_max(p, rng=backdraw.key(0))).sum(-1), where.all(-1))
    assert lib.to_numpy(p.entropy())[0, 1] == 0.0
    for f, g in (
        (lambda x: Categorical(x, where=mask).mean(), HOT),
        (lambda x: Categorical(x, where=mask).entropy(), G),
        (lambda x: backdraw.kl(Categorical(x, where=mask), Categorical(x, where=mask)), G),
    ):
        value, pullback = backdraw.vjp(f, x)
        grad = lib.to_numpy(pullback(lib.asarray(g))[0])
        assert np.all(np.isfinite(grad))
        assert np.all(grad[0, 1] == 0.0)
        assert np.all(np.isfinite(lib.to_numpy(value)))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 4), (2, 1, 1), (2, 3, 4)])
def test_where_broadcasts(lib: Library, shape: tuple[int, ...]) -> None:
    where = RNG.random(shape) > 0.3
    expected = softmax(np.where(where, LOGITS, -np.inf))
    lib.check(Categorical(lib.asarray(LOGITS), where=lib.asarray(where)).mean(), expected, rtol=1e-13)


# ------------------------------------------------------------------------------------------------------------- huge
HUGE = {"float16": 6e4, "float32": 3e38, "float64": 1.7e308, "bfloat16": 3e38}


@pytest.mark.parametrize("dtype", HUGE)
@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e6])
def test_huge_logits(lib: Library, dtype: str, temperature: float) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.backend.value} has no {dtype}")
    b = HUGE[dtype]
    rows = np.asarray([[b, -b, 0.0], [-b, -b, -b], [b, b, -b], [0.0, -b, -b], [b, -np.inf, b]])
    x = lib.asarray(rows, dtype)
    p = Categorical(x)
    exact = lib.to_numpy(x).astype(np.longdouble)  # whose range is wider than that of any of the dtypes
    expected = np.exp((exact - exact.max(-1, keepdims=True)) / temperature)
    expected /= expected.sum(-1, keepdims=True)
    lib.check(p.mean(temperature=temperature), expected.astype(np.float64), dtype=dtype, rtol=8e-3)
    g = lib.asarray(np.asarray([[1.0, -2.0, 0.5]] * 5), dtype)
    for f in (
        lambda x: Categorical(x).mean(temperature=temperature),
        lambda x: backdraw.gumbel_softmax(x, temperature=temperature, rng=backdraw.key(0)),
        lambda x: backdraw.straight_through(x, temperature=temperature, rng=backdraw.key(0)),
        lambda x: backdraw.select(x, temperature=temperature),
        lambda x: backdraw.intermediate_loss(x, rng=backdraw.key(0)),
    ):
        y, pullback = backdraw.vjp(f, x)
        for out in (y, pullback(g)[0]):
            assert np.all(np.isfinite(lib.to_numpy(out)))
    t = lib.asarray(temperature, "float32" if dtype == "float16" else dtype)
    y, pullback = backdraw.vjp(lambda x, t: backdraw.gumbel_softmax(x, temperature=t, rng=backdraw.key(0)), x, t)
    for out in (y, *pullback(g)):
        assert np.all(np.isfinite(lib.to_numpy(out)))
    with np.errstate(over="ignore"):  # the log of a probability may lie beyond the dtype's range
        for out in (p.entropy(), p.log_prob(backdraw.draw(p, rng=backdraw.key(0)))):
            assert not np.any(np.isnan(lib.to_numpy(out)))


# --------------------------------------------------------------------------------------------------------- gradients
def _functions(lib: Library) -> dict[str, tuple[Any, Any, list[np.ndarray], np.ndarray]]:
    hot = lib.asarray(HOT)
    soft = softmax(OTHER)
    return {
        "mean": (lambda x: Categorical(x).mean(), softmax, [LOGITS], HOT),
        "mean at t": (lambda x: Categorical(x).mean(temperature=0.3), lambda x: softmax(x / 0.3), [LOGITS], HOT),
        "mean on axis 0": (lambda x: Categorical(x, 0).mean(), lambda x: softmax(x, 0), [LOGITS], HOT),
        "log_prob": (lambda x: Categorical(x).log_prob(hot), lambda x: log_prob(x, HOT), [LOGITS], G),
        "log_prob in x": (lambda l, x: Categorical(l).log_prob(x), log_prob, [LOGITS, soft], G),
        "entropy": (lambda x: Categorical(x).entropy(), entropy, [LOGITS], G),
        "kl": (lambda p, q: backdraw.kl(Categorical(p), Categorical(q)), kl, [LOGITS, OTHER], G),
        "probabilities of the support": (
            lambda x: Categorical(x, 1).support()[1],
            lambda x: np.moveaxis(softmax(x, 1), 1, 0),
            [LOGITS],
            RNG.normal(size=(3, 2, 4)),
        ),
    }


@pytest.mark.parametrize("name", _functions(Library(Backend.NUMPY)))
def test_gradients_by_finite_differences(lib: Library, name: str) -> None:
    f, plain, arrays, g = _functions(lib)[name]
    value, pullback = backdraw.vjp(f, *(lib.asarray(x) for x in arrays))
    lib.check(value, plain(*arrays), rtol=1e-12)
    for i, grad in enumerate(pullback(lib.asarray(g))):

        def at(x: np.ndarray, i: int = i) -> np.ndarray:
            return np.asarray(plain(*arrays[:i], x, *arrays[i + 1 :]))

        lib.check(grad, finite_difference(at, arrays[i], g), rtol=1e-6, atol=1e-8)


def test_a_number_added_to_all_logits_costs_no_digit(lib: Library) -> None:
    rows = np.asarray([[0.0, -9.0, -12.0, -3.0], [1.0, 0.5, 0.25, -np.inf]])
    x = np.asarray([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    near, far = (Categorical(lib.asarray(rows + c, "float32")) for c in (0.0, 1e4))
    close = {"rtol": 1e-6}
    lib.check(far.log_prob(lib.asarray(x, "float32")), lib.to_numpy(near.log_prob(lib.asarray(x, "float32"))), **close)
    lib.check(far.entropy(), lib.to_numpy(near.entropy()), **close)


def test_log_prob_broadcasts_along_the_batch_alone(lib: Library) -> None:
    x = np.eye(5)[:3]
    logits, g = RNG.normal(size=(1, 5)), RNG.normal(size=3)
    y, (grad,) = pulled(lib, lambda l: Categorical(l).log_prob(lib.asarray(x)), lib.asarray(g), lib.asarray(logits))
    lib.check(y, np.log(softmax(logits))[0, :3], rtol=1e-12)
    lib.check(grad, (g @ x - g.sum() * softmax(logits)[0])[None], rtol=1e-12, atol=1e-15)
    for shape in ((5,), (3, 1), (2, 5)):
        with pytest.raises(ValueError, match=r"x: expected the shape \(3, 5\), or more axes in front of it, got"):
            Categorical(lib.asarray(np.zeros((3, 5)))).log_prob(lib.asarray(np.ones(shape)))


def test_log_prob_gradient_sums_over_samples_in_front(lib: Library) -> None:
    draws = np.eye(4)[RNG.integers(0, 4, size=(5, 2, 3))]
    g = RNG.normal(size=(5, 2, 3))
    (grad,) = backdraw.vjp(lambda x: Categorical(x).log_prob(lib.asarray(draws)), lib.asarray(LOGITS))[1](lib.asarray(g))
    lib.check(grad, (g[..., None] * (draws - softmax(LOGITS))).sum(0), rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------------------------------------------------- draws
@pytest.mark.parametrize("source", ["key", "own"])
@pytest.mark.parametrize("f", [backdraw.draw, backdraw.gumbel_max], ids=lambda f: f.__name__)
def test_law(framework: Library, f: Any, source: str) -> None:
    p, n = np.asarray([0.4, 0.02, 0.28, 0.0, 0.3]), 200_000
    with np.errstate(divide="ignore"):
        logits = np.broadcast_to(np.log(p), (n, 5))
    x = f(framework.asarray(logits, "float32"), rng=backdraw.key(8) if source == "key" else 8)
    counts = framework.to_numpy(x).astype(np.float64).sum(0)
    assert counts[3] == 0
    live = p > 0
    assert scipy.stats.chisquare(counts[live], n * p[live]).pvalue > 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rare_events_have_their_interval(lib: Library, dtype: str) -> None:
    # The inverse CDF at chosen uniforms: category 1, of probability 1e-8, is drawn between its edges and not outside.
    logits = lib.asarray(np.log(np.asarray([0.5, 1e-8, 0.5 - 1e-8])), dtype)
    p = Categorical(logits)
    exact = np.exp(lib.to_numpy(logits).astype(np.float64))
    low, high = np.cumsum(exact)[:2] / exact.sum()
    assert 0.9e-8 < high - low < 1.1e-8
    for u, k in ((low * (1 - 1e-12), 0), (low + 1e-13, 1), ((low + high) / 2, 1), (high - 1e-13, 1), (high + 1e-13, 2)):
        with lib.be.double():
            noise = lib.asarray(np.asarray([u]))
        np.testing.assert_array_equal(lib.to_numpy(p.sample(noise)), np.eye(3)[k])


def test_edges_of_the_inverse_cdf(lib: Library) -> None:
    p = Categorical(lib.asarray(np.asarray([-np.inf, 0.0, -np.inf, 0.0, -np.inf])))
    for u, k in ((2.0**-33, 1), (0.4999, 1), (0.5, 3), (1 - 2.0**-33, 3), (1 - 2.0**-53, 3)):
        np.testing.assert_array_equal(lib.to_numpy(p.sample(lib.asarray(np.asarray([u])))), np.eye(5)[k])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), 3, (2, 1)])
def test_one_key_gives_one_draw_everywhere(lib: Library, dtype: str, shape: Any) -> None:
    logits = (3 * RNG.normal(size=(50, 33))).astype(dtype)
    for axis in (-1, 0):
        expected = backdraw.draw(Categorical(logits, axis), shape=shape, rng=backdraw.key(5))
        actual = backdraw.draw(Categorical(lib.asarray(logits, dtype), axis), shape=shape, rng=backdraw.key(5))
        lib.check(actual, expected, dtype=dtype, rtol=0)
        assert tuple(actual.shape) == ((shape,) if isinstance(shape, int) else shape) + (50, 33)


def test_zero_sizes(lib: Library) -> None:
    p = Categorical(lib.asarray(np.zeros((0, 3))))
    lib.check(p.mean(), np.zeros((0, 3)))
    lib.check(p.entropy(), np.zeros(0))
    lib.check(backdraw.draw(p, rng=backdraw.key(0)), np.zeros((0, 3)))
    lib.check(backdraw.draw(lib.asarray(np.zeros(3)), shape=0, rng=backdraw.key(0)), np.zeros((0, 3)))
    lib.check(backdraw.gumbel_softmax(lib.asarray(np.zeros((0, 3))), rng=backdraw.key(0)), np.zeros((0, 3)))


def test_one_category(lib: Library) -> None:
    p = Categorical(lib.asarray(LOGITS[..., :1]))
    lib.check(p.mean(), np.ones((2, 3, 1)))
    lib.check(backdraw.draw(p, rng=backdraw.key(0)), np.ones((2, 3, 1)))
    lib.check(p.entropy(), np.zeros((2, 3)))


def test_large_rows_equal_small_ones() -> None:
    # NumPy works in blocks of rows: what comes out must not depend on them.
    logits = RNG.normal(size=(70, 5000))
    p = Categorical(logits)
    np.testing.assert_array_equal(p.mean(), np.concatenate([Categorical(x[None]).mean() for x in logits]))
    whole = backdraw.draw(p, rng=backdraw.key(1))
    u = p.draw_noise(backdraw.key(1))
    np.testing.assert_array_equal(whole, np.stack([Categorical(x).sample(v) for x, v in zip(logits, u, strict=True)]))


def test_an_offset_of_all_logits(lib: Library) -> None:
    # All of these are exact in float32; what the noise that perturb adds is rounded to is a sixteenth.
    logits = np.tile(np.asarray([0.0, 1.0, 2.5, -0.5], np.float32), (200, 1))
    near, far = (Categorical(lib.asarray(logits + offset, "float32")) for offset in (0.0, 1e6))
    for rng in range(3):
        expected = lib.to_numpy(backdraw.draw(near, rng=backdraw.key(rng)))
        lib.check(backdraw.draw(far, rng=backdraw.key(rng)), expected, dtype="float32", rtol=0)
    u = lib.to_numpy(far.perturb(far.perturb_noise(backdraw.key(0))))
    np.testing.assert_array_equal(u * 16, np.round(u * 16))
