"""Which libraries the tests run on, and the fixtures that hand them out."""

import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("helpers")

from helpers import BACKENDS, GROUPS, Backend, Library  # noqa: E402

if "jax" in GROUPS:
    import jax

    jax.config.update("jax_enable_x64", True)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    config.addinivalue_line("markers", "needs(*groups): skipped unless all of these libraries are being tested")
    config.addinivalue_line("markers", "several: takes several libraries at once, or compares them; set by itself")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests whose libraries are not being tested; mark those that are about several."""
    for item in items:
        compares = any(word in item.name for word in ("agrees", "one_loss_curve"))
        if compares or any(len(mark.args) > 1 for mark in item.iter_markers("needs")):
            item.add_marker(pytest.mark.several)
        for mark in item.iter_markers("needs"):
            absent = [name for name in mark.args if name not in GROUPS]
            if absent:
                item.add_marker(pytest.mark.skip(reason=f"not testing on {', '.join(absent)}"))


def pytest_report_header() -> str:
    """Say which libraries are tested."""
    return f"backends: {', '.join(b.value for b in BACKENDS)}"


@pytest.fixture(autouse=True)
def data_of_its_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test the same numbers, on each library and whichever tests ran before it."""
    if isinstance(getattr(request.module, "RNG", None), np.random.Generator):
        seed = zlib.crc32(request.function.__name__.encode())
        monkeypatch.setattr(request.module, "RNG", np.random.default_rng(seed))


class ReadOnly:
    """A namespace whose results cannot be written to: a core that wrote in place would fail on it."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._xp, name)
        if not callable(value) or isinstance(value, type):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            out = value(*args, **kwargs)
            if isinstance(out, np.ndarray):
                out.flags.writeable = False
            return out

        return call


@contextmanager
def restricted(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """Put the restrictions of a backend in force."""
    library = Library(backend)
    context: Any = nullcontext()
    if backend is Backend.READONLY:
        monkeypatch.setattr(library.be, "xp", ReadOnly(library.xp))
    elif backend.group == "strict":
        from array_api_strict import ArrayAPIStrictFlags

        plain = backend is not Backend.STRICTEST
        context = ArrayAPIStrictFlags(
            api_version="2024.12", boolean_indexing=plain, data_dependent_shapes=plain, enabled_extensions=()
        )
    with context:
        yield library


@pytest.fixture(params=BACKENDS, ids=lambda b: b.value)
def lib(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """Each array library in turn, under its restrictions."""
    with restricted(request.param, monkeypatch) as library:
        yield library


@pytest.fixture(params=[b for b in BACKENDS if not b.differentiates], ids=lambda b: b.value)
def taped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """Each array library without automatic differentiation, which uses the tape."""
    with restricted(request.param, monkeypatch) as library:
        yield library


@pytest.fixture(params=sorted(GROUPS & {"numpy", "torch", "jax", "cupy"}))
def framework(request: pytest.FixtureRequest) -> Library:
    """Each framework that has an adapter of its own."""
    return Library(Backend(request.param))


def has_cuda(group: str) -> bool:
    """Whether a framework is installed and sees a CUDA device."""
    if group not in GROUPS and group != "cupy":
        return False
    try:
        if group == "torch":
            import torch

            return bool(torch.cuda.is_available())
        if group == "jax":
            import jax

            return bool(jax.devices("gpu"))
        import cupy

        return bool(cupy.cuda.runtime.getDeviceCount())
    except (ImportError, RuntimeError):
        return False


@pytest.fixture(params=["torch", "jax", "cupy"])
def gpu(request: pytest.FixtureRequest) -> Library:
    """Each framework on a CUDA device."""
    if not has_cuda(request.param):
        pytest.skip("no CUDA device")
    return Library(Backend(request.param), cuda=True)
