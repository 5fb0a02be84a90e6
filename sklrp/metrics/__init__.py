"""How good is a relevance map? Numbers with a definition, a direction and a source.

All metrics grade every sample at once and return one value per sample; `make_relevance_scorer`
turns each into a scikit-learn scorer, so that a rule can be chosen by the quality of its maps. No
single one certifies a map: a map that conserves can ignore the readout, and one that is robust or
sparse can show nothing of the class.
"""

from sklrp.metrics.catalogue import METRICS, show_metrics
from sklrp.metrics.flipping import *  # noqa: F403  (a new metric is exported by its own file)
from sklrp.metrics.flipping import pixel_flipping_curve
from sklrp.metrics.maps import *  # noqa: F403
from sklrp.metrics.scorer import make_relevance_scorer
from sklrp.metrics.sensitivity import *  # noqa: F403
from sklrp.metrics.skill_mass import *  # noqa: F403

__all__ = [
    "make_relevance_scorer",
    "pixel_flipping_curve",
    *(metric.function.__name__ for metric in METRICS.values()),
]

__doc__ = f"""{__doc__}
{show_metrics()}

Those of maps alone take arrays. The others take every model that `sklrp.explain` takes.
"""
