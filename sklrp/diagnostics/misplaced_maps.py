"""Mistakes in what maps belong to: another sample, another class, another place.

`audit` runs them by the table `CHECKS`, which they enter by `mistake`. All of them hold maps made
elsewhere against the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from sklrp.diagnostics.audited import (
    Audited,
    Unanswered,
    check_of_samples,
    directions,
    flatten,
    mistake,
)
from sklrp.diagnostics.common_form import are_unsigned

_ALIKE, _BETTER = 0.5, 0.2  # cosine with another map, and how much that exceeds the right one's
_WITHIN = 0.5  # of the distance from a sample's map to the next sample's, by which it is told
_MOST = 0.5  # share of maps
_FEW, _SOME = 0.02, 0.1  # shares of maps that change places; where they are near by chance, too
_MOST_LOST = 0.8  # share of those found whose own map is not in its place
_MANY_CELLS = 20
_MOST_VALUES = 5 * 10**7  # of all maps of a model, that are held at once
_FEWEST_DEGREES = 10  # samples less the classes, of which correlations are
_MOST_CELLS = 5000  # of which every one is compared with every other
_ALPHA = 0.05  # for all pairs of cells
_NO_MORE = 0.9999  # correlation: rounding does not make more of it
_WRONG = 0.25  # share of maps that are another output's: half or less if all are of one class
_KNOWN, _MOST_KNOWN = 0.99, 0.9  # cosine of maps by one rule, and the share of maps that have it


@mistake(
    "flipped",
    wrong="maps lie the wrong way round",
    remedy=(
        "Give maps the axes and the order of X: latitudes may run south, longitudes begin at 0 or "
        "at -180, and a backward sweep must be turned back."
    ),
)
def _find_flipped(a: Audited) -> str:
    check_of_samples(a)
    given, own = a.comparable
    frame = a.explained.frame
    if not frame.has_positions:
        raise Unanswered("samples are tables, without positions")
    axes = frame.axes
    own, given = directions(own), directions(given)
    right = (own * given).sum(axis=1)
    fits = {}
    for name, move in _moves(axes, frame.axis_names):
        moved = move(given.reshape(len(given), *axes)).reshape(given.shape)
        fits[name] = (own * moved).sum(axis=1)
    best = max(fits, key=lambda name: float(fits[name].mean()))
    fit = fits[best]
    if fit.mean() < max(_ALIKE, right.mean() + _BETTER) or np.mean(fit > right) < 0.8:
        return ""
    return (
        f"{best}, maps have a mean cosine of {fit.mean():.2f} with the model's own, and of "
        f"{right.mean():.2f} as they are"
    )


def _moves(
    axes: tuple[int, ...], names: tuple[str, ...]
) -> Iterator[tuple[str, Callable[[NDArray], NDArray]]]:
    """Yield the ways in which maps may lie wrong, and their names."""
    for k, name in enumerate(names):
        yield f"flipped along the {name} axis", partial(np.flip, axis=k + 1)
    half = partial(np.roll, shift=axes[-1] // 2, axis=-1)
    yield f"rolled by half along the {names[-1]} axis", half
    if len(axes) > 1:
        last = f"{names[-2]} and {names[-1]} axes"
        yield f"flipped along the {last}", partial(np.flip, axis=(-2, -1))
        yield f"with the {last} exchanged", _exchange


def _exchange(maps: NDArray) -> NDArray:
    """Return maps that were written column by column as if they were rows."""
    *lead, rows, columns = maps.shape
    return maps.reshape(*lead, columns, rows).swapaxes(-1, -2)


@mistake(
    "other_cells",
    wrong="cells of maps have changed places",
    remedy=(
        "Give maps the columns, channels and cells of X in its order: do not sort columns by "
        "name, and do not reshape by another order of axes."
    ),
)
def _find_other_cells(a: Audited) -> str:
    check_of_samples(a)
    if "flipped" in a.found:
        raise Unanswered("maps lie the wrong way round: repair that first")
    given, own = a.comparable
    n, n_cells = given.shape
    kinds = _group_targets(a)
    degrees = n - len(np.unique(kinds))
    if degrees < _FEWEST_DEGREES:
        raise Unanswered(f"fewer than {_FEWEST_DEGREES} maps tell how cells vary together")
    if not 1 < n_cells <= _MOST_CELLS:
        raise Unanswered(f"every cell is compared with every other: 2 to {_MOST_CELLS}")
    rivals = [own, a.own_by("epsilon")]
    pairs: list[tuple[int, int]] = []
    for rival in rivals:
        signless = are_unsigned(given) and not are_unsigned(rival)
        pairs = _pair_cells(given, np.abs(rival) if signless else rival, kinds, degrees)
        if pairs:
            break
    if not pairs:
        return ""
    shown = ", ".join(f"{_name_cell(a, i)} as {_name_cell(a, j)}" for i, j in pairs[:2])
    return f"over samples {len(pairs)} of {n_cells} cells vary as others do: {shown}"


def _pair_cells(
    given: NDArray, own: NDArray, kinds: NDArray, degrees: int
) -> list[tuple[int, int]]:
    """Return the cells of maps that vary over samples as another cell of the model's own does."""
    given, own = given.copy(), own.copy()
    for kind in np.unique(kinds):
        rows = kinds == kind
        given[rows] -= given[rows].mean(axis=0)
        own[rows] -= own[rows].mean(axis=0)
    cells = np.flatnonzero((np.ptp(given, axis=0) > 0) & (np.ptp(own, axis=0) > 0))
    if len(cells) < 2:
        return []
    given, own = directions(given.T[cells]), directions(own.T[cells])
    nearest, is_told = _tell_nearest(given, own)
    if np.mean(is_told) < _MOST:  # maps by another method, which say little of single cells
        return []
    # Fisher's z, of which the difference of two has the deviation sqrt(2 / (n - 3)).
    fits = np.arctanh((given @ own.T).clip(-_NO_MORE, _NO_MORE)) * np.sqrt((degrees - 3) / 2)
    every = np.arange(len(cells))
    best, gain = fits.argmax(axis=1), fits.max(axis=1) - fits[every, every]
    moved = (
        is_told
        & (best == nearest)
        & (gain > norm.isf(_ALPHA / len(cells) ** 2))
        & (fits.argmax(axis=0)[best] == every)
    )
    # What has taken another cell's place has left its own to a third, or to that cell.
    left = fits[best, every] - fits[best, best] > norm.isf(_ALPHA)
    moved &= moved[best] | left
    partners = np.setdiff1d(best[moved], every[moved])
    back = [(int(cells[j]), int(cells[every[moved & (best == j)][0]])) for j in partners]
    return [(int(cells[i]), int(cells[best[i]])) for i in every[moved]] + back


def _group_targets(a: Audited) -> NDArray:
    """Return the class explained of each sample, within which cells are compared."""
    target = a.explained.target
    if target is None:
        return np.zeros(len(a.kept), dtype=np.intp)
    return np.unique(np.asarray(target)[a.kept], return_inverse=True)[1]


def _name_cell(a: Audited, cell: int) -> str:
    """Return the place of a cell in a sample, in words."""
    at = np.unravel_index(cell, a.explained.X.shape[1:])
    return str(tuple(int(k) for k in at)) if len(at) > 1 else f"column {int(at[0])}"


@mistake(
    "other_samples",
    wrong="maps belong to other samples",
    remedy=(
        "Keep maps in the order of X: do not shuffle the loader that explains, drop no sample "
        "before, and do not sort X afterwards."
    ),
)
def _find_other_samples(a: Audited) -> str:
    if "softmax" in a.found:
        raise Unanswered("maps of probabilities differ from those of scores: repair that first")
    check_of_samples(a)
    if {"flipped", "other_cells"} & set(a.found):
        raise Unanswered("maps are in the wrong place: repair that first")
    given, _ = a.comparable
    e = a.explained
    if e.all_X.size > _MOST_VALUES:
        raise Unanswered("X is too large to compare every map with every sample's")
    if len(e.all_X) < 3:
        raise Unanswered("there are fewer than three samples")
    for own, numbers, few in _rivals(a):  # by which maps are told depends on their method
        seen = _say_other_samples(_tell_samples(a, given, own, numbers), few)
        if seen:
            return seen
    return ""


def _rivals(a: Audited) -> Iterator[tuple[NDArray, NDArray[np.intp], float]]:
    """Yield maps to hold given ones against, the numbers of their samples, and how few count."""
    e = a.explained
    has_many = a.given.shape[1] >= _MANY_CELLS  # among few some maps are near by chance
    few = _FEW if has_many else _SOME
    for rule in (None, "epsilon"):
        own = a.own_of_all(rule)
        if own is not None:
            yield own, np.arange(len(own)), few
        else:  # only maps of explained samples can be found
            yield a.own if rule is None else a.own_by(rule), e.rows[a.kept], few
    if not has_many:
        return
    try:
        yield flatten(e.contributions)[a.kept], e.rows[a.kept], _SOME
    except (TypeError, ValueError):  # without a gradient, and of many cells
        return


def _say_other_samples(told: _Told, few: float) -> str:
    """Say how many maps are those of other samples; empty if they may be so by chance."""
    # Maps by another method may be near to a neighbour's by chance, but not so near, nor to as
    # many different ones; and where a few change places, those found have lost their own maps.
    n, right = len(told.rows), told.is_told & (told.nearest == told.rows)
    other = told.is_told & ~right
    found = told.nearest[other]
    if other.sum() < max(2, few * n) or len(np.unique(found)) < _MOST * len(found):
        return ""
    has_lost = ~np.isin(found, told.rows[right])
    if other.mean() < _MOST and (has_lost.mean() < _MOST_LOST or right.sum() < other.sum()):
        return ""
    steps, counts = np.unique(found - told.rows[other], return_counts=True)
    shift = (
        f"; most are {int(steps[counts.argmax()]):+d} away"
        if counts.max() >= 0.8 * other.sum()
        else ""
    )
    return f"{other.sum()} of {n} maps are those of another sample{shift}"


class _Told(NamedTuple):
    """Which of the model's own maps each map is nearest to, and whether that is beyond doubt."""

    rows: NDArray[np.intp]
    nearest: NDArray[np.intp]
    is_told: NDArray[np.bool_]


def _tell_samples(a: Audited, given: NDArray, own: NDArray, numbers: NDArray[np.intp]) -> _Told:
    """Hold maps against others, whose samples have these numbers."""
    own = np.abs(own) if are_unsigned(given) and not are_unsigned(own) else own
    given = directions(given)
    nearest, is_told = _tell_nearest(given, directions(own))
    return _Told(a.explained.rows[a.kept], numbers[nearest], is_told & given.any(axis=1))


def _tell_nearest(given: NDArray, own: NDArray) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return to which rows of norm 1 others are nearest, and whether by far."""
    near = _distances(given, own)
    nearest = near.argmin(axis=1)
    among = _distances(own[nearest], own)
    among[np.arange(len(nearest)), nearest] = np.inf
    return nearest, near.min(axis=1) < _WITHIN * among.min(axis=1)


def _distances(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return the distances of flat maps of norm 1."""
    return np.sqrt((2 - 2 * one @ other.T).clip(min=0))


@mistake(
    "wrong_class",
    wrong="maps explain another output than is asked",
    remedy="Explain the predicted class, or say by target which output the maps are of.",
)
def _find_wrong_class(a: Audited) -> str:
    given = directions(a.given)
    if {"other_samples", "other_cells", "flipped"} & set(a.found):
        raise Unanswered("maps are in the wrong place or order: repair that first")
    check_of_samples(a)
    outputs = a.outputs
    fits = a.fits
    rows = np.arange(len(given))
    found = fits.max(axis=0)
    if np.mean(found >= _KNOWN) < _MOST_KNOWN:
        raise Unanswered("maps are not by this rule for any output: give the rule they are by")
    position = {label: k for k, label in enumerate(outputs.tolist())}
    e = a.explained
    asked = np.array([position[v] for v in np.asarray(e.target)[a.kept].tolist()])
    right = fits[asked, rows]
    if e.classes is not None and e.all_y is not None:  # maps of the true class are maps, too
        labels = [position.get(v) for v in np.asarray(e.all_y)[e.rows][a.kept].tolist()]
        true = [k if label is None else label for k, label in zip(asked, labels, strict=True)]
        right = np.maximum(right, fits[np.array(true), rows])
    wrong = (found >= _KNOWN) & (found > right + _BETTER)
    if wrong.mean() < _WRONG:
        return ""
    best, counts = np.unique(fits.argmax(axis=0)[wrong], return_counts=True)
    return (
        f"{wrong.sum()} of {len(wrong)} maps are those of another output (mean cosine "
        f"{found[wrong].mean():.2f} against {right[wrong].mean():.2f}), most often of "
        f"{outputs[best[counts.argmax()]]}"
    )


@mistake(
    "inverted_mask",
    wrong="relevance lies on cells that are filled, and not on the others",
    remedy="Turn the mask: True marks the cells that are valid (or the land, but one of them).",
)
def _find_inverted_mask(a: Audited) -> str:
    given = a.given
    samples = flatten(a.explained.some_X)
    if len(samples) < 5:
        raise Unanswered("by fewer than five samples no cell counts as constant")
    fixed = np.ptp(samples, axis=0) == 0
    if not fixed.any() or fixed.all():
        raise Unanswered("no cells hold one value in all samples, or all do")

    def share(maps: NDArray) -> float:
        sizes = np.abs(maps).sum(axis=0)
        return float(sizes[fixed].sum() / max(sizes.sum(), np.finfo(float).tiny))

    there, own = share(given), share(a.own)
    if there < 0.5 or own > there / 2:
        return ""
    return (
        f"{there:.0%} of |relevance| is on the {fixed.sum()} of {fixed.size} cells that hold one "
        f"value in all samples, where the model's own maps have {own:.0%}"
    )
