"""How a report is shown: text of 100 columns, JSON, a picture, a page; and which estimator it names."""

import base64
import dataclasses
import html.parser
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from helpers import run_python

import backdraw
from backdraw.errors import InvalidValueError
from backdraw.study import Report, measure, page
from backdraw.study.moments import Estimate
from backdraw.study.report import LeftOut, Row

NAN = Estimate(math.nan, math.nan, math.nan)


def made(
    name: str, *, variance: float, bias: float = 0.0, seconds: float = 1e-6, stated: str = "unbiased", **more: Any
) -> Row:
    """Make a row of a few numbers."""
    e = lambda x: Estimate(x, 0.9 * x, 1.1 * x)  # noqa: E731
    fields: dict[str, Any] = {
        "name": name, "stated": stated, "repeats": 1000, "complete": True, "nan": 0, "bias": e(bias), "bias_error": 0.0,
        "z": 1.0, "bound": 4.5, "flagged": False, "variance": e(variance), "error": e(variance + bias**2), "cosine": e(0.9),
        "direction": e(0.5), "scatter": e(0.5),
        "seconds": e(seconds), "work": e(variance * seconds),
    }  # fmt: skip
    return Row(**{**fields, **more})


def report(*rows: Row) -> Report:
    """Make a report of rows."""
    left_out = (LeftOut("pathwise", "it is for continuous distributions."), LeftOut("draw", "<no> gradient & none"))
    return Report("a <toy>", "numpy", "float64", "Bernoulli", 3, "exact", Estimate(0.1, 0.1, 0.1), 1000, False, rows, left_out)


WILD = report(
    made("gapped_straight_through:temperature=1e-5,gap=12345", variance=1.2345e-102, bias=9.87e-103, seconds=123.456),
    made("gumbel_softmax:temperature=0.125", variance=9.999e99, bias=1e50, z=3.2e7, flagged=True, stated="unbiased"),
    made("rloo", variance=99999.5, bias=99.5, nan=12, complete=False),
    dataclasses.replace(made("exact", variance=0.0), variance=NAN, error=NAN, cosine=NAN, z=math.nan, seconds=NAN, work=NAN),
    made("select", variance=0.0, seconds=9.9999e-4),
)


def test_table_fits_100_columns() -> None:
    lines = WILD.table().splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "a <toy>: Bernoulli, 3 coordinates, float64 on numpy, 1000 repeats"
    assert len({len(line) for line in lines[2:8]}) == 1  # the columns are aligned
    said = " ".join(lines)
    assert "gumbel_softmax:0.125!" in said
    assert "rloo*" in said
    assert "rloo: 12 gradients were not finite" in said
    assert "Not measured: pathwise: it is for continuous distributions." in said


def test_json_round_trip() -> None:
    text = WILD.to_json()
    json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON
    again = Report.from_json(text)
    assert again.to_json() == text
    assert again.rows[:3] == WILD.rows[:3]
    assert again.left_out == WILD.left_out
    assert math.isnan(again.rows[3].variance.value)
    assert Report.from_json(json.dumps(json.loads(text) | {"seed": 3})).to_json() == text


class Page(html.parser.HTMLParser):
    """What a page refers to, and the cells of its table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.keys: list[list[str | None]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data", "poster")]
        assert tag not in ("link", "iframe", "object", "embed", "base")
        self.inside = tag == "td"
        if tag == "tr":
            self.rows.append([])
            self.keys.append([])
        if tag == "td":
            self.rows[-1].append("")
            self.keys[-1].append(given.get("data-value"))

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
def test_page_is_self_contained() -> None:
    text = WILD.to_html()
    page = Page(text)
    assert len(page.links) == 1
    picture = page.links[0].removeprefix("data:image/png;base64,")
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    rest = text.replace(picture, "")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp|import\(", rest)
    assert "default-src 'none'" in text  # and a browser enforces it
    cells = page.rows[1:]
    assert [c[0] for c in cells] == [r.name for r in WILD.rows]
    assert {len(c) for c in cells} == {12}
    assert float(page.keys[3][5] or "nan") == 99999.5
    assert page.keys[4][5] == ""
    assert "a &lt;toy&gt;" in text
    assert "&lt;no&gt; gradient &amp; none" in text
    assert text.count('class="flagged"') == 1


def test_picture(tmp_path: Any) -> None:
    WILD.plot(tmp_path / "study.png")
    report().plot(str(tmp_path / "empty.png"))
    for name in ("study.png", "empty.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in tmp_path.iterdir()} == {"study.png", "empty.png"}


# ------------------------------------------------------------------------------------------------------ which is the best
@pytest.mark.needs("numpy")
def test_what_a_picture_lacks_is_told() -> None:
    code = """
import sys, numpy, backdraw
from backdraw.study import measure
sys.modules["matplotlib"] = None
report = measure(lambda x: x ** 2, backdraw.Bernoulli(numpy.zeros(())), ["rloo"], 10, rng=0)
for draw in (lambda: report.plot("picture.png"), report.to_html):
    try:
        draw()
    except backdraw.BackdrawError as error:
        print(error)
"""
    said = "pictures need matplotlib, not installed here: pip install 'backdraw[cli]'"
    assert run_python(code).splitlines() == [said, said]


def test_best_depends_on_the_budget() -> None:
    found = report(
        made("quick", variance=1.0, seconds=1e-6),
        made("slow", variance=0.01, seconds=2e-5),
        made("biased", variance=0.05, bias=0.3, seconds=1e-6, stated="biased"),
        made("wrong", variance=0.0, flagged=True),
        made("broken", variance=0.0, nan=3),
    )
    assert found.best(1e-6).name == "biased"  # one of it: 0.05 + 0.09
    assert found.best(19e-6).name == "quick"  # 1 / 19
    assert found.best(25e-6).name == "slow"  # 0.01
    assert found.best().name == "biased"  # ten microseconds: 0.095, and quick has 0.1
    assert found.best(25e-6).reason == (
        "slow: within 25 us a gradient, the mean of 1 of its estimates has the mean squared error 0.01; "
        "quick, the next, has 0.04."
    )


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, 1e-9])
def test_best_of_nothing(budget: float) -> None:
    with pytest.raises(InvalidValueError, match="budget: "):
        report(made("quick", variance=1.0)).best(budget)
    with pytest.raises(InvalidValueError, match="budget: no sound estimator"):
        report().best()


def test_page_without_a_best() -> None:
    flagged = dataclasses.replace(made("quick", variance=1.0), flagged=True)
    assert "No estimator can be named the best" in page.html(report(flagged))
    assert "Best: quick" in page.html(report(made("quick", variance=1.0)))


@pytest.mark.needs("numpy")
def test_of_a_measurement() -> None:
    found = measure(lambda x: (x - 0.45) ** 2, backdraw.Bernoulli(np.zeros(())), repeats=700, rng=backdraw.key(0))
    assert found.best().reason.endswith(".")
    assert max(map(len, found.table().splitlines())) <= 100
    assert Report.from_json(found.to_json()).table() == found.table()
