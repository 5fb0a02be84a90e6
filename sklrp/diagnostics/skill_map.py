"""The skill map: which cells carry what a model knows of samples that it never saw.

Users call `skill_map`; `artifact_map` and `diagnose` grade relevance maps against it. It needs no
map and no rule: it asks the model and held-out labels alone.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklrp._constraints import Interval, constrained
from sklrp._devices import to_host
from sklrp._frame import Frame, frame_of
from sklrp._kept import Kept
from sklrp._matching import match_samples
from sklrp._model_parts import Model
from sklrp._outputs import split_key
from sklrp._rows import count_samples, take_rows
from sklrp._sklearn import StrOptions
from sklrp._value_range import warn_if_far
from sklrp.diagnostics.findings import Finding
from sklrp.propagation.readings import read_name, read_target
from sklrp.skill import Decomposition, Neighbours, decompose_skill, take_model


@constrained(
    {
        "alpha": [Interval(Real, 0, 0.5, closed="neither")],
        "block_length": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "n_permutations": [Interval(Integral, 19, None, closed="left")],
        "n_draws": [StrOptions({"auto"}), Interval(Integral, 2, None, closed="left")],
        "min_share": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
    }
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
    memory: Any = None,
    progress: bool = False,
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
    y : array-like of shape (n_samples,), (n_samples, n_outputs) or (n_samples, *output_shape)
        Their labels or values. Fields may be NaN where no sample has a value.
    X_train : array-like of shape (n_train, ...) or None, default=None
        The training samples, from which baselines are drawn. None (default) draws them from X.
    baseline : {"mean"}, array-like or None, default=None
        What samples are compared with: the mean of the training samples, one sample or several.
        None (default): draws of them, which neither credit a constant offset nor an outlier.
    groups : array-like of shape (n_samples,) or None, default=None
        Units that belong together, such as cases, members or years: their labels are permuted as
        a whole, among units of equal size, whatever times X has.
    block_length : int or "auto", default="auto"
        Neighbours, of samples in order of time, that are permuted together. ``"auto"`` estimates
        it from labels and contributions; 1 permutes single samples, with a warning if they are
        correlated. Where a coordinate of X, or of y, says when samples were (of xarray, or the
        dates of an index of pandas), they are put into its order first, those of one time are
        kept together and count as one neighbour, and gaps count as long as they are. Elsewhere
        the order of X is asked.
    alpha : float, default=0.05
        The probability that any cell is called true or misleading that is neither; at least
        1 / (1 + `n_permutations`).
    n_permutations : int, default=999
        Number of permutations, at least 19.
    n_draws : int or "auto", default="auto"
        Pairs of a baseline and a place on the way to it, for each sample. ``"auto"`` adds to them
        until they make less than a twentieth of the variance of contributions (``noise``), a
        tenth in a model without a gradient, or until that would take long on a large grid: few
        draws find less, and no more that is false.
    min_share : float or "auto", default="auto"
        The least share of the skill that makes a cell true or misleading, beside its p-value: of
        many samples a cell of a thousandth of the skill can be significant. ``"auto"`` is a
        twentieth of the largest cell's, and at least a tenth of the even share, 1 over the number
        of cells.
    regions : array-like or DataArray of the shape of a sample or None, default=None
        Labels of regions, whose skills are tested as well, beside those of cells. Cells whose
        label is missing, None or NaN, are in no region. Of fields, labels of the grid's cells will
        do, whatever the pipeline makes of them; a DataArray is put in place by its coordinates.
    target : None, label, int, tuple, array-like, str or callable, default=None
        What of the outputs is explained. Of classes: one against the others. Of values: the
        number of an output, its indices in the output's shape, a mask of that shape (the sum
        over a box, say; ``mask / mask.sum()`` is its mean) or weights of that shape (a weighted
        sum); y is like the output, or the truth of what is asked. Of networks also a function of
        the output, as in `sklrp.explain`, and ``"name"`` or ``("name", ...)`` of one of several
        outputs. None (default): all classes; of up to 64 values each, with a map of its own; of a
        field, or of more values, all together in one map, as their leading patterns in what the
        model predicts (at most 8, for nine tenths of the variance), onto which y is projected.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where cells are, for the picture, if neither X nor a step of the pipeline says.
    n_jobs : int or None, default=None
        Number of joblib's workers that share the samples, threads unless `joblib.parallel_config`
        says otherwise; the result does not depend on it.
    memory : None, str, path or joblib.Memory, default=None
        Where contributions and tests are kept, as in scikit-learn's `Pipeline`: after an
        interruption the same call does only what is missing. With ``random_state=None`` it takes
        the seed that the first call has drawn. None (default): nowhere.
    progress : bool, default=False
        Whether to show progress bars, of draws and of permutations.
    random_state : int, RandomState instance or None, default=None
        Determines draws and permutations.

    Returns
    -------
    Finding
        With arrays of the shape of a sample (of several outputs one for each):

        - ``skill``, in units of the score; ``z``, in standard errors; ``p_value``, for the family
          of all cells; ``q_value``, the estimated share of false discoveries;
        - ``true``, a mask by ``p_value`` and `min_share`; ``true_fdr``, by ``q_value``;
        - ``misleading``, a mask of cells of negative skill without which the model loses less:
          with values of other samples in their place, paired over samples, Holm over cells. Up to
          64 of the largest are asked, fewer of a large grid;
        - ``detectable``, the smallest skill that would have been found in four of five such
          samples; ``use``, the mean absolute contribution: how much a cell moves the score,
          rightly or not.

        Also ``completeness``, the mean residual of contributions as a share of the scores' spread;
        ``noise`` and ``n_draws``; ``p_skill``, of the skill as a whole; ``exchange``, what was
        permuted, in words; ``block_length``; ``assumptions``, a list. With `regions` the dict
        ``regions`` of their names, skills, z and p-values. Where cells have neighbours the dict
        ``clusters``: ``labels``, of the shape of a sample, and ``mass``, ``size`` and ``p_value``
        of each, the largest first. A cluster is evidence that some of its cells carry skill, and
        of no single one: it leaks over the border of what is true.

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
    unwrapped = take_model(model, X)
    entering = unwrapped.enter(X)
    asked = {"network": unwrapped.network, "X": entering, "y": y, "target": target}
    asked |= {"baseline": baseline, "groups": groups, "block_length": block_length}
    asked |= {"n_draws": n_draws, "regions": regions, "before": unwrapped.before}
    kept = Kept(memory, lambda: {**asked, "X_train": _entering_if_any(unwrapped, X_train)})
    streams = kept.streams(random_state)
    known = None if X_train is None else lambda: unwrapped.enter(X_train, "X_train")
    warn_if_far(unwrapped, entering, known)
    frame = frame_of(unwrapped, X, entering, grid=grid)
    regions = None if regions is None else frame.take_regions(regions)
    unwrapped, y, target = _apply_target(unwrapped, X, entering, y, to_host(target))
    found = decompose_skill(
        unwrapped,
        X,
        y,
        streams,
        X_train=X_train,
        baseline=baseline,
        groups=groups,
        block_length=block_length,
        alpha=alpha,
        n_permutations=n_permutations,
        n_draws=n_draws,
        min_share=min_share,
        regions=regions,
        target=target,
        n_jobs=n_jobs,
        progress=progress,
        neighbours=neighbours_of(frame),
        kept=kept.drawn_by(streams),
    )
    finding = Finding(
        **_say(found, alpha),
        **found.cells,
        alpha=alpha,
        p_skill=found.p_value,
        completeness=found.completeness,
        noise=found.noise,
        n_draws=found.n_draws,
        exchange=found.exchange.words,
        block_length=found.exchange.block_length,
        assumptions=found.assumptions,
        frame=frame,
        table={
            name: found.cells[name].ravel() for name in ("skill", "z", "p_value", "q_value", "use")
        },
    )
    for name in ("regions", "clusters"):
        if getattr(found, name) is not None:
            finding[name] = getattr(found, name)
    return finding


def _entering_if_any(model: Any, X: Any) -> Any:
    """Return what enters a model's network, None of None."""
    return None if X is None else model.enter(X)


def _apply_target(model: Any, X: Any, entering: Any, y: Any, target: Any) -> tuple[Any, Any, Any]:
    """Return a model, truth and target, where a function or a name says what of it is meant."""
    # Indices, masks and weights are `sklrp.skill`'s own.
    if not isinstance(model, Model):
        return model, y, target
    key, rest = (None, target) if model.classes is not None else split_key(target)
    if key is None and not callable(rest):
        return model, y, target
    one = take_rows(entering, slice(1))
    if key is not None and not callable(rest):
        if isinstance(model.returned(one), Tensor):  # which has no names
            return model, y, target
        return replace(model, reading=read_name(model, one, key)), y, rest
    found = read_target(model, one, target, count_samples(entering))
    if found.number is None:
        return model, y, target
    return found.model, found.number.of_truth(match_samples(y, X, "y")), None


def neighbours_of(frame: Frame) -> Neighbours | None:
    """Return which cells are neighbours, None in a table, whose columns have no order."""
    if frame.layout == "table":
        return None
    return Neighbours(frame.laid, frame.valid, frame.channel_axis, _axis_around_globe(frame))


def _axis_around_globe(frame: Frame) -> int | None:
    """Return the axis of longitude, if the field goes all around, else None."""
    if frame.longitude is None or len(frame.longitude) < 3:
        return None
    longitude = np.unwrap(np.asarray(frame.longitude, dtype=float), period=360)
    steps = np.abs(np.diff(longitude))
    if abs(steps.sum() + steps.mean() - 360) > 0.5 * steps.mean():
        return None
    axes = [k for k in range(len(frame.laid)) if k != frame.channel_axis]
    return axes[0] if frame.turned else axes[-1]


def _say(found: Decomposition, alpha: float) -> dict[str, Any]:
    """Return what a finding says in words and numbers."""
    cells, true = found.cells, found.cells["true"]
    n_cells = np.count_nonzero(found.with_data) * true.size // found.with_data.size
    advice = ""
    if not true.any():
        held = found.total > 0 and found.p_value <= alpha
        advice = _advise(
            held, cells["detectable"][..., found.with_data], np.abs(cells["skill"]).sum()
        )
    return {
        "name": "skill_map",
        "question": "Which cells carry what the model knows of samples that it never saw?",
        "statistic": found.total,
        "interval": (found.total - 1.96 * found.error, found.total + 1.96 * found.error),
        "null": np.zeros(1),
        "verdict": "fact" if true.any() else "undecided",
        "reading": (
            f"mean centred score of the truth (p = {found.p_value:.3g}); {true.sum()} of "
            f"{n_cells} cells are true, {cells['true_fdr'].sum()} by false discoveries, "
            f"{cells['misleading'].sum()} misleading; they were compared with permuted labels of "
            f"{found.exchange.words}"
        ),
        "advice": advice,
    }


def _advise(held: bool, detectable: NDArray, size: float) -> str:
    if held:
        return (
            "The model has skill, but no single cell's is told from none: hold out more samples, "
            f"or test regions. A cell needed {np.median(detectable) / max(size, 1e-300):.1%} of "
            "the skill to be found (median)."
        )
    return "The model has no skill on these samples that permuted labels would not give."
