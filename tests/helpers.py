"""The array libraries that the tests run on, how results are compared, and independent references."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np

ROOT = Path(__file__).parent.parent


class Backend(Enum):
    """A way to run the tests: an array library, or one under a further restriction."""

    NUMPY = "numpy"
    READONLY = "numpy-readonly"
    STRICT = "strict"
    DEVICE1 = "strict-device1"
    STRICTEST = "strictest"
    TORCH = "torch"
    JAX = "jax"
    CUPY = "cupy"

    @property
    def group(self) -> str:
        """The name that BACKDRAW_TEST_BACKENDS knows it by."""
        return self.value.partition("-")[0].replace("strictest", "strict")

    @property
    def differentiates(self) -> bool:
        """Whether the framework has automatic differentiation of its own."""
        return self in (Backend.TORCH, Backend.JAX)


MODULES = {"numpy": "numpy", "strict": "array_api_strict", "torch": "torch", "jax": "jax", "cupy": "cupy"}
VARIABLE = "BACKDRAW_TEST_BACKENDS"


def chosen_groups() -> set[str]:
    """Read BACKDRAW_TEST_BACKENDS; the default is whatever can be imported, CuPy excepted."""
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    unknown = sorted(set(named) - set(MODULES))
    if unknown:
        raise RuntimeError(f"{VARIABLE}: expected a comma list of {', '.join(MODULES)}, got {', '.join(unknown)}")
    missing = [name for name in named if importlib.util.find_spec(MODULES[name]) is None]
    if missing:
        raise RuntimeError(f"{VARIABLE} names {', '.join(missing)}, which cannot be imported here")
    return set(named) or {name for name in MODULES if name != "cupy" and importlib.util.find_spec(MODULES[name])}


GROUPS = chosen_groups()
BACKENDS = [b for b in Backend if b.group in GROUPS]


@dataclass(frozen=True)
class Library:
    """What a test needs of an array library."""

    backend: Backend
    cuda: bool = False
    dtypes: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        strict = ("float32", "float64")
        full = {"numpy": ("float16", *strict), "cupy": ("float16", *strict), "strict": strict}
        object.__setattr__(self, "dtypes", full.get(self.backend.group, ("float16", "bfloat16", *strict)))

    @cached_property
    def xp(self) -> Any:
        """The namespace that its arrays belong to."""
        match self.backend.group:
            case "numpy":
                import array_api_compat.numpy as xp
            case "strict":
                import array_api_strict as xp
            case "torch":
                import array_api_compat.torch as xp
            case "jax":
                import jax.numpy as xp
            case _:
                import array_api_compat.cupy as xp
        return xp

    @cached_property
    def device(self) -> Any:
        """The device that `asarray` puts arrays on."""
        match self.backend:
            case Backend.DEVICE1:
                return self.xp.Device("device1")
            case Backend.STRICT | Backend.STRICTEST:
                return self.xp.Device("CPU_DEVICE")
            case Backend.TORCH:
                return self.xp.device("cuda" if self.cuda else "cpu")
            case Backend.JAX:
                import jax

                return jax.devices("gpu" if self.cuda else "cpu")[0]
            case Backend.CUPY:
                return self.xp.cuda.Device(0)
        return "cpu"

    @property
    def be(self) -> Any:
        """The backend that serves its arrays."""
        from backdraw.backend import backend_of

        return backend_of(self.asarray(0.0))

    def dtype(self, name: str) -> Any:
        """The library's dtype of a name."""
        return getattr(self.xp, name)

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """Make an array of NumPy values; floats are float64 unless told."""
        x = np.asarray(x)
        wanted = self.dtype(dtype or x.dtype.name)
        if self.backend is Backend.READONLY:
            x = np.array(x, dtype=wanted)
            x.flags.writeable = False
            return x
        if self.backend is Backend.CUPY:
            return self.xp.asarray(x, dtype=wanted)
        if self.backend is Backend.TORCH:
            return self.xp.asarray(np.array(x), dtype=wanted, device=self.device)  # never shared memory
        return self.xp.asarray(x, dtype=wanted, device=self.device)

    def to_numpy(self, x: Any) -> np.ndarray:
        """Copy the values to NumPy; bfloat16, which NumPy lacks, to float32."""
        if self.backend.group == "strict":
            return np.array(x._array)  # also from a device that NumPy must not read
        if self.backend is Backend.TORCH:
            x = x.detach().cpu()
            return np.array(x.float().numpy() if x.dtype == self.xp.bfloat16 else x.numpy())
        if self.backend is Backend.CUPY:
            return np.array(x.get())
        out = np.array(x)
        return out.astype(np.float32) if out.dtype.name == "bfloat16" else out

    def check(
        self, actual: Any, expected: Any, *, dtype: str | None = None, rtol: float | None = None, atol: float = 0.0
    ) -> None:
        """Compare namespace, dtype, shape and device with what the library should give, then the values."""
        expected = np.asarray(expected)
        name = dtype or expected.dtype.name
        assert array_api_compat.array_namespace(actual) is self.xp
        assert actual.dtype == self.dtype(name), f"dtype {actual.dtype}, expected {name}"
        assert tuple(actual.shape) == expected.shape, f"shape {tuple(actual.shape)}, expected {expected.shape}"
        assert self._on_device(actual), f"device {actual.device}, expected {self.device}"
        rtol = 4.0 * eps(name) ** 0.5 if rtol is None else rtol
        values = self.to_numpy(actual)
        wide = values.dtype if values.dtype.kind in "biu" else np.float64
        np.testing.assert_allclose(values.astype(wide), expected.astype(wide), rtol=rtol, atol=atol)

    def _on_device(self, x: Any) -> bool:
        if self.backend is Backend.TORCH:
            return bool(x.device.type == self.device.type)
        return bool(array_api_compat.device(x) == self.device)


def eps(dtype: str) -> float:
    """The relative precision of a dtype; 0 for those that are exact."""
    return {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}.get(dtype, 0.0)


# ------------------------------------------------------------------------------------------- independent references
def softmax(x: Any, axis: int = -1) -> np.ndarray:
    """Softmax in plain NumPy; a row of -inf alone gives zeros."""
    x = np.asarray(x, np.float64)
    top = x.max(axis=axis, keepdims=True)
    e = np.exp(x - np.where(np.isfinite(top), top, 0.0))
    total = e.sum(axis=axis, keepdims=True)
    return np.asarray(e / np.where(total == 0.0, 1.0, total))


def softmax_vjp(p: np.ndarray, g: np.ndarray, axis: int = -1) -> np.ndarray:
    """The cotangent of the logits at softmax(logits) = p."""
    return np.asarray(p * (g - (p * g).sum(axis=axis, keepdims=True)))


def sigmoid(x: Any) -> np.ndarray:
    """Logistic function in plain NumPy."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64))))


def finite_difference(f: Callable[[np.ndarray], Any], x: np.ndarray, g: Any, step: float = 1e-6) -> np.ndarray:
    """Gradient of ``sum(g * f(x))`` by central differences."""
    x = np.asarray(x, np.float64)
    out = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        out[place] = np.sum(np.asarray(g) * (np.asarray(f(up)) - np.asarray(f(down)))) / (2 * step)
    return out


def suits(entry: Any, p: Any) -> bool:
    """Whether a distribution is of the kind that an estimator states it is for, and has what it needs."""
    return entry.domain in ("both", "discrete" if p.discrete else "continuous") and all(hasattr(p, n) for n in entry.needs)


def call_anyhow(entry: Any, dist: Any) -> Any:
    """Call an estimator of whatever kind with no options but those it cannot do without."""
    if entry.kind == "draw":
        return entry(dist)
    return entry(lambda x: x, dist, **({"surrogate": lambda x: x} if entry.name == "relax" else {}))


def pulled(lib: Library, f: Callable[..., Any], g: Any, *arrays: Any) -> tuple[Any, tuple[Any, ...]]:
    """``f(*arrays)`` and the gradients of a cotangent: under jit on JAX, where operation by operation takes long."""
    from backdraw import vjp

    def both(*arrays: Any) -> tuple[Any, tuple[Any, ...]]:
        value, pullback = vjp(f, *arrays)
        return value, tuple(pullback(g))

    if lib.backend is Backend.JAX:
        import jax

        return jax.jit(both)(*arrays)
    return both(*arrays)


def run_python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter that sees the same modules; return what it prints, or fail with its error."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "backends"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
