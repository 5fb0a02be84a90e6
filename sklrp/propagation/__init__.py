r"""The engine: relevance of a torch network's input, layer by layer.

:func:`explain` compiles a network into a list of *steps*, one per layer, each with the rule that
the composite gives it; runs them forward, where every step returns its output and a function that
pulls relevance back through it; and pulls the score of the target back to the input. It holds no
state, uses no hooks and no autograd graph of the user's parameters, and never calls or changes the
user's modules' mode, so it may run in several threads at once. Layers act as in evaluation mode.

Relevance tensors carry the explained targets on a leading axis: ``(n_targets, n_samples, ...)``
beside activations ``(n_samples, ...)``, so that all classes share one forward pass and every
elementwise formula is written once.

A layer type is supported when a handler is registered for it; see :func:`register`. Everything
else is refused with a ``TypeError`` that names it: wrong relevance is never returned in silence.

References
----------
.. [Arras2017] Arras et al., "Explaining recurrent neural network predictions in sentiment
   analysis", WASSA 2017; Arras et al., "Explaining and interpreting LSTMs", LNCS 11700, 2019.
"""

from sklrp.propagation import layers as _layers  # noqa: F401  (registers its handlers)
from sklrp.propagation import recurrent as _recurrent  # noqa: F401
from sklrp.propagation.engine import encode_target, explain
from sklrp.propagation.step import Kept, Step, register

__all__ = ["Kept", "Step", "encode_target", "explain", "register"]
