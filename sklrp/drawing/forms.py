"""The form in which samples are drawn: fields, sequences or tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYOUTS = ("auto", "field", "sequence", "table")


class Form:
    """What the axes of a sample are, and how samples are brought into the form that is drawn.

    Parameters
    ----------
    sample_shape : tuple of int
        The shape of a sample.
    layout : {"auto", "field", "sequence", "table"}
        What a sample is.
    shape : tuple of int or None
        The shape that rows of features have as samples, None if they have none or `missing` tells.
    channels : {"first", "last"}
        Where the channels of a field, or the variables of a sequence, are.
    missing : ndarray of bool or None
        The cells of a field without a value.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        layout: str,
        shape: tuple[int, ...] | None,
        channels: str,
        missing: NDArray[np.bool_] | None,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}.")
        if channels not in ("first", "last"):
            raise ValueError(f"channels must be 'first' or 'last', got {channels!r}.")
        size = math.prod(sample_shape)
        if shape is None and len(sample_shape) == 1 and missing is not None:
            shape = missing.shape
        self.shape = sample_shape if shape is None else tuple(shape)
        self.valid: NDArray[np.bool_] | None = None
        if size != math.prod(self.shape):
            if (
                missing is None
                or size != np.count_nonzero(~missing)
                or self.shape != missing.shape
            ):
                raise ValueError(
                    f"samples of shape {sample_shape} cannot take the shape {self.shape}: they "
                    f"have {size} values each, neither one for each of {math.prod(self.shape)} "
                    "cells nor one for each cell that is not missing."
                )
            self.valid = ~missing
        long_axes = [n for n in self.shape if n != 1] or [1]
        if layout == "auto":
            if len(self.shape) == 1:
                layout = "table"
            else:
                layout = "sequence" if len(long_axes) == 1 else "field"
        self.layout, self.channels = layout, channels
        most = {"table": len(long_axes), "sequence": 2, "field": 3}[layout]
        if len(long_axes) > most or (layout == "field" and len(self.shape) < 2):
            raise ValueError(
                f"samples of shape {self.shape} are no {layout}: a field has two axes, besides "
                "its channels; a sequence one, besides its variables. Give layout, or shape."
            )
        self.n_channels = 1
        if len(long_axes) == most and layout != "table":
            self.n_channels = long_axes[0 if channels == "first" else -1]

    def bring(self, values: NDArray, mean: bool = False) -> NDArray:
        """Return samples, or maps, of the form; channels of a field as their sum or mean."""
        n = len(values)
        if self.valid is not None:
            full = np.full((n, *self.shape), np.nan)
            full[:, self.valid] = values.reshape(n, -1)
            values = full
        if self.layout == "table":
            return values.reshape(n, -1)
        long_axes = [m for m in self.shape if m != 1] or [1]
        if self.layout == "field" and len(long_axes) < 2:
            long_axes = list(self.shape[-2:] if self.channels == "first" else self.shape[:2])
        values = values.reshape(n, *long_axes)
        axis = 1 if self.channels == "first" else -1
        if self.layout == "field" and values.ndim == 4:
            there = np.isfinite(values)  # a cell is missing where all its channels are
            total = np.where(there, values, 0.0).sum(axis=axis)
            n_there = there.sum(axis=axis)
            total = np.where(n_there > 0, total, np.nan)
            return total / np.maximum(n_there, 1) if mean else total
        variables = self.layout == "sequence" and self.n_channels > 1
        return np.moveaxis(values, axis, 1) if variables else values


def form_of(
    classifier: Any,
    sample_shape: tuple[int, ...],
    layout: str,
    shape: tuple[int, ...] | None,
    missing: NDArray[np.bool_] | None,
) -> Form:
    """Return the form in which a classifier takes its samples, as far as it is not given."""
    taken = getattr(classifier, "input_shape_", sample_shape)
    sweeps = hasattr(classifier, "sweep")  # a network that reads steps, its variables last
    if shape is None and len(taken) > 1 and math.prod(taken) == math.prod(sample_shape):
        shape = taken
        if layout == "auto" and len(taken) == 2 and hasattr(classifier, "channels") and not sweeps:
            layout = "sequence"
    return Form(sample_shape, layout, shape, "last" if sweeps else "first", missing)
