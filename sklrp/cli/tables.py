"""CSV files: tables of numbers, with a header or without.

`.samples` reads and writes them.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional
from sklrp.cli.call_checks import is_number

_LONGEST_LINE = 2**24  # characters
_MISSING = ("", "na", "n/a", "nan", "null")  # in a CSV file, in lower case


def read_csv(
    path: Path, columns: Sequence[str] | None, fill: float | None
) -> tuple[NDArray[np.float64], list[str] | None]:
    """Return the table of a CSV file and its header, of the given columns if it has one."""
    lines = _read_lines(path)
    is_sample = all(is_number(text) or _is_missing(text) for text in lines[0])
    if not is_sample and (columns is None or not set(columns) <= set(lines[0])):
        _check_header(path, lines[0])
    header = None if is_sample else lines.pop(0)
    n_fields = len(header or lines[0])
    places = list(range(n_fields))
    if header is not None and columns is not None:
        places = _find_columns(path, header, columns)
    first = 1 if header is None else 2
    table = np.empty((len(lines), len(places)))
    for i, line in enumerate(lines):
        _check_width(path, i + first, line, n_fields)
        for j, place in enumerate(places):
            name = place + 1 if header is None else repr(header[place])
            where = f"{path}, line {i + first}, column {name}"
            table[i, j] = _read_number(line[place], fill, where)
    return table, None if header is None else [header[place] for place in places]


def read_table(path: Path, columns: Sequence[str]) -> Any:
    """Return columns of a CSV file as a DataFrame, of numbers, flags or texts each."""
    pd = import_optional("pandas", extra="plot", user="A table with named columns")
    header, *lines = _read_lines(path)
    places = _find_columns(path, header, columns)
    for i, line in enumerate(lines):
        _check_width(path, i + 2, line, len(header))
    if not lines:
        raise ValueError(f"{path} holds names, but no sample.")
    return pd.DataFrame(
        {header[place]: _read_column([line[place] for line in lines]) for place in places}
    )


def _read_column(fields: list[str]) -> Any:
    """Return the entries of a column in the narrowest type that has them all."""
    flags = {"True": True, "False": False}
    if all(field in flags for field in fields):
        return [flags[field] for field in fields]
    given = [math.nan if _is_missing(field) else field for field in fields]
    if not all(is_number(str(field)) for field in given):
        return np.array(given, dtype=object)
    if all(re.fullmatch(r"[+-]?\d{1,18}", str(field)) for field in given):
        return [int(field) for field in given]
    return [float(field) for field in given]


def _check_width(path: Path, number: int, line: list[str], n_fields: int) -> None:
    if len(line) != n_fields:
        raise ValueError(
            f"{path}, line {number}: {len(line)} fields, but the first line has {n_fields}."
        )


def write_csv(
    path: Path, relevance: NDArray, header: list[str] | None, classes: Sequence[Any] | None
) -> None:
    """Write maps as rows, below a header of the names, for each class if there are several."""
    with open(path, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if header is not None:
            labels = [""] if classes is None else [f"{label}_" for label in classes]
            writer.writerow([f"{label}{name}" for label in labels for name in header])
        writer.writerows(relevance.reshape(len(relevance), -1).tolist())


def _read_lines(path: Path) -> list[list[str]]:
    """Return the fields of the lines that are not empty, of which there is at least one."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            rows = csv.reader(read_lines(file, path), skipinitialspace=True)
            lines = [line for line in rows if line]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no readable CSV file: {error}") from error
    if not lines:
        raise ValueError(f"{path} is empty.")
    return lines


def read_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield the lines of a text file, none of which may be endless.

    Parameters
    ----------
    file : text file
        The file, open.
    path : pathlib.Path
        Where it is, for the error.

    Yields
    ------
    str
        A line.
    """
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(
                f"{path} has a line of {_LONGEST_LINE} characters or more: it is no table, or "
                "has no ends of lines."
            )
        yield line


def _check_header(path: Path, fields: list[str]) -> None:
    """Raise an error if a first line is of numbers but for one that is misspelt."""
    odd = [k for k, text in enumerate(fields) if not is_number(text) and not _is_missing(text)]
    if len(odd) < len(fields) and all(re.match(r"\s*[+\-.\d]", fields[k]) for k in odd):
        raise ValueError(
            f"{path}, line 1, column {odd[0] + 1}: {fields[odd[0]]!r} is no number, and others of "
            "the line are, so it is no header of names. Write 1.5e3 with digits 0 to 9 alone."
        )


def _find_columns(path: Path, header: list[str], columns: Sequence[str]) -> list[int]:
    """Return the places of columns, each of which must be there once."""
    for problem, names in (
        ("lacks the columns", [name for name in columns if name not in header]),
        ("has more than one of the columns", [n for n in columns if header.count(n) > 1]),
    ):
        if names:
            raise ValueError(
                f"{path} {problem} {names} that the model was trained on; it has {header}."
            )
    return [header.index(name) for name in columns]


def _read_number(text: str, fill: float | None, where: str) -> float:
    """Return the number that a field holds, or `fill` if it is missing."""
    missing = _is_missing(text)
    if missing and fill is not None:
        return fill
    if missing or not is_number(text):
        remedy = "; --fill says what to put there." if missing else "."
        raise ValueError(f"{where}: {text!r} is no number{remedy}")
    return float(text)


def _is_missing(text: str) -> bool:
    return text.strip().lower() in _MISSING
