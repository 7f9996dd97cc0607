"""What holds of every draw of categories, whatever the logits, their shape, axis and mask: cases that hypothesis looks for."""

import inspect
from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, pulled, suits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import backdraw
from backdraw.estimators import ESTIMATORS

P = backdraw.Categorical(np.zeros(2))
DRAWS = [e.name for e in ESTIMATORS.values() if e.kind == "draw" and e.gradient != "none" and suits(e, P)]
KEY = backdraw.key(7)


@st.composite
def rows(draw: Any) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Logits up to the ends of their dtype, -inf among them, with an axis, a mask and a cotangent."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(npst.array_shapes(max_dims=3, max_side=4))
    width, every = np.dtype(dtype).itemsize * 8, st.nothing()  # no two elements are the same by design
    ends = st.sampled_from([0.0, -np.inf, float(np.finfo(dtype).max), float(np.finfo(dtype).min), 1e3, -1e3])
    logits = draw(npst.arrays(dtype, shape, elements=ends | st.floats(-20, 20, width=width), fill=every))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    mask = draw(npst.arrays(bool, shape, elements=st.sampled_from([True, True, False]), fill=every))
    cotangent = draw(npst.arrays(dtype, shape, elements=st.floats(-10, 10, width=width), fill=every))
    return logits, axis, mask, cotangent


def check_draw(lib: Library, name: str, case: tuple[np.ndarray, int, np.ndarray, np.ndarray]) -> None:
    """Draw once, and look at the value and the gradient."""
    logits, axis, mask, cotangent = case
    entry, where = ESTIMATORS[name], lib.asarray(mask)
    noise = {"rng": KEY} if "rng" in inspect.signature(entry.function).parameters else {}
    y, (grad,) = pulled(
        lib, lambda u: entry(backdraw.Categorical(u, axis, where), **noise), lib.asarray(cotangent), lib.asarray(logits)
    )
    tiny = 32 * float(np.finfo(logits.dtype).eps)
    live = mask & (logits > -np.inf)
    lib.check(y, lib.to_numpy(y).astype(logits.dtype))
    lib.check(grad, lib.to_numpy(grad).astype(logits.dtype))
    value, slope = lib.to_numpy(y).astype(np.float64), lib.to_numpy(grad).astype(np.float64)
    assert np.all(value[~live] == 0.0)
    assert np.all(value >= 0.0)
    np.testing.assert_allclose(value.sum(axis), live.any(axis), rtol=tiny)
    if entry.forward == "hard":
        assert np.all((value == 0.0) | (value == 1.0))
    assert np.all(np.isfinite(slope))
    assert np.all(slope[~live] == 0.0)
    if name != "perturbed_argmax":  # an estimate by the score of the noise on each logit: it adds up to 0 in the mean alone
        np.testing.assert_allclose(slope.sum(axis), 0.0, atol=tiny * max(1.0, np.abs(slope).max()) * logits.shape[axis])


@pytest.mark.parametrize("name", DRAWS)
def test_any_draw_of_categories(lib: Library, name: str) -> None:
    slow = lib.backend is Backend.JAX  # every shape is compiled

    @settings(max_examples=3 if slow else 40, deadline=None, derandomize=True, database=None)
    @given(case=rows())
    def check(case: Any) -> None:
        check_draw(lib, name, case)

    check()
