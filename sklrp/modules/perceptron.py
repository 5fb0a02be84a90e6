"""The multilayer perceptron, and the dense layers in which all networks end.

`MLPClassifier` builds its network by `make_mlp`; the builders of the other networks call
`dense_layers`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from sklrp._checks import check_option, check_sizes
from sklrp._constraints import COUNT, constrained
from sklrp.modules.regularisation import input_layers

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


@constrained({"n_features": [COUNT]})
def make_mlp(
    n_features: int,
    n_outputs: int,
    *,
    hidden_layer_sizes: Sequence[int] = (100,),
    activation: str = "relu",
    bias: bool = True,
    dropout: float = 0.0,
    input_noise: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Sequential:
    """Build a multilayer perceptron.

    Parameters
    ----------
    n_features : int
        Number of features.
    n_outputs : int
        Number of logits.
    hidden_layer_sizes : sequence of int, default=(100,)
        Units of each hidden layer; empty for a linear model.
    activation : str, default="relu"
        Name of the activation, a key of ``ACTIVATIONS``.
    bias : bool, default=True
        Whether the layers have a bias.
    dropout : float, default=0.0
        Probability with which a hidden unit is dropped in training.
    input_noise : float, default=0.0
        Standard deviation of the noise that is added to the input in training.
    input_dropout : float, default=0.0
        Probability with which a value of the input is dropped in training.

    Returns
    -------
    torch.nn.Sequential
        Network that maps ``(n_samples, n_features)`` to logits ``(n_samples, n_outputs)``.
    """
    layers = input_layers(input_noise, input_dropout)
    layers += dense_layers(n_features, n_outputs, hidden_layer_sizes, activation, bias, dropout)
    return nn.Sequential(OrderedDict(layers))


def dense_layers(
    n_units: int,
    n_outputs: int,
    hidden_layer_sizes: Sequence[int],
    activation: str,
    bias: bool,
    dropout: float,
) -> list[tuple[str, nn.Module]]:
    """Return the named dense layers from ``n_units`` inputs to the logits."""
    check_option("activation", activation, list(ACTIVATIONS))
    layers: list[tuple[str, nn.Module]] = []
    sizes = check_sizes("hidden_layer_sizes", hidden_layer_sizes)
    for i, n_hidden in enumerate(sizes, start=1):
        layers.append((f"dense{i}", nn.Linear(n_units, n_hidden, bias=bias)))
        layers.append((f"dense_activation{i}", ACTIVATIONS[activation]()))
        if dropout:
            layers.append((f"dense_dropout{i}", nn.Dropout(dropout)))
        n_units = n_hidden
    layers.append(("output", nn.Linear(n_units, n_outputs, bias=bias)))
    return layers
