"""Checks of what users pass: maps, masks, weights, groups, labels, numbers, names, libraries.

Every check that two modules need stands here. It returns what was passed in one form, or raises an
error that names the parameter, the value and the remedy.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import DataConversionWarning

from sklrp._devices import to_host
from sklrp._missing import as_gapped_array, as_plain_array, forbid_masked
from sklrp._numbers import is_real
from sklrp._warnings import warn_user
from sklrp._wording import say_value, shorten

MOST = 2**31  # beyond any count, size or index that is meant
_LONGEST_ERROR = 800  # characters
MOST_JOBS = 4096  # more workers than any machine has


def check_maps(relevance: ArrayLike, name: str = "relevance") -> NDArray[np.float64]:
    """Return maps as an array of finite floats, one map per entry of the first axis."""
    maps = as_gapped_array(relevance, name)
    if maps.ndim < 2 or maps.size == 0:
        raise ValueError(
            f"{name} must be an array of shape (n_samples, ...) with at least one value per "
            f"sample, got {say_shape(relevance, maps)}; of a single map, pass {name}[np.newaxis]."
        )
    maps = check_reals(maps, name)
    bad = ~np.isfinite(maps).reshape(len(maps), -1)
    if bad.any():
        raise ValueError(_say_not_finite(name, maps.reshape(len(maps), -1), bad))
    return maps


def _say_not_finite(name: str, maps: NDArray[np.float64], bad: NDArray[np.bool_]) -> str:
    """Say where maps are not finite: on land, in cells that all maps lack, or anywhere."""
    n_bad = np.count_nonzero(bad.any(axis=1))
    said = f"{name} has NaN or infinite values in {n_bad} of {len(maps)} maps"
    land: NDArray[np.bool_] = np.logical_and.reduce(bad, axis=0)
    if np.isnan(maps[bad]).all() and (bad == land).all() and not land.all():
        return (
            f"{said}, in the same {np.count_nonzero(land)} of {len(land)} cells of each, which "
            "look like land or a mask: a metric takes cells that have a value. Give land no "
            f"relevance, np.nan_to_num({name}), or leave it out of maps, mask and weights, "
            f"{name}[..., ~land]."
        )
    return (
        f"{said}: where the input is missing, such as on land, put 0, np.nan_to_num({name}); "
        "elsewhere a finite input and a finite network have finite relevance, so look at what "
        "produced them."
    )


def take_maps(
    relevance: ArrayLike, shape: tuple[int, ...], name: str = "relevance"
) -> NDArray[np.float64]:
    """Return maps made elsewhere in the shape of the samples, one of each, finite or not."""
    if hasattr(relevance, "base_values") and hasattr(relevance, "values"):  # its axes are lost
        raise TypeError(
            f"{name} is an Explanation of SHAP: pass its array, {name}.values; of several classes "
            f"one, {name}.values[..., k] with target=k, of what enters the network."
        )
    maps = check_reals(as_gapped_array(relevance, name), name)
    if maps.ndim and len(maps) < shape[0] and maps.shape[1:] == shape[1:]:
        sizes = [b for b in (8, 16, 32, 64, 100, 128, 256) if shape[0] // b * b == len(maps)]
        batches = f": the remainder of batches of {sizes[0]} was dropped" if sizes else ""
        raise ValueError(
            f"{name} has {len(maps)} maps, but X {shape[0]} samples{batches}. Explain all "
            "samples, or pass those of X that were."
        )
    if not maps.ndim or len(maps) != shape[0] or not same_layout(maps.shape[1:], shape[1:]):
        raise ValueError(
            f"{name} has the shape {maps.shape}, but must have that of what enters the network, "
            f"{shape}: one map for each sample of X. Sum or select axes of classes first."
        )
    return maps.reshape(shape)


def check_reals(values: NDArray, name: str) -> NDArray[np.float64]:
    """Return an array in float64; a complex one would lose its imaginary part."""
    if values.dtype.kind == "c":
        raise ValueError(
            f"{name} holds complex numbers ({values.dtype}), but must hold real ones: pass the "
            f"part that is meant, such as {name}.real or np.abs({name})."
        )
    try:
        return values.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError):
        got = say_value(values.ravel().tolist()[0])
        raise ValueError(
            f"{name} must hold numbers, got {got} in an array of dtype {values.dtype}."
        ) from None


def check_mask(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask of maps of `shape` as rows of features, one row or one per sample."""
    found = as_booleans(mask, "mask")
    per_sample = len(found) == shape[0] if found.ndim else False
    if same_layout(found.shape, shape[1:]):
        found = found.reshape(1, -1)
    elif per_sample and same_layout(found.shape[1:], shape[1:]):
        found = found.reshape(len(found), -1)
    else:
        raise ValueError(
            f"mask has the shape {found.shape}, but must have that of one map, {shape[1:]}, or of "
            f"all of them, {tuple(shape)}, as relevance has."
            + (" Did you mean mask.T?" if found.shape[::-1] == tuple(shape[1:]) else "")
        )
    empty = np.flatnonzero(~found.any(axis=1))
    if empty.size:
        where = "" if len(found) == 1 else f" for the samples {empty[:5].tolist()}"
        raise ValueError(
            f"mask is empty{where}: no feature is marked, so that no relevance can lie on it. "
            "Mark at least one, or leave such samples out."
        )
    return found


def as_booleans(mask: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Return a mask as an array of booleans."""
    found = _as_flags(mask, name)
    if found.dtype.kind == "f" and np.isnan(found).any():
        n_missing = np.count_nonzero(np.isnan(found))
        raise ValueError(
            f"{name} must hold booleans, or 0 and 1, but is NaN in {n_missing} of {found.size} "
            f"cells, such as land: say whether they are marked; np.nan_to_num({name}) leaves "
            "them out."
        )
    if not _holds_flags(found):
        raise ValueError(
            f"{name} must hold booleans, or 0 and 1, got other values of dtype {found.dtype}: "
            f"pass a comparison such as {name} > 0.5."
        )
    return found.astype(bool)


def _as_flags(mask: ArrayLike, name: str) -> NDArray:
    """Return a mask as an array of any dtype, none of whose cells is masked itself."""
    remedy = "say whether they are marked; {name}.filled(False) leaves them out"
    return as_plain_array(forbid_masked(to_host(mask), name, remedy), name)


def check_field_mask(mask: ArrayLike | None, name: str) -> NDArray[np.bool_] | None:
    """Return a mask of the cells of a field, such as land, as booleans; None stays None."""
    if mask is None:
        return None
    found = _as_flags(mask, name)
    if found.ndim != 2 or not _holds_flags(found):
        raise ValueError(
            f"{name} must be a boolean array of the shape of a field, (n_rows, n_columns), got "
            f"{found.dtype} of shape {found.shape}."
        )
    return found.astype(bool)


def _holds_flags(mask: NDArray) -> bool:
    try:
        return mask.dtype == bool or bool(np.isin(mask, (0, 1)).all())
    except Exception:  # of records, of pandas' NA, of arrays in an array, of a signalling NaN
        return False


def check_weights(weights: ArrayLike, sample_shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the weights of features, in the shape of one map."""
    found = as_plain_array(weights, "weights", np.float64)
    if not same_layout(found.shape, sample_shape):
        raise ValueError(
            f"weights has the shape {found.shape}, but must have that of one map, {sample_shape}: "
            "np.broadcast_to weights of rows or columns to it."
        )
    if not (np.isfinite(found).all() and (found >= 0).all() and found.any()):
        raise ValueError(
            "weights must be finite, at least 0 and not all 0, such as the areas of cells; 0 on "
            "land, np.nan_to_num(weights)."
        )
    return found.reshape(sample_shape)


def same_layout(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Tell whether two shapes agree but for axes of length 1, or one of them is flat."""
    if math.prod(one) != math.prod(other) or not one:
        return False
    long_axes = [tuple(n for n in shape if n != 1) for shape in (one, other)]
    return long_axes[0] == long_axes[1] or min(map(len, long_axes)) == 1


def find_groups(
    groups: int | ArrayLike | None, sample_shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], int]:
    """Return the number of the group of each feature, flat, and how many groups there are."""
    n_features = math.prod(sample_shape)
    if groups is None:
        return np.arange(n_features), n_features
    if is_real(groups, Integral):
        if groups < 1:
            raise ValueError(
                f"groups={groups!r} must be at least 1, the edge of a patch in pixels."
            )
        edge = min(int(groups), n_features)  # one patch takes it all
        rows, columns = (1, *sample_shape)[-2:]
        patch_row, patch_column = np.arange(rows) // edge, np.arange(columns) // edge
        patches = patch_row[:, None] * (patch_column[-1] + 1) + patch_column
        codes = np.broadcast_to(patches.ravel(), (n_features // patches.size, patches.size))
        return codes.ravel(), int(patches.max()) + 1
    labels = as_plain_array(groups, "groups")
    if labels.shape != sample_shape and labels.shape != (n_features,):
        raise ValueError(
            f"groups must be None, the edge of square patches or an array of labels of a sample's "
            f"shape {sample_shape}, got {type(groups).__name__} of shape {labels.shape}."
        )
    names, codes = sort_values(labels, "groups")
    return codes.reshape(-1), len(names)


def encode_labels(name: str, target: Any, classes: NDArray, n_samples: int) -> NDArray[np.intp]:
    """Return the positions of one label, or of one per sample, among the classes."""
    labels = as_plain_array(target, name)
    if labels.shape not in ((), (n_samples,)):
        raise ValueError(
            f"{name} must be None, one label or {n_samples} labels, one per sample, got an array "
            f"of shape {labels.shape}."
        )
    codes, unknown = look_up(labels, classes, exact=True)
    if unknown:
        raise ValueError(f"{name} has the unknown labels {unknown}; known are {classes.tolist()}.")
    return np.broadcast_to(codes, n_samples)


def look_up(
    labels: NDArray, classes: NDArray, *, exact: bool = False
) -> tuple[NDArray[np.intp], str]:
    """Return where labels stand among the classes, flat, and the unknown ones as text."""
    # With `exact` True is not the label 1, as where a mask of outputs may be meant.
    is_other = (exact and labels.dtype == bool != classes.dtype) or labels.dtype.kind == "c"
    position = {} if is_other else {label: k for k, label in enumerate(classes.tolist())}
    codes: list[int] = []
    unknown: set[str] = set()
    for label in labels.ravel().tolist():
        try:
            codes.append(position[label])
        except (KeyError, TypeError):  # the latter for what has no hash
            unknown.add(say_value(label, 40))
    text = ", ".join(sorted(unknown)[:5]) + (" and others" if len(unknown) > 5 else "")
    written, known = (
        {say_value(one).strip("'\"") for one in some.ravel().tolist()} if unknown else set()
        for some in (labels, classes)
    )
    if unknown and written <= known:
        text += f" of type {type(labels.ravel().tolist()[0]).__name__} (convert them by astype)"
    return np.array(codes, dtype=np.intp), text


def check_not_one_hot(name: str, y: Any, n_classes: int) -> None:
    """Raise an error if labels are rows of a single 1, one row for each sample."""
    rows = as_gapped_array(y, name)
    if rows.ndim != 2 or not 1 < n_classes == rows.shape[1] or rows.dtype.kind not in "biuf":
        return
    if np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all():
        raise ValueError(
            f"{name} is one-hot, of shape {rows.shape}, but must hold one label for each sample: "
            f"pass {name}.argmax(axis=1), or the classes at these positions."
        )


def flatten_column(name: str, labels: NDArray) -> NDArray:
    """Return labels of classes that came as a column flat, with scikit-learn's warning."""
    if labels.ndim != 2 or labels.shape[1] != 1:
        return labels
    warn_user(
        f"{name} is a column, of shape {labels.shape}, where one label for each sample is "
        f"expected: it is taken as {name}.ravel().",
        DataConversionWarning,
    )
    return labels[:, 0]


def check_number(name: str, value: Any, *, minimum: float, integral: bool = False) -> None:
    """Raise an error unless a value is a finite number, or an integer, of at least `minimum`."""
    kind: Any = Integral if integral else Real
    most: float = MOST if integral else math.inf
    if not is_real(value, kind) or not minimum <= value < most:
        what = "an integer" if integral else "a finite number"
        least = f"{minimum:g}"
        if isinstance(value, int | np.int64 | np.uint64) and value >= most:
            least += f" and less than {MOST}"
        raise ValueError(f"{name} must be {what} of at least {least}, got {say_value(value)}.")


def check_option(name: str, value: Any, options: Sequence[str]) -> None:
    """Raise an error unless a value is one of several words."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(
            f"{name} must be one of {options}, got {say_value(value)}.{suggest(value, options)}"
        )


def check_sizes(name: str, sizes: Any, *, some: bool = False) -> tuple[int, ...]:
    """Return one or several layer sizes as a tuple, or raise an error if one is malformed."""
    several = (sizes,) if is_real(sizes, Integral) else as_tuple(sizes)
    is_empty = isinstance(sizes, list | tuple) or getattr(sizes, "shape", None) == (0,)
    is_list = several or (is_empty and not some)
    if not is_list or not all(map(is_positive_integer, several)):
        count = "one or more " if some else ""
        raise ValueError(
            f"{name} must hold {count}integers of at least 1, got {say_value(sizes)}."
        )
    return tuple(int(size) for size in several)


def check_axes(name: str, shape: Any, n_axes: tuple[int, ...], forms: str = "") -> tuple[int, ...]:
    """Return a shape of so many axes as a tuple, or raise an error if it is none."""
    axes = as_tuple(shape)
    if len(axes) not in n_axes or not all(map(is_positive_integer, axes)):
        what = f"be {forms} of" if forms else f"hold {' or '.join(map(str, n_axes))}"
        raise ValueError(f"{name} must {what} integers of at least 1, got {say_value(shape)}.")
    return tuple(int(n) for n in axes)


def is_positive_integer(value: Any) -> bool:
    """Tell whether a value is an integer of at least 1, of Python or NumPy."""
    return is_real(value, Integral) and 1 <= int(value) < MOST


def as_tuple(values: Any) -> tuple[Any, ...]:
    """Return the entries of a list, a tuple or an array of one axis, () for anything else."""
    if isinstance(values, list | tuple | range):
        return tuple(values)
    if len(getattr(values, "shape", ())) != 1 or getattr(values, "is_meta", False):
        return ()
    return tuple(to_host(values).tolist())


def check_flags(**flags: Any) -> None:
    """Raise an error unless each value is True or False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, got {say_value(flag)}.")


def check_jobs(n_jobs: Any) -> None:
    """Raise an error unless `n_jobs` is a number of joblib's workers."""
    if n_jobs is not None and not is_real(n_jobs, Integral):
        raise ValueError(
            f"n_jobs must be None or an integer, -1 for all cores, got {say_value(n_jobs)}."
        )
    if n_jobs is not None and not 0 < abs(int(n_jobs)) <= MOST_JOBS:
        raise ValueError(
            f"n_jobs must be from 1 to {MOST_JOBS}, or negative (-1 for all cores), got {n_jobs}."
        )


def check_folds(splits: Iterable[Any], cv: Any, n_samples: int) -> list[tuple[Any, Any]]:
    """Return the folds that `cv` gives, each a pair of indices of samples, at least one.

    Parameters
    ----------
    splits : iterable
        The folds.
    cv : object
        The parameter they come from, which errors show.
    n_samples : int
        The number of samples.

    Returns
    -------
    list of (ndarray, ndarray)
        The folds.

    Raises
    ------
    ValueError
        If there is none, or one is no pair of indices.
    """
    folds = list(splits)
    if not folds:
        raise ValueError(
            f"cv={say_value(cv, 80)} gives no fold: an iterator is used up after one use. "
            "Give a list of pairs (train, test) of indices, a number of folds or a splitter."
        )
    for fold in folds:
        is_pair = isinstance(fold, tuple | list) and len(fold) == 2
        parts = [np.asarray(part) for part in fold] if is_pair else []
        if not is_pair or not all(_are_indices(part, n_samples) for part in parts):
            raise ValueError(
                f"cv must give pairs (train, test) of indices of the {n_samples} samples, neither "
                f"of them empty, got {say_value(fold, 80)}; list(KFold(5).split(X)) has them."
            )
    return folds


def _are_indices(part: NDArray[Any], n_samples: int) -> bool:
    """Tell whether an array selects samples: by their numbers, or as a mask of all."""
    if part.ndim != 1 or not part.size:
        return False
    if part.dtype.kind == "b":
        return len(part) == n_samples and bool(part.any())
    return part.dtype.kind in "iu" and -n_samples <= part.min() and part.max() < n_samples


def cut_error(error: Exception) -> None:
    """Cut the middle of an error that quotes a long value; what to do stands at its end."""
    text = str(error)
    if len(text) > _LONGEST_ERROR and error.args == (text,):
        error.args = (f"{text[: _LONGEST_ERROR - 300]} ... {text[-295:]}",)


class UnsaidError(TypeError):
    """An error about a value that no error can quote."""


def forbid_unsaid(values: Mapping[str, Any], error: Exception) -> None:
    """Raise an error in place of one that a value's own ``repr`` raised, when it was quoted."""
    for name, value in values.items():
        try:
            repr(value)
        except Exception as own:
            if type(own) is type(error) and str(own) == str(error):
                raise UnsaidError(
                    f"{name} must be a value that can be shown, got one of type "
                    f"{type(value).__name__}, whose repr fails: {shorten(str(own))}"
                ) from None


def check_representable(relevance: Any, dtype: Any, largest: float) -> None:
    """Raise an error if relevance is larger than the largest number of a dtype."""
    # As NumPy and torch make it infinite in silence.
    if relevance.size and max(-relevance.min(), relevance.max()) > largest:
        raise ValueError(
            f"relevance is too large for {dtype}, the dtype of X, whose largest number is "
            f"{largest:g}: give X as float32, X.astype('float32')."
        )


def suggest(name: Any, known: Iterable[str], *, n: int = 1, inline: bool = False) -> str:
    """Return " Did you mean 'known'?", or "; did you mean ..." inline, "" if none is close."""
    close = difflib.get_close_matches(name, sorted(known), n=n) if isinstance(name, str) else []
    return say_meant(close, inline=inline)


def say_meant(names: Sequence[str], *, inline: bool = False) -> str:
    """Return " Did you mean 'name'?", or "; did you mean ..." inline, "" of no names."""
    asked = f"{'; did' if inline else ' Did'} you mean {' or '.join(map(repr, names))}?"
    return asked if names else ""


def say_layer(name: str, *, start: bool = False) -> str:
    """Name a layer by its path, at the start of a sentence or within; "" is the network itself."""
    if name:
        return f"{'Layer' if start else 'layer'} {name!r}"
    return f"{'The' if start else 'the'} network itself"


def say_name(name: str) -> str:
    """Quote the path of a layer that is called by its type; "" is the network itself."""
    return repr(name) if name else "(the network itself)"


def import_optional(module: str, *, extra: str, user: str) -> Any:
    """Return a module of an optional library, or raise an error that says how to install it."""
    # `extra` is the extra of this package that brings the library, and `user` what needs it.
    library = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise  # the library is there, but lacks one of its own: its error says which
        raise ImportError(
            f"{user} needs {library}: pip install 'sklrp[{extra}]'", name=library
        ) from error


def as_samples(X: Any, *, name: str = "X", integers: bool = False) -> NDArray:
    """Return samples as an array, in their own floating dtype or else in float64."""
    # With `integers`, integers stay what they are, such as the indices of words.
    samples = as_plain_array(X, name)
    if samples.ndim < 2 or samples.size == 0:
        raise ValueError(
            f"{name} must be an array of shape (n_samples, ...) with at least one value per "
            f"sample, got {say_shape(X, samples)}; of a single sample, pass {name}[np.newaxis]."
        )
    kind, of_64_bits = samples.dtype.kind, samples.dtype.itemsize <= 8
    stays = (kind == "f" and of_64_bits) or (integers and kind in "iu")
    return samples if stays else check_reals(samples, name)


def say_shape(values: Any, array: NDArray) -> str:
    """Return the shape of an array for an error, and of what it was made if that has none."""
    return f"the shape {array.shape}" + ("" if array.ndim else f" of {type(values).__name__}")


def sort_values(values: Any, name: str) -> tuple[NDArray, NDArray[np.intp]]:
    """Return the different values of an array, sorted, and the position of each among them."""
    found = as_plain_array(values, name)
    try:
        return np.unique(found, return_inverse=True)
    except (TypeError, ValueError):  # the latter of arrays in an array
        kinds = sorted({type(value).__name__ for value in found.ravel().tolist()})
        raise TypeError(f"{name} must hold values of one type, got {kinds}.") from None


def as_values(name: str, values: NDArray) -> NDArray:
    """Return the values of a regression as numbers, also if they are True and False."""
    if values.dtype.kind in "iuf":
        return values
    is_text = values.dtype.kind in "USmM" or (
        values.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in values.flat)
    )
    try:
        if not is_text:
            return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    listed = values.ravel().tolist()
    others = [value for value in listed if not isinstance(value, int | float)] or listed
    raise ValueError(
        f"{name} holds {say_value(others[0])}, but the model has values as "
        "outputs, no classes: give numbers, such as 0 and 1 for the two classes of a single "
        f"output, or {name}.astype(float) of numbers that are written as text."
    )


def like(X: Any, samples: NDArray) -> Any:
    """Return new samples in the form of X: with its column names, if it is a DataFrame."""
    return type(X)(samples, columns=X.columns) if hasattr(X, "iloc") else samples


def choose_batch_size(n_features: int) -> int:
    """Return how many samples make a batch: a quarter of a million values, or 128 samples."""
    return max(2**18 // n_features, min(128, 2**24 // n_features), 1)
