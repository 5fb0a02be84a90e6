"""Data for examples and tests: images with a known answer, and real fields of the ocean.

The functions know nothing of the other modules of the package: they return plain arrays.
"""

from __future__ import annotations

from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["load_pacific_sst", "make_squares"]


def _orient(images: NDArray, side: str) -> NDArray:
    """Turn square images of ``side="left"`` (the last two axes) so that left becomes `side`."""
    if side in ("top", "bottom"):
        images = images.swapaxes(-2, -1)
    if side == "right":
        images = images[..., ::-1]
    if side == "bottom":
        images = images[..., ::-1, :]
    return np.ascontiguousarray(images)


@validate_params(
    {
        "n_per_class": [Interval(Integral, 1, None, closed="left")],
        "size": [Interval(Integral, 5, None, closed="left")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "amplitude": [Interval(Real, 0, None, closed="neither")],
        "side": [StrOptions({"left", "right", "top", "bottom"})],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_squares(
    n_per_class: int = 250,
    *,
    size: int = 100,
    noise: float = 0.1,
    amplitude: float = 0.5,
    side: str = "left",
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Make noisy images of two classes that differ in one known square.

    Use it to grade relevance maps: whatever a map shows outside of the returned mask comes from
    the network, not from the data. Every image holds two distractors, the same in both classes: a
    square of ``+amplitude`` at the upper and one of ``-amplitude`` at the lower end of one edge.
    A third square at the middle of the opposite edge, the only place that tells the classes apart,
    is ``+amplitude`` in class 1 and ``-amplitude`` in class 0. Uniform noise is added everywhere.
    At the default size this is the synthetic task of [1]_: squares at rows 20-30 and 70-80 of
    columns 70-80, and at rows 45-55 of columns 20-30.

    Parameters
    ----------
    n_per_class : int, default=250
        Number of images of each class.
    size : int, default=100
        Height and width of the images in pixels, at least 5. The squares keep their relative
        place and are ``size / 10`` pixels wide, rounded.
    noise : float, default=0.1
        The noise is uniform in ``[-noise, noise)``, in the units of `amplitude`; 0 for none.
    amplitude : float, default=0.5
        Absolute value of the squares.
    side : {"left", "right", "top", "bottom"}, default="left"
        The edge near which the discriminating square lies, the distractors being at the opposite
        one. A network that reads the image as a sequence sees the square early or late: for
        ``sweep="right"`` the square at the ``"left"`` comes first, for ``sweep="down"`` the one at
        the ``"top"``. The same `random_state` gives the same images, mirrored or transposed.
    random_state : int, RandomState instance or None, default=None
        Determines the noise and the order of the samples. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (2 * n_per_class, size, size)
        The images, in random order.
    y : ndarray of shape (2 * n_per_class,)
        The classes, 0 and 1.
    mask : ndarray of shape (size, size), dtype=bool
        True on the discriminating square.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    TypeError
        If a parameter is of a wrong type.

    References
    ----------
    .. [1] M. Landt-Hayen, P. Kröger, M. Claus, W. Rath, "Layer-wise relevance propagation for
       echo state networks applied to Earth system variability", 2022, arXiv:2210.09958.

    Examples
    --------
    >>> from sklrp.datasets import make_squares
    >>> X, y, mask = make_squares(n_per_class=10, size=20, random_state=0)
    >>> X.shape, y.shape, mask.shape
    ((20, 20, 20), (20,), (20, 20))
    >>> print(f"{X[y == 0][:, mask].mean():+.1f} {X[y == 1][:, mask].mean():+.1f}")
    -0.5 +0.5
    """
    rng = check_random_state(random_state)
    X = rng.uniform(-noise, noise, size=(2 * n_per_class, size, size))
    y = rng.permutation(np.repeat([0, 1], n_per_class))

    def span(percent: int) -> slice:
        start = (percent * size + 50) // 100
        return slice(start, start + (size + 5) // 10)

    low, middle, high = span(20), span(45), span(70)
    mask = np.zeros((size, size), dtype=bool)
    mask[middle, low] = True
    X[:, mask] += np.where(y == 1, amplitude, -amplitude)[:, None]
    X[:, low, high] += amplitude
    X[:, high, high] -= amplitude
    return _orient(X, side), y, _orient(mask, side)


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


@validate_params(
    {
        "neutral": ["boolean"],
        "fill_land": [Real],
        "return_X_y": ["boolean"],
    },
    prefer_skip_nested_validation=True,
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
            Anomalies of (35, 18, 30) or, with `neutral`, (50, 18, 30) in K, in order of time.
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

    box_latitude, box_longitude = abs(latitude) <= 5, (longitude >= 190) & (longitude <= 240)
    nino34_mask = np.outer(box_latitude, box_longitude)
    weight = np.cos(np.radians(latitude))[:, None] * nino34_mask
    index = np.tensordot(sst, weight / weight.sum())

    target = np.where(index < -0.5, 0, np.where(index > 0.5, 2, 1))
    target_names = np.array(["La Niña", "neutral", "El Niño"])
    keep = np.ones(len(index), dtype=bool)
    if not neutral:
        keep = target != 1
        target, target_names = target // 2, target_names[[0, 2]]
    target = target[keep]
    data = np.where(missing, fill_land, sst)[keep]
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
        land_mask=missing.all(axis=0),
        nino34_mask=nino34_mask,
        feature_names=np.array(
            [f"{_latitude_name(lat)} {lon:g}E" for lat in latitude for lon in longitude]
        ),
        DESCR=_PACIFIC_SST_DESCR,
        filename=str(path),
    )
