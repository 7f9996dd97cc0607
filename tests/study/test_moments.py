"""The statistics of repeated gradients: those of all at once, and intervals and bounds that hold as often as they say."""

import dataclasses
import math

import numpy as np
import pytest

from backdraw.study import moments


def exact(target: np.ndarray) -> moments.Target:
    """Make a target without an error."""
    return moments.Target(target, np.zeros_like(target), target, np.zeros_like(target))


def test_statistics_are_those_of_all_repeats() -> None:
    """The sums gathered block by block agree with NumPy's of all the gradients at once."""
    grads = np.random.default_rng(4).exponential(size=(250, 3)) * np.asarray([1.0, 0.3, 3.0])
    target = np.asarray([0.1, 0.0, -0.2])
    m = moments.Moments(target)
    for part in (grads[:100], grads[100:200], grads[200:]):
        m.add(part)
    np.testing.assert_allclose(m.mean, grads.mean(0))
    np.testing.assert_allclose(m.variances, grads.var(0, ddof=1))
    truth = exact(target)
    misses = ((grads - target) ** 2).sum(1)
    assert moments.error(m, truth).value == pytest.approx(misses.mean())
    assert m.miss.error == pytest.approx(misses.std(ddof=1) / 250**0.5)
    cosine = moments.cosine(m, truth)
    assert cosine.value == pytest.approx(grads.mean(0) @ target / np.linalg.norm(grads.mean(0)) / np.linalg.norm(target))
    assert cosine.low <= cosine.value <= cosine.high


def test_intervals_cover() -> None:
    """Of 95 % intervals of the variance, the error and the median, about 95 % hold the truth; those of the bias more."""
    rng = np.random.default_rng(0)
    hits = np.zeros(4)
    for _ in range(400):
        m = moments.Moments(np.zeros(2))
        for _ in range(5):
            m.add(rng.normal(0.1, 1.0, size=(100, 2)))
        truth = exact(np.zeros(2))
        times = moments.median(list(rng.exponential(size=20)))
        found = (m.variance, moments.error(m, truth), times, moments.bias(m, truth)[0])
        hits += [e.low <= exact <= e.high for e, exact in zip(found, (2.0, 2.02, math.log(2), 0.02**0.5), strict=True)]
    assert np.all(hits[:3] / 400 > 0.91)
    assert np.all(hits[:3] / 400 < 0.99)
    assert hits[3] / 400 > 0.95


def test_z_is_a_normal_quantile() -> None:
    """Student's law is carried over to the normal one; of many coordinates the bound rises as it must."""
    scipy_stats = pytest.importorskip("scipy.stats")
    for n, t in ((10, 2.5), (100, 4.0)):
        m = moments.Moments(np.zeros(1), count=n, mean=np.asarray([t / n**0.5]), squares=np.asarray([n - 1.0]))
        z = moments.largest_z(m, exact(np.zeros(1)), 0.0)
        assert z == pytest.approx(scipy_stats.norm.isf(scipy_stats.t.sf(t, n - 1)), rel=0.01)
    assert moments.bound(1) == pytest.approx(4.5)
    assert 50 * scipy_stats.norm.sf(moments.bound(50)) == pytest.approx(scipy_stats.norm.sf(4.5))
    assert moments.bound(10_000) == moments.bound(50)


def test_rare_gradients_among_many_raise_no_flag() -> None:
    """Coordinates that are not zero once in 300 repeats: one by one they look biased, their combinations do not."""
    rng = np.random.default_rng(1)
    grads = 300.0 * (rng.uniform(size=(100, 2000)) < 1 / 300)
    truth = np.ones(2000)
    m, probed = moments.Moments(truth), moments.Moments(moments.probes(truth[None])[0])
    m.add(grads)
    probed.add(moments.probes(grads))
    assert np.any(m.variances == 0)
    probes = moments.probes(truth[None])[0]
    target = moments.Target(truth, np.zeros(2000), probes, np.zeros(50))
    assert moments.largest_z(probed, target, 0.0) < moments.bound(2000)
    assert moments.largest_z(probed, dataclasses.replace(target, probes=probes + 50.0), 0.0) > moments.bound(2000)


def test_directions_are_cosines() -> None:
    rng = np.random.default_rng(2)
    target, grads = np.asarray([1.0, 2.0, -0.5]), rng.normal((1.0, 1.5, 0.0), 1.0, size=(500, 3))
    grads[0] = 0.0  # points nowhere
    m = moments.Moments(target)
    for block in np.split(grads, 5):
        m.add(block)
    with np.errstate(invalid="ignore"):
        cosine = lambda to: np.nan_to_num(grads @ to / np.linalg.norm(grads, axis=1)) / np.linalg.norm(to)  # noqa: E731
        each, around = cosine(target), cosine(grads.mean(axis=0))
    found = moments.direction(m)
    assert found.value == pytest.approx(each.mean())
    assert found.high - found.value == pytest.approx(moments.WIDTH * each.std(ddof=1) / 500**0.5)
    found = moments.scatter(m)
    assert found.value == pytest.approx(1.0 - around.mean())
    assert found.high - found.value > moments.WIDTH * around.std() / 500**0.5
    lost = moments.Moments(np.full(3, np.nan))
    lost.add(grads)
    assert all(math.isnan(e.value) for e in (moments.direction(lost), moments.error(lost, exact(lost.target))))
