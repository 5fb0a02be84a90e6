"""The audit: mistakes that published code makes with relevance maps, each named.

Users call `audit`; `find_mistakes` does the same for what is already explained.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import as_samples, import_optional, look_up, sort_values, take_maps
from sklrp._constraints import constrained
from sklrp._devices import to_host
from sklrp._model_parts import Model
from sklrp._models import unwrap

# The imports of the three files of mistakes enter their checks in the table.
from sklrp._rows import take_rows
from sklrp._wording import say_value
from sklrp.diagnostics import data_mistakes as _data_mistakes  # noqa: F401
from sklrp.diagnostics import map_mistakes as _map_mistakes  # noqa: F401
from sklrp.diagnostics import misplaced_maps as _misplaced_maps  # noqa: F401
from sklrp.diagnostics.audited import CHECKS, Audited, Unanswered
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.findings import Finding
from sklrp.geo.places import put_in_order, samples_first


@dataclass(frozen=True)
class Mistake:
    """A mistake that was found.

    Attributes
    ----------
    name : str
        Its name, such as ``"epsilon"``.
    wrong : str
        What is wrong, in words.
    seen : str
        What was seen, with numbers.
    remedy : str
        How to repair it.
    """

    name: str
    wrong: str
    seen: str
    remedy: str


@dataclass(frozen=True, repr=False)
class Audit:
    """What `audit` found.

    Attributes
    ----------
    mistakes : list of Mistake
        The mistakes that were found, each with ``name``, ``wrong``, ``seen`` and ``remedy``.
    checked : list of str
        The names of all mistakes that were looked for.
    skipped : dict of str to str
        The names of those that were not, and why.
    notes : list of str
        What is no mistake, but good to know.
    """

    mistakes: list[Mistake]
    checked: list[str]
    skipped: dict[str, str]
    notes: list[str]

    @property
    def names(self) -> list[str]:
        """The names of the mistakes that were found."""
        return [found.name for found in self.mistakes]

    def __repr__(self) -> str:
        """Return what was found, what was not, and what could not be looked for."""
        fair = [name for name in self.checked if name not in self.names]
        n = len(self.mistakes)
        counted = f"{n or 'no'} mistake{'s' * (n != 1)}"
        lines = [f"Audit: {counted} found, {len(self.checked)} looked for"]
        for found in self.mistakes:
            lines += [f"{found.name}: {found.wrong}"]
            lines += _indent(f"seen: {found.seen}.") + _indent(f"remedy: {found.remedy}")
        lines += _indent(f"not found: {', '.join(fair)}", "") if fair else []
        reasons: dict[str, list[str]] = {}
        for name, why in self.skipped.items():
            reasons.setdefault(why, []).append(name)
        for why, names in reasons.items():
            lines += _indent(f"not looked for, as {why}: {', '.join(names)}", "")
        for note in self.notes:
            lines += _indent(f"note: {note}", "")
        return "\n".join(lines)

    def to_frame(self) -> Any:
        """Return a table of all checks.

        Returns
        -------
        pandas.DataFrame
            A row per check: its outcome (``"mistake"``, ``"not found"`` or ``"skipped"``), what
            is wrong, what was seen or why it was skipped, and the remedy.
        """
        pd = import_optional("pandas", extra="plot", user="to_frame")

        found = {mistake.name: mistake for mistake in self.mistakes}
        rows = {}
        for name, check in CHECKS.items():
            seen = found[name].seen if name in found else self.skipped.get(name, "")
            outcome = "mistake" if name in found else "not found"
            rows[name] = {
                "outcome": "skipped" if name in self.skipped else outcome,
                "wrong": check.wrong,
                "seen": seen,
                "remedy": check.remedy,
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("check")


def _indent(text: str, by: str = "  ") -> list[str]:
    return textwrap.wrap(text, 98, initial_indent=by, subsequent_indent=f"{by}  ")


@constrained(CONSTRAINTS)
def audit(
    model: Any,
    X: ArrayLike,
    relevance: ArrayLike | None = None,
    *,
    y: ArrayLike | None = None,
    X_train: ArrayLike | None = None,
    target: Any = None,
    rule: Any = "auto",
    epsilon: float = 1e-6,
    contrast: bool = False,
    max_samples: int | None = 100,
    random_state: int | np.random.RandomState | None = None,
    grid: Any = None,
) -> Audit:
    r"""Name the mistakes that published code makes with relevance maps.

    Use it before you believe a map, and on code that you review. Every check asks for one mistake
    that was seen in published code, by what it does to numbers; nothing is trained. None of them
    asks whether a map is true: that is what `diagnose` is for.

    ===============  ==========================================================================
    mistake          named where
    ===============  ==========================================================================
    target           it is no output; an output that is the same for all samples; the label
                     beside the right one for 80 % of the samples
    trained_on       samples of X are among X_train, to 1e-6 of their norm; in tables of coarse
                     values, more than X_train holds twice itself (binomial test, p < .05)
    preprocessing    in the median over cells, X is 3 standard deviations from X_train's mean, or
                     has 10 times or a tenth of its spread: held-out samples are not so
    fill_value       cells of one value have another in X_train, or a value that is a hundredth
                     of X_train is gone, and another is a hundredth more
    undeclared_fill  the least or largest value stands for .1 % of all, is 5 robust deviations
                     from the median, and half of the way to it is empty
    biases           they keep 5 times the score (medians); sound networks measured at most 1.3
    training_mode    a module in training mode answers otherwise than in evaluation mode
    epsilon          it keeps half of what reaches a layer (median): as much as an epsilon does
                     that equals the pre-activation; sound networks measured at most .0013
    softmax          sums of maps follow the probabilities (to 5 % of their spread within each
                     output) and not the scores, or maps vanish as the softmax's gradient does
                     (r >= .9); or the loss applied a second softmax
    not_finite       relevance is NaN or infinite
    vanished         a tenth of the maps are all zeros, or maps hold a millionth of the score
    same_map         half of the maps are another sample's, but for a factor, and of the model's
                     own less than half as many
    input_as_map     half of the maps are X, its size, its square or its departures from the mean,
                     but for a factor (cosine .999), and of the model's own less than half as many
    signed_sum       sums of maps are equal (to 1e-4) though scores differ
    norm_divided     norms of maps are equal (to 1e-4) though scores differ
    sign_lost        maps have one sign throughout, where the model's own have both and no rule
                     without negative relevance gives such maps; or they are the negative of its
                     own (cosine .999)
    flipped          turned round, exchanged or rolled, maps fit better (by .2 in the cosine)
    other_cells      cells vary over samples as another cell of the model's own maps (Fisher's z,
                     p < .05 for all pairs), which varies as they should, or as a third
    other_samples    half of the maps are nearest to another sample's, and nearer than half of
                     the distance from there to the next sample's; or 2 % are (10 % of few cells
                     or by contributions), and maps of those samples are not where they belong
    wrong_class      a quarter of the maps are another output's (cosine .99, better by .2), where
                     nine of ten are those of some output by `rule` or by epsilon
    inverted_mask    half of the relevance is on constant cells, twice the model's own share there
    ===============  ==========================================================================

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it. It is left as it is.
    X : array-like of shape (n_samples, ...)
        The samples that are explained, as the model takes them.
    relevance : array-like of shape (n_samples, ...) or None, default=None
        Maps made elsewhere, of the shape of what enters the network. None (default): the model's
        own, by `rule`; mistakes of maps made elsewhere are then skipped.
    y : array-like of shape (n_samples,) or None, default=None
        The labels of X. With them, maps of the true class count as right too, and a target beside
        the label is found.
    X_train : array-like of shape (n_train, ...) or None, default=None
        What the model was trained on, as it takes it. None (default) skips what needs it.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: None (default) the predicted class of each sample, or the only output.
    rule : str, Rule or Composite, default="auto"
        The rule of the model's own maps: that of `relevance`, if it was made by one.
    epsilon : float, default=1e-6
        The stabiliser of the model's own maps.
    contrast : bool, default=False
        Whether the target's logit minus the largest of the others is explained.
    max_samples : int or None, default=100
        At most so many maps are looked at, drawn at random. None: all. Samples are looked at all.
    random_state : int, RandomState instance or None, default=None
        Determines which.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.

    Returns
    -------
    Audit
        With ``mistakes``, a list of what was found, each with ``name``, ``seen`` and ``remedy``;
        ``names``; ``checked``; ``skipped``, a dict of names and reasons; ``notes``. It prints as
        text, and ``to_frame`` makes a table of it.

    Raises
    ------
    ValueError
        If relevance or X_train has another shape, or the data or a parameter is malformed.
    TypeError
        If the model holds no network.

    Examples
    --------
    >>> import sklrp
    >>> from sklrp import MLPClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import audit
    >>> X, y, _ = make_squares(n_per_class=100, size=20, random_state=0)
    >>> clf = MLPClassifier(max_epochs=10, random_state=0).fit(X[:100], y[:100])
    >>> relevance = sklrp.explain(clf, X[100:])
    >>> audit(clf, X[100:], relevance, X_train=X[:100], random_state=0).names
    []
    >>> scaled = relevance / relevance.sum(axis=(1, 2), keepdims=True)
    >>> audit(clf, X[50:], rule=sklrp.Epsilon(1e10), X_train=X[:100], random_state=0).names
    ['trained_on', 'epsilon']
    >>> audit(clf, X[100:], scaled, random_state=0).names
    ['signed_sum']
    """
    unwrapped = unwrap(model)
    samples = as_samples(unwrapped.enter(X))
    given = None
    if relevance is not None:
        given = take_maps(put_in_order(relevance, samples_first(X), "relevance"), samples.shape)
    outside, target = _take_target(unwrapped, X, target)
    explained = Explained(
        model,
        X,
        y,
        X_train=X_train,
        target=target,
        grid=grid,
        max_samples=max_samples,
        random_state=random_state,
        rule=rule,
        epsilon=epsilon,
        contrast=contrast,
    )
    return _check_all(Audited(explained, given, outside))


def find_mistakes(explained: Explained) -> Audit:
    """Look for mistakes in what is already explained, or graded, as `audit` does."""
    return _check_all(Audited(explained, explained.given_maps))


# Mistakes by which the map is of something else than it says; the others spoil its numbers.
_OF_SOMETHING_ELSE = {
    "same_map",
    "input_as_map",
    "wrong_class",
    "other_samples",
    "other_cells",
    "flipped",
    "inverted_mask",
    "fill_value",
}


def find_audited(explained: Explained) -> Finding:
    """Return the mistakes as a finding of `diagnose`."""
    found = find_mistakes(explained)
    serious = [m for m in found.mistakes if m.name in _OF_SOMETHING_ELSE]
    count = float(len(found.mistakes))
    return explained.finding(
        name="audit",
        question="Was a mistake made that published code makes?",
        statistic=count,
        interval=(count, count),
        null=np.empty(0),
        verdict="artifact" if serious else "undecided" if found.mistakes else "fact",
        reading=f"mistakes of {len(found.checked)} looked for: {', '.join(found.names) or 'none'}",
        advice=" ".join(m.remedy for m in serious or found.mistakes),
        caution=" ".join(_say_mistake(m) for m in found.mistakes),
        audit=found,
        table={
            "mistake": np.array(found.checked),
            "found": np.isin(found.checked, found.names),
        },
    )


def _say_mistake(mistake: Mistake) -> str:
    wrong = mistake.wrong[:1].upper() + mistake.wrong[1:]
    return f"{wrong}: {mistake.seen}. {mistake.remedy}"


def _check_all(audited: Audited) -> Audit:
    """Make all checks of the table."""
    found, checked, skipped = [], [], {}
    for check in CHECKS.values():
        try:
            seen = check.look(audited)
        except Unanswered as reason:
            skipped[check.name] = str(reason)
            continue
        checked.append(check.name)
        if seen:
            audited.found.append(check.name)
            found.append(Mistake(check.name, check.wrong, seen, check.remedy))
    return Audit(found, checked, skipped, audited.notes)


def _take_target(model: Model, X: Any, target: Any) -> tuple[str, Any]:
    """Return why a target is no output, empty if it is one, and a target that is."""
    if target is None:
        return "", None
    entering = model.enter(X)
    classes = model.classes_for(take_rows(entering, slice(1)))
    if classes is None:
        classes = np.arange(model.outputs(take_rows(entering, slice(1))).shape[1])
    target = to_host(target)
    labels, codes = sort_values(target, "target")
    is_strange = [bool(look_up(labels[k : k + 1], classes)[1]) for k in range(len(labels))]
    if not any(is_strange):
        return "", target
    strange = ", ".join(map(say_value, labels[is_strange].tolist()[:5]))
    count = np.count_nonzero(np.asarray(is_strange)[codes])
    said = (
        f"target holds {strange} ({count} of {codes.size}), but "
        f"the outputs are {_say_outputs(classes)}"
    )
    return said, None if model.classes_for(take_rows(entering, slice(1))) is not None else 0


def _say_outputs(classes: NDArray) -> str:
    labels = classes.tolist()
    return f"{labels}" if len(labels) <= 10 else f"{labels[0]!r} to {labels[-1]!r}"
