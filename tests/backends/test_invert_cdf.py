"""The search of a cumulative sum, by chunks where there are many weights."""

import numpy as np
import pytest
from helpers import Library

RNG = np.random.default_rng(4)


@pytest.mark.parametrize("n", [1, 10, 63, 64, 65, 100, 129, 1000, 4099])
def test_index(lib: Library, n: int) -> None:
    weights = np.exp(3 * RNG.normal(size=(2, 30, n)))
    weights[:, ::3] *= RNG.random((2, 10, n)) < 0.2  # empty intervals
    weights[:, 0] = 0.0
    weights[0, 1], weights[0, 1, n // 2] = 0.0, 1.0
    u = RNG.random((2, 30, 1))
    u[:, 2], u[:, 3] = 2.0**-33, 1.0 - 2.0**-33
    edges = np.cumsum(weights, -1)
    expected = (edges <= u * edges[..., -1:]).sum(-1)
    index = lib.to_numpy(lib.be.invert_cdf(lib.asarray(weights), lib.asarray(u)))[..., 0]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(index[:, 0], n)


@pytest.mark.parametrize("n", [100, 1000])
def test_no_empty_interval_is_hit_at_an_edge(lib: Library, n: int) -> None:
    # Uniforms at, and next to, the edges of the intervals, whose sums differ in their last bits by their order.
    weights = RNG.random((200, n)) * (RNG.random((200, n)) < 0.1)
    weights[:, 0] = 0.1
    edges = np.cumsum(weights, -1)
    u = edges[np.arange(200), RNG.integers(0, n - 1, 200)] / edges[:, -1]
    u = np.clip(u * (1 + RNG.integers(-2, 3, 200) * 2.0**-52), 2.0**-33, 1 - 2.0**-33)
    index = lib.to_numpy(lib.be.invert_cdf(lib.asarray(weights), lib.asarray(u[:, None])))[..., 0]
    assert np.all(weights[np.arange(200), index] > 0.0)


def test_many_draws_of_one_row(lib: Library) -> None:
    weights, u = np.exp(RNG.normal(size=500)), RNG.random((40, 1))
    edges = np.cumsum(weights)
    index = lib.be.invert_cdf(lib.asarray(weights), lib.asarray(u))
    np.testing.assert_array_equal(lib.to_numpy(index)[..., 0], np.searchsorted(edges, u[:, 0] * edges[-1], side="right"))
