"""What held-out samples are compared with: draws of the training samples, their mean, or others.

`decompose_skill` asks here for baselines in the form in which samples enter the model. Samples
that the model was trained on are found here too, and those between them in time.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._missing import as_plain_array
from sklrp._stored import take_blocks
from sklrp._warnings import warn_user
from sklrp._wording import say_value
from sklrp.skill.asked_models import take_samples
from sklrp.skill.permutations import Exchange

_NEXT_TO = 1.5  # times the usual step: months differ by a tenth
_MOST_BESIDE = 0.25  # of samples; of one year in a record, the first and the last month are beside


def find_baselines(
    model: Any, samples: NDArray, X_train: Any, baseline: Any, assumptions: list[str]
) -> tuple[NDArray, NDArray[np.intp]]:
    """Return what samples are compared with, as it enters the network, and the unseen rows."""
    pool, rows = samples, np.arange(len(samples))
    if X_train is not None:
        pool = take_samples(model, model.enter(X_train, "X_train"), "X_train")
        if pool.shape[1:] != samples.shape[1:]:
            raise ValueError(
                f"X_train has samples of shape {pool.shape[1:]}, but X of {samples.shape[1:]}."
            )
        rows = _unseen_rows(samples, pool, assumptions)
    else:
        assumptions.append("X was taken for unseen: X_train was not given")
    return _choose_baselines(pool, samples, baseline), rows


def _choose_baselines(pool: NDArray, samples: NDArray, baseline: Any) -> NDArray:
    """Return the baselines that were asked for."""
    if baseline is None:
        return pool
    if isinstance(baseline, str):
        if baseline != "mean":
            raise ValueError(
                f"baseline must be None, 'mean' or an array, got {say_value(baseline)}."
            )
        if pool.dtype.kind != "f":
            raise ValueError(
                f"baseline='mean' is of numbers, but samples are of {pool.dtype}: leave it out, "
                "or give one sample or several."
            )
        return pool.mean(axis=0, keepdims=True).astype(samples.dtype)
    given = as_plain_array(baseline, "baseline", samples.dtype)
    if given.shape == samples.shape[1:]:
        given = given[np.newaxis]
    if given.shape[1:] != samples.shape[1:] or not len(given):
        raise ValueError(
            f"baseline has the shape {np.shape(baseline)}, but must have that of one sample that "
            f"enters the network, {samples.shape[1:]}, or of several."
        )
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        raise ValueError("baseline has NaN or infinite values: give finite ones.")
    return given


def _unseen_rows(samples: NDArray, pool: NDArray, assumptions: list[str]) -> NDArray[np.intp]:
    """Return the rows of samples that are no training samples; raise an error if all are."""
    known = set(_marks(pool))
    rows = np.flatnonzero([mark not in known for mark in _marks(samples)])
    if not len(rows):
        raise ValueError(
            "every sample of X is one of X_train: skill is of samples that the model has not "
            "seen. Hold some out before training, model.fit(X[:n], y[:n]), and pass the others, "
            "X[n:], y[n:], X_train=X[:n]."
        )
    seen = len(samples) - len(rows)
    if seen:
        said = f"{seen} of {len(samples)} samples of X are among X_train"
        warn_user(f"{said}: skill is of the others.")
        assumptions.append(f"{said} and were left out")
    return rows


def _marks(samples: NDArray) -> list[bytes]:
    """Return what tells samples apart, whether they came in float32 or in float64."""
    rows = samples.reshape(len(samples), -1)
    if rows.dtype.kind == "O":
        return [repr(row.tolist()).encode() for row in rows]
    return [
        hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        for _, part in take_blocks(rows)
        for row in part.astype(np.float32) + np.float32(0)  # 0 and -0 are the same
    ]


def warn_of_neighbours(
    held: NDArray[np.datetime64] | None,
    known: NDArray[np.datetime64] | None,
    exchange: Exchange,
    assumptions: list[str],
) -> None:
    """Warn where neighbours are alike and held-out samples lie between training samples in time.

    Parameters
    ----------
    held, known : ndarray of datetime64 or None
        When the held-out and the training samples were, None where they do not say it.
    exchange : Exchange
        What is exchanged: single samples are alike in no order, and groups were thought of.
    assumptions : list of str
        What was seen is added here.
    """
    are_alike = exchange.block_length > 1 or exchange.place == "run"
    if exchange.groups is not None or not are_alike or held is None or known is None:
        return
    known = np.unique(known[~np.isnat(known)])
    steps = np.diff(np.unique(np.concatenate([held, known])))
    if not len(steps) or not len(known):
        return
    after = np.searchsorted(known, held).clip(1, len(known) - 1) if len(known) > 1 else 0
    apart = np.minimum(abs(held - known[after - 1]), abs(held - known[after]))
    # At the very time of a training sample it is another member or station, no neighbour in time.
    near = apart <= _NEXT_TO * np.quantile(steps, 0.25, method="lower")
    beside = int((near & (apart > np.timedelta64(0, "D"))).sum())
    if beside > _MOST_BESIDE * len(held):
        said = (
            f"{beside} of {len(held)} samples of X are next in time to a sample of X_train, and "
            "neighbours are alike here"
        )
        warn_user(
            f"{said}: the model may remember them, which looks like skill. Hold out whole blocks "
            "of time, with gaps beside them."
        )
        assumptions.append(said)
