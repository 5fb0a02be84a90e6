"""Samples, labels and masks in files, and relevance written in the form of the samples.

The commands read what users give them by it, and `.runs` writes by it. Labels are matched to the
classes of the model.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional, suggest
from sklrp._files import check_regular, replacing
from sklrp._wording import shorten
from sklrp.cli.call_checks import form_of
from sklrp.cli.npz_rows import NpzRows
from sklrp.cli.tables import is_number, read_csv, read_lines, read_table, write_csv
from sklrp.geo.storage import store

_CLASS = "class"  # the dimension of the explained classes


@contextmanager
def naming_fill(fill: float | None, given: Mapping[Path, Any]) -> Iterator[None]:
    """Name ``--fill`` where a network refuses arrays as some of their values are missing.

    Parameters
    ----------
    fill : float or None
        The option; fields that a pipeline takes as they are have none.
    given : mapping of pathlib.Path to ndarray, DataFrame or fields
        The samples of each file, all or those that were read together.
    """
    try:
        yield
    except ValueError as error:
        if fill is None and "NaN" in str(error):
            for path, X in given.items():
                is_array = isinstance(X, np.ndarray) and X.dtype.kind == "f"
                if is_array and (n := np.count_nonzero(np.isnan(X))):
                    raise ValueError(
                        f"{path} has {n} NaN of {X.size} values in {len(X)} samples, which this "
                        "model does not take: --fill 0 puts 0 in their place, as on land; fill as "
                        "the training data were, or save a pipeline with the step that filled "
                        "them."
                    ) from error
        raise


class Samples:
    """Samples in a file, read in parts where its form allows it: all but CSV.

    Parameters
    ----------
    path : pathlib.Path
        The file, or the folder of a zarr store.
    variable : str or None, default=None
        Which array of it, where it holds several.
    columns : sequence of str or None, default=None
        The columns of a CSV file with a header that are the features; None takes all.
    fill : float or None, default=None
        What to put in place of missing values; None leaves them.
    as_table : bool, default=False
        Whether the columns of a CSV file become a DataFrame, which may hold texts.

    Attributes
    ----------
    form : str
        The form of the file, a value of `FORMS`.
    shape : tuple of int
        The shape of all samples, the first axis that of the samples.
    variable : str or None
        The array's name, of a file that names it.

    Raises
    ------
    ValueError
        If the file is not what its suffix says, or it is not plain which array is meant.
    """

    def __init__(
        self,
        path: Path,
        variable: str | None = None,
        columns: Sequence[str] | None = None,
        fill: float | None = None,
        *,
        as_table: bool = False,
    ) -> None:
        self.path = path
        self.form = form_of(path)
        self.variable = variable
        self.fill = fill
        self.header: list[str] | None = None
        self._files = ExitStack()
        self._bounds: dict[Any, Any] = {}
        self._array: Any = None
        if self.form in ("NetCDF", "zarr"):
            self._open_xarray()
        elif variable is not None and self.form != "npz":
            raise ValueError(f"--variable {variable}: {path} holds one array, which has no name.")
        elif self.form == "CSV" and as_table and columns is not None:
            self._array = read_table(path, columns)
            self.header = list(self._array)
        elif self.form == "CSV":
            self._array, self.header = read_csv(path, columns, fill)
        else:
            self._open_numpy()
        self.shape: tuple[int, ...] = tuple(self._array.shape)
        if hasattr(self._array, "dtype") and self._array.dtype.kind not in "biuf":
            raise ValueError(f"{path} must hold numbers, got dtype {self._array.dtype}.")

    def __enter__(self) -> Samples:
        return self

    def __exit__(self, *exc: object) -> None:
        self._files.close()

    def read(self, rows: slice = slice(None), *, filled: bool = True) -> Any:
        """Return some of the samples, in memory.

        Parameters
        ----------
        rows : slice, default=slice(None)
            Which; all by default.
        filled : bool, default=True
            Whether missing values are filled, if `fill` says with what.

        Returns
        -------
        ndarray or DataFrame of shape (n_rows, ...)
            The samples.
        """
        is_table = hasattr(self._array, "iloc")
        X = self._array.iloc[rows] if is_table else np.array(self._array[rows], order="C")
        return self.fill_in(X) if filled else X

    def buffers(self, X: Any) -> Iterator[Any]:
        """Yield the content of samples that were read, for a checksum."""
        yield X.to_csv().encode() if hasattr(X, "iloc") else X.data

    def fill_in(self, X: Any) -> Any:
        """Return samples whose missing values are filled, if `fill` says with what."""
        if self.fill is not None and hasattr(X, "iloc"):
            return X.fillna(dict.fromkeys(X.select_dtypes("number"), self.fill))
        if self.fill is None or X.dtype.kind != "f":
            return X
        return np.where(np.isnan(X), X.dtype.type(self.fill), X)

    def write(
        self,
        path: Path,
        relevance: NDArray[Any],
        classes: Sequence[Any] | None,
        about: dict[str, Any],
    ) -> None:
        """Write relevance in the form of the samples, with their names and coordinates.

        Parameters
        ----------
        path : pathlib.Path
            The file, replaced when it is complete.
        relevance : ndarray of shape (n_samples, ...) or (n_samples, n_classes, ...)
            The relevance.
        classes : sequence or None
            The classes along the second axis, or None if there is no such axis.
        about : dict
            What it is, for forms that hold attributes.
        """
        with replacing(path, is_store=self.form == "zarr") as part:
            if self.form in ("NetCDF", "zarr"):
                self._write_xarray(part, relevance, classes, about)
            elif self.form == "CSV":
                write_csv(part, relevance, self.header, classes)
            else:
                with open(part, "xb") as file:
                    if self.form == "npz":
                        _write_npz(file, str(self.variable), relevance)
                    else:
                        np.save(file, relevance)

    def check_classes(self) -> None:
        """Raise an error if relevance of every class has no name for the axis of the classes."""
        if _CLASS in {*getattr(self._array, "coords", ()), *getattr(self._array, "dims", ())}:
            raise ValueError(
                f"{self.path} has a dimension or coordinate {_CLASS!r}, as --target all calls the "
                "axis of the classes: rename it, or explain one class."
            )

    def _open_numpy(self) -> None:
        loaded = load_numpy(self.path)
        if isinstance(loaded, np.ndarray):
            self._array = loaded
            return
        self._files.enter_context(loaded)
        members = set(loaded.zip.namelist())
        arrays = [name for name in loaded.files if f"{name}.npy" in members]
        self.variable = choose_array(self.path, arrays, self.variable)
        self._array = NpzRows(loaded.zip, self.variable, self.path)
        self._files.callback(self._array.close)

    def _open_xarray(self) -> None:
        dataset = open_fields(self.path, self.form, self._files)
        self._bounds = find_bounds(dataset)
        names = [n for n, v in dataset.items() if v.ndim > 1 and n not in self._bounds]
        names = names if self.variable is None else list(dataset)
        self.variable = choose_array(self.path, names, self.variable)
        self._array = dataset[self.variable]

    def _write_xarray(
        self, path: Path, relevance: NDArray, classes: Sequence[Any] | None, about: dict[str, Any]
    ) -> None:
        xr = import_optional("xarray", extra="geo", user="NetCDF or zarr")
        template = self._array
        dims, coords = list(template.dims), dict(template.coords)
        if classes is not None:
            dims.insert(1, _CLASS)
            coords[_CLASS] = np.array([str(label) for label in classes], dtype=object)
        result = xr.DataArray(relevance, coords, dims, "relevance", about).to_dataset()
        write_fields(result.assign(self._bounds), path, self.path, self.form)


def open_fields(path: Path, form: str, files: ExitStack) -> Any:
    """Return the Dataset of a file, which is closed with others."""
    xr = import_optional("xarray", extra="geo", user="NetCDF or zarr")
    options = {"engine": "zarr", "consolidated": False} if form == "zarr" else {}
    try:
        return files.enter_context(xr.open_dataset(path, **options))
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no readable {form} file: {error}") from error


def find_bounds(dataset: Any) -> dict[Any, Any]:
    """Return the variables that are the bounds of cells."""
    named = {c.attrs.get("bounds", c.encoding.get("bounds")) for c in dataset.coords.values()}
    return {name: v for name, v in dataset.items() if name in named}


def write_fields(dataset: Any, part: Path, like: Path, form: str) -> None:
    """Write a Dataset in the form of another file."""
    options: dict[str, Any] = {}
    if form == "zarr":
        version = 2 if (like / ".zgroup").exists() else 3
        options = {"consolidated": False, "zarr_format": version}
    store(dataset, part, zarr=form == "zarr", **options)


def choose_array(path: Path, names: list[Any], variable: str | None) -> str:
    """Return the array of a file that was asked for, or the only one."""
    if (variable is None and len(names) == 1) or variable in names:
        return str(names[0] if variable is None else variable)
    if not names:
        raise ValueError(f"{path} holds no array of samples and their values.")
    given = "" if variable is None else f"--variable {variable} is not there: "
    raise ValueError(
        f"{given}{path} holds the arrays {shorten(str(sorted(map(str, names))))}; choose one "
        "of them by --variable."
    )


def load_numpy(path: Path) -> Any:
    """Return the array of a npy file, mapped to memory, or the arrays of a npz file."""
    try:
        if form_of(path) == "npz" and not zipfile.is_zipfile(path):
            raise ValueError("it is no archive, or was truncated")
        with np.errstate(over="ignore"):  # of sizes that a header lies about
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is no readable {form_of(path)} file of numbers or texts: {error}"
        ) from error


def read_labels(path: Path, classes: NDArray[Any] | None, n_samples: int) -> NDArray[Any]:
    """Return labels from a npy file, or from a text file of a line for each sample.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    classes : ndarray of shape (n_classes,) or None
        The classes of the model; None if the labels are values, of a regression.
    n_samples : int
        Number of labels that there should be; a text file may have a line above them.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_values)
        The labels, as the model has them; the values of a regression in as many columns as the
        file has.
    """
    if classes is None:
        return _read_values(path, n_samples)
    if path.suffix.lower() == ".npy":
        stored = load_numpy(path)
        _check_count(path, stored.size, n_samples, "labels")  # before any of them is read
        given = stored.ravel().tolist()
    else:
        given = _lines_of(path, n_samples + 1)
        if len(given) == n_samples + 1 and given[0] not in map(str, classes):
            del given[0]
    _check_count(path, len(given), n_samples, "labels")
    return np.array([find_class(label, classes, str(path)) for label in given], classes.dtype)


def _lines_of(path: Path, most: int) -> list[str]:
    """Return lines of a text file that are not empty, one more than there may be at most."""
    if not str(path).startswith("/dev/fd/"):  # the shell's <(command) ends
        check_regular(path)
    with open(path, encoding="utf-8-sig") as file:
        try:
            filled = (line.strip() for line in read_lines(file, path))
            lines = list(itertools.islice((line for line in filled if line), most + 1))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is neither a .npy file nor a text file: {error}") from error
    return [line.strip("\"'") for line in lines]


def _check_count(path: Path, n: int, n_samples: int, what: str) -> None:
    if n != n_samples:
        n_said = f"more than {n_samples + 1}" if n > n_samples + 1 else n
        raise ValueError(f"{path} holds {n_said} {what}, but there are {n_samples} samples.")


def _read_values(path: Path, n_samples: int) -> NDArray[np.float64]:
    """Return the values of a regression as numbers; several on a line are of several outputs."""
    if path.suffix.lower() == ".npy":
        given: Any = load_numpy(path)
        _check_count(path, len(given) if given.ndim else 1, n_samples, "labels")
        if given.dtype.kind not in "biuf":
            raise ValueError(
                f"{path} must hold numbers, as the model is a regressor: got dtype {given.dtype}."
            )
    else:
        given = [line.replace(",", " ").split() for line in _lines_of(path, n_samples + 1)]
        if len(given) == n_samples + 1 and not any(map(is_number, given[0])):  # names
            del given[0]
        widths = sorted(set(map(len, given)))
        if len(widths) > 1:
            raise ValueError(
                f"{path} holds {widths[0]} values on one line and {widths[-1]} on another: give "
                "as many for each sample."
            )
    try:
        values = np.array(given, dtype=np.float64)
    except ValueError as error:
        raise ValueError(
            f"{path} must hold numbers, as the model is a regressor: {error}."
        ) from error
    _check_count(path, len(values) if values.ndim else 1, n_samples, "labels")
    values = values.reshape(n_samples, -1)
    return values[:, 0] if values.shape[1] == 1 else values


def find_class(label: Any, classes: NDArray[Any], owner: str) -> Any:
    """Return the class that is a label, or is written as it.

    Parameters
    ----------
    label : object
        The label, or its text.
    classes : ndarray of shape (n_classes,)
        The classes of the model.
    owner : str
        Where the label comes from, for the error.

    Returns
    -------
    object
        The class.
    """
    known = classes.tolist()
    found = [c for c in known if c == label] or [c for c in known if str(c) == str(label)]
    if not found:
        meant = suggest(str(label), map(str, known))
        raise ValueError(f"{owner}: {label!r} is not one of the model's classes {known}.{meant}")
    return found[0]


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Return a mask in the shape of a sample, from a file of zeros and ones.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    ndarray of bool
        The mask.
    """
    with Samples(path) as file:
        mask = file.read()
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{path} must hold zeros and ones, or False and True, got other values.")
    return mask.astype(bool)


def _write_npz(file: IO[bytes], name: str, array: NDArray) -> None:
    """Write an array of any name, also of one that is an argument of `numpy.savez`."""
    with (
        zipfile.ZipFile(file, "w") as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
