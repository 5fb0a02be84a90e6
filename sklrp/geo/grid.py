"""The cells of a grid in order: from the axes of a container to one axis of cells, and back.

`GridVectorizer` keeps one of these grids; `AnomalyTransformer` compares grids by `check_grid`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional
from sklrp._coordinate_marks import MEMBERS, find_kind
from sklrp._warnings import warn_user
from sklrp.geo.coordinates import find_sample_dim, is_dataset, plain_values

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

CHANNEL = "variable"  # the dimension along which the variables of a Dataset are stacked


class FieldGrid:
    """The grid of a DataArray or Dataset: everything about it but its samples.

    Parameters
    ----------
    data : DataArray or Dataset
        Fields on the grid.
    sample_dim : str or None, default=None
        The dimension that counts the samples. None (default): time.
    channel_dim : str or None, default=None
        The dimension of a DataArray whose positions are variables.

    Attributes
    ----------
    dims : tuple of str
        The dimensions of a sample, channels first.
    shape : tuple of int
        Their lengths.
    """

    def __init__(
        self,
        data: DataArray | Dataset,
        sample_dim: str | None = None,
        channel_dim: str | None = None,
    ) -> None:
        self.sample_dim = find_sample_dim(data, sample_dim)
        self.channel_dim = channel_dim
        _check_variables(data, self.sample_dim, channel_dim)
        self.template = make_template(data, self.sample_dim)
        first = next(iter(data.data_vars.values())) if is_dataset(data) else data
        space = [str(dim) for dim in first.dims if dim not in (self.sample_dim, channel_dim)]
        self.has_channels = is_dataset(data) or channel_dim is not None
        channel = [CHANNEL if is_dataset(data) else str(channel_dim)] if self.has_channels else []
        self.dims = tuple(channel + space)
        sizes = {**data.sizes, CHANNEL: len(data.data_vars)} if is_dataset(data) else data.sizes
        self.shape = tuple(sizes[dim] for dim in self.dims)

    def stack(self, data: Any) -> DataArray:
        """Return samples on this grid as one DataArray, samples first, in the order of `dims`."""
        self.check(data)
        if is_dataset(data):
            data = data[list(self.template.data_vars)].to_dataarray(CHANNEL)
        stacked = data.transpose(self.sample_dim, *self.dims)
        return stacked if stacked.dtype.kind == "f" else stacked.astype(np.float64)

    def check(self, data: DataArray | Dataset) -> None:
        """Raise an error that says where, unless data lies on this grid."""
        check_grid(self.template, data, self.sample_dim)
        _check_variables(data, self.sample_dim, self.channel_dim)

    def names(self) -> list[str]:
        """Return the name of each cell, such as ``"sst[lat=2.5,lon=190.0]"``."""
        space = self.dims[1:] if self.has_channels else self.dims
        labels = [self._labels(dim) for dim in space]
        if is_dataset(self.template):
            prefixes = [str(name) for name in self.template.data_vars]
        else:
            prefix = str(self.template.name or "x")
            prefixes = [prefix]
            if self.has_channels:
                channel = self.dims[0]
                prefixes = [f"{prefix}[{channel}={label}" for label in self._labels(channel)]
        cells = [""]
        for dim, values in zip(space, labels, strict=True):
            cells = [f"{cell},{dim}={value}" for cell in cells for value in values]
        names = []
        for prefix in prefixes:
            opened = "[" in prefix
            names += [f"{prefix}{cell if opened else '[' + cell[1:]}]" for cell in cells]
        return names

    def _labels(self, dim: str) -> list[str]:
        """Return the coordinate of each position along a dimension as text."""
        if dim in self.template.coords:
            return [str(value) for value in plain_values(self.template[dim])]
        return [str(i) for i in range(self.template.sizes[dim])]

    def name_sample(self, stacked: DataArray, i: int) -> str:
        """Return how to speak of a sample: by its position and coordinate."""
        if self.sample_dim in stacked.coords:
            return f"sample {i} ({self.sample_dim}={plain_values(stacked[self.sample_dim])[i]})"
        return f"sample {i}"

    def unstack(
        self,
        values: NDArray,
        like: DataArray | Dataset | None = None,
        extra: tuple[str, Any] | None = None,
    ) -> Any:
        """Return values of shape (n_samples, [n_extra], *shape) in the form of the data."""
        # With `like`, in its order of dimensions and with the coordinates of its samples. `extra`
        # names an axis after that of the samples, and its coordinate.
        xr = import_optional("xarray", extra="geo", user="sklrp.geo")

        template = self.template
        if like is not None:
            self.check(like)
            if like.sizes[self.sample_dim] != len(values):
                raise ValueError(
                    f"like has {like.sizes[self.sample_dim]} samples along {self.sample_dim!r}, "
                    f"but there are {len(values)}: select the same samples of it."
                )
        form: Any = template if like is None else like
        added = () if extra is None else (extra[0],)

        def field(array: NDArray, dims: tuple[str, ...], one: DataArray, form: Any) -> DataArray:
            found = xr.DataArray(array, dims=(self.sample_dim, *added, *dims), name=one.name)
            at = form.dims.index(self.sample_dim) + 1
            order = (*form.dims[:at], *added, *form.dims[at:])
            return found.assign_attrs(one.attrs).transpose(*order)

        result: Any
        if is_dataset(template):
            axis = values.ndim - len(self.shape)
            fields = {
                name: field(values.take(k, axis), self.dims[1:], template[name], form[name])
                for k, name in enumerate(template.data_vars)
            }
            result = xr.Dataset(fields, attrs=template.attrs)
        else:
            result = field(values, self.dims, template, form)
        result = result.assign_coords(form.coords)
        return result if extra is None else result.assign_coords({extra[0]: list(extra[1])})


class ArrayGrid:
    """The grid of an array: the shape of a sample, for data without names.

    Parameters
    ----------
    shape : tuple of int
        The shape of a sample.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def names(self) -> list[str]:
        """Return the name of each cell, such as ``"x[2,3]"``."""
        return [f"x[{','.join(map(str, cell))}]" for cell in np.ndindex(*self.shape)]

    def stack(self, data: NDArray) -> NDArray:
        """Return samples as they are, after a check of their shape."""
        self.check(data)
        return data

    def check(self, data: NDArray) -> None:
        """Raise an error unless samples have the fitted shape."""
        if data.shape[1:] != self.shape:
            raise ValueError(
                f"the grid differs: a sample had the shape {self.shape} in fit, got "
                f"{data.shape[1:]}."
            )

    def name_sample(self, stacked: NDArray, i: int) -> str:
        """Return how to speak of a sample: by its position."""
        return f"sample {i}"

    def unstack(self, values: NDArray, like: Any = None, extra: Any = None) -> NDArray:
        """Return values of shape (n_samples, [n_extra], *shape) as they are."""
        return values


def make_template(data: Any, sample_dim: str) -> Any:
    """Return data without its samples: dimensions, attributes, coordinates that they share."""
    empty = data.isel({sample_dim: slice(0)})
    of_samples = [name for name in empty.coords if sample_dim in empty[name].dims]
    return empty.drop_vars(of_samples).compute()


def check_grid(template: Any, data: DataArray | Dataset, sample_dim: str) -> None:
    """Raise an error that says where, unless data lies on the grid of a template."""
    if is_dataset(data) != is_dataset(template):
        raise ValueError(
            f"fitted on a {type(template).__name__}, got a {type(data).__name__}: pass the same, "
            "with dataset[name], dataarray.to_dataset(name=...) or dataset.to_dataarray()."
        )
    if is_dataset(data) and set(data.data_vars) != set(template.data_vars):
        known, given = list(template.data_vars), list(data.data_vars)
        raise ValueError(
            f"the variables differ: fitted on {known}, got {given}. Select the fitted ones, "
            f"data[{known}]."
        )
    if set(data.dims) < set(template.dims):
        lost = [dim for dim in template.dims if dim not in data.dims]
        raise ValueError(
            f"the dimensions differ: fitted on {tuple(template.dims)}, got {tuple(data.dims)}. "
            f"Keep {lost} by selecting with a list, data.isel({lost[0]}=[0]), or add it, "
            f"data.expand_dims({str(lost[0])!r})."
        )
    if set(data.dims) != set(template.dims):
        raise ValueError(
            f"the dimensions differ: fitted on {tuple(template.dims)}, got {tuple(data.dims)}. "
            "Rename them, or select a position of those that are new."
        )
    for dim, size in template.sizes.items():
        if dim != sample_dim and data.sizes[dim] != size:
            raise ValueError(
                f"the grid differs: {dim!r} had {size} values in fit, got {data.sizes[dim]}. "
                f"{_say_difference(template[dim], data[dim])}"
            )
    for name in template.coords:
        if template[name].ndim:
            _check_coordinate(str(name), template[name], data)


def warn_of_other_fields(template: Any, data: DataArray | Dataset) -> None:
    """Warn of fields of another variable or in other units than those of a template."""
    advice = "the network knows the values of fit. Check them:"
    if is_dataset(template):
        pairs = [(template[name], data[name]) for name in template.data_vars]
    else:
        pairs = [(template, data)]
        before, now = template.name, data.name
        if _differ(before, now):
            warn_user(
                f"the fields are {now!r}, but {before!r} in fit: {advice} if they are the same "
                f"variable, data.rename({before!r})."
            )
    named: dict[tuple[Any, Any], list[str]] = {}  # the variables of each pair of units
    for known, given in pairs:
        before, now = known.attrs.get("units"), given.attrs.get("units")
        if _differ(before, now):
            named.setdefault((before, now), []).append(str(known.name or "data"))
    for (before, now), names in named.items():
        *first, last = names
        said = f"{', '.join(first)} and {last} are" if first else f"{last} is"
        warn_user(
            f"{said} in {now!r}, but in {before!r} in fit: {advice} convert it; if only the label "
            f"differs, .assign_attrs(units={before!r})."
        )


def _differ(before: Any, now: Any) -> bool:
    """Tell whether two names, or two units, are known and not the same."""
    return before is not None and now is not None and not _spelt_alike(before, now)


# Ways to write the units that fields of the climate are mostly in.
_SPELLINGS = {
    "k": "k kelvin degk degreek degreesk degkelvin",
    "c": "c celsius degc degreec degreesc degcelsius degreecelsius degreescelsius °c",
    "m/s": "m/s ms-1 ms^-1 ms**-1 meters/second",
    "kg/m2/s": "kg/m2/s kgm-2s-1 kgm^-2s^-1 kgm**-2s**-1",
    "1": "1 - dimensionless none",
}


def _spelt_alike(one: Any, other: Any) -> bool:
    """Tell whether two names, or two units, are the same but for how they are written."""
    plain = [str(v).lower().replace(" ", "").replace("_", "") for v in (one, other)]
    keys = {text: key for key, texts in _SPELLINGS.items() for text in texts.split()}
    first, second = (keys.get(text, text) for text in plain)
    return first == second


def without_units(data: Any) -> Any:
    """Return fields that say neither units nor, of a single one, a name."""

    def bare(field: DataArray) -> DataArray:
        kept = {name: v for name, v in field.attrs.items() if name != "units"}
        return field.drop_attrs(deep=False).assign_attrs(kept)

    if is_dataset(data):
        return data.assign({name: bare(field) for name, field in data.data_vars.items()})
    return bare(data).rename(None)


def _check_variables(data: DataArray | Dataset, sample_dim: str, channel_dim: str | None) -> None:
    """Raise an error unless all variables are numbers over the same dimensions."""
    if is_dataset(data):
        if channel_dim is not None:
            raise ValueError(
                f"channel_dim={channel_dim!r} is for a DataArray: the channels of a Dataset are "
                "its variables. Set channel_dim=None."
            )
        if not data.data_vars:
            raise ValueError("the Dataset has no variable: there is nothing to vectorize.")
        fields = {str(name): field for name, field in data.data_vars.items()}
        dims = set(next(iter(fields.values())).dims)
        for name, field in fields.items():
            if set(field.dims) != dims or sample_dim not in dims:
                raise ValueError(
                    f"the variable {name!r} has the dimensions {field.dims}, but all of a "
                    f"Dataset must have the same, {sample_dim!r} among them: select those that "
                    f"do, data[[{next(iter(fields))!r}, ...]]."
                )
    else:
        fields = {str(data.name or "data"): data}
        if channel_dim is not None and (channel_dim not in data.dims or channel_dim == sample_dim):
            raise ValueError(
                f"channel_dim={channel_dim!r} must be a dimension beside {sample_dim!r}, the "
                f"samples; the data has {data.dims}."
            )
    for name, field in fields.items():
        members = [str(d) for d in field.dims if str(d).lower() in MEMBERS]
        members = [dim for dim in members if dim not in (sample_dim, channel_dim)]
        if members and field.sizes[members[0]] > 1:
            dim = members[0]
            raise ValueError(
                f"the {field.sizes[dim]} positions along {dim!r} would become cells of one "
                f"sample: make each a sample, data.stack(sample=({dim!r}, {sample_dim!r})) and "
                f"sample_dim='sample'; select one, data.isel({dim}=0); or, if they are variables, "
                f"set channel_dim={dim!r}."
            )
        if field.dtype.kind not in "fiub":
            raise ValueError(f"{name!r} must hold numbers, got dtype {field.dtype}.")
        if field.ndim < 2:
            raise ValueError(
                f"{name!r} has only the dimension {field.dims}, but a sample needs one of cells "
                "too."
            )


def _check_coordinate(name: str, fitted: DataArray, data: DataArray | Dataset) -> None:
    """Raise an error that says where, unless data has a coordinate as in fit."""
    if name not in data.coords:
        raise ValueError(
            f"the coordinate {name!r} is missing, so that the grid cannot be compared with that "
            f"in fit: data.assign_coords({name}=...), or drop it in fit too."
        )
    difference = _say_difference(fitted, data[name])
    if difference:
        raise ValueError(f"the grid differs: {difference}")


def _say_difference(old: DataArray, new: DataArray) -> str:
    """Return where a coordinate first differs from that in fit and what to do, or nothing."""
    name = old.name
    if set(old.dims) != set(new.dims):
        return f"{name!r} had the dimensions {old.dims} in fit, got {new.dims}."
    was, now = plain_values(old), plain_values(new.transpose(*old.dims))
    advice = "Regrid it, data.interp_like(fitted), or fit anew."
    if was.shape != now.shape:
        first = min(was.size, now.size)
        was, now = was.ravel()[:first], now.ravel()[:first]
        shorter = f"The first {first} values of {name!r} are the same; select the fitted ones."
    else:
        shorter = ""
        if was.ndim == 1 and _same_values(np.sort(was), np.sort(now)).all():
            advice = f"It has the same values in another order: data.sel({name}=fitted.{name})."
        elif was.ndim == 1 and _same_meridians(old, new):
            start = 180 if was.min() < 0 else 0
            turned = f"(data.{name} + {start}) % 360 - {start}" if start else f"data.{name} % 360"
            advice = (
                "It has the same meridians in another convention: "
                f"data.assign_coords({name}={turned}).sel({name}=fitted.{name})."
            )
    different = np.argwhere(~_same_values(was, now))
    if not len(different):
        return shorter
    at = tuple(different[0])
    where = ",".join(map(str, at))
    return f"{name}[{where}] is {now[at]}, was {was[at]} in fit. {advice}"


def _same_meridians(old: DataArray, new: DataArray) -> bool:
    """Tell whether two coordinates are the same longitudes but for whole turns and order."""
    is_number = all(plain_values(c).dtype.kind in "fiu" for c in (old, new))
    if not is_number or "longitude" not in (find_kind(old), find_kind(new)):
        return False
    one, other = (np.round(c.values.astype(np.float64) % 360, 3) % 360 for c in (old, new))
    return bool(np.allclose(np.sort(one), np.sort(other), rtol=0, atol=0.002))


def _same_values(one: NDArray, other: NDArray) -> NDArray[np.bool_]:
    """Tell which values are the same, but for the last digits of float32."""
    if one.dtype.kind == "f" and other.dtype.kind in "fiu":
        return np.isclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)
    return np.asarray(one == other)
