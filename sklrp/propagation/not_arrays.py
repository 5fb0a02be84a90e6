"""What people pass as samples that is no array, and the line that makes one of it.

`.inputs` asks :func:`check_array_like` before it looks into an input.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

_PAD = (
    "pad the samples to one length (torch.nn.utils.rnn.pad_sequence) and pass their lengths as a "
    "second input"
)

# Types, and what to do with one of them that is called {X}.
_REMEDIES: list[tuple[type, str]] = [
    (TensorDataset, "pass its tensors of samples, {X}.tensors[0]"),
    (DataLoader, "pass its samples batch by batch, (batch[0] for batch in {X})"),
    (
        Dataset,
        "pass its samples batch by batch, (batch[0] for batch in torch.utils.data.DataLoader({X}, "
        "batch_size=256))",
    ),
    (
        PackedSequence,
        "pass the padded sequences and their lengths, X = (padded, lengths), from "
        "pad_packed_sequence({X}, batch_first=True), and pack them in forward",
    ),
    (Iterator, "pass an array of all samples, np.stack(list({X}))"),
]


def check_array_like(X: Any, label: str) -> None:
    """Refuse what is no dense array, a tensor or nested lists, with what to pass in its place.

    Parameters
    ----------
    X : object
        An input of a network, as the caller gave it.
    label : str
        What to call it.

    Raises
    ------
    TypeError
        If it is sparse, nested, quantized, a data set, a loader or a packed sequence.
    ValueError
        If it is a list of samples of unequal lengths.
    """
    for kind, remedy in _REMEDIES:
        if isinstance(X, kind):
            raise TypeError(
                f"{label} is a {type(X).__name__}, but must be an array or a tensor; "
                f"{remedy.replace('{X}', label)}."
            )
    if scipy.sparse.issparse(X):
        raise TypeError(f"{label} is sparse, but relevance is dense; pass {label}.toarray().")
    if isinstance(X, Tensor):
        _check_layout(X, label)
    elif isinstance(X, list | np.ndarray) and _is_ragged(X):
        raise ValueError(
            f"{label} holds samples of unequal lengths; {_PAD}. Several inputs of a network go in "
            "a tuple or a dict."
        )


def _check_layout(X: Tensor, label: str) -> None:
    if X.is_nested:
        raise TypeError(
            f"{label} is a nested tensor; pass {label}.to_padded_tensor(0.0), and the lengths as "
            "a second input."
        )
    if X.layout != torch.strided:
        raise TypeError(f"{label} is sparse, but relevance is dense; pass {label}.to_dense().")
    if X.is_quantized:
        raise TypeError(f"{label} is quantized; pass {label}.dequantize().")


def _is_ragged(X: Any) -> bool:
    """Return whether an array of objects, or a list, holds sequences of unequal lengths."""
    if isinstance(X, np.ndarray):
        return X.dtype == object and X.size > 0 and all(np.ndim(v) for v in X.flat)
    try:
        return np.asarray(X).dtype == object and all(map(np.ndim, X))
    except ValueError:  # "inhomogeneous shape"
        return True
