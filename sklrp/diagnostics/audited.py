"""What the audit looks at, and the table of its checks.

`audit` makes an `Audited` of a model, samples and maps. The checks stand in `data_mistakes`,
`map_mistakes` and `misplaced_maps`, each a function under `mistake`, which enters it in `CHECKS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from sklrp.diagnostics.common_form import are_unsigned
from sklrp.diagnostics.explained import Explained
from sklrp.propagation import explain

_MOST_OUTPUTS = 50  # whose maps are compared: each costs one explanation of the samples
SAME = 0.999  # cosine of maps that are the same but for signs: z-plus and auto maps have .98
_ROUNDING = 1e-5  # of a map's norm: single precision, and sums of it
_HEADS = ("softmax", "log_softmax", "sigmoid", "logsigmoid")


class Unanswered(Exception):
    """Raised by a check that cannot be made, with the reason in words."""


@dataclass
class Audited:  # numpydoc ignore=PR02
    """A model, samples and maps, with what several checks need.

    Arrays have one row for each sample that is explained and whose given map is finite; maps are
    flat, in float64.

    Parameters
    ----------
    explained : Explained
        The model, the samples and their own maps, by the rule of the call.
    relevance : ndarray of shape (n_samples, ...) or None, default=None
        Maps made elsewhere, of all samples, in the shape of what enters the network.
    outside : str, default=""
        Why the target that was asked for cannot be one; empty if it can.
    notes : list of str
        What checks found that is no mistake.
    found : list of str
        The names of the mistakes that were found so far.
    """

    explained: Explained
    relevance: NDArray | None = None
    outside: str = ""
    notes: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)

    @cached_property
    def kept(self) -> NDArray[np.intp]:
        """Which of the explained samples have a finite map."""
        if self.relevance is None:
            return np.arange(len(self.explained.rows))
        given = flatten(self.relevance[self.explained.rows])
        return np.flatnonzero(np.isfinite(given).all(axis=1))

    @cached_property
    def _by_rule(self) -> tuple[NDArray, Any]:
        """The model's own maps by the rule of the call, and their details."""
        e = self.explained
        if not e.is_given:
            return e.relevance, e.details
        try:
            return explain(
                e.model.network,
                e.given(e.X),
                target=e.asked(e.target),
                return_details=True,
                **e.params,
            )
        except TypeError as error:
            raise Unanswered(f"the model has no maps by a rule ({error})") from error

    @property
    def details(self) -> Any:
        """What layers kept of the model's own maps, and the scores."""
        return self._by_rule[1]

    @cached_property
    def own(self) -> NDArray[np.float64]:
        """The maps that the model has by the rule of the call."""
        return flatten(self._by_rule[0])[self.kept]

    @cached_property
    def given(self) -> NDArray[np.float64]:
        """The maps made elsewhere."""
        if self.relevance is None:
            raise Unanswered("relevance was not given")
        if not len(self.kept):
            raise Unanswered("no map of relevance is finite")
        return flatten(self.relevance[self.explained.rows])[self.kept]

    @cached_property
    def shared(self) -> NDArray[np.bool_]:
        """Which given maps are another sample's, but for a factor."""
        return find_shared(self.given, flatten(self.explained.X)[self.kept])

    @property
    def maps(self) -> NDArray[np.float64]:
        """The maps made elsewhere, or else the model's own."""
        return self.own if self.relevance is None else self.given

    @cached_property
    def score(self) -> NDArray[np.float64]:
        """The explained scores, before a softmax or sigmoid at the end."""
        return np.asarray(self.details.score, dtype=np.float64)[self.kept]

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """What the network returns for the explained outputs, behind any softmax or sigmoid."""
        outputs = self.explained.outputs(self.explained.X)[self.kept]
        return outputs[np.arange(len(outputs)), self.columns].astype(np.float64)

    @property
    def columns(self) -> NDArray[np.intp]:
        """Which output is explained."""
        return np.asarray(self.explained.columns)[self.kept]

    @cached_property
    def probabilities(self) -> NDArray[np.float64] | None:
        """The softmax of what the network returns, None of a single output or a grid of them."""
        outputs = self.explained.outputs(self.explained.X)[self.kept].astype(np.float64)
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            return None
        return softmax(outputs, axis=1)[np.arange(len(outputs)), self.columns]

    @property
    def head(self) -> str | None:
        """The softmax or sigmoid at the end of the network, None if there is none."""
        head = self.details.get("head")
        return head if head in _HEADS else None

    @property
    def train(self) -> NDArray:
        """What the network was trained on."""
        if self.explained.X_train is None:
            raise Unanswered("X_train was not given")
        return self.explained.some_pool

    @cached_property
    def finite_train(self) -> NDArray[np.float64]:
        """What the network was trained on, as rows, without samples that have missing values."""
        rows = flatten(self.train)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if len(rows) < 2:
            raise Unanswered("X_train has fewer than two finite samples")
        return rows

    @cached_property
    def comparable(self) -> tuple[NDArray, NDArray]:
        """The given maps and the model's own, compared as if the given had kept their signs."""
        given, own = self.given, self.own
        if is_negative(self):
            return -given, own
        if are_unsigned(given) and not are_unsigned(own):
            return given, np.abs(own)
        return given, own

    @cached_property
    def outputs(self) -> NDArray:
        """The labels or indices that can be explained."""
        e = self.explained
        n_outputs = 1 if e.target is None else e.outputs(e.all_X[:1]).shape[1]
        if n_outputs == 1:
            raise Unanswered("the network has a single output")
        if n_outputs > _MOST_OUTPUTS:
            raise Unanswered(f"the network has more than {_MOST_OUTPUTS} outputs")
        return np.arange(n_outputs) if e.classes is None else e.classes

    def own_of_all(self, rule: Any = None) -> NDArray[np.float64] | None:
        """Return the model's own maps of all samples, None where other targets are unknown."""
        e = self.explained
        params = e.params if rule is None else {**e.params, "rule": rule}
        if rule is None and len(e.rows) == len(e.all_X):
            return flatten(self._by_rule[0])
        target: Any = None
        if e.target is not None:
            target = np.unique(e.target)
            if len(target) > 1 or e.classes is None:
                target = np.asarray(e.predict())
                if not np.array_equal(target[e.rows], e.target):
                    return None
            else:
                target = target[0]
        return flatten(
            explain(e.model.network, e.given(e.all_X), target=e.asked(target), **params)
        )

    @cached_property
    def fits(self) -> NDArray[np.float64]:
        """The cosine of each given map with the model's own for each output, outputs first."""
        # Own maps are by the rule of the call or, where those fit less well, by epsilon.
        fits = self._fit(self.explained.params.get("rule", "auto"))
        other = self._fit("epsilon")
        return max(fits, other, key=lambda values: float(values.max(axis=0).mean()))

    def own_by(self, rule: Any) -> NDArray[np.float64]:
        """Return the model's own maps by another rule."""
        e = self.explained
        params = {**e.params, "rule": rule}
        with warnings.catch_warnings():  # a flat rule says that its maps are alike
            warnings.simplefilter("ignore", UserWarning)
            own = explain(e.model.network, e.given(e.X), target=e.asked(e.target), **params)
        return flatten(own)[self.kept]

    def _fit(self, rule: Any) -> NDArray[np.float64]:
        e, given = self.explained, directions(self.given)
        params = {**e.params, "rule": rule}
        fits = []
        for label in self.outputs:
            target = np.full(len(e.rows), label)
            own = explain(e.model.network, e.given(e.X), target=e.asked(target), **params)
            fits.append((given * directions(flatten(own)[self.kept])).sum(axis=1))
        return np.array(fits)


class Check(NamedTuple):
    """A mistake that is looked for."""

    name: str
    wrong: str  # what is wrong, in a clause
    remedy: str
    look: Callable[[Audited], str]  # returns what was seen, empty if there is nothing


CHECKS: dict[str, Check] = {}

_Look = Callable[[Audited], str]


def mistake(name: str, *, wrong: str, remedy: str) -> Callable[[_Look], _Look]:
    """Enter a check in the table."""

    def enter(look: _Look) -> _Look:
        if name in CHECKS:
            raise ValueError(f"there are two checks named {name!r}.")
        CHECKS[name] = Check(name, wrong, remedy, look)
        return look

    return enter


def flatten(maps: NDArray) -> NDArray[np.float64]:
    """Return maps or samples as rows."""
    return np.asarray(maps, dtype=np.float64).reshape(len(maps), -1)


def sizes_of(maps: NDArray) -> NDArray[np.float64]:
    """Return the sum of absolute values of each map."""
    return np.abs(maps).sum(axis=1)


def directions(maps: NDArray) -> NDArray[np.float64]:
    """Return flat maps divided by their norms; maps of zeros stay."""
    largest = np.abs(maps).max(axis=1, keepdims=True)
    maps = maps / np.where(largest == 0, 1.0, largest)  # norms neither over- nor underflow
    norm = np.linalg.norm(maps, axis=1, keepdims=True)
    return maps / np.where(norm == 0, 1.0, norm)


def mean_cosine(one: NDArray, other: NDArray) -> float:
    """Return the mean cosine of each flat map with its counterpart."""
    return float((directions(one) * directions(other)).sum(axis=1).mean())


def find_shared(maps: NDArray, samples: NDArray) -> NDArray[np.bool_]:
    """Tell which flat maps are another sample's, but for a factor, where samples differ."""
    maps = directions(maps)
    lead = maps[np.arange(len(maps)), np.abs(maps).argmax(axis=1)]
    maps = maps * np.where(lead < 0, -1.0, 1.0)[:, np.newaxis]
    same = np.zeros(len(maps), dtype=bool)
    for row in np.flatnonzero(maps.any(axis=1)):
        alike = np.abs(maps - maps[row]).max(axis=1) <= _ROUNDING
        same[row] = (samples[alike] != samples[row]).any()
    return same


def check_of_samples(a: Audited) -> None:
    """Refuse to ask more of maps that are not of samples at all."""
    if {"same_map", "input_as_map"} & set(a.found):
        raise Unanswered("maps are none of their samples: repair that first")


def is_negative(a: Audited) -> bool:
    """Tell whether maps are the negative of the model's own, and not those of another output."""
    if mean_cosine(a.given, a.own) > -SAME:
        return False
    try:
        return bool(a.fits.mean(axis=1).max() < SAME)
    except Unanswered:
        return True
