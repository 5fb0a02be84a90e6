"""Displays: pictures that keep their data, in the manner of scikit-learn. They need matplotlib."""

from sklrp.plotting.artifact import ArtifactDisplay

__all__ = ["ArtifactDisplay"]
