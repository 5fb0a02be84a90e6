"""The torch networks behind the estimators, each an ``nn.Sequential`` of plain layers.

Every network takes ``X`` as a two-dimensional tensor ``(n_samples, n_features)`` and returns
outputs ``(n_samples, n_outputs)``, logits or standardised targets; reshaping and sweeping are
layers like any other, so that relevance is carried back through them to the features of ``X``.
"""

from sklrp.modules.convolution import CONV_POOLINGS, PADDING_MODES, make_cnn
from sklrp.modules.perceptron import ACTIVATIONS, make_mlp
from sklrp.modules.regularisation import GaussianNoise, bound_biases, first_weights
from sklrp.modules.reservoir import LEAK_SPLITS, EchoState, make_esn
from sklrp.modules.sequences import (
    STATE_POOLINGS,
    SWEEPS,
    RememberingLSTM,
    StatePooling,
    Sweep,
    make_lstm,
)
from sklrp.modules.target_units import TargetUnits, in_target_units
from sklrp.modules.widths import widest_activation

__all__ = [
    "ACTIVATIONS",
    "CONV_POOLINGS",
    "LEAK_SPLITS",
    "PADDING_MODES",
    "STATE_POOLINGS",
    "SWEEPS",
    "EchoState",
    "GaussianNoise",
    "RememberingLSTM",
    "StatePooling",
    "Sweep",
    "TargetUnits",
    "bound_biases",
    "first_weights",
    "in_target_units",
    "make_cnn",
    "make_esn",
    "make_lstm",
    "make_mlp",
    "widest_activation",
]
