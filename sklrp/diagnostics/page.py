"""A report as a page: the answer, the picture, what to do, then what was asked and found.

`ArtifactReport` calls `render` for its file and for notebooks. The page is one file, its pictures
within.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from typing import Protocol

from sklrp._checks import import_optional
from sklrp.diagnostics.findings import Finding, say_interval, say_number, words_of

_COLOURS = {"fact": "#00664b", "artifact": "#b3261e", "undecided": "#5f6368"}
_ANSWERS = {"fact": "yes", "artifact": "no", "undecided": "not told"}
# Of causes, which a fact has not.
SIGNS = {"fact": "no sign of it", "artifact": "found", "undecided": "not told"}
_STYLE = """
.sklrp-report{font:15px/1.45 system-ui,sans-serif;color:#1b1b1b;background:#fff;max-width:60rem}
.sklrp-report h1{font-size:1.4rem;line-height:1.3;margin:.2rem 0;padding-left:.7rem;
  border-left:.4rem solid}
.sklrp-report h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
.sklrp-report table{border-collapse:collapse;width:100%}
.sklrp-report table td,.sklrp-report table th{padding:.35rem .6rem;
  border-bottom:1px solid #ddd;text-align:left;vertical-align:top;white-space:normal}
.sklrp-report table td.number{white-space:nowrap;font-variant-numeric:tabular-nums}
.sklrp-report .verdict{font-weight:600}
.sklrp-report img{max-width:100%;height:auto}
.sklrp-report .subject,.sklrp-report .caption{color:#444}
.sklrp-report dt{font-weight:600;margin-top:.4rem}
.sklrp-report dd{margin-left:1.2rem}
.sklrp-report summary{cursor:pointer;font-weight:600;margin:1rem 0 .4rem}
.sklrp-report details>div{max-height:32rem;overflow:auto}
"""
# What is asked, in the order of the page, and what its number says.
_QUESTIONS = {
    "skilled": (
        "Does the model know anything of samples that it never saw?",
        "Balanced accuracy, or the correlation of predictions and values, on samples that were "
        "held out. High is good; the null is what chance gives. The answer rests on the mean "
        "score of the truth, tested against permuted labels: a network may rank samples well and "
        "still predict at chance.",
    ),
    "true": (
        "Does relevance lie where the network's skill is?",
        "0: the map lies no closer to the skill than the input, or an untrained network's map, "
        "does. 1: as close as the network's own contributions. Below 0: farther away. All cells "
        "count by their skill, whether found one by one or not, and below 0 too; the shares on "
        "true cells stand beside it, and decide only where places tell little.",
    ),
    "learned": (
        "Does the map depend on what was learned?",
        "How alike the map is to maps of the same network with its parameters drawn at random. "
        "High is bad: such a map was there before training.",
    ),
    "used": (
        "Do the cells that the map names move the score?",
        "The cosine of the map and of what each cell adds to the score. 1: the same; 0: nothing "
        "in common; below 0: the reverse. The null has the maps of networks that know nothing.",
    ),
    "stable": (
        "Would another seed show the same?",
        "The correlation of the mean maps of networks that were trained with other random states. "
        "High is good; what changes from seed to seed is no property of the data. In place of a "
        "null there are networks that were trained on halves of the training data.",
    ),
    "placed": (
        "Does relevance follow the object when the training data are flipped or moved?",
        "How well the map of a network trained on flipped or moved data agrees with the flipped "
        "or moved map. High is good.",
    ),
    "coherent": (
        "Is it the pattern, or any field of such a spectrum?",
        "How alike the map is to maps of surrogate samples, which keep the spectrum but not the "
        "pattern. High is bad. In place of a null there are two halves of the samples.",
    ),
}
_WORDS = {
    "number [95 %]": (
        "The number that the answer rests on, with an interval that holds it in 95 of 100 such "
        "samples. A wide interval means few samples."
    ),
    "null": (
        "The same number where there is nothing to find: of permuted labels, of networks that "
        "learned nothing, or of the input. A number that is not beyond it says nothing."
    ),
    "not told": (
        "The test could not tell. That is no evidence for an artifact, nor against one: more "
        "held-out samples may tell."
    ),
    "dots, outline, hatching": (
        "An outline goes round cells that carry skill: what they add to the score follows the "
        "truth of samples that the network never saw. Dots are facts: such a cell stands out in "
        "the map against maps of networks that learned nothing. Outlined without dots, it does "
        "not: the rule misses it, or any network shows it. Hatched cells have relevance that says "
        "nothing of the truth by itself: noise that was fitted, or what the network rightly uses "
        "to correct other cells. Crossed lines are on cells that speak against the truth. Cells "
        "without a mark are background."
    ),
    "mass": (
        "The share of the map on cells that carry skill. It tells something only beside the "
        "share of the input there and of maps of networks that learned nothing. The answer of "
        "true weighs all cells instead, so that the two may disagree where few cells were found."
    ),
}


class Report(Protocol):
    """What a page shows of a report."""

    sentence: str
    verdict: str
    subject: str
    tests: dict[str, Finding]
    questions: dict[str, Finding]
    reasons: list[str]
    cautions: list[str]
    assumptions: list[str]
    picture: Finding | None


def render(report: Report, *, page: bool) -> str:
    """Return the report as HTML: a whole page, or a part for a notebook."""
    asked = {id(test) for test in report.questions.values()}
    causes = {name: test for name, test in report.tests.items() if id(test) not in asked}
    body = "\n".join(
        [
            f"<style>{_STYLE}</style>",
            '<div class="sklrp-report">',
            f'<h1 style="border-color:{_COLOURS[report.verdict]}">{escape(report.sentence)}</h1>',
            f'<p class="subject">{escape(report.subject)}</p>',
            *_picture(report.picture),
            *_to_do(report),
            "<h2>What was asked</h2>",
            _table(_rows_of_questions(report.questions), "question", "answer"),
            # A notebook shows what does not fit on a screen when it is asked for.
            "" if page else "<details><summary>Tests, assumptions, how to read it</summary><div>",
            *_tests(causes, report.questions),
            "<h2>What is taken for granted</h2>",
            _list(escape(said) for said in report.assumptions),
            "<h2>How to read it</h2>",
            _legend(report.questions),
            "" if page else "</div></details>",
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


def _picture(finding: Finding | None) -> list[str]:
    """Return the map with its grades, which needs labels."""
    if finding is None:
        return ["<p>Without labels there is no graded map: give y.</p>"]
    return _embed(finding, "The mean map by its grades, the skill, and the map's mass.")


def _to_do(report: Report) -> list[str]:
    """Return what to do about the tests that the verdict rests on, and what to keep in mind."""
    asked = {id(test): question for question, test in report.questions.items()}
    parts = []
    for title, names in (("What to do", report.reasons), ("To keep in mind", report.cautions)):
        tests = {name: report.tests[name] for name in names if words_of(report.tests[name])}
        if tests:
            parts.append(f"<h2>{title}</h2>")
            parts.append(
                _list(
                    f"<b>{escape(asked.get(id(test), name))}</b>: {escape(words_of(test))}"
                    for name, test in tests.items()
                )
            )
    return parts


def _rows_of_questions(questions: Mapping[str, Finding]) -> list[str]:
    """Return a row for each question, those that were not asked too."""
    rows = []
    for name, (question, _) in _QUESTIONS.items():
        if name in questions:
            found = questions[name]
            rows.append(_row(name, found, _ANSWERS[found.verdict]))
        else:
            rows.append(
                f"<tr><td><b>{name}</b><br>{escape(question)}</td><td>not asked</td><td></td>"
                "<td></td><td></td></tr>"
            )
    return rows


def _tests(causes: Mapping[str, Finding], questions: Mapping[str, Finding]) -> list[str]:
    """Return the other tests, which name causes, and where relevance lies along the axes."""
    if not causes:
        return []
    rows = [_row(name, test, SIGNS[test.verdict]) for name, test in causes.items()]
    parts = ["<h2>Tests for causes</h2>", _table(rows, "test", "sign")]
    drawn = [test for test in causes.values() if "profiles" in test][:1]
    if "learned" in questions and "layer_similarity" in questions["learned"]:
        drawn.append(questions["learned"])
    captions = {
        True: "Where relevance lies along the axes of a sample.",
        False: "How alike the map stays as layers are drawn at random, from the last.",
    }
    for test in drawn:
        parts += _embed(test, captions["profiles" in test])
    return parts


def _row(name: str, test: Finding, answer: str) -> str:
    null = say_number(test.usual)
    said = f'<span class="verdict" style="color:{_COLOURS[test.verdict]}">{answer}</span>'
    return (
        f"<tr><td><b>{escape(name)}</b><br>{escape(test.question)}</td><td>{said}</td>"
        f'<td class="number">{say_number(test.statistic)}<br>{say_interval(test)}</td>'
        f'<td class="number">{null}</td><td>{escape(test.reading)}</td></tr>'
    )


def _table(rows: list[str], first: str, second: str) -> str:
    names = (first, second, "number [95 %]", "null", "the number is")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _legend(questions: Mapping[str, Finding]) -> str:
    """Return what each number means, in plain words."""
    words = {name: _QUESTIONS[name][1] for name in _QUESTIONS if name in questions} | _WORDS
    said = (f"<dt>{escape(n)}</dt><dd>{escape(text)}</dd>" for n, text in words.items())
    return "<dl>" + "".join(said) + "</dl>"


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _embed(finding: Finding, caption: str) -> list[str]:
    """Return the picture of a finding, or what is missing to draw it."""
    try:
        plt = import_optional("matplotlib.pyplot", extra="plot", user="A picture")
    except ImportError as error:
        return [f"<p>{escape(str(error))}</p>"]
    display = finding.plot()
    buffer = io.BytesIO()
    display.figure_.savefig(buffer, format="png", dpi=110)
    plt.close(display.figure_)
    source = base64.b64encode(buffer.getvalue()).decode("ascii")
    return [
        f'<img alt="{escape(caption)}" src="data:image/png;base64,{source}">'
        f'<p class="caption">{escape(caption)}</p>'
    ]
