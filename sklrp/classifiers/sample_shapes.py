"""The forms in which samples may come, and the shapes in which networks take them.

Every classifier turns X into a table by `flatten_samples`, finds the shape of its network's input
by a ``find_*_shape`` function, and checks later samples by `check_sample_shape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import issparse

from sklrp._checks import check_axes
from sklrp._missing import as_plain_array
from sklrp._numbers import forbid_text
from sklrp._warnings import warn_user
from sklrp._wording import say_value

_MOST_COLOURS = 4  # red, green, blue and transparency
_SIDE = 10  # cells, of the smallest field: fewer channels may well be those of a series
_MOST_CHANNELS = 4  # times as many steps as channels make a series, and no field


def flatten_samples(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Return X of more than two dimensions as a table and a sample's shape, else X and None."""
    if issparse(X) or hasattr(X, "iloc"):
        forbid_text(X)
        return X, None
    if X is None:
        raise TypeError("X must hold samples, got None.")
    if hasattr(X, "data_vars"):
        raise TypeError(
            "X is an xarray.Dataset, whose variables are no array: put a step before the network "
            "that makes them channels, make_pipeline(GridVectorizer(layout='grid'), network) "
            "(sklrp.geo); or pass one of them, X['name']."
        )
    array = as_plain_array(X, "X")
    if array.dtype.kind == "c":
        raise ValueError(
            f"Complex data not supported: X has dtype {array.dtype}. Give real features, such as "
            "X.real and X.imag, or np.abs(X)."
        )
    forbid_text(array)
    if array.ndim <= 2:
        return (X if array.dtype.kind == "O" else array), None
    sample_shape = array.shape[1:]
    return array.reshape(len(array), math.prod(sample_shape)), sample_shape


def check_even(X: Any) -> None:
    """Raise an error if X is lists or an array of objects whose samples differ in length."""
    is_list = isinstance(X, list | tuple)
    of_objects = isinstance(X, np.ndarray) and X.dtype.kind == "O"
    if is_list:
        try:
            np.shape(X)
            return
        except ValueError:
            pass
    elif not of_objects or len({np.shape(row) for row in np.atleast_1d(X)[:_LOOKED_AT]}) < 2:
        return
    raise ValueError(
        f"X holds samples of unequal lengths, got {say_value(X, 80)}: give each as many values, "
        "so that np.asarray(X).shape is (n_samples, n_features). Pad sequences to one length."
    )


_LOOKED_AT = 1000  # rows of an array of objects


def check_not_single(X: Any, n_features: int) -> None:
    """Raise an error if X is one sample, as X[0] is, and no batch of one."""
    shape: tuple[int, ...] = (
        np.shape(X) if isinstance(X, list | tuple) else getattr(X, "shape", ())
    )
    if len(shape) > 1 and shape[0] > 1 and math.prod(shape) == n_features:
        raise ValueError(f"X has the shape {shape} of a single sample: pass X[np.newaxis].")


def check_finite(X: np.ndarray) -> None:
    """Raise an error if a value is NaN or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(X.sum()):  # the sum costs less than a look at every value
            return
    n_nan, n_infinite = np.count_nonzero(np.isnan(X)), np.count_nonzero(np.isinf(X))
    if n_nan or n_infinite:
        raise ValueError(
            f"X contains NaN or infinity ({n_nan} NaN and {n_infinite} infinite of {X.size} "
            "values): impute them, make_pipeline(SimpleImputer(), network), or fill cells that "
            "are always missing, such as land, with a constant. For fields of xarray "
            "make_pipeline(GridVectorizer(), network) does so (sklrp.geo), for arrays "
            "make_pipeline(InputMasker(np.isfinite(X).all(axis=0)), network) "
            "(sklrp.preprocessing)."
        )


def check_sample_shape(
    sample_shape: tuple[int, ...], input_shape: tuple[int, ...], owner: str
) -> None:
    """Raise an error unless samples of a shape can be laid out as a network's input."""
    flat = (math.prod(input_shape),)
    if sample_shape in (input_shape, (1, *input_shape), flat) or (1, *sample_shape) == input_shape:
        return
    if _stacks(sample_shape) == input_shape:  # rows of several channels in one column
        return
    remedy = _say_how_to_lay_out(sample_shape, input_shape)
    forms = [("n_samples", *flat), ("n_samples", *input_shape)]
    raise ValueError(
        f"X has shape {_write_shape(('n_samples', *sample_shape))}, but "
        f"input_shape={input_shape} of {owner} expects {' or '.join(map(_write_shape, forms))}, "
        f"where a channel axis of length 1 may be left out: {remedy}."
    )


def _say_how_to_lay_out(sample_shape: tuple[int, ...], input_shape: tuple[int, ...]) -> str:
    """Say how samples get the shape of the input: their axes moved, not cut up anew."""
    for source, target in ((-1, 0), (0, -1)):
        order = list(range(len(sample_shape)))
        order.insert(target % len(order), order.pop(source))
        if len(order) > 1 and tuple(sample_shape[i] for i in order) == input_shape:
            axes = "-1, 1" if source == -1 else "1, -1"
            return f"move its axes, np.moveaxis(X, {axes}); reshape would mix them"
    if len(sample_shape) == len(input_shape) and sorted(sample_shape) == sorted(input_shape):
        return "transpose X; reshape would mix its axes"
    return "give samples of that shape, or fit anew with another input_shape"


def _stacks(sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of images whose channels stand below one another."""
    return (math.prod(sample_shape[:-1]), sample_shape[-1]) if len(sample_shape) == 3 else ()


def find_sequence_shape(
    input_shape: Sequence[int] | None, sample_shape: tuple[int, ...], owner: str
) -> tuple[int, ...]:
    """Return the two axes of a sequence or an image: as given, or found from a sample's axes."""
    if input_shape is not None:
        return check_axes("input_shape", input_shape, (2,), "(T, F) or (H, W)")
    if len(sample_shape) == 1:
        return (*sample_shape, 1)
    is_image = len(sample_shape) == 3 and sample_shape[0] == 1
    shape = sample_shape[1:] if is_image else sample_shape
    if len(shape) > 2:
        raise ValueError(
            f"X has shape {_write_shape(('n_samples', *sample_shape))}, but {owner} takes "
            "sequences (n_samples, n_steps, n_step_features) or images (n_samples, height, "
            f"width){_say_channels(sample_shape)}."
        )
    return shape


def find_image_shape(
    input_shape: Sequence[int] | None, sample_shape: tuple[int, ...], owner: str
) -> tuple[int, ...]:
    """Return the channels and axes of a signal or image: as given, or found from a sample's."""
    if input_shape is not None:
        shape = check_axes("input_shape", input_shape, (2, 3), "(C, L) or (C, H, W)")
        if _looks_like_field(shape):
            warn_user(
                f"input_shape={shape} of {owner} is (C, L): {shape[0]} channels of a series of "
                f"{shape[1]} steps, and kernels move along the steps alone. For a field of "
                f"{shape[0]} x {shape[1]} cells give input_shape={(1, *shape)}."
            )
        return shape
    if len(sample_shape) > 3:
        raise ValueError(
            f"X has shape {_write_shape(('n_samples', *sample_shape))}, but {owner} takes signals "
            "or images, of at most 4 dimensions: reshape X and name its input_shape."
        )
    if _has_channels_last(sample_shape):
        raise ValueError(
            f"X has shape {_write_shape(('n_samples', *sample_shape))}, which {owner} would take "
            f"for {sample_shape[0]} channels of {sample_shape[1]} x {sample_shape[2]}: put the "
            "channels first, np.moveaxis(X, -1, 1); or, if they are first, say so by "
            f"input_shape={sample_shape}."
        )
    is_signal = len(sample_shape) == 2 and sample_shape[0] == 1
    return sample_shape if is_signal or len(sample_shape) == 3 else (1, *sample_shape)


def _looks_like_field(shape: tuple[int, ...]) -> bool:
    """Tell whether two axes look like those of a field, as no series is so short and wide."""
    return len(shape) == 2 and min(shape) >= _SIDE and shape[1] < _MOST_CHANNELS * shape[0]


def _say_channels(sample_shape: tuple[int, ...]) -> str:
    """Say how images of several channels become a sequence of columns."""
    if len(sample_shape) != 3:
        return ": reshape X and name its input_shape"
    if _has_channels_last(sample_shape):
        return ": put the channels first, np.moveaxis(X, -1, 1), and see what is then said"
    n_channels, height, width = sample_shape
    return (
        f". To read {n_channels} channels of {height} x {width} column by column, all channels of "
        f"a column at a step, set input_shape={_stacks(sample_shape)} and sweep='right' or 'left'"
    )


def _has_channels_last(sample_shape: tuple[int, ...]) -> bool:
    """Tell whether an image looks as if its channels came last: 1 to 4, behind longer axes."""
    return len(sample_shape) == 3 and sample_shape[-1] <= _MOST_COLOURS < min(sample_shape[:-1])


def _write_shape(axes: Sequence[Any]) -> str:
    """Write a shape whose first axis has a name."""
    return f"({', '.join(map(str, axes))})"
