"""Fact or artifact? Tests of relevance maps against null models.

A map can conserve the score to the last digit and still show the architecture, the rule or the
coding of the data instead of what was learned (arXiv 2302.12317). The tests here compare maps with
maps of networks that have learned nothing, and look for the patterns that architectures leave.
`diagnose` runs them all and gives a verdict; each is also a function of its own.
`focus_curve` shows what a parameter of the estimator does to its maps.
"""

from sklrp.diagnostics.artifact_display import ArtifactDisplay as _ArtifactDisplay  # noqa: F401
from sklrp.diagnostics.audit import Audit, Mistake, audit
from sklrp.diagnostics.bias import bias_share
from sklrp.diagnostics.degenerate import degeneracy
from sklrp.diagnostics.diagnosis import diagnose
from sklrp.diagnostics.equivariance import equivariance_test
from sklrp.diagnostics.fact_map import artifact_map
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.focus import FocusCurve, focus_curve
from sklrp.diagnostics.positions import position_profile
from sklrp.diagnostics.randomization import randomization_test
from sklrp.diagnostics.report import ArtifactReport
from sklrp.diagnostics.skill_map import skill_map

__all__ = [
    "ArtifactReport",
    "Audit",
    "Finding",
    "FocusCurve",
    "Mistake",
    "artifact_map",
    "audit",
    "bias_share",
    "degeneracy",
    "diagnose",
    "equivariance_test",
    "focus_curve",
    "position_profile",
    "randomization_test",
    "skill_map",
]
