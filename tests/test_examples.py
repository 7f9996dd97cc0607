"""The scripts in examples/, in their quick form: they draw their picture, and it shows what they say."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import GROUPS, ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def rebar_is_tuned(variance: dict[str, float]) -> None:
    """The scale and temperature found are worth something, and a control variate of one's own more."""
    assert variance["rebar, tuned"] < 0.85 * variance["rebar, as it comes"]
    assert variance["relax, tuned"] < 0.01 * variance["reinforce"]


def baselines_help(last: dict[str, tuple[float, float]]) -> None:
    """Each baseline leaves less variance than the one before, and none a worse loss."""
    loss, variance = ({name: pair[i] for name, pair in last.items()} for i in (0, 1))
    assert variance["learned"] < 0.7 * variance["moving average"] < 0.1 * variance["none"]
    assert max(loss["learned"], loss["moving average"]) < loss["none"]


def paths_are_learned(excess: dict[str, float]) -> None:
    """The costs learned find nearly the cheapest paths; those of an untrained network are dearer by four fifths."""
    assert set(excess) == {"fenchel_young", "perturbed_argmax", "implicit_mle", "blackbox"}
    assert max(excess.values()) < 0.3
    assert excess["fenchel_young"] < 0.1


def digits_are_sorted(right: dict[str, tuple[float, float]]) -> None:
    """The matching sorts half of the held-out sequences, the scores some; to match only in the end is not enough."""
    whole, placed = ({name: pair[i] for name, pair in right.items()} for i in (0, 1))
    assert whole["Permutation, Sinkhorn"] > max(0.4, 1.2 * whole["each image by itself"])
    assert min(whole["PlackettLuce, SoftSort"], whole["PlackettLuce, NeuralSort"]) > 0.04
    assert min(share for name, share in placed.items() if name not in ("untrained", "chance")) > 0.5
    assert max(placed["untrained"], placed["chance"]) < 0.2


def pixels_are_chosen(found: tuple[dict[str, float], dict[str, float]]) -> None:
    """Pixels chosen tell more than others, by what is in them; trained together, most digits are told by the choice."""
    accuracy, blank = found
    estimators = ("straight_through", "stochastic_softmax", "rloo")
    assert accuracy["random"] < accuracy["highest variance"] < 0.7
    assert min(accuracy[name] for name in estimators) > 0.6
    assert min(accuracy["straight_through"], accuracy["stochastic_softmax"]) > 0.72
    assert max(blank[name] for name in estimators) < 0.35
    assert blank["trained together"] > 0.5
    assert max(accuracy.values()) == max(accuracy["trained together"], accuracy["all 64"])


def trees_are_found(recovered: dict[str, float]) -> None:
    """Draws of trees find the springs, and those of edges by themselves, or no motion but correlations, only a part."""
    assert recovered["trees"] > 0.8
    assert min(recovered["any nine edges"], recovered["trees"]) > recovered["each edge by itself"] > recovered["Chow-Liu"]
    assert recovered["trees, by rloo"] > 0.45


CHECKS: dict[str, Callable[[Any], None]] = {
    "tune_rebar": rebar_is_tuned,
    "nvil_baseline": baselines_help,
    "shortest_path": paths_are_learned,
    "sort_digits": digits_are_sorted,
    "choose_pixels": pixels_are_chosen,
    "spring_tree": trees_are_found,
}


def test_every_example_is_checked() -> None:
    assert {path.stem for path in EXAMPLES} == set(CHECKS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_shows_what_it_says(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    used = {
        line.split()[1].partition(".")[0] for line in path.read_text().splitlines() if line.startswith(("import ", "from "))
    }
    if used & {"torch", "jax"} - GROUPS:
        pytest.skip("not testing on its framework")
    for name in used & {"sklearn", "matplotlib", "threadpoolctl"}:
        pytest.importorskip(name)
    main = runpy.run_path(str(path))["main"]
    CHECKS[path.stem](main([str(tmp_path), "--quick"]))
    (picture,) = tmp_path.iterdir()
    assert picture.name == f"{path.stem}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out
