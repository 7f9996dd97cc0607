"""``backdraw study``: estimators measured on a problem."""

import contextlib
import dataclasses
import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdraw import random
from backdraw.backend import Backend, adapter
from backdraw.cli_checks import backends, check_name, check_writable, fail, versions
from backdraw.cli_problem import maker, their_errors
from backdraw.errors import BackdrawError
from backdraw.estimators import ESTIMATORS, Entry
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
measured so far. Of several problems, each has a folder of its own in there.

With `--train`, the distribution's own parameters are trained with each estimator instead, in several trainings at a
time; written are `training.png` with the curves and the variance of the gradients on the way, `training-grid.png` with a
panel each for the settings that a problem names, and `training.json`. The problems that can be trained say so in `--list`.

Your own problem is a function in a file, `make_problem(xp)`: it takes an Array API namespace, and returns f and a
distribution.

Examples:

- `backdraw study`
- `backdraw study --problem shared-bernoulli --estimator rloo --estimator rloo:samples=8`
- `backdraw study --problem normal-cosine --problem normal-quadratic --workers -1`
- `backdraw study --problem mine.py:make_problem --backend torch`
- `backdraw study --problem toy-kl --train --workers -1`
"""


@dataclass(frozen=True)
class Options:
    """What the command was given."""

    problems: list[str]
    estimators: list[str]
    backend: str
    repeats: int | None
    seed: int
    out: Path
    workers: int = 1
    scheduler: str = ""
    train: bool = False
    steps: int | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done with one problem, all of it checked."""

    name: str
    out: Path
    make: Callable[[Any], Made]
    path: Path | None
    problem: Problem | None
    training: Training | None
    entries: list[Entry]
    repeats: int


def run(options: Options) -> None:
    """Check everything; then measure, print and write, one problem after the other."""
    from rich.console import Console

    check_name("backend", options.backend, backends())
    for name in options.estimators:
        check_name("estimator", name.partition(":")[0], sorted(ESTIMATORS))
    several = len(options.problems) > 1
    try:
        plans = [_plan(options, name, options.out / _folder(name) if several else options.out) for name in options.problems]
        key, be = random.key(options.seed), adapter(options.backend).backend
    except BackdrawError as error:
        fail(str(error))
    for i, plan in enumerate(plans):
        try:
            spread = _spread(options)  # a cluster's is used up by one problem
        except BackdrawError as error:
            fail(str(error))
        if i == 0:
            for each in plans:
                check_writable(each.out)
        _run(plan, options, key, be, spread, Console(highlight=False, soft_wrap=True))


def _plan(options: Options, name: str, out: Path) -> Plan:
    make, path, problem = maker(name)
    training = _training(options, name, problem)
    extra = problem.estimators if problem else ()
    usual = (training.estimators or ESTIMATORS) if training else (*ESTIMATORS, *extra)
    entries = [entry_of(e) for e in options.estimators or usual]
    repeats = options.repeats if options.repeats is not None else TRAININGS if training else REPEATS
    if repeats < 2:
        fail(f"repeats: expected 2 or more, got {repeats}")
    return Plan(name, out, make, path, problem, training, entries, repeats)


def _folder(name: str) -> str:
    file, _, function = name.rpartition(":")
    return f"{Path(file).stem}-{function}" if file else name


def _run(plan: Plan, options: Options, key: random.Key, be: Backend, spread: Any, console: Any) -> None:
    """Measure, print and write what is planned."""
    from threadpoolctl import threadpool_limits

    problem, training = plan.problem, plan.training
    found: Report | Curves
    # One thread, so that the times are those of the work; float64, so that a seed gives one report on every backend.
    with their_errors(plan.path), be.double_by_default(), threadpool_limits(1), _bar(console, training) as progress:
        f, dist = check_made(plan.make(be.xp), plan.name)
        more: dict[str, Any] = {"rng": key, "progress": progress, "spread": spread, "problem": plan.name}
        known: dict[str, Any] = {"reference": problem.reference, "shared": problem.shared} if problem else {}
        try:
            if training is not None:
                found = train(f, dist, training, plan.entries, plan.repeats, **more)
            else:
                found = measure(f, dist, plan.entries, plan.repeats, **known, **more)
        except BackdrawError as error:
            fail(str(error))
    if not (found.rows if isinstance(found, Report) else found.curves):
        if found.interrupted:
            raise SystemExit(130)
        fail("; ".join(["nothing was measured", *(f"{name}: {reason}" for name, reason in found.left_out)]))
    console.print(found.table(), markup=False)
    if isinstance(found, Report) and problem is not None and problem.directions:
        console.print(f"\n{found.directions()}\n", markup=False)
    _conclude(console, found, problem)
    names = write(plan.out, found, {"seed": options.seed, "versions": versions(options.backend)})
    console.print(f"written to {plan.out}: {', '.join(names)}", markup=False)
    if found.interrupted:
        raise SystemExit(130)


def _training(options: Options, name: str, problem: Problem | None) -> Training | None:
    """Return how the problem is trained, if that is asked for."""
    if not options.train:
        if options.steps is not None:
            fail("steps: only with --train")
        return None
    if problem is None or problem.training is None:
        known = ", ".join(name for name, p in PROBLEMS.items() if p.training is not None)
        fail(f"train: expected one of the problems {known}, got {name!r}")
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
        with contextlib.suppress(BackdrawError):  # where no row is sound, there is no best
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
