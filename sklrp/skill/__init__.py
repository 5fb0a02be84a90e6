"""Skill on samples that a model never saw, and which cells carry it.

It needs neither relevance nor a rule: contributions come from gradients, or from replacing groups
of cells, and are tested against permuted labels. `sklrp.diagnostics.skill_map` is how users ask;
the diagnostics and the scorer ``"skill_mass"`` build on `decompose_skill`.
"""

from sklrp.skill.asked_models import PlainModel, contributions_to_outputs, differs, take_model
from sklrp.skill.clusters import Neighbours
from sklrp.skill.decomposition import Decomposition, decompose_skill
from sklrp.skill.questions import check_known, question_of

__all__ = [
    "Decomposition",
    "Neighbours",
    "PlainModel",
    "check_known",
    "contributions_to_outputs",
    "decompose_skill",
    "differs",
    "question_of",
    "take_model",
]
