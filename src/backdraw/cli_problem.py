"""The problem that ``backdraw study`` is given: a built-in one by its name, or a function in a file of the user's."""

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from backdraw.cli_checks import check_name, fail
from backdraw.errors import BackdrawError
from backdraw.study.problems import PROBLEMS, Made, Problem


def maker(problem: str) -> tuple[Callable[[Any], Made], Path | None, Problem | None]:
    """Return what makes f and a distribution of a namespace, and the file that it is in or the built-in problem."""
    name, _, function = problem.rpartition(":")
    if not name.endswith(".py"):
        if problem.endswith(".py"):
            fail(f"problem: expected path/to/file.py:function, got {problem!r}; did you mean {problem}:make_problem?")
        check_name("problem", problem, PROBLEMS)
        return PROBLEMS[problem].make, None, PROBLEMS[problem]
    path = Path(name).resolve()
    if not path.is_file():
        fail(f"problem: there is no file {name!r}")
    with their_errors(path):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))  # it may import its neighbours, as a script may
        spec.loader.exec_module(module)
    check_name("problem", function, [n for n, value in inspect.getmembers(module, callable) if not n.startswith("_")])
    return getattr(module, function), path, None


@contextlib.contextmanager
def their_errors(path: Path | None) -> Any:
    """Show an error of a user's file from where the file comes in."""
    try:
        yield
    except Exception as error:
        if path is None:
            raise
        _tell(error, path)


def _tell(error: Exception, path: Path) -> NoReturn:
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if Path(frame.filename) == path), None)
    if first is None and isinstance(error, BackdrawError):
        fail(str(error))
    if first is None and not isinstance(error, SyntaxError):
        raise error
    shown = [] if first is None else ["Traceback (most recent call last):\n", *traceback.format_list(frames[first:])]
    print("".join([*shown, *traceback.format_exception_only(error)]), end="", file=sys.stderr)
    raise SystemExit(1)
