"""A report as a page: one file, its pictures within.

`ArtifactReport` calls `render` for its file and for notebooks.
"""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any, Protocol

import numpy as np

from sklrp._checks import import_optional
from sklrp.diagnostics.findings import Finding

_COLOURS = {"fact": "#0a7a4b", "artifact": "#b3261e", "undecided": "#8a6d00"}
_STYLE = """
.sklrp-report{font:15px/1.45 system-ui,sans-serif;color:#1b1b1b;background:#fff;max-width:60rem}
.sklrp-report h1{font-size:1.5rem;margin:.2rem 0}
.sklrp-report h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
.sklrp-report table{border-collapse:collapse;width:100%}
.sklrp-report td,.sklrp-report th{padding:.35rem .6rem;border-bottom:1px solid #ddd;
  text-align:left;vertical-align:top}
.sklrp-report td.number{white-space:nowrap;font-variant-numeric:tabular-nums}
.sklrp-report .verdict{font-weight:600}
.sklrp-report img{max-width:100%;height:auto}
.sklrp-report .advice{color:#444}
"""
_SUMMARY = {
    "fact": (
        "None of the known artifacts was found, and the map depends on what the network learned. "
        "That is no proof that the map is true."
    ),
    "artifact": "At least one test shows that the map is not what was learned of the data.",
    "undecided": "No test found an artifact, but some were inconclusive.",
}


class Report(Protocol):
    """What a page shows of a report."""

    tests: dict[str, Finding]
    subject: str
    assumptions: list[str]
    verdict: str
    cautions: list[str]
    reasons: list[str]
    sentence: str


def render(report: Report, *, page: bool) -> str:
    """Return the report as HTML: a whole page, or a part for a notebook."""
    body = "\n".join(
        [
            f"<style>{_STYLE}</style>",
            '<div class="sklrp-report">',
            f"<h1>Fact or artifact? {_verdict(report.verdict)}</h1>",
            f"<p>{escape(report.subject)}</p>",
            f"<p>{_SUMMARY[report.verdict]}</p>",
            *(f"<p>{escape(said)}</p>" for said in report.assumptions),
            _reasons(report),
            "<h2>Tests</h2>",
            _table(report),
            *_pictures(report),
            "</div>",
        ]
    )
    if not page:
        return body
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Fact or artifact? {report.verdict}</title></head>\n<body>\n{body}\n</body></html>"
    )


def _verdict(verdict: str) -> str:
    return f'<span class="verdict" style="color:{_COLOURS[verdict]}">{verdict}</span>'


def _reasons(report: Report) -> str:
    """Return what to do, test by test, worst first."""
    names = [*report.reasons, *report.cautions]
    if not names:
        return ""
    rows = (
        f"<li><b>{escape(name)}</b>{'' if name in report.reasons else ' (a caution)'}: "
        f"{escape(report.tests[name].advice)}</li>"
        for name in names
    )
    return "<h2>What to do</h2><ul>" + "".join(rows) + "</ul>"


def _table(report: Report) -> str:
    rows = []
    for name, test in report.tests.items():
        low, high = test.interval
        null = "–" if np.isnan(test.usual) else f"{test.usual:.3g}"
        rows.append(
            f"<tr><td><b>{escape(name)}</b><br>{escape(test.question)}</td>"
            f"<td>{_verdict(test.verdict)}</td>"
            f'<td class="number">{test.statistic:.3g}<br>[{low:.3g}, {high:.3g}]</td>'
            f'<td class="number">{null}</td><td>{escape(test.reading)}</td></tr>'
        )
    head = "<tr><th>test</th><th>verdict</th><th>statistic [95 %]</th><th>null</th><th></th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _pictures(report: Report) -> list[str]:
    """Return the maps, the profiles and the randomisation of layers as pictures."""
    captions = {
        "fading": "Where relevance lies along the axes of a sample.",
        "randomization": "How alike the map stays as layers are drawn at random, from the last.",
    }
    try:
        plt = import_optional("matplotlib.pyplot", extra="plot", user="A picture")
    except ImportError as error:
        return [f"<p>{escape(str(error))}</p>"]
    parts = []
    for name, caption in captions.items():
        if name in report.tests:
            display = report.tests[name].plot()
            source = _encode(display.figure_)
            plt.close(display.figure_)
            parts.append(
                f'<h2>{name.capitalize()}</h2><img alt="{escape(caption)}" '
                f'src="data:image/png;base64,{source}"><p>{escape(caption)}</p>'
            )
    return parts


def _encode(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
