"""Ask whether relevance follows the object: samples are moved, explained and moved back.

`diagnose` shows it as a caution; `equivariance_test` is it alone, with other moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._constraints import Interval, constrained
from sklrp._sklearn import StrOptions
from sklrp.diagnostics.common_form import cosines
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.other_networks import check_trainable, train_again

_TRANSFORMS = ("flip", "shift", "permute")
_FEWEST = 3  # refits that convict: the interval of fewer says little
_SKILL_LOST = 0.1  # of accuracy or correlation, from which clones have not learned moved samples
# The similarity that is lost: on squares MLPs, CNNs and ESNs under epsilon, whose maps move along,
# lose .03 at most, LSTMs that sweep to the right .37 to .55. Between lie rules that keep part of
# an architecture's own map (z-plus .10 to .30), of which nothing is said.
_ARTIFACT, _FACT = 0.3, 0.15


@constrained(
    {
        **CONSTRAINTS,
        "transform": [StrOptions(set(_TRANSFORMS))],
        "axis": [Interval(Integral, None, None, closed="neither"), None],
        "refit": ["boolean"],
        "n_refits": [Interval(Integral, 1, None, closed="left")],
    }
)
def equivariance_test(
    model: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    transform: str = "flip",
    axis: int | None = None,
    refit: bool = True,
    n_refits: int = 3,
    X_train: ArrayLike | None = None,
    y_train: ArrayLike | None = None,
    target: Any = None,
    max_samples: int | None = 100,
    n_jobs: int | None = None,
    memory: Any = None,
    random_state: int | np.random.RandomState | None = None,
    grid: Any = None,
    **explain_params: Any,
) -> Finding:
    r"""Test whether relevance follows the object when the samples are moved.

    With a transformation T of the positions, maps of moved samples are moved back and compared:

    .. math:: s = \cos(|R(x)|, \; T^{-1} |R_T(T x)|)

    where :math:`R_T` explains a network trained on moved samples (``refit=True``) or the given
    one. A fact of the data moves with the data; what the architecture puts at its own places, such
    as the last steps of a sweep, stays there. How alike the maps of two trainings are depends on
    chance, too: the null is the same with clones trained on samples as they are. The statistic is
    the loss of similarity, null less s. The verdict is artifact where more than 0.3 is lost though
    the clones' skill stays, and fact where less than 0.15 is.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it; the maps are of what enters its network.
    X : array-like of shape (n_samples, ...)
        Samples, best ones that were not trained on.
    y : array-like of shape (n_samples,) or None, default=None
        Their labels or values, by which the skill of clones is measured. None (default): it is
        taken for granted that clones learn moved samples as well.
    transform : {"flip", "shift", "permute"}, default="flip"
        ``"flip"`` reverses an axis, ``"shift"`` rolls it by a random distance, ``"permute"``
        draws another order of its positions; a recurrent network keeps its place only in the
        first two, a dense one in all.
    axis : int or None, default=None
        Axis of a sample, 0 for its rows or steps, 1 for its columns. None (default): the axis that
        a sweep goes along, else the last.
    refit : bool, default=True
        Whether to train clones on the moved samples. ``refit=False`` asks whether the network
        itself is equivariant, as one of convolutions without padding is, and a dense one is not;
        its null is 1.
    n_refits : int, default=3
        Number of transformations, each with a clone of its own.
    X_train, y_train : array-like or None, default=None
        What the model was trained on, as it takes samples: with ``refit=True`` the clones are
        trained on it, moved, and never on `X`.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: a label, or the index of an output. None (default): the predicted class
        of each sample, or the only output.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random. None: all.
    n_jobs : int or None, default=None
        Number of joblib's workers. None (default): one.
    memory : None, str, path or joblib.Memory, default=None
        Where what clones give is kept, as in scikit-learn's `Pipeline`: after an
        interruption the same call does only what is missing. With ``random_state=None`` it
        takes the seed that the first call has drawn. None (default): nowhere.
    random_state : int, RandomState instance or None, default=None
        Determines transformations and clones.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    Finding
        With ``similarity``, of shape ``(n_refits, n_samples)``, and ``skill``, of shape
        ``(n_refits,)``: the accuracy of the networks on moved samples, or the correlation of
        their output with the truth; NaN without `y`.

    Raises
    ------
    TypeError
        If clones must be trained and cannot be, as of a bare module: use ``refit=False``.
    ValueError
        If a sample has no such axis, training data are missing, or a parameter is out of range.

    References
    ----------
    arXiv 2302.12317 and 2210.09958: sweeps from either side; longitudes in random order, whose
    undoing restores the map.

    Examples
    --------
    >>> from sklrp import MLPClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import equivariance_test
    >>> X, y, _ = make_squares(n_per_class=50, size=20, random_state=0)
    >>> X_train, X_test, y_train, y_test = X[:70], X[70:], y[:70], y[70:]
    >>> clf = MLPClassifier(max_epochs=10, random_state=0).fit(X_train, y_train)
    >>> data = {"X_train": X_train, "y_train": y_train}
    >>> equivariance_test(clf, X_test, transform="permute", random_state=0, **data).verdict
    'fact'
    """
    explained = Explained(
        model,
        X,
        y,
        X_train=X_train,
        y_train=y_train,
        target=target,
        grid=grid,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        memory=memory,
        **explain_params,
    )
    if refit:
        check_trainable(explained, "refit=True")
    return explained.recall(follow_moves, transform, axis, refit, n_refits)


def follow_moves(
    explained: Explained, transform: str, axis: int | None, refit: bool, n_refits: int
) -> Finding:
    """Compare maps with the maps of moved samples, moved back."""
    axis = _find_axis(explained, axis)
    rng = explained.rng("equivariance")
    seeds, others = rng.integers(2**31 - 1, size=(2, n_refits)).tolist()
    orders = [_draw_order(transform, explained.frame.axes[axis], seed) for seed in seeds]
    moved, skill = _move_and_explain(explained, axis, refit, zip(orders, seeds, strict=True))
    null, unmoved_skill = np.ones(1), np.full(1, np.nan)
    if refit:
        still = np.arange(explained.frame.axes[axis])
        unmoved, unmoved_skill = _move_and_explain(
            explained, axis, refit, [(still, seed) for seed in others]
        )
        null = unmoved.mean(axis=1)
    lost = null.mean() - moved.mean(axis=1)
    half = 0.0
    if n_refits > 1:
        half = 2 * np.sqrt((lost.var(ddof=1) + (null.var(ddof=1) if refit else 0)) / n_refits)
    interval = (float(lost.mean() - half), float(lost.mean() + half))
    skill_lost = bool(unmoved_skill.mean() - skill.mean() > _SKILL_LOST)  # not if it is unknown
    verdict = (
        "fact" if lost.mean() < _FACT else "artifact" if interval[0] > _ARTIFACT else "undecided"
    )
    if skill_lost or (verdict == "artifact" and refit and n_refits < _FEWEST):
        verdict = "undecided"
    said = f"; skill {skill.mean():.2f} instead of {unmoved_skill.mean():.2f}"
    return explained.finding(
        name="equivariance",
        question="Does relevance follow the object when samples are moved?",
        statistic=float(lost.mean()),
        interval=interval,
        null=null,
        verdict=verdict,
        reading=(
            f"of the maps' similarity is lost by transform={transform!r} of axis {axis}: "
            f"{moved.mean():.2f} instead of {null.mean():.2f}"
            f"{said if np.isfinite(unmoved_skill).all() else ''}"
        ),
        advice=_say_remedy(verdict, skill_lost),
        similarity=moved,
        skill=skill,
        table={"refit": np.arange(n_refits), "similarity": moved.mean(axis=1), "skill": skill},
    )


def _say_remedy(verdict: str, skill_lost: bool) -> str:
    """Return what to do where relevance does not follow the object."""
    if verdict == "fact":
        return ""
    if skill_lost:
        return (
            "Networks do not learn moved samples as well, so their maps say nothing of this "
            "one's: try another transform, or train longer."
        )
    return (
        "Relevance stays where the architecture reads best: sweep both ways and trust what "
        "both maps show, pool over all states, or use a convolutional network."
    )


def _find_axis(explained: Explained, axis: int | None) -> int:
    """Return the axis along which samples are moved, counted from the first."""
    if not explained.frame.has_positions:
        raise ValueError(
            f"samples of shape {explained.X.shape[1:]} have no neighbouring positions to move: "
            "equivariance_test is for images and sequences."
        )
    n_axes = len(explained.frame.axes)
    if axis is None:
        axis = 0 if getattr(explained.model.network, "sweep", "right") in ("down", "up") else -1
    if not -n_axes <= axis < n_axes:
        raise ValueError(
            f"axis={axis} is not one of a sample's {n_axes} axes, {explained.frame.axes}."
        )
    return axis % n_axes


def _draw_order(transform: str, n: int, seed: int) -> NDArray[np.intp]:
    """Return the positions of an axis in a new order."""
    rng = np.random.default_rng(seed)
    if transform == "flip":
        return np.arange(n)[::-1]
    if transform == "shift":
        return np.roll(np.arange(n), int(rng.integers(1, max(2, n))))
    return rng.permutation(n)


def _move_and_explain(
    explained: Explained, axis: int, refit: bool, moves: Iterable[tuple[NDArray, int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each move, how alike samples' maps are, and the network's skill."""
    found = explained.run(_similarity, [(o, axis, refit, s) for o, s in moves])
    return found[:, 1:], found[:, 0]


def _similarity(
    explained: Explained, order: NDArray, axis: int, refit: bool, seed: int
) -> NDArray[np.float64]:
    """Return the skill on moved samples and, per sample, how alike its map and the moved one's."""

    def move(samples: NDArray, order: NDArray) -> NDArray:
        grid = np.take(explained.on_axes(samples), order, axis=1 + axis)
        return np.ascontiguousarray(grid.reshape(samples.shape))

    network = explained.model.network
    if refit:
        network = train_again(explained, seed, X=move(explained.pool, order))
    maps = move(explained.maps_of(network, move(explained.X, order)), np.argsort(order))
    flat = (len(maps), -1)
    values = cosines(np.abs(explained.maps.reshape(flat)), np.abs(maps.reshape(flat)))
    skill = explained.skill_of(network, move(explained.all_X, order))
    return np.concatenate([[skill], np.nan_to_num(values, nan=0.0)])
