"""Metrics that replace features and watch the network's score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from sklrp._checks import (
    as_samples,
    check_maps,
    choose_batch_size,
    encode_labels,
    find_groups,
    like,
    make_rng,
)
from sklrp._sklearn import HasMethods, Interval, StrOptions, validate_params
from sklrp.metrics.similarity import correlate, is_constant

_ORDERS = ("most", "least", "random")
_RESPONSES = ("decision_function", "predict_proba")
_COMMON: dict[str, list[Any] | str] = {
    "estimator": [HasMethods("decision_function"), HasMethods("predict_proba"), callable],
    "X": "no_validation",
    "relevance": "no_validation",
    "target": "no_validation",
    "groups": [Interval(Integral, 1, None, closed="left"), "array-like", None],
    "baseline": [StrOptions({"zero", "mean"}), Real, "array-like", callable],
    "response": [StrOptions({"auto", *_RESPONSES})],
    "batch_size": [Interval(Integral, 1, None, closed="left"), None],
    "random_state": ["random_state"],
}


@validate_params(
    {
        **_COMMON,
        "orders": ["array-like"],
        "steps": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def pixel_flipping_curve(
    estimator: Any,
    X: ArrayLike,
    relevance: ArrayLike,
    *,
    target: Any = None,
    orders: tuple[str, ...] = _ORDERS,
    steps: int | ArrayLike = 20,
    groups: int | ArrayLike | None = None,
    baseline: str | float | ArrayLike | Callable[[NDArray], ArrayLike] = "zero",
    response: str = "auto",
    n_repeats: int = 1,
    batch_size: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Return how the score falls while features are replaced in the order of their relevance.

    A faithful map names features whose loss the network feels: the curve of the most relevant
    first falls fast, that of the least relevant first stays high, and both are apart from that of
    a random order. Where features tie, their order is random.

    All perturbed copies of all samples go through the network in large batches. A copy that equals
    the one before, because what was replaced had the baseline's value already, is not computed
    again.

    Parameters
    ----------
    estimator : estimator or callable
        A fitted classifier with ``decision_function`` or ``predict_proba``, or a function of
        samples that returns their scores, ``(n_samples, n_outputs)`` or ``(n_samples,)``.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples.
    relevance : array-like of shape (n_samples, ...)
        Their maps, of X's shape or flat.
    target : None, label or array-like of shape (n_samples,), default=None
        The class whose score is followed, best the one that was explained: None the predicted
        class of each sample. The labels of a callable are the numbers of its outputs.
    orders : tuple of {"most", "least", "random"}, default=("most", "least", "random")
        Which curves to compute.
    steps : int or array-like of int, default=20
        Number of steps from no to all groups replaced, or the numbers of replaced groups; 0 is
        always among them.
    groups : None, int or array-like, default=None
        What is replaced together, and ranked by its sum of relevance: None each feature alone; an
        integer square patches with an edge of so many pixels along the last two axes of a sample
        (its only axis, if it has one), all channels together; an array of labels of a sample's
        shape, or flat, the features of one label.
    baseline : "zero", "mean", number, array-like or callable, default="zero"
        What takes the place of features: zero, the mean of each feature over X, or a number; an
        array of a sample's shape; an array of several samples, such as training data, of which
        each sample gets one drawn at random; or a function of X that returns an array of X's
        shape.
    response : {"auto", "decision_function", "predict_proba"}, default="auto"
        The method that gives the scores; ``"auto"`` is the first that the estimator has. Of two
        classes the decision function is the target's logit minus the other. Ignored for callables.
    n_repeats : int, default=1
        Number of random orders, and of draws from a baseline of several samples, over which the
        curves are averaged.
    batch_size : int or None, default=None
        Perturbed samples per call of the estimator; None takes what keeps memory low.
    random_state : int, RandomState instance or None, default=None
        Determines the random order, the order of ties and the draws from the baseline.

    Returns
    -------
    Bunch
        ``most``, ``least`` and ``random``, as asked for by `orders`, arrays of shape
        ``(n_samples, n_points)`` in units of the score; ``n_flipped`` and ``fraction``, number and
        share of the groups replaced at each point; ``target``, the label of each sample.

    Raises
    ------
    ValueError
        If a map or a score is not finite, a shape does not fit, or a parameter is invalid.

    References
    ----------
    S. Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise
    relevance propagation", PLoS ONE 10(7), 2015: pixel flipping. W. Samek et al., "Evaluating the
    visualization of what a deep neural network has learned", IEEE Transactions on Neural Networks
    and Learning Systems 28(11), 2017: regions, and the three orders.

    Examples
    --------
    >>> import numpy as np
    >>> from sklrp.metrics import pixel_flipping_curve
    >>> X = np.array([[3.0, 1.0, 2.0]])
    >>> curve = pixel_flipping_curve(lambda X: X.sum(axis=1), X, relevance=X, steps=3)
    >>> print(curve.most, curve.least)
    [[6. 3. 1. 0.]] [[6. 5. 3. 0.]]
    """
    unknown = [order for order in orders if order not in _ORDERS]
    if unknown or not len(orders):
        raise ValueError(f"orders must be some of {_ORDERS}, got {orders!r}.")
    rng = make_rng(random_state)
    flips = _Flips(estimator, X, relevance, target, groups, baseline, response, batch_size)
    n_flipped = _count_steps(steps, flips.n_groups)
    ties = rng.random(flips.relevance.shape)
    most = _rank(np.lexsort((ties, -flips.relevance), axis=1))

    curves: dict[str, Any] = {}
    for order in _ORDERS:
        repeats = n_repeats if order == "random" or flips.draws else 1
        for repeat in range(repeats if order in orders else 0):
            if order == "random":
                ranks = flips.shuffle(rng, len(most))
            else:
                ranks = most if order == "most" else flips.n_groups - 1 - most
            scores = flips.follow(ranks, n_flipped, flips.draw_baseline(rng)) / repeats
            curves[order] = scores + curves[order] if repeat else scores
    return Bunch(
        **curves, n_flipped=n_flipped, fraction=n_flipped / flips.n_groups, target=flips.labels
    )


def pixel_flipping_score(
    estimator: Any,
    X: ArrayLike,
    relevance: ArrayLike,
    *,
    reference: str = "start",
    **curve_params: Any,
) -> NDArray[np.float64]:
    r"""Return how far the score falls, on average, while the most relevant features are replaced.

    Over the points :math:`k = 0, \dots, L` of the curve of the most relevant first,

    .. math:: \frac{1}{L + 1} \sum_{k=0}^L \left( f_{reference}(x^{(k)}) - f(x^{(k)}) \right)

    Higher is better. With the default reference, the score of the sample itself, it is the *area
    over the perturbation curve* (AOPC). Any order makes the score of an unstable network fall,
    therefore look at the other references too.

    Parameters
    ----------
    estimator : estimator or callable
        As in `pixel_flipping_curve`.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples.
    relevance : array-like of shape (n_samples, ...)
        Their maps, of X's shape or flat.
    reference : {"start", "random", "least"}, default="start"
        What the curve is compared with: ``"start"`` the score of the unperturbed sample (AOPC);
        ``"random"`` the curve of a random order; ``"least"`` that of the least relevant first
        (area between the perturbation curves, ABPC).
    **curve_params : dict
        Parameters of `pixel_flipping_curve`, all but ``orders``.

    Returns
    -------
    ndarray of shape (n_samples,)
        The mean difference, in units of the score, unbounded; with ``response="predict_proba"`` in
        [-1, 1]. Scores of different networks are comparable only as far as their outputs are. For
        a constant map, such as one of zeros, it is that of a random order.

    Raises
    ------
    ValueError
        As in `pixel_flipping_curve`.

    References
    ----------
    W. Samek et al., "Evaluating the visualization of what a deep neural network has learned", IEEE
    Transactions on Neural Networks and Learning Systems 28(11), 2017: AOPC and ABPC.

    Examples
    --------
    >>> import numpy as np
    >>> from sklrp.metrics import pixel_flipping_score
    >>> X = np.array([[3.0, 1.0, 2.0]])  # the scores fall from 6 to 3, 1 and 0
    >>> print(pixel_flipping_score(lambda X: X.sum(axis=1), X, relevance=X, steps=3))
    [3.5]
    """
    if reference not in ("start", "random", "least"):
        raise ValueError(f"reference must be 'start', 'random' or 'least', got {reference!r}.")
    orders = ("most",) if reference == "start" else ("most", reference)
    curve = pixel_flipping_curve(estimator, X, relevance, orders=orders, **curve_params)
    top = curve.most[:, :1] if reference == "start" else curve[reference]
    return (top - curve.most).mean(axis=1)


@validate_params(
    {
        **_COMMON,
        "subset_size": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "n_subsets": [Interval(Integral, 2, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def faithfulness_correlation(
    estimator: Any,
    X: ArrayLike,
    relevance: ArrayLike,
    *,
    target: Any = None,
    subset_size: float = 0.2,
    n_subsets: int = 100,
    groups: int | ArrayLike | None = None,
    baseline: str | float | ArrayLike | Callable[[NDArray], ArrayLike] = "zero",
    response: str = "auto",
    batch_size: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> NDArray[np.float64]:
    r"""Return the correlation of relevance and loss of score over random subsets of features.

    Over random subsets S of one size, with the features of S replaced by the baseline,

    .. math:: corr_S \left( \sum_{i \in S} R_i, \; f(x) - f(x_{S \to baseline}) \right)

    Higher is better: relevance says how much of the score is lost with each part of the input.
    The subsets are the same for all samples, so that maps are compared on equal terms.

    Parameters
    ----------
    estimator : estimator or callable
        A fitted classifier with ``decision_function`` or ``predict_proba``, or a function of
        samples that returns their scores, ``(n_samples, n_outputs)`` or ``(n_samples,)``.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples.
    relevance : array-like of shape (n_samples, ...)
        Their maps, of X's shape or flat.
    target : None, label or array-like of shape (n_samples,), default=None
        The class whose score is followed, see `pixel_flipping_curve`.
    subset_size : float or int, default=0.2
        Size of the subsets, as a share of the groups or their number.
    n_subsets : int, default=100
        Number of subsets.
    groups : None, int or array-like, default=None
        What is replaced together, see `pixel_flipping_curve`.
    baseline : "zero", "mean", number, array-like or callable, default="zero"
        What takes the place of features, see `pixel_flipping_curve`.
    response : {"auto", "decision_function", "predict_proba"}, default="auto"
        The method that gives the scores, see `pixel_flipping_curve`.
    batch_size : int or None, default=None
        Perturbed samples per call of the estimator; None takes what keeps memory low.
    random_state : int, RandomState instance or None, default=None
        Determines the subsets and the draws from the baseline.

    Returns
    -------
    ndarray of shape (n_samples,)
        Pearson's correlation, in [-1, 1], without unit; 0 where the relevance or the loss is the
        same for all subsets.

    Raises
    ------
    ValueError
        If a map or a score is not finite, a shape does not fit, or a parameter is invalid.

    References
    ----------
    U. Bhatt, A. Weller, J. Moura, "Evaluating and aggregating feature-based model explanations",
    IJCAI 2020: faithfulness.

    Examples
    --------
    >>> import numpy as np
    >>> from sklrp.metrics import faithfulness_correlation
    >>> X = np.array([[3.0, 1.0, 2.0]])
    >>> sum_up = lambda X: X.sum(axis=1)
    >>> for relevance in (X, -X, np.zeros((1, 3))):
    ...     print(faithfulness_correlation(sum_up, X, relevance, random_state=0).round(6))
    [1.]
    [-1.]
    [0.]
    """
    rng = make_rng(random_state)
    flips = _Flips(estimator, X, relevance, target, groups, baseline, response, batch_size)
    n_groups = flips.n_groups
    size = subset_size if isinstance(subset_size, Integral) else round(subset_size * n_groups)
    size = max(int(size), 1)
    if size >= n_groups:
        raise ValueError(
            f"subset_size={subset_size!r} is {size} of {n_groups} groups of features: it must "
            "leave at least one, for subsets to differ."
        )
    subsets = flips.shuffle(rng, n_subsets) < size
    loss = flips.start[:, None] - flips.replace(subsets, flips.draw_baseline(rng))
    share = flips.relevance @ subsets.T
    ignored = is_constant(loss, np.abs(flips.start)[:, None], flips.start.dtype)
    return correlate(share, np.where(ignored, 0.0, loss))


class _Flips:
    """Samples, the relevance of their groups, and the scores of copies with replaced features."""

    def __init__(
        self,
        estimator: Any,
        X: Any,
        relevance: Any,
        target: Any,
        groups: Any,
        baseline: Any,
        response: str,
        batch_size: int | None,
    ) -> None:
        samples = as_samples(X)
        maps = check_maps(relevance)
        shape = samples.shape
        n_features = samples[0].size
        if maps.shape not in (shape, (len(samples), n_features)):
            raise ValueError(
                f"relevance has the shape {maps.shape}, but must have that of X, {shape}, or be "
                f"flat, {(len(samples), n_features)}: a value for each value of X."
            )
        self.codes, self.n_groups = find_groups(groups, shape[1:])
        self.samples = samples.reshape(len(samples), n_features)
        self.relevance = _sum_groups(maps.reshape(self.samples.shape), self.codes, self.n_groups)
        self.batch_size = batch_size or choose_batch_size(n_features)
        self._restore = lambda rows: like(X, rows.reshape(-1, *shape[1:]))
        self._outputs, classes = _find_outputs(estimator, response)
        self._choose_target(target, classes)
        self._pool = self._make_pool(baseline, samples)

    @property
    def draws(self) -> bool:
        """Whether the baseline is drawn from several samples."""
        return self._pool.ndim == 3

    def shuffle(self, rng: np.random.Generator, n_orders: int) -> NDArray[np.intp]:
        """Return ranks of the groups in random orders, (n_orders, n_groups)."""
        return rng.permuted(np.tile(np.arange(self.n_groups), (n_orders, 1)), axis=1)

    def draw_baseline(self, rng: np.random.Generator) -> NDArray:
        """Return the baseline of each sample, or a single row for all of them."""
        if not self.draws:
            return self._pool
        return self._pool[rng.integers(len(self._pool), size=len(self.samples)), 0]

    def follow(self, ranks: NDArray, n_flipped: NDArray, baseline: NDArray) -> NDArray:
        """Return the scores after replacing the first groups by rank, for several numbers."""
        (n_samples, n_features), n_points = self.samples.shape, len(n_flipped)
        baseline = np.broadcast_to(baseline, self.samples.shape)
        # The point at which each value changes, if it does: sorted by it, few values are written
        # between one point and the next, and a sample without any has the score of the one before.
        points = np.searchsorted(n_flipped, ranks, side="right").astype(
            np.min_scalar_type(n_points)
        )
        points = points[:, self.codes].ravel()
        cells = np.flatnonzero((self.samples != baseline).ravel() & (points < n_points))
        cells = cells[np.argsort(points[cells], kind="stable")]
        put = baseline.ravel()[cells]
        ends = np.searchsorted(points[cells], np.arange(n_points), side="right")
        new = np.zeros((n_points, n_samples), dtype=bool)
        new[points[cells], cells // n_features] = True
        new[0] = True

        def blocks() -> Iterator[tuple[NDArray, NDArray]]:
            copies = self.samples.copy()
            start = 0
            for end, changed in zip(ends, new, strict=True):
                copies.ravel()[cells[start:end]] = put[start:end]
                start = end
                yield copies, np.flatnonzero(changed)

        scores = np.empty((n_points, n_samples))
        scores[new] = self._score(blocks(), int(new.sum()))
        latest = np.maximum.accumulate(np.where(new, np.arange(n_points)[:, None], 0), axis=0)
        return np.take_along_axis(scores, latest, axis=0).T

    def replace(self, subsets: NDArray, baseline: NDArray) -> NDArray:
        """Return the scores with each subset of groups replaced, (n_samples, n_subsets)."""
        rows = np.arange(len(self.samples))
        blocks = (
            (np.where(subset[self.codes], baseline, self.samples), rows) for subset in subsets
        )
        return self._score(blocks, len(subsets) * len(rows)).reshape(len(subsets), len(rows)).T

    def _score(self, blocks: Iterable[tuple[NDArray, NDArray]], n_copies: int) -> NDArray:
        """Return the scores of the chosen rows of blocks of copies, in batches over all blocks."""
        size = min(self.batch_size, n_copies)
        batch = np.empty((size, self.samples.shape[1]), dtype=self.samples.dtype)
        owners = np.empty(size, dtype=np.intp)
        values = np.empty(n_copies)
        done = filled = 0
        for copies, rows in blocks:
            while len(rows):
                some, rows = rows[: size - filled], rows[size - filled :]
                batch[filled : filled + len(some)] = copies[some]
                owners[filled : filled + len(some)] = some
                filled += len(some)
                if filled == size or done + filled == n_copies:
                    outputs = self._compute(batch[:filled])
                    values[done : done + filled] = self._target_scores(outputs, owners[:filled])
                    done, filled = done + filled, 0
        return values

    def _compute(self, copies: NDArray) -> NDArray:
        """Return the outputs of samples, checked."""
        outputs = self._outputs(self._restore(copies))
        if outputs.ndim not in (1, 2) or len(outputs) != len(copies):
            raise ValueError(
                f"estimator must return scores of shape ({len(copies)},) or ({len(copies)}, "
                f"n_outputs) for {len(copies)} samples, got the shape {outputs.shape}."
            )
        if not np.isfinite(outputs).all():
            raise ValueError(
                "estimator returned NaN or infinite scores: check X and the baseline, or use "
                "response='predict_proba'."
            )
        return outputs

    def _choose_target(self, target: Any, classes: NDArray | None) -> None:
        """Find out which output is followed, and the scores of the samples themselves."""
        n_samples = len(self.samples)
        rows = [
            self._compute(self.samples[first : first + self.batch_size])
            for first in range(0, n_samples, self.batch_size)
        ]
        outputs = np.concatenate(rows)
        self._codes: NDArray | None = None
        self.labels: NDArray | None = None
        if outputs.ndim == 2:
            labels = np.arange(outputs.shape[1]) if classes is None else classes
            if len(labels) != outputs.shape[1]:
                raise ValueError(
                    f"estimator has {len(labels)} classes_ but returns {outputs.shape[1]} scores."
                )
            if target is None:
                self._codes = outputs.argmax(axis=1)
            else:
                self._codes = encode_labels("target", target, labels, n_samples)
            self.labels = labels[self._codes]
        elif target is not None:
            raise ValueError(
                f"target={target!r} cannot be chosen: estimator returns a single score per "
                "sample. Leave target=None, or return one score per class."
            )
        self.start = self._target_scores(outputs, np.arange(n_samples))

    def _target_scores(self, outputs: NDArray, rows: NDArray) -> NDArray:
        """Return the score of each row's target."""
        if self._codes is None:
            return outputs
        return outputs[np.arange(len(outputs)), self._codes[rows]]

    def _make_pool(self, baseline: Any, samples: NDArray) -> NDArray:
        """Return baselines of shape (1 or n_samples, n_features), or of a pool (m, 1, n_features).

        A constant has a single value instead of features.
        """
        dtype = samples.dtype
        if isinstance(baseline, str):
            pool = self.samples.mean(axis=0)[None] if baseline == "mean" else np.zeros((1, 1))
        elif isinstance(baseline, Real):
            pool = np.full((1, 1), float(baseline))
        elif callable(baseline):
            pool = np.asarray(baseline(samples.copy()))
            if pool.shape != samples.shape:
                raise ValueError(
                    f"baseline returned an array of shape {pool.shape}, but must return one of "
                    f"X's shape, {samples.shape}."
                )
            pool = pool.reshape(self.samples.shape)
        else:
            pool = np.asarray(baseline)
            n_features = self.samples.shape[1]
            if pool.shape in (samples.shape[1:], (n_features,)):
                pool = pool.reshape(1, n_features)
            elif len(pool) and pool.shape[1:] in (samples.shape[1:], (n_features,)):
                pool = pool.reshape(len(pool), 1, n_features)
            else:
                raise ValueError(
                    f"baseline has the shape {pool.shape}, but must have that of one sample, "
                    f"{samples.shape[1:]}, or of several, (n, *{samples.shape[1:]})."
                )
        if not np.isfinite(pool).all():
            raise ValueError("baseline has NaN or infinite values: give finite ones.")
        return pool.astype(dtype)


def _find_outputs(
    estimator: Any, response: str
) -> tuple[Callable[[Any], NDArray], NDArray | None]:
    """Return what gives the scores of samples, one column per class, and the classes."""
    methods = _RESPONSES if response == "auto" else (response,)
    method = next((name for name in methods if hasattr(estimator, name)), None)
    if method is None:
        if callable(estimator):
            return lambda X: np.asarray(estimator(X)), None
        raise TypeError(
            f"response={response!r}: {type(estimator).__name__} has no {' or '.join(methods)}. "
            f"Use one of {('auto', *_RESPONSES)}, or pass a function of samples as estimator."
        )
    classes = getattr(estimator, "classes_", None)
    classes = None if classes is None else np.asarray(classes)

    def compute(X: Any) -> NDArray:
        outputs = np.asarray(getattr(estimator, method)(X))
        if outputs.ndim == 1 and classes is not None and len(classes) == 2:
            return np.stack([-outputs, outputs], axis=1)
        return outputs

    return compute, classes


def _count_steps(steps: Any, n_groups: int) -> NDArray[np.intp]:
    """Return how many groups are replaced at each point of a curve."""
    if isinstance(steps, Integral):
        return np.unique(np.linspace(0, n_groups, int(steps) + 1).round().astype(np.intp))
    counts = np.asarray(steps)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or not counts.size:
        raise ValueError(f"steps must be an integer or a list of integers, got {steps!r}.")
    if counts.min() < 0 or counts.max() > n_groups:
        raise ValueError(
            f"steps must be between 0 and {n_groups}, the number of groups of features, got "
            f"values from {counts.min()} to {counts.max()}."
        )
    return np.union1d([0], counts).astype(np.intp)


def _rank(order: NDArray) -> NDArray:
    """Return the place of each group in an order of groups, row by row."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return ranks


def _sum_groups(maps: NDArray, codes: NDArray, n_groups: int) -> NDArray:
    """Return the relevance of each group of features, (n_samples, n_groups)."""
    if n_groups == len(codes):
        return maps[:, np.argsort(codes)]
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(n_groups))
    return np.add.reduceat(maps[:, order], starts, axis=1)
