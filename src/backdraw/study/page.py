"""A report as one HTML page, which asks the network for nothing."""

import base64
import math
from html import escape

from backdraw.study import plots
from backdraw.study.moments import Estimate
from backdraw.study.report import Report
from backdraw.study.table import notes, title

# A browser that honours this policy cannot fetch anything for the page.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
th button {{ font: inherit; font-weight: 600; border: 0; background: none; padding: 0; cursor: pointer; }}
th[aria-sort="ascending"] button::after {{ content: " \\2191"; }}
th[aria-sort="descending"] button::after {{ content: " \\2193"; }}
tr.flagged td {{ background: #fdecea; }}
.wide {{ overflow-x: auto; }}
img {{ max-width: min(100%, 76rem); }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{best}</p>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<p>A click on a heading sorts. Each number is followed by its 95 % confidence interval. Cosines are those to the
true gradient, of the mean gradient and of one on average; scatter is one less the mean cosine of one to the mean.</p>
<ul>
{notes}
</ul>
<img alt="bias, variance, mean squared error and variance times time of each estimator" src="data:image/png;base64,{picture}">
<script>
for (const [column, th] of [...document.querySelectorAll("th")].entries())
  th.firstChild.addEventListener("click", () => {{
    const up = th.getAttribute("aria-sort") !== "ascending", body = document.querySelector("tbody");
    const key = row => {{ const v = row.cells[column].dataset.value; return v === "" ? Infinity : +v; }};
    const text = row => row.cells[column].textContent;
    const order = column < 2 ? (a, b) => text(a).localeCompare(text(b)) : (a, b) => key(a) < key(b) ? -1 : +(key(a) > key(b));
    const rows = [...body.rows].sort(order);
    body.append(...(up ? rows : rows.reverse()));
    for (const other of document.querySelectorAll("th")) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
  }});
</script>
</body>
</html>
"""
HEAD = (
    "estimator", "stated", "repeats", "bias", "z", "variance", "mean squared error", "cosine of the mean", "cosine of one",
    "scatter", "time (us)", "variance x time (us)",
)  # fmt: skip
FLAGGED = ' class="flagged"'


def html(report: Report) -> str:
    """Return the page."""
    rows = []
    for r in report.rows:
        us, work = (Estimate(*(1e6 * x for x in e)) for e in (r.seconds, r.work))
        repeats = f"{r.repeats}{'' if r.complete else ' (incomplete)'}"
        cells = [_text(r.name), _text(r.stated), _cell(repeats, r.repeats), _interval(r.bias), _cell(f"{r.z:.1f}", r.z)]
        cells += [_interval(e) for e in (r.variance, r.error, r.cosine, r.direction, r.scatter, us, work)]
        rows.append(f"<tr{FLAGGED if r.flagged else ''}>{''.join(cells)}</tr>")
    return _PAGE.format(
        title=escape(title(report)),
        best=escape(_best(report)),
        head="".join(f"<th><button>{name}</button></th>" for name in HEAD),
        rows="\n".join(rows),
        notes="\n".join(f"<li>{escape(note)}</li>" for note in notes(report)),
        picture=base64.b64encode(plots.png(report)).decode(),
    )


def _best(report: Report) -> str:
    try:
        return f"Best: {report.best().reason}"
    except ValueError:
        return "No estimator can be named the best: each was flagged, or gave gradients that are not finite, or too few."


def _text(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _cell(text: str, value: float) -> str:
    return '<td data-value="">-</td>' if math.isnan(value) else f'<td data-value="{float(value)!r}">{text}</td>'


def _interval(e: Estimate) -> str:
    between = "" if math.isnan(e.low) else f" ({e.low:.3g} to {e.high:.3g})"
    return _cell(f"{e.value:.3g}{between}", e.value)
