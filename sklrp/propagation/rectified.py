"""Where no relevance comes to outputs below zero, so that a ReLU may write over them.

Behind a ReLU, the layers of most rules share relevance in proportion to activations: what is zero
gets none. Then the outputs below zero of the layer before it are needed neither as denominators
nor otherwise: the ReLU's output takes their place in memory, and parts of rules that act below
zero are left out. `.compilation` marks such steps, of a chain and of a recorded network whose runs
are held to the links of its steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

from sklrp import rules
from sklrp.propagation.first_layers import Link
from sklrp.propagation.registry import PASSING, is_built_in
from sklrp.propagation.tape import Step

_AFFINE = frozenset(
    (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
     nn.ConvTranspose3d)
)  # fmt: skip
_RELU: frozenset[type[nn.Module]] = frozenset((nn.ReLU,))
# Layers that give a zero no relevance, if none comes to outputs of zero. So do maxima, if zeros
# have no share beside a positive value, however small.
_KEEP_ZEROS = frozenset(
    (nn.Flatten, nn.Unflatten, nn.ReLU, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d,
     nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
     nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
)  # fmt: skip
# Maps of activations that are zero where those are.
_PROPORTIONAL = frozenset((rules.x, rules.x_pos, rules.x_neg))


def mark_rectified(links: Sequence[Link], output: int) -> None:
    """Mark the layers whose outputs below zero get no relevance, and the ReLUs behind them.

    What stands between such a ReLU and the next layer with weights is marked likewise.

    Parameters
    ----------
    links : sequence of Link
        The steps in execution order, with their rules.
    output : int
        The value that is explained.
    """
    asked = {output}  # values to whose zeros relevance may come
    for step, inputs, outputs in reversed(links):
        if not (_is_proportional(step) or (_keeps_zeros(step) and asked.isdisjoint(outputs))):
            asked.update(inputs)
    makers = {value: link for link in links for value in link.outputs}
    n_uses = Counter([output, *(value for link in links for value in link.inputs)])
    rectified: set[int] = set()  # values that come from a ReLU, and are not asked
    for step, inputs, outputs in links:
        if _is(step, _RELU) and asked.isdisjoint(outputs):
            rectified.update(outputs)
            affine = _find_affine(inputs[0], makers, n_uses)
            if affine is not None:
                step.in_place = affine.rectified = True
        elif _keeps_zeros(step) and rectified.issuperset(inputs):
            rectified.update(outputs)
            step.rectified = True


def _find_affine(value: int, makers: dict[int, Link], n_uses: Counter[int]) -> Step | None:
    """Return the affine layer that made a value, which nothing but one ReLU is to use."""
    while value in makers and n_uses[value] == 1:
        step, inputs, _ = makers[value]
        if _is(step, _AFFINE):
            return step
        if not step.merged:  # a batch normalisation that is folded into the layer before it
            return None
        value = inputs[0]
    return None


def _is(step: Step, kinds: frozenset[type[nn.Module]]) -> bool:
    """Return whether a step is one of some layers, and run by this package's own handler."""
    return type(step.layer) in kinds and is_built_in(step.handler)


def _keeps_zeros(step: Step) -> bool:
    """Return whether a step gives no relevance to zeros, if none comes to those behind it."""
    return step.merged or step.handler in PASSING or _is(step, _KEEP_ZEROS)


def _is_proportional(step: Step) -> bool:
    """Return whether a step gives no relevance to inputs of zero."""
    if not _is(step, _AFFINE):
        return False
    terms = [term for part in step.rule.parts() for term in part.terms]
    return all(input_map in _PROPORTIONAL for input_map, _ in terms)
