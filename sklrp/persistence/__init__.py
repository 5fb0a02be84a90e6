"""Estimators in files that run no code when they are loaded.

Users call `save` and `load`, and so does the command line.
"""

from sklrp.persistence.estimators import load, save

__all__ = ["load", "save"]
