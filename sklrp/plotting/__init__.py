"""Displays: pictures that keep their data, in the manner of scikit-learn. They need matplotlib."""

from sklrp.plotting.artifact import ArtifactDisplay
from sklrp.plotting.flipping import PixelFlippingDisplay
from sklrp.plotting.focus import FocusCurveDisplay
from sklrp.plotting.history import HistoryDisplay
from sklrp.plotting.relevance import RelevanceDisplay

__all__ = [
    "ArtifactDisplay",
    "FocusCurveDisplay",
    "HistoryDisplay",
    "PixelFlippingDisplay",
    "RelevanceDisplay",
]
