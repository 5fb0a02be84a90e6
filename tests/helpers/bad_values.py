"""Values of every kind for every parameter, and what an answer to them is worth.

`tests/test_bad_values.py` gives them to every public callable, as `valid_calls` makes the calls.
What a parameter may be follows from its constraints, where the callable has them as scikit-learn's
do, else from its annotation; `MAY_BE` says what neither can.
"""

from __future__ import annotations

import inspect
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy.sparse import csr_matrix
from sklearn.exceptions import NotFittedError

from sklrp import Epsilon

# Parameters whose errors may be in scikit-learn's own words, which its users know.
SCIKIT_LEARNS = ("X", "y", "sample_weight", "X_train", "y_train", "correlation")
# Errors of parameters that are out of place whatever their value is.
_OUT_OF_PLACE = (
    "without X_train|go together|drawn as a|leave output out|makes a number|makes axes|"
    "holds? several inputs|training diverged|a function of the output"
)
# What errors of this package say beside parameter and value: what may be, or what to do.
_REMEDY = re.compile(
    r"\b(must|needs?|takes?|wants|has|have|is in|are in|only|one of|neither|between"
    r"|the classes are|did you mean|pass|give|set|leave|use|choose|write|select|save|fit|explain"
    r"|drop|add|say|load|install|name it|impute|fill|mark|encode|rename)\b",
    re.IGNORECASE,
)
LONGEST = 900  # characters of an error
SECONDS = 8  # of the processor, and ten times as many of the clock


class Foreign:
    """An object of a class that nobody knows."""


class Hostile:
    """An object some of whose methods fail."""


def _fails_in(*methods: str) -> Any:
    """Return an object whose methods fail, as those of hostile classes do."""

    def fail(self: Any, *_: Any) -> Any:
        raise RuntimeError("of a hostile object")

    return type("Hostile", (Hostile,), dict.fromkeys(methods, fail))()


def _dict_in_itself() -> dict[str, Any]:
    """Return a dict that holds itself, which JSON cannot write."""
    items: dict[str, Any] = {}
    items["itself"] = items
    return items


def _nothing() -> None:
    """Take nothing, so that any call fails."""


def _list_in_itself() -> list[Any]:
    """Return a list that holds itself, which has no shape."""
    items: list[Any] = [1]
    items.append(items)
    return items


# Kind, then name and value of each.
VALUES: list[tuple[str, str, Any]] = [
    ("flag", "True", True),
    ("flag", "np.True_", np.True_),
    ("integer", "1", 1),
    ("integer", "0", 0),
    ("negative", "-1", -1),
    ("negative", "-0.5", -0.5),
    ("negative", "-1e30", -1e30),
    ("fraction", "0.5", 0.5),
    ("fraction", "2.5", 2.5),
    ("huge", "10**30", 10**30),
    ("huge", "1e30", 1e30),
    ("not finite", "nan", float("nan")),
    ("not finite", "inf", float("inf")),
    ("not finite", "-inf", float("-inf")),
    ("not finite", "np.float32(nan)", np.float32("nan")),
    ("complex", "1j", 1j),
    ("text", "'no such'", "no such"),
    ("text", "''", ""),
    ("text", "'1'", "1"),
    ("bytes", "b'x'", b"x"),
    ("none", "None", None),
    ("list", "[]", []),
    ("list", "()", ()),
    ("list", "[None]", [None]),
    ("list", "[nan]", [float("nan")]),
    ("list", "[1, 2, 3]", [1, 2, 3]),
    ("list", "(0.5, 'a')", (0.5, "a")),
    ("list", "[[1], [2, 3]]", [[1], [2, 3]]),
    ("list", "[{}]", [{}]),
    ("array", "array of no values", np.empty(0)),
    ("array", "array of no axes", np.array(0.5)),
    ("array", "array of five axes", np.zeros((1, 2, 1, 2, 1))),
    ("array", "array of texts", np.array(["a", "b"])),
    ("array", "array of objects", np.array([None, {}, "a"], dtype=object)),
    ("array", "array of complex numbers", np.array([1j, 2.0])),
    ("mapping", "{}", {}),
    ("mapping", "{'a': 1}", {"a": 1}),
    ("mapping", "{1: object()}", {1: Foreign()}),
    ("foreign", "object()", Foreign()),
    ("function", "lambda: None", _nothing),
    ("class", "a class", Foreign),
    ("foreign", "a set", {1, 2}),
    ("foreign", "an iterator", iter(())),
    ("foreign", "Ellipsis", ...),
    ("foreign", "a module", inspect),
    ("huge", "2**63", 2**63),
    ("negative", "-(10**30)", -(10**30)),
    ("fraction", "Fraction(1, 2)", Fraction(1, 2)),
    ("foreign", "Decimal('0.5')", Decimal("0.5")),
    ("text", "'nan'", "nan"),
    ("text", "text with NUL", "a\0b"),
    ("text", "100 000 letters", "a" * 100_000),
    ("text", "digits of another script", "\u0661"),
    ("bytes", "bytearray(b'x')", bytearray(b"x")),
    ("list", "range(3)", range(3)),
    ("list", "a list in itself", _list_in_itself()),
    ("list", "[10**400]", [10**400]),
    ("list", "['a', 'b']", ["a", "b"]),
    ("array", "array of flags", np.array([True, False, True])),
    ("array", "array of dates", np.array(["2000-01-01", "NaT"], "M8[D]")),
    ("array", "array of NaN", np.full((5, 7), np.nan)),
    ("array", "array of infinities", np.full((5, 7), np.inf)),
    ("array", "array without samples", np.empty((0, 7))),
    ("array", "array without features", np.empty((5, 0))),
    ("array", "masked array", np.ma.masked_array(np.ones((5, 7)), mask=np.eye(5, 7))),
    ("array", "structured array", np.zeros(3, [("a", float), ("b", int)])),
    ("array", "table", pd.DataFrame({"b": [1.0, 2.0], "a": ["x", "y"]})),
    ("array", "series", pd.Series([1.0, 2.0], index=["b", "a"])),
    ("array", "field", xr.DataArray(np.ones((3, 2)), {"lon": [0, 1, 2]}, ("lon", "lat"))),
    ("array", "tensor", torch.tensor([1.0, np.nan])),
    ("array", "tensor on meta", torch.ones(3, device="meta")),
    ("array", "tensor of no axes", torch.tensor(1.0)),
    ("foreign", "a sparse matrix", csr_matrix(np.eye(3))),
    ("missing", "pd.NA", pd.NA),
    ("missing", "pd.NaT", pd.NaT),
    ("missing", "np.ma.masked", np.ma.masked),
    ("foreign", "a date", np.datetime64("2000-01-01")),
    ("foreign", "NotImplemented", NotImplemented),
    ("path", "Path('no such')", Path("no such")),
    # what hostile users found
    ("not finite", "np.float16(nan)", np.float16("nan")),
    ("not finite", "Decimal('sNaN')", Decimal("sNaN")),
    ("beyond", "10**400", 10**400),
    ("beyond", "10**5000", 10**5000),
    ("negative", "-(2**31)", -(2**31)),
    ("beyond", "np.longdouble", np.longdouble("1e4000")),
    ("complex", "np.complex64(1)", np.complex64(1)),
    ("foreign", "a span of time", np.timedelta64(1, "D")),
    ("text", "text with $ and {", "$\\frac{"),
    ("text", "text with half of a character", "\ud800"),
    ("text", "a name in no folder", "no/such/folder/x.y"),
    ("path", "Path of NUL", Path("a\0b")),
    ("path", "Path('.')", Path()),
    ("path", "Path of a device", Path("/dev/full")),
    ("list", "[[1, 2], [3, pd.NA]]", [[1, 2], [3, pd.NA]]),
    ("list", "list of tensors", [torch.ones(2), torch.ones(2)]),
    ("list", "list of arrays", [np.ones(3), np.ones((2, 2))]),
    ("list", "['a'] * 10000", ["a"] * 10_000),
    ("mapping", "a dict in itself", _dict_in_itself()),
    ("array", "array of None, no axes", np.array(None)),
    ("array", "array of integers beyond any float", np.array([10**400, 1], dtype=object)),
    ("array", "array of arrays", np.array([np.ones(2), np.ones(3)], dtype=object)),
    ("array", "array of infinities of both signs", np.array([[np.inf, -np.inf] * 3] * 5)),
    ("array", "array of long doubles", np.full((5, 7), np.longdouble("1e4000"))),
    ("array", "record array", np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)])),
    ("array", "columns of one name", pd.DataFrame(np.ones((5, 3)), columns=list("aab"))),
    ("array", "series of texts with NA", pd.Series(["a", pd.NA], dtype="string")),
    ("array", "index", pd.Index(["a", "b"])),
    ("array", "field of no samples", xr.DataArray(np.ones((0, 3, 3)), dims=("t", "lat", "lon"))),
    ("array", "sparse tensor", torch.eye(3).to_sparse()),
    ("array", "learned tensor", torch.full((3,), 0.5, requires_grad=True)),
    ("data set", "data set", xr.Dataset({"a": ("x", [1.0])})),
    ("foreign", "np.random.default_rng(0)", np.random.default_rng(0)),
    ("rule's class", "a rule's class", Epsilon),
    ("foreign", "object whose repr fails", _fails_in("__repr__")),
    ("foreign", "object whose str fails", _fails_in("__str__", "__format__")),
    ("foreign", "object whose eq fails", _fails_in("__eq__", "__ne__")),
    ("foreign", "object whose bool fails", _fails_in("__bool__")),
    ("foreign", "object whose array fails", _fails_in("__array__")),
    ("foreign", "object whose fspath fails", _fails_in("__fspath__")),
    ("foreign", "a list of what has no repr", [_fails_in("__repr__")]),
]  # fmt: skip

# What a word of an annotation allows.
_ALLOWS = {
    "bool": {"flag"},
    "int": {"integer"},
    "float": {"integer", "fraction", "huge"},
    "str": {"text"},
    "PathLike": {"path"},
    "None": {"none"},
    "ArrayLike": {"list", "array"},
    "NDArray": {"array"},
    "Sequence": {"list", "array"},
    "Iterable": {"list", "array", "text"},
    "list": {"list"},
    "tuple": {"list"},
    "dict": {"mapping"},
    "Mapping": {"mapping"},
    "Callable": {"function", "class", "rule's class"},
    "type": {"class", "rule's class"},
    "DTypeLike": {"class", "text"},
    "Dataset": {"data set"},
}


class Try(NamedTuple):
    """One value for one parameter of one callable."""

    where: str
    call: Callable[..., Any]
    parameter: inspect.Parameter
    kind: str
    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.where}({self.parameter.name}={self.name})"


def tries(where: str, call: Callable[..., Any], parameters: list[Any]) -> Iterator[Try]:
    """Yield every value for every parameter that has a name."""
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        for kind, name, value in VALUES:
            yield Try(where, call, parameter, kind, name, value)
        for kind, name, value in _numpy_scalars(parameter.default):
            yield Try(where, call, parameter, kind, name, value)


def _numpy_scalars(default: Any) -> list[tuple[str, str, Any]]:
    """Return a default as NumPy's scalars, which must be as welcome as Python's."""
    kinds = {bool: [np.bool_], int: [np.int64, np.uint8, np.int32], float: [np.float64]}
    if type(default) not in kinds or (type(default) is int and not 0 <= default < 256):
        return []
    return [("default", f"{k.__name__}({default})", k(default)) for k in kinds[type(default)]]


def judge(one: Try, may_be: dict[str, set[str]]) -> str | None:
    """Return what is wrong with the answer to a value, None if nothing is."""
    allowed = _allowed(one, may_be)
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.call(**{one.parameter.name: one.value})
    except _TooLong:
        if one.kind == "default":
            return None
        return f"no answer within {SECONDS} s"
    except Exception as error:
        if one.kind == "default":
            return f"refused, though it is the default: {_short(error)}"
        return _judge_error(one, error)
    if one.kind == "default" or {one.kind, one.name} & allowed:
        return None
    return "accepted"


def _allowed(one: Try, may_be: dict[str, set[str]]) -> set[str]:
    """Return the kinds and names of values that a parameter may have."""
    for key in (f"{one.where}.{one.parameter.name}", one.parameter.name):
        if key in may_be:
            return may_be[key]
    words = set(re.findall(r"\w+", str(one.parameter.annotation)))
    allowed = set().union(*(kinds for word, kinds in _ALLOWS.items() if word in words))
    if one.parameter.default is None:
        allowed.add("none")
    return allowed


def _judge_error(one: Try, error: Exception) -> str | None:
    """Return what an error lacks, None if nothing: type, origin, parameter, value, length."""
    text = str(error)
    if one.kind in ("function", "class") and _told(getattr, one.value, "__name__") in text:
        return None  # an error of the user's own function, which the parameter may be
    if re.search(_OUT_OF_PLACE, text):
        return None
    if not isinstance(error, ValueError | TypeError | NotFittedError | OSError):
        return f"raises {_short(error)}"
    origin = traceback.extract_tb(error.__traceback__)[-1].filename
    if one.parameter.name in SCIKIT_LEARNS and re.search("/(sklearn/utils|narwhals)/", origin):
        return None
    if isinstance(error, NotFittedError) and f"{type(one.value).__name__} instance" in text:
        return None  # scikit-learn's own words
    is_name = isinstance(error, OSError) or isinstance(one.value, Path)
    if is_name and _names_value(one.value, text):
        return None  # the operating system's own words, which name the file
    if not re.search(r"/(sklrp|sklearn)/", origin) or origin.endswith("helpers/valid_calls.py"):
        return f"raised by {Path(origin).name}: {_short(error)}"
    if len(text) > LONGEST:
        return f"an error of {len(text)} characters: {text[:80]}"
    is_told = hasattr(one.value, "dims") and any(repr(d) in text for d in one.value.dims)
    if not is_told and not re.search(rf"(?<![A-Za-z]){one.parameter.name}(?![A-Za-z])", text):
        return f"does not name the parameter: {_short(error)}"
    if not _names_value(one.value, text):
        return f"does not name the value: {_short(error)}"
    if "/sklrp/" in origin and not _REMEDY.search(text):
        return f"does not say what to do: {_short(error)}"
    return None


def _names_value(value: Any, text: str) -> bool:
    """Tell whether a text shows a value, its type, its shape, its length or its dtype."""
    shown = [type(value).__name__, type(value).__qualname__, _told(getattr, value, "__name__")]
    shown += [
        part for say in (repr, str, ascii) if (part := " ".join(_told(say, value).split())[:30])
    ]
    shown += [f"shape {np.shape(value)}"] if np.isscalar(value) else []
    if not isinstance(value, list | tuple | np.ndarray | torch.Tensor):
        shown += ["()", _told(lambda: np.asarray(value).dtype)]
    if isinstance(value, dict):
        shown += [_told(repr, key) for key in value] or ["empty"]
    if isinstance(value, int | float | np.floating):
        shown += [_told(format, value, "g")]
    if isinstance(value, float | np.floating):
        shown += ["NaN" if np.isnan(value) else "infin"]
    if hasattr(value, "dims"):
        shown += [*map(repr, value.dims), *map(str, getattr(value, "shape", ()))]
    if isinstance(getattr(value, "shape", None), tuple) or isinstance(value, list | tuple | range):
        shown += _forms_of_array(value)
    if isinstance(value, list):
        shown += [type(item).__name__ for item in value if isinstance(item, Foreign | Hostile)]
    return any(form and form in " ".join(text.split()) for form in shown)


def _told(say: Callable[..., Any], *args: Any) -> str:
    """Return what a value says of itself, "" if that fails, as it does in hostile objects."""
    try:
        return str(say(*args))
    except Exception:
        return ""


def _forms_of_array(value: Any) -> list[str]:
    """Return what shows an array or a list: shape, dtype, size, entries, and what is missing."""
    shape = value.shape if hasattr(value, "shape") else (len(value),)
    shown = [str(tuple(shape)), f"{len(shape)}D", f"{len(shape)}-D", f"{len(shape)} ax"]
    shown += [f"{len(shape)} dim", str(int(np.prod(shape))), *map(str, shape)]
    try:
        array = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)
    except Exception:  # of rows that differ in length, of no data, and of hostile objects
        some = value[:3] if isinstance(value, list) else []
        return [*shown, "differ in length", *(_told(repr, item)[:40] for item in some)]
    shown += [str(array.shape), f"{array.ndim} dim", str(array.dtype)]
    listed = [None] if array.dtype == object and not array.ndim else array.ravel().tolist()
    shown += [
        _told(repr, item)[:40]
        for item in [*listed[:3], *(value if isinstance(value, list | tuple) else [])]
    ]
    shown += [] if listed else ["empty", "no "]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        shown += ["NaN", "infin", "inf", "nan"]
    return shown + (["nan"] if listed == [None] else [])  # what NumPy makes of it


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:160]}"


class _TooLong(BaseException):
    """A call took longer than it may."""


@contextmanager
def _limited() -> Iterator[None]:
    """Let what is inside last for some seconds."""

    def stop(*_: Any) -> None:
        raise _TooLong

    clocks = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    before = {number: signal.signal(number, stop) for number in clocks}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
    try:
        yield
    finally:
        for number, clock in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])
