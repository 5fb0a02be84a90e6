"""All tests of a map in one call: `diagnose`.

The command line calls it too. Each test has a file of its own beside this one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.std import tqdm

from sklrp._sklearn import Interval, validate_params
from sklrp.diagnostics.bias import find_kept
from sklrp.diagnostics.constant_cells import fixed_cells
from sklrp.diagnostics.degenerate import find_degenerate
from sklrp.diagnostics.equivariance import follow_moves
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.fact_map import split_map
from sklrp.diagnostics.faithfulness import faithfulness
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.mask_share import on_mask
from sklrp.diagnostics.nulls import NULLS
from sklrp.diagnostics.outliers import outlying_cells
from sklrp.diagnostics.positions import has_profile, positions
from sklrp.diagnostics.randomization import compare_with_null
from sklrp.diagnostics.report import ArtifactReport
from sklrp.diagnostics.skill import skill

Test = Callable[[], Finding | list[Finding]]


@validate_params(
    {
        **CONSTRAINTS,
        "mask": "no_validation",
        "n_refits": [Interval(Integral, 0, None, closed="left")],
        "n_permutations": [Interval(Integral, 3, None, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="left")],
        "contrast": ["boolean"],
        "progress": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def diagnose(
    model: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    rule: Any = "auto",
    epsilon: float = 1e-6,
    contrast: bool = False,
    mask: ArrayLike | None = None,
    target: Any = None,
    n_permutations: int = 20,
    n_refits: int = 2,
    max_samples: int | None = 100,
    n_jobs: int | None = None,
    progress: bool = False,
    random_state: int | np.random.RandomState | None = None,
    grid: Any = None,
) -> ArtifactReport:
    """Test which part of the relevance maps is fact and which is artifact.

    Runs every test of `sklrp.diagnostics` that fits the data, each with a statistic, a null, an
    interval, a verdict and a sentence of advice:

    ==============  ==========================================================================
    test            a map is an artifact if
    ==============  ==========================================================================
    skill           the network predicts no better than on permuted labels
    degeneracy      maps are constant, the input, or equal for all samples or classes
    randomization   networks that have learned nothing give the same map
    faithfulness    the score does not fall faster by the map's order than by theirs
    fading          relevance lies where the architecture reads best
    border          both ends of an axis have much more or less than their share, untrained too
    grid            relevance has a period that the input has not, untrained too
    constant        it lies on cells that are the same in all samples
    outliers        it lies on a few cells of large values, untrained too
    mask            it does not prefer the mask (only with ``mask``)
    ==============  ==========================================================================

    Further tests give cautions but convict no map: ``readout`` and ``labels`` (see
    `randomization_test`), ``map`` (`artifact_map`), ``bias`` (`bias_share`) and ``equivariance``
    (`equivariance_test`).

    Nothing here can prove a map true. *Fact* says that none of the known artifacts was found, and
    that the map depends on what was learned.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it; the maps are of what enters its network. It
        is left as it is, also when interrupted. Tests that train clones are left out, and the
        report says so, where no clone can be trained: of a bare module, whose labels are the
        indices of its outputs, and of what is frozen.
    X : array-like of shape (n_samples, ...)
        Samples that the model was *not* trained on: on others, the test of skill says nothing.
    y : array-like of shape (n_samples,)
        Their labels; the values of a regression, or of a network of a single output, which `skill`
        then correlates with the predictions.
    rule : str, Rule or Composite, default="auto"
        The rule whose maps are tested.
    epsilon : float, default=1e-6
        Stabiliser, as in ``explain``.
    contrast : bool, default=False
        Whether to explain the target's logit minus the largest of the others.
    mask : DataArray, array-like of bool or None, default=None
        True where relevance belongs, if that is known: of the shape of a sample, or of a field,
        such as `sklrp.geo.box_mask` returns, also where rows of its cells enter the network.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: a label, or the index of an output. None (default): the predicted class
        of each sample, or the only output.
    n_permutations : int, default=20
        Number of null models, at least 3. With fewer than 10 the test ``mask`` cannot say fact.
    n_refits : int, default=2
        Number of clones that are trained on permuted labels, on flipped samples and on samples as
        they are, each; 0 leaves out the tests that train.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random. None: all.
    n_jobs : int or None, default=None
        Number of joblib's workers for null models. None (default): one.
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
        With ``verdict`` and ``tests``; prints as a table, and shows as a page in a notebook.

    Raises
    ------
    ValueError
        If the data, the mask, the rule or another parameter is malformed, before any test.
    NotFittedError
        If the estimator is not fitted.

    References
    ----------
    arXiv 2302.12317, "Fact or artifact?", for the question; the functions named above for the
    sources of each test.

    Examples
    --------
    >>> from sklrp import MLPClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import diagnose
    >>> X, y, mask = make_squares(n_per_class=100, size=20, random_state=0)
    >>> clf = MLPClassifier(max_epochs=10, random_state=0).fit(X[:100], y[:100])
    >>> report = diagnose(clf, X[100:], y[100:], n_refits=0, random_state=0)
    >>> report.verdict
    'fact'
    >>> diagnose(clf, X[100:], y[100:], rule="w_square", n_refits=0, random_state=0).reasons
    ['degeneracy']
    """
    explained = Explained(
        model,
        X,
        y,
        target=target,
        grid=grid,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        rule=rule,
        epsilon=epsilon,
        contrast=contrast,
    )
    _check_y(explained)
    place = None if mask is None else explained.take_mask(mask)
    assumptions = []
    why = explained.why_not_trained
    if not why and not explained.has_training_data:
        why = "X_train and y_train are not given"
    if n_refits and why:
        n_refits = 0
        assumptions.append(f"Tests that train clones were left out, as {why}.")
    tests = _list_tests(explained, place, n_permutations, n_refits)
    findings: list[Finding] = []
    for test in tqdm(tests, desc="diagnose", disable=not progress):
        found = test()
        findings += found if isinstance(found, list) else [found]
    subject = (
        f"{explained.model.name}, rule={rule!r}, "
        f"{len(explained.X)} samples of {len(explained.all_X)}"
    )
    return ArtifactReport(findings, subject, assumptions)


def _check_y(explained: Explained) -> None:
    """Raise an error if labels or values are all the same, so that nothing can be predicted."""
    present = np.unique(explained.truth)
    if len(present) > 1:
        return
    if explained.classes is None:
        raise ValueError(
            f"y is {present.tolist()[0]!r} for all samples, but skill needs values that differ."
        )
    raise ValueError(
        f"y holds the class {present.tolist()[0]!r} only, but skill needs samples of at least "
        "2 classes: to see the map of one class, use artifact_map."
    )


def _list_tests(
    explained: Explained, mask: NDArray[np.bool_] | None, n_permutations: int, n_refits: int
) -> list[Test]:
    """Return the tests that fit what is explained, those that convict before the cautions."""
    tests: list[Test] = [lambda: skill(explained), lambda: find_degenerate(explained)]
    convicting: list[Test] = []
    cautions: list[Test] = []
    for null in NULLS.values():
        n_draws = n_refits if null.trains else n_permutations
        if n_draws and null.fits(explained.model):
            where = convicting if null.convicts else cautions
            where.append(functools.partial(compare_with_null, explained, null, n_draws))
    tests += [
        *convicting,
        lambda: faithfulness(explained, n_permutations),
        lambda: fixed_cells(explained),
        lambda: outlying_cells(explained, n_permutations),
    ]
    if has_profile(explained):
        tests.append(lambda: positions(explained, n_permutations))
    if mask is not None:
        tests.append(lambda: on_mask(explained, mask, n_permutations))
    tests += [
        *cautions,
        lambda: split_map(explained, "network", n_permutations),
        lambda: find_kept(explained),
    ]
    if n_refits and explained.frame.has_positions:
        tests.append(lambda: follow_moves(explained, "flip", None, True, n_refits))
    return tests
