"""Mistakes in the model, the samples and the question: what is wrong before there is a map.

`audit` runs them by the table `CHECKS`, which they enter by `mistake`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import binom
from torch import nn

from sklrp._checks import say_layer
from sklrp._copies import copy_module
from sklrp._random_stream import RandomStream
from sklrp.diagnostics.audited import Audited, Unanswered, flatten, mistake

_FEWEST = 5  # samples by which a cell counts as constant
_FEWEST_MOMENTS = 10  # samples of which mean and spread are compared

# Beyond them most cells of most samples would be outliers of the training samples: no held-out
# sample of the same kind is so, nor are those of a single class.
_SHIFT, _SCALE = 3.0, 10.0

_ROUNDING = 1e-6  # of a sample's norm: single precision rounds by 6e-8, steps before it by more
_REPEATED = 0.01  # share of values that are one and the same, by which fills are held together
_MOST_SORTED = 10**5  # values, of which a hundredth is a thousand
_SOME = 0.001  # share of values that a fill value stands for
_FAR = 5.0  # deviations of a fill value; with a gap, as the tail of a distribution reaches its end
_GAP = 0.5  # of the way from the fill value to the median, on which there is no value
_MANY_TIMES = 5.0  # sound networks measured 0 to 1.3, see docs/trust.md
_SAME = 1e-6  # of the spread of all outputs: one that varies less is constant but for rounding
_NO_NOISE = 1e-6  # of the outputs' size


@mistake(
    "target",
    wrong="the explained output is not the one that is meant",
    remedy=(
        "Index the outputs by their own axis (0 to n_outputs - 1): not by the grid of the input, "
        "and not by labels that begin at 1. Of gridded targets choose a cell that has values."
    ),
)
def _find_target(a: Audited) -> str:
    if a.outside:
        return a.outside
    e = a.explained
    if e.target is None:
        return ""
    outputs = e.outputs(e.all_X).astype(np.float64)
    if len(outputs) >= _FEWEST and e.classes is None:
        spread = np.ptp(outputs, axis=0)
        fixed = np.unique(e.columns[spread[e.columns] <= _SAME * spread.max()])
        if fixed.size and spread.max() > 0:
            return (
                f"output {fixed.tolist()[0]} of {outputs.shape[1]} is the same for all "
                f"{len(outputs)} samples, while others vary by up to {spread.max():.3g}"
            )
    return _find_neighbour(a) if e.classes is not None and len(e.classes) > 2 else ""


def _find_neighbour(a: Audited) -> str:
    """Say whether the target is the label beside the right one, for nearly all samples."""
    e = a.explained
    known = {label: k for k, label in enumerate(np.asarray(e.classes).tolist())}
    labels = np.asarray(e.predict() if e.all_y is None else e.all_y)[e.rows]
    if not all(label in known for label in labels.tolist()):
        return ""
    right = np.array([known[label] for label in labels.tolist()])
    asked = np.array([known[label] for label in np.asarray(e.target).tolist()])
    if len(np.unique(right)) < 2:
        return ""
    for step in (1, -1):
        share = float(np.mean(asked - right == step))
        if share >= 0.8:
            what = "prediction" if e.all_y is None else "label"
            return f"the target is the {what} {step:+d} for {share:.0%} of the samples"
    return ""


@mistake(
    "trained_on",
    wrong="samples that are explained were trained on",
    remedy="Hold samples out before training, and explain those.",
)
def _find_trained_on(a: Audited) -> str:
    pool, samples = a.finite_train, flatten(a.explained.some_X)
    same = _find_same(samples, pool)
    n, found = len(samples), int(same.sum())
    if not found:
        return ""
    said = f"{found} of {n} samples are among the {len(pool)} of X_train, to rounding"
    # Coarse tables, such as iris, hold a row twice by chance: then X_train does so by itself.
    values = [len(np.unique(column)) for column in pool.T[: 10**4]]
    is_coarse = np.median(values) < len(pool) / 2
    if is_coarse:
        natural = (int(_find_same(pool, pool, others=True).sum()) + 1) / len(pool)
        if binom.sf(found - 1, n, min(natural, 1.0)) >= 0.05:
            a.notes.append(f"{said}, as many as X_train's own values let expect by chance")
            return ""
    return said


def _find_same(samples: NDArray, pool: NDArray, others: bool = False) -> NDArray[np.bool_]:
    """Tell which samples are in a pool, to rounding; with `others`, of a pool in itself."""
    # Equal rows have equal projections; a few of them leave hardly any other pair to compare.
    rng = np.random.default_rng(0)
    way = rng.standard_normal((samples.shape[1], 4))
    way /= np.linalg.norm(way, axis=0)
    reach = _ROUNDING * np.linalg.norm(samples, axis=1)
    rank = 2 if others else 1
    near = cKDTree(pool @ way).query(samples @ way, k=[rank])[1][:, 0]
    near = np.minimum(near, len(pool) - 1)
    return np.linalg.norm(samples - pool[near], axis=1) <= reach


@mistake(
    "preprocessing",
    wrong="X is scaled otherwise than the training samples",
    remedy="Put the scaler, fitted on the training samples, into a pipeline with the network.",
)
def _find_preprocessing(a: Audited) -> str:
    pool, samples = a.finite_train, flatten(a.explained.some_X)
    if min(len(pool), len(samples)) < _FEWEST_MOMENTS:
        raise Unanswered(f"X or X_train has fewer than {_FEWEST_MOMENTS} samples")
    spreads = pool.std(axis=0), samples.std(axis=0)
    alive = (spreads[0] > _ROUNDING * np.abs(pool).max(axis=0)) & (
        spreads[1] > _ROUNDING * np.abs(samples).max(axis=0)
    )
    if not alive.any():
        return ""
    before, now = spreads[0][alive], spreads[1][alive]
    shift = float(np.median((samples.mean(axis=0) - pool.mean(axis=0))[alive] / before))
    scale = float(np.median(now / before))
    if abs(shift) <= _SHIFT and 1 / _SCALE <= scale <= _SCALE:
        return ""
    return (
        f"in the median over {alive.sum()} cells X has {scale:.3g} times the spread of X_train, "
        f"and its mean is {shift:+.3g} standard deviations away"
    )


@mistake(
    "fill_value",
    wrong="missing cells have another value than in training",
    remedy="Fill X and X_train in one and the same step, such as a pipeline's InputMasker.",
)
def _find_fill_value(a: Audited) -> str:
    pool, samples = flatten(a.train), flatten(a.explained.some_X)
    if "preprocessing" in a.found:
        raise Unanswered("X is scaled otherwise than X_train: repair that first")
    if min(len(pool), len(samples)) < _FEWEST:
        raise Unanswered(f"X or X_train has fewer than {_FEWEST} samples")
    empty = np.isnan(pool).any(axis=0)
    if empty.any():
        return f"{empty.sum()} of {empty.size} cells are NaN in X_train, and have values in X"
    fixed = (np.ptp(pool, axis=0) == 0) & (np.ptp(samples, axis=0) == 0)
    tolerance = _ROUNDING * max(float(np.abs(pool).max()), float(np.abs(samples).max()))
    other = fixed & (np.abs(pool[0] - samples[0]) > tolerance)
    if other.any():
        cell = int(np.flatnonzero(other)[0])
        return (
            f"{other.sum()} of {other.size} cells hold one value throughout, but another in "
            f"training: {samples[0, cell]:.4g} instead of {pool[0, cell]:.4g}"
        )
    return _find_moving_fill(a, pool, samples)


def _find_moving_fill(a: Audited, pool: NDArray, samples: NDArray) -> str:
    """Say whether a value that was repeated in training is gone, and another repeated instead."""
    gone = {v: share for v, share in _find_frequent(pool).items() if not (samples == v).any()}
    more = {v: share - np.mean(pool == v) for v, share in _find_frequent(samples).items()}
    if not gone or not more:
        return ""
    before, now = (max(known, key=lambda value: known[value]) for known in (gone, more))
    cells = (samples == now).any(axis=0) & (pool == before).any(axis=0)
    others = pool[:, cells]
    others = others[others != before]
    # Years and other counts are repeated too, but so are all values of their cells.
    if more[now] < _REPEATED or len(np.unique(others)) <= others.size / 2:
        return ""
    return (
        f"{before:.4g} stands for {np.mean(pool == before):.1%} of the values of training, but "
        f"for none here, where {now:.4g} stands for {np.mean(samples == now):.1%}"
    )


def _find_frequent(samples: NDArray) -> dict[float, float]:
    """Return the values that are a hundredth of all, with their shares."""
    flat = samples.ravel()
    drawn = flat  # what is frequent is so in a part, which is sorted sooner
    if flat.size > _MOST_SORTED:
        drawn = np.random.default_rng(0).choice(flat, _MOST_SORTED)
    values, counts = np.unique(drawn, return_counts=True)
    often = values[counts >= max(2, _REPEATED / 2 * drawn.size)].tolist()
    shares = {value: float(np.mean(flat == value)) for value in often}
    return {value: share for value, share in shares.items() if share >= _REPEATED}


@mistake(
    "undeclared_fill",
    wrong="a fill value enters the network as if it were measured",
    remedy=(
        "Declare it missing when reading (xarray's mask_and_scale), subtract each cell's mean, "
        "and fill with 0 (sklrp.preprocessing.InputMasker)."
    ),
)
def _find_undeclared_fill(a: Audited) -> str:
    samples = flatten(a.explained.some_X)
    for value in (float(samples.min()), float(samples.max())):  # outside of what is measured
        share = float(np.mean(samples == value))
        if share * samples.size < max(_FEWEST, _SOME * samples.size):
            continue
        far, middle = _tell_apart(samples, value, a.explained.frame.has_positions)
        if far > _FAR:
            return (
                f"{value:.6g} stands for {share:.1%} of the values, {far:.0f} deviations from the "
                f"others' median {middle:.3g}, and hardly anything lies between"
            )
    return ""


def _tell_apart(samples: NDArray, value: float, has_positions: bool) -> tuple[float, float]:
    """Return how many deviations a value is from others, 0 without a gap, and their median."""
    is_fill = samples == value
    cells = is_fill.any(axis=0)
    mixed = cells & ((~is_fill).sum(axis=0) >= _FEWEST)
    if mixed.any():  # a column of a table has a unit of its own, so that cells are judged singly
        others = np.where(is_fill, np.nan, samples)[:, mixed]
    elif has_positions and not cells.all():
        others = samples[:, ~cells].reshape(-1, 1)
    else:
        return 0.0, 0.0
    middle = np.nanmedian(others, axis=0)
    deviation = 1.4826 * np.nanmedian(np.abs(others - middle), axis=0)
    if not (deviation > 0).any():
        return 0.0, 0.0
    others, middle, deviation = (v[..., deviation > 0] for v in (others, middle, deviation))
    distance = np.abs(value - middle)
    gap = np.nanmin(np.abs(others - value), axis=0) / distance
    far = np.where(gap >= _GAP, distance / deviation, 0.0)
    return float(np.median(far)), float(np.median(middle))


@mistake(
    "biases",
    wrong="biases are many times the score",
    remedy=(
        "Centre the targets and the input, train with bias=False or bias='nonpositive', or "
        "explain a contrast, in which what all classes share cancels."
    ),
)
def _find_biases(a: Audited) -> str:
    layers = [layer for layer in a.details.layers if layer["bias"].any()]
    if not layers:
        return ""
    score = np.median(np.abs(a.details.score))
    kept = np.abs(np.sum([layer["bias"] for layer in layers], axis=0))
    times = float(np.median(kept) / max(float(score), np.finfo(float).tiny))
    if times < _MANY_TIMES:
        return ""
    most = max(layers, key=lambda layer: float(np.median(np.abs(layer["bias"]))))
    return (
        f"biases keep {times:.3g} times the score ({np.median(kept):.3g} against {score:.3g}, "
        f"medians), most in {say_layer(most.name)}"
    )


@mistake(
    "training_mode",
    wrong="the module is in training mode, and answers at random",
    remedy=(
        "Call module.eval() before predictions and before maps are made elsewhere; sklrp explains "
        "in evaluation mode by itself."
    ),
)
def _find_training_mode(a: Audited) -> str:
    module = a.explained.model.network
    if not isinstance(module, nn.Module):
        return ""  # nets and estimators switch modes themselves
    if not any(m.training for m in module.modules()):
        return ""
    if len(a.explained.X) < 2:
        raise Unanswered("a single sample has no statistics of its batch")
    try:
        module = copy_module(a.explained.model.module)  # statistics of batches move
    except Exception as error:  # whatever the module holds
        raise Unanswered(f"the module cannot be copied ({error})") from error
    samples = a.explained.X[:64]
    quiet = a.explained.outputs(samples).astype(np.float64)
    dtype, device = a.explained.model.dtype_and_device
    taken = None if a.explained.model.takes_integers else dtype
    inputs = torch.from_numpy(np.array(a.explained.given(samples))).to(device, taken)
    with RandomStream(device, 0), torch.inference_mode(False), torch.no_grad():
        out = module(inputs)
    out = a.explained.model.read(out)
    noisy = out.detach().cpu().numpy().astype(np.float64).reshape(quiet.shape)
    change = np.sqrt(np.mean((noisy - quiet) ** 2))
    size = np.sqrt(np.mean(quiet**2))
    if change <= _NO_NOISE * size:
        return ""
    return f"its outputs differ by {change / max(size, 1e-300):.0%} from those in evaluation mode"
