"""Rules for the steps of a plan: which one, with which epsilon, and whether it makes sense there.

The plan calls :func:`assign_rules` once the steps are known.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from sklrp.composites import Composite, with_bounds
from sklrp.propagation.tape import Step
from sklrp.rules import AlphaBeta, Flat, Rule, ZBox, ZPlus


def assign_rules(
    module: nn.Module,
    steps: list[Step],
    composite: Composite,
    epsilon: float,
    bounds: tuple[Any, Any] | None,
    strict: bool,
) -> None:
    """Give each step with weights its rule and its epsilon, and warn of degenerate choices."""
    weighted = [step for step in steps if step.kind is not None]
    if not weighted:
        raise TypeError(
            f"The network {type(module).__name__} has no layer with weights; there is nothing to "
            "explain."
        )
    resolved = composite.resolve([(step.name, step.layer, step.kind or "") for step in weighted])
    resolved[0] = with_bounds(resolved[0], bounds)
    for step, rule in zip(weighted, resolved, strict=True):
        step.first = step is weighted[0]
        step.rule, step.epsilon = rule, rule.resolve_epsilon(epsilon)
    if bounds is None and not _has_bounds(resolved[0]):
        _check_boxes(weighted, strict)
    _warn_of_degenerate_maps(weighted, strict)


def _check_boxes(weighted: Sequence[Step], strict: bool) -> None:
    """Refuse, or warn of, z-box rules without bounds where the input has none either."""
    for step in weighted:
        if isinstance(step.rule, ZBox) and not _has_bounds(step.rule):
            problem = (
                f"The z-box rule on layer {step.name!r} needs the bounds of the input; pass "
                "ZBox(low=..., high=...), or explain a classifier of this package, which "
                "remembers them."
            )
            if strict:
                raise ValueError(problem)
            _warn_user(problem)


def _warn_of_degenerate_maps(weighted: Sequence[Step], strict: bool) -> None:
    """Warn of rules that give a map that says little, whatever the network learned."""
    first, last = weighted[0], weighted[-1]
    if isinstance(first.rule, Flat) and first.kind == "dense":
        _warn_user(
            f"The flat rule on the dense first layer {first.name!r} gives every input the same "
            "relevance, whatever the network learned; use 'epsilon', 'w_square' or 'z_box' there."
        )
    one_output = last.weight is not None and len(last.weight) == 1
    if not strict and one_output and all(_is_z_plus(step.rule) for step in weighted):
        _warn_user(
            "The z-plus rule on every layer of a network with one output looks at what speaks for "
            "a large output alone, whatever the output's sign: on regression it hides what speaks "
            "against it; use 'epsilon' on the dense layers."
        )


def _warn_user(message: str) -> None:
    """Warn at the line, outside this package, that asks for the plan or the explanation."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("sklrp."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_z_plus(rule: Rule) -> bool:
    return isinstance(rule, ZPlus) or (isinstance(rule, AlphaBeta) and rule.beta == 0)


def _has_bounds(rule: Rule) -> bool:
    return isinstance(rule, ZBox) and rule.low is not None and rule.high is not None
