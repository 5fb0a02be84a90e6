"""Builders of Keras's recurrent layers, of one or both directions.

`.assembly` finds them in the table of `.blueprints`. What torch's own layer computes becomes one,
which the engine explains in one step; other activations, GRUs that reset before, and masks become
`.recurrent_loops`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sklrp.keras.activation_layers import make_activation, name_activation
from sklrp.keras.blueprints import Arrays, Blueprint, Part, Shape, Variable, builds
from sklrp.keras.layer_config import LayerConfig
from sklrp.keras.recurrent_loops import GRULoop, LSTMLoop, RecurrentLoop, SimpleLoop

_KINDS = ("LSTM", "GRU", "SimpleRNN")
_N_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
_GATES_OF_TORCH = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "SimpleRNN": (0,)}  # r, z, n in torch


class Direction(NamedTuple):
    """One direction of a recurrent layer."""

    module: nn.Module
    arrays: Arrays
    fill: Any
    sequences: bool
    state: bool
    backwards: bool
    n_states: int


def enter(*inputs: Tensor, backwards: bool, loop: bool, masked: bool) -> tuple[Any, ...]:
    """Return the arguments of torch's layer, or of a loop: sequences, initial states, a mask."""
    x, *states = inputs
    x = x[:, :1] if x.is_meta else x  # only its shape is wanted, without a loop over all steps
    mask = states.pop() if masked else None
    if backwards:
        x, mask = x.flip(1), None if mask is None else mask.flip(1)
    if loop:
        return x, tuple(states), mask
    if not states:
        return (x,)
    first = [state.unsqueeze(0) for state in states]
    return x, first[0] if len(first) == 1 else tuple(first)


def leave(returned: Any, *inputs: Tensor, sequences: bool, state: bool, loop: bool) -> Any:
    """Return what Keras's layer does: all outputs or the last one, and the states."""
    out, states = returned
    if out.is_meta:
        out = out.expand(-1, inputs[0].shape[1], -1)
    states = states if isinstance(states, tuple) else (states,)
    if not loop:
        states = tuple(s.squeeze(0) for s in states)
    value = out if sequences else out[:, -1]
    return (value, *states) if state else value


def make_direction(layer: LayerConfig, n_in: int) -> Direction:
    """Return one direction of a recurrent layer, from its config."""
    kind = layer.kind
    if kind not in _KINDS:
        layer.refuse(f"as a recurrent layer only {_KINDS} are read.")
    units, n_gates = layer.take_size("units"), _N_GATES[kind]
    has_bias = layer.take_flag("use_bias", True)
    layer.ignore("dropout", "recurrent_dropout", "use_cudnn", "recurrent_initializer")
    flags = {
        name: layer.take_flag(name, False)
        for name in ("return_sequences", "return_state", "go_backwards", "zero_output_for_mask")
    }
    activation = name_activation(layer, default="tanh")
    gate = None
    if kind != "SimpleRNN":
        gate = name_activation(layer, "recurrent_activation", "sigmoid")
    if isinstance(activation, Mapping) or isinstance(gate, Mapping):
        layer.refuse("its activation is a layer; only functions are read.")
    resets_after = kind == "GRU" and layer.take_flag("reset_after", False)
    masked = layer.masked
    as_torch = activation == "tanh" and gate == "sigmoid" and (kind != "GRU" or resets_after)
    as_torch = as_torch or (kind == "SimpleRNN" and activation in ("tanh", "relu"))
    bias_shape: Shape = (n_gates * units,)
    if resets_after:
        bias_shape = (2, n_gates * units)
    kernel = Variable("kernel", (n_in, n_gates * units))
    recurrent = Variable("recurrent_kernel", (units, n_gates * units))
    bias = Variable("bias", bias_shape)
    arrays = Arrays([kernel, recurrent, *[bias] * has_bias])
    if as_torch and not masked:
        module = _torch_layer(kind, n_in, units, has_bias, activation)
        fill = partial(_fill_torch, kind, kernel, recurrent, bias if has_bias else None)
    else:
        loops: dict[str, type[RecurrentLoop]] = {
            "LSTM": LSTMLoop, "GRU": GRULoop, "SimpleRNN": SimpleLoop,
        }  # fmt: skip
        functions = [
            nn.Identity() if name is None else make_activation(name, layer.version)
            for name in (activation, gate)
        ]
        module = loops[kind](
            n_in, units, *functions, has_bias=has_bias, resets_after=resets_after,
            zeros_where_masked=flags["zero_output_for_mask"],
        )  # fmt: skip
        fill = partial(_fill_loop, kernel, recurrent, bias if has_bias else None)
    return Direction(
        module, Arrays((), {"cell": arrays}), fill, flags["return_sequences"],
        flags["return_state"], flags["go_backwards"], 2 if kind == "LSTM" else 1,
    )  # fmt: skip


def _torch_layer(kind: str, n_in: int, units: int, has_bias: bool, activation: str) -> nn.Module:
    if kind == "SimpleRNN":
        return nn.RNN(n_in, units, nonlinearity=activation, bias=has_bias, batch_first=True)
    return {"LSTM": nn.LSTM, "GRU": nn.GRU}[kind](n_in, units, bias=has_bias, batch_first=True)


def _fill_torch(
    kind: str, kernel: Variable, recurrent: Variable, bias: Variable | None
) -> dict[str, np.ndarray]:
    """Return the weights of torch's layer: the gates in its order, outputs first."""
    order = _GATES_OF_TORCH[kind]

    def gates(values: np.ndarray) -> np.ndarray:
        parts = np.split(values, len(order), axis=-1)
        return np.concatenate([parts[i] for i in order], axis=-1)

    values = {"weight_ih_l0": gates(kernel.value).T, "weight_hh_l0": gates(recurrent.value).T}
    if bias is not None:
        own, other = (
            bias.value if bias.value.ndim == 2 else (bias.value, np.zeros_like(bias.value))
        )
        values |= {"bias_ih_l0": gates(own), "bias_hh_l0": gates(other)}
    return values


def _fill_loop(
    kernel: Variable, recurrent: Variable, bias: Variable | None
) -> dict[str, np.ndarray]:
    values = {"kernel": kernel.value.T, "recurrent": recurrent.value.T}
    return values if bias is None else {**values, "bias": bias.value}


def _call_options(direction: Direction, masked: bool) -> dict[str, Any]:
    return {
        "before": partial(
            enter,
            backwards=direction.backwards,
            loop=isinstance(direction.module, RecurrentLoop),
            masked=masked,
        ),
        "after": partial(
            leave,
            sequences=direction.sequences,
            state=direction.state,
            loop=isinstance(direction.module, RecurrentLoop),
        ),
    }


def _check_inputs(layer: LayerConfig, shapes: list[Shape], n_states: int) -> None:
    if len(shapes[0]) != 3:
        layer.malformed(f"its input has the shape {shapes[0]}, (samples, steps, values) expected.")
    if len(shapes) not in (1, 1 + n_states):
        layer.malformed(f"it has {len(shapes) - 1} initial states, {n_states} expected.")


@builds(*_KINDS)
def _build_recurrent(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    direction = make_direction(layer, shapes[0][-1])
    _check_inputs(layer, shapes, direction.n_states)
    part = Part(direction.module, **_call_options(direction, layer.masked))
    masks = "use and keep" if direction.sequences else "use"  # sequences have one, states none
    return Blueprint([part], direction.arrays, direction.fill, masks, n_masked=1)


class BothDirections(nn.Module):
    """Two recurrent layers that read sequences from either end.

    Parameters
    ----------
    forward_layer, backward_layer : nn.Module
        The two.
    options : list of dict
        How each is called, and what it returns.
    merge : {"concat", "sum", "ave", "mul"} or None
        What becomes of both outputs; None returns both.
    sequences : bool
        Whether outputs are sequences, which the second returns from their end.
    masked : bool
        Whether the last input is a mask of steps.
    """

    def __init__(
        self, forward_layer: nn.Module, backward_layer: nn.Module, options: list[dict[str, Any]],
        merge: str | None, sequences: bool, masked: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.forward_layer = forward_layer
        self.backward_layer = backward_layer
        self.options = options
        self.merge = merge
        self.sequences = sequences
        self.masked = masked

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        n_states = len(others) - self.masked
        states, mask = others[:n_states], others[n_states:]
        half = len(states) // 2
        one = self._run(0, self.forward_layer, x, *states[:half], *mask)
        other = self._run(1, self.backward_layer, x, *states[half:], *mask)
        y, *ends = one if isinstance(one, tuple) else (one,)
        z, *more = other if isinstance(other, tuple) else (other,)
        if self.sequences:
            z = z.flip(1)
        merged = merge_directions(y, z, self.merge)
        if not ends and self.merge is not None:
            return merged[0]
        return (*merged, *ends, *more)

    def _run(self, i: int, layer: nn.Module, *inputs: Tensor) -> Any:
        options = self.options[i]
        return options["after"](layer(*options["before"](*inputs)), *inputs)


def merge_directions(one: Tensor, other: Tensor, mode: str | None) -> tuple[Tensor, ...]:
    """Return the outputs of both directions, merged."""
    if mode is None:
        return one, other
    if mode == "concat":
        return (torch.cat([one, other], -1),)
    if mode == "mul":
        return (one * other,)
    total = one + other
    return (total / 2 if mode == "ave" else total,)


@builds("Bidirectional")
def _build_bidirectional(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    modes = ("concat", "sum", "ave", "mul", None)
    merge = layer.take_choice("merge_mode", modes, "concat")
    one = layer.inner("layer")
    if layer.take("backward_layer", None) is None:
        other = LayerConfig(
            one.kind,
            {**one.options, "go_backwards": not one.options.get("go_backwards", False)},
            one.module,
            one.version,
        )
    else:
        other = layer.inner("backward_layer")
    one.mask_axes = other.mask_axes = layer.mask_axes
    for inner in (one, other):  # as Keras does, whatever the file says
        if inner.options.get("return_sequences"):
            inner.options = {**inner.options, "zero_output_for_mask": True}
    directions = [make_direction(inner, shapes[0][-1]) for inner in (one, other)]
    for inner in (one, other):
        inner.finish()
    first, second = directions
    _check_inputs(layer, shapes, 2 * first.n_states)
    if first[3:5] != second[3:5] or first.backwards == second.backwards:
        layer.malformed("its two layers do not return the same, or read in the same direction.")
    options = [_call_options(direction, layer.masked) for direction in directions]
    module = BothDirections(
        first.module, second.module, options, merge, first.sequences, layer.masked
    )
    children = {"forward_layer": first.arrays, "backward_layer": second.arrays}

    def fill() -> dict[str, np.ndarray]:
        return {
            f"{name}.{path}": value
            for name, direction in zip(children, directions, strict=True)
            for path, value in direction.fill().items()
        }

    masks = "use and keep" if first.sequences else "use"
    n_masked = 2 if merge is None else 1
    return Blueprint([Part(module)], Arrays((), children), fill, masks, n_masked=n_masked)
