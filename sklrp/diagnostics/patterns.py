"""Look for the patterns that architectures and data leave, and confirm what they explain.

`diagnose` and `artifact_map` run these tests. A pattern alone convicts no map: a sound one may
lean, or be weak at a border. It is *confirmed* where the data, by themselves, say what the map
does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklrp.diagnostics.borders import EDGE
from sklrp.diagnostics.common_form import cosines, share_on
from sklrp.diagnostics.constant_cells import fixed_cells
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.information import find_information
from sklrp.diagnostics.other_networks import has_nulls
from sklrp.diagnostics.outliers import outlying_cells
from sklrp.diagnostics.periods import find_prominence
from sklrp.diagnostics.positions import has_profile, positions
from sklrp.diagnostics.suppressors import find_suppressors

# Conventions: nobody has measured or derived them.
_MOST = 0.25  # of the relevance or of the skill: what a pattern must have, or must not
_FOLLOWS = 0.6  # the cosine of maps and contributions where an offset does no harm
_HALF = 0.5  # of the input's share of informative cells
_STARVED, _FED = 0.8, 1.5  # times its share of the information, at a border


def find_patterns(explained: Explained, n_draws: int) -> list[Finding]:
    """Return the findings on all patterns that the samples can have, each with ``confirmed``."""
    found = [fixed_cells(explained)]
    if has_nulls(explained):
        found.append(outlying_cells(explained, n_draws))
        if has_profile(explained):
            found += positions(explained, n_draws)
    information = find_information(explained)
    if explained.all_y is not None:
        found.append(find_suppressors(explained, information))
    for finding in found:
        finding["confirmed"] = finding.verdict == "artifact" and _CONFIRM[finding.name](
            explained, finding, information
        )
    return found


def _constant(explained: Explained, finding: Finding, information: NDArray | None) -> bool:
    """Cells of one value tell no classes apart; an offset does if the score does not follow it."""
    if finding["kind"] == "fixed":
        return bool(finding.statistic > _MOST)
    n = len(explained.X)
    follows = cosines(explained.maps.reshape(n, -1), explained.contributions.reshape(n, -1))
    return bool(np.nan_to_num(follows).mean() < _FOLLOWS)


def _outliers(explained: Explained, finding: Finding, information: NDArray | None) -> bool:
    """Most of the relevance lies on outlying cells, and hardly any of the skill."""
    if explained.all_y is None or not finding["cells"].any():
        return False
    skill = explained.decomposition.cells["skill"]
    there = skill[finding["cells"]].sum()
    return bool(there < _MOST * max(skill.sum(), 0.0))


def _fading(explained: Explained, finding: Finding, information: NDArray | None) -> bool:
    """The map has less relevance where the data tell the labels apart than the input has."""
    if information is None:
        return False
    telling = information.ravel() > 0
    own = share_on(explained.maps, telling).mean()
    return bool(own < _HALF * share_on(explained.departures, telling).mean())


def _border(explained: Explained, finding: Finding, information: NDArray | None) -> bool:
    """The ends of an axis say as much as its middle, and have another share of the relevance."""
    if information is None:
        return False
    ends, n = [slice(None, EDGE), slice(-EDGE, None)], explained.frame.axes[finding["axis"]]
    profile = _along(explained, information, finding["axis"])
    even = EDGE / n
    if finding["kind"] == "more":
        return bool(finding.statistic > _FED * min(profile[e].sum() for e in ends) / even)
    return bool(finding.statistic < _STARVED * sum(profile[e].sum() for e in ends) / (2 * even))


def _grid(explained: Explained, finding: Finding, information: NDArray | None) -> bool:
    """What the data tell has no such period."""
    if information is None:
        return False
    profile = _along(explained, information, finding["axis"])
    return bool(find_prominence(profile)[finding["period"]] < _MOST * finding.statistic)


def _suppressor(explained: Explained, finding: Finding, information: NDArray | None) -> bool:
    """What it asks is confirmation enough."""
    return True


_CONFIRM = {
    "suppressor": _suppressor,
    "constant": _constant,
    "outliers": _outliers,
    "fading": _fading,
    "border": _border,
    "grid": _grid,
}


def _along(explained: Explained, information: NDArray, axis: int) -> NDArray[np.float64]:
    """Return the share of the information at each position of an axis."""
    shares = explained.on_axes(information[np.newaxis])[0]
    return shares.sum(axis=tuple(i for i in range(shares.ndim) if i != axis))
