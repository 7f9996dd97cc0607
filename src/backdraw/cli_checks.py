"""What the commands check before they work, and how they say in one line what is wrong."""

import difflib
import importlib.metadata
import platform
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from backdraw import __version__
from backdraw.backend import GROUP, OURS


def backends() -> list[str]:
    """Return the names of the backends, our own first, installed or not."""
    return [*OURS, *sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)} - {*OURS})]


def versions(backend: str) -> dict[str, str]:
    """Return the versions of what computes with a backend."""
    known = {"python": platform.python_version(), "backdraw": __version__, "numpy": importlib.metadata.version("numpy")}
    version = getattr(sys.modules.get(backend), "__version__", None)
    return known if version is None else known | {backend: str(version)}


def check_name(option: str, name: str, known: Iterable[str]) -> None:
    """End the command if a name is not known."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        fail(f"{option}: expected one of {', '.join(known)}, got {name!r}{hint}")


def check_writable(out: Path) -> None:
    """Make the folder, and end the command if it cannot be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        fail(f"out: cannot write to {str(out)!r}: {error.strerror}")


def fail(message: str) -> NoReturn:
    """Say in one line what is wrong with the command line, and end."""
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(2)
