"""The skill map: which cells carry what a model knows of samples that it never saw.

Users call `skill_map`; `artifact_map` and `diagnose` grade relevance maps against it. It needs no
map and no rule: it asks the model and held-out labels alone.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import as_samples
from sklrp._frame import frame_of
from sklrp._sklearn import Interval, StrOptions, validate_params
from sklrp._streams import Streams
from sklrp.diagnostics.asked_models import PlainModel, contributions_of, find_baselines, take_model
from sklrp.diagnostics.contributions import Contributions
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.permutations import (
    CellTest,
    Exchange,
    estimate_block,
    permutation_test,
)
from sklrp.diagnostics.questions import Question, check_truth, question_of

# min_share="auto": of many samples a cell of a thousandth of the skill is significant, and paths
# from a baseline lead over places where there are no data, which alone can make so much.
_OF_EVEN, _OF_LARGEST = 0.1, 0.05


_POWER = 0.84  # standard errors above the threshold where four of five such cells are found


@validate_params(
    {
        "alpha": [Interval(Real, 0, 0.5, closed="neither")],
        "block_length": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "n_permutations": [Interval(Integral, 19, None, closed="left")],
        "n_draws": [StrOptions({"auto"}), Interval(Integral, 2, None, closed="left")],
        "min_share": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def skill_map(
    model: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    X_train: ArrayLike | None = None,
    baseline: Any = None,
    groups: ArrayLike | None = None,
    block_length: int | str = "auto",
    alpha: float = 0.05,
    n_permutations: int = 999,
    n_draws: int | str = "auto",
    min_share: float | str = "auto",
    regions: ArrayLike | None = None,
    target: Any = None,
    grid: Any = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Finding:
    r"""Decompose the skill of a model over cells, and test which of them carry it.

    Use it to know where a model really has its knowledge from, without retraining and without a
    rule of relevance. Each cell contributes :math:`\phi` to the score of each class of a held-out
    sample, by expected gradients against draws of the training samples [1]_. Its skill is how much
    it adds to the score of the truth,

    .. math:: T_i = \frac{1}{N} \sum_n ( \phi_{n i y_n} - \sum_c \pi_c \phi_{n i c} ),
              \qquad
              T_i = \frac{1}{N} \sum_n (y_n - \bar y) \, \phi_{n i}

    for classes, of shares :math:`\pi`, and for a value. The skills sum to the mean centred score
    of the truth. If the contributions of a cell are independent of the labels, permuted labels
    give the same law: the test is exact for a fixed model and exchangeable samples, whatever the
    model and however cells are correlated. Every permutation is divided by its own standard error
    (Welch), so that a cell that only spreads more in one class is no evidence. p-values hold for
    the family of all cells at once (maxT, step-down [2]_).

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        A fitted model: whatever `sklrp.explain` takes, any other torch network that has a
        gradient, and any other classifier or regressor of scikit-learn. Cells are those of what
        enters the network. A model without a network is asked about X itself, by replacing groups
        of cells: those of `regions`, or single cells of at most 64.
    X : array-like of shape (n_samples, ...)
        Samples that the model was not trained on.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Their labels or values.
    X_train : array-like of shape (n_train, ...) or None, default=None
        The training samples, from which baselines are drawn. None (default) draws them from X.
    baseline : {"mean"}, array-like or None, default=None
        What samples are compared with: the mean of the training samples, one sample or several.
        None (default): draws of them, which neither credit a constant offset nor an outlier.
    groups : array-like of shape (n_samples,) or None, default=None
        Units that belong together, such as cases, members or years: their labels are permuted as
        a whole, among units of equal size.
    block_length : int or "auto", default="auto"
        Neighbours, of samples in order of time, that are permuted together. ``"auto"`` estimates
        it from labels and contributions; 1 permutes single samples.
    alpha : float, default=0.05
        The probability that any cell is called true or misleading that is neither.
    n_permutations : int, default=999
        Number of permutations, at least 19.
    n_draws : int or "auto", default="auto"
        Pairs of a baseline and a place on the way to it, for each sample. ``"auto"`` doubles them
        until they add less than a tenth to the variance of contributions.
    min_share : float or "auto", default="auto"
        The least share of the skill that makes a cell true or misleading, beside its p-value: of
        many samples a cell of a thousandth of the skill can be significant. ``"auto"`` is a
        twentieth of the largest cell's, and at least a tenth of the even share, 1 over the number
        of cells.
    regions : array-like of the shape of a sample or None, default=None
        Labels of regions, whose skills are tested as well, beside those of cells.
    target : None, label or int, default=None
        One class against the others, or one output of a regression. None (default): all classes,
        or each output.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where cells are, for the picture, if neither X nor a step of the pipeline says.
    n_jobs : int or None, default=None
        Number of threads that share the samples; the result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Determines draws and permutations.

    Returns
    -------
    Finding
        With arrays of the shape of a sample (of several outputs one for each): ``skill``, in units
        of the score; ``z``, in standard errors; ``p_value``, for the family of all cells;
        ``q_value``, the estimated share of false discoveries; the masks ``true`` and
        ``misleading``, by ``p_value`` and `min_share`, and ``true_fdr``, by ``q_value``;
        ``detectable``, the smallest skill of a cell that would have been found in four of five
        such samples. Also ``completeness``, the mean residual of contributions as a share of the
        scores' spread; ``p_skill``, of the skill as a whole; ``exchange``, what was permuted, in
        words; ``block_length``; ``n_draws``; ``assumptions``, a list; with `regions` the dict
        ``regions`` of their names, skills, z and p-values.

    Raises
    ------
    ValueError
        If the data or a parameter is malformed, if there is one class or value only, or if there
        are too few units to permute.
    TypeError
        If the model neither has a network nor predicts.

    References
    ----------
    .. [1] G. Erion et al., "Improving performance of deep learning models with axiomatic
       attribution priors and expected gradients", Nature Machine Intelligence 3, 2021.
    .. [2] P. Westfall, S. Young, "Resampling-based multiple testing", Wiley 1993.

    Examples
    --------
    >>> from sklrp import MLPClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import skill_map
    >>> X, y, mask = make_squares(n_per_class=100, size=20, random_state=0)
    >>> clf = MLPClassifier(max_epochs=10, random_state=0).fit(X[:100], y[:100])
    >>> found = skill_map(clf, X[100:], y[100:], X_train=X[:100], random_state=0)
    >>> bool(found.true[mask].all()), int(found.true[~mask].sum())
    (True, 0)
    """
    streams = Streams(random_state)
    unwrapped = take_model(model, X)
    entering = unwrapped.enter(X)
    samples = as_samples(entering)
    assumptions: list[str] = []
    pool = find_baselines(unwrapped, samples, X_train, baseline, assumptions)
    labels = check_truth(y, len(samples))
    _check_groups_and_blocks(groups, block_length, len(samples))

    codes = None if regions is None else _code_regions(regions, samples.shape[1:])
    question = question_of(unwrapped, samples, labels, target)
    draws = None if n_draws == "auto" else int(n_draws)
    rng = streams.rng("skill_map draws")
    found = contributions_of(unwrapped, samples, pool, question, codes, rng, draws, n_jobs)
    exchange = _find_exchange(groups, block_length, question, found, assumptions)
    _check_units(exchange, alpha)
    scores = question.scores(found.phi)
    rng = streams.rng("skill_map permutations")
    cells = permutation_test(scores, exchange, rng, n_permutations)
    shape = (*question.lead, *samples.shape[1:])
    if isinstance(unwrapped, PlainModel):  # what a group has, its cells share
        cells = _spread_over_cells(cells, unwrapped.codes(samples, codes))

    arrays = _judge_cells(cells, alpha, min_share)
    whole = _test_sums(question, found, exchange, streams, n_permutations, None)
    finding = Finding(
        **_say(arrays, whole, exchange, alpha),
        **{name: values.reshape(shape) for name, values in arrays.items()},
        p_skill=float(whole["p_value"][0]),
        completeness=found.completeness,
        n_draws=found.n_draws,
        exchange=exchange.words,
        block_length=exchange.block_length,
        assumptions=assumptions,
        frame=frame_of(unwrapped, X, entering, grid=grid),
        table={name: arrays[name] for name in ("skill", "z", "p_value", "q_value")},
    )
    if codes is not None:
        finding["regions"] = _test_sums(question, found, exchange, streams, n_permutations, codes)
    return finding


def _judge_cells(cells: CellTest, alpha: float, min_share: float | str) -> dict[str, NDArray]:
    """Return what is said of each cell, by its p-values and its share of the skill."""
    size = np.abs(cells.skill)
    total = max(abs(cells.skill.sum()), np.finfo(float).tiny)
    if min_share == "auto":
        enough = max(_OF_EVEN / size.size * total, _OF_LARGEST * size.max())
    else:
        enough = float(min_share) * total
    by_p = (cells.p_value <= alpha) & (size >= enough)
    by_q = (cells.q_value <= alpha) & (size >= enough)
    threshold = float(np.quantile(cells.largest, 1 - alpha))
    return {
        "skill": cells.skill,
        "z": cells.z,
        "p_value": cells.p_value,
        "q_value": cells.q_value,
        "true": by_p & (cells.skill > 0),
        "misleading": by_p & (cells.skill < 0),
        "true_fdr": by_q & (cells.skill > 0),
        "detectable": (threshold + _POWER) * cells.error,
    }


def _say(
    arrays: dict[str, NDArray], whole: dict[str, NDArray], exchange: Exchange, alpha: float
) -> dict[str, Any]:
    """Return what a finding says in words and numbers."""
    total, true = float(arrays["skill"].sum()), arrays["true"]
    error, p_value = whole["error"][0], whole["p_value"][0]
    advice = ""
    if not true.any():
        held = total > 0 and p_value <= alpha
        advice = _advise(held, arrays["detectable"], np.abs(arrays["skill"]).sum())
    return {
        "name": "skill_map",
        "question": "Which cells carry what the model knows of samples that it never saw?",
        "statistic": total,
        "interval": (total - 1.96 * error, total + 1.96 * error),
        "null": np.zeros(1),
        "verdict": "fact" if true.any() else "undecided",
        "reading": (
            f"mean centred score of the truth (p = {p_value:.3g}); {true.sum()} of {true.size} "
            f"cells are true, {arrays['true_fdr'].sum()} by false discoveries, "
            f"{arrays['misleading'].sum()} misleading; they were compared with permuted labels of "
            f"{exchange.words}"
        ),
        "advice": advice,
    }


def _check_groups_and_blocks(groups: Any, block_length: int | str, n_samples: int) -> None:
    if groups is not None:
        shape = np.shape(groups)
        if shape != (n_samples,):
            raise ValueError(
                f"groups must hold the group of each of {n_samples} samples, got the shape "
                f"{shape}."
            )
        if block_length not in ("auto", 1):
            raise ValueError(
                f"block_length={block_length!r} and groups go together in no test: give one."
            )
    if block_length != "auto" and int(block_length) > n_samples // 2:
        raise ValueError(
            f"block_length={block_length} leaves fewer than two blocks of {n_samples} samples."
        )


def _find_exchange(
    groups: Any,
    block_length: int | str,
    question: Question,
    found: Contributions,
    assumptions: list[str],
) -> Exchange:
    """Return what is exchanged, with the length of blocks estimated if it is not given."""
    n = len(question.truth)
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
        assumptions.append("groups are exchangeable")
        return Exchange(n, codes.ravel())
    if block_length != "auto":
        what = "single samples" if block_length == 1 else "blocks of neighbouring samples"
        assumptions.append(f"{what} are exchangeable, as block_length says")
        return Exchange(n, None, int(block_length))
    length, rho = estimate_block(question.columns(), found.phi[0])
    assumptions.append(
        f"samples in their order are correlated ({rho:.2f} from one to the next): blocks of "
        f"{length} are exchangeable"
        if length > 1
        else f"samples are exchangeable: no correlation from one to the next was found ({rho:.2f})"
    )
    return Exchange(n, None, length)


def _check_units(exchange: Exchange, alpha: float) -> None:
    if exchange.log_permutations() < math.log(1 / alpha):
        raise ValueError(
            f"there are too few units to permute, {exchange.words}: fewer than {1 / alpha:.0f} "
            f"orders cannot give p <= {alpha:g}. Hold out more samples, or give a smaller "
            "block_length or other groups if that is right."
        )


def _spread_over_cells(test: CellTest, codes: NDArray[np.intp]) -> CellTest:
    """Return the test of groups as one of cells: a group's skill is shared by its cells."""
    sizes = np.bincount(codes)
    lead = len(test.skill) // len(sizes)

    def spread(values: NDArray) -> NDArray:
        return values.reshape(lead, -1)[:, codes].ravel()

    share = np.tile(sizes, lead)
    return CellTest(
        spread(test.skill / share),
        spread(test.error / share),
        spread(test.z),
        spread(test.p_value),
        spread(test.q_value),
        test.largest,
    )


def _code_regions(regions: Any, sample_shape: tuple[int, ...]) -> NDArray:
    """Return the region of each cell, as given."""
    labels = np.asarray(regions)
    if labels.shape != sample_shape and labels.shape != (math.prod(sample_shape),):
        raise ValueError(
            f"regions has the shape {labels.shape}, but must have that of a sample that enters "
            f"the network, {sample_shape}."
        )
    return labels.ravel()


def _test_sums(
    question: Question,
    found: Contributions,
    exchange: Exchange,
    streams: Streams,
    n_permutations: int,
    labels: NDArray | None,
) -> dict[str, NDArray]:
    """Test the skill of regions, or of all cells together."""
    n_cells = found.phi[0].shape[1]
    if labels is not None and len(labels) != n_cells:  # groups already
        names, codes = np.unique(labels), np.arange(n_cells)
    else:
        names, codes = np.unique(
            np.zeros(n_cells, dtype=int) if labels is None else labels, return_inverse=True
        )
    member = np.zeros((n_cells, len(names)), dtype=found.phi[0].dtype)
    member[np.arange(n_cells), codes] = 1
    scores = question.scores([phi @ member for phi in found.phi])
    # The same orders as for cells: what a region shows and its cells belong together.
    test = permutation_test(
        scores, exchange, streams.rng("skill_map permutations"), n_permutations
    )
    return {
        "name": np.tile(names, max(1, math.prod(question.lead))),
        "skill": test.skill,
        "error": test.error,
        "z": test.z,
        "p_value": test.p_value,
    }


def _advise(held: bool, detectable: NDArray, size: float) -> str:
    if held:
        return (
            "The model has skill, but no single cell's is told from none: hold out more samples, "
            f"or test regions. A cell needed {np.median(detectable) / max(size, 1e-300):.1%} of "
            "the skill to be found (median)."
        )
    return "The model has no skill on these samples that permuted labels would not give."
