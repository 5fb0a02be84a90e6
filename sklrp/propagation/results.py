"""Where relevance and its details go: arrays made beforehand, or given by the caller.

:mod:`sklrp.propagation.run` makes a :class:`Results` once per call, and puts each chunk into it
when it is done: nothing of a chunk is kept beside these arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklrp._checks import check_representable
from sklrp._devices import has_float64
from sklrp._overlaps import check_apart
from sklrp._stored import BLOCK_BYTES, Pages, reserve_room
from sklrp.propagation.inputs import NUMPY_DTYPES, Inputs, is_floating
from sklrp.propagation.tape import CAUSES

_HALF = (np.dtype(np.float16), torch.float16)


@dataclass(frozen=True)
class Layout:
    """How an estimator returns the relevance of the rows that its network takes.

    Attributes
    ----------
    sample_shape : tuple of int
        The shape of a sample, as X has it.
    dtype : dtype
        The dtype of relevance.
    units : ndarray or None
        What a unit of the score is worth, of shape (n_samples,), or (1, n_targets) where every
        output is explained; None: one.
    """

    sample_shape: tuple[int, ...]
    dtype: Any
    units: NDArray | None = None

    def apply(self, relevance: NDArray, span: slice) -> NDArray:
        """Return the relevance of some samples as X has it."""
        if self.units is not None:
            units = self.units if len(self.units) == 1 else self.units[span]
            relevance = relevance * units[..., None]
        return relevance.reshape(*relevance.shape[:-1], *self.sample_shape)


class Results:
    """The relevance of all samples, filled in chunk by chunk.

    Parameters
    ----------
    inputs : Inputs
        What is explained.
    targets : tuple of int
        The length of the axis of targets, if there is one.
    dtype : torch.dtype
        The dtype of the network, in which integers are explained.
    layout : Layout or None, default=None
        How it is returned; None: as the inputs are.
    out : array, tuple or dict of them, or None, default=None
        Where it is written; None makes arrays like the inputs.

    Raises
    ------
    TypeError
        If `out` cannot be written to by rows.
    ValueError
        If it has another shape or no floating dtype, or lies where the input does.
    """

    def __init__(
        self,
        inputs: Inputs,
        targets: tuple[int, ...],
        dtype: torch.dtype,
        layout: Layout | None = None,
        out: Any = None,
    ) -> None:
        self._every, self._layout, self._out = bool(targets), layout, out
        self._inputs = inputs
        shapes = [
            (len(a), *targets, *(a.shape[1:] if layout is None else layout.sample_shape))
            for a in inputs.arrays
        ]
        if out is None:
            self._places = [
                _make_array(a, shape, dtype, layout)
                for a, shape in zip(inputs.arrays, shapes, strict=True)
            ]
            self.relevance = inputs.join(self._places)
        else:
            self._places = _check_outs(out, inputs, shapes)
            self.relevance = out
        self._writers = [_Writer(place) for place in self._places]

    def put(self, span: slice, parts: Sequence[Tensor], may_keep: bool = False) -> None:
        """Write the relevance of a chunk, targets first, where it belongs.

        Parameters
        ----------
        span : slice
            The samples.
        parts : list of Tensor
            Their relevance at each input.
        may_keep : bool, default=False
            Whether nothing else holds the memory of `parts`: where it is that of the whole result,
            it is the result, and nothing is written.
        """
        for writer, relevance in zip(self._writers, parts, strict=True):
            relevance = relevance.movedim(0, 1) if self._every else relevance[0]
            values: Any = relevance
            if self._layout is not None:
                values = self._layout.apply(relevance.cpu().numpy(), span)
            if isinstance(writer.array, Tensor):
                _check_half(values, writer.array)
                writer.put(span, torch.as_tensor(values).to(writer.array))
                continue
            values = values.cpu().numpy() if isinstance(values, Tensor) else values
            _check_half(values, writer.array)
            values = values.astype(writer.array.dtype, copy=False)
            if may_keep and self._is_result(values, relevance):
                self.relevance = self._inputs.join([values])
            else:
                writer.put(span, values)

    def _is_result(self, values: NDArray, relevance: Tensor) -> bool:
        """Return whether values are all there are, laid out in memory as the result is to be."""
        is_like = len(self._places) == 1 and values.shape == self._places[0].shape
        n_held = relevance.untyped_storage().nbytes()
        plain = values.flags.c_contiguous and values.flags.writeable and values.nbytes == n_held
        return self._out is None and is_like and plain

    def finish(self) -> None:
        """Write what waits for the rest of its chunk in a file."""
        for writer in self._writers:
            writer.close()


def _make_array(a: Any, shape: tuple[int, ...], dtype: torch.dtype, layout: Layout | None) -> Any:
    """Return an empty array or tensor for relevance, like an input."""
    if isinstance(a, Tensor):
        own = a.dtype if a.is_floating_point() else dtype
        if own == torch.float64 and not has_float64(a.device):  # integers lie there
            own = torch.float32
        return torch.empty(shape, dtype=own, device=a.device)
    if layout is not None:
        return np.empty(shape, layout.dtype)
    return np.empty(shape, a.dtype if is_floating(a) else NUMPY_DTYPES[dtype])


def _check_half(relevance: Any, array: Any) -> None:
    """Raise an error if relevance is too large for half precision."""
    if array.dtype in _HALF:
        is_tensor = isinstance(array, Tensor)
        largest = torch.finfo(array.dtype).max if is_tensor else np.finfo(array.dtype).max
        values = relevance.cpu().double().numpy() if isinstance(relevance, Tensor) else relevance
        check_representable(values, array.dtype, float(largest))


def _check_outs(out: Any, inputs: Inputs, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Return the arrays to write to, one for each input."""
    if inputs.single:
        outs, names = [out], ["out"]
    elif inputs.names is not None and isinstance(out, Mapping) and set(out) == set(inputs.names):
        outs, names = [out[name] for name in inputs.names], [f"out[{n!r}]" for n in inputs.names]
    elif inputs.names is None and isinstance(out, tuple) and len(out) == len(inputs.arrays):
        outs, names = list(out), [f"out[{k}]" for k in range(len(out))]
    else:
        raise ValueError(
            f"out must hold an array for each of the inputs {inputs.labels}, in a tuple or dict "
            f"as X is, got {type(out).__name__}."
        )
    for place, name, shape in zip(outs, names, shapes, strict=True):
        check_place(place, name, shape)
        for array, label in zip(inputs.arrays, inputs.labels, strict=True):
            check_apart(place, name, array, label)
    return outs


def check_place(out: Any, name: str, shape: tuple[int, ...]) -> None:
    """Raise an error unless relevance of a shape can be written to an array.

    Parameters
    ----------
    out : object
        The array.
    name : str
        What errors call it.
    shape : tuple of int
        The shape of the relevance.
    """
    has_rows = all(hasattr(out, own) for own in ("shape", "dtype", "__setitem__"))
    if not has_rows or hasattr(out, "iloc") or hasattr(out, "dask"):
        raise TypeError(
            f"{name} must be an array that rows can be written to, such as one of NumPy, "
            f"np.lib.format.open_memmap(..., mode='w+') or an array of zarr, got "
            f"{type(out).__name__}."
        )
    if tuple(out.shape) != shape:
        raise ValueError(
            f"{name} has the shape {tuple(out.shape)}, but the relevance {shape}: make it so."
        )
    is_float = out.is_floating_point() if isinstance(out, Tensor) else out.dtype.kind == "f"
    if not is_float:
        raise ValueError(f"{name} must have a floating dtype, got {out.dtype}.")
    if isinstance(out, Tensor) and (out.is_meta or out.layout != torch.strided):
        raise ValueError(
            f"{name} must be a dense tensor that holds values, got {out.layout} on the device "
            f"{out.device}: make it by torch.empty{shape}."
        )
    if isinstance(out, Tensor) and any(
        n > 1 and step == 0 for n, step in zip(out.shape, out.stride(), strict=True)
    ):
        raise ValueError(f"{name} is expanded, one value in several places: pass {name}.clone().")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError(f"{name} is read-only: open the file with mode='r+' or 'w+'.")


class _Writer:
    """What writes rows to an array, of a file in chunks a whole chunk at a time."""

    def __init__(self, array: Any) -> None:
        self.array = array
        chunks: Any = getattr(array, "shards", None) or getattr(array, "chunks", None) or (0,)
        is_chunked = not isinstance(array, np.ndarray | Tensor) and isinstance(chunks[0], int)
        self._rows = int(chunks[0]) if is_chunked else 0
        self._waiting: list[NDArray] = []
        self._begin, self._n_bytes = 0, 0
        self._pages = Pages(*([array] if isinstance(array, np.ndarray) else []))
        if isinstance(array, np.ndarray):
            reserve_room(array)

    def put(self, span: slice, values: Any) -> None:
        """Write rows, which come in order."""
        if not self._rows:
            self._assign(span, values)
            self._pages.note(values.nbytes)
            return
        # A chunk of a file is read, changed and written again for each part of it.
        if not self._waiting:
            self._begin = span.start
        self._waiting.append(values)
        self._n_bytes += values.nbytes
        ends = span.stop - span.stop % self._rows
        if ends > self._begin:
            self._write(ends)
        elif self._n_bytes > BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write all that waits."""
        if self._waiting:
            self._write(self._begin + sum(map(len, self._waiting)))

    def close(self) -> None:
        """Write all, also what h5py keeps: an error of the disk comes now, not at the end."""
        self.flush()
        file: Any = getattr(self.array, "file", None)
        if type(file).__module__.startswith("h5py"):
            file.flush()

    def _write(self, stop: int) -> None:
        values = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        n = stop - self._begin
        self._assign(slice(self._begin, stop), values[:n])
        rest = values[n:].copy()
        self._waiting, self._n_bytes = ([rest] if len(rest) else []), rest.nbytes
        self._begin = stop

    def _assign(self, rows: slice, values: Any) -> None:
        """Put values into rows; say which these are if the disk does not take them."""
        try:
            self.array[rows] = values
        except OSError as error:
            store = getattr(self.array, "store_path", None)
            if error.filename is None and store is not None:  # zarr does not name it
                error.filename = str(store)
            error.add_note(f"while rows {rows.start} to {rows.stop} of out were written")
            raise


class DetailArrays:
    """The details of all samples, filled in chunk by chunk.

    Parameters
    ----------
    n_samples, n_targets : int
        The number of samples and of explained outputs of each.
    n_layers : int
        The number of layers.
    every : bool
        Whether there is an axis of targets.
    """

    def __init__(self, n_samples: int, n_targets: int, n_layers: int, every: bool) -> None:
        self._shape = (n_samples, n_targets)
        self._every = every
        self._n_layers = n_layers
        self.score: Any = None
        self.target: Any = None
        self.rest: Any = None
        self.layers: list[dict[str, Any]] = []

    def put(self, span: slice, found: dict[str, Any]) -> None:
        """Write the details of a chunk, targets first, where they belong."""
        if self.score is None:
            dtype = found["score"].dtype
            self.score, self.rest = (np.empty(self._shape, dtype) for _ in range(2))
            names = ("relevance", *CAUSES)
            # Where nothing is kept, zeros take no memory before they are read.
            self.layers = [
                {name: np.zeros(self._shape, dtype) for name in names}
                for _ in range(self._n_layers)
            ]
            if found["target"] is not None:
                self.target = np.empty(self._shape, found["target"].dtype)
        self.score[span] = found["score"].T
        self.rest[span] = found["rest"].T
        if self.target is not None:
            self.target[span] = found["target"].T
        for arrays, layer in zip(self.layers, found["layers"], strict=True):
            for name in arrays.keys() & layer.keys():
                arrays[name][span] = layer[name].T

    def finish(self) -> None:
        """Take away the axis of targets where there is one target."""
        if self._every:
            return
        self.score, self.rest = self.score[:, 0], self.rest[:, 0]
        self.target = None if self.target is None else self.target[:, 0]
        self.layers = [{name: v[:, 0] for name, v in layer.items()} for layer in self.layers]
