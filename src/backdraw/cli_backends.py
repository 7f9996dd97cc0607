"""``backdraw backends``: what computes here."""

import importlib.metadata
import sys
import warnings
from typing import Any

from backdraw.backend import adapter
from backdraw.cli_checks import backends
from backdraw.errors import BackendError


def found() -> str:
    """Return a line for each backend: its version and devices, or what to install."""
    rows = [("backend", "version", "devices"), *(_row(name) for name in backends())]
    return "\n".join(f"{name:<9} {version:<12} {devices}".rstrip() for name, version, devices in rows)


def _row(name: str) -> tuple[str, str, str]:
    try:
        be = adapter(name).backend
    except BackendError as error:
        return name, "not found", str(error).rpartition(". ")[2]
    return name, _version(name), ", ".join(_devices(be.xp))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # its wheel has another name
        return str(getattr(sys.modules.get(name), "__version__", "?"))


def _devices(xp: Any) -> list[str]:
    """Return the devices that hold numbers, as the Array API's inspection lists them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # to look for devices of every kind is not to ask for them
            devices = xp.__array_namespace_info__().devices()
    except Exception as error:  # a driver may fail in any way
        return [f"none: {str(error).splitlines()[0] if str(error) else type(error).__name__}"]
    return [str(d) for d in devices if d is not None and str(d) != "meta"]
