"""Sinkhorn's iteration to a tolerance: where each matrix stops, the gradient there, and what bounds it."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, finite_difference, pulled
from matchings import RNG, L, normalised

from backdraw import Permutation


def needed(u: np.ndarray, t: float, tolerance: float) -> int:
    """The iterations after which the rows of a matrix first add up to 1 within a tolerance; the columns always do."""
    return next(n for n in range(1, 1000) if np.all(np.abs(normalised(u, t, n).sum(-1) - 1.0) <= tolerance))


@pytest.mark.parametrize("high", [0.0, 400.0])  # products, and logarithms
def test_each_matrix_stops_within_the_tolerance(lib: Library, high: float) -> None:
    u, t, tolerance = np.stack([0.1 * L[0], L[1], high * np.eye(4)]), 0.5, 1e-3
    counts = [needed(x, t, tolerance) for x in u]
    assert counts[-1] == 1
    assert len({*counts}) == 3
    g = RNG.normal(size=u.shape)

    def f(l: Any) -> Any:
        return Permutation(l, 60, tolerance=tolerance).relax(l, t)

    y, (grad,) = pulled(lib, f, lib.asarray(g), lib.asarray(u))
    lib.check(y, np.stack([normalised(x, t, n) for x, n in zip(u, counts, strict=True)]), rtol=1e-9, atol=1e-200)
    for x, n, c, found in zip(u, counts, g, lib.to_numpy(grad), strict=True):
        exact = finite_difference(lambda l, n=n: normalised(l, t, n), x, c, step=1e-6)  # type: ignore[misc]
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


def test_iterations_bound_the_tolerance(lib: Library) -> None:
    u, g = np.stack([L[0], np.where(np.eye(4) == 1, -np.inf, L[1])]), RNG.normal(size=L.shape)
    found = pulled(lib, lambda l: Permutation(l, 3, 1e-12).relax(l, 0.2), lib.asarray(g), lib.asarray(u))
    plain = pulled(lib, lambda l: Permutation(l, 3).relax(l, 0.2), lib.asarray(g), lib.asarray(u))
    for a, b in ((found[0], plain[0]), (found[1][0], plain[1][0])):
        lib.check(a, lib.to_numpy(b), rtol=1e-12, atol=1e-14)


def test_what_a_tolerance_leaves_alone(lib: Library) -> None:
    u = np.stack([L[0], L[0], L[0]])
    u[1], u[2, 0, 1] = -np.inf, np.nan
    y, (grad,) = pulled(lib, lambda l: Permutation(l, 50, 0.1).relax(l), lib.asarray(np.ones_like(u)), lib.asarray(u))
    assert np.all(lib.to_numpy(y)[1] == 0)
    assert np.all(lib.to_numpy(grad)[1] == 0)
    assert np.all(np.isnan(lib.to_numpy(y)[2]))
    lib.check(y[0, ...], normalised(L[0], 1.0, needed(L[0], 1.0, 0.1)), rtol=1e-10)
    assert Permutation(lib.asarray(L)).iterations == 20
    assert Permutation(lib.asarray(L), tolerance=1e-3).iterations == 200


def test_a_loop_ends_where_nothing_changes(lib: Library) -> None:
    xp = lib.xp

    def f(n: Any, x: Any) -> tuple[Any, Any]:
        return xp.where(n < 3.0, n + x, n), n

    last, seen = lib.be.scan(f, lib.asarray(0.0), lib.asarray(np.ones(9)), until=lambda n: n >= 3.0)
    lib.check(last, 3.0)
    lib.check(seen, np.minimum(np.arange(9.0 if lib.backend is Backend.JAX else 3.0), 3.0))
