"""The table of metrics: what each is called with, which way is better, and what it asks.

A function enters it by `metric`, which stands above it. Scorers, the exports of `sklrp.metrics`
and the table in its documentation read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Inputs = Literal["maps", "maps and score", "model and maps", "model", "model and truth"]
Better = Literal["higher", "lower", "near 0"]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:  # numpydoc ignore=PR02
    """A metric as scorers call it.

    Parameters
    ----------
    function : callable
        The function.
    takes : {"maps", "maps and score", "model and maps", "model", "model and truth"}
        What it is called with, before its parameters.
    better : {"higher", "lower", "near 0"}
        Which values are better.
    asks : str
        The question that it answers.
    more : tuple of callable
        Functions whose parameters it takes too.
    entry : str or None
        The entry of a returned Bunch that grades maps; None (default): what is returned grades.
    """

    function: Callable[..., Any]
    takes: Inputs
    better: Better
    asks: str
    more: tuple[Callable[..., Any], ...] = ()
    entry: str | None = None


METRICS: dict[str, Metric] = {}


def metric(
    takes: Inputs, better: Better, asks: str, *, name: str | None = None, **kwargs: Any
) -> Callable[[Function], Function]:
    """Enter a function into `METRICS`, by its own name or another; see `Metric`."""

    def enter(function: Function) -> Function:
        METRICS[name or function.__name__] = Metric(function, takes, better, asks, **kwargs)
        return function

    return enter


def show_metrics() -> str:
    """Return the names of all metrics, which way is better and what they ask, as a table."""
    rows = [
        (metric.function.__name__, metric.better, metric.asks)
        for metric in sorted(METRICS.values(), key=lambda m: m.function.__name__)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    line = "  ".join("=" * width for width in widths)
    texts = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (("metric", "better", "asks"), *rows)
    ]
    return "\n".join([line, texts[0], line, *texts[1:], line])
