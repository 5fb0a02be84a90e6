"""What is wrong with a call that its options and paths tell, before anything takes time.

The commands in `.commands` ask it first: nothing here imports NumPy or torch. `.samples` and
`.field_samples` ask for the form of a file, `.tables` whether a text is a number.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from sklrp._files import check_regular, check_replaceable
from sklrp._wording import say_value

FORMS = {
    ".npy": "npy",
    ".npz": "npz",
    ".nc": "NetCDF",
    ".nc4": "NetCDF",
    ".cdf": "NetCDF",
    ".zarr": "zarr",
    ".csv": "CSV",
}


def check_explain(*, model: Path, data: Path, out: Path, reference: str | None, **_: Any) -> None:
    """Raise an error if the options of ``explain`` cannot be followed."""
    parse_reference(reference)
    if form_of(out) != form_of(data):
        raise ValueError(
            f"OUT must have the form of DATA, {form_of(data)}, got {out.name}: change its suffix "
            f"to {data.suffix}."
        )
    _check_out(out, model, data)


def check_diagnose(
    *,
    model: Path,
    data: Path,
    out: Path,
    labels: Path,
    train: Path | None,
    train_labels: Path | None,
    mask: Path | None,
    target: str | None,
    n_refits: int,
    **_: Any,
) -> None:
    """Raise an error if the options of ``diagnose`` cannot be followed."""
    if train_labels is not None and train is None:
        raise ValueError("--train-labels belong to --train: give both, or neither.")
    if n_refits and (train is None or train_labels is None):
        raise ValueError(
            f"--n-refits {n_refits} trains clones: give --train and --train-labels, what the "
            "model was trained on."
        )
    if target == "all":
        raise ValueError("--target all makes a map of each output: a diagnosis is of one.")
    given = (mask, train, train_labels)
    _check_out(out, model, data, labels, *(path for path in given if path is not None))
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out} must end in .html: the page is HTML, which browsers print.")
    for path in (data, train, mask):
        if path is not None:
            form_of(path)


def is_number(text: str) -> bool:
    """Tell whether a text reads as a number."""
    if "_" in text or not text.isascii():  # Python's 1_0, and digits of other scripts
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_reference(text: str | None) -> str | float | None:
    """Return a reference from its text."""
    if text is None or text in ("mean", "zero"):
        return text
    if not (is_number(text) and math.isfinite(float(text))):
        raise ValueError(
            f"--reference must be mean, zero or a finite number, got {say_value(text)}."
        )
    return float(text)


def check_folder(folder: Path) -> None:
    """Raise an error if a folder cannot be made, or nothing written into it."""
    existing = next(folder for folder in (folder, *folder.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{existing} cannot be written to: choose another folder.")


def form_of(path: Path) -> str:
    """Return the form that a file's suffix stands for, or raise an error.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    str
        A value of `FORMS`.
    """
    check_regular(path)
    try:
        return FORMS[path.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"{path} has none of the suffixes {', '.join(FORMS)}, which say what is in a file."
        ) from None


def _check_out(out: Path, *inputs: Path) -> None:
    """Raise an error, before anything takes time, if a file cannot be written or must not be."""
    target = Path(os.path.realpath(out))  # what a link names, which need not be there
    if target.is_symlink():
        raise ValueError(f"{out} is a link to itself: remove it, or choose another name.")
    folder = target.parent if out.is_symlink() else out.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: make it, or choose another for {out}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written to: choose another for {out}")
    if target in [Path(os.path.realpath(path)) for path in inputs]:
        raise ValueError(f"{out} is an input too: choose another name for what is written.")
    check_replaceable(out, is_store=out.suffix.lower() == ".zarr")
