"""How good is a relevance map? Numbers with a definition, a direction and a source.

All metrics grade every sample at once and return one value per sample; `make_relevance_scorer`
turns each into a scikit-learn scorer, so that a rule can be chosen by the quality of its maps. No
single one certifies a map: a map that conserves can ignore the readout, and one that is robust or
sparse can show nothing of the class.

===========================  ======  ==================================================
metric                       better  asks
===========================  ======  ==================================================
conservation_error           lower   does the relevance sum to the explained score?
pixel_flipping_score         higher  does the score fall without the relevant features?
faithfulness_correlation     higher  does it fall as much as relevance says?
relevance_mass               higher  how much relevance lies on a known mask?
relevance_rank               higher  do the most relevant features lie on it?
sparseness                   higher  how few features hold the relevance?
max_sensitivity              lower   how far does a map move with its sample?
randomization_similarity     near 0  does it survive the loss of what was learned?
class_sensitivity            lower   is it the same for another class?
===========================  ======  ==================================================

The functions work on arrays and on anything with scikit-learn's methods and ``explain``.
"""

from sklrp.metrics.flipping import (
    faithfulness_correlation,
    pixel_flipping_curve,
    pixel_flipping_score,
)
from sklrp.metrics.maps import conservation_error, relevance_mass, relevance_rank, sparseness
from sklrp.metrics.scorer import make_relevance_scorer
from sklrp.metrics.sensitivity import (
    class_sensitivity,
    max_sensitivity,
    randomization_similarity,
)

__all__ = [
    "class_sensitivity",
    "conservation_error",
    "faithfulness_correlation",
    "make_relevance_scorer",
    "max_sensitivity",
    "pixel_flipping_curve",
    "pixel_flipping_score",
    "randomization_similarity",
    "relevance_mass",
    "relevance_rank",
    "sparseness",
]
