"""What a diagnosis is about: a model, samples, and their maps.

Every test of a map takes an `Explained`, which asks elsewhere what the model is (`unwrap`), what a
sample is (`frame_of`) and how relevance is found (`sklrp.explain`), and keeps what several tests
need. The networks that it is compared with are made by `.other_networks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from sklrp._checks import (
    as_samples,
    check_maps,
    check_mask,
    encode_labels,
    like,
    sort_values,
    take_maps,
)
from sklrp._constraints import Interval
from sklrp._devices import to_host
from sklrp._frame import frame_of
from sklrp._kept import Kept
from sklrp._matching import match_samples
from sklrp._missing import as_plain_array
from sklrp._models import unwrap
from sklrp._rows import forbid_stream
from sklrp._stored import in_array
from sklrp._value_range import warn_if_far
from sklrp._wording import say_value
from sklrp._workers import run_on_workers
from sklrp.diagnostics.asked import check_params, check_text_columns, holds_samples
from sklrp.diagnostics.common_form import as_shares
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.output_labels import find_labels
from sklrp.geo.places import put_in_order, samples_first
from sklrp.propagation import explain
from sklrp.propagation.readings import read_target
from sklrp.skill import (
    Decomposition,
    PlainModel,
    check_known,
    contributions_to_outputs,
    decompose_skill,
    differs,
    take_model,
)

# Of the parameters that all tests have in common, beyond `sklrp._constraints.COMMON`.
CONSTRAINTS: dict[str, list[Any] | str] = {
    "n_permutations": [Interval(Integral, 1, None, closed="left")],
}
_PERMUTATIONS = 999  # of labels, or as many as the smallest level needs
_MOST_BLOCKS = 64  # of cells that are replaced by turns, where there is no gradient
_BYTES_AT_ONCE, _FEWEST_AT_ONCE = 2**26, 500  # of samples, for tests of plain statistics
_DRAWS = 32  # of baselines, for contributions that maps are compared with


class Explained:
    """A model, samples, what is explained of them, and maps in one common form.

    Maps are divided by their sum of absolute values and have the sign of the score that they
    explain, so that maps of networks with other scores can be compared: positive relevance speaks
    for what the network says, and a map tells how relevance is shared out.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it. The maps are of what enters its network.
    X : array-like of shape (n_samples, ...)
        The samples, as the model takes them.
    y : array-like of shape (n_samples,) or (n_samples, ...), or None, default=None
        Their labels; the values of a regression, of one output or of all; fields of them too.
    relevance : array-like of shape (n_samples, ...) or None, default=None
        Maps that were made elsewhere, of what enters the network. None (default): they are made
        by `sklrp.explain`.
    X_train, y_train : array-like or None, default=None
        What the model was trained on, as it takes samples: clones are trained on it, and
        contributions are found against it.
    groups, block_length : array-like or None, int or "auto"
        Which samples are exchangeable, as in `skill_map`.
    alpha : float, default=0.05
        The level at which cells are called true or misleading, as in `skill_map`.
    target : object, default=None
        What is explained: None (default) the predicted class of each sample, or the only output;
        a label or an index, or one of each sample; of a module whatever `sklrp.explain` makes
        one number of.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.
    max_samples : int or None, default=None
        At most so many samples are explained, drawn at random. None: all.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.
    n_jobs : int or None, default=None
        Number of joblib's workers for null models.
    memory : None, str, path or joblib.Memory, default=None
        Where results are kept, so that the same call is resumed.
    **params : dict
        Parameters of ``explain``.

    Attributes
    ----------
    model : Model
        The model taken apart.
    frame : Frame
        What a sample is: its axes, grid and names.
    rows : ndarray of shape (n_explained,)
        Which of all samples are explained.
    all_X, X : ndarray of shape (n_samples, ...)
        What enters the network: of all samples, and of those explained.
    all_y : ndarray or None
        The labels or values of all samples, as given.
    classes : ndarray or None
        The labels of the outputs; None of a regression or a single output.
    target : ndarray of shape (n_samples,) or None
        The label, or the index of the output, explained of each sample; None of a single output.
    relevance, details : ndarray, Bunch
        As `sklrp.explain` returns them; of maps that were made elsewhere only their score. The
        score is counted from where relevance starts, whatever ``reference`` adds to it: what
        tests find of a map is the same for all references.
    fitted_on : ndarray or None
        The labels or values that clones are trained on, of all outputs.
    is_given : bool
        Whether maps were made elsewhere, so that no other network's can be compared.
    maps : ndarray of shape (n_samples, ...)
        The maps in their common form.
    """

    def __init__(
        self,
        model: Any,
        X: Any,
        y: Any = None,
        *,
        relevance: Any = None,
        X_train: Any = None,
        y_train: Any = None,
        groups: Any = None,
        block_length: int | str = "auto",
        alpha: float = 0.05,
        target: Any = None,
        grid: Any = None,
        max_samples: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
        memory: Any = None,
        **params: Any,
    ) -> None:
        # Maps that were made elsewhere may be of any model; to make them takes a network.
        self.model: Any = unwrap(model) if relevance is None else take_model(model, X)
        check_params(params, self.model, relevance is not None)
        self._asked = {
            "X": X,
            "X_train": X_train,
            "groups": groups,
            "block_length": block_length,
            "alpha": alpha,
            "n_permutations": max(_PERMUTATIONS, math.ceil(1 / alpha) - 1),
        }
        forbid_stream(X_train, "X_train")
        if X_train is not None and not holds_samples(X_train):
            raise TypeError(f"X_train must hold samples, got {say_value(X_train)}.")
        self.X_train = X_train
        y = to_host(y)
        y = as_plain_array(y, "y") if isinstance(y, list) else y
        self._enter(X, grid)
        asked: dict[str, Any] = {**self._asked, "y": y, "y_train": y_train, "target": target}
        asked |= {"relevance": relevance, "grid": grid, "max_samples": max_samples, **params}
        found = Kept(memory, lambda: self._list_parts(asked))
        self._streams = found.streams(random_state)
        self.kept = found.drawn_by(self._streams)
        self.n_jobs = n_jobs
        self.params = params
        self._made: dict[Hashable, Any] = {}
        self.rows = self._choose_rows(max_samples)
        self.X = self.all_X[self.rows]
        self._take_truth(y, y_train, target)
        self._take_maps(relevance)

    def _enter(self, X: Any, grid: Any) -> None:
        """Take what enters the network, and what a sample of it is."""
        entering = to_host(self.model.enter(X))
        self.frame = frame_of(self.model, X, entering, grid=grid)
        self._form = entering[:1] if hasattr(entering, "iloc") else None
        check_text_columns(entering)
        self.all_X = as_samples(in_array(entering))
        self._dtype = np.asarray(entering[:1]).dtype if self.model.takes_integers else None

    def _choose_rows(self, max_samples: int | None) -> NDArray[np.intp]:
        """Return which samples are explained."""
        rows = np.arange(len(self.all_X))
        if max_samples is None or max_samples >= len(rows):
            return rows
        return np.sort(self.rng("samples").choice(rows, max_samples, replace=False))

    def _take_truth(self, y: Any, y_train: Any, target: Any) -> None:
        """Take what is explained of each sample, and the labels or values that are given."""
        X, n_samples = self._asked["X"], len(self.all_X)
        one = self.given(self.all_X[:1])
        self._reading = read_target(self.model, one, target, n_samples)
        self.model, target = self._reading.model, self._reading.target
        number = self._reading.number
        if number is not None and y is not None:
            y = number.of_truth(match_samples(y, X, "y"))
        self._labels, y = find_labels(self.model, one, y, n_samples)
        self.classes = self._labels.classes
        targets = self._labels.choose(target, n_samples, lambda: self.given(self.all_X))
        self._asked["target"] = None if target is None else _one_of(targets)
        self.target = None if targets is None else targets[self.rows]
        self.all_y = None
        if y is not None:
            self.all_y = self._labels.check("y", match_samples(y, X, "y"), n_samples)
            if self.classes is not None:
                check_known(self.all_y, self.classes, self._labels.n_outputs)
        whole = None
        if number is not None and y_train is not None:
            whole = as_plain_array(match_samples(y_train, self.X_train, "y_train"), "y_train")
            y_train = number.of_truth(whole)
        self.y_train = None if y_train is None else self._check_y_train(y_train)
        # A network is trained on all of its outputs, whatever is explained of them.
        self.fitted_on = self.y_train if whole is None else whole

    def _check_y_train(self, y_train: ArrayLike) -> NDArray:
        """Return the labels or values of the training samples."""
        if self.X_train is None:
            raise ValueError("y_train was given without X_train: give both, or neither.")
        y_train = match_samples(y_train, self.X_train, "y_train")
        return self._labels.check_training(y_train, len(self.pool))

    def _take_maps(self, relevance: Any) -> None:
        """Make the maps of the explained samples, or take those that were made elsewhere."""
        self.is_given = relevance is not None
        self.given_maps = None
        if self.is_given:
            relevance = put_in_order(relevance, samples_first(self._asked["X"]), "relevance")
            self.given_maps = check_maps(take_maps(relevance, self.all_X.shape))
            self.relevance = self.given_maps[self.rows]
            self.details = Bunch(score=self.scores_of(self.X, self.columns))
        else:
            self.relevance, self.details = self._explain(self.model.network, self.X, self.target)
        self.maps = as_shares(self.relevance, self.details.score)

    def check_samples(self) -> None:
        """Raise an error if no test can tell anything of the samples, and warn of far ones."""
        if len(self.X) < 2:
            raise ValueError(
                f"a single map is explained, of {len(self.all_X)} samples of X: the tests need at "
                f"least two, so pass more samples, or a greater max_samples than {len(self.X)}."
            )
        if not differs(self.all_X).any():
            raise ValueError(
                f"all {len(self.all_X)} samples of X are the same: nothing can be told of cells "
                "that never differ, so pass samples that do."
            )
        known = None if self.X_train is None else lambda: self.pool
        warn_if_far(self.model, self.all_X, known)

    @property
    def truth(self) -> NDArray:
        """The labels of all samples, or the true values of the explained output."""
        if self.all_y is None:
            raise ValueError("y=None: this test needs the labels of X.")
        if self.classes is not None or self.all_y.ndim == 1:
            return self.all_y
        column = 0 if self.target is None or self.all_y.shape[1] == 1 else int(self.target[0])
        return self.all_y[:, column]

    @cached_property
    def pool(self) -> NDArray:
        """The training samples, or else the samples themselves: what samples are compared with."""
        if self.X_train is None:
            return self.all_X
        taken = as_samples(in_array(self.model.enter(self.X_train, "X_train")), name="X_train")
        if taken.shape[1:] != self.all_X.shape[1:]:
            raise ValueError(
                f"X_train has samples of shape {taken.shape[1:]}, but X of shape "
                f"{self.all_X.shape[1:]}: give what the model was trained on."
            )
        return taken

    @cached_property
    def some_rows(self) -> NDArray[np.intp]:
        """Which samples tests look at that need all at once: all, or of many an even choice."""
        # Those that are explained are among them.
        return np.union1d(self.rows, _spaced_rows(self.all_X))

    @cached_property
    def some_X(self) -> NDArray:
        """The samples of `some_rows`."""
        rows = self.some_rows
        return self.all_X if len(rows) == len(self.all_X) else self.all_X[rows]

    @cached_property
    def some_pool(self) -> NDArray:
        """An even choice of the training samples, or all of them if they are few."""
        rows = _spaced_rows(self.pool)
        return self.pool if len(rows) == len(self.pool) else self.pool[rows]

    @property
    def places(self) -> NDArray[np.intp]:
        """Where the explained samples are among those of `some_rows`."""
        return np.searchsorted(self.some_rows, self.rows)

    @cached_property
    def blocks(self) -> NDArray[np.intp] | None:
        """The groups of neighbouring cells, where a model has no gradient and many cells."""
        n_cells = self.all_X[0].size
        if not isinstance(self.model, PlainModel) or n_cells <= _MOST_BLOCKS:
            return None
        axes = self.frame.axes
        edge = 1
        while math.prod(-(-n // edge) for n in axes) > _MOST_BLOCKS:
            edge += 1
        places = np.indices(axes) // edge
        counts = [-(-n // edge) for n in axes]
        return np.ravel_multi_index(tuple(places), counts).reshape(self.all_X.shape[1:])

    @cached_property
    def decomposition(self) -> Decomposition:
        """The model's skill, cell by cell."""
        if self.all_y is None:
            raise ValueError("y=None: skill needs the labels of X.")
        if self.classes is None and self._labels.n_outputs > 1 and self._asked["target"] is None:
            raise ValueError("target names several outputs, but skill is of one: give one index.")
        asked = {name: value for name, value in self._asked.items() if name != "X"}
        if self.blocks is not None:
            asked["regions"] = self.blocks
        return decompose_skill(
            self.model,
            self._asked["X"],
            self.all_y,
            self._streams,
            n_jobs=self.n_jobs,
            kept=self.kept,
            **asked,
        )

    @property
    def asked_target(self) -> Any:
        """What of the outputs skill is asked of."""
        return self._asked["target"]

    @property
    def n_units(self) -> int:
        """How many groups, blocks or samples are exchangeable, as far as that is known yet."""
        groups, length = self._asked["groups"], self._asked["block_length"]
        if groups is not None:
            return len(sort_values(groups, "groups")[0])
        if length != "auto":
            return -(-len(self.all_X) // int(length))
        # An estimated length is known once skill was asked for, which takes a while.
        known = self.__dict__.get("decomposition")
        return len(self.all_X) if known is None else known.exchange.n_units

    @cached_property
    def contributions(self) -> NDArray:
        """How much cells add to the explained score, with its sign: what maps should show."""
        rng = self.rng("contributions")
        found = contributions_to_outputs(
            self.model,
            self.X,
            self.pool,
            self.columns,
            rng,
            _DRAWS,
            self.blocks,
            self.n_jobs,
            self._rivals(),
            self.kept,
        )
        sign = np.where(self.details.score < 0, -1.0, 1.0)
        return (found.phi[0] * sign[:, np.newaxis]).reshape(self.X.shape)

    @property
    def has_training_data(self) -> bool:
        """Whether clones have something to be trained on."""
        return self.X_train is not None and self.y_train is not None

    def rng(self, name: str) -> np.random.Generator:
        """Return the random numbers of a test, by its name, from their beginning."""
        return self._streams.rng(name)

    def seed(self, name: str) -> int:
        """Return a seed for what draws by itself, by the name of its purpose."""
        return self._streams.seeds(name, 1)[0]

    def on_axes(self, maps: NDArray) -> NDArray:
        """Return maps or samples, whose last axes are those of a sample, on the frame's axes."""
        lead = maps.shape[: maps.ndim - (self.X.ndim - 1)]
        return maps.reshape(*lead, *self.frame.axes)

    def given(self, samples: NDArray) -> Any:
        """Return samples as the network takes them: with column names, if they have any."""
        if self._dtype is not None:
            samples = samples.astype(self._dtype)
        return samples if self._form is None else like(self._form, samples)

    def take_mask(self, mask: Any) -> NDArray[np.bool_]:
        """Return a mask of a field or of a sample in the shape of what enters the network."""
        taken = self.frame.take_mask(mask)
        check_mask(taken, self.all_X.shape)
        if taken.all():
            raise ValueError(
                "mask is True everywhere: all relevance lies on it, whatever the map; mark the "
                "cells where it belongs only, or leave mask out."
            )
        return taken[self.rows] if taken.ndim == self.X.ndim else taken

    def predict(self) -> NDArray:
        """Return what the network predicts of all samples: labels, or the explained output."""
        if self.classes is not None:
            return self.model.predict(self.given(self.all_X))
        outputs = self.outputs(self.all_X)
        return outputs[:, 0 if self.target is None else int(self.target[0])]

    def skill_of(self, network: Any, X: NDArray | None = None) -> float:
        """Return a network's accuracy on all samples, or its correlation; NaN without labels.

        Parameters
        ----------
        network : estimator, skorch net or nn.Module
            The network, such as a clone.
        X : ndarray of shape (n_samples, ...) or None, default=None
            Other samples of the same labels, such as moved ones. None: all samples.

        Returns
        -------
        float
            The share of right labels, or the correlation of the explained output with the truth.
        """
        if self.all_y is None:
            return float("nan")
        model = replace(self.model, network=network)
        samples = self.given(self.all_X if X is None else X)
        if self.classes is not None:
            return float(np.mean(model.predict(samples) == self.all_y))
        column = 0 if self.target is None else int(self.target[0])
        predicted = model.outputs(samples)[:, column]
        if np.ptp(predicted) == 0:
            return 0.0
        return float(np.corrcoef(predicted, self.truth)[0, 1])

    def outputs(self, samples: NDArray) -> NDArray:
        """Return the scores, (n_samples, n_outputs), of samples that enter the network."""
        return self.model.outputs(self.given(samples))

    @property
    def columns(self) -> NDArray[np.intp]:
        """Which column of the outputs is explained of each sample."""
        if self.target is None:
            return np.zeros(len(self.X), dtype=np.intp)
        if self.model.classes is None:
            return self.target.astype(np.intp)  # labels are indices
        return encode_labels("target", self.target, self.model.classes, len(self.target))

    def scores_of(self, X: NDArray, columns: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the scores that are explained of samples: outputs, or differences of two."""
        outputs = self.outputs(X).astype(np.float64)
        rows = np.arange(len(outputs))
        score = outputs[rows, columns]
        if not self.params.get("contrast") or outputs.shape[1] == 1:
            return score
        outputs[rows, columns] = -np.inf
        return score - outputs.max(axis=1)

    def _rivals(self) -> NDArray[np.intp] | None:
        """Return the output that a contrast subtracts of each sample, None if there is none."""
        if not self.params.get("contrast"):
            return None
        outputs = self.outputs(self.X)
        outputs[np.arange(len(outputs)), self.columns] = -np.inf
        return outputs.argmax(axis=1)

    @property
    def departures(self) -> NDArray:
        """How far samples are from the mean of the training data, as shares: the input's map."""
        away = np.abs(self.X - self.pool.mean(axis=0, dtype=np.float64))
        return as_shares(away, np.ones(len(away)))

    @property
    def rows_by_target(self) -> list[NDArray[np.intp]]:
        """The rows of each class or output that is explained; all rows of a single output."""
        if self.target is None:
            return [np.arange(len(self.X))]
        return [np.flatnonzero(self.target == label) for label in np.unique(self.target)]

    def mean_sizes(self, maps: NDArray) -> NDArray[np.float64]:
        """Return the mean size of relevance, and the size of the classes' mean maps."""
        squares = np.zeros(maps.shape[1:])
        for rows in self.rows_by_target:
            squares += len(rows) / len(maps) * maps[rows].mean(axis=0, dtype=np.float64) ** 2
        return np.stack([np.abs(maps).mean(axis=0, dtype=np.float64), np.sqrt(squares)])

    def maps_of(self, network: Any, X: NDArray | None = None) -> NDArray:
        """Return the maps of another network, or of other samples, for the same targets."""
        relevance, details = self._explain(network, self.X if X is None else X, self.target)
        return as_shares(relevance, details.score)

    def asked(self, target: Any) -> Any:
        """Return what `explain` is asked for, given what is explained of each sample."""
        return self._reading.asked(target)

    def relevance_for(self, target: NDArray) -> NDArray:
        """Return the relevance for other targets."""
        return self._explain(self.model.network, self.X, target)[0]

    def run(self, function: Callable[..., NDArray], calls: Iterable[tuple]) -> NDArray:
        """Return the stacked results of ``function(self, *call)``, by joblib's workers."""
        calls = ((function, *call) for call in calls)
        return np.stack(list(run_on_workers(Explained.recall, self, calls, self.n_jobs)))

    def once(self, what: Hashable, make: Callable[[], Any]) -> Any:
        """Return ``make()``, made for the first test that asks; workers make their own."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    def recall(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(self, *args)``, from the memory if it is there."""
        what = [function.__qualname__, self.rows, self.target, *args]
        return self.kept.get(what, lambda: function(self, *args))

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to workers: of `once` what is said, and no maps of null models."""
        said = {what: made for what, made in self._made.items() if isinstance(made, str)}
        return {**vars(self), "_made": said}

    def finding(self, **entries: Any) -> Finding:
        """Return a finding, which knows what a sample is."""
        return Finding(**entries, frame=self.frame)

    def _list_parts(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return what all results depend on, beside what is drawn."""
        if self.X_train is not None:
            asked = {**asked, "X_train": self.model.enter(self.X_train, "X_train")}
        names = None if self._form is None else [str(name) for name in self._form.columns]
        X = self._asked["X"]
        when = X.coords.to_dataset() if hasattr(X, "coords") else getattr(X, "index", None)
        return {
            **asked,
            "network": self.model.network,
            "X": self.all_X,
            "when": None if callable(when) else when,
            "dtype": str(self._dtype),
            "columns": names,
            "frame": self.frame,
        }

    def _explain(self, network: Any, X: NDArray, target: NDArray | None) -> tuple[NDArray, Any]:
        relevance, details = explain(
            network, self.given(X), target=self.asked(target), return_details=True, **self.params
        )
        if hasattr(details, "reference_share"):  # a constant, of which no cell has a part
            details.score = details.score - details.reference_share
        return check_maps(relevance), details


def _one_of(targets: NDArray | None) -> Any:
    """Return what is asked of skill: the one class or output explained, None if of several."""
    several = [] if targets is None else np.unique(targets).tolist()
    return several[0] if len(several) == 1 else None


def _spaced_rows(samples: NDArray) -> NDArray[np.intp]:
    """Return rows at even distances, as many as fit into memory as float64."""
    n_bytes = 8 * max(1, samples[0].size)
    most = max(_FEWEST_AT_ONCE, _BYTES_AT_ONCE // n_bytes)
    return np.linspace(0, len(samples) - 1, min(len(samples), most)).astype(np.intp)
