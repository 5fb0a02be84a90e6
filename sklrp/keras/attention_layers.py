"""Builder of Keras's attention with several heads.

`.assembly` finds it in the table of `.blueprints`. The rule of relevance for attention is the
composite's, as for torch's own layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.keras.blueprints import Arrays, Blueprint, Part, Shape, Variable, builds
from sklrp.keras.layer_config import LayerConfig


class HeadsOfAttention(nn.Module):
    """Attention of several heads: projections, softmax of their products, and one more projection.

    Parameters
    ----------
    query, key, value, output : nn.Module
        The projections.
    n_heads : int
        The number of heads.
    causal : bool
        Whether a step sees none behind it.
    """

    def __init__(
        self, query: nn.Module, key: nn.Module, value: nn.Module, output: nn.Module, n_heads: int,
        causal: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.query, self.key, self.value, self.output = query, key, value, output
        self.n_heads = n_heads
        self.causal = causal

    def forward(self, query: Tensor, value: Tensor, key: Tensor | None = None) -> Any:
        q, k, v = (
            layer(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer, x in (
                (self.query, query),
                (self.key, value if key is None else key),
                (self.value, value),
            )
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.output(seen.transpose(1, 2).flatten(2))


@builds("MultiHeadAttention")
def _build_attention(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n_heads, n_key = layer.take_size("num_heads"), layer.take_size("key_dim")
    n_value = n_key if layer.take("value_dim", None) is None else layer.take_size("value_dim")
    has_bias = layer.take_flag("use_bias", True)
    layer.ignore("dropout", "flash_attention", "query_shape", "key_shape", "value_shape")
    layer.take_choice("use_gate", (False,), False)
    layer.take_choice("sliding_window", (None,), None)
    causal = layer.call_options.pop("use_causal_mask", False) is True
    if len(shapes) not in (2, 3) or {len(shape) for shape in shapes} != {3}:
        layer.refuse(f"its inputs have the shapes {shapes}; query and value of steps are read.")
    if layer.take("attention_axes", None) not in (None, [1], 1):
        layer.refuse(f"attention_axes={layer.take('attention_axes')}; the axis of steps is read.")
    n_out = shapes[0][-1]
    if layer.take("output_shape", None) is not None:
        (n_out,) = layer.take_sizes("output_shape", 1)
    sizes = {
        "query": (shapes[0][-1], n_key),
        "key": (shapes[-1][-1], n_key),
        "value": (shapes[1][-1], n_value),
    }
    arrays = {
        f"{name}_dense": _arrays_of((n, n_heads, d), (n_heads, d), has_bias)
        for name, (n, d) in sizes.items()
    }
    arrays["output_dense"] = _arrays_of((n_heads, n_value, n_out), (n_out,), has_bias)
    query, key, value = (nn.Linear(n, n_heads * d, has_bias) for n, d in sizes.values())
    output = nn.Linear(n_heads * n_value, n_out, has_bias)
    module = HeadsOfAttention(query, key, value, output, n_heads, causal)

    def fill() -> dict[str, np.ndarray]:
        values: dict[str, np.ndarray] = {}
        for name, own in arrays.items():
            kernel, *bias = (variable.value for variable in own.own)
            path = name.removesuffix("_dense")
            columns = n_out if path == "output" else kernel.shape[1] * kernel.shape[2]
            values[f"{path}.weight"] = kernel.reshape(-1, columns).T
            values |= {f"{path}.bias": b.reshape(-1) for b in bias}
        return values

    private = "_" if layer.version < 3 else ""  # how Keras 2 calls the attributes
    children = {f"{private}{name}": own for name, own in arrays.items()}
    return Blueprint([Part(module)], Arrays((), children), fill, "refuse")


def _arrays_of(kernel: Shape, bias: Shape, has_bias: bool) -> Arrays:
    return Arrays([Variable("kernel", kernel), *[Variable("bias", bias)] * has_bias])
