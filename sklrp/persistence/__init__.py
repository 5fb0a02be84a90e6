"""Estimators in files that run no code when they are loaded.

Users call `save` and `load`, and so does the command line.
"""

from sklrp.persistence.loading import load
from sklrp.persistence.saving import save

__all__ = ["load", "save"]
