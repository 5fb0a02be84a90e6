"""What relevance passes through: importing this package registers all handlers."""

from sklrp.propagation.handlers import (  # noqa: F401  (these modules register their handlers)
    activations,
    affine,
    arithmetic,
    copies,
    echo_state,
    lookup,
    norms,
    pooling,
    recurrent,
    reductions,
    refused,
    reshaping,
)
