"""The inputs of a network: arrays or tensors, one or several, checked and taken in chunks.

:class:`Inputs` holds all samples as the caller gave them; :class:`Intake` turns a chunk of them
into what the network takes. :mod:`sklrp.propagation.run` makes both, once per call.
"""

from __future__ import annotations

import cmath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sklrp._devices import as_tensor
from sklrp._missing import as_plain_array
from sklrp._model_parts import has_embeddings, list_weights
from sklrp._random_stream import RandomStream
from sklrp._stored import as_stored, is_stored
from sklrp._torch import DisableTorchFunction
from sklrp.propagation.not_arrays import check_array_like
from sklrp.propagation.recording.twin import make_twin
from sklrp.rules import Signal

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
NUMPY_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


class Inputs:
    """The inputs of a network: one array, a tuple of them, or a dict of them by name."""

    def __init__(self, X: Any, finite: bool = False) -> None:
        self.names: list[str] | None = list(X) if isinstance(X, Mapping) else None
        # A packed sequence is a tuple, but one input; it is refused as such.
        self.single = not isinstance(X, tuple | Mapping) or isinstance(X, PackedSequence)
        values = list(X.values()) if isinstance(X, Mapping) else [X] if self.single else list(X)
        if not values:
            raise ValueError("X is empty; pass the inputs of the network's forward.")
        labels = [f"X[{name!r}]" for name in self.names or range(len(values))]
        self.labels = ["X"] if self.single else labels
        self.arrays = [
            _check_input(value, label, self.single, finite)
            for value, label in zip(values, self.labels, strict=True)
        ]
        lengths = {label: len(a) for label, a in zip(self.labels, self.arrays, strict=True)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"The inputs must have equally many samples, got {lengths}.")
        self.n_samples = len(self.arrays[0])

    def join(self, parts: Sequence[Any]) -> Any:
        """Return one value per input in the structure of ``X``."""
        if self.single:
            return parts[0]
        if self.names is not None:
            return dict(zip(self.names, parts, strict=True))
        return tuple(parts)

    def take(self, rows: Any) -> list[Any]:
        """Return rows of each input."""
        return [array[rows] for array in self.arrays]

    def floating_dtype(self, own: torch.dtype) -> Any:
        """Return NumPy's dtype of the first floating input; that of the network if it has none."""
        dtypes = (array.dtype for array in self.arrays if is_floating(array))
        dtype = next(dtypes, own)
        if not isinstance(dtype, torch.dtype):
            return dtype
        return (
            np.dtype(np.float16)
            if dtype == torch.float16
            else np.dtype(NUMPY_DTYPES.get(dtype, NUMPY_DTYPES[own]))
        )


def is_floating(array: Any) -> bool:
    """Return whether an array or a tensor holds floating-point numbers."""
    return array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"


def _check_input(X: Any, label: str, single: bool, finite: bool) -> Any:
    """Return an input as an array or tensor of finite real numbers, with at least one sample."""
    if is_stored(X):
        return _check_stored(X, label, single, finite)
    check_array_like(X, label)
    if not isinstance(X, Tensor):
        X = as_plain_array(X, label)
    elif isinstance(X, torch.masked.MaskedTensor):
        raise TypeError(
            f"{label} is a masked tensor, and a network takes no mask; pass "
            f"{label}.to_tensor(value), with the value that it was trained on in place "
            "of what is masked."
        )
    elif type(X) is not Tensor:  # what its type makes of torch's functions is not the network's
        with DisableTorchFunction():
            X = X.as_subclass(Tensor)
    _check_form(X, label, single)
    if not finite:
        _refuse_gaps(X, label)
    return X


def _check_form(X: Any, label: str, single: bool) -> None:
    """Raise an error unless an input holds real numbers, of at least one sample and feature."""
    real = not X.is_complex() if isinstance(X, Tensor) else X.dtype.kind in "fiub"
    if not real:
        raise ValueError(
            f"{label} must hold real numbers, got dtype {X.dtype}; convert it with "
            f"{label}.astype(float)."
        )
    if isinstance(X, Tensor) and X.is_meta:
        raise ValueError(f"{label} is on the device 'meta' and holds no values.")
    if X.ndim < (2 if single else 1) or 0 in X.shape:
        raise ValueError(
            f"{label} must have shape (n_samples, ...) with at least one sample and feature, got "
            f"{tuple(X.shape)}."
        )


def _refuse_gaps(X: Any, label: str) -> None:
    """Raise an error if a value is NaN or infinite."""
    if not is_finite(X):
        good = X.isfinite() if isinstance(X, Tensor) else np.isfinite(X)
        raise ValueError(
            f"{label} has {int((~good).sum())} values that are NaN or infinite; impute or mask "
            "them before explaining."
        )


def _check_stored(X: Any, label: str, single: bool, finite: bool) -> Any:
    """Return an input that is read part by part, each of which is checked when it is read."""
    stored = as_stored(X)
    _check_form(stored, label, single)
    if finite:
        return stored

    def check(rows: Any) -> NDArray:
        values = as_plain_array(rows, label)
        _refuse_gaps(values, f"{label}, in {len(values)} samples that were read together,")
        return values

    return stored.map(check)


def is_finite(values: Any) -> bool:
    """Return whether all values are finite; their sum, if finite, tells so in one pass."""
    if not isinstance(values, Tensor) and values.dtype in _FLOATS and values.flags.carray:
        values = as_tensor(values)  # whose sum takes half as long
    if isinstance(values, Tensor):
        return cmath.isfinite(values.sum().item()) or bool(values.isfinite().all())
    with np.errstate(all="ignore"):
        return cmath.isfinite(values.sum()) or bool(np.isfinite(values).all())


@dataclass(frozen=True)
class Intake:
    """How a network takes its inputs.

    Attributes
    ----------
    names : list of str or None
        The names of the arguments of ``forward``; None if they go by position.
    integers : bool
        Whether integers stay integers, as indices, wherever the network tells the two apart; else
        they are taken as numbers.
    dtype : torch.dtype
        The floating dtype of the network.
    device : torch.device
        Its device.
    """

    names: list[str] | None
    integers: bool
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, module: nn.Module, inputs: Inputs | None) -> Intake:
        """Return how a network takes given inputs; it raises for a network of mixed dtypes."""
        dtype, device = _one_dtype_and_device(module)
        several = inputs is not None and not inputs.single
        intake = cls(
            None if inputs is None else inputs.names,
            has_embeddings(module) or several,
            dtype,
            device,
        )
        if inputs is not None and not intake.integers and not is_floating(inputs.arrays[0]):
            return replace(intake, integers=_needs_integers(module, inputs.arrays[0], intake))
        return intake

    def to_tensor(self, chunk: Any, copy: bool = True) -> Tensor:
        """Return a chunk of an input as the network takes it, of the user's memory or a copy."""
        dtype = self.dtype if is_floating(chunk) or not self.integers else None
        if not isinstance(chunk, Tensor):
            kind = chunk.dtype if dtype is None else NUMPY_DTYPES[dtype]
            take = np.array if copy else np.asarray
            chunk = as_tensor(take(chunk, dtype=kind, order="C"))
        return chunk.detach().to(device=self.device, dtype=dtype)

    def to_signals(
        self, chunk: Sequence[Any], copy: bool = True
    ) -> tuple[list[Signal], Any, dict[str, Any]]:
        """Return the inputs as signals, and as the arguments of forward."""
        signals = [
            Signal(x, gate=not x.is_floating_point(), mask=x.dtype == torch.bool)
            for x in (self.to_tensor(part, copy) for part in chunk)
        ]
        return signals, *self.to_arguments(signals)

    def to_arguments(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return one value for each input as the arguments of forward."""
        if self.names is None:
            return tuple(values), {}
        return (), dict(zip(self.names, values, strict=True))


def _needs_integers(module: nn.Module, array: Any, intake: Intake) -> bool:
    """Return whether integers are to stay as they are: a forward indexes or counts with them."""
    # The largest and the smallest value tell sums and differences that small types cannot hold.
    rows = array[[0, -1, 0, 0]]
    rows[2], rows[3] = array.max(), array.min()
    as_they_are = _scores(module, replace(intake, integers=True).to_tensor(rows))
    if as_they_are is None or not as_they_are.is_floating_point():
        return False
    as_numbers = _scores(module, intake.to_tensor(rows))
    return as_numbers is None or not torch.allclose(as_they_are, as_numbers, equal_nan=True)


def _scores(module: nn.Module, X: Tensor) -> Tensor | None:
    """Return what a network's plain forward returns, None if it does not take such values."""
    try:
        with torch.no_grad(), RandomStream(X.device, 0):
            output = make_twin(module)(X)
    except Exception:  # whatever it raises: it is run and refused by name later
        return None
    output = output[0] if isinstance(output, tuple | list) and output else output
    return output if isinstance(output, Tensor) else None


def _one_dtype_and_device(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Return the one floating dtype and the one device of a network."""
    weights = list_weights(module)
    # Complex weights, as of Fourier layers, stay as they are where others are converted.
    plain = {p.dtype for p in weights if not p.is_complex()}
    dtypes = plain or {p.dtype for p in weights} or {torch.float64}
    devices = {p.device for p in weights} or {torch.device("cpu")}
    if len(dtypes) > 1 or not dtypes <= set(NUMPY_DTYPES):
        raise TypeError(
            f"The network's parameters must be of float32 or float64, and all of the same, got "
            f"{sorted(map(str, dtypes))}; call .float() or .double() on a copy of it."
        )
    if len(devices) > 1:
        raise ValueError(
            f"The network's parameters must be on one device, got {sorted(map(str, devices))}; "
            "move it with .to(device)."
        )
    if torch.device("meta") in devices:
        raise ValueError(
            "The network's parameters are on the device 'meta' and hold no values; load them."
        )
    return dtypes.pop(), devices.pop()
