"""Which layers see the input first, which are one layer, and what stands before a z-box.

`.compilation` calls :func:`mark_first` before it asks a composite for rules, and
:func:`mark_shifts` afterwards. A z-box rule on a layer that sees the input first has its bounds in
units of the network's input, whatever forward does to the input before: it is as if a
normalisation by constants, ``(x - mean) / std``, were folded into the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from sklrp.propagation.tape import Route, Step
from sklrp.rules import ZBox

# What turns integers into vectors, which have units of their own.
_LOOKUPS = ("Embedding", "EmbeddingBag", "one_hot")
# Functions that add a constant, where they have one signal.
_SUMS = ("add", "sub", "rsub")


class Link(NamedTuple):
    """A step between the values that it takes and gives, by their numbers on the tape."""

    step: Step
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def link_chain(steps: Sequence[Step]) -> list[Link]:
    """Return the links of steps that follow each other."""
    return [Link(step, (k,), (k + 1,)) for k, step in enumerate(steps)]


def link_steps(steps: Sequence[Step], route: Route) -> list[Link]:
    """Return the links of steps that take and give the values of a route."""
    return [Link(step, *values) for step, values in zip(steps, route.links, strict=True)]


def mark_first(links: Sequence[Link]) -> None:
    """Mark the layers that see nothing but inputs, at any of their uses, as first."""
    deep: set[int] = set()  # values that a layer with weights has had a part in
    looked_up: set[int] = set()
    for step, inputs, outputs in links:
        is_deep = not deep.isdisjoint(inputs)
        is_foreign = step.label in _LOOKUPS or not looked_up.isdisjoint(inputs)
        if step.kind is not None:
            step.first, step.from_numbers = not is_deep, not is_deep and not is_foreign
        if is_deep or step.kind is not None:
            deep.update(outputs)
        if is_foreign:
            looked_up.update(outputs)
    for uses in group_uses([link.step for link in links if link.step.kind is not None]):
        seeing = [step for step in uses if step.first]
        for step in uses:
            step.first = bool(seeing)
            step.from_numbers = bool(seeing) and all(one.from_numbers for one in seeing)


def group_uses(steps: Sequence[Step]) -> list[list[Step]]:
    """Return the steps of each layer: one layer may be used several times."""
    groups: dict[Any, list[Step]] = {}
    for step in steps:
        # The layer of a function is made at each call; its weights are the network's own.
        own: Any = {**dict(step.layer.named_parameters(recurse=False)), **vars(step.layer)}
        weight = own.get("weight")
        # Transposed weights, as of a decoder that has its encoder's, are another layer.
        key: Any = id(step.layer)
        if isinstance(weight, Tensor):
            key = weight.data_ptr(), weight.shape, weight.stride()
        groups.setdefault(key, []).append(step)
    return list(groups.values())


def mark_shifts(links: Sequence[Link]) -> None:
    """Let constants that are added before a z-box take no relevance.

    The z-box rule shares by the distance from bounds, which a shift moves along with the input.

    Parameters
    ----------
    links : list of Link
        The steps in execution order, with their rules.

    Raises
    ------
    TypeError
        If a shifted input also goes where relevance is shared by values: the two have no one
        answer.
    """
    boxed: set[int] = set()  # values that go into z-box rules
    others: set[int] = set()  # values that go elsewhere
    for step, inputs, outputs in reversed(links):
        if step.kind is not None:
            is_boxed = isinstance(step.rule, ZBox) and step.from_numbers
            to_box, elsewhere = is_boxed, not is_boxed
        else:
            to_box = not boxed.isdisjoint(outputs)
            elsewhere = not others.isdisjoint(outputs) or not to_box
        step.shifted = to_box and step.kind is None
        is_sum = step.function in _SUMS and len(inputs) == 1
        if step.shifted and elsewhere and (is_sum or (step.fold == "scale" and not step.merged)):
            raise TypeError(
                f"Relevance through {step.name!r} is not supported under the z-box rule: what it "
                "adds a constant to goes into the layer of that rule and elsewhere too. Choose "
                "another rule for the first layer, or shift the samples before."
            )
        if to_box:
            boxed.update(inputs)
        if elsewhere:
            others.update(inputs)
