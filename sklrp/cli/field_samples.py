"""Fields in files for models that take fields: raw NetCDF and zarr, and relevance like them.

`.loaded_models` opens them where a pipeline has a `GridVectorizer`. Fields are read in parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional
from sklrp._files import replacing
from sklrp.cli.call_checks import form_of
from sklrp.cli.samples import choose_array, find_bounds, open_fields, write_fields
from sklrp.geo.coordinates import is_dataset
from sklrp.geo.vectorizer import GridVectorizer


class FieldSamples:
    """Fields in a NetCDF file or a zarr store, as a model with a grid takes them.

    Parameters
    ----------
    path : pathlib.Path
        The file, or the folder of a zarr store.
    vectorizer : GridVectorizer
        The model's, which knows the dimension of the samples and the variables.
    variable : str or None, default=None
        Which variable, for a model of one; None takes that of its name, or the only one.

    Attributes
    ----------
    form : str
        The form of the file.
    shape : tuple of int
        The number of samples, of variables, and of values in one of them.

    Raises
    ------
    ValueError
        If the file is of another form, or lacks a variable or the dimension of the samples.
    """

    def __init__(
        self, path: Path, vectorizer: GridVectorizer, variable: str | None = None
    ) -> None:
        self.path = path
        self.form = form_of(path)
        if self.form not in ("NetCDF", "zarr"):
            raise ValueError(
                f"{path} holds no coordinates, but the model has a GridVectorizer, which compares "
                "them: give a NetCDF file or a zarr store."
            )
        grid = vectorizer.grid_
        self._sample_dim: str = grid.sample_dim
        self._files = ExitStack()
        dataset = open_fields(path, self.form, self._files)
        self._bounds = find_bounds(dataset)
        self._fields = self._select(dataset, grid.template, variable)
        if self._sample_dim not in self._fields.dims:
            raise ValueError(
                f"{path} has the dimensions {tuple(self._fields.dims)}, but the model's samples "
                f"lie along {self._sample_dim!r}: rename that dimension."
            )
        variables = self._variables(self._fields)
        n_samples = self._fields.sizes[self._sample_dim]
        n_values = variables[0].isel({self._sample_dim: 0}).size if n_samples else 0
        self.shape: tuple[int, ...] = (n_samples, len(variables), n_values)
        if not all(self.shape):
            raise ValueError(f"{path} holds no sample along {self._sample_dim!r}.")

    def __enter__(self) -> FieldSamples:
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
            Ignored: the model knows what is missing.

        Returns
        -------
        DataArray or Dataset
            The fields.
        """
        return self._fields.isel({self._sample_dim: rows}).load()

    def buffers(self, fields: Any) -> Iterator[bytes]:
        """Yield the content of fields that were read, for a checksum."""
        if self._sample_dim in fields.coords:
            yield str(fields[self._sample_dim].values.tolist()).encode()
        for field in self._variables(fields):
            yield np.ascontiguousarray(field.values).tobytes()

    def as_array(self, relevance: Any) -> NDArray[np.floating]:
        """Return the relevance of fields as an array: samples, then variables, if several."""
        found = [self._samples_first(field).values for field in self._variables(relevance)]
        return np.stack(found, axis=1) if is_dataset(relevance) else found[0]

    def write(self, path: Path, relevance: NDArray[Any], first: Any) -> None:
        """Write relevance as the fields that `sklrp.geo.explain` returns.

        Parameters
        ----------
        path : pathlib.Path
            The file, replaced when it is complete.
        relevance : ndarray of shape (n_samples, ...)
            The relevance of all samples, as `as_array` returns it.
        first : DataArray or Dataset
            The relevance of the first sample, which has the names and attributes.
        """
        xr = import_optional("xarray", extra="geo", user="NetCDF or zarr")
        dim = self._sample_dim
        moving = {k: c for k, c in self._fields.coords.items() if dim in c.dims}
        fixed = {k: c for k, c in first.coords.items() if dim not in c.dims}

        def fill(field: Any, values: NDArray[Any]) -> Any:
            dims = self._samples_first(field).dims
            made = xr.DataArray(values, dims=dims, name=field.name, attrs=field.attrs)
            return made.transpose(*field.dims)

        if is_dataset(first):
            fields = {
                name: fill(field, relevance[:, k])
                for k, (name, field) in enumerate(first.data_vars.items())
            }
            result = xr.Dataset(fields, {**fixed, **moving}, first.attrs)
        else:
            result = fill(first, relevance).assign_coords({**fixed, **moving}).to_dataset()
        with replacing(path, is_store=self.form == "zarr") as part:
            write_fields(result.assign(self._bounds), part, self.path, self.form)

    def _select(self, dataset: Any, template: Any, variable: str | None) -> Any:
        """Return the fields that a model takes."""
        if is_dataset(template):
            names = list(template.data_vars)
            if variable is not None:
                raise ValueError(f"--variable {variable}: the model takes the variables {names}.")
            if lost := [name for name in names if name not in dataset.data_vars]:
                raise ValueError(
                    f"{self.path} lacks the variables {lost} that the model was trained on; it "
                    f"has {sorted(map(str, dataset.data_vars))}."
                )
            return dataset[names]
        if variable is None and template.name in dataset.data_vars:
            variable = str(template.name)
        names = [n for n, v in dataset.items() if v.ndim > 1 and n not in self._bounds]
        return dataset[choose_array(self.path, names, variable)]

    def _samples_first(self, field: Any) -> Any:
        return field.transpose(self._sample_dim, ...)

    @staticmethod
    def _variables(fields: Any) -> list[Any]:
        return list(fields.data_vars.values()) if is_dataset(fields) else [fields]
