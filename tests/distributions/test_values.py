"""The values that discrete distributions are asked about: of which shapes, types and frameworks."""

import numpy as np
import pytest
from helpers import Library
from latents import KEY, LATENTS, logits

import backdraw

NAMES = [name for name in LATENTS if name not in ("normals", "permutation")]  # one is continuous, one has no log_prob


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["bool", "int64", "int8", "float32"])
def test_any_type_of_ones_and_zeros(lib: Library, name: str, dtype: str) -> None:
    p = LATENTS[name][0](lib.asarray(logits(name)), lib)
    x = backdraw.draw(p, shape=(4,), rng=KEY)
    same = lib.xp.astype(x, getattr(lib.xp, dtype))
    lib.check(p.log_prob(same), lib.to_numpy(p.log_prob(x)))
    expected, found = p.score(x), p.score(same)
    both = zip(expected, found, strict=True) if isinstance(expected, tuple) else [(expected, found)]
    for a, b in both:
        lib.check(b, lib.to_numpy(a), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_bad_values(lib: Library, name: str) -> None:
    p = LATENTS[name][0](lib.asarray(logits(name)), lib)
    x = backdraw.draw(p, rng=KEY)
    for f in (p.log_prob, p.score):
        with pytest.raises(ValueError, match=r"x: expected the shape .*, or more axes in front of it, got"):
            f(x[..., :2])
        with pytest.raises(TypeError, match="x: expected an array, got list"):
            f([1.0])
        with pytest.raises(TypeError, match=r"x: expected real values, got .*complex"):
            f(lib.xp.astype(x, lib.xp.complex64))


def test_values_of_another_framework() -> None:
    torch = pytest.importorskip("torch")
    for p, x in ((backdraw.Categorical(np.zeros(3)), torch.zeros(3)), (backdraw.Categorical(torch.zeros(3)), np.zeros(3))):
        for f in (p.log_prob, p.score):
            with pytest.raises(TypeError, match="x: all arrays must belong to one framework"):
                f(x)
