"""How a parameter of an estimator steers where its relevance lies: `focus_curve`.

It trains clones; the other diagnostics are about a model that is fitted.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, indexable
from torch import nn
from tqdm.std import tqdm

from sklrp._checks import check_folds, check_mask, import_optional, look_up, say_shape, suggest
from sklrp._constraints import constrained
from sklrp._frame import frame_of
from sklrp._kept import Kept
from sklrp._missing import as_plain_array
from sklrp._model_parts import Model
from sklrp._models import unwrap
from sklrp._sklearn import (
    InvalidParameterError,
    StrOptions,
    check_method_params,
    check_own_params,
    has_constraints,
    num_samples,
    safe_indexing,
)
from sklrp._wording import say_value, shorten
from sklrp._workers import run_on_workers
from sklrp.composites import check_rule
from sklrp.diagnostics.profiles import axis_profiles
from sklrp.metrics.maps import relevance_mass
from sklrp.propagation import explain
from sklrp.propagation.targets import Function, decode_target


class FocusCurve(Bunch):  # numpydoc ignore=PR02
    """What `focus_curve` found, for each value of the parameter and each fold.

    A dictionary whose entries are attributes too, as in scikit-learn's `Bunch`.

    Parameters
    ----------
    **entries : dict
        The attributes.

    Attributes
    ----------
    estimator_name : str
        Name of the network's class.
    score_name : str
        Name of the score.
    param_name : str
        Name of the parameter.
    param_range : list
        Its values.
    test_scores, train_scores : ndarray of shape (n_values, n_folds)
        The scores of the estimator, by default its accuracy.
    mass : ndarray of shape (n_values, n_folds) or None
        Share of the relevance that lies on the mask, mean over the test samples; None without a
        mask.
    mass_chance : Bunch or None
        What `mass` is to be compared with: ``cells`` the mask's share of the cells, which a
        uniform map has, and ``input`` its share of the input's absolute values, which a map
        proportional to the input has, mean over values and folds.
    profiles : tuple of ndarray of shape (n_values, n_folds, n_positions)
        For each axis of a sample that is longer than one, the share of absolute relevance at each
        position, see `axis_profiles`.
    input_profiles : tuple of ndarray of shape (n_positions,)
        The same for the input's absolute values, mean over values and folds.
    axis_names : tuple of str
        What these axes are, such as ``("latitude", "longitude")``.
    """

    def __repr__(self) -> str:
        """Return a table of the means over the folds, with the smallest and the largest fold."""
        columns = {
            self.param_name: [str(value) for value in self.param_range],
            "test score": _write_means(self.test_scores),
            "train score": _write_means(self.train_scores),
        }
        if self.mass is not None:
            columns["on the mask"] = _write_means(self.mass)
        widths = [max(map(len, [name, *cells])) for name, cells in columns.items()]
        rows = [list(columns), *zip(*columns.values(), strict=True)]
        lines = [
            f"{self.estimator_name}, {self.test_scores.shape[1]} folds: mean (smallest-largest)"
        ]
        for row in rows:
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        if self.mass is not None:
            cells, values = self.mass_chance.cells, self.mass_chance.input
            lines.append(f"The mask has {cells:.3f} of the cells and {values:.3f} of the input.")
        return "\n".join(lines)

    def to_frame(self) -> Any:
        """Return the scores and shares as a table with a row per value and fold.

        Returns
        -------
        pandas.DataFrame
            Columns named as the parameter, ``fold``, ``test_score``, ``train_score`` and, with a
            mask, ``mass``.
        """
        pd = import_optional("pandas", extra="plot", user="to_frame")

        n_values, n_folds = self.test_scores.shape
        columns = {
            self.param_name: [value for value in self.param_range for _ in range(n_folds)],
            "fold": list(range(n_folds)) * n_values,
            "test_score": self.test_scores.ravel(),
            "train_score": self.train_scores.ravel(),
        }
        if self.mass is not None:
            columns["mass"] = self.mass.ravel()
        return pd.DataFrame(columns)


@constrained(
    {
        "param_name": [str],
        "part": [StrOptions({"positive", "absolute", "signed"})],
        "scoring": [str, callable, None],
        "params": [dict, None],
        "X": ["samples"],
        "y": ["array-like"],
    }
)
def focus_curve(
    estimator: Any,
    param_name: str,
    param_range: Iterable[Any],
    X: ArrayLike,
    y: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    part: str = "absolute",
    target: Any = None,
    rule: Any = "auto",
    epsilon: float = 1e-6,
    contrast: bool = False,
    groups: ArrayLike | None = None,
    cv: Any = None,
    scoring: Any = None,
    params: dict[str, Any] | None = None,
    n_jobs: int | None = None,
    memory: Any = None,
    progress: bool = False,
    grid: Any = None,
) -> FocusCurve:
    """Show what a parameter does to the score and to the place of the relevance.

    As :func:`~sklearn.model_selection.validation_curve` does for the score alone: for each value
    of the parameter and each fold a clone is trained, scored and explained on the samples that it
    has not seen. Use it to see whether a network looks where it should because of the data or
    because of its architecture: the leak rate or the sweep of a recurrent network, the kernel or
    the padding of a convolutional one, a cap or a mask of the input. For two parameters, call it
    for each value of one of them.

    Parameters
    ----------
    estimator : estimator, skorch net, Pipeline or search
        What `sklrp.explain` takes and can be trained; it may be fitted or not, as only clones of
        it are trained. Of a pipeline, the maps are of what enters the last step.
    param_name : str
        The parameter, of a pipeline ``"<step>__<parameter>"``.
    param_range : iterable
        Its values, of any type.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples.
    y : array-like of shape (n_samples,) or (n_samples, ...)
        Their class labels, or the values of a regression, of several outputs or fields too.
    mask : DataArray, array-like of bool or None, default=None
        True where relevance belongs: of the shape of a map, or of a field, such as
        `sklrp.geo.box_mask` returns, also where rows of its cells enter the network; or of all of
        them, for a mask of each sample. None (default): profiles only.
    part : {"absolute", "positive", "signed"}, default="absolute"
        Which relevance counts for the share on the mask, see `sklrp.metrics.relevance_mass`.
    target : object, default=None
        What is explained, the same in all samples: a class or the index of an output, or what
        `sklrp.explain` makes a number of several outputs of, such as a cell or a region of a
        field. None (default): the predicted class of each sample, or the only output.
    rule : str, Rule or Composite, default="auto"
        How relevance is passed on, see `sklrp.check_rule`.
    epsilon : float, default=1e-6
        Stabiliser of the rules that have none of their own, at least 0, in units of
        pre-activations.
    contrast : bool, default=False
        Whether to explain the target's score minus the largest of the others.
    groups : array-like of shape (n_samples,) or None, default=None
        Groups of samples, for the splitter.
    cv : int, cross-validation generator, iterable or None, default=None
        The folds, the same for all values of the parameter; None makes five, stratified.
    scoring : str, callable or None, default=None
        The score. None (default): the estimator's ``score``, the accuracy or, of all outputs of a
        regression, R².
    params : dict or None, default=None
        Parameters of ``fit``, such as ``sample_weight``; arrays of one entry per sample are split
        as X is.
    n_jobs : int or None, default=None
        Number of joblib's workers, over values and folds. None (default): one.
    memory : None, str, path or joblib.Memory, default=None
        Where the grades of each value and fold are kept, as in scikit-learn's `Pipeline`: after an
        interruption the same call trains only what is missing. None (default): nowhere.
    progress : bool, default=False
        Whether to show a progress bar.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the estimator or X says.

    Returns
    -------
    FocusCurve
        Scores, shares of the relevance on the mask and profiles along the axes of a sample, for
        each value and fold.

    Raises
    ------
    ValueError
        If the parameter is not in the estimator, a value is invalid, the range is empty, the mask
        is malformed, or the rule is unknown; before anything is trained. If the maps have another
        shape for each value, so that they have no common profile.
    TypeError
        If there is no network in the estimator, or none that can be trained; before anything is
        trained.

    See Also
    --------
    sklrp.plotting.FocusCurveDisplay : The curve as a picture.

    Examples
    --------
    >>> from sklrp import LSTMClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import focus_curve
    >>> X, y, mask = make_squares(n_per_class=40, size=20, random_state=0)
    >>> clf = LSTMClassifier(8, sweep="right", lr=0.02, max_epochs=20, random_state=0)
    >>> curve = focus_curve(clf, "pooling", ["last", "mean"], X, y, mask=mask, cv=2)
    >>> curve.mass.shape, [profile.shape for profile in curve.profiles]
    ((2, 2), [(2, 2, 20), (2, 2, 20)])
    """
    values = _list_values(param_range)
    candidates = [_set_param(estimator, param_name, value) for value in values]
    check_rule(rule)
    groups = None if groups is None else as_plain_array(groups, "groups")
    if groups is not None and groups.shape != (num_samples(X),):
        raise ValueError(
            f"groups must hold the group of each of {num_samples(X)} samples, got "
            f"{say_shape(groups, groups)}."
        )
    X, y, groups = indexable(X, y, groups)
    target = as_plain_array(target, "target") if isinstance(target, list) else target
    _check_target(target, y, estimator)
    if scoring is None and np.ndim(y) > 2:
        raise ValueError(
            f"scoring=None takes the estimator's own score, but y has the shape {np.shape(y)}, of "
            "which scikit-learn has none: give scoring, a function of estimator, X and y."
        )
    masks = None if mask is None else _take_mask(mask, candidates[0], X, y, grid)
    splits = check_cv(cv, y, classifier=is_classifier(estimator)).split(X, y, groups)
    folds = check_folds(splits, cv, len(np.asarray(y)))
    _check_fit_params(params or {}, estimator)
    scorer = check_scoring(estimator, scoring=scoring)
    explain_params = {"target": target, "rule": rule, "epsilon": epsilon, "contrast": contrast}
    shared = (X, y, scorer, params or {}, mask, grid, part, explain_params)
    kept = Kept(memory, lambda: _depends_on(estimator, scoring, *shared))
    calls = [(clone(candidate), fold) for candidate in candidates for fold in folds]
    jobs = run_on_workers(_grade_or_recall, (kept, shared), calls, n_jobs)
    total = len(candidates) * len(folds)
    grades = list(tqdm(jobs, total=total, unit="fit", desc="focus_curve", disable=not progress))
    curve = _collect(grades, param_name, values, masks)
    score = "score"
    if scoring is None:
        own = "R²" if is_regressor(estimator) else score
        score = "accuracy" if is_classifier(estimator) else own
    return FocusCurve(
        estimator_name=unwrap(estimator, fitted=False).name,
        score_name=scoring if isinstance(scoring, str) else score,
        **curve,
    )


def _depends_on(
    estimator: Any, scoring: Any, X: Any, y: Any, scorer: Any, *others: Any
) -> dict[str, Any]:
    """Return what the grades of all values and folds depend on."""
    asked = scorer if scoring is None or callable(scoring) else scoring
    if scoring is None:  # the estimator's own, which is a bound method
        asked = type(estimator)
    columns = [str(name) for name in getattr(X, "columns", ())]
    return {"X": X, "y": y, "columns": columns, "scoring": asked, "others": others}


def _grade_or_recall(shared: tuple[Kept, tuple], estimator: Any, fold: tuple) -> Bunch:
    """Return the grade of a value and a fold, from the memory if it is there."""
    kept, (X, y, *others) = shared
    return kept.get(
        ["focus_curve", type(estimator), estimator.get_params(deep=False), *fold],
        lambda: _grade(estimator, X, y, fold, *others),
    )


def _grade(
    estimator: Any,
    X: Any,
    y: Any,
    fold: tuple[NDArray, NDArray],
    scorer: Any,
    params: dict[str, Any],
    mask: Any,
    grid: Any,
    part: str,
    explain_params: dict[str, Any],
) -> Bunch:
    """Train on one part of a fold; score and explain the other."""
    train, test = fold
    X_train, y_train = safe_indexing(X, train), safe_indexing(y, train)
    X_test, y_test = safe_indexing(X, test), safe_indexing(y, test)
    estimator.fit(X_train, y_train, **check_method_params(X, params, indices=train))
    model = unwrap(estimator)
    entering = model.enter(X_test)
    frame = frame_of(model, X_test, entering, grid=grid)
    samples = np.asarray(entering, dtype=np.float64)
    maps = np.asarray(explain(model.network, entering, **explain_params))
    grade = Bunch(
        test_score=scorer(estimator, X_test, y_test),
        train_score=scorer(estimator, X_train, y_train),
        mass=np.nan,
        input_mass=np.nan,
        axis_names=frame.axis_names,
    )
    if mask is not None:
        taken = frame.take_mask(mask)
        taken = taken[test] if taken.ndim == maps.ndim else taken
        grade.mass = relevance_mass(maps, taken, part=part).mean()
        grade.input_mass = relevance_mass(samples, taken, part="absolute").mean()
    shape = (len(maps), *frame.axes)
    grade.profiles = axis_profiles(maps.reshape(shape))
    grade.input_profiles = axis_profiles(samples.reshape(shape))
    return grade


def _collect(
    grades: list[Bunch],
    param_name: str,
    values: list[Any],
    masks: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    """Return the grades of all values and folds as arrays."""
    shapes = sorted({tuple(map(len, grade.profiles)) for grade in grades})
    if len(shapes) > 1:
        raise ValueError(
            f"The maps have different shapes, {', '.join(map(str, shapes))}, for different values "
            f"of param_name={param_name!r}: vary a parameter that leaves the shape of what enters "
            "the classifier as it is."
        )

    def stack(name: str) -> NDArray[np.float64]:
        array = np.array([grade[name] for grade in grades], dtype=np.float64)
        return array.reshape(len(values), -1, *array.shape[1:])

    def stack_profiles(name: str) -> list[NDArray[np.float64]]:
        arrays = [np.array(axis) for axis in zip(*(grade[name] for grade in grades), strict=True)]
        return [array.reshape(len(values), -1, array.shape[1]) for array in arrays]

    chance = None
    if masks is not None:
        chance = Bunch(cells=float(masks.mean()), input=float(stack("input_mass").mean()))
    return {
        "param_name": param_name,
        "param_range": values,
        "test_scores": stack("test_score"),
        "train_scores": stack("train_score"),
        "mass": None if masks is None else stack("mass"),
        "mass_chance": chance,
        "profiles": tuple(stack_profiles("profiles")),
        "axis_names": grades[0].axis_names,
        "input_profiles": tuple(a.mean(axis=(0, 1)) for a in stack_profiles("input_profiles")),
    }


def _list_values(param_range: Any) -> list[Any]:
    """Return the values of the parameter."""
    others = str | bytes | bytearray | Mapping | Set
    has_no_axis = getattr(param_range, "shape", None) == ()
    if isinstance(param_range, others) or not isinstance(param_range, Iterable) or has_no_axis:
        raise ValueError(f"param_range must be a list of values, got {say_value(param_range)}.")
    values = list(param_range)
    if not values:
        raise ValueError(
            f"param_range is empty, got no value of {type(param_range).__name__}: give at least "
            "one value of the parameter."
        )
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _set_param(estimator: Any, name: str, value: Any) -> Any:
    """Return a clone with another value of the parameter, after all its parameters are checked."""
    if isinstance(unwrap(estimator, fitted=False).network, nn.Module):
        raise TypeError(
            f"focus_curve trains clones, but {type(estimator).__name__} has no fit: wrap the "
            "module in a skorch net."
        )
    candidate = clone(estimator)
    known = candidate.get_params()
    try:
        candidate.set_params(**{name: value})
    except (ValueError, AttributeError) as error:
        if name in known:
            raise
        owner = type(candidate).__name__
        hint = suggest(name, known, n=3, inline=True) or f"; use one of {sorted(known)}."
        raise ValueError(f"param_name={name!r} is no parameter of {owner}{hint}") from error
    model = unwrap(candidate, fitted=False)
    before = [] if model.before is None else [step for _, step in model.before.steps]
    for part in [candidate, *before, model.network]:
        if has_constraints(part):
            try:
                check_own_params(part)
            except InvalidParameterError as error:
                # or it would be blamed on focus_curve
                raise ValueError(
                    f"param_range holds {say_value(value)}: {shorten(str(error), 300)}"
                ) from None
    return candidate


def _check_fit_params(params: dict[Any, Any], estimator: Any) -> None:
    """Raise an error unless the estimator's ``fit`` takes parameters of these names."""
    known = inspect.signature(estimator.fit).parameters
    takes_more = any(one.kind is one.VAR_KEYWORD for one in known.values())
    unknown = [n for n in params if not isinstance(n, str) or not (takes_more or n in known)]
    if unknown:
        own = [name for name in known if name not in ("X", "y")]
        raise ValueError(
            f"params has {say_value(unknown, 80)}, which fit of {type(estimator).__name__} "
            f"does not take: give parameters of fit, {own}."
        )


def _check_target(target: Any, y: Any, estimator: Any) -> None:
    """Raise an error unless the target is one for all samples, as far as that is known yet."""
    if isinstance(target, str) and target == "all":
        raise ValueError(
            "target='all' makes a map of every class or output, but a curve is of one: give "
            "target=None, for the predicted class, or one target."
        )
    if is_classifier(estimator) and np.ndim(y) == 1 and not callable(target):
        classes = np.unique(y).tolist()
        asked = as_plain_array(target, "target")
        if target is not None and (asked.ndim or look_up(asked, np.unique(y))[1]):
            raise ValueError(
                f"target must be None, for the predicted class, or one of the classes {classes}, "
                f"got {say_value(target)}."
            )
    if not is_regressor(estimator):
        return
    shape = np.shape(y)[1:] or (1,)
    if target is None and math.prod(shape) > 1:
        raise ValueError(
            f"target=None, but y has values of {math.prod(shape)} outputs: give one by its index, "
            "or several by a mask or weights."
        )
    if (
        isinstance(decode_target(target, None, 0, shape), Function)
        and unwrap(estimator, fitted=False).has_explain
    ):
        raise ValueError(
            "target is a function of the output, which the regressors of this package do not "
            "explain: give an index, a mask or weights over the outputs."
        )


def _take_mask(mask: Any, candidate: Any, X: Any, y: Any, grid: Any) -> NDArray[np.bool_]:
    """Return the mask of what enters the network, before any network is trained.

    Of a pipeline the steps before the network are fitted for that, which takes little time.
    """
    model = unwrap(candidate, fitted=False)
    entering = X
    if model.before is not None:
        before = clone(model.before)
        entering = before.fit_transform(X, y)
        model = Model(before, model.network)
    taken = frame_of(model, X, entering, grid=grid).take_mask(mask)
    masks = check_mask(taken, np.shape(entering))
    if masks.all():
        raise ValueError(
            "mask marks every cell, so that all relevance lies on it: mark those where relevance "
            "belongs."
        )
    return masks


def _write_means(values: NDArray[np.float64]) -> list[str]:
    """Write the mean over the folds and their range, for each value."""
    return [f"{row.mean():.3f} ({row.min():.3f}-{row.max():.3f})" for row in values]
