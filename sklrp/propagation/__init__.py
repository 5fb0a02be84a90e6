r"""The engine: relevance of a torch network's input, layer by layer.

:func:`explain` compiles a network into a :class:`Plan`, a list of *steps*, each with the rule that
the composite gives it. It runs them forward, where every step returns its output and a function
that pulls relevance back through it, and pulls the score of the target back to the input. A
network that is an ``nn.Sequential`` of supported layers is compiled as it stands; any other has
its ``forward`` run under a recorder, which sees every torch function that it calls. The engine
holds no state, uses no hooks and no autograd graph of the user's parameters, and never changes the
user's modules, so it may run in several threads at once. Layers act as in evaluation mode.

Relevance tensors carry the explained targets on a leading axis: ``(n_targets, n_samples, ...)``
beside activations ``(n_samples, ...)``, so that all classes share one forward pass and every
elementwise formula is written once.

A layer type or a torch function is supported when a handler is registered for it; see
:func:`register`. What else is here serves handlers: :func:`affine` for layers with weights,
:func:`activate` for elementwise ones, :func:`contribute` for linear maps without a rule,
:func:`share_product` for gates, :func:`linear`, :func:`monotone` and :func:`turning` for what a
layer does to bounds. Everything else is refused with a ``TypeError`` that names it: wrong
relevance is never returned in silence.

References
----------
.. [Arras2017] Arras et al., "Explaining recurrent neural network predictions in sentiment
   analysis", WASSA 2017; Arras et al., "Explaining and interpreting LSTMs", LNCS 11700, 2019.
"""

from sklrp.propagation import handlers as _handlers  # noqa: F401  (registers all handlers)
from sklrp.propagation.bounds import linear, monotone, turning
from sklrp.propagation.explaining import explain, plan
from sklrp.propagation.formula import divide, stabilize
from sklrp.propagation.handlers.activations import activate
from sklrp.propagation.plans import Plan
from sklrp.propagation.registry import register, supported
from sklrp.propagation.sharing import affine, contribute, share_product
from sklrp.propagation.tape import Kept, Step
from sklrp.propagation.targets import encode_target

__all__ = [
    "Kept",
    "Plan",
    "Step",
    "activate",
    "affine",
    "contribute",
    "divide",
    "encode_target",
    "explain",
    "linear",
    "monotone",
    "plan",
    "register",
    "share_product",
    "stabilize",
    "supported",
    "turning",
]
