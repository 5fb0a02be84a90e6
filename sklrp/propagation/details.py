"""What `explain` returns beside the maps, with a form that fits on a screen.

`run` fills them in. They are Bunches, so that all is there by name; printed they say what a reader
asks first: which score was explained, and which layer kept how much of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklrp._checks import check_representable
from sklrp.propagation.tape import CAUSES

_MOST_LAYERS = 40  # lines
_ROUNDING = 1e-12


class LayerDetails(Bunch):
    """A layer's name, kind and rule, the relevance that left it, and what it kept, by cause."""

    def __repr__(self) -> str:
        return " ".join(_describe(self))


class LayerList(list[LayerDetails]):
    """The layers in execution order; by a name that was asked for, what arrived at its output."""

    def __init__(self, layers: Iterable[LayerDetails], outputs: dict[str, np.ndarray]) -> None:
        super().__init__(layers)
        self._outputs = outputs

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._outputs[key]
        return super().__getitem__(key)


class Details(Bunch):
    """The scores explained, their targets, and the layers with what they kept."""

    def rescale(self, units: Any) -> None:
        """Multiply scores and relevance, in place, by what their unit is worth in another."""
        for name in ("score", "rest"):
            self[name] = self[name] * units
        for layer in self.layers:
            for name in ("relevance", *CAUSES):
                layer[name] = layer[name] * units
        for relevance in self.layer_relevance.values():
            relevance *= np.reshape(
                units, (*np.shape(units), *(1,) * (relevance.ndim - np.ndim(units)))
            )

    def refer_to(self, reference: Any, share: Any) -> None:
        """Count the score from a reference, in place; `share` is what no value of X has of it."""
        self.update(reference=reference, reference_share=share, score=self["score"] + share)

    def convert(self, dtype: Any) -> None:
        """Give the relevance at the outputs of layers another dtype, in place."""
        for name, relevance in self.layer_relevance.items():
            if dtype == np.float16:
                check_representable(relevance, dtype, float(np.finfo(dtype).max))
            self.layer_relevance[name] = relevance.astype(dtype, copy=False)

    def __repr__(self) -> str:
        score = np.asarray(self.score)
        head = f", of the logits before {self.head}" if self.head else ""
        if "reference" in self:
            share = np.abs(self.reference_share).mean() / max(np.abs(score).mean(), _ROUNDING)
            head += f", from the reference {_range(self.reference)}, whose share is {share:.2g}"
        lines = [
            f"Details of {len(score)} samples: score {_range(score)}{head}; "
            "layers from the input on, with what they keep of |score|",
        ]
        rows = [_describe(layer, score) for layer in self.layers[:_MOST_LAYERS]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            padded = map(str.ljust, row, widths)
            lines.append(f"  {'  '.join(padded)}".rstrip())
        if len(self.layers) > _MOST_LAYERS:
            lines.append(f"  and {len(self.layers) - _MOST_LAYERS} more in details.layers")
        return "\n".join(lines)


def _describe(layer: Bunch, score: Any = None) -> tuple[str, ...]:
    """Return a layer in a line: its name, kind and rule, and what it kept in the mean."""
    total = np.abs(score).mean() if score is not None and np.size(score) else 1.0
    kept = []
    for cause in CAUSES:
        size = float(np.abs(layer[cause]).mean()) if np.size(layer[cause]) else 0.0
        if size > _ROUNDING * total:
            kept.append(f"{cause} {size / total:.2g}")
    return str(layer.name), str(layer.layer), str(layer.rule or "-"), ", ".join(kept)


def _range(values: np.ndarray) -> str:
    if not values.size:
        return "none"
    low, high = values.min(), values.max()
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
