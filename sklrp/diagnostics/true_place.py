"""Ask whether relevance lies where the network's skill is, more than without learning.

`diagnose` runs this test, and `artifact_map` shows it cell by cell. Skill is what held-out labels
say; it depends neither on the rule nor on the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp.diagnostics.common_form import share_on, with_relevance
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding, bootstrap
from sklrp.diagnostics.other_networks import has_nulls, null_maps, why_not_drawn
from sklrp.skill import Decomposition

# Of the way to where contributions lie: more than the first is fact, less than the second an
# artifact. In the planted suite (183 sound maps, 48 that lie elsewhere) 19 of 20 sound maps get
# .5 of it and more, and none of the others .06; between the two the test says that it cannot tell.
_WAY = 0.25, 0.1
# Of a rival's skill: a loss of less is no fault of a map, as rules share out relevance otherwise
# than contributions do; and a gain of less than half leaves no room to part maps by place.
_TELLING = 0.1, 0.5
# Of the map on true cells, and times what rivals have there: where nearly all cells are true, four
# fifths are as much as sound maps have (the way cannot tell there), and a quarter more than the
# rivals is above the spread of untrained networks' own masses (.062 to .067, .09 to .11).
_NEARLY_ALL, _FAR_MORE = 0.8, 1.25
_BY_MASS = "as places tell little, the shares decide:"


@dataclass(frozen=True)
class Places:
    """Where the map, the input, untrained maps and contributions lie, as mean shares of cells.

    Attributes
    ----------
    of_map, of_input, of_use : ndarray of shape (n_cells,)
        Shares of the map, of the input's departures from the mean, and of contributions.
    of_nulls : ndarray of shape (n_nulls, n_cells)
        Shares of untrained networks' maps; none if maps were made elsewhere, or no network can
        be drawn anew.
    """

    of_map: NDArray[np.float64]
    of_input: NDArray[np.float64]
    of_use: NDArray[np.float64]
    of_nulls: NDArray[np.float64]


def share_places(explained: Explained, n_draws: int, null: str) -> Places:
    """Return where the map and what it is compared with lie."""
    n_cells = explained.X[0].size
    nulls = np.empty((0, n_cells))
    if has_nulls(explained, null):
        drawn = null_maps(explained, null, n_draws)
        nulls = np.array([_mean_shares(maps) for maps in drawn[with_relevance(drawn)]])
        nulls = nulls.reshape(-1, n_cells)
    return Places(
        _mean_shares(explained.maps),
        _mean_shares(explained.departures),
        _mean_shares(explained.contributions),
        nulls,
    )


def find_true(
    explained: Explained, n_draws: int, alpha: float = 0.05, null: str = "network"
) -> Finding:
    r"""Compare where the map lies with where the input and untrained networks' maps lie.

    With shares :math:`s_i` of a map on cells of skill :math:`T_i`, :math:`\sum_i s_i T_i` is the
    skill at its place. The statistic is the share of the way from a rival's to that of the
    network's own contributions,

    .. math:: w = \frac{\sum_i (s_i - r_i) T_i}{\sum_i (u_i - r_i) T_i},

    the least over both rivals r. No sum is a verdict unless permuted labels do not give it. Each
    cell counts by its skill, below 0 too and whether found true or not. So w and the shares on
    true cells may disagree, as where few cells were found; shares decide only where places tell
    little.

    Parameters
    ----------
    explained : Explained
        What is explained, with labels.
    n_draws : int
        Number of null models.
    alpha : float, default=0.05
        The level at which sums are told from those of permuted labels.
    null : str, default="network"
        Name of the null model.

    Returns
    -------
    Finding
        With ``mass``, ``mass_interval``, ``input_mass`` and ``null_mass``, the shares on true
        cells, and ``places``, all shares; ``rival``, from which w is counted, and ``by_mass``,
        whether the shares on true cells made the verdict. A fact by w whose mass is not above
        its rivals' has a ``caution`` that says so.
    """
    places = share_places(explained, n_draws, null)
    rivals = {"input": places.of_input}
    if len(places.of_nulls):
        rivals["untrained networks"] = places.of_nulls.mean(axis=0)
    decomposed = explained.decomposition
    ways = _find_ways(decomposed, places, list(rivals.values()), alpha)
    true = decomposed.cells["true"].ravel()
    masses = {
        "mass": share_on(explained.maps, true),
        "input_mass": float(places.of_input[true].sum()),
        "null_mass": places.of_nulls[:, true].sum(axis=1),
    }
    mass_interval = bootstrap(masses["mass"], explained.rng("true"))
    verdict, by_mass = _judge_place(ways, masses, mass_interval)
    advice = "" if verdict == "fact" else _advise_on_place(verdict, bool(ways.powerful.any()))
    if verdict == "fact" and not explained.is_given and not has_nulls(explained, null):
        verdict, advice, by_mass = "undecided", why_not_drawn(explained), False
    n_cells = int(np.count_nonzero(decomposed.with_data))
    mass = float(masses["mass"].mean())
    caution = {}
    usual = max(masses["input_mass"], masses["null_mass"].max(initial=0.0))
    if verdict == "fact" and not by_mass and mass <= usual:
        caution["caution"] = _caution_of_mass(mass, masses, int(true.sum()), n_cells)
    worst = int(np.nanargmin(ways.way)) if np.isfinite(ways.way).any() else 0
    low, high = _interval(ways.error[worst], ways.gain[worst], ways.possible[worst])
    untrained = f", untrained {np.median(masses['null_mass']):.2g}" if len(rivals) > 1 else ""
    return explained.finding(
        name="true",
        question="Does relevance lie where the network's skill is?",
        statistic=float(ways.way[worst]),
        interval=(low, high),
        null=np.zeros(len(rivals)),
        verdict=verdict,
        reading=(
            f"of the way from the {list(rivals)[worst]} to the network's own contributions, all "
            f"cells weighed by their skill; {_BY_MASS if by_mass else 'beside it,'} on the "
            f"{true.sum()} true of {n_cells} cells lie {mass:.2g} of |relevance|, "
            f"{masses['input_mass']:.2g} of the input{untrained}"
            if ways.powerful.any()
            else f"skill is not told apart from place to place ({true.sum()} true cells)"
        ),
        advice=advice,
        **caution,
        rival=list(rivals)[worst],
        by_mass=by_mass,
        mass=mass,
        mass_interval=mass_interval,
        input_mass=masses["input_mass"],
        null_mass=masses["null_mass"],
        places=places,
        table={
            "rival": np.array(list(rivals)),
            "gain": ways.gain,
            "possible": ways.possible,
            "way": ways.way,
            "p_value": ways.p_value,
        },
    )


@dataclass(frozen=True)
class _Ways:
    """How far maps get from each rival's place to that of contributions, by the skill there."""

    gain: NDArray[np.float64]
    error: NDArray[np.float64]
    p_value: NDArray[np.float64]
    possible: NDArray[np.float64]
    way: NDArray[np.float64]
    powerful: NDArray[np.bool_]  # where contributions are told from the rival
    telling: NDArray[np.bool_]  # and by much
    beaten: NDArray[np.bool_]  # where the map is told to be better
    lost: NDArray[np.bool_]  # where it is told to be worse, by much
    has_skill: bool


def _find_ways(
    decomposed: Decomposition, places: Places, rivals: list[NDArray], alpha: float
) -> _Ways:
    """Weigh places by the skill of their cells, and test the differences."""
    sums = [s for r in rivals for s in (places.of_map - r, places.of_use - r)]
    test = decomposed.weigh(np.stack(sums, axis=1))
    gain, possible = test.skill[::2], test.skill[1::2]
    skill = decomposed.cells["skill"].ravel()
    has_skill = decomposed.total > 0 and decomposed.p_value <= alpha  # else it has no place
    told, could_be_told = (test.p_value[k::2] <= alpha for k in (0, 1))
    powerful = has_skill & could_be_told & (possible > 0)
    beaten = told & (gain > 0)
    if len(places.of_nulls):  # as good as the best of them is no better than they
        beaten[-1] &= places.of_map @ skill > np.quantile(places.of_nulls @ skill, 0.95)
    # Where nearly all cells are true every place has about the same skill: sizes count, too.
    there = np.array([skill @ r for r in rivals])
    # What the network's own contributions lose as well is no fault of the map: an untrained
    # transformer that is read at the last day has its relevance there, where the skill is largest.
    lost = (
        has_skill & told & (gain < np.minimum(-_TELLING[0] * there, 0.0)) & (possible > gain / 2)
    )
    way = np.divide(gain, possible, out=np.full(len(gain), np.nan), where=powerful)
    # A share of the rival's skill, instead.
    np.divide(gain, there, out=way, where=lost & ~powerful)
    telling = powerful & (possible > _TELLING[1] * there)
    return _Ways(
        gain,
        test.error[::2],
        test.p_value[::2],
        possible,
        way,
        powerful,
        telling,
        beaten,
        lost,
        has_skill,
    )


def _judge_place(
    ways: _Ways, masses: dict[str, Any], mass_interval: tuple[float, float]
) -> tuple[str, bool]:
    """Return the verdict on the way that maps get, or by their mass where places tell little."""
    if ways.lost.any() or (ways.telling & (ways.way < _WAY[1])).any():
        return "artifact", False
    if (ways.beaten & ways.powerful & (ways.way > _WAY[0])).all():
        return "fact", False
    may_be = ways.has_skill and not ways.telling.any()
    by_mass = bool(may_be and _lies_on_true_cells(masses, mass_interval))
    return ("fact" if by_mass else "undecided"), by_mass


def _lies_on_true_cells(masses: dict[str, Any], interval: tuple[float, float]) -> bool:
    """Tell whether maps lie on true cells, nearly all or far more than rivals."""
    nulls = masses["null_mass"]
    usual = max(masses["input_mass"], np.quantile(nulls, 0.95) if len(nulls) else 0.0)
    return bool(masses["mass"].mean() > _NEARLY_ALL or interval[0] > _FAR_MORE * usual > 0)


def _caution_of_mass(mass: float, masses: dict[str, Any], n_true: int, n_cells: int) -> str:
    """Say that cells found one by one do not show what the verdict rests on."""
    decides = f"The answer weighs all {n_cells} cells by their skill, found or not."
    if not n_true:
        return f"no single cell is told to carry skill, so no place can be named. {decides}"
    found = "cell found to carry skill holds" if n_true == 1 else "cells found to carry skill hold"
    rivals = f"{100 * masses['input_mass']:.2g} % of the input"
    if len(masses["null_mass"]):
        rivals += f", up to {100 * masses['null_mass'].max():.2g} % of an untrained network's map"
    return (
        f"the {n_true} {found} {100 * mass:.2g} % of the map, no more than of others: {rivals}. "
        f"{decides}"
    )


def _mean_shares(maps: NDArray) -> NDArray[np.float64]:
    """Return the mean over samples of how absolute values are shared out among cells."""
    sizes = np.abs(maps.reshape(len(maps), -1)).astype(np.float64)
    total = sizes.sum(axis=1, keepdims=True)
    return np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0).mean(axis=0)


def _interval(error: float, gain: float, possible: float) -> tuple[float, float]:
    if possible <= 0:
        return float("nan"), float("nan")
    return (gain - 1.96 * error) / possible, (gain + 1.96 * error) / possible


def _advise_on_place(verdict: str, powerful: bool) -> str:
    if verdict == "artifact":
        return (
            "Relevance lies where the input or an untrained network has it, not where the skill "
            "is: choose a rule that keeps the sign of contributions, such as rule='epsilon'."
        )
    if not powerful:
        return (
            "The skill is spread as evenly as the input, or too small to place: hold out more "
            "samples."
        )
    return "Relevance lies only partly where the skill is: read it beside skill_map."
