"""``backdraw study`` and ``backdraw backends``: what they write, and what they say of bad input."""

import json
import re
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from backdraw import cli, cli_backends, cli_study
from backdraw.backend import adapter
from backdraw.errors import BackendError
from backdraw.estimators import ESTIMATORS
from backdraw.study import Report
from backdraw.study.problems import PROBLEMS

pytestmark = [pytest.mark.needs("numpy"), pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")]
FILES = {"study.png", "study.html", "study.json"}


def run(*arguments: Any) -> Any:
    """Run the command."""
    return CliRunner().invoke(cli.application(), [str(a) for a in arguments])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw small pictures: large ones take most of the time."""
    from matplotlib.figure import Figure

    monkeypatch.setattr("backdraw.study.plots.figure", lambda report: Figure(figsize=(1.0, 1.0)))


def mine(tmp_path: Any, text: str) -> str:
    """Write a problem file, and return the name of its function."""
    (tmp_path / "mine.py").write_text(text)
    return f"{tmp_path / 'mine.py'}:make_problem"


GOOD = """
import backdraw

def make_problem(xp):
    return (lambda x: xp.sum((x - 0.3) ** 2, axis=-1)), backdraw.Bernoulli(xp.zeros(2, dtype=xp.float64))
"""


def test_the_default_writes_three_files(tmp_path: Any) -> None:
    out = tmp_path / "made" / "here"
    result = run("study", "--repeats", 20, "--out", out)
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == FILES
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    assert "</html>" in (out / "study.html").read_text()
    data = json.loads((out / "study.json").read_text())
    assert data["seed"] == 0
    assert {"python", "backdraw", "numpy"} <= set(data["versions"])
    report = Report.from_json(json.dumps(data))
    assert report.problem == "toy-kl"
    assert {r.name for r in report.rows} | {left.name for left in report.left_out} == {
        *ESTIMATORS,
        *PROBLEMS["toy-kl"].estimators,
    }
    assert report.table() in result.output
    assert max(map(len, result.output.split("written to")[0].splitlines())) <= 100
    assert "Best: " in result.output


@pytest.mark.usefixtures("small")
def test_one_seed_one_report(tmp_path: Any) -> None:
    found = []
    for seed in (1, 1, 2):
        options = ("--estimator", "rloo", "--estimator", "rloo:samples=4", "--repeats", 30, "--seed", seed, "--out", tmp_path)
        assert run("study", "--problem", "bernoulli-toy-0.45", *options).exit_code == 0
        report = Report.from_json((tmp_path / "study.json").read_text())
        assert {r.name for r in report.rows} == {"rloo", "rloo:samples=4"}
        found.append([(r.name, r.variance, r.bias) for r in report.rows])
    assert found[0] == found[1] != found[2]


@pytest.mark.usefixtures("small")
def test_a_file_of_ones_own(tmp_path: Any) -> None:
    result = run("study", "--problem", mine(tmp_path, GOOD), "--repeats", 20, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    report = Report.from_json((tmp_path / "study.json").read_text())
    assert {"rloo", "disarm", "exact"} <= {r.name for r in report.rows}
    assert dict(report.left_out)["straight_through"] == "it needs the gradient of f, which torch and jax have, not numpy"


@pytest.mark.parametrize("library", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("numpy", "torch", "jax")])
def test_plain_numbers_are_float64(tmp_path: Any, library: str) -> None:
    text = GOOD.replace("xp.zeros(2, dtype=xp.float64)", "xp.asarray([0.1, -0.4])")
    options = ("--repeats", 20, "--estimator", "rloo", "--backend", library, "--out", tmp_path)
    result = run("study", "--problem", mine(tmp_path, text), *options)
    assert result.exit_code == 0, result.output
    assert Report.from_json((tmp_path / "study.json").read_text()).dtype == "float64"


@pytest.mark.needs("numpy")
def test_nothing_measured_is_no_report(tmp_path: Any) -> None:
    result = run("study", "--problem", mine(tmp_path, GOOD), "--estimator", "rloo:samples=1", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "nothing was measured; rloo:samples=1: samples" in result.output
    assert not (tmp_path / "out" / "study.json").exists()


@pytest.mark.usefixtures("small")
def test_several_problems_have_a_folder_each(tmp_path: Any) -> None:
    options = ("--estimator", "rloo", "--repeats", 20, "--workers", 1)
    theirs = mine(tmp_path, GOOD)
    names = {"shared-bernoulli": "shared-bernoulli", "subset": "subset", theirs: "mine-make_problem"}
    problems = [part for name in names for part in ("--problem", name)]
    result = run("study", *problems, *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(names.values())
    for name, folder in names.items():
        together = Report.from_json((tmp_path / "out" / folder / "study.json").read_text())
        assert together.problem == name
        assert run("study", "--problem", name, *options, "--out", tmp_path / "alone").exit_code == 0
        alone = Report.from_json((tmp_path / "alone" / "study.json").read_text())
        assert (alone.rows[0].bias, alone.rows[0].variance) == (together.rows[0].bias, together.rows[0].variance)
    wrong = run("study", *problems, "--problem", "subst", *options, "--out", tmp_path / "none")
    assert "did you mean subset?" in wrong.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_this_name\n", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def make_problem(xp):\n    return 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def make_problem(xp:\n", "SyntaxError: "),
        (GOOD.replace("0.3", "oops"), "NameError: name 'oops' is not defined"),
    ],
)
def test_their_traceback_and_not_ours(tmp_path: Any, text: str, said: str) -> None:
    result = run("study", "--problem", mine(tmp_path, text), "--repeats", 20, "--out", tmp_path)
    assert result.exit_code == 1
    assert said in result.stderr
    assert set(re.findall(r'File "([^"]+)"', result.stderr)) == {str(tmp_path / "mine.py")}
    assert "backdraw/" not in result.stderr
    assert {p.name for p in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--problem", "toy-lk"], "problem: expected one of toy-kl, "),
        (["--problem", "toy-lk"], "got 'toy-lk'; did you mean toy-kl?"),
        (["--problem", "mine.py"], "expected path/to/file.py:function, got 'mine.py'; did you mean mine.py:make_problem?"),
        (["--problem", "nowhere.py:f"], "problem: there is no file 'nowhere.py'"),
        (["--estimator", "rlo"], "got 'rlo'; did you mean rloo?"),
        (["--estimator", "rloo:n=3"], "estimators: rloo takes samples, got 'n=3'"),
        (["--backend", "pytorch"], "backend: expected one of numpy, cupy, torch, jax, got 'pytorch'; did you mean torch?"),
        (["--workers", 0], "workers: expected 1 or more, or -1 for all cores, got 0"),
        (["--repeats", 1], "repeats: expected 2 or more, got 1"),
        (["--seed", 2**64], "seed: expected an integer that fits in 64 bits"),
    ],
)
def test_bad_options_are_told_in_one_line(tmp_path: Any, options: list[Any], message: str) -> None:
    result = run("study", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "module"), [("--workers", "joblib"), ("--scheduler", "distributed")])
def test_what_is_not_installed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, option: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = run("study", option, 2, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "Install it with: pip install 'backdraw[study]'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("make_problem", "make_it"), "got 'make_problem'; did you mean make_it?"),
        (GOOD.replace(", axis=-1", ""), "f: expected values of shape (samples, *batch)"),
        ("def make_problem(xp):\n    return xp.zeros(3)\n", "make_problem to return f and a distribution, got ndarray"),
    ],
)
def test_what_a_file_lacks_is_told_in_one_line(tmp_path: Any, text: str, message: str) -> None:
    result = run("study", "--problem", mine(tmp_path, text), "--repeats", 20, "--out", tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_unwritable_out_is_told_before_the_work(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_study, "measure", None)
    (tmp_path / "file").write_text("kept")
    result = run("study", "--out", tmp_path / "file")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: out: cannot write to '{tmp_path / 'file'}': ")


@pytest.mark.usefixtures("small")
def test_an_interruption_writes_what_there_is(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cli_study.measure

    def stopped(*args: Any, progress: Any, **options: Any) -> Any:
        def told(done: int, total: int, name: str) -> None:
            progress(done, total, name)
            if done == 3:
                raise KeyboardInterrupt

        return real(*args, progress=told, **options)

    monkeypatch.setattr(cli_study, "measure", stopped)
    result = run("study", "--problem", "shared-bernoulli", "--estimator", "rloo", "--estimator", "arm", "--out", tmp_path)
    assert result.exit_code == 130
    report = Report.from_json((tmp_path / "study.json").read_text())
    assert report.interrupted
    assert {(r.name, r.repeats) for r in report.rows} == {("rloo", 200), ("arm", 100)}
    assert "Interrupted" in result.output


@pytest.mark.usefixtures("small")
def test_a_full_disk_leaves_the_old_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("study", "--problem", "shared-bernoulli", "--estimator", "rloo", "--repeats", 10, "--out", tmp_path)
    assert run(*options).exit_code == 0
    before = (tmp_path / "study.json").read_bytes()

    def full(self: Any, text: str, **options: Any) -> None:
        self.write_bytes(text.encode()[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    assert run(*options, "--seed", 1).exit_code != 0
    assert (tmp_path / "study.json").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == FILES


def test_lists() -> None:
    for option, names in (("--list", PROBLEMS), ("--properties", ESTIMATORS)):
        result = run("study", option)
        assert result.exit_code == 0
        lines = result.output.splitlines()
        assert max(map(len, lines)) <= 100
        assert set(names) <= {line.split()[0] for line in lines if line}


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        if name == "numpy":
            return adapter(name)
        raise BackendError(f"backend {name!r} cannot be used: no such module. Install it with: pip install 'backdraw[{name}]'")

    monkeypatch.setattr(cli_backends, "adapter", absent)
    lines = run("backends").output.splitlines()
    assert re.fullmatch(r"numpy +\d+\.\d+\S* +cpu", lines[1])
    assert [line.split()[0] for line in lines] == ["backend", "numpy", "cupy", "torch", "jax"]
    for line in lines[2:]:
        assert line.endswith(f"not found    Install it with: pip install 'backdraw[{line.split()[0]}]'")


def test_backends_that_are_installed(framework: Any) -> None:
    name = framework.backend.value
    (line,) = [line for line in run("backends").output.splitlines() if line.startswith(name)]
    assert re.fullmatch(rf"{name} +\d+\.\d+\S* +\S.*", line)
