"""What a test of a map found: a statistic beside its null, a verdict and advice.

Every function of `sklrp.diagnostics` that tests maps returns a `Finding`, and comes to its verdict
by `bootstrap` and `judge`. It can be drawn by the class that `drawn_by` was told, which computes
findings too and so cannot be imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from sklrp._checks import import_optional
from sklrp._constraints import AXES, constrained


class Finding(Bunch):  # numpydoc ignore=PR02
    """The outcome of one test of a relevance map.

    A dictionary whose entries are attributes too, as in scikit-learn's `Bunch`.

    Parameters
    ----------
    **entries : dict
        The attributes.

    Attributes
    ----------
    name : str
        Name of the test.
    question : str
        What the test asks.
    statistic : float
        The number that the verdict rests on.
    interval : tuple of float
        Its 95 % interval.
    null : ndarray
        The statistic where there is nothing to find: of null models, of permuted labels or of the
        input itself.
    verdict : {"fact", "artifact", "undecided"}
        ``"artifact"`` where the architecture, the rule or the data's coding alone give such a
        map, ``"fact"`` where they do not, ``"undecided"`` between.
    reading : str
        The statistic in words.
    advice : str
        What to change, in one sentence; empty for a fact.
    caution : str
        What to keep in mind, with numbers, also of a fact; missing where there is nothing.
    tested : str
        What the verdict rests on where the statistic is the size of an effect; else missing.
    table : dict of str to ndarray
        What `to_frame` shows: columns of one length.
    frame : Frame
        What a sample is: its axes, its grid and the names of its features, by which maps are
        drawn.
    """

    _display: ClassVar[Any]  # what draws findings, see `drawn_by`

    def __repr__(self) -> str:
        """Return the finding in a line or two."""
        number = f"{say_number(self.statistic)} {say_interval(self)}".rstrip()
        lines = [
            f"{self.name}: {self.verdict}",
            f"  {self.question}",
            f"  {number}: {self.reading}",
        ]
        return "\n".join([*lines, f"  {words_of(self)}"] if words_of(self) else lines)

    @property
    def usual(self) -> float:
        """The median of the null, NaN if there is none."""
        null = np.asarray(self.null, dtype=float)
        return float(np.nanmedian(null)) if np.isfinite(null).any() else float("nan")

    def to_frame(self) -> Any:
        """Return the arrays behind the finding as a table.

        Returns
        -------
        pandas.DataFrame
            One row per draw, layer, position or transformation, as the test has them.
        """
        pd = import_optional("pandas", extra="plot", user="to_frame")

        return pd.DataFrame(self.table)

    @constrained({"ax": AXES})
    def plot(self, *, ax: Any = None) -> Any:
        """Draw the finding: a map, a profile, or the statistic beside its null.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ArtifactDisplay
            The display, which keeps the artists.
        """
        return self._display.from_finding(self, ax=ax)


def words_of(finding: Finding) -> str:
    """Return what a reader is told of a finding: its caution, else its advice."""
    return str(finding.get("caution") or finding.advice)


def say_number(value: float) -> str:
    """Return a number as it is printed: a dash where nothing could be told."""
    return "–" if np.isnan(value) else f"{value:.3g}"


def say_interval(finding: Finding) -> str:
    """Return the interval of a finding as it is printed, nothing where it has no number."""
    ends = (finding.statistic, *finding.interval)
    if np.isnan(ends).any():
        return ""
    return f"[{finding.interval[0]:.3g}, {finding.interval[1]:.3g}]"


_Display = TypeVar("_Display", bound=type)


def drawn_by(display: _Display) -> _Display:
    """Decorate the class that draws findings, by its method ``from_finding(finding, ax=...)``."""
    Finding._display = display
    return display


def judge(interval: tuple[float, float], *, artifact_above: float, fact_below: float) -> str:
    """Return the verdict on a statistic that is large where a map is an artifact."""
    low, high = interval
    if low >= artifact_above:
        return "artifact"
    return "fact" if high <= fact_below else "undecided"


def bootstrap(
    values: NDArray,
    rng: np.random.Generator,
    statistic: Callable[..., NDArray] = np.mean,
    n_draws: int = 1000,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of values, resampled along axis 0."""
    rows = rng.integers(len(values), size=(n_draws, len(values)))
    drawn = statistic(values[rows], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
