"""The torch network that a Keras model becomes: its layers by their Keras names, and their calls.

`.assembly` writes the list of calls; forward does them one after the other. Tensors are as Keras
has them, channels last, but between layers that want channels first, where nothing is moved back.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor, nn

from sklrp._torch import get_children


class Operation(NamedTuple):
    """One call of a module, or of a function alone.

    Attributes
    ----------
    module : str or None
        The name of the module.
    inputs : tuple of int
        The numbers of the values that it takes.
    outputs : tuple of int
        The numbers of the values that it makes.
    before, after : callable or None
        What is done to the inputs before, and to what the module returns and the inputs behind.
    """

    module: str | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    before: Callable[..., Any] | None = None
    after: Callable[..., Any] | None = None


def channels_first(x: Tensor) -> Tensor:
    """Move the last axis behind that of the samples."""
    return x.movedim(-1, 1)


def channels_last(x: Tensor) -> Tensor:
    """Move the axis behind that of the samples to the end."""
    return x.movedim(1, -1)


def run_part(
    module: nn.Module | None,
    inputs: Sequence[Any],
    before: Callable[..., Any] | None,
    after: Callable[..., Any] | None,
) -> tuple[Any, ...]:
    """Do what an operation does; return its values."""
    args: Any = tuple(inputs) if before is None else before(*inputs)
    args = args if isinstance(args, tuple) else (args,)
    out = args[0] if module is None else module(*args)
    out = out if after is None else after(out, *inputs)
    return out if isinstance(out, tuple) else (out,)


@lru_cache
def _outputs_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Outputs", names, rename=True)


class KerasNetwork(nn.Module):
    """A network read from a Keras file.

    Its layers are called as in Keras (``named_modules()``), an activation that belongs to a layer
    by the name of both, such as ``"dense_relu"``. A name that torch's modules have themselves,
    such as ``"half"``, gets an underscore.

    Parameters
    ----------
    input_names : list of str
        The names of the inputs, in order.
    input_shapes : list of tuple
        The shape of a sample of each, None for any size.
    output_names : list of str
        The names of the outputs.
    output_form : {"one", "tuple", "dict", "parts"}
        What forward returns: a tensor, a named tuple, a dict, or a plain tuple within a network.
    """

    def __init__(
        self,
        input_names: Sequence[str],
        input_shapes: Sequence[tuple[int | None, ...]],
        output_names: Sequence[str],
        output_form: str,
    ) -> None:
        super().__init__()
        self.input_names = tuple(input_names)
        self.input_shapes = tuple(input_shapes)
        self.output_names = tuple(output_names)
        self.output_form = output_form
        self.program: tuple[Operation, ...] = ()
        self.returned: tuple[int, ...] = ()

    def put(self, name: str, module: nn.Module) -> str:
        """Add a module under its Keras name, or close to it; return the name."""
        name = name.replace(".", "_")
        while hasattr(self, name):
            name += "_"
        self.add_module(name, module)
        return name

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return what the Keras model predicts, of inputs as it takes them.

        Parameters
        ----------
        *inputs : Tensor
            The inputs, in order; of several also one list or tuple.
        **named : Tensor
            Or the inputs by their names.

        Returns
        -------
        Tensor, named tuple or dict
            The output, or the outputs by their names.
        """
        values = dict(enumerate(self._take(inputs, named)))
        layers = get_children(self)
        for step in self.program:
            module = None if step.module is None else layers[step.module]
            out = run_part(module, [values[i] for i in step.inputs], step.before, step.after)
            values.update(zip(step.outputs, out, strict=True))
        found = [values[i] for i in self.returned]
        if self.output_form == "one":
            return found[0]
        if self.output_form == "dict":
            return dict(zip(self.output_names, found, strict=True))
        return (
            tuple(found)
            if self.output_form == "parts"
            else _outputs_type(self.output_names)(*found)
        )

    def _take(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> list[Tensor]:
        """Return the inputs in order; refuse those that the model does not take."""
        n = len(self.input_names)
        if n > 1 and len(inputs) == 1 and isinstance(inputs[0], list | tuple):
            inputs = tuple(inputs[0])
        by_name = dict(zip(self.input_names, inputs, strict=False)) | named
        if len(inputs) + len(named) != n or set(by_name) != set(self.input_names):
            raise ValueError(
                f"X must hold the inputs {self.input_names} of the Keras model, in this order or "
                f"by name, got {len(inputs)} and the names {tuple(named)}."
            )
        taken = [by_name[name] for name in self.input_names]
        for name, x, shape in zip(self.input_names, taken, self.input_shapes, strict=True):
            size = tuple(x.shape[1:])
            if len(size) != len(shape) or any(
                wanted not in (None, n) for n, wanted in zip(size, shape, strict=True)
            ):
                raise ValueError(
                    f"X has samples of shape {size}, but the input {name!r} of the Keras model "
                    f"takes {shape}, in Keras's order of axes (None: any size)."
                )
        return taken
