"""Explain chunk by chunk into a partial file, so that an interrupted run can be resumed.

The command ``sklrp explain`` works through a `PartialRun`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import dtype_to_descr, open_memmap, write_array_header_1_0
from numpy.typing import NDArray
from tqdm.std import tqdm

from sklrp._files import check_own, replacing, reserve
from sklrp.cli.field_samples import FieldSamples
from sklrp.cli.samples import Samples

CHUNK_BYTES = 16 * 2**20  # of samples, read and explained before the next are


class PartialRun:
    """The relevance of the samples so far, beside the file for the relevance of all samples.

    ``OUT.part`` is a npy file in the shape of the whole result, ``OUT.part.json`` says how many
    samples are done, with what model and settings, and holds a checksum of these samples, which a
    resumed run reads again but does not explain again.

    Parameters
    ----------
    out : pathlib.Path
        The final file.
    settings : dict of str to object
        What the relevance depends on beside the samples, as JSON has it.
    resume : bool
        Whether to go on with what an earlier run has left.

    Attributes
    ----------
    path : pathlib.Path
        The partial result.
    done : int
        Number of samples that are done.

    Raises
    ------
    ValueError
        If there is a partial result and it is not to be resumed, or was made in another way; or if
        something else stands under its name, such as a link or a file of another kind.
    """

    def __init__(self, out: Path, settings: dict[str, Any], resume: bool) -> None:
        self.path, self._sidecar = Path(f"{out}.part"), Path(f"{out}.part.json")
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._checksum = ""
        self.done = 0
        for path in (self.path, self._sidecar):
            check_own(path)
        has_part = self.path.exists()
        if self._sidecar.exists():
            self._read_sidecar(resume, has_part)
        elif has_part and not (resume and self._is_like_ours()):
            raise ValueError(
                f"{self.path} is there, but not {self._sidecar}, so that it is not what an "
                "earlier run has left: move it away, or choose another name for the output."
            )

    def explain(
        self,
        explain: Callable[[Any], NDArray],
        samples: Samples | FieldSamples,
        *,
        progress: bool,
    ) -> NDArray[np.floating]:
        """Explain what is left of the samples.

        Parameters
        ----------
        explain : callable
            Returns the relevance of some samples, whose missing values are not filled yet.
        samples : Samples or FieldSamples
            All samples.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        ndarray of shape (n_samples, ...)
            The relevance of all samples, mapped to memory.
        """
        n_samples = samples.shape[0]
        row_bytes = 8 * max(1, int(np.prod(samples.shape[1:])))
        n_rows = max(1, CHUNK_BYTES // row_bytes)
        digest = hashlib.sha256()
        relevance: np.memmap | None = None
        before = self.done
        with tqdm(total=n_samples, unit="sample", disable=not progress) as bar:
            for start in range(0, n_samples, n_rows):
                X = samples.read(slice(start, start + n_rows), filled=False)
                for content in samples.buffers(X):
                    digest.update(content)
                stop = min(start + n_rows, n_samples)
                if stop > before:
                    part = explain(X)
                    if relevance is None:
                        relevance = self._open((n_samples, *part.shape[1:]), part.dtype)
                    relevance[start:stop] = part
                    relevance.flush()
                    self._write_sidecar(stop, digest.hexdigest())
                elif stop == before and digest.hexdigest() != self._checksum:
                    raise ValueError(
                        f"{samples.path} is not what it was when {self.path} was made: delete "
                        "that, and begin anew."
                    )
                bar.update(stop - start)
        return self._map("r") if relevance is None else relevance

    @property
    def begun(self) -> bool:
        """Whether there is something to be resumed."""
        return self._sidecar.exists()

    def finish(self) -> None:
        """Remove what was kept for resuming."""
        for path in (self.path, self._sidecar):
            path.unlink(missing_ok=True)

    def _open(self, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
        if self.done:
            return self._map("r+")
        self.finish()
        try:
            self._write_sidecar(0, "")  # first: what it stands beside is no one else's
            with open(self.path, "xb", buffering=0) as file:  # never through a link
                header = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                write_array_header_1_0(file, header)
                n_bytes = file.tell() + math.prod(shape) * dtype.itemsize
                os.ftruncate(file.fileno(), n_bytes)
                reserve(file.fileno(), 0, n_bytes)  # a full disk is an error now, not a signal
            return self._map("r+")
        except OSError as error:
            self.finish()
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _map(self, mode: Literal["r", "r+"]) -> np.memmap:
        try:
            open_memmap(self.path, mode="r")  # "r+" would lengthen a file that was cut short
            return open_memmap(self.path, mode=mode)
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged: delete it, and begin anew.") from error

    def _is_like_ours(self) -> bool:
        """Tell whether the partial result, whose sidecar is gone, is an array of all samples."""
        try:
            return self._map("r").shape[:1] == tuple(self._settings["shape of the data"][:1])
        except ValueError:
            return False

    def _read_sidecar(self, resume: bool, has_part: bool) -> None:
        """Take over how far the earlier run came, if it did the same."""
        try:
            sidecar = json.loads(self._sidecar.read_text(encoding="utf-8"))
            done, checksum = int(sidecar["done"]), str(sidecar["samples"])
            settings = dict(sidecar["settings"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self._sidecar} is damaged, or not what an earlier run has left: delete it and "
                f"{self.path}, and begin anew."
            ) from error
        if not (has_part and done):  # nothing was done yet
            return
        if not resume:
            raise ValueError(
                f"{self.path} is there from a run that was not finished: go on with it by "
                "--resume, or delete it."
            )
        changed = [k for k in self._settings if settings.get(k) != self._settings[k]]
        if changed:
            raise ValueError(
                f"{self.path} was made with another {' and '.join(changed)}: give the same, or "
                "delete it, and begin anew."
            )
        self.done, self._checksum = done, checksum

    def _write_sidecar(self, done: int, checksum: str) -> None:
        self.done = done
        content = {"done": done, "samples": checksum, "settings": self._settings}
        with replacing(self._sidecar) as part:
            part.write_text(json.dumps(content), encoding="utf-8")


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    str
        In hexadecimal digits.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
