"""Estimators in files that run no code when they are loaded."""

from sklrp.persistence.estimators import load, save

__all__ = ["load", "save"]
