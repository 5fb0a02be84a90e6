"""All tests of a map in one call: `diagnose`.

The command line calls it too. Each test has a file of its own beside this one.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.std import tqdm

from sklrp._constraints import Interval, constrained
from sklrp._sklearn import StrOptions
from sklrp.diagnostics.audit import find_audited
from sklrp.diagnostics.bias import find_kept
from sklrp.diagnostics.degenerate import find_degenerate
from sklrp.diagnostics.equivariance import follow_moves
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.fact_map import NOT_NAMED, grade_cells, has_enough_nulls
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.mask_share import on_mask
from sklrp.diagnostics.nulls import NULLS
from sklrp.diagnostics.other_networks import why_not_drawn, why_not_trained
from sklrp.diagnostics.patterns import find_patterns
from sklrp.diagnostics.randomization import compare_with_null, leave_undecided
from sklrp.diagnostics.report import ArtifactReport
from sklrp.diagnostics.skilled import find_skilled
from sklrp.diagnostics.stability import check_networks, find_stable
from sklrp.diagnostics.surrogates import find_coherent
from sklrp.diagnostics.true_place import find_true
from sklrp.diagnostics.used import find_used
from sklrp.skill import PlainModel

_SURROGATES = 5  # of each sample

Test = tuple[Any, ...]  # a function of what is explained, and its other arguments; of findings


@constrained(
    {
        **CONSTRAINTS,
        "block_length": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "n_refits": [Interval(Integral, 0, None, closed="left")],
        "n_permutations": [Interval(Integral, 3, None, closed="left")],
    }
)
def diagnose(
    model: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    rule: Any = "auto",
    relevance: ArrayLike | None = None,
    X_train: ArrayLike | None = None,
    y_train: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    block_length: int | str = "auto",
    epsilon: float = 1e-6,
    contrast: bool = False,
    reference: Any = None,
    mask: ArrayLike | None = None,
    target: Any = None,
    n_permutations: int = 20,
    n_networks: int = 1,
    n_refits: int = 0,
    max_samples: int | None = 100,
    n_jobs: int | None = None,
    memory: Any = None,
    progress: bool = False,
    random_state: int | np.random.RandomState | None = None,
    grid: Any = None,
) -> ArtifactReport:
    """Test whether relevance maps are fact or artifact, question by question.

    Each question has a test of its own, with a statistic, a null, an interval, a verdict and a
    sentence of advice:

    ==============  ===========================================  =================================
    question        asks                                         is compared with
    ==============  ===========================================  =================================
    skilled         Does the model know anything of samples      permuted labels
                    that it never saw?
    true            Does relevance lie where that skill is?      the input, untrained networks
    learned         Do networks that learned nothing give the    networks before any training
                    same map? (test ``randomization``)
    used            Do the cells that the map names move the     what each cell contributes to the
                    score, in the direction that it says, if     score, by expected gradients
                    it has any?
    stable          Do networks from other seeds and halves of   one another
                    the training data agree? (`n_networks`)
    placed          Does relevance move along if the training    a network trained on samples as
                    samples are flipped? (``equivariance``)      they are
    coherent        Is it the pattern, or do any samples of      another half of the samples
                    the same spectrum give this map?
    ==============  ===========================================  =================================

    A map is an *artifact* if one of the first four or *placed* says so, if it is degenerate
    (constant, the input, or equal for all samples or classes), holds less than a tenth of its
    score (``bias``) or does not prefer the mask, or if `audit` finds that it is of something else
    than it says. It is *fact* if the model is skilled and its maps are true and used.
    Else it is *undecided*: the tests had no power to tell.

    Further tests name causes: ``readout`` and ``labels`` (see `randomization_test`), and the
    patterns ``constant``, ``outliers``, ``suppressor``, ``fading``, ``border`` and ``grid`` of
    data and architectures. A pattern alone convicts no map, since a sound one may lean or be weak
    at a border. It convicts if the data confirm it: the map has no relevance where single cells
    tell the labels apart, or has it where they tell nothing.

    Nothing here can prove that a network is right for the right reason. *Fact* says that the map
    shows where the network's knowledge of held-out samples comes from.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it; the maps are of what enters its network. It
        is left as it is, also when interrupted.
    X : array-like of shape (n_samples, ...)
        Samples that the model was *not* trained on: on others, skill says nothing.
    y : array-like of shape (n_samples,) or (n_samples, ...), default=None
        Their labels, for a bare module indices of its outputs; the values of a regression, of the
        explained output or of all, fields too. None (default): skill is not tested, and no map is
        called fact.
    rule : str, Rule or Composite, default="auto"
        The rule whose maps are tested.
    relevance : array-like of shape (n_samples, ...) or None, default=None
        Maps of X that were made elsewhere, such as by integrated gradients or SHAP, in the shape
        of what enters the network. None (default): they are made by `sklrp.explain` and `rule`.
        Beside them parameters of ``explain`` are refused, but for `contrast`, what they are of.
        No null model's maps can be compared with them, so *learned* and *placed* are not asked.
    X_train, y_train : array-like or None, default=None
        What the model was trained on. Contributions of cells are found against draws of `X_train`;
        None (default) draws from X. Tests that train clones need both.
    groups : array-like of shape (n_samples,) or None, default=None
        Units of samples that belong together, such as cases, members or years, as in `skill_map`.
    block_length : int or "auto", default="auto"
        Neighbours, of samples in order of time, that are permuted together, as in `skill_map`.
    epsilon : float, default=1e-6
        Stabiliser, as in ``explain``.
    contrast : bool, default=False
        Whether the target's logit minus the largest of the others is explained, also by maps made
        elsewhere.
    reference : {"mean", "zero"}, float, array-like or None, default=None
        The value from which an output is explained, as in ``explain``. The map, and so what is
        found of it, is the same for all; the test ``bias`` tells the share of the reference.
    mask : DataArray, array-like of bool or None, default=None
        True where relevance belongs, if that is known: of the shape of a sample, or of a field,
        such as `sklrp.geo.box_mask` returns, also where rows of its cells enter the network.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: a label, or the index of an output. None (default): the predicted class
        of each sample, or the only output.
    n_permutations : int, default=20
        Number of null models, at least 3. With fewer than 10 the test ``mask`` cannot say fact.
        `artifact_map` draws 50 by default: for the same cells, of the same `random_state`, give it
        as many.
    n_networks : int, default=1
        Number of networks from other seeds, at least 3, that are trained for the question
        *stable*; and as many halves of the training data. 1 (default) asks nothing of others.
    n_refits : int, default=0
        Number of clones that are trained on permuted labels, on flipped samples and on samples as
        they are, each. 0 (default) leaves out the tests that train: ``labels`` and *placed*.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random. None: all. Skill is of all.
    n_jobs : int or None, default=None
        Number of joblib's workers for null models. None (default): one.
    memory : None, str, path or joblib.Memory, default=None
        Where the results of tests, null models, clones and contributions are kept, as in
        scikit-learn's `Pipeline`: after an interruption the same call does only what is missing.
        With ``random_state=None`` it takes the seed that the first call has drawn. None (default):
        nowhere.
    progress : bool, default=False
        Whether to show a progress bar.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn, by a stream for each test: what one test draws does not
        depend on the others.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.

    Returns
    -------
    ArtifactReport
        With the answers: ``verdict``, ``sentence``, ``reasons``, ``questions`` and ``tests``,
        ``assumptions`` (what is taken for granted, and which tests were left out, and why) and
        ``picture``, the finding of `artifact_map`. Where the network cannot be drawn anew, whether
        maps are true and learned is undecided, with the reason. Prints as a table, and shows as a
        page in a notebook.

    Raises
    ------
    ValueError
        If the data, the mask, the rule or another parameter is malformed, before any test; if
        there is one class or value only, too few units to permute, or a single sample to explain.
    TypeError
        If the model cannot be explained.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    artifact_map : The same questions of every cell.
    skill_map : Which cells carry the skill, whatever a map says.

    References
    ----------
    arXiv 2302.12317, "Fact or artifact?", for the question; `skill_map` for skill and
    contributions; `randomization_test`, `equivariance_test`, `degeneracy`, `bias_share` and
    `position_profile` for the tests of these names.

    Examples
    --------
    >>> from sklrp import MLPClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import diagnose
    >>> X, y, mask = make_squares(n_per_class=100, size=20, random_state=0)
    >>> clf = MLPClassifier(max_epochs=10, random_state=0).fit(X[:100], y[:100])
    >>> held_out = {"X": X[100:], "y": y[100:], "X_train": X[:100], "random_state": 0}
    >>> diagnose(clf, **held_out).verdict
    'fact'
    >>> report = diagnose(clf, rule="w_square", **held_out)
    >>> report.verdict, "degeneracy" in report.reasons
    ('artifact', True)
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
        target=target,
        grid=grid,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        memory=memory,
        rule=rule,
        epsilon=epsilon,
        contrast=contrast,
        reference=reference,
    )
    explained.check_samples()
    place = None if mask is None else explained.take_mask(mask)
    tests, left_out = _list_tests(explained, place, n_permutations, n_networks, n_refits)
    findings: list[Finding] = []
    if explained.all_y is not None:  # as tests know of it, also where they are not run again
        _ = explained.decomposition
    for test in tqdm(tests, desc="diagnose", disable=not progress):
        found = explained.recall(*test)
        findings += found if isinstance(found, list) else [found]
    picture, assumptions = None, left_out
    if explained.all_y is not None:
        if has_enough_nulls(explained, n_permutations):
            picture = grade_cells(explained, n_permutations, findings)
        else:
            left_out.append("Cells were not graded: no untrained network has any relevance.")
        assumptions = [*explained.decomposition.assumptions, *left_out]
    what = "maps made elsewhere" if explained.is_given else f"rule={rule!r}"
    subject = (
        f"{explained.model.name}, {what}, {len(explained.X)} samples of {len(explained.all_X)}"
    )
    return ArtifactReport(findings, subject, assumptions, picture)


def _list_tests(
    explained: Explained,
    mask: NDArray[np.bool_] | None,
    n_permutations: int,
    n_networks: int,
    n_refits: int,
) -> tuple[list[Test], list[str]]:
    """Return the tests that fit what is explained, and what is said of those that do not."""
    tests: list[Test] = [(find_degenerate,)]
    left_out: list[str] = []
    if explained.all_y is None:
        left_out.append(
            "y was not given: whether the model is skilled and its maps are true cannot be said, "
            "so no map is called fact."
        )
    else:
        tests = [
            (find_skilled, n_permutations),
            (find_true, n_permutations),
            *tests,
        ]
    n_some, n_all = len(explained.some_rows), len(explained.all_X)
    if n_some < n_all:
        left_out.append(
            f"Patterns and common mistakes were looked for in {n_some} of {n_all} samples, at "
            "even distances: all of them would not fit into memory at once."
        )
    if explained.is_given:
        left_out.append("The maps were made elsewhere, so no other network's were compared.")
    else:
        tests += _list_null_tests(explained, n_permutations)
        if why := why_not_drawn(explained):
            left_out.append(f"{why} {NOT_NAMED}")
        tests.append((find_kept,))
        if not explained.model.takes_integers:  # which have no spectrum
            tests.append((find_coherent, _SURROGATES))
    tests += [
        (find_used, n_permutations),
        (find_patterns, n_permutations),
    ]
    if mask is not None:
        tests.append((on_mask, mask, n_permutations))
    if isinstance(explained.model, PlainModel):
        left_out.append("There is no network: common mistakes were not looked for.")
    else:
        tests.append((find_audited,))
    if (n_refits or n_networks > 1) and not explained.is_given:
        if why := _why_no_clones(explained):
            left_out.append(f"Tests that train clones were left out, as {why}.")
        else:
            tests += _list_training_tests(explained, n_networks, n_refits)
    return tests, left_out


def _list_null_tests(explained: Explained, n_permutations: int) -> list[Test]:
    """Return the comparisons with networks drawn anew, or what says why there are none."""
    if why_not_drawn(explained):
        return [(leave_undecided,)]
    return [
        (compare_with_null, null, n_permutations)
        for null in NULLS.values()
        if not null.trains and null.fits(explained.model)
    ]


def _list_training_tests(explained: Explained, n_networks: int, n_refits: int) -> list[Test]:
    """Return the tests that train clones."""
    tests: list[Test] = []
    if n_networks > 1:
        check_networks(explained, n_networks)
        tests.append((find_stable, n_networks))
    if not n_refits:
        return tests
    tests += [
        (compare_with_null, null, n_refits)
        for null in NULLS.values()
        if null.trains and null.fits(explained.model)
    ]
    if explained.frame.has_positions:
        tests.append((follow_moves, "flip", None, True, n_refits))
    return tests


def _why_no_clones(explained: Explained) -> str:
    """Return why no clones are trained, in words; empty if they can be."""
    why = why_not_trained(explained)
    if not why and not explained.has_training_data:
        return "X_train and y_train were not both given"
    return why
