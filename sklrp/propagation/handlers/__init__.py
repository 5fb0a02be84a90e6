"""What relevance passes through. Importing this package registers all handlers.

`sklrp.propagation` imports it; nothing else needs to.
"""

from sklrp.propagation.handlers import (  # noqa: F401  (these modules register their handlers)
    activations,
    affine,
    arithmetic,
    attention,
    changes,
    copies,
    echo_state,
    elementwise,
    linear_maps,
    lookup,
    many_factors,
    norms,
    orderings,
    pooling,
    products,
    recurrent,
    reductions,
    refused,
    reshaping,
    soft_maxima,
    spectral,
    spreads,
)
