"""Which samples a test may exchange: groups, blocks of neighbours, or single samples.

`decompose_skill` asks here before it permutes labels. Samples whose coordinates say when they were
are put into that order. Of others nobody says whether their order is one of time, so that is asked
of the data: neighbours are then alike beyond what their classes share.
"""

from __future__ import annotations

import itertools
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
_MATTERS = 0.16  # of a correlation: were it told from chance, blocks would be longer than 1


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
        assumptions.append(_say_given(int(block_length), "sample"))
        _warn_of_short_blocks(int(block_length), min(length, n), rho, assumptions)
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
        said = _say_given(given, place if given > 1 else "sample")
        assumptions.append(said if given == 1 else f"{said}, in the order of {order.name!r}")
        longest = min(max(of_times), order.n_times)
        _warn_of_short_blocks(given, longest, rho, assumptions, order.name)
        if given == 1:
            return Exchange(len(truth))
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
    said += f"; {what} are taken as exchangeable: {_say_none_found(rho, order.n_times, 'times')}"
    if is_class and come_in_runs(truth, order):
        said += (
            ". Classes come in runs of it: a step that samples and labels share would look like "
            "skill; give block_length or groups if there may be one"
        )
    return said


def _warn_of_short_blocks(
    given: int, estimated: int, rho: float, assumptions: list[str], coordinate: str | None = None
) -> None:
    """Warn, and note, if blocks that were asked for are far shorter than those estimated."""
    if given >= estimated or 1 < given > estimated // _FAR_SHORTER:
        return
    if_in_time = "If the samples are in order of time, the p-values are far too small."
    if coordinate is not None:
        if_in_time = (
            f"Samples that follow one another in {coordinate!r} are alike, so the p-values are "
            "far too small."
        )
    said = (
        f"block_length={given} is kept, as asked, but labels and contributions are correlated "
        f"from one sample to the next ({rho:.2f}): 'auto' would permute blocks of {estimated}. "
        f"{if_in_time}"
    )
    assumptions.append(said)
    warn_user(said)


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
    return f"samples are taken as exchangeable: {_say_none_found(rho, len(truth), 'samples')}"


def _say_none_found(rho: float, n: int, what: str) -> str:
    """Say that neighbours were not told to be alike, and what that may have missed."""
    said = (
        "no correlation from one to the next was told from chance (estimate "
        f"{rho:.2f}, the geometric mean of that of labels and of contributions)"
    )
    if rho <= _MATTERS and n >= _FEW:
        return said
    return (
        f"{said}, but {n} {what} cannot exclude one: if they depend on one another, give "
        "block_length or groups"
    )


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


def check_units(exchange: Exchange, alpha: float, is_estimated: bool, in_time: bool) -> None:
    """Raise an error if there are too few orders of units for a p-value of alpha.

    Parameters
    ----------
    exchange : Exchange
        What is exchanged.
    alpha : float
        The level that p-values must be able to reach.
    is_estimated : bool
        Whether the length of blocks was found in the data, and not given.
    in_time : bool
        Whether it is known when the samples were.
    """
    if exchange.log_permutations() >= math.log(1 / alpha):
        return
    enough = _say_enough(exchange, alpha, is_estimated)
    if exchange.groups is not None:
        remedy = (
            f"Labels move among groups of equal size only: hold out more groups, {enough}, or as "
            "many samples of each."
        )
    elif exchange.block_length == 1 and exchange.place == "sample":
        remedy = f"Hold out more samples: {enough}."
    elif not is_estimated:
        remedy = f"Hold out more, {enough}, or give a smaller block_length if that is right."
    else:
        # Of samples in an order neither shuffling nor single samples are a way out.
        why = "By the coordinate of time" if in_time else "Samples are like their neighbours, so"
        groups = "years or cases" if in_time else "years, cases, or files put one after another"
        remedy = (
            f"{why} {_say_together(exchange)}. Hold out more, {enough}, or give groups, such as "
            f"{groups}."
        )
        if exchange.block_length == 1:  # of one time, which is no order
            remedy += (
                " If the samples of one time are independent of one another, block_length=1 "
                "permutes them singly."
            )
        elif not in_time and exchange.n_samples < _FEW:
            remedy += (
                f" {exchange.n_samples} samples tell little of their correlation, and independent "
                "ones may look like a series: if these are independent, as cases drawn at random "
                "are, block_length=1 permutes them singly."
            )
    raise ValueError(
        f"there are too few units to permute, {exchange.words}: fewer than {1 / alpha:.0f} "
        f"orders cannot give p <= {alpha:g}. {remedy}"
    )


def _say_enough(exchange: Exchange, alpha: float, is_estimated: bool) -> str:
    """Say how many units, and so how many samples, have as many orders as alpha needs."""
    n = next(k for k in itertools.count(2) if math.lgamma(k + 1) >= math.log(1 / alpha))
    if exchange.groups is not None:
        return f"{n} of one size would be enough"
    length = exchange.block_length
    if length == 1:
        return f"{n} {exchange.place}s would be enough"
    # A series knows of no memory that is longer than itself.
    about = "at least" if is_estimated and length >= exchange.n_places else "about"
    return f"{about} {n * length} {exchange.place}s, {n} such blocks, would be enough"


def _say_together(exchange: Exchange) -> str:
    """Say what is permuted as a whole."""
    if exchange.block_length == 1:
        return f"the samples of one {exchange.place} must be kept together"
    return f"they must be permuted in blocks of {exchange.block_length} {exchange.place}s"
