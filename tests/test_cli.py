"""The command: what it writes, and what it says of bad input."""

import importlib
import json
import sys
import tempfile

import pytest
from helpers import run_python
from typer.testing import CliRunner

import backdraw
from backdraw import cli
from backdraw.errors import BackendError

FILES = {"curve.png", "reconstructions.png", "samples.png", "metrics.json"}


def run(*arguments):
    """Run the command."""
    return CliRunner().invoke(cli.application(), [str(a) for a in arguments])


def test_train_digits_writes_four_files(tmp_path):
    out = tmp_path / "made" / "here"
    result = run("train", "digits", "--epochs", 2, "--seed", 3, "--out", out)
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == FILES
    for name in FILES - {"metrics.json"}:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["config"]["seed"] == 3
    assert metrics["epoch"] == [1, 2]
    assert metrics["training_loss"][1] < metrics["training_loss"][0]
    for curve in ("train_negative_elbo", "held_out_negative_elbo"):
        assert metrics[curve][1] < metrics[curve][0]
    assert metrics["final"]["held_out_negative_elbo"] == pytest.approx(metrics["held_out_negative_elbo"][1], rel=0.01)
    assert metrics["seconds"] > 0
    assert metrics["versions"]["backdraw"] == backdraw.__version__
    shown = f"{metrics['final']['held_out_negative_elbo']:.3f} nats per image"
    assert shown in result.output


def test_a_second_run_replaces_the_files(tmp_path):
    for seed in (0, 1):
        assert run("train", "digits", "--epochs", 1, "--seed", seed, "--out", tmp_path).exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == FILES
    assert json.loads((tmp_path / "metrics.json").read_text())["config"]["seed"] == 1


def test_long_runs_print_a_short_table(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "LINES", 3)
    result = run("train", "digits", "--epochs", 10, "--out", tmp_path)
    numbers = [line.split()[0] for line in result.output.splitlines() if line[:6].strip().isdigit()]
    assert numbers == ["1", "4", "8", "10"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "pytorch"], "backend: expected one of numpy, cupy, torch, jax, got 'pytorch'; did you mean torch?"),
        (["--backend", "qqq"], "backend: expected one of numpy, cupy, torch, jax, got 'qqq'"),
        (["--estimator", "gumbel_soft"], "got 'gumbel_soft'; did you mean gumbel_softmax?"),
        (["--estimator", "draw"], "estimator: expected one of blackbox, "),
        (["--latent", "norm"], "latent: expected one of categorical, bernoulli, normal, got 'norm'; did you mean normal?"),
        (["--latent", "normal", "--estimator", "select"], "estimator: expected one of intermediate_loss, reparameterize, "),
        (["--epochs", 0], "epochs: expected 1 or more, got 0"),
        (["--seed", -1], "seed: expected 0 or more, got -1"),
        (["--seed", 2**64], "seed: expected an integer that fits in 64 bits"),
    ],
)
def test_bad_options_are_told_in_one_line(tmp_path, options, message):
    result = run("train", "digits", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unwritable_out_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(cli.digits, "train", None)
    taken = tmp_path / "file"
    taken.write_text("kept")
    for out in (taken, taken / "below"):
        result = run("train", "digits", "--out", out)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"Error: out: cannot write to '{out}': ")
        assert result.stderr.count("\n") == 1
    assert taken.read_text() == "kept"


def test_a_folder_that_refuses_files(tmp_path, monkeypatch):
    """A read-only folder, feigned: to root every folder is writable."""

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    result = run("train", "digits", "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"Error: out: cannot write to '{tmp_path}': Permission denied\n"


def test_backend_that_is_not_installed(tmp_path, monkeypatch):
    def absent(name):
        raise BackendError(f"backend {name!r} cannot be used: no such module. Install it with: pip install 'backdraw[{name}]'")

    monkeypatch.setattr(cli, "adapter", absent)
    result = run("train", "digits", "--backend", "torch", "--out", tmp_path)
    assert result.exit_code == 2
    assert "pip install 'backdraw[torch]'" in result.stderr


@pytest.mark.parametrize("missing", cli.NEEDS)
def test_missing_packages_are_named(missing, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    module = importlib.reload(cli)  # importing it needs none of them
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert missing in said
    assert "pip install 'backdraw[cli]'" in said


def test_version_and_help():
    assert run("--version").output == f"backdraw {backdraw.__version__}\n"
    for arguments in (["--help"], ["train", "--help"]):
        assert run(*arguments).exit_code == 0
    said = run("train", "digits", "--help").output
    for word in ("--backend", "--estimator", "--epochs", "--seed", "--out", "metrics.json", "straight_through"):
        assert word in said


def test_the_entry_point_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["backdraw", "--version"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code in (0, None)
    assert capsys.readouterr().out == f"backdraw {backdraw.__version__}\n"


def test_as_a_module() -> None:
    code = "import runpy, sys; sys.argv = ['backdraw', '--help']; runpy.run_module('backdraw', run_name='__main__')"
    assert "train" in run_python(code)
