"""Real fields of the ocean: anomalies of the Pacific's sea-surface temperature.

`load_pacific_sst` reads them from a file of the package eofs; examples and tests start with them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from sklearn.utils import Bunch

from sklrp._constraints import FINITE, constrained
from sklrp.datasets.gridded_array import GriddedArray
from sklrp.datasets.nino34 import label_index, nino34_mask
from sklrp.geo.areas import cosine_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["load_pacific_sst"]

_PACIFIC_SST_DESCR = """\
Sea-surface-temperature anomalies of the Pacific
------------------------------------------------
One mean over November to March for each of the 50 winters 1962/63 to 2011/12, on a grid of 5
degrees: 18 latitudes from 22.5 S to 62.5 N by 30 longitudes from 117.5 E to 262.5 E (97.5 W).
90 of the 540 cells are land, the same in every winter. Anomalies are in kelvin.

The index is the mean over the Niño 3.4 box (5 S-5 N, 170 W-120 W; 20 cells), weighted by the
cosine of latitude. Winters above +0.5 K are labelled "El Niño" (17), those below -0.5 K "La Niña"
(18); the 15 between are "neutral".

The anomalies are not centred: 73 cells have a time mean beyond 0.3 K. Standardise within the
training fold. The label is a function of 20 of the cells, so that the task is a demonstration on
real data and no evidence of skill; it is harder with the tropics removed:
``data[:, abs(latitude) > 15]``.

The file "sst_ndjfm_anom.nc" is an example of the Python package "eofs" by Andrew Dawson
(J. Open Res. Softw. 4(1), 2016, doi:10.5334/jors.122) and is read from its installation.
"""
_PACIFIC_SST_FILE = Path("examples", "example_data", "sst_ndjfm_anom.nc")


def _find_pacific_sst() -> Path:
    """Return the path of the SST file in the installation of eofs, without importing eofs."""
    spec = find_spec("eofs")
    if spec is None:
        problem = "is not installed"
    else:
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        for path in (folder / _PACIFIC_SST_FILE for folder in folders):
            if path.is_file():
                return path
        problem = f"has no {_PACIFIC_SST_FILE.as_posix()!r} in {[str(f) for f in folders]}"
    raise ImportError(
        "load_pacific_sst reads an example file of the package 'eofs', which "
        f"{problem}. Run: pip install 'sklrp[examples]'"
    )


def _latitude_name(degrees: float) -> str:
    return f"{abs(degrees):g}{'S' if degrees < 0 else 'N'}"


@overload
def load_pacific_sst(  # numpydoc ignore=GL08
    *, neutral: bool = False, fill_land: float = 0.0, return_X_y: Literal[False] = False
) -> Bunch: ...
@overload
def load_pacific_sst(  # numpydoc ignore=GL08
    *, neutral: bool = False, fill_land: float = 0.0, return_X_y: Literal[True]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...
@constrained(
    {
        "neutral": ["boolean"],
        "fill_land": [FINITE, "nan"],
        "return_X_y": ["boolean"],
    }
)
def load_pacific_sst(
    *, neutral: bool = False, fill_land: float = 0.0, return_X_y: bool = False
) -> Bunch | tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Load sea-surface-temperature anomalies of 50 Pacific winters, labelled El Niño or La Niña.

    Real gridded fields, small enough for a first look at a geospatial task; nothing is downloaded.
    The label is the sign of the Niño 3.4 index where it lies beyond ±0.5 K. The file comes with
    the optional package `eofs` (``pip install 'sklrp[examples]'``).

    Parameters
    ----------
    neutral : bool, default=False
        Whether to keep the 15 winters whose index lies within ±0.5 K, as a class of their own.
    fill_land : float, default=0.0
        Value, in K, of the 90 cells on land. The default, 0, is "no anomaly": every classifier
        takes it, and rules that share relevance out by the input give it none. ``np.nan`` leaves
        the cells missing, as plots and imputers want it. ``data[:, ~land_mask]``, of shape
        (n_samples, 450), is the table of the ocean alone.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like, with the attributes

        data : ndarray of shape (n_samples, n_latitudes, n_longitudes)
            Anomalies of (35, 18, 30) or, with `neutral`, (50, 18, 30) in K, in order of time. The
            array remembers latitude, longitude and land, so that maps of its samples are drawn on
            their grid: it keeps them where samples are chosen, ``data[train]``, and where each
            value is changed in place, ``data - data.mean(axis=0)``; not where cells are moved,
            dropped or flattened, nor in ``np.asarray(data)``, which is a plain array. Elsewhere
            the displays take the whole Bunch as ``grid=``.
        target : ndarray of shape (n_samples,)
            The classes as integers, in ascending order of the index.
        target_names : ndarray of shape (n_classes,)
            ``"La Niña"``, ``"neutral"`` if asked for, and ``"El Niño"``.
        index : ndarray of shape (n_samples,)
            The Niño 3.4 index in K.
        year : ndarray of shape (n_samples,)
            The year in which the winter begins: 1997 is November 1997 to March 1998.
        latitude : ndarray of shape (n_latitudes,)
            Latitude of the cells' centres in degrees north, ascending.
        longitude : ndarray of shape (n_longitudes,)
            Longitude of the cells' centres in degrees east, ascending, from 117.5 to 262.5.
        land_mask : ndarray of shape (n_latitudes, n_longitudes), dtype=bool
            True on land, where `data` holds `fill_land`.
        nino34_mask : ndarray of shape (n_latitudes, n_longitudes), dtype=bool
            True in the Niño 3.4 box.
        feature_names : ndarray of shape (n_latitudes * n_longitudes,)
            Names such as ``"2.5S 192.5E"`` of the columns of ``data.reshape(n_samples, -1)``.
        DESCR : str
            Description of the data.
        filename : str
            Path of the file.

    (data, target) : tuple of ndarray
        If `return_X_y`.

    Raises
    ------
    ImportError
        If the package `eofs` is not installed, or comes without the file.
    ValueError
        If a parameter is of a wrong type.

    References
    ----------
    .. [1] A. Dawson, "eofs: A library for EOF analysis of meteorological, oceanographic, and
       climate data", Journal of Open Research Software 4(1), 2016, doi:10.5334/jors.122.
    .. [2] K. E. Trenberth, "The definition of El Niño", Bulletin of the American Meteorological
       Society 78(12), 1997 (the Niño 3.4 index).

    Examples
    --------
    >>> from sklrp.datasets import load_pacific_sst
    >>> sst = load_pacific_sst()
    >>> sst.data.shape
    (35, 18, 30)
    >>> [(str(name), int(sum(sst.target == i))) for i, name in enumerate(sst.target_names)]
    [('La Niña', 18), ('El Niño', 17)]
    >>> strongest = sst.index.argmax()
    >>> print(f"{sst.year[strongest]}: {sst.index[strongest]:+.1f} K")
    1997: +2.3 K
    """
    from scipy.io import netcdf_file

    path = _find_pacific_sst()
    with netcdf_file(path, mmap=False) as file:
        sst = file.variables["sst"].data.astype(float)  # native byte order
        missing = sst == file.variables["sst"].missing_value
        latitude = file.variables["latitude"].data.astype(float)
        longitude = file.variables["longitude"].data.astype(float)
        first_day = file.variables["bounds_time"].data[:, 0].astype("timedelta64[D]")
    year = (np.datetime64("1800-01-01") + first_day).astype("datetime64[Y]").astype(int) + 1970

    box = nino34_mask(latitude, longitude)
    weight = cosine_weights(latitude)[:, None] * box
    index = np.tensordot(sst, weight / weight.sum())
    target, target_names, keep = label_index(index, 0.5, neutral)
    land = missing.all(axis=0)
    data = GriddedArray(np.where(missing, fill_land, sst), latitude, longitude, land)[keep]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=target_names,
        index=index[keep],
        year=year[keep],
        latitude=latitude,
        longitude=longitude,
        land_mask=land,
        nino34_mask=box,
        feature_names=np.array(
            [f"{_latitude_name(lat)} {lon:g}E" for lat in latitude for lon in longitude]
        ),
        DESCR=_PACIFIC_SST_DESCR,
        filename=str(path),
    )
