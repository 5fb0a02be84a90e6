"""Mistakes in the numbers of maps: what the stabiliser kept, what softmax, sums and norms did.

`audit` runs them by the table `CHECKS`, which they enter by `mistake`. Where a map lies is asked
in `misplaced_maps`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sklrp._checks import say_layer
from sklrp.diagnostics.audited import (
    SAME,
    Audited,
    Unanswered,
    check_of_samples,
    find_shared,
    flatten,
    is_negative,
    mean_cosine,
    mistake,
    sizes_of,
)
from sklrp.diagnostics.bias import KEPT_BY
from sklrp.diagnostics.common_form import are_unsigned, cosines

# An epsilon as large as a pre-activation keeps half of its relevance. Of sound networks it kept
# at most .0013 (an echo state network), and epsilons of a quarter of the spread keep a fifth.
_KEPT_BY_EPSILON = 0.5

_EQUAL = 1e-4  # relative: sums over a field in single precision are exact to about 1e-5
_DIFFERENT = 0.01  # relative spread of scores, by which sums that are equal are no coincidence
_SUM_FITS = 0.05  # residual of sums, as a share of the spread of what they fit
_VANISHED = 1e-6  # of the score: no rule leaves so little, and no unit of measurement is so far
_MOST_SHARED = 0.5  # share of maps that are another sample's, or the input
_EMPTY = 0.1  # share of maps that are all zeros
_POSITIVE_RULES = ("z_plus", "w_square", "flat")
_BY_RULE = 0.99  # cosine of maps by one of them with the model's own
_SIGNED = 0.05  # share of negative relevance that a map's own signs are told by


@mistake(
    "epsilon",
    wrong="epsilon is far above the pre-activations",
    remedy="Give a small epsilon, such as 1e-6, or a few percent of the pre-activations' spread.",
)
def _find_epsilon(a: Audited) -> str:
    shares = {}
    for layer in a.details.layers:
        arrived = layer["relevance"] + sum(layer[cause] for cause in KEPT_BY)
        size = np.maximum(np.abs(arrived), np.finfo(float).tiny)
        is_reached = np.abs(arrived) > 1e-3 * np.abs(a.details.score)
        if is_reached.any() and layer["epsilon"].any():
            share = np.abs(layer["epsilon"]) / size
            shares[layer.name] = float(np.median(share[is_reached]))
    if not shares:
        return ""
    most = max(shares, key=lambda name: shares[name])
    if shares[most] < _KEPT_BY_EPSILON:
        return ""
    left = np.median(np.abs(a.own.sum(axis=1)) / np.maximum(np.abs(a.score), 1e-300))
    return (
        f"{say_layer(most)} loses {shares[most]:.1%} of the relevance that reaches it to epsilon "
        f"(median), and the maps' sums are {left:.2g} of the score"
    )


@mistake(
    "softmax",
    wrong="maps explain probabilities instead of scores: the softmax is left on",
    remedy=(
        "Explain the network without its last softmax or sigmoid (sklrp.explain does so by "
        "itself), and train logits with CrossEntropyLoss, or a log-softmax with NLLLoss."
    ),
)
def _find_softmax(a: Audited) -> str:
    twice = _find_double(a)
    if twice or (a.head is None and a.relevance is None):
        return twice
    if a.relevance is None:
        a.notes.append(
            f"the network ends in a {a.head}: sklrp explains the scores before it, but maps made "
            "elsewhere would explain probabilities"
        )
        return ""
    # The softmax may also stand outside the network, in the function that was explained.
    values = a.probabilities if a.head is None else a.values
    if values is None:
        return ""
    off, off_score = (_miss(a, explained) for explained in (values, a.score))
    if _spread_within(a, values) > 1e-3 and off < _SUM_FITS < _DIFFERENT + off_score:
        return (
            f"the maps' sums follow the values of the {a.head or 'softmax'}, to {off:.1%} of "
            "their spread"
        )
    return "" if a.head is None else _find_saturation(a)


def _miss(a: Audited, values: NDArray) -> float:
    """Return how far the maps' sums miss values, as a share of their spread."""
    spread = _spread_within(a, values)
    return _spread_within(a, a.given.sum(axis=1) - values) / spread if spread > 0 else np.inf


def _spread_within(a: Audited, values: NDArray) -> float:
    """Return the standard deviation within outputs: a baseline's value differs among them."""
    _, groups = np.unique(a.columns, return_inverse=True)
    sizes = np.bincount(groups)
    rest = values - (np.bincount(groups, values) / sizes)[groups]
    free = len(values) - len(sizes)
    return float(np.sqrt((rest**2).sum() / free)) if free > 1 else 0.0


def _find_double(a: Audited) -> str:
    """Say whether a net's loss applies a softmax or sigmoid once more."""
    criterion = getattr(a.explained.model.network, "criterion_", None)
    twice = {"softmax": nn.CrossEntropyLoss, "sigmoid": nn.BCEWithLogitsLoss}
    if a.head not in twice or not isinstance(criterion, twice[a.head]):
        return ""
    return f"it was trained with {type(criterion).__name__}, which applies a {a.head} once more"


def _find_saturation(a: Audited) -> str:
    """Say whether maps vanish where probabilities are near 0 or 1, as their gradients do."""
    chance = np.exp(a.values) if a.head in ("log_softmax", "logsigmoid") else a.values
    slope = 1 - chance if a.head in ("log_softmax", "logsigmoid") else chance * (1 - chance)
    sizes, own = sizes_of(a.given), sizes_of(a.own)
    alive = (slope > 0) & (sizes > 0) & (own > 0)
    if alive.sum() < 10:
        return ""
    x, y = np.log(slope[alive]), np.log(sizes[alive] / own[alive])
    if x.std() < 0.5 or y.std() < 0.25:
        return ""
    fit = float(np.corrcoef(x, y)[0, 1])
    rate = fit * y.std() / x.std()
    if fit < 0.9 or not 0.5 <= rate <= 1.5:
        return ""
    return (
        f"maps shrink as the gradient of the {a.head} does, with a correlation of {fit:.2f} "
        f"between the logarithms of both, down to {np.exp(y.min()):.1e} of the score's own map"
    )


@mistake(
    "not_finite",
    wrong="relevance is NaN or infinite",
    remedy=(
        "Look for fill values in the input and for divisions by 0: by a map's own sum, or by "
        "pre-activations of 0 with epsilon=0."
    ),
)
def _find_not_finite(a: Audited) -> str:
    if a.relevance is None:
        raise Unanswered("relevance was not given")
    bad = ~np.isfinite(flatten(a.relevance))
    if not bad.any():
        return ""
    return f"{bad.any(axis=1).sum()} of {len(bad)} maps hold {bad.sum()} such values"


@mistake(
    "vanished",
    wrong="maps hold nothing",
    remedy=(
        "Look for a large epsilon, a saturated softmax, dead units, and an argmax or a detach "
        "through which no gradient goes."
    ),
)
def _find_vanished(a: Audited) -> str:
    sizes = sizes_of(a.maps)
    empty = int((sizes == 0).sum())
    if empty >= max(1, _EMPTY * len(sizes)):
        return f"{empty} of {len(sizes)} maps are all zeros"
    share = float(np.median(sizes / np.maximum(np.abs(a.score), np.finfo(float).tiny)))
    if a.relevance is None or share > _VANISHED or a.score.max() == 0:
        return ""
    return f"the absolute values of a map add up to {share:.1e} of the score (median)"


@mistake(
    "same_map",
    wrong="different samples have one and the same map",
    remedy=(
        "Explain each sample by itself: look for a mean over samples that was broadcast, a batch "
        "whose first map was kept, and gradients that are not multiplied by the input."
    ),
)
def _find_same_map(a: Audited) -> str:
    given, samples = a.given, flatten(a.explained.X)[a.kept]
    n = int(a.shared.sum())
    if n < max(3, _MOST_SHARED * len(given)):
        return ""
    own = int(find_shared(a.own, samples).sum())
    if own > n / 2:
        a.notes.append(f"{own} of the model's own {len(given)} maps are another sample's too")
        return ""
    # Samples that activate the same units have the same gradient.
    if mean_cosine(given * samples, a.own_by("epsilon")) >= _BY_RULE:
        a.notes.append(
            f"maps are gradients, of which {n} of {len(given)} are another sample's: multiplied "
            "by the input they say what a cell adds to the score"
        )
        return ""
    return (
        f"{n} of {len(given)} maps are the map of another sample, but for a factor, where samples "
        f"differ; of the model's own {own or 'none'}"
    )


@mistake(
    "input_as_map",
    wrong="the samples were passed as their maps",
    remedy="Pass relevance: X shows what the samples are, and nothing of the network.",
)
def _find_input_as_map(a: Audited) -> str:
    given = a.given
    samples = flatten(a.explained.X)[a.kept]
    away = samples - flatten(a.explained.some_pool).mean(axis=0)
    forms = {"X": samples, "X without its mean": away}
    forms |= {f"|{name}|": np.abs(form) for name, form in forms.items()}
    forms |= {"X squared": samples**2, "X without its mean, squared": away**2}
    for name, form in forms.items():
        fits = [np.abs(np.nan_to_num(cosines(maps, form))) for maps in (given, a.own)]
        found, own = (float(np.mean(values >= SAME)) for values in fits)
        if found >= _MOST_SHARED and own < found / 2:
            return (
                f"{found:.0%} of the maps are {name}, but for a factor (cosine of {SAME} and "
                f"more), of the model's own {own:.0%}"
            )
    return ""


def _check_scores_differ(a: Audited) -> None:
    """Refuse to ask whether sums of maps are equal where they are by right."""
    check_of_samples(a)
    if a.shared.mean() >= _MOST_SHARED:
        raise Unanswered("half of the maps are another sample's")
    size = np.abs(a.score).mean()
    if len(a.score) < 3 or np.ptp(a.score) <= _DIFFERENT * size:
        raise Unanswered("there are not three samples with different scores")


def _are_equal(values: NDArray, noise: NDArray | float = 0.0) -> bool:
    """Tell whether values are one and the same but for rounding, and not 0."""
    middle = float(np.median(values))
    within = _EQUAL * abs(middle) + np.asarray(noise)
    far = abs(middle) > 10 * np.max(within)
    return bool(far and (np.abs(values - middle) <= within).all())


@mistake(
    "signed_sum",
    wrong="maps are divided by their signed sum",
    remedy=(
        "Leave relevance in units of the score. To compare maps divide all by one number; a "
        "signed sum can be next to 0, and turns the sign of maps of negative sums."
    ),
)
def _find_signed_sum(a: Audited) -> str:
    given = a.given
    _check_scores_differ(a)
    sums, sizes = given.sum(axis=1), sizes_of(given)
    if not _are_equal(sums, 1e-6 * sizes) or _are_equal(sizes):
        return ""
    return (
        f"every map sums to {np.median(sums):.4g}, while scores go from {a.score.min():.3g} to "
        f"{a.score.max():.3g}; absolute sums go from {sizes.min():.3g} to {sizes.max():.3g}"
    )


@mistake(
    "norm_divided",
    wrong="each map is divided by its own norm",
    remedy=(
        "Leave relevance in units of the score, or divide all maps by one number: else the maps "
        "of samples that say nothing count as much in a mean as all others."
    ),
)
def _find_norm_divided(a: Audited) -> str:
    given = a.given
    _check_scores_differ(a)
    norms = {
        "sum of absolute values": sizes_of(given),
        "Euclidean norm": np.linalg.norm(given, axis=1),
        "largest absolute value": np.abs(given).max(axis=1),
        "range": np.ptp(given, axis=1),
    }
    for name, values in norms.items():
        if _are_equal(values):
            return (
                f"every map has the {name} {np.median(values):.4g}, while scores go from "
                f"{a.score.min():.3g} to {a.score.max():.3g}"
            )
    return ""


@mistake(
    "sign_lost",
    wrong="relevance has lost its sign",
    remedy=(
        "Keep negative relevance: it speaks against what is explained. Do not take absolute "
        "values, squares or a ReLU of maps."
    ),
)
def _find_sign_lost(a: Audited) -> str:
    given, own = a.given, a.own
    check_of_samples(a)
    if _share_against(own) < _SIGNED and are_unsigned(given):
        own = a.own_by("epsilon")  # the rule of the call may have no negative relevance by right
    against = _share_against(own)
    if against < _SIGNED:
        raise Unanswered("the model's own maps hardly have negative relevance")
    if is_negative(a):
        return "maps are the negative of the model's own"
    signs = np.where(a.score < 0, -1.0, 1.0)[:, np.newaxis]
    one_sign = {
        "no negative value": given,
        "no positive value": -given,
        "the sign of their score throughout": given * signs,
    }
    seen = next((said for said, maps in one_sign.items() if are_unsigned(maps)), "")
    if not seen or _is_unsigned_by_rule(a):
        return ""
    given = np.abs(given)
    forms = {
        "absolute values": np.abs(own),
        "squares": own**2,
        "positive parts": own.clip(min=0),
    }
    values = {name: mean_cosine(given, form) for name, form in forms.items()}
    best = max(values, key=lambda name: values[name])
    like = "nearest to"
    if values[best] >= SAME:
        like = "like"
    return (
        f"maps have {seen}, {like} the {best} of the model's own (mean cosine "
        f"{values[best]:.2f}), of which {against:.0%} are negative"
    )


def _share_against(maps: NDArray) -> float:
    """Return how much of a map is negative relevance (median)."""
    return float(np.median(-maps.clip(max=0).sum(axis=1) / np.maximum(sizes_of(maps), 1e-300)))


def _is_unsigned_by_rule(a: Audited) -> bool:
    """Tell whether maps are those of a rule that has no negative relevance, as z-plus."""
    signs = np.where(a.score < 0, -1.0, 1.0)[:, np.newaxis]
    given = np.abs(a.given)
    if are_unsigned(a.own * signs) and mean_cosine(given, np.abs(a.own)) >= _BY_RULE:
        return True
    return any(mean_cosine(given, np.abs(a.own_by(rule))) >= _BY_RULE for rule in _POSITIVE_RULES)
