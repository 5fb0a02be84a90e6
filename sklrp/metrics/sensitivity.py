"""Metrics that explain again: other inputs, other parameters, other classes.

Users and scorers call them with a model; what they draw anew is in `randomise`.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from sklrp._checks import choose_batch_size, encode_labels
from sklrp._constraints import Interval, constrained
from sklrp._models import unwrap
from sklrp._sklearn import StrOptions
from sklrp._streams import make_rng
from sklrp._wording import say_value
from sklrp.metrics.catalogue import metric
from sklrp.metrics.randomise import check_layers, copy_network, draw_anew, list_layers, take_start
from sklrp.metrics.similarity import SIMILARITIES, Similarity, compare_maps
from sklrp.metrics.subject import Chosen, Subject

__all__ = ["class_sensitivity", "max_sensitivity", "randomization_similarity"]

_COMPARISON: dict[str, list[Any] | str] = {
    "similarity": [StrOptions(set(SIMILARITIES)), callable],
}


@metric("model", "lower", "how far does a map move with its sample?")
@constrained(
    {
        "radius": [Interval(Real, 0, None, closed="neither")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "relative": ["boolean"],
    }
)
def max_sensitivity(
    estimator: Any,
    X: ArrayLike,
    *,
    target: Any = None,
    radius: float = 0.1,
    n_draws: int = 10,
    relative: bool = True,
    random_state: int | np.random.RandomState | None = None,
    **explain_params: Any,
) -> NDArray[np.float64]:
    r"""Return how far a map can move when its sample is moved a little.

    .. math:: \max_{\|\delta\|_\infty \le r} \|R(x + \delta) - R(x)\|_2 \; / \; \|R(x)\|_2

    Lower is better: maps of nearly equal samples should be nearly equal. A map that never changes
    has the best value and explains nothing. The maximum is taken over random draws,
    uniform in the cube, and grows with their number. The class of the unmoved sample is explained.

    Parameters
    ----------
    estimator : model or callable
        Any model that `sklrp.explain` takes: an estimator of this package, a skorch net, a torch
        module, or a pipeline, search or FrozenEstimator with one of them inside. Or a
        function that returns the maps of samples; it is called with ``target``, if given, and the
        parameters of ``explain``.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples, as the model takes them. Maps are of what enters the network.
    target : object, default=None
        What is explained: a class or the index of an output, or one for each sample; or what
        `sklrp.explain` makes a number of several outputs of, such as a cell or a region of a
        field. None (default): the predicted class of each sample, or the only output.
    radius : float, default=0.1
        The largest change of a feature, in units of X.
    n_draws : int, default=10
        Number of moved copies of each sample.
    relative : bool, default=True
        Whether to divide by the norm of the map of the unmoved sample; the paper does not.
    random_state : int, RandomState instance or None, default=None
        Determines the draws.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    ndarray of shape (n_samples,)
        The largest distance, in ``[0, inf)``; without unit or, with ``relative=False``, in units
        of the explained score. Where the map of the sample is zero, the relative distance is 0 if
        all others are zero too, else inf.

    Raises
    ------
    ValueError
        If a map is not finite or a parameter is invalid.

    References
    ----------
    C.-K. Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019: maximum
    sensitivity.

    Examples
    --------
    >>> import numpy as np
    >>> from sklrp.metrics import max_sensitivity
    >>> X = np.array([[3.0, 4.0], [0.0, 0.0]])
    >>> print(max_sensitivity(lambda X: np.ones_like(X), X, random_state=0))
    [0. 0.]
    """
    subject = Subject(estimator, X)
    samples, rng = subject.samples, make_rng(random_state)
    if samples.dtype.kind in "iu":
        raise ValueError(
            "X holds integers that the network looks up, and these cannot be moved a little: use "
            "another metric, or explain what comes behind the embedding."
        )
    chosen = subject.choose(target)
    maps = subject.maps(samples, chosen.target, explain_params)
    maps = maps.reshape(len(maps), -1)
    largest = np.zeros(len(samples))
    n_draws = int(n_draws)  # one of NumPy may be of eight bits
    n_rows = max(1, choose_batch_size(samples[0].size) // n_draws)
    for first in range(0, len(samples), n_rows):
        rows = slice(first, first + n_rows)
        block = samples[rows]
        noise = rng.uniform(-radius, radius, size=(len(block), n_draws, *samples.shape[1:]))
        moved = (block[:, None] + noise).astype(samples.dtype, copy=False)
        moved = moved.reshape(-1, *samples.shape[1:])
        targets = chosen.of(rows, n_draws)
        others = subject.maps(moved, targets, explain_params).reshape(len(block), n_draws, -1)
        distance = np.linalg.norm(others - maps[rows, None], axis=2)
        largest[rows] = distance.max(axis=1)
    if not relative:
        return largest
    size = np.linalg.norm(maps, axis=1)
    return np.divide(largest, size, out=np.where(largest == 0, 0.0, np.inf), where=size > 0)


@metric("model", "lower", "is the map of another class the same?")
@constrained(_COMPARISON)
def class_sensitivity(
    estimator: Any,
    X: ArrayLike,
    *,
    target: Any = None,
    other: Any = None,
    similarity: Similarity = "spearman",
    absolute: bool = False,
    random_state: int | np.random.RandomState | None = None,
    **explain_params: Any,
) -> NDArray[np.float64]:
    """Return how similar the maps of two classes are.

    Lower is better: a map that is the same whichever class it explains does not explain the class.
    The test is also known as *random logit*. Of two classes the scores are often each other's
    negative, and so are their maps, also where the rule forgets the readout: test that with
    `randomization_similarity`, or with three classes.

    Parameters
    ----------
    estimator : model
        Any model that `sklrp.explain` takes: an estimator of this package, a skorch net, a torch
        module, or a pipeline, search or FrozenEstimator with one of them inside.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples, as the model takes them. Maps are of what enters the network.
    target : object, default=None
        What is explained: a class or the index of an output, or one for each sample; or what
        `sklrp.explain` makes a number of several outputs of, such as a cell or a region of a
        field. None (default): the predicted class of each sample, or the only output.
    other : object, default=None
        What it is compared with, in the form of target. None (default): another class or output,
        drawn at random for each sample, if target is none that is made of several outputs.
    similarity : {"spearman", "pearson", "cosine", "ssim"} or callable, default="spearman"
        How maps are compared: correlation of ranks or of values, cosine, structural similarity; or
        a function of two arrays of maps that returns one value per sample. Two constant maps have
        a similarity of 1; a constant map and another have 0.
    absolute : bool, default=False
        Whether to compare absolute values.
    random_state : int, RandomState instance or None, default=None
        Determines the other classes.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    ndarray of shape (n_samples,)
        The similarity, in [-1, 1], without unit. It is 1 where both maps are the same.

    Raises
    ------
    ValueError
        If there is no other class or output, if other is the target, or where a cell, a region or
        a function is explained and other is not given; or a map is not finite.

    References
    ----------
    L. Sixt, M. Granz, T. Landgraf, "When explanations lie: why many modified BP attributions
    fail", ICML 2020: random logit. The similarity there is structural.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklrp import MLPClassifier
    >>> from sklrp.metrics import class_sensitivity
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(max_epochs=20, random_state=0).fit(X, y)
    >>> similarity = class_sensitivity(clf, X, rule="epsilon", random_state=0)
    >>> similarity.shape, bool(similarity.mean() < 0)
    ((150,), True)
    """
    subject = Subject(unwrap(estimator), X)
    chosen = subject.choose(target)
    maps, other_maps = (
        subject.maps(subject.samples, one.target, explain_params)
        for one in (chosen, _choose_other(subject, chosen, other, random_state))
    )
    return compare_maps(maps, other_maps, similarity, absolute=absolute)


def _choose_other(subject: Subject, chosen: Chosen, other: Any, random_state: Any) -> Chosen:
    """Return the class, or the other target, whose maps are compared."""
    if chosen.labels is None:
        return _choose_other_number(subject, chosen, other)
    classes = subject.labels_of(chosen.reading.model)
    if classes is None or len(classes) < 2:
        only = "has a single output" if classes is None else f"knows the class {classes[0]!r} only"
        raise ValueError(f"estimator {only}: there is no other to compare with.")
    n_samples = len(chosen.labels)
    codes = encode_labels("target", chosen.labels, classes, n_samples)
    if other is None:
        shift = make_rng(random_state).integers(1, len(classes), size=n_samples)
        return chosen._replace(labels=classes[(codes + shift) % len(classes)])
    found = subject.choose(other, "other")
    if found.labels is None:
        return found
    others = encode_labels("other", found.labels, classes, n_samples)
    same = np.flatnonzero(others == codes)
    if same.size:
        raise ValueError(
            f"other={say_value(other)} is the target of {same.size} samples, the first at "
            f"{same[0]}: give another class, or leave other=None for one drawn at random."
        )
    return found


def _choose_other_number(subject: Subject, chosen: Chosen, other: Any) -> Chosen:
    """Return the other target where one number is made of several outputs."""
    if chosen.target is None:
        subject.model.check_one_output(subject.given(subject.samples[:1]))
        raise ValueError("estimator has a single output: there is no other to compare with.")
    if other is None:
        raise ValueError(
            f"other=None, but target={chosen.target!r} makes a number of the network's output: "
            "give other, what it is compared with, such as another cell or region."
        )
    found = subject.choose(other, "other")
    alike = found.target is chosen.target or (
        not callable(other) and repr(_as_lists(found.target)) == repr(_as_lists(chosen.target))
    )
    if alike:
        raise ValueError("other is the target itself: give another cell, region or function.")
    return found


def _as_lists(target: Any) -> Any:
    """Return a target as lists and numbers."""
    if isinstance(target, tuple):
        return [_as_lists(part) for part in target]
    return target if isinstance(target, str) or callable(target) else np.asarray(target).tolist()


@metric("model", "near 0", "does the map survive the loss of what was learnt?", entry="similarity")
@constrained(
    {
        **_COMPARISON,
        "order": [StrOptions({"top_down", "bottom_up", "independent"})],
        "explain": [callable, None],
    }
)
def randomization_similarity(
    estimator: Any,
    X: ArrayLike,
    *,
    target: Any = None,
    order: str = "top_down",
    similarity: Similarity = "spearman",
    absolute: bool = False,
    random_state: int | np.random.RandomState | None = None,
    explain: Callable[..., Any] | None = None,
    **explain_params: Any,
) -> Bunch:
    """Return how similar maps stay while the network's layers lose what they have learned.

    The parameters of one layer after another are drawn anew, on a copy, and the same class of each
    sample is explained again. Closer to 0 is better: a map that stays the same shows the input and
    the architecture, not what was learned. A map that only changes its sign, because the random
    network's score has another one, is no better; scorers take the absolute similarity.

    Parameters are drawn as before training, by each layer's own ``reset_parameters``: an LSTM's
    forget gates are open as its ``forget_bias`` says, and normalisations become identities. The
    first of the layers that share a parameter draws it. Frozen parameters are drawn too, and
    weights behind a parametrization, such as a weight norm. What is no parameter, such as the
    reservoir of an echo state network, stays.

    Parameters
    ----------
    estimator : model
        Any model that `sklrp.explain` takes: an estimator of this package, a skorch net, a torch
        module, or a pipeline, search or FrozenEstimator with one of them inside.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples, as the model takes them. Maps are of what enters the network.
    target : object, default=None
        What is explained, as in `max_sensitivity`. None (default): the class of each sample that
        the trained network predicts, or the only output.
    order : {"top_down", "bottom_up", "independent"}, default="top_down"
        ``"top_down"`` from the last layer to the first, each beside those before; ``"bottom_up"``
        from the first to the last; ``"independent"`` each layer alone. Layers are in the order in
        which the network lists them.
    similarity : {"spearman", "pearson", "cosine", "ssim"} or callable, default="spearman"
        How maps are compared: correlation of ranks or of values, cosine, structural similarity; or
        a function of two arrays of maps that returns one value per sample. Two constant maps have
        a similarity of 1; a constant map and another have 0.
    absolute : bool, default=False
        Whether to compare absolute values; the paper shows both.
    random_state : int, RandomState instance or None, default=None
        Determines the new parameters. Torch's generators are left as they are.
    explain : callable or None, default=None
        What explains: ``explain(network, X, target=..., **explain_params)``, given the network
        inside the model and what enters it. None (default): :func:`sklrp.explain`.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    Bunch
        ``similarity``, an ndarray of shape ``(n_layers, n_samples)``, in [-1, 1], without unit, in
        the order in which layers are randomised, and their names, ``layers``.

    Raises
    ------
    TypeError
        If there is no network in the model, or several of them; or if a parameter belongs to a
        module without ``reset_parameters``, so that nothing says how it starts.
    ValueError
        If the network has no layer with parameters, or a map is not finite.

    References
    ----------
    J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: model parameter
    randomization test, cascading and independent.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklrp import MLPClassifier
    >>> from sklrp.metrics import randomization_similarity
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(max_epochs=5, random_state=0).fit(X, y)
    >>> result = randomization_similarity(clf, X, rule="epsilon", random_state=0)
    >>> result.layers, result.similarity.shape
    (['output', 'dense1'], (2, 150))
    """
    subject = Subject(unwrap(estimator), X)
    network = subject.network
    check_layers(network)
    chosen = subject.choose(target).target

    def maps_of(network: Any) -> NDArray:
        return subject.maps(
            subject.samples, chosen, explain_params, network=network, explain=explain
        )

    # All are drawn at once, so that a layer gets the same parameters in any order.
    seed = int(make_rng(random_state).integers(2**62))
    starts = list_layers(draw_anew(unwrap(network), seed))
    n_layers = len(starts)
    maps = maps_of(network)
    random = copy_network(network)
    names, values = [], []
    for i in reversed(range(n_layers)) if order == "top_down" else range(n_layers):
        if order == "independent":
            random = copy_network(network)
        name, start = starts[i]
        take_start(list_layers(unwrap(random).module)[i][1], start)
        names.append(name)
        values.append(compare_maps(maps, maps_of(random), similarity, absolute=absolute))
    return Bunch(similarity=np.stack(values), layers=names)
