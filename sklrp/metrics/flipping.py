"""Metrics that replace features and watch the network's score.

Users, scorers and the displays call them; the copies are made in `replacement`.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from sklrp._checks import as_tuple
from sklrp._constraints import Interval, constrained
from sklrp._missing import as_plain_array
from sklrp._sklearn import StrOptions
from sklrp._streams import make_rng
from sklrp._wording import say_value
from sklrp.metrics.catalogue import metric
from sklrp.metrics.replacement import Replacement
from sklrp.metrics.similarity import correlate, is_constant
from sklrp.metrics.subject import RESPONSES

__all__ = ["faithfulness_correlation", "pixel_flipping_curve", "pixel_flipping_score"]

_ORDERS = ("most", "least", "random")
_COMMON: dict[str, list[Any] | str] = {
    "groups": [Interval(Integral, 1, None, closed="left"), "array-like", None],
    "baseline": [StrOptions({"zero", "mean"}), Real, "array-like", callable],
    "response": [StrOptions({"auto", *RESPONSES})],
}


@constrained(
    {
        **_COMMON,
        "orders": ["array-like"],
        "steps": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
    }
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
    first falls fast, the curve of the least relevant first stays high, and a random order lies
    between them. Where features tie, their order is random.

    All perturbed copies of all samples go through the network in large batches. A copy that equals
    the one before, because what was replaced had the baseline's value already, is not computed
    again.

    Parameters
    ----------
    estimator : model or callable
        Any model that `sklrp.explain` takes: an estimator of this package, a skorch net, a torch
        module, or a pipeline, search or FrozenEstimator with one of them inside. Any other
        classifier with ``decision_function`` or ``predict_proba`` will do too, as will a function
        of samples that returns their scores, ``(n_samples, n_outputs)`` or ``(n_samples,)``.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples, as the model takes them.
    relevance : array-like of shape (n_samples, ...)
        Their maps, of the shape of what enters the network, or flat. Behind the steps of a
        pipeline that is what the steps return.
    target : object, default=None
        What is followed, best what was explained: a class or the index of an output, or one for
        each sample; or what `sklrp.explain` makes a number of several outputs of, such as a cell
        or a region of a field. None (default): the predicted class of each sample, or the only
        output. The labels of modules, skorch nets of numbered classes and functions are the
        indices of their outputs.
    orders : tuple of {"most", "least", "random"}, default=("most", "least", "random")
        Which curves to compute.
    steps : int or array-like of int, default=20
        Number of steps from no to all groups replaced, or the numbers of replaced groups; 0 is
        always among them.
    groups : None, int or array-like, default=None
        What is replaced together, and ranked by its sum of relevance. None (default): each feature
        alone. An integer: square patches with an edge of so many pixels along the last two axes of
        a sample (its only axis, if it has one), all channels together. An array of labels, of a
        sample's shape or flat: the features of one label.
    baseline : "zero", "mean", number, array-like or callable, default="zero"
        What takes the place of features: zero, the mean of each feature over X, or a number; an
        array of a sample's shape; an array of several samples, such as training data, of which
        each sample gets one drawn at random; or a function of X that returns an array of X's
        shape.
    response : {"auto", "decision_function", "predict_proba"}, default="auto"
        What gives the scores: ``"auto"`` is the first that the estimator has, and the outputs of a
        module or a skorch net. For two classes the decision function is the target's logit minus
        the other. Ignored for functions.
    n_repeats : int, default=1
        Number of random orders, and of draws from a baseline of several samples, over which the
        curves are averaged.
    batch_size : int or None, default=None
        Perturbed samples per call of the estimator. None (default): as many as keep memory low.
    random_state : int, RandomState instance or None, default=None
        Determines the random order, the order of ties and the draws from the baseline.

    Returns
    -------
    Bunch
        ``most``, ``least`` and ``random``, as asked for by `orders`, arrays of shape
        ``(n_samples, n_points)`` in units of the score; ``n_flipped`` and ``fraction``, number and
        share of the groups replaced at each point; ``target``, the label of each sample, or as
        given where several outputs make the score.

    Raises
    ------
    ValueError
        If a map or a score is not finite, a shape does not fit, or a parameter is invalid.
    TypeError
        If there is no network in the model, or several of them, and nothing that gives scores.

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
    asked = as_tuple(orders)
    if not asked or not all(isinstance(o, str) and o in _ORDERS for o in asked):
        raise ValueError(f"orders must be some of {_ORDERS}, got {say_value(orders)}.")
    rng = make_rng(random_state)
    flips = Replacement(estimator, X, relevance, target, groups, baseline, response, batch_size)
    n_flipped = _count_steps(steps, flips.n_groups)
    ties = rng.random(flips.relevance.shape)
    most = _places_in(np.lexsort((ties, -flips.relevance), axis=1))

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
        **curves, n_flipped=n_flipped, fraction=n_flipped / flips.n_groups, target=flips.target
    )


@metric(
    "model and maps",
    "higher",
    "does the score fall without the relevant features?",
    name="pixel_flipping",
    more=(pixel_flipping_curve,),
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
    estimator : model or callable
        As in `pixel_flipping_curve`.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples, as the model takes them.
    relevance : array-like of shape (n_samples, ...)
        Their maps, as in `pixel_flipping_curve`.
    reference : {"start", "random", "least"}, default="start"
        What the curve is compared with: ``"start"`` the score of the unperturbed sample (AOPC);
        ``"random"`` the curve of a random order; ``"least"`` the least relevant first
        (area between the perturbation curves, ABPC).
    **curve_params : dict
        Parameters of `pixel_flipping_curve`, all but ``orders``.

    Returns
    -------
    ndarray of shape (n_samples,)
        The mean difference, in units of the score, unbounded; with ``response="predict_proba"`` in
        [-1, 1]. Scores of different networks are comparable only as far as their outputs are. For
        a constant map, such as one of zeros, it is what a random order gets.

    Raises
    ------
    ValueError, TypeError
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
    if not isinstance(reference, str) or reference not in ("start", "random", "least"):
        raise ValueError(
            f"reference must be 'start', 'random' or 'least', got {say_value(reference)}."
        )
    orders = ("most",) if reference == "start" else ("most", reference)
    curve = pixel_flipping_curve(estimator, X, relevance, orders=orders, **curve_params)
    top = curve.most[:, :1] if reference == "start" else curve[reference]
    return (top - curve.most).mean(axis=1)


@metric("model and maps", "higher", "does the score fall as much as relevance says?")
@constrained(
    {
        **_COMMON,
        "subset_size": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "n_subsets": [Interval(Integral, 2, None, closed="left")],
    }
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
    estimator : model or callable
        Any model that `sklrp.explain` takes: an estimator of this package, a skorch net, a torch
        module, or a pipeline, search or FrozenEstimator with one of them inside. Any other
        classifier with ``decision_function`` or ``predict_proba`` will do too, as will a function
        of samples that returns their scores, ``(n_samples, n_outputs)`` or ``(n_samples,)``.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples, as the model takes them.
    relevance : array-like of shape (n_samples, ...)
        Their maps, of the shape of what enters the network, or flat. Behind the steps of a
        pipeline that is what the steps return.
    target : object, default=None
        What is followed, see `pixel_flipping_curve`.
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
        Perturbed samples per call of the estimator. None (default): as many as keep memory low.
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
    TypeError
        If there is no network in the model, or several of them, and nothing that gives scores.

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
    flips = Replacement(estimator, X, relevance, target, groups, baseline, response, batch_size)
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


def _count_steps(steps: Any, n_groups: int) -> NDArray[np.intp]:
    """Return how many groups are replaced at each point of a curve."""
    if isinstance(steps, Integral):
        return np.unique(np.linspace(0, n_groups, int(steps) + 1).round().astype(np.intp))
    counts = as_plain_array(steps, "steps")
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or not counts.size:
        raise ValueError(
            f"steps must be an integer or a list of integers, got {say_value(steps)}."
        )
    if counts.min() < 0 or counts.max() > n_groups:
        raise ValueError(
            f"steps must be between 0 and {n_groups}, the number of groups of features, got "
            f"values from {counts.min()} to {counts.max()}."
        )
    return np.union1d([0], counts).astype(np.intp)


def _places_in(order: NDArray) -> NDArray:
    """Return the place of each group in an order of groups, row by row."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return ranks
