"""Every layer without memory, in its settings, and a network around one.

``LAYERS`` is what the tests of handlers and of what a call leaves unchanged run over.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from sklrp.modules import GaussianNoise
from tests.helpers.parameters import randomised

TRANSPOSED = {
    "1d": (lambda bias: nn.ConvTranspose1d(2, 3, 3, bias=bias), (2, 4)),
    "1d-stride-padding": (
        lambda bias: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, bias=bias),
        (2, 4),
    ),
    "1d-gaps-output-padding": (
        lambda bias: nn.ConvTranspose1d(1, 2, 2, stride=4, output_padding=3, bias=bias),
        (1, 3),
    ),
    "1d-dilation-groups-output-padding-over-stride": (
        lambda bias: nn.ConvTranspose1d(
            4, 6, 2, dilation=3, output_padding=2, groups=2, bias=bias
        ),
        (4, 3),
    ),
    "2d-uneven": (
        lambda bias: nn.ConvTranspose2d(
            2, 2, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), bias=bias
        ),
        (2, 2, 2),
    ),
    "2d-depthwise": (lambda bias: nn.ConvTranspose2d(2, 2, 2, groups=2, bias=bias), (2, 2, 3)),
    "3d": (
        lambda bias: nn.ConvTranspose3d(
            1, 2, 2, stride=(1, 2, 1), padding=(0, 1, 1), dilation=(2, 1, 1), bias=bias
        ),
        (1, 2, 3, 2),
    ),
}
CONTRIBUTING = {
    "avg-padded": (nn.AvgPool2d(3, 2, 1), (2, 5, 6)),
    "avg-not-counting": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 5, 6)),
    "avg-ceil": (nn.AvgPool1d(3, 2, 1, ceil_mode=True), (2, 6)),
    "avg-divisor": (nn.AvgPool3d(2, 1, divisor_override=3), (1, 2, 3, 3)),
    "avg-adaptive": (nn.AdaptiveAvgPool2d((2, 4)), (2, 5, 5)),
    "avg-global": (nn.AdaptiveAvgPool3d(1), (2, 2, 2, 3)),
    "linear": (nn.Upsample(scale_factor=2, mode="linear"), (2, 3)),
    "bilinear": (nn.Upsample(size=(5, 4), mode="bilinear", align_corners=True), (1, 3, 3)),
    "bilinear-layer": (nn.UpsamplingBilinear2d(scale_factor=2), (1, 2, 3)),
    "bicubic": (nn.Upsample(scale_factor=(2, 1.5), mode="bicubic"), (1, 4, 4)),
    "trilinear": (nn.Upsample(scale_factor=1.5, mode="trilinear"), (1, 2, 2, 3)),
    "fold": (nn.Fold((4, 5), 2, padding=1), (8, 30)),
}
COPYING = {
    "flatten": (nn.Flatten(2), (2, 2, 3)),
    "unflatten": (nn.Unflatten(-1, (2, 3)), (2, 6)),
    "pixel-shuffle": (nn.PixelShuffle(2), (8, 2, 3)),
    "pixel-unshuffle": (nn.PixelUnshuffle(2), (2, 4, 2)),
    "channel-shuffle": (nn.ChannelShuffle(3), (6, 2, 2)),
    "nearest": (nn.Upsample(scale_factor=2), (2, 3)),
    "nearest-size": (nn.Upsample(size=(5, 3)), (1, 3, 2)),
    "nearest-exact": (nn.Upsample(scale_factor=1.5, mode="nearest-exact"), (2, 4)),
    "nearest-layer": (nn.UpsamplingNearest2d(scale_factor=3), (1, 2, 2)),
    "nearest-3d": (nn.Upsample(scale_factor=(1, 2, 3)), (1, 2, 1, 2)),
    "unfold": (nn.Unfold(2, stride=2, padding=1), (2, 4, 5)),
    "zero-pad": (nn.ZeroPad1d((2, 1)), (2, 3)),
    "crop": (nn.ZeroPad2d((-1, 1, 0, -1)), (1, 4, 4)),
    "constant-pad": (nn.ConstantPad3d((1, 0, 0, 2, 1, 1), 0.7), (1, 2, 2, 2)),
    "reflect-pad": (nn.ReflectionPad2d((1, 2, 0, 1)), (1, 3, 4)),
    "replicate-pad": (nn.ReplicationPad3d(1), (1, 2, 3, 2)),
    "circular-pad": (nn.CircularPad1d((2, 1)), (2, 4)),
}
POOLS = {
    "max": (nn.MaxPool2d(2), (2, 4, 5)),
    "max-padded": (nn.MaxPool1d(3, 2, 1, dilation=2, ceil_mode=True), (2, 7)),
    "max-overlapping": (nn.MaxPool3d(2, 1), (1, 3, 3, 2)),
    "max-adaptive": (nn.AdaptiveMaxPool2d((2, 3)), (2, 5, 4)),
    "max-global": (nn.AdaptiveMaxPool1d(1), (3, 4)),
}
NORMS = {
    "layer": (nn.LayerNorm(5), (3, 5)),
    "layer-of-vectors": (nn.LayerNorm(6), (6,)),
    "layer-of-images": (nn.LayerNorm((2, 3, 2), eps=0.1), (2, 3, 2)),
    "layer-without-bias": (nn.LayerNorm(4, bias=False), (2, 4)),
    "layer-bare": (nn.LayerNorm(4, elementwise_affine=False, eps=1e-3), (2, 4)),
    "group": (nn.GroupNorm(2, 4), (4, 3, 2)),
    "group-of-vectors": (nn.GroupNorm(2, 6, affine=False), (6,)),
    "group-of-all": (nn.GroupNorm(1, 3, eps=0.01), (3, 4)),
    "instance": (nn.InstanceNorm2d(3, affine=True), (3, 2, 3)),
    "instance-bare": (nn.InstanceNorm1d(2, eps=0.5), (2, 5)),
    "instance-3d": (nn.InstanceNorm3d(2, affine=True), (2, 2, 1, 3)),
}
if hasattr(nn, "RMSNorm"):  # since torch 2.4
    NORMS["rms"] = (nn.RMSNorm(5), (2, 5))
    NORMS["rms-of-two-axes"] = (nn.RMSNorm((2, 3), eps=0.2, elementwise_affine=False), (4, 2, 3))
CHANNEL_NORMS = {
    "batch": (nn.BatchNorm1d(3), (3,)),
    "batch-2d": (nn.BatchNorm2d(2, affine=False), (2, 2, 3)),
    "instance-running": (nn.InstanceNorm1d(2, track_running_stats=True), (2, 4)),
    "instance-running-affine": (
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        (3, 2, 2),
    ),
}
GATES = [nn.Sigmoid(), nn.Hardsigmoid(), nn.Hardsigmoid(inplace=True)]
ACTIVATIONS = [
    GaussianNoise(9.0),
    nn.Identity(), nn.Dropout(0.9), nn.Dropout1d(0.9), nn.Dropout2d(0.9), nn.Dropout3d(0.9),
    nn.AlphaDropout(0.9), nn.FeatureAlphaDropout(0.9), nn.ReLU(), nn.ReLU(inplace=True),
    nn.ReLU6(), nn.Softplus(), nn.Softplus(beta=-2.0), nn.CELU(), nn.CELU(-0.5), nn.ELU(0.5),
    nn.GELU(), nn.GELU("tanh"), nn.Hardshrink(), nn.Hardswish(), nn.Hardtanh(),
    nn.Hardtanh(-2.0, -1.0), nn.Hardtanh(0.5, 2.0), nn.LeakyReLU(), nn.LeakyReLU(-0.3),
    nn.LogSigmoid(), nn.Mish(), nn.PReLU(), nn.PReLU(init=-0.4), nn.RReLU(),
    nn.RReLU(0.1, 0.5, inplace=True), nn.SELU(), nn.SiLU(), nn.Softshrink(), nn.Softsign(),
    nn.Tanh(), nn.Tanhshrink(), nn.Threshold(0.5, 0.2), nn.Threshold(0.5, -0.1),
    nn.Threshold(0.5, 0.9), nn.Threshold(-0.5, 0.2, inplace=True), *GATES,
]  # fmt: skip
LAYERS = {
    **{f"transposed-{name}": (make(True), shape) for name, (make, shape) in TRANSPOSED.items()},
    **CONTRIBUTING,
    **COPYING,
    **POOLS,
    **NORMS,
    **CHANNEL_NORMS,
    **{repr(layer): (layer, (2, 5)) for layer in ACTIVATIONS},
    "prelu-of-channels": (nn.PReLU(2), (2, 5)),
    "glu": (nn.GLU(1), (4, 3)),
    "glu-of-the-last": (nn.GLU(), (2, 4)),
}


def build(name):
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer)
    if not isinstance(layer, nn.PReLU):
        layer = randomised(layer, seed=1)
    elif layer.num_parameters > 1:
        layer.weight.data = torch.tensor([0.3, -0.4])
    if getattr(layer, "running_var", None) is not None:
        layer.running_mean.copy_(draw(layer.num_features, seed=3))
        layer.running_var.copy_(draw(layer.num_features, seed=4).exp())
    return layer.double().eval(), shape


def draw(*shape, seed=2):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


class Written(nn.Module):
    """A layer and a head in a forward of their own."""

    def __init__(self, layer, head):
        super().__init__()
        self.layer, self.head = layer, head

    def forward(self, x):
        return self.head(self.layer(x).flatten(1))
