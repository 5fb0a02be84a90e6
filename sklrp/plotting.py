"""Displays: pictures that keep their data, in the manner of scikit-learn.

They need matplotlib: ``pip install 'sklrp[plot]'``. This file only makes them public.
"""

from sklrp.diagnostics.artifact_display import ArtifactDisplay
from sklrp.diagnostics.focus_display import FocusCurveDisplay
from sklrp.drawing.flipping_display import PixelFlippingDisplay
from sklrp.drawing.history_display import HistoryDisplay
from sklrp.drawing.relevance_display import RelevanceDisplay

__all__ = [
    "ArtifactDisplay",
    "FocusCurveDisplay",
    "HistoryDisplay",
    "PixelFlippingDisplay",
    "RelevanceDisplay",
]
