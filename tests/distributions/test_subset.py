"""Subset: its functions against the enumeration of all subsets, its gradients against finite differences."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from helpers import Backend, Library, finite_difference, pulled, sigmoid, softmax

import backdraw
from backdraw import Subset

RNG = np.random.default_rng(9)
LOGITS, OTHER, G = (RNG.normal(size=(3, 5)) * 1.5 for _ in range(3))
G1 = RNG.normal(size=3)
KEY = backdraw.key(4)


def subsets(n: int, k: int) -> np.ndarray:
    """All vectors of k ones."""
    return np.asarray([[float(i in c) for i in range(n)] for c in itertools.combinations(range(n), k)])


def scores(l: np.ndarray, k: int) -> np.ndarray:
    """<l, x> of every subset, on the last axis."""
    v = subsets(l.shape[-1], k)
    return np.where(v > 0, l[..., None, :], 0.0).sum(-1)


def law(l: np.ndarray, k: int) -> np.ndarray:
    return softmax(scores(l, k))


def marginals(l: np.ndarray, k: int) -> np.ndarray:
    return np.asarray(law(l, k) @ subsets(l.shape[-1], k))


def log_partition(l: np.ndarray, k: int) -> np.ndarray:
    return np.asarray(scipy.special.logsumexp(scores(l, k), -1))


def entropy(l: np.ndarray, k: int) -> np.ndarray:
    return np.asarray(scipy.special.entr(law(l, k)).sum(-1))


def kl(p: np.ndarray, q: np.ndarray, k: int) -> np.ndarray:
    return np.asarray(scipy.special.rel_entr(law(p, k), law(q, k)).sum(-1))


def log_prob(l: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    return np.asarray((x * l).sum(-1) - log_partition(l, k))


def _by_root(u: np.ndarray, k: int, y: Any) -> np.ndarray:
    rows = []
    for row in u.reshape(-1, u.shape[-1]):
        tau = scipy.optimize.brentq(lambda t, row=row: y(row - t).sum() - k, row.min() - 50, row.max() + 50, xtol=1e-14)
        rows.append(y(row - tau))
    return np.reshape(rows, u.shape)


def relaxed(u: np.ndarray, k: int, regularizer: str) -> np.ndarray:
    """The relaxation, by enumeration or by a root of the multiplier."""
    if regularizer == "entropy":
        return marginals(u, k)
    if k in (0, u.shape[-1]):
        return np.full(u.shape, k / u.shape[-1])
    return _by_root(u, k, sigmoid if regularizer == "binary" else lambda z: np.clip(z, 0.0, 1.0))


REGULARIZERS = ("entropy", "binary", "euclidean")


@pytest.mark.parametrize("k", [0, 2, 4])
def test_values(lib: Library, k: int) -> None:
    p, x = Subset(lib.asarray(LOGITS), k), subsets(5, k)[[0, -1, 0]]
    close = {"rtol": 1e-12, "atol": 1e-14}
    lib.check(p.log_partition(), log_partition(LOGITS, k), **close)
    lib.check(p.mean(), marginals(LOGITS, k), **close)
    lib.check(p.log_prob(lib.asarray(x)), log_prob(LOGITS, x, k), **close)
    lib.check(p.score(lib.asarray(x)), x - marginals(LOGITS, k), **close)
    lib.check(p.entropy(), entropy(LOGITS, k), **close)
    lib.check(backdraw.kl(p, Subset(lib.asarray(OTHER), k)), kl(LOGITS, OTHER, k), **close)
    values, probs = p.support()
    lib.check(values, np.broadcast_to(subsets(5, k)[:, None, :], (len(subsets(5, k)), 3, 5)), rtol=0)
    lib.check(probs, np.moveaxis(law(LOGITS, k), -1, 0), **close)
    assert p.batch_shape == (3,)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_relaxations(lib: Library, k: int, regularizer: str) -> None:
    y, (to_u,) = pulled(lib, lambda u: Subset(u, k).relax(u, 0.6, regularizer), lib.asarray(G), lib.asarray(LOGITS))
    lib.check(y, relaxed(LOGITS / 0.6, k, regularizer), rtol=1e-10, atol=1e-13)
    expected = finite_difference(lambda u: relaxed(u / 0.6, k, regularizer), LOGITS, G)
    lib.check(to_u, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_temperature_as_an_array(lib: Library, regularizer: str) -> None:
    t = np.asarray(0.6)

    def relax(u: Any, t: Any) -> Any:
        return Subset(u, 2).mean(temperature=t, regularizer=regularizer)

    y, (to_u, to_t) = pulled(lib, relax, lib.asarray(G), lib.asarray(LOGITS), lib.asarray(t))
    lib.check(y, relaxed(LOGITS / 0.6, 2, regularizer), rtol=1e-10, atol=1e-13)
    lib.check(to_u, finite_difference(lambda u: relaxed(u / t, 2, regularizer), LOGITS, G), rtol=1e-6, atol=1e-8)
    lib.check(to_t, finite_difference(lambda t: relaxed(LOGITS / t, 2, regularizer), t, G), rtol=1e-6, atol=1e-8)


def _functions(lib: Library) -> dict[str, tuple[Any, Any, list[np.ndarray], np.ndarray]]:
    x = subsets(5, 2)[[0, 7, 3]]
    return {
        "log_partition": (lambda l: Subset(l, 2).log_partition(), lambda l: log_partition(l, 2), [LOGITS], G1),
        "log_prob": (lambda l: Subset(l, 2).log_prob(lib.asarray(x)), lambda l: log_prob(l, x, 2), [LOGITS], G1),
        "entropy": (lambda l: Subset(l, 3).entropy(), lambda l: entropy(l, 3), [LOGITS], G1),
        "kl": (lambda p, q: backdraw.kl(Subset(p, 3), Subset(q, 3)), lambda p, q: kl(p, q, 3), [LOGITS, OTHER], G1),
        "probabilities of the support": (
            lambda l: Subset(l, 2).support()[1],
            lambda l: np.moveaxis(law(l, 2), -1, 0),
            [LOGITS],
            RNG.normal(size=(10, 3)),
        ),
    }


@pytest.mark.parametrize("name", _functions(Library(Backend.NUMPY)))
def test_gradients_by_finite_differences(lib: Library, name: str) -> None:
    f, plain, arrays, g = _functions(lib)[name]
    value, grads = pulled(lib, f, lib.asarray(g), *(lib.asarray(x) for x in arrays))
    lib.check(value, plain(*arrays), rtol=1e-11)
    for i, grad in enumerate(grads):

        def at(x: np.ndarray, i: int = i) -> np.ndarray:
            return np.asarray(plain(*arrays[:i], x, *arrays[i + 1 :]))

        lib.check(grad, finite_difference(at, arrays[i], g), rtol=1e-6, atol=1e-8)


def test_log_prob_in_x_and_with_samples_in_front(lib: Library) -> None:
    x, g = subsets(5, 2)[:, None, :] * np.ones((10, 3, 5)), RNG.normal(size=(10, 3))
    value, (to_l, to_x) = pulled(
        lib, lambda l, x: Subset(l, 2).log_prob(x), lib.asarray(g), lib.asarray(LOGITS), lib.asarray(x)
    )
    lib.check(value, log_prob(LOGITS, x, 2), rtol=1e-12)
    lib.check(to_l, (g[..., None] * (x - marginals(LOGITS, 2))).sum(0), rtol=1e-11, atol=1e-13)
    lib.check(to_x, g[..., None] * np.broadcast_to(LOGITS, x.shape), rtol=1e-14)


def test_log_prob_of_what_is_no_subset(lib: Library) -> None:
    x = np.asarray([[1.0, 0, 0, 0, 0], [0.5, 0.5, 1, 0, 0], [2, 0, 0, 0, 0], [1, 1, 1, -1, 0], [1, 1, 0, 0, 0]])
    l = np.broadcast_to(LOGITS[:1], (5, 5))
    value, (to_l,) = pulled(lib, lambda l: Subset(l, 2).log_prob(lib.asarray(x)), lib.asarray(np.ones(5)), lib.asarray(l))
    expected = [*[-np.inf] * 4, log_prob(l[4], x[4], 2)]
    lib.check(value, expected, rtol=1e-12)
    assert np.all(lib.to_numpy(to_l)[:4] == 0.0)
    assert np.any(lib.to_numpy(to_l)[4] != 0.0)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_second_derivatives(regularizer: str) -> None:
    import torch

    x = torch.tensor(LOGITS[:2, :4], requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda u: Subset(u, 2).mean(regularizer=regularizer), x)
    assert torch.autograd.gradgradcheck(lambda u: (Subset(u, 2).log_partition(), Subset(u, 2).entropy()), x)


@pytest.mark.needs("jax")
def test_forward_mode_under_jit() -> None:
    import jax

    l, v = jax.numpy.asarray(LOGITS[0]), jax.numpy.asarray(G[0])
    hessian = jax.jit(jax.hessian(lambda l: Subset(l, 2).log_partition().sum()))(l) @ v
    _, tangent = jax.jit(lambda l: jax.jvp(lambda l: Subset(l, 2).mean(), (l,), (v,)))(l)
    np.testing.assert_allclose(hessian, tangent, rtol=1e-10)


# ------------------------------------------------------------------------------------------------------ draws
@pytest.mark.parametrize("source", ["key", "own"])
@pytest.mark.parametrize("k", [2, 4])
def test_exact_draws(framework: Library, k: int, source: str) -> None:
    n = 20_000
    p = Subset(framework.asarray(LOGITS[0], "float32"), k)
    x = framework.to_numpy(backdraw.draw(p, shape=n, rng=KEY if source == "key" else 8))
    counts = np.asarray([(x == v).all(-1).sum() for v in subsets(5, k)])
    assert counts.sum() == n
    assert scipy.stats.chisquare(counts, n * law(LOGITS[0], k)).pvalue > 1e-6


@pytest.mark.parametrize("k", [2, 4])
def test_perturb_and_argmax_draws_without_replacement(k: int) -> None:
    n, w = 20_000, softmax(LOGITS[0])
    x = backdraw.gumbel_max(Subset(np.broadcast_to(LOGITS[0], (n, 5)), k), rng=KEY)
    sequential = np.zeros(len(subsets(5, k)))
    for j, v in enumerate(subsets(5, k)):
        for order in itertools.permutations(np.flatnonzero(v)):
            left = 1.0 - np.concatenate([[0.0], np.cumsum(w[list(order)])[:-1]])
            sequential[j] += np.prod(w[list(order)] / left)
    counts = np.asarray([(x == v).all(-1).sum() for v in subsets(5, k)])
    assert scipy.stats.chisquare(counts, n * sequential).pvalue > 1e-6
    assert scipy.stats.chisquare(counts, n * law(LOGITS[0], k)).pvalue < 1e-6


@pytest.mark.parametrize(("k", "shape"), [(3, ()), (7, (2, 1))])
def test_one_key_gives_one_draw_everywhere(lib: Library, k: int, shape: Any) -> None:
    logits = (3 * RNG.normal(size=(20, 9))).astype("float32")
    expected = backdraw.draw(Subset(logits, k), shape=shape, rng=KEY)
    assert np.all(expected.sum(-1) == k)
    lib.check(backdraw.draw(Subset(lib.asarray(logits, "float32"), k), shape=shape, rng=KEY), expected, rtol=0)


def test_score_function_estimators_are_unbiased() -> None:
    n, l, values = 50_000, LOGITS[0], subsets(5, 2)

    def f(x: np.ndarray) -> np.ndarray:
        return np.asarray((x @ np.asarray([1.0, 2.0, 4.0, 8.0, 16.0])) ** 2 % 11.0)

    expected = finite_difference(lambda l: law(l, 2) @ f(values), l, 1.0)
    exact = backdraw.value_and_grad(lambda l: backdraw.exact(f, Subset(l, 2)))(l)
    np.testing.assert_allclose(exact[1][0], expected, rtol=1e-7)
    for estimator in (backdraw.reinforce, backdraw.rloo):
        _, pullback = backdraw.vjp(lambda l, e=estimator: e(f, Subset(l, 2), rng=KEY), np.broadcast_to(l, (n, 5)))
        grads = pullback(np.ones(n))[0]
        assert np.all(np.abs(grads.mean(0) - expected) < 4.5 * grads.std(0) / n**0.5)
