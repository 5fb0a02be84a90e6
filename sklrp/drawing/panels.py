"""The panels of a relevance display: single maps, or means over groups of samples.

A view has one panel for each sample, for each class, or for all samples; see `make_panels`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import check_option
from sklrp._frame import Frame

KINDS = ("samples", "class_mean", "mean")
_MOST_PANELS = 60


class Panel(NamedTuple):
    """The maps behind one panel, and the samples that they explain."""

    view: str  # the rule or estimator, empty if there is only one
    title: str
    maps: NDArray  # (n, *sample_shape); none for a group without a sample
    samples: NDArray | None
    caption: str = ""  # the class, the rule, the sum and its units, in a line

    @property
    def mean(self) -> NDArray:
        """The mean map; a cell that is missing in any of the maps is missing in it."""
        return self.maps.mean(axis=0)

    @property
    def mean_sample(self) -> NDArray | None:
        """The mean of the samples, None if they are not known."""
        return None if self.samples is None else self.samples.mean(axis=0)


class View(NamedTuple):
    """The maps of one rule or model, in the form that is drawn."""

    name: str
    frame: Frame
    maps: NDArray  # (n_samples, *frame.shape)
    samples: NDArray | None  # of the same shape, channels as their mean
    labels: NDArray | None  # what samples are grouped by: the class predicted
    true: NDArray | None = None  # the class that each sample is of, if it is known
    prefix: str = ""  # before a class, where samples of another class may be among its own
    titles: list[str] | None = None  # of the maps, where they are no samples
    dates: list[str] | None = None  # of the samples, where these know them
    hidden: float = 0.0  # the share of absolute relevance on land
    rule: str = ""  # in a word, as far as it is known
    whose: str | None = ""  # what is explained; None is the class that each sample is of
    units: str = ""  # of relevance


def check_kind(kind: str, n_samples: int, n_views: int) -> None:
    """Raise an error if there is no such kind of panels, or there were too many of them."""
    check_option("kind", kind, KINDS)
    if kind == "samples" and n_samples * n_views > _MOST_PANELS:
        raise ValueError(
            f"{n_samples * n_views} panels are too many to see: pass fewer samples, for at most "
            f"{_MOST_PANELS} panels, or kind='class_mean' or 'mean'."
        )


def make_panels(views: list[View], kind: str) -> list[list[Panel]]:
    """Return the panels of each view: a list for each view, all of one length."""
    check_kind(kind, len(views[0].maps), len(views))
    numbers = [len(view.maps) for view in views]
    if len(set(numbers)) > 1:
        raise ValueError(f"maps side by side must be of the same samples, got {numbers} of them.")
    if kind == "class_mean" and any(view.labels is None for view in views):
        raise ValueError(
            "kind='class_mean' needs to know the class of each sample: pass labels, or use "
            "kind='mean'."
        )
    classes = _list_classes(views) if kind == "class_mean" else np.array([])
    made = [
        [
            Panel(
                view.name,
                title,
                view.maps[rows],
                None if view.samples is None else view.samples[rows],
                _say_in_short(view, rows),
            )
            for title, rows in _group(view, kind, classes)
        ]
        for view in views
    ]
    if not any(len(panel.maps) for panels in made for panel in panels):
        raise ValueError(
            "no sample is predicted correctly, so that no mean can be drawn: look at kind="
            "'samples', or pass y=None to draw the maps of wrong predictions too."
        )
    return made


def say_class(label: Any) -> str:
    """Name a class in a title."""
    return label if isinstance(label, str) else f"class {label}"


def _list_classes(views: list[View]) -> NDArray:
    """Return all classes that samples are of, or are predicted as."""
    labels = [found for view in views for found in (view.labels, view.true) if found is not None]
    return np.unique(np.concatenate(labels))


def _group(view: View, kind: str, classes: NDArray) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the title and the samples of each panel of a view."""
    n_samples = len(view.maps)
    if kind == "samples":
        return [(_say_sample(view, i), np.arange(n_samples) == i) for i in range(n_samples)]
    right = np.full(n_samples, True)
    if view.true is not None:
        right &= view.labels == view.true
    if kind == "mean":
        return [(_say_count("mean", right, view), right)]
    groups = [(view.prefix + say_class(c), right & (view.labels == c)) for c in classes]
    return [(_say_count(name, rows, view), rows) for name, rows in groups]


def _say_in_short(view: View, rows: NDArray[np.bool_]) -> str:
    """Say in a line what a panel holds: the class, the rule, and the sum in its units."""
    if not rows.any():
        return ""
    whose = view.whose
    if whose is None and view.labels is not None:
        found = np.unique(view.labels[rows])
        whose = f"for {say_class(found[0])}" if len(found) == 1 else ""
    total = np.nansum(view.maps[rows]) / np.count_nonzero(rows)
    mean = "mean " if np.count_nonzero(rows) > 1 else ""
    size = f"{mean}sum {total:.3g} {view.units}".strip().replace("-", "−")
    return ", ".join(filter(None, [whose, view.rule and f"rule {view.rule}", size]))


def _say_sample(view: View, i: int) -> str:
    if view.titles is not None:
        return view.titles[i]
    name = f"sample {i}" if view.dates is None else view.dates[i]
    if view.labels is None:
        return name
    said = f"{name}: {say_class(view.labels[i])}"
    if view.true is not None and view.true[i] != view.labels[i]:
        said += f" (wrong, is {say_class(view.true[i])})"
    return said


def _say_count(name: str, rows: NDArray, view: View) -> str:
    """Name a group, and say how many of which samples its mean is over."""
    which = " correct" if view.true is not None else ""
    return f"{name} (n = {rows.sum()}{which})"
