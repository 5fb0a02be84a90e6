"""What a Keras layer becomes in torch: the modules, the arrays they want, and who makes them.

The files ``*_layers.py`` register a builder for each class of Keras layers by :func:`builds`;
`.assembly` calls it with the layer's config and the shapes of its inputs. A builder runs on
torch's meta device, so that nothing is allocated before the arrays of the file were compared with
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from sklrp.keras.layer_config import LayerConfig

Shape = tuple[int, ...]


@dataclass(eq=False)
class Variable:
    """An array of a Keras layer: its name, the shape it must have, and what the file holds."""

    name: str
    shape: Shape
    trainable: bool = True
    value: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(eq=False)
class Arrays:
    """The variables of a layer, in the order in which Keras keeps them, and of the layers in it.

    ``children`` maps the path by which Keras 3 reaches an inner layer to its arrays; a layer of a
    model has its ``name`` too. ``twin`` is the number by which Keras 3 knows a layer that stands
    in several models; the file has its arrays once.
    """

    own: Sequence[Variable] = ()
    children: Mapping[str, Arrays] = field(default_factory=dict)
    trainable: bool = True
    name: str = ""
    twin: int | None = None

    def walk(self, trainable: bool = True) -> Iterator[tuple[Variable, bool]]:
        """Yield all variables, and whether each counts as trained."""
        trainable = trainable and self.trainable
        for variable in self.own:
            yield variable, trainable and variable.trainable
        for child in self.children.values():
            yield from child.walk(trainable)


class Part(NamedTuple):
    """One step of what a layer does.

    Attributes
    ----------
    module : nn.Module
        What is called.
    layout : {"keras", "moved", "any"}
        How it takes its inputs: as Keras has them, with the last axis moved behind that of the
        samples, as torch's convolutions want it, or either way. Its outputs are laid out alike.
    suffix : str
        What its name has behind that of the layer.
    before : callable or None
        Returns the arguments of the module, a tuple or one tensor, of the inputs.
    after : callable or None
        Returns the outputs of the layer, of what the module returns, and the inputs behind it.
    """

    module: nn.Module
    layout: str = "keras"
    suffix: str = ""
    before: Callable[..., Any] | None = None
    after: Callable[..., Any] | None = None


@dataclass(eq=False)
class Blueprint:
    """What a Keras layer becomes.

    Attributes
    ----------
    parts : list of Part
        What a call of it does, in order.
    arrays : Arrays
        What the file must hold of it.
    fill : callable or None
        Returns the values of the parameters and buffers of the first part, by their names.
    masks : str
        What it does with a mask of steps that its input carries: ``"keep"`` hands it on,
        ``"drop"`` forgets it, ``"use"`` takes it as its last input, ``"use and keep"`` does both,
        and ``"refuse"`` is for what is not read. Of several inputs, ``"join"`` makes one mask of
        theirs, and ``"all"`` takes all of them behind its inputs, too.
    mask : nn.Module or None
        What makes a mask of steps of its input, if it does; of several inputs, of them and of
        their masks.
    n_masked : int or None
        How many of its outputs have the mask, from the first on; None for all.
    returns : tuple of bool or None
        Which outputs have a mask of their own, which the part returns behind them; None where it
        returns none.
    """

    parts: Sequence[Part]
    arrays: Arrays = field(default_factory=Arrays)
    fill: Callable[[], Mapping[str, np.ndarray]] | None = None
    masks: str = "drop"
    mask: nn.Module | None = None
    n_masked: int | None = None
    returns: tuple[bool, ...] | None = None

    @property
    def is_blind_to_masks(self) -> bool:
        """Whether it computes the same, masks or not, and makes none."""
        return self.masks in ("keep", "drop") and self.mask is None


Builder = Callable[[LayerConfig, list[Shape]], Blueprint]
BUILDERS: dict[str, Builder] = {}


def builds(*kinds: str) -> Callable[[Builder], Builder]:
    """Register the decorated function as the builder of classes of Keras layers."""

    def decorate(builder: Builder) -> Builder:
        BUILDERS.update(dict.fromkeys(kinds, builder))
        return builder

    return decorate


class Function(nn.Module):
    """A layer without weights: a function with fixed options.

    Parameters
    ----------
    function : callable
        What takes the inputs.
    **options : object
        Its keyword arguments.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.function = function
        self.options = options

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, **self.options)

    def extra_repr(self) -> str:
        options = (f", {name}={value!r}" for name, value in self.options.items())
        return self.function.__name__ + "".join(options)


def applies(
    function: Callable[..., Any], layout: str = "keras", masks: str = "drop", **options: Any
) -> Blueprint:
    """Return the blueprint of a layer that is a function of its inputs, with fixed options."""
    return Blueprint([Part(Function(function, **options), layout)], masks=masks)
