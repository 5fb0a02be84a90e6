"""Mistakes in what maps belong to: another sample, another class, another place.

`audit` runs them by the table `CHECKS`, which they enter by `mistake`. All of them hold maps made
elsewhere against the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

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
_MOST_VALUES = 5 * 10**7  # of all maps of a model, that are held at once
_WRONG = 0.25  # share of maps that are another output's: half or less if all are of one class
_KNOWN, _MOST_KNOWN = 0.99, 0.9  # cosine of maps by one rule, and the share of maps that have it


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
    given, _ = a.comparable
    e = a.explained
    if e.all_X.size > _MOST_VALUES:
        raise Unanswered("X is too large to compare every map with every sample's")
    if len(e.all_X) < 3:
        raise Unanswered("there are fewer than three samples")
    own, rows = a.own_of_all, e.rows[a.kept]
    if own is None:  # only maps of explained samples can be found
        own, rows = a.own, np.arange(len(given))
    own = np.abs(own) if are_unsigned(given) and not are_unsigned(own) else own
    given, own = directions(given), directions(own)
    near = _distances(given, own)
    nearest = near.argmin(axis=1)
    among = _distances(own[nearest], own)
    among[np.arange(len(nearest)), nearest] = np.inf
    # Maps by another method may be near to a neighbour's by chance, but not so near, nor to as
    # many different ones.
    told = near.min(axis=1) < _WITHIN * among.min(axis=1)
    other = told & (nearest != rows) & given.any(axis=1)
    if other.mean() < _MOST or len(np.unique(nearest[other])) < _MOST * other.sum():
        return ""
    steps, counts = np.unique((nearest - rows)[other], return_counts=True)
    shift = (
        f"; most are {int(steps[counts.argmax()]):+d} away"
        if counts.max() >= 0.8 * other.sum()
        else ""
    )
    return f"{other.sum()} of {len(rows)} maps are those of another sample{shift}"


def _distances(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return the distances of flat maps of norm 1."""
    return np.sqrt((2 - 2 * one @ other.T).clip(min=0))


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
    "wrong_class",
    wrong="maps explain another output than is asked",
    remedy="Explain the predicted class, or say by target which output the maps are of.",
)
def _find_wrong_class(a: Audited) -> str:
    given = directions(a.given)
    if {"other_samples", "flipped"} & set(a.found):
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
    samples = flatten(a.explained.all_X)
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
