"""What relevance passes through: importing this package registers all handlers."""

from sklrp.propagation.handlers import (  # noqa: F401  (these modules register their handlers)
    activations,
    affine,
    echo_state,
    functions,
    lookup,
    norms,
    pooling,
    recurrent,
    refused,
    reshaping,
)
