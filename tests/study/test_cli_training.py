"""``backdraw study --train``, and the directions that it prints for subsets: what is written, what is said."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from backdraw import cli
from backdraw.study.curves import Curves

pytestmark = [pytest.mark.needs("numpy"), pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")]


def run(*arguments: Any) -> Any:
    """Run the command."""
    return CliRunner().invoke(cli.application(), ["study", *(str(a) for a in arguments)])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw small pictures: large ones take most of the time."""
    from matplotlib.figure import Figure

    for name in ("curve_plots.overlay", "curve_plots.grid", "plots.figure"):
        monkeypatch.setattr(f"backdraw.study.{name}", lambda found: Figure(figsize=(1.0, 1.0)))


@pytest.mark.usefixtures("small")
def test_curves_are_written(tmp_path: Any) -> None:
    names = ("intermediate_loss:step_size=0.1", "gumbel_softmax:temperature=1", "rloo")
    chosen = [part for name in names for part in ("--estimator", name)]
    found = []
    for seed in (1, 1, 2):
        result = run("--train", "--steps", 20, "--repeats", 3, *chosen, "--seed", seed, "--out", tmp_path)
        assert result.exit_code == 0, result.output
        data = json.loads((tmp_path / "training.json").read_text())
        curves = Curves.from_json(json.dumps(data))
        found.append([(c.name, c.objective, c.variance) for c in curves.curves])
    assert {p.name for p in tmp_path.iterdir()} == {"training.png", "training-grid.png", "training.json"}
    assert found[0] == found[1] != found[2]
    assert data["seed"] == 2
    assert "numpy" in data["versions"]
    assert (curves.problem, curves.trainings, curves.steps[-1]) == ("toy-kl", 3, 20)
    assert {c.name for c in curves.curves} == set(names)
    assert curves.table() in result.output
    assert max(map(len, result.output.split("written to")[0].splitlines())) <= 100


@pytest.mark.usefixtures("small")
def test_no_grid_where_no_panels_are_named(tmp_path: Any) -> None:
    options = ("--problem", "bernoulli-toy", "--train", "--steps", 5, "--repeats", 2, "--estimator", "disarm")
    assert run(*options, "--out", tmp_path).exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"training.png", "training.json"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--problem", "subset", "--train"], "train: expected one of the problems toy-kl, bernoulli-toy, "),
        (["--train", "--steps", 0], "steps: expected 1 or more, got 0"),
        (["--steps", 10], "steps: only with --train"),
        (["--train", "--repeats", 1], "repeats: expected 2 or more, got 1"),
        (["--train", "--estimator", "rlo"], "got 'rlo'; did you mean rloo?"),
    ],
)
def test_bad_options_are_told_in_one_line(tmp_path: Any, options: list[Any], message: str) -> None:
    result = run("--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small")
def test_directions_of_subsets(tmp_path: Any) -> None:
    options = ("--problem", "subset", "--repeats", 50, "--estimator", "exact", "--estimator", "straight_through")
    result = run(*options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.output.split("Cosine distances")[1].split("written to")[0].splitlines()
    assert max(map(len, result.output.split("written to")[0].splitlines())) <= 100
    (exact,) = [line for line in lines if line.startswith("exact ")]
    assert exact.split("exact")[1].split() == 3 * ["0.000", "(0.000", "to", "0.000)"]
    rows = {r["name"]: r for r in json.loads((tmp_path / "study.json").read_text())["rows"]}
    assert 0.7 < rows["straight_through"]["direction"][0] < rows["straight_through"]["cosine"][0] < 1
