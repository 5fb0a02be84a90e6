"""How much of a map lies where the network's skill is, more than without learning.

The truth of held-out samples takes the place of a mask: `sklrp.skill` says which cells carry
skill. Users and scorers call it to choose a rule where nobody knows where relevance belongs.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import check_maps
from sklrp._constraints import Interval, constrained
from sklrp._devices import to_host
from sklrp._matching import match_samples
from sklrp._sklearn import StrOptions
from sklrp._streams import Streams
from sklrp._warnings import warn_user
from sklrp.geo.places import put_in_order, samples_first
from sklrp.metrics.catalogue import metric
from sklrp.metrics.maps import weighted_share
from sklrp.metrics.randomise import check_layers, with_start
from sklrp.metrics.subject import Chosen, Subject
from sklrp.skill import decompose_skill

__all__ = ["skill_mass"]

_COMPARED, _ROUNDING = 4, 1e-3  # maps that were given, with what explain makes; of their largest


@metric("model and truth", "higher", "does relevance lie where the skill is, by learning?")
@constrained(
    {
        "part": [StrOptions({"auto", "positive", "absolute"})],
        "relevance": ["array-like", None],
        "groups": ["array-like", None],
        "block_length": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "n_permutations": [Interval(Integral, 19, None, closed="left")],
        "n_draws": [StrOptions({"auto"}), Interval(Integral, 2, None, closed="left")],
        "explain": [callable, None],
    }
)
def skill_mass(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    target: Any = None,
    part: str = "auto",
    relevance: ArrayLike | None = None,
    X_train: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    block_length: int | str = "auto",
    n_networks: int = 5,
    n_permutations: int = 199,
    n_draws: int | str = 16,
    random_state: int | np.random.RandomState | None = None,
    explain: Callable[..., Any] | None = None,
    **explain_params: Any,
) -> NDArray[np.float64]:
    r"""Return how much of each map lies where the network's skill is, more than without learning.

    It tells rules apart where no mask is known. Held-out samples and their truth say how much of
    its skill the network owes to each cell, :math:`T_i`; the cells that are told from permuted
    labels, with a twentieth of false ones among them, are *true*, as in
    `sklrp.diagnostics.skill_map`. With weights :math:`w_i = T_i / \max_j T_j` on true cells and 0
    elsewhere, the mass of a map, less the mean mass of the maps that K untrained networks of the
    same architecture give by the same rule, is

    .. math:: M = \sum_i \frac{R_i^+}{\sum_j R_j^+} \, w_i
              - \frac{1}{K} \sum_k \sum_i \frac{|R_i^{(k)}|}{\sum_j |R_j^{(k)}|} \, w_i

    Higher is better. It is about 0 for a rule whose maps the network did not need to be trained
    for, such as that of z-plus in an echo state network. It is a difference and no ratio: an
    untrained LSTM has next to no relevance at early steps, and a ratio to next to nothing would
    choose the rule by that. Neither skill nor weights depend on the rule.

    Parameters
    ----------
    estimator : model
        Any model that `sklrp.explain` takes, if its network can be drawn anew: an estimator of
        this package, a skorch net, a torch module, or a pipeline, search or FrozenEstimator with
        one of them inside. It classifies or predicts values.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        Samples that the model was not trained on, as it takes them.
    y : array-like of shape (n_samples,), (n_samples, n_outputs) or (n_samples, *output_shape)
        Their labels or values.
    target : object, default=None
        What is explained: a class or the number of an output, or one for each sample; or what
        `sklrp.explain` makes a number of several outputs of, of which y is the truth or like the
        output. None (default): the class of each sample that the network predicts, or the only
        output. Skill is of all classes; with one label it is of that class against the others.
    part : {"auto", "positive", "absolute"}, default="auto"
        Which relevance of the network counts: ``"positive"`` the evidence for the class,
        :math:`R^+` as above, ``"absolute"`` all of it, :math:`|R|`. ``"auto"`` takes the first of
        classes and the second of values and of a network of one output. Of untrained networks,
        whose scores have any sign, all of it counts.
    relevance : array-like of shape (n_samples, ...) or None, default=None
        The maps, if they are there already: made by the same ``explain`` and its parameters, as
        those of untrained networks are; a few are made again to see that. None (default) makes
        all.
    X_train : array-like of shape (n_train, ...) or None, default=None
        Training samples, with which samples are compared. None (default) takes those of X.
    groups : array-like of shape (n_samples,) or None, default=None
        Units that belong together, such as cases or years: their labels are permuted as a whole.
    block_length : int or "auto", default="auto"
        Neighbours, of samples in order of time, that are permuted together; ``"auto"`` estimates
        it, 1 permutes single samples.
    n_networks : int, default=5
        Number of untrained networks, K.
    n_permutations : int, default=199
        Number of permutations of labels, at least 19.
    n_draws : int or "auto", default=16
        Draws behind the contributions of each sample; ``"auto"`` adds to them until they hardly
        matter, which can find more in LSTMs and takes ten times as long there.
    random_state : int, RandomState instance or None, default=None
        Determines draws, permutations and untrained networks: give a number, so that all rules are
        held against the same ones.
    explain : callable or None, default=None
        What explains: ``explain(network, X, target=..., **explain_params)``, given the network
        inside the model and what enters it. None (default): :func:`sklrp.explain`.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    ndarray of shape (n_samples,)
        The mass less that of untrained networks, in [-1, 1], without unit. 1 would be all
        relevance on the cell of the largest skill. A map without relevance has the mass 0.

    Raises
    ------
    TypeError
        If the model has no network that can be drawn anew.
    ValueError
        If y is of another length, holds one class or value only, or has too few samples to
        permute; or if maps are of another shape, or made by other parameters.

    Warns
    -----
    UserWarning
        If no cell's skill is told from none: all is 0 then, and no rule is better than another.

    References
    ----------
    G. Erion et al., "Improving performance of deep learning models with axiomatic attribution
    priors and expected gradients", Nature Machine Intelligence 3, 2021: the contributions. L.
    Arras, A. Osman, W. Samek, "CLEVR-XAI: A benchmark dataset for the ground truth evaluation of
    neural network explanations", Information Fusion 81, 2022: the mass on a mask. J. Adebayo et
    al., "Sanity checks for saliency maps", NeurIPS 2018: comparison with untrained networks.

    Examples
    --------
    >>> from sklrp import MLPClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.metrics import skill_mass
    >>> X, y, _ = make_squares(n_per_class=100, size=20, random_state=0)
    >>> clf = MLPClassifier(max_epochs=10, random_state=0).fit(X[:100], y[:100])
    >>> for rule in ("epsilon", "w_square"):
    ...     print(rule, skill_mass(clf, X[100:], y[100:], rule=rule, random_state=0).mean() > 0.1)
    epsilon True
    w_square False
    """
    subject = Subject(estimator, X)
    y = match_samples(y, X, "y")
    if subject.model is None:
        raise TypeError(
            "estimator is a function, which has no network to draw anew: pass a model."
        )
    check_layers(subject.network)
    y, target = to_host(y), to_host(target)
    streams = Streams(random_state)
    chosen = subject.choose(target)
    model, number = chosen.reading.model, chosen.reading.number
    y = y if number is None else number.of_truth(y)
    if relevance is not None:
        relevance = _take_maps(relevance, subject)
    if relevance is not None and explain is None:
        _check_made_alike(subject, chosen, relevance, explain_params)
    else:  # unknown parameters are refused, whether there is skill or not
        one = np.arange(1)
        subject.maps(subject.samples[one], chosen.of(one, 1), explain_params, explain=explain)
    weights = _find_weights(
        subject,
        model,
        y,
        chosen.reading.target,
        streams,
        X_train=X_train,
        groups=groups,
        block_length=block_length,
        n_permutations=n_permutations,
        n_draws=n_draws,
    )
    if not weights.any():
        warn_user(
            f"no cell's skill on these {len(subject.samples)} samples is told from none, so that "
            "skill_mass is 0, whatever the map: hold out more samples (fewer folds), or train a "
            "model that has skill.",
        )
        return np.zeros(len(subject.samples))
    if part == "auto":
        part = "positive" if _are_labels(subject, model, y) else "absolute"

    def mass(maps: NDArray, part: str) -> NDArray[np.float64]:
        return weighted_share(check_maps(maps), _of_samples(weights, chosen.labels), part)

    def maps_of(network: Any) -> NDArray:
        return subject.maps(
            subject.samples, chosen.target, explain_params, network=network, explain=explain
        )

    own = maps_of(subject.network) if relevance is None else relevance
    untrained = [
        mass(maps_of(with_start(subject.model, seed)), "absolute")
        for seed in streams.seeds("skill_mass networks", n_networks)
    ]
    return mass(own, part) - np.mean(untrained, axis=0)


def _find_weights(
    subject: Subject, model: Any, y: Any, target: Any, streams: Streams, **params: Any
) -> NDArray[np.float64]:
    """Return what each cell counts, for each output that has skill of its own."""
    one = target[()] if isinstance(target, np.ndarray) and target.ndim == 0 else target
    found = decompose_skill(
        model, subject.X, y, streams, target=one if np.ndim(one) == 0 else None, **params
    )
    skill = np.where(found.cells["true_fdr"], found.cells["skill"], 0.0)
    skill = skill.reshape(-1, subject.samples[0].size)
    largest = skill.max(axis=1, keepdims=True)
    return skill / np.where(largest == 0, 1.0, largest)


def _of_samples(weights: NDArray, labels: NDArray | None) -> NDArray:
    """Return the weights of each sample: of the output that is explained, if there are several."""
    if len(weights) == 1:
        return weights
    if labels is None:
        raise ValueError(
            f"the network predicts {len(weights)} values: give target, the number of the output "
            "that is explained."
        )
    return weights[labels]


def _are_labels(subject: Subject, model: Any, y: Any) -> bool:
    """Tell whether the truth is a class for each sample, and each class has an output."""
    n_samples = len(subject.samples)
    is_flat = np.size(y) == n_samples
    return is_flat and model.classes_for(subject.given(subject.samples)) is not None


def _take_maps(relevance: ArrayLike, subject: Subject) -> NDArray:
    """Return maps that were given, if they are of the samples."""
    maps = check_maps(put_in_order(relevance, samples_first(subject.X), "relevance"))
    if maps.shape != subject.samples.shape:
        raise ValueError(
            f"relevance has the shape {maps.shape}, but must have that of what enters the "
            f"network, {subject.samples.shape}."
        )
    return maps


def _check_made_alike(
    subject: Subject, chosen: Chosen, maps: NDArray, params: dict[str, Any]
) -> None:
    """Refuse maps that were made in another way than those of untrained networks will be."""
    rows = np.arange(len(maps))[:_COMPARED]
    made = subject.maps(subject.samples[rows], chosen.of(rows, 1), params)
    gap = np.abs(made - maps[rows]).reshape(len(rows), -1).max(axis=1)
    size = np.abs(made).reshape(len(rows), -1).max(axis=1)
    if (gap > _ROUNDING * size).any():
        by = ", ".join(f"{name}={value!r}" for name, value in params.items())
        raise ValueError(
            f"relevance holds other maps than explain makes {f'with {by}' if by else 'by default'}"
            ", which is how untrained networks are explained: give the rule and the other "
            "parameters that relevance was made by, its own function as explain, or leave "
            "relevance out."
        )
