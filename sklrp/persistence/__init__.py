"""Estimators in files that run no code when they are loaded."""

from sklrp.persistence.estimators import load, save
from sklrp.persistence.files import replacing

__all__ = ["load", "replacing", "save"]
