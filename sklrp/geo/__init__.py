"""Geoscience: gridded fields of xarray in and out, anomalies, areas, relevance as fields.

xarray is imported by the functions that need it: ``pip install 'sklrp[geo]'``.
"""

from sklrp.geo.anomalies import AnomalyTransformer
from sklrp.geo.areas import (
    box_mask,
    box_mean,
    box_share,
    box_sum,
    cosine_weights,
    pattern_correlation,
    select_box,
)
from sklrp.geo.class_means import composites
from sklrp.geo.relevance_fields import explain, relevance_to_xarray
from sklrp.geo.storage import write
from sklrp.geo.vectorizer import GridVectorizer

__all__ = [
    "AnomalyTransformer",
    "GridVectorizer",
    "box_mask",
    "box_mean",
    "box_share",
    "box_sum",
    "composites",
    "cosine_weights",
    "explain",
    "pattern_correlation",
    "relevance_to_xarray",
    "select_box",
    "write",
]
