"""Grade every cell of a map: fact, missed, without support, misleading or background.

`artifact_map` is how users ask; `diagnose` draws the same grades with its report. The skill map
says which cells are true, the maps of untrained networks which cells the map names.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._constraints import Interval, constrained
from sklrp._sklearn import StrOptions
from sklrp.diagnostics.borders import EDGE
from sklrp.diagnostics.common_form import with_relevance
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.nulls import NULLS
from sklrp.diagnostics.other_networks import check_trainable, has_nulls, null_maps, why_not_drawn
from sklrp.diagnostics.patterns import find_patterns
from sklrp.diagnostics.stability import check_networks, find_stable
from sklrp.diagnostics.true_place import find_true

_FEWEST = 3  # null models that make a distribution
NOT_NAMED = (
    "So no untrained network's maps were compared: whether maps are true and learned is "
    "undecided, and the map is taken to name the cells of more than an even share."
)
_OF_NETWORKS = "mean", "spread", "stability", "common", "own"  # what `stable` knows of cells


@constrained(
    {
        **CONSTRAINTS,
        "block_length": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "null": [StrOptions(set(NULLS))],
        "n_permutations": [Interval(Integral, 3, None, closed="left")],
        "alpha": [Interval(Real, 0, 0.5, closed="neither")],
    }
)
def artifact_map(
    model: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    rule: Any = "auto",
    relevance: ArrayLike | None = None,
    null: str = "network",
    alpha: float = 0.05,
    X_train: ArrayLike | None = None,
    y_train: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    block_length: int | str = "auto",
    target: Any = None,
    n_permutations: int = 50,
    n_networks: int = 1,
    max_samples: int | None = 100,
    n_jobs: int | None = None,
    memory: Any = None,
    random_state: int | np.random.RandomState | None = None,
    grid: Any = None,
    **explain_params: Any,
) -> Finding:
    r"""Grade every cell of the map: fact, missed, without support, misleading or background.

    Two questions are asked of each cell. Is it *true*: does it carry skill on held-out samples
    (`skill_map`)? Does the map *name* it: has it more relevance than networks give that learned
    nothing? The answers make the grades:

    ======================  ============================  =====================================
    the map                 the cell is true              it is not
    ======================  ============================  =====================================
    names it                **fact**                      **unsupported**: alone it says nothing
    does not                **missed** by the rule        **background**
    ======================  ============================  =====================================

    A cell that costs skill is **misleading**, whatever the map says. Unsupported is no verdict of
    its own: noise that was fitted is, and so is a suppressor, which the network rightly uses.
    ``causes`` names what is known of such cells.

    Maps are divided by their sum of absolute values. A true cell is shown if its mean size of
    relevance, or the size of the classes' mean maps there, exceeds the root mean square over null
    models. Of other cells only those are named whose mean size exceeds it by more than null models
    exceed each other, at a rate of false discoveries of at most `alpha`. A map that as a whole
    lies where null models' or the input lies names nothing. Maps that were made elsewhere have no
    null models: they name the cells of more than an even share. So it is of a network that cannot
    be drawn anew; whether its map is true is undecided then, and ``assumptions`` say why.

    The guarantee is that of *true*: with a probability of at most `alpha` any cell is fact or
    missed that is not true. That a true cell is shown is described, not tested: a null model
    shows about every second one. Of *unsupported* cells those are bounded, in the mean, that null
    models would name; of maps made elsewhere nothing is, so that a map without any knowledge
    names cells too.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it; the maps are of what enters its network.
    X : array-like of shape (n_samples, ...)
        Samples that the model was not trained on.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Their labels or values.
    rule : str, Rule or Composite, default="auto"
        The rule whose maps are graded.
    relevance : array-like of shape (n_samples, ...) or None, default=None
        Maps of X that were made elsewhere, such as by integrated gradients or SHAP, in the shape
        of what enters the network. None (default): they are made by `sklrp.explain` and `rule`.
        Beside them parameters of ``explain`` are refused, but for `contrast`, what they are of.
    null : str, default="network"
        What a null model has lost, as in `randomization_test`.
    alpha : float, default=0.05
        The probability of any cell that is called true, or misleading, and is not.
    X_train, y_train : array-like or None, default=None
        What the model was trained on. Cells' contributions are found against `X_train`; both are
        needed by ``null="labels"``.
    groups : array-like of shape (n_samples,) or None, default=None
        Units that belong together, as in `skill_map`.
    block_length : int or "auto", default="auto"
        Neighbours in time that are permuted together, as in `skill_map`.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: a label, or the index of an output. None (default): the predicted class
        of each sample, or the only output.
    n_permutations : int, default=50
        Number of null models, at least 3. `diagnose` draws 20 by default: for the same cells, of
        the same `random_state`, give it as many.
    n_networks : int, default=1
        With 3 or more, so many clones of the model are trained on `X_train` and `y_train` from
        other seeds, and pairs on halves, as in `diagnose`. The map is their mean then, and the
        sizes of relevance are means over the model and its clones. A cell is true by the skill
        of the model. 1 (default): the model alone.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random. None: all. Skill is of all.
    n_jobs : int or None, default=None
        Number of joblib's workers. None (default): one.
    memory : None, str, path or joblib.Memory, default=None
        Where null models, clones and contributions are kept, as in scikit-learn's `Pipeline`:
        after an interruption the same call does only what is missing. With ``random_state=None``
        it takes the seed that the first call has drawn. None (default): nowhere.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.
    **explain_params : dict
        Further parameters of ``explain``, such as ``epsilon``.

    Returns
    -------
    Finding
        With arrays of a sample's shape: ``mean``, the mean map, over networks if there are
        several, with ``spread``, ``stability``, ``common`` and ``own`` as `diagnose` has them;
        the masks ``fact``, ``missed``, ``unsupported``, ``misleading`` and ``background``, which
        cover it; ``skill``, ``z`` and ``true_fdr`` of the skill map. Also ``way``, the number
        that decides, with the ``rival`` from which it is counted, see *true* of `diagnose`;
        ``mass``, the share of the map on true cells, ``input_mass``, of the input's departures
        from the mean, and ``null_mass``, of each null model, which decide where ``by_mass``;
        ``power``, the share of the skill that lies on cells that were found true, of the sum over
        all cells, in which skill below 0 cancels some; ``detectable``, the smallest skill of a
        cell that would have been found; ``causes``, masks of cells that are not true by what is
        known of them (``constant``, ``offset``, ``outliers``, ``border``, ``suppressor``), and
        ``assumptions``. The statistic is ``mass``; the verdict is that of the question *true* of
        `diagnose`, which `way` decides.

    Raises
    ------
    ValueError
        If data or a parameter is malformed, or if fewer than 3 null models have any relevance.

    References
    ----------
    S. Haufe et al., "On the interpretation of weight vectors of linear models in multivariate
    neuroimaging", NeuroImage 87, 2014, for suppressors; D. S. Wilks, "The stippling shows
    statistically significant grid points", Bull. Am. Meteorol. Soc. 97, 2016; `skill_map`.

    Examples
    --------
    >>> from sklrp import MLPClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import artifact_map
    >>> X, y, mask = make_squares(n_per_class=100, size=20, random_state=0)
    >>> clf = MLPClassifier(max_epochs=10, random_state=0).fit(X[:100], y[:100])
    >>> found = artifact_map(clf, X[100:], y[100:], X_train=X[:100], random_state=0)
    >>> bool(found.fact[mask].all()), int(found.fact[~mask].sum())
    (True, 0)
    """
    explained = Explained(
        model,
        X,
        y,
        relevance=relevance,
        X_train=X_train,
        y_train=y_train,
        groups=groups,
        block_length=block_length,
        alpha=alpha,
        target=target,
        grid=grid,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        memory=memory,
        rule=rule,
        **explain_params,
    )
    explained.check_samples()
    if NULLS[null].trains:
        check_trainable(explained, f"null={null!r}")
    if n_networks > 1:
        check_networks(explained, n_networks)
    if not has_enough_nulls(explained, n_permutations, null):
        raise ValueError(
            f"fewer than {_FEWEST} of n_permutations={n_permutations} null models have any "
            "relevance, too few for a distribution: raise n_permutations, or use another rule."
        )
    findings = [find_true(explained, n_permutations, alpha, null)]
    findings += find_patterns(explained, n_permutations)
    if n_networks > 1:
        findings.append(find_stable(explained, n_networks))
    return grade_cells(explained, n_permutations, findings, null, alpha)


def has_enough_nulls(explained: Explained, n_draws: int, null: str = "network") -> bool:
    """Tell whether enough null models have relevance, or there are none to compare with."""
    if not has_nulls(explained, null):
        return True
    return int(with_relevance(null_maps(explained, null, n_draws)).sum()) >= _FEWEST


def grade_cells(
    explained: Explained,
    n_draws: int,
    findings: Sequence[Finding],
    null: str = "network",
    alpha: float = 0.05,
) -> Finding:
    """Grade the cells of the mean map, with the place and the causes that findings know."""
    cells = explained.decomposition.cells
    by_name = {finding.name: finding for finding in findings}
    place, stable = by_name["true"], by_name.get("stable")
    true, misleading = cells["true"], cells["misleading"]
    causes = _find_causes(explained, findings, ~true)
    # A map that is what null models show, as a whole, names nothing.
    named = np.zeros(true.shape, dtype=bool)
    if place.verdict != "artifact":
        named = _named(explained, n_draws, null, alpha, true, stable)
        named |= causes.get("suppressor", np.zeros_like(named))
    grades = {
        "fact": true & named,
        "missed": true & ~named,
        "unsupported": named & ~true & ~misleading,
        "misleading": misleading,
        "background": ~(named | true | misleading),
    }
    total = explained.decomposition.total
    power = cells["skill"][true].sum() / total if total > 0 else 0.0
    with_data = explained.decomposition.with_data  # no land
    counts = ", ".join(f"{(mask & with_data).sum()} {name}" for name, mask in grades.items())
    mean = explained.maps.mean(axis=0, dtype=np.float64)
    of_networks = {}
    if stable is not None:
        of_networks = {name: stable[name] for name in _OF_NETWORKS}
        mean = of_networks.pop("mean")
    return explained.finding(
        name="artifact_map",
        question="Which cells of the map are fact?",
        statistic=place.mass,
        interval=place.mass_interval,
        null=place.null_mass,
        verdict=place.verdict,
        reading=(
            f"of |relevance| lies on true cells ({place.input_mass:.2g} of the input); {counts}"
        ),
        advice=place.advice,
        mean=mean,
        **of_networks,
        **grades,
        skill=cells["skill"],
        z=cells["z"],
        true_fdr=cells["true_fdr"],
        detectable=cells["detectable"],
        **({"caution": place.caution} if "caution" in place else {}),
        way=place.statistic,
        rival=place.rival,
        by_mass=place.by_mass,
        mass=place.mass,
        input_mass=place.input_mass,
        null_mass=place.null_mass,
        power=float(np.clip(power, 0.0, 1.0)),
        causes=causes,
        assumptions=_list_assumptions(explained, null),
        table={
            "relevance": mean.ravel(),
            "skill": cells["skill"].ravel(),
            **{name: mask.ravel() for name, mask in grades.items()},
        },
    )


def _list_assumptions(explained: Explained, null: str) -> list[str]:
    """Return what grades take for granted."""
    found = explained.decomposition.assumptions
    if explained.is_given or has_nulls(explained, null):
        return found
    return [*found, f"{why_not_drawn(explained)} {NOT_NAMED}"]


def _named(
    explained: Explained,
    n_draws: int,
    null: str,
    alpha: float,
    true: NDArray[np.bool_],
    stable: Finding | None,
) -> NDArray[np.bool_]:
    """Tell which cells have more relevance than null models give."""
    # Means over several networks are compared with means over as many null models.
    sizes = explained.mean_sizes(explained.maps)[np.newaxis]
    if stable is not None:
        sizes = np.concatenate([sizes, stable["sizes"]])
    size, of_means = sizes.mean(axis=0)
    if not has_nulls(explained, null):
        return size > size.mean()
    drawn = null_maps(explained, null, n_draws)
    drawn = drawn[with_relevance(drawn)]
    null_sizes, null_of_means = np.stack([explained.mean_sizes(m) for m in drawn], axis=1)
    floor = 1e-6 * size.max()  # maps are kept in float32
    squares = (null_sizes**2).sum(axis=0)
    ratio = size / np.maximum(np.sqrt(squares / len(drawn)), floor)
    of_mean = of_means / np.maximum(np.sqrt((null_of_means**2).mean(axis=0)), floor)
    named = np.zeros(true.shape, dtype=bool)
    named[true] = np.maximum(ratio, of_mean)[true] > 1  # true they are already: is it shown?
    if not true.all():
        null_ratio = _null_ratios(null_sizes, len(sizes), floor, explained.rng("null means"))
        drawn_ratio = null_ratio[:, ~true].ravel()
        named[~true] = _beyond_nulls(ratio[~true], drawn_ratio, len(null_ratio), alpha)
    return named & (size > floor)


def _null_ratios(
    sizes: NDArray, n_networks: int, floor: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the sizes of null models, or means of several, over those of the others."""
    n_nulls = len(sizes)
    squares = sizes**2
    ratios = []
    for k in range(n_nulls):
        rest = np.delete(np.arange(n_nulls), k)
        # Half of the null models are left to compare with, however many are averaged.
        chosen = rng.choice(rest, min(n_networks, n_nulls // 2) - 1, replace=False)
        chosen = np.append(chosen, k)
        others = np.setdiff1d(rest, chosen)
        expected = np.sqrt(squares[others].mean(axis=0))
        ratios.append(sizes[chosen].mean(axis=0) / np.maximum(expected, floor))
    return np.stack(ratios)


def _beyond_nulls(
    ratio: NDArray, null_ratio: NDArray, n_nulls: int, alpha: float
) -> NDArray[np.bool_]:
    """Tell which ratios exceed those of null models, at a rate of false discoveries of alpha."""
    order = np.argsort(-ratio)
    ranked, drawn = ratio[order], np.sort(null_ratio)
    expected = (len(drawn) - np.searchsorted(drawn, ranked, side="left")) / n_nulls
    rate = expected / np.arange(1, len(ranked) + 1)
    rate = np.minimum.accumulate(rate[::-1])[::-1]
    found = np.zeros(len(ratio), dtype=bool)
    found[order] = rate <= alpha
    return found


def _find_causes(
    explained: Explained, findings: Sequence[Finding], others: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    """Return which cells are constant, outliers, at a border or suppressors, and not true."""
    causes = {}
    for finding in findings:
        if finding.name in ("outliers", "suppressor"):
            causes[finding.name] = finding["cells"] & others
        elif finding.name == "constant":
            causes["constant" if finding["kind"] == "fixed" else "offset"] = (
                finding["cells"] & others
            )
        elif finding.name == "border" and finding.verdict == "artifact":
            ends = np.zeros(explained.frame.axes, dtype=bool)
            along = np.moveaxis(ends, finding["axis"], 0)
            along[:EDGE] = along[-EDGE:] = True
            causes["border"] = ends.reshape(others.shape) & others
    return {name: cells for name, cells in causes.items() if cells.any()}
