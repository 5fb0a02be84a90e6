"""Builders of Keras's convolutional LSTMs, which read fields over time.

`.assembly` finds them in the table of `.blueprints`. Torch has no such layer: each step is two
convolutions and the gates of an LSTM, written out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklrp.keras.activation_layers import make_activation, name_activation
from sklrp.keras.blueprints import Arrays, Blueprint, Part, Shape, Variable, builds
from sklrp.keras.conv_layers import (
    CONVOLUTIONS,
    kernel_of_torch,
    pad_same,
    take_geometry,
    take_padding,
)
from sklrp.keras.layer_config import LayerConfig


class ConvLSTM(nn.Module):
    """An LSTM whose products with weights are convolutions.

    Parameters
    ----------
    kernel, recurrent : nn.Module
        The convolutions of the input and of the state, to all four gates; the second without bias.
    before : callable or None
        What pads the input of the first.
    activation, gate : nn.Module
        What the state and the gates go through.
    sequences : bool
        Whether all states are returned, not the last one.
    backwards : bool
        Whether it starts at the last step.
    """

    def __init__(
        self, kernel: nn.Module, recurrent: nn.Module, before: Callable[[Tensor], Tensor] | None,
        activation: nn.Module, gate: nn.Module, sequences: bool, backwards: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel, self.recurrent, self.before = kernel, recurrent, before
        self.activation, self.gate = activation, gate
        self.sequences, self.backwards = sequences, backwards

    def forward(self, x: Tensor) -> Tensor:
        n_steps = x.shape[1]
        h = c = None
        outputs = []
        for t in range(1 if x.is_meta else n_steps):  # on the meta device only its shape is wanted
            field = x[:, n_steps - 1 - t if self.backwards else t].movedim(-1, 1)
            gates = self.kernel(field if self.before is None else self.before(field))
            if h is not None:
                kernel: Any = self.recurrent
                size = kernel.kernel_size
                gates = gates + kernel(pad_same(h, size, (1,) * len(size), (1,) * len(size)))
            i, f, g, o = gates.chunk(4, 1)
            new = self.gate(i) * self.activation(g)
            c = new if c is None else self.gate(f) * c + new
            h = self.gate(o) * self.activation(c)
            outputs.append(h)
        outputs = outputs * n_steps if x.is_meta and self.sequences else outputs
        out = torch.stack(outputs, 1) if self.sequences else outputs[-1]
        return out.movedim(2 if self.sequences else 1, -1)


@builds("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def _build_conv_lstm(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n = int(layer.kind[-2])
    layer.take_choice("data_format", ("channels_last", None), "channels_last")
    layer.take_choice("return_state", (False,), False)
    layer.ignore("dropout", "recurrent_dropout", "zero_output_for_mask")
    if len(shapes) != 1 or len(shapes[0]) != n + 3:
        layer.refuse(f"its inputs have the shapes {shapes}; one input of fields is read.")
    g = take_geometry(layer, (shapes[0][0], *shapes[0][2:]), n)
    padding, before = take_padding(layer, g.kernel, g.strides, g.dilation)
    filters = layer.take_size("filters")
    names = (
        name_activation(layer, default="tanh"),
        name_activation(layer, "recurrent_activation", "sigmoid"),
    )
    if any(isinstance(name, Mapping) for name in names):
        layer.refuse("its activation is a layer; only functions are read.")
    activation, gate = (
        nn.Identity() if name is None else make_activation(name, layer.version) for name in names
    )
    module = ConvLSTM(
        CONVOLUTIONS[n](
            g.n_in, 4 * filters, g.kernel, g.strides, padding, g.dilation, bias=g.has_bias
        ),
        CONVOLUTIONS[n](filters, 4 * filters, g.kernel, bias=False),
        before,
        activation,
        gate,
        layer.take_flag("return_sequences", False),
        layer.take_flag("go_backwards", False),
    )
    kernel = Variable("kernel", (*g.kernel, g.n_in, 4 * filters))
    recurrent = Variable("recurrent_kernel", (*g.kernel, filters, 4 * filters))
    bias = Variable("bias", (4 * filters,))

    def fill() -> dict[str, np.ndarray]:
        values = {
            "kernel.weight": kernel_of_torch(kernel.value),
            "recurrent.weight": kernel_of_torch(recurrent.value),
        }
        return {**values, "kernel.bias": bias.value} if g.has_bias else values

    cell = Arrays([kernel, recurrent, *[bias] * g.has_bias])
    return Blueprint([Part(module)], Arrays((), {"cell": cell}), fill, "refuse")
