"""All tests of a map, and the verdict on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm.std import tqdm

from sklrp._checks import check_mask, import_optional
from sklrp._files import replacing
from sklrp._sklearn import Interval, validate_params
from sklrp.diagnostics.cells import find_degenerate, find_kept, fixed_cells, outlying_cells
from sklrp.diagnostics.equivariance import equivariance
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.maps import faithfulness, on_mask, split_map
from sklrp.diagnostics.positions import has_profile, positions
from sklrp.diagnostics.randomization import COMMON, randomization
from sklrp.diagnostics.skill import skill

# Tests that say what to keep in mind, but convict no map: one that loses relevance to biases, or
# that another sweep would change, can still be right.
CAUTIONS = ("readout", "labels", "map", "bias", "equivariance")


class ArtifactReport:
    """What `diagnose` found.

    Parameters
    ----------
    tests : list of Finding
        The findings.
    subject : str
        What was explained, in words.

    Attributes
    ----------
    tests : dict of str to Finding
        The findings by name, each with ``statistic``, ``null``, ``interval``, ``verdict`` and
        ``advice``.
    verdict : {"fact", "artifact", "undecided"}
        ``"artifact"`` if any test says so, ``"fact"`` if all do, else ``"undecided"``; tests among
        `cautions` are left out.
    cautions : list of str
        Names of the tests that convict no map but did not say fact either.
    subject : str
        What was explained, in words.
    """

    def __init__(self, tests: list[Finding], subject: str) -> None:
        self.tests = {test.name: test for test in tests}
        self.subject = subject
        self.cautions = [n for n in CAUTIONS if n in self.tests and self._says(n) != "fact"]
        said = {test.verdict for name, test in self.tests.items() if name not in CAUTIONS}
        self.verdict = next(v for v in ("artifact", "undecided", "fact") if v in said)

    def _says(self, name: str) -> str:
        return self.tests[name].verdict

    @property
    def reasons(self) -> list[str]:
        """The names of the tests that the verdict rests on, if it is not fact."""
        return [
            name
            for name in self.tests
            if name not in CAUTIONS and self._says(name) == self.verdict != "fact"
        ]

    def to_frame(self) -> Any:
        """Return a table of the tests.

        Returns
        -------
        pandas.DataFrame
            A row per test: statistic, interval, median of the null, verdict and advice.
        """
        pd = import_optional("pandas", extra="plot", user="to_frame")

        rows = {
            name: {
                "verdict": test.verdict,
                "statistic": test.statistic,
                "low": test.interval[0],
                "high": test.interval[1],
                "null": test.usual,
                "caution": name in CAUTIONS,
                "reading": test.reading,
                "advice": test.advice,
            }
            for name, test in self.tests.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("test")

    def __repr__(self) -> str:
        """Return the verdict and a line per test."""
        lines = [f"{self.verdict.upper()}: {self.subject}"]
        for name, test in self.tests.items():
            low, high = test.interval
            mark = "*" if name in CAUTIONS else " "
            lines.append(
                f" {mark}{name:<14}{test.verdict:<10}{test.statistic:8.3g} "
                f"[{low:.3g}, {high:.3g}]  null {test.usual:.3g}"
            )
        lines += [f"{name} ({self.verdict}): {self.tests[name].advice}" for name in self.reasons]
        if self.cautions:
            lines.append(f"* convicts no map; look at {', '.join(self.cautions)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from sklrp.diagnostics.page import render

        return render(self, page=False)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as one self-contained page.

        Parameters
        ----------
        path : str or path-like
            The file; it is replaced only when the page is complete.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        from sklrp.diagnostics.page import render

        page = render(self, page=True)
        with replacing(path) as part:
            part.write_text(page, encoding="utf-8")
        return Path(path)

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the mean map, what of it is fact and what is artifact.

        Parameters
        ----------
        ax : array of 3 matplotlib.axes.Axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ArtifactDisplay
            The display, which keeps the artists.
        """
        from sklrp.plotting import ArtifactDisplay

        return ArtifactDisplay.from_finding(self.tests["map"], ax=ax)


@validate_params(
    {
        **COMMON,
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
    estimator: Any,
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
) -> ArtifactReport:
    """Test which part of the relevance maps is fact, and which an artifact.

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
    border          both ends of an axis have far from their share, untrained too
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
    estimator : estimator
        A fitted classifier of sklrp, or a pipeline that ends in one; maps are of what enters the
        classifier. It is left as it is, also when interrupted.
    X : array-like of shape (n_samples, ...)
        Samples that the estimator was *not* trained on: on others, the test of skill says nothing.
    y : array-like of shape (n_samples,)
        Their labels.
    rule : str, Rule or Composite, default="auto"
        The rule whose maps are tested.
    epsilon : float, default=1e-6
        Stabiliser, as in ``explain``.
    contrast : bool, default=False
        Whether to explain the target's logit minus the largest of the others.
    mask : array-like of bool of the shape of a sample or None, default=None
        True where relevance belongs, if that is known.
    target : None, label or array-like of shape (n_samples,), default=None
        The class explained: None the predicted class of each sample.
    n_permutations : int, default=20
        Number of null models, at least 3.
    n_refits : int, default=2
        Number of clones that are trained on permuted labels, on flipped samples and on samples as
        they are, each; 0 leaves out the tests that train.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random; None explains all.
    n_jobs : int or None, default=None
        Number of joblib's workers for null models; None is one.
    progress : bool, default=False
        Whether to show a progress bar.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.

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
        estimator,
        X,
        y,
        target=target,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        rule=rule,
        epsilon=epsilon,
        contrast=contrast,
    )
    present = np.unique(np.asarray(explained.all_y))
    if len(present) < 2:
        raise ValueError(
            f"y holds the class {present.tolist()[0]!r} only, but skill needs samples of at least "
            "2 classes: to see the map of one class, use artifact_map."
        )
    if mask is not None:
        check_mask(mask, explained.X.shape)
    tests: list[Callable[[], Finding | list[Finding]]] = [
        lambda: skill(explained),
        lambda: find_degenerate(explained),
        lambda: randomization(explained, "network", n_permutations),
        lambda: faithfulness(explained, n_permutations),
        lambda: fixed_cells(explained),
        lambda: outlying_cells(explained, n_permutations),
    ]
    if has_profile(explained):
        tests.append(lambda: positions(explained, n_permutations))
    if mask is not None:
        tests.append(lambda: on_mask(explained, mask, n_permutations))
    if explained.n_learned_layers > 1:  # else the readout is all that was learned
        tests.append(lambda: randomization(explained, "readout", n_permutations))
    tests += [
        lambda: split_map(explained, "network", n_permutations),
        lambda: find_kept(explained),
    ]
    if n_refits:
        tests.append(lambda: randomization(explained, "labels", n_refits))
        if explained.has_positions:
            tests.append(lambda: equivariance(explained, "flip", None, True, n_refits))
    findings: list[Finding] = []
    for test in tqdm(tests, desc="diagnose", disable=not progress):
        found = test()
        findings += found if isinstance(found, list) else [found]
    name = type(explained.estimator).__name__
    subject = f"{name}, rule={rule!r}, {len(explained.X)} samples of {len(explained.all_X)}"
    return ArtifactReport(findings, subject)
