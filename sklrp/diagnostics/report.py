"""All findings on the maps of a model, and the verdict on them.

`diagnose` makes an `ArtifactReport`; it prints as a table, and can be drawn and written as a page.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sklrp._checks import import_optional
from sklrp._constraints import AXES, constrained
from sklrp._files import replacing
from sklrp.diagnostics.findings import Finding, say_interval, say_number, words_of
from sklrp.diagnostics.page import SIGNS, render

# The questions, in the order in which they are asked, and the tests that answer them.
QUESTIONS = {
    "skilled": "skilled",
    "true": "true",
    "learned": "randomization",
    "used": "used",
    "stable": "stable",
    "placed": "equivariance",
    "coherent": "coherent",
}
# Tests that convict. So do patterns that were confirmed; others are names of causes.
CONVICT = (
    "skilled",
    "true",
    "randomization",
    "used",
    "degeneracy",
    "bias",
    "mask",
    "audit",
    "equivariance",
)
# What must say fact before the report does, and what is open while it does not.
NEEDED = {
    "skilled": "the network is skilled",
    "true": "its maps are true",
    "used": "they show what is used",
}


class _Tests(dict[str, Finding]):
    """Findings by the name of their test; the question that it answers finds it too."""

    def __missing__(self, name: str) -> Finding:
        test = QUESTIONS.get(name, name)
        if test not in self:
            raise KeyError(name)
        return self[test]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(QUESTIONS.get(str(name), name))

    def get(self, name: str, default: Any = None) -> Any:
        """Return the finding of a test or question, or the default."""
        try:
            return self[name]
        except KeyError:
            return default


class ArtifactReport:
    """What `diagnose` found.

    Parameters
    ----------
    tests : list of Finding
        The findings.
    subject : str
        What was explained, in words.
    assumptions : sequence of str, default=()
        What the verdict takes for granted, and which tests were left out, in sentences.
    picture : Finding or None, default=None
        The map with its grades, of `artifact_map`.

    Attributes
    ----------
    tests : dict of str to Finding
        The findings by name, each with ``statistic``, ``null``, ``interval``, ``verdict``,
        ``reading`` and ``advice``. A question finds the test that answers it: ``tests["learned"]``
        is the test ``randomization``, ``tests["placed"]`` the test ``equivariance``.
    questions : dict of str to Finding
        The findings that answer the questions asked: ``skilled``, ``true``, ``learned``, ``used``,
        ``stable``, ``placed`` and ``coherent``.
    verdict : {"fact", "artifact", "undecided"}
        ``"artifact"`` if a test convicts; ``"fact"`` if the network is skilled and its maps are
        true and used; else ``"undecided"``.
    reasons : list of str
        What the verdict rests on, if it is not fact: questions, and names of tests that answer
        none, as they are printed; outliers come first, as the cause of what other tests see.
        ``tests`` has the finding of each.
    cautions : list of str
        The others that did not say fact, or have words of ``caution``: what to keep in mind.
    sentence : str
        The answer.
    subject : str
        What was explained, in words.
    assumptions : list of str
        What the verdict takes for granted, and which tests were left out.
    picture : Finding or None
        The map with its grades.
    """

    def __init__(
        self,
        tests: list[Finding],
        subject: str,
        assumptions: Sequence[str] = (),
        picture: Finding | None = None,
    ) -> None:
        self.assumptions = list(assumptions)
        self.tests: dict[str, Finding] = _Tests({test.name: test for test in tests})
        self.questions = {
            q: self.tests[name] for q, name in QUESTIONS.items() if name in self.tests
        }
        self.subject = subject
        self.picture = picture
        self.verdict, names = self._judge()
        self.reasons = [_question_of(name) for name in names if name in self.tests]
        self.cautions = [
            _question_of(name)
            for name, test in self.tests.items()
            if (test.verdict != "fact" or test.get("caution")) and name not in names
        ]
        self.sentence = self._answer(names)

    def _judge(self) -> tuple[str, list[str]]:
        """Return the verdict and the names of what it rests on, of tests not run as well."""
        convicting = [name for name in CONVICT if self._says(name) == "artifact"]
        convicting += [name for name, test in self.tests.items() if test.get("confirmed")]
        if convicting:  # what the other tests see of outliers has them as its cause
            cause = ["outliers"] if self._says("outliers") == "artifact" else []
            return "artifact", [*cause, *(name for name in convicting if name not in cause)]
        left = [name for name in NEEDED if self._says(name) != "fact"]
        return ("undecided", left) if left else ("fact", [])

    def _says(self, name: str) -> str:
        """Return the verdict of a test, or that there was none."""
        return self.tests[name].verdict if name in self.tests else "none"

    def _answer(self, names: Sequence[str]) -> str:
        """Return the answer in one sentence."""
        if self.verdict == "fact":
            known = "randomization" in self.tests
            others = "the input and untrained networks do" if known else "the input does"
            size = ""
            if self.tests["true"].get("caution"):
                others += (
                    " if all cells are weighed by their skill, though the cells found one by one "
                    "do not show it"
                )
            if self.tests["used"].get("unsigned"):
                size = " They have no negative values, and so do not say for or against what."
            return (
                "Fact: the network knows something of samples that it never saw, and its maps "
                f"show where, more than {others}.{size}"
            )
        if self.verdict == "artifact":
            return f"Artifact: {self.tests[names[0]].advice}"
        return f"Undecided: not told whether {' and '.join(NEEDED[name] for name in names)}."

    def to_frame(self) -> Any:
        """Return a table of the tests.

        Returns
        -------
        pandas.DataFrame
            A row per test: statistic, interval, median of the null, verdict and advice.
        """
        pd = import_optional("pandas", extra="plot", user="to_frame")

        rows = {
            _question_of(name): {
                "verdict": test.verdict,
                "statistic": test.statistic,
                "low": test.interval[0],
                "high": test.interval[1],
                "null": test.usual,
                "caution": _question_of(name) in self.cautions,
                "reading": test.reading,
                "advice": test.advice,
            }
            for name, test in self.tests.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("test")

    def __repr__(self) -> str:
        """Return the answer, a line per question and test, and what to do."""
        lines = [self.sentence, f"  {self.subject}"]
        for name, test in self.tests.items():
            answer = test.verdict if name in QUESTIONS.values() else SIGNS[test.verdict]
            null = "" if np.isnan(test.usual) else f"  null {test.usual:.3g}"
            interval = f" {say_interval(test)}".rstrip()
            tested = f"  (tested: {test['tested']})" if "tested" in test else ""
            lines.append(
                f"  {_question_of(name):<14}{answer:<14}{say_number(test.statistic):>8}"
                f"{interval}{null}{tested}"
            )
        lines += [f"{name}: {words_of(self.tests[name])}" for name in self.reasons]
        if self.cautions:
            lines.append(f"To keep in mind: {', '.join(self.cautions)}")
            lines += [
                f"  {name}: {self.tests[name]['caution']}"
                for name in self.cautions
                if self.tests[name].get("caution")
            ]
        return "\n".join([*lines, *(f"Assumed: {said}" for said in self.assumptions)])

    def _repr_html_(self) -> str:
        return render(self, page=False)

    @constrained()
    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as one self-contained page.

        Parameters
        ----------
        path : str or path-like
            The file; it is replaced only when the page is complete.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        page = render(self, page=True)
        with replacing(path) as part:
            part.write_text(page, encoding="utf-8")
        return Path(path)

    @constrained({"ax": AXES})
    def plot(self, *, ax: Any = None) -> Any:
        """Draw the map with its grades, the skill map, and the map's mass on true cells.

        Parameters
        ----------
        ax : array of matplotlib.axes.Axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ArtifactDisplay
            The display, which keeps the artists.

        Raises
        ------
        ValueError
            If there is no picture, as without labels.
        """
        if self.picture is None:
            raise ValueError("there is no graded map without labels: give y to diagnose.")
        return self.picture.plot(ax=ax)


def _question_of(name: str) -> str:
    """Return the question that a test answers, else its own name."""
    return next((question for question, test in QUESTIONS.items() if test == name), name)
