"""All findings on the maps of a model, and the verdict on them.

`diagnose` makes an `ArtifactReport`; it prints as a table, and can be drawn and written as a page.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklrp._checks import import_optional
from sklrp._files import replacing
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.nulls import NULLS
from sklrp.diagnostics.page import render

# Tests that say what to keep in mind, but convict no map: one that loses relevance to biases, or
# that another sweep would change, can still be right.
CAUTIONS = (
    *(null.finding for null in NULLS.values() if not null.convicts),
    "map",
    "bias",
    "equivariance",
)


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

    Attributes
    ----------
    tests : dict of str to Finding
        The findings by name, each with ``statistic``, ``null``, ``interval``, ``verdict`` and
        ``advice``.
    verdict : {"fact", "artifact", "undecided"}
        ``"artifact"`` if any test says so, ``"fact"`` if all do, else ``"undecided"``; tests among
        `cautions` are left out.
    cautions : list of str
        Names of the tests that convict no map but did not say fact either.
    subject : str
        What was explained, in words.
    assumptions : list of str
        What the verdict takes for granted, and which tests were left out.
    """

    def __init__(
        self, tests: list[Finding], subject: str, assumptions: Sequence[str] = ()
    ) -> None:
        self.assumptions = list(assumptions)
        self.tests = {test.name: test for test in tests}
        self.subject = subject
        self.cautions = [n for n in CAUTIONS if n in self.tests and self._says(n) != "fact"]
        said = {test.verdict for name, test in self.tests.items() if name not in CAUTIONS}
        self.verdict = next(v for v in ("artifact", "undecided", "fact") if v in said)

    def _says(self, name: str) -> str:
        return self.tests[name].verdict

    @property
    def reasons(self) -> list[str]:
        """The names of the tests that the verdict rests on, if it is not fact."""
        return [
            name
            for name in self.tests
            if name not in CAUTIONS and self._says(name) == self.verdict != "fact"
        ]

    def to_frame(self) -> Any:
        """Return a table of the tests.

        Returns
        -------
        pandas.DataFrame
            A row per test: statistic, interval, median of the null, verdict and advice.
        """
        pd = import_optional("pandas", extra="plot", user="to_frame")

        rows = {
            name: {
                "verdict": test.verdict,
                "statistic": test.statistic,
                "low": test.interval[0],
                "high": test.interval[1],
                "null": test.usual,
                "caution": name in CAUTIONS,
                "reading": test.reading,
                "advice": test.advice,
            }
            for name, test in self.tests.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("test")

    def __repr__(self) -> str:
        """Return the verdict and a line per test."""
        lines = [f"{self.verdict.upper()}: {self.subject}"]
        for name, test in self.tests.items():
            low, high = test.interval
            mark = "*" if name in CAUTIONS else " "
            lines.append(
                f" {mark}{name:<14}{test.verdict:<10}{test.statistic:8.3g} "
                f"[{low:.3g}, {high:.3g}]  null {test.usual:.3g}"
            )
        lines += [f"{name} ({self.verdict}): {self.tests[name].advice}" for name in self.reasons]
        if self.cautions:
            lines.append(
                f"* caution only, does not count for the verdict; see {', '.join(self.cautions)}"
            )
        return "\n".join([*lines, *self.assumptions])

    def _repr_html_(self) -> str:
        return render(self, page=False)

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

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the mean map, what of it is fact and what is artifact.

        Parameters
        ----------
        ax : array of 3 matplotlib.axes.Axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ArtifactDisplay
            The display, which keeps the artists.
        """
        return self.tests["map"].plot(ax=ax)
