"""Which samples a test may exchange: groups, blocks of neighbours, or single samples.

`decompose_skill` asks here before it permutes labels. Samples whose coordinates say when they were
are put into that order. Of others nobody says whether their order is one of time, so that is asked
of the data: neighbours are then alike beyond what their classes share.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import sort_values
from sklrp._missing import as_plain_array, find_missing
from sklrp._sample_times import SampleTimes
from sklrp._warnings import warn_user
from sklrp.skill.block_lengths import Memory, come_in_runs, estimate_block, estimate_in_time
from sklrp.skill.permutations import Exchange
from sklrp.skill.questions import Question
from sklrp.skill.time_order import TimeOrder, order_by_time

_FAR_SHORTER = 4  # times: blocks of a quarter of the length lose four times as much variance
_ASKED_FOR_BLOCKS = 8  # combinations of outputs
_FEW = 30  # samples, of which an estimate of blocks knows little
_LOADED = (
    "If their order is none of time (sorted by class, as the folds of an unshuffled "
    "StratifiedKFold are, or files put one after another), shuffle X and y together, or give "
    "block_length=1. If it is, hold out more samples, or give groups, such as years or cases."
)


def find_exchange(
    groups: Any,
    block_length: int | str,
    question: Question,
    contributions: list[NDArray],
    assumptions: list[str],
    times: SampleTimes | None = None,
) -> Exchange:
    """Return what is exchanged, with the length of blocks estimated if it is not given.

    Parameters
    ----------
    groups, block_length : array-like or None, int or "auto"
        As in `skill_map`.
    question : Question
        What is asked, and so what the truth is.
    contributions : list of ndarray of shape (n_samples, n_cells)
        The contributions to each combination of outputs.
    assumptions : list of str
        What is taken for granted is added here.
    times : SampleTimes or None, default=None
        When the samples were. None (default): their order may be one of time.

    Returns
    -------
    Exchange
        What is exchanged.
    """
    n = len(question.truth)
    if groups is not None:
        codes = sort_values(groups, "groups")[1]
        assumptions.append("groups are exchangeable")
        return Exchange(n, codes.ravel())
    truth = question.numbers()
    classes = question.truth if question.shares is not None else None
    asked = contributions[:_ASKED_FOR_BLOCKS]
    if times is not None:
        order = order_by_time(times)
        found = [estimate_in_time(truth, phi, classes, order) for phi in asked]
        return _exchange_in_time(
            order, found, block_length, truth, classes is not None, assumptions
        )
    length, rho = max(estimate_block(truth, phi, classes) for phi in asked)
    if block_length != "auto":
        _warn_of_short_blocks(int(block_length), min(length, n), rho)
        assumptions.append(_say_given(int(block_length), "sample"))
        return Exchange(n, None, int(block_length))
    length = min(length, n)
    assumptions.append(_say_order(length, rho, truth, classes is not None))
    return Exchange(n, None, length)


def _exchange_in_time(
    order: TimeOrder,
    found: list[Memory],
    block_length: int | str,
    truth: NDArray,
    is_class: bool,
    assumptions: list[str],
) -> Exchange:
    """Return what is exchanged of samples whose times are known."""
    per_run = 1 if order.runs is None else order.runs.shape[1] // order.slots.shape[1]
    of_times = [each.length * (per_run if each.in_runs else 1) for each in found]
    length, rho, wider, in_runs = found[int(np.argmax(of_times))]
    place = "time" if order.has_members else "sample"
    if block_length != "auto":
        given = int(block_length)
        _warn_of_short_blocks(given, min(max(of_times), order.n_times), rho, order.name)
        if given == 1:
            assumptions.append(_say_given(1, "sample"))
            return Exchange(len(truth))
        assumptions.append(f"{_say_given(given, place)}, in the order of {order.name!r}")
        return Exchange(len(truth), None, given, order.moved, place)
    slots = order.moved
    if in_runs and order.runs is not None:
        slots, place = order.runs, "run"
    length = min(length, order.n_times if slots is None else len(slots))
    assumptions.append(_say_times(order, length, rho, place, truth, is_class))
    return Exchange(len(truth), None, length, slots, place, wider)


def _say_given(length: int, place: str) -> str:
    """Say what the user says may be exchanged."""
    what = "single samples" if length == 1 else f"blocks of neighbouring {place}s"
    return f"{what} are exchangeable, as block_length says"


def _say_times(
    order: TimeOrder, length: int, rho: float, place: str, truth: NDArray, is_class: bool
) -> str:
    """Say what was made of the times of samples."""
    said = f"samples were put into the order of {order.name!r}"
    if order.was_sorted:
        said = f"samples are in the order of {order.name!r}"
    if order.has_members:
        said += f", those of each of its {order.n_times} times kept together"
    if place == "run" and order.runs is not None:
        said += f", and so were its {len(order.runs)} runs between gaps"
    what = "samples" if place == "sample" else f"{place}s, whole,"
    if length > 1:
        what = f"blocks of {length} {place}s"
    if length > 1 or place == "run":
        said += f"; they are correlated ({rho:.2f} from one to the next)"
        return f"{said}: {what} are exchangeable"
    said += f"; no correlation from one to the next was found ({rho:.2f}): {what} are exchangeable"
    if is_class and come_in_runs(truth, order):
        said += (
            ". Classes come in runs of it: a step that samples and labels share would look like "
            "skill; give block_length or groups if there may be one"
        )
    return said


def _warn_of_short_blocks(
    given: int, estimated: int, rho: float, coordinate: str | None = None
) -> None:
    """Warn if the blocks that were asked for are far shorter than those that would be taken."""
    if given >= estimated or 1 < given > estimated // _FAR_SHORTER:
        return
    if_in_time = "If the samples are in order of time, p-values are far too small."
    if coordinate is not None:
        if_in_time = f"In the order of {coordinate!r}: p-values are far too small."
    warn_user(
        f"block_length={given} is kept, as asked, but labels and contributions are correlated "
        f"from one sample to the next ({rho:.2f}): 'auto' would permute blocks of {estimated}. "
        f"{if_in_time}",
    )


def _say_order(length: int, rho: float, truth: NDArray, is_class: bool) -> str:
    """Say what was taken for granted of the order of samples."""
    if length > 1:
        return (
            f"samples in their order are correlated ({rho:.2f} from one to the next): blocks of "
            f"{length} are exchangeable"
        )
    if is_class and come_in_runs(truth, None):
        return (
            "samples are exchangeable if their order is that of y, whose classes come in runs, "
            "and not of time: within a class no sample was found to be like the next. In an order "
            "of time a step that samples and labels share would look the same: give block_length "
            "or groups"
        )
    return f"samples are exchangeable: no correlation from one to the next was found ({rho:.2f})"


def check_groups_and_blocks(groups: Any, block_length: int | str, n_samples: int) -> None:
    """Raise an error if groups or blocks do not fit the samples, or one another."""
    if groups is not None:
        plain = as_plain_array(groups, "groups")
        if plain.shape != (n_samples,):
            raise ValueError(
                f"groups must hold the group of each of {n_samples} samples, got the shape "
                f"{plain.shape}."
            )
        unknown = np.flatnonzero(find_missing(plain))
        if len(unknown):
            raise ValueError(
                f"groups has no value for {len(unknown)} of {n_samples} samples, the first at "
                f"position {unknown[0]}: leave them out, or give each a group of its own."
            )
        if block_length not in ("auto", 1):
            raise ValueError(
                f"block_length={block_length!r} and groups go together in no test: give one."
            )
    if block_length != "auto" and int(block_length) > n_samples // 2:
        raise ValueError(
            f"block_length={block_length} leaves fewer than two blocks of {n_samples} samples."
        )


def check_units(exchange: Exchange, alpha: float, is_estimated: bool) -> None:
    """Raise an error if there are too few orders of units for a p-value of alpha."""
    if exchange.log_permutations() >= math.log(1 / alpha):
        return
    if exchange.groups is not None:
        remedy = (
            "Labels move among groups of equal size only: hold out more groups, or as many "
            "samples of each."
        )
    elif exchange.block_length == 1 and exchange.place == "sample":
        remedy = "Hold out more samples."
    elif not is_estimated:
        remedy = "Hold out more samples, or give a smaller block_length if that is right."
    elif exchange.slots is not None:
        remedy = (
            f"By the coordinate of time {_say_together(exchange)}. Hold out more of it, give "
            "groups, such as years or cases, or, if samples are independent whatever their time, "
            "block_length=1."
        )
    else:
        remedy = f"Samples are like their neighbours, so that {_say_together(exchange)}. {_LOADED}"
    if is_estimated and exchange.groups is None and exchange.n_samples < _FEW:
        remedy += (
            f" {exchange.n_samples} samples tell little of their correlation, and independent "
            "ones may look like a series: if these are independent, as cases drawn at random "
            "are, block_length=1 permutes them singly."
        )
    raise ValueError(
        f"there are too few units to permute, {exchange.words}: fewer than {1 / alpha:.0f} "
        f"orders cannot give p <= {alpha:g}. {remedy}"
    )


def _say_together(exchange: Exchange) -> str:
    """Say what is permuted as a whole."""
    if exchange.block_length == 1:
        return f"the samples of one {exchange.place} must be kept together"
    return f"they must be permuted in blocks of {exchange.block_length} {exchange.place}s"
