"""Where no relevance comes to outputs below zero, so that a ReLU may write over them.

Behind a ReLU, the layers of most rules share relevance in proportion to activations: what is zero
gets none. Then the outputs below zero of the layer before it are needed neither as denominators
nor otherwise: the ReLU's output takes their place in memory, and parts of rules that act below
zero are left out. `.planning` marks such steps in a chain, where it is known what comes behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile

from torch import nn

from sklrp import rules
from sklrp.propagation.tape import Step

_AFFINE = frozenset(
    (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
     nn.ConvTranspose3d)
)  # fmt: skip
# Layers that give a zero no relevance, if none comes to outputs of zero. So do maxima, if zeros
# have no share beside a positive value, however small.
_KEEP_ZEROS = frozenset(
    (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten, nn.Unflatten,
     nn.ReLU, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
     nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
     nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
)  # fmt: skip
# Maps of activations that are zero where those are.
_PROPORTIONAL = frozenset((rules.x, rules.x_pos, rules.x_neg))


def mark_rectified(steps: Sequence[Step]) -> None:
    """Mark the layers of a chain whose outputs below zero get no relevance, and their ReLUs.

    What stands between such a ReLU and the next layer with weights is marked likewise.

    Parameters
    ----------
    steps : list of Step
        The steps of a chain of the package's own handlers, with their rules.
    """
    for k, (step, relu) in enumerate(pairwise(steps)):
        if type(step.layer) not in _AFFINE or type(relu.layer) is not nn.ReLU:
            continue
        between = list(takewhile(lambda one: type(one.layer) in _KEEP_ZEROS, steps[k + 2 :]))
        behind = steps[k + 2 + len(between) :]
        if behind and type(behind[0].layer) in _AFFINE and _is_proportional(behind[0]):
            relu.in_place = True
            for one in (step, *between):
                one.rectified = True


def _is_proportional(step: Step) -> bool:
    """Return whether a layer gives no relevance to inputs of zero."""
    terms = [term for part in step.rule.parts() for term in part.terms]
    return all(input_map in _PROPORTIONAL for input_map, _ in terms)
