"""``backdraw study``: estimators measured on a problem."""

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import sys
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from backdraw import random
from backdraw.backend import adapter
from backdraw.cli_checks import backends, check_name, check_writable, fail, versions
from backdraw.errors import BackdrawError
from backdraw.estimators import ESTIMATORS
from backdraw.study.curves import Curves
from backdraw.study.measure import entry_of, measure
from backdraw.study.problems import PROBLEMS, Made, Problem, check_made
from backdraw.study.report import Report
from backdraw.study.spread import over_cluster, over_processes
from backdraw.study.training import Training, train

PROBLEM = "toy-kl"
REPEATS, TRAININGS = 1000, 20

STUDY = """Measure which estimator serves a problem.

Every estimator that the problem's distribution can serve gives many independent gradients. They are compared with the
exact gradient where it can be enumerated, and with a long unbiased run where not: bias, variance, mean squared error,
cosine to the true gradient, time. An estimator that is stated to be unbiased and is found not to be is flagged.

Written to the folder: `study.png`, `study.html` (one page, needs no network), `study.json`. Ctrl-C keeps what has been
measured so far.

With `--train`, the distribution's own parameters are trained with each estimator instead, in several trainings at a
time; written are `training.png` with the curves and the variance of the gradients on the way, `training-grid.png` with a
panel each for the settings that a problem names, and `training.json`. The problems that can be trained say so in `--list`.

Your own problem is a function in a file, `make_problem(xp)`: it takes an Array API namespace, and returns f and a
distribution.

Examples:

- `backdraw study`
- `backdraw study --problem shared-bernoulli --estimator rloo --estimator rloo:samples=8`
- `backdraw study --problem mine.py:make_problem --backend torch`
- `backdraw study --problem toy-kl --train --workers -1`
"""


@dataclass(frozen=True)
class Options:
    """What the command was given."""

    problem: str
    estimators: list[str]
    backend: str
    repeats: int | None
    seed: int
    out: Path
    workers: int = 1
    scheduler: str = ""
    train: bool = False
    steps: int | None = None


def run(options: Options) -> None:
    """Check everything, measure, print and write."""
    from rich.console import Console
    from threadpoolctl import threadpool_limits

    check_name("backend", options.backend, backends())
    for name in options.estimators:
        check_name("estimator", name.partition(":")[0], sorted(ESTIMATORS))
    make, path, problem = _maker(options.problem)
    training = _training(options, problem)
    extra, reference = (problem.estimators, problem.reference) if problem else ((), Problem.reference)
    shared = problem is not None and problem.shared
    usual = (training.estimators or ESTIMATORS) if training else (*ESTIMATORS, *extra)
    repeats = options.repeats if options.repeats is not None else TRAININGS if training else REPEATS
    try:
        entries = [entry_of(name) for name in options.estimators or usual]
        key, be, spread = random.key(options.seed), adapter(options.backend).backend, _spread(options)
    except BackdrawError as error:
        fail(str(error))
    if repeats < 2:
        fail(f"repeats: expected 2 or more, got {repeats}")
    check_writable(options.out)
    console = Console(highlight=False, soft_wrap=True)
    found: Report | Curves
    # One thread, so that the times are those of the work; float64, so that a seed gives one report on every backend.
    with _their_errors(path), be.double(), threadpool_limits(1), _bar(console, training) as progress:
        f, dist = check_made(make(be.xp), options.problem)
        more: dict[str, Any] = {"rng": key, "progress": progress, "spread": spread, "problem": options.problem}
        try:
            if training is not None:
                found = train(f, dist, training, entries, repeats, **more)
            else:
                found = measure(f, dist, entries, repeats, reference=reference, shared=shared, **more)
        except BackdrawError as error:
            fail(str(error))
    console.print(found.table(), markup=False)
    if isinstance(found, Report) and problem is not None and problem.directions:
        console.print(f"\n{found.directions()}\n", markup=False)
    _conclude(console, found, problem)
    names = write(options.out, found, {"seed": options.seed, "versions": versions(options.backend)})
    console.print(f"written to {options.out}: {', '.join(names)}", markup=False)
    if found.interrupted:
        raise SystemExit(130)


def _training(options: Options, problem: Problem | None) -> Training | None:
    """Return how the problem is trained, if that is asked for."""
    if not options.train:
        if options.steps is not None:
            fail("steps: only with --train")
        return None
    if problem is None or problem.training is None:
        known = ", ".join(name for name, p in PROBLEMS.items() if p.training is not None)
        fail(f"train: expected one of the problems {known}, got {options.problem!r}")
    if options.steps is not None and options.steps < 1:
        fail(f"steps: expected 1 or more, got {options.steps}")
    return problem.training if options.steps is None else dataclasses.replace(problem.training, steps=options.steps)


def _spread(options: Options) -> Any:
    if options.scheduler:
        return over_cluster(options.scheduler)
    return map if options.workers == 1 else over_processes(options.workers)


def write(out: Path, found: Report | Curves, more: dict[str, Any]) -> list[str]:
    """Write the files, each whole or not at all, and return their names."""
    from backdraw.study import pictures

    data = json.dumps(json.loads(found.to_json()) | more, indent=2) + "\n"
    if isinstance(found, Curves):
        names = ["training.png", *(["training-grid.png"] if found.grid else []), "training.json"]
        found.plot(out / names[0])
        if found.grid:
            found.plot_grid(out / names[1])
    else:
        names, page = ["study.png", "study.html", "study.json"], found.to_html()
        found.plot(out / names[0])
        pictures.atomically(out / names[1], lambda temporary: temporary.write_text(page, encoding="utf-8"))
    pictures.atomically(out / names[-1], lambda temporary: temporary.write_text(data, encoding="utf-8"))
    return names


def listed() -> str:
    """Return the built-in problems with their sources."""
    wide = max(map(len, PROBLEMS)) + 2
    lines = []
    for p in PROBLEMS.values():
        said = textwrap.wrap(f"{p.summary}: {p.source}{'; --train' if p.training else ''}", 100 - wide)
        lines += [f"{label:<{wide}}{line}" for label, line in zip((p.name, *("",) * len(said)), said, strict=False)]
    return "\n".join(lines)


def _conclude(console: Any, found: Report | Curves, problem: Problem | None) -> None:
    remarks = (problem.remark, problem.training.remark if problem.training else "") if problem else ("", "")
    sentences = [remark] if (remark := remarks[isinstance(found, Curves)]) else []
    if isinstance(found, Report):
        with contextlib.suppress(BackdrawError):  # where nothing was measured to the end, there is no best
            sentences.append(f"Best: {found.best().reason}")
    for sentence in sentences:
        console.print("\n".join(textwrap.wrap(sentence, 100, subsequent_indent="  ")), markup=False)


@contextlib.contextmanager
def _bar(console: Any, training: Training | None) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<23}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("estimators" if training else "blocks"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("training" if training else "the true gradient", total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)


# ------------------------------------------------------------------------------------------------ a user's own problem
def _maker(problem: str) -> tuple[Callable[[Any], Made], Path | None, Problem | None]:
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
    with _their_errors(path):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))  # it may import its neighbours, as a script may
        spec.loader.exec_module(module)
    check_name("problem", function, [n for n, value in inspect.getmembers(module, callable) if not n.startswith("_")])
    return getattr(module, function), path, None


@contextlib.contextmanager
def _their_errors(path: Path | None) -> Any:
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
