"""The README: its example runs, and its table is the registry's."""

import re
from pathlib import Path

import numpy as np
import pytest

from backdraw.estimators.registry import table

README = Path(__file__).parent.parent / "README.md"


def test_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)
    printed = np.array(re.findall(r"[0-9.]+", capsys.readouterr().out), float)
    assert printed.argmax() == 1  # the cheapest choice, as the comment says
    assert printed[1] > 0.95


def test_begins_with_what_a_newcomer_needs() -> None:
    head = "\n".join(README.read_text(encoding="utf-8").splitlines()[:40])
    for needed in ("$$", "```python", "| arrays |", "backdraw train digits", "bin/nox"):
        assert needed in head


@pytest.mark.parametrize("kind", ["draw", "expectation"])
def test_tables_of_estimators_are_the_registry(kind: str) -> None:
    assert table(kind) in README.read_text(encoding="utf-8")
