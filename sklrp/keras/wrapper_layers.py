"""Builder of Keras's layer that does the same at every step.

`.assembly` finds it in the table of `.blueprints`; the inner layer is built as any other.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from sklrp.keras.assembly import assemble, build
from sklrp.keras.blueprints import Arrays, Blueprint, Part, Shape, builds
from sklrp.keras.keras_graph import Call, Graph, Ref
from sklrp.keras.layer_config import LayerConfig

_ALIKE = ("Dense", "Activation", "Dropout", "LeakyReLU", "ReLU", "ELU", "Identity", "Rescaling")


class AtEachStep(nn.Module):
    """A layer that is applied to each step of sequences alone.

    Parameters
    ----------
    layer : nn.Module
        The layer, which takes steps as samples.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        (out,) = self.layer(x.flatten(0, 1))
        return out.unflatten(0, x.shape[:2])


@builds("TimeDistributed")
def _build_time_distributed(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    inner = layer.inner("layer")
    if inner.kind in _ALIKE:  # the same at each step as it stands
        blueprint = build(inner, shapes)
        blueprint.arrays.twin = inner.twin
        blueprint.arrays = Arrays((), {"layer": blueprint.arrays})
        return blueprint
    start = LayerConfig("InputLayer", {"name": "steps"}, version=layer.version)
    graph = Graph(
        layer.name,
        {"steps": start, inner.name: inner},
        {(inner.name, 0): Call(inner.name, [Ref("steps", 0, 0)])},
        ["steps"],
        [Ref(inner.name, 0, 0)],
        {"steps": shapes[0][2:]},
    )
    made = assemble(graph, layer.version, is_part=True)
    arrays = next(child for child in made.arrays.children.values() if child.name == inner.name)

    def fill() -> dict[str, np.ndarray]:
        return {f"layer.{path}": value for path, value in made.fill().items()}

    if made.masked[0]:
        layer.refuse("its inner layer returns masked steps, of which Keras makes one mask.")
    parts = [Part(AtEachStep(made.network))]
    masks = "keep" if made.is_blind else "refuse"
    return Blueprint(parts, Arrays((), {"layer": arrays}), fill, masks)
