"""Networks as users write them: what `sklrp.explain` is held against beyond `nn.Sequential`.

Each takes `bias`, so that it can be built without any constant in it: the relevance of its input
must then sum to the explained score. They are small, and differ in style on purpose: the same
thing is written as a module, a function, a method and an operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Network(NamedTuple):
    """A network and what tests need to know of it."""

    constructor: Callable[..., nn.Module]
    inputs: Any  # a draw of one input, a tuple of them, or a dict
    relu: bool  # piecewise linear, but for a head: relevance by rule zero is gradient x input
    head: str | None  # what is stepped over at the end
    outputs: int


NETWORKS: dict[str, Network] = {}


def network(*inputs, outputs=3, relu=False, head=None, **named):
    """Register the decorated class, called with arrays drawn by `inputs`, or with `named` ones."""

    def decorate(constructor):
        drawn = named or (inputs if len(inputs) > 1 else inputs[0])
        NETWORKS[constructor.__name__] = Network(constructor, drawn, relu, head, outputs)
        return constructor

    return decorate


def numbers(*shape):
    """Draw signed numbers."""
    return lambda rng, n: rng.normal(size=(n, *shape))


def tokens(length, vocabulary, repeated=True):
    """Draw sentences of unequal lengths, padded with 0 at their ends."""

    def draw(rng, n):
        if repeated:
            words = rng.integers(1, vocabulary, size=(n, length))
        else:
            words = np.stack([1 + rng.permutation(vocabulary - 1)[:length] for _ in range(n)])
        lengths = rng.integers(length // 2, length + 1, size=(n, 1))
        return np.where(np.arange(length) < lengths, words, 0)

    return draw


def categories(*sizes):
    """Draw one category per column."""
    return lambda rng, n: np.stack([rng.integers(0, size, n) for size in sizes], axis=1)


def build(name, bias=True, seed=0):
    """Return a network in float64 and evaluation mode, with statistics as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[name].constructor(bias=bias).double()
        for norm in model.modules():
            if isinstance(norm, NORMS):
                norm.running_var.uniform_(0.5, 2.0)
                if norm.affine:
                    norm.running_mean.normal_()
                    nn.init.uniform_(norm.weight, -1.5, 1.5)
                    nn.init.normal_(norm.bias)
    return model.eval()


def draw(name, n_samples=3, seed=0):
    """Return input of a network: an array, a tuple or a dict of arrays."""
    rng = np.random.default_rng(seed)
    return on_each(lambda one: one(rng, n_samples), NETWORKS[name].inputs)


def on_each(function, X, *others):
    """Return `function` of each array of an input, in the structure of the input."""
    if isinstance(X, dict):
        return {key: function(X[key], *(other[key] for other in others)) for key in X}
    if isinstance(X, tuple):
        return tuple(function(*arrays) for arrays in zip(X, *others, strict=True))
    return function(X, *others)


def arrays_of(X):
    """Return the arrays of an input as a list."""
    return list(X.values()) if isinstance(X, dict) else list(X) if isinstance(X, tuple) else [X]


def call(model, X):
    """Call a network on its input as users do."""
    if isinstance(X, dict):
        return model(**X)
    return model(*X) if isinstance(X, tuple) else model(X)


# --- Images ---------------------------------------------------------------------------------


@network(numbers(1, 12, 12), relu=True, head="log_softmax")
class LeNet(nn.Module):
    """The first network of every tutorial: functional calls, dropout by `self.training`."""

    def __init__(self, bias=True):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, bias=bias)
        self.conv2 = nn.Conv2d(4, 6, 3, bias=bias)
        self.fc1 = nn.Linear(6 * 4 * 4, 10, bias=bias)
        self.fc2 = nn.Linear(10, 3, bias=bias)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.dropout(x, 0.25, self.training)
        x = x.view(-1, 6 * 4 * 4)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


@network(numbers(3, 12, 12), relu=True)
class VGG(nn.Module):
    """Features made by a loop over a configuration, a classifier behind them."""

    def __init__(self, bias=True):
        super().__init__()
        layers, channels = [], 3
        for width in (4, "M", 6, 6, "M"):
            if width == "M":
                layers += [nn.MaxPool2d(kernel_size=2, stride=2)]
            else:
                layers += [
                    nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=bias),
                    nn.BatchNorm2d(width, affine=bias),
                    nn.ReLU(inplace=True),
                ]
                channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(24, 8, bias=bias), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 3, bias=bias)
        )

    def forward(self, x):
        x = self.features(x)
        x = self.avgpool(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


class BasicBlock(nn.Module):
    """Residual block: one in-place ReLU used twice, an addition in place."""

    def __init__(self, inplanes, planes, stride, bias):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes, affine=bias)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes, affine=bias)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, planes, 1, stride, bias=False),
                nn.BatchNorm2d(planes, affine=bias),
            )

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


@network(numbers(3, 12, 12), relu=True)
class ResNet(nn.Module):
    """Residual network in the manner of torchvision."""

    def __init__(self, bias=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4, affine=bias)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(4, 4, 1, bias), BasicBlock(4, 4, 1, bias))
        self.layer2 = nn.Sequential(BasicBlock(4, 8, 2, bias))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, 3, bias=bias)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.fc(x)


class PreActBlock(nn.Module):
    """Normalise, activate, convolve; the shortcut drops pixels and pads channels with zeros."""

    def __init__(self, inplanes, planes, stride, bias):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inplanes, affine=bias)
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes, affine=bias)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut = lambda x: x
        if stride != 1 or inplanes != planes:
            pad = (planes - inplanes) // 2
            self.shortcut = lambda x: F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, pad, pad))

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return out + self.shortcut(x)


@network(numbers(3, 8, 8), relu=True, head="softmax")
class PreActResNet(nn.Module):
    """Residual network with its activations before the convolutions, and probabilities out."""

    def __init__(self, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            [PreActBlock(4, 4, 1, bias), PreActBlock(4, 8, 2, bias), PreActBlock(8, 8, 1, bias)]
        )
        self.bn = nn.BatchNorm2d(8, affine=bias)
        self.fc = nn.Linear(8, 3, bias=bias)

    def forward(self, x):
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        x = self.bn(x).relu().mean(dim=(2, 3))
        return torch.softmax(self.fc(x), dim=-1)


class DoubleConv(nn.Module):
    """Two convolutions with PReLUs."""

    def __init__(self, inplanes, planes, bias):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(inplanes, planes, 3, padding=1, bias=bias),
            nn.PReLU(),
            nn.Conv2d(planes, planes, 3, padding="same", padding_mode="reflect", bias=bias),
            nn.PReLU(planes),
        )

    def forward(self, x):
        return self.block(x)


@network(numbers(2, 9, 10), relu=True)
class UNet(nn.Module):
    """Down and up again, once by a transposed convolution and once by interpolation."""

    def __init__(self, bias=True):
        super().__init__()
        self.down1 = DoubleConv(2, 3, bias)
        self.down2 = DoubleConv(3, 4, bias)
        self.pool = nn.MaxPool2d(2)
        self.bottom = DoubleConv(4, 5, bias)
        self.up2 = nn.ConvTranspose2d(5, 4, kernel_size=2, stride=2, bias=bias)
        self.conv2 = DoubleConv(8, 4, bias)
        self.up1 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv1 = DoubleConv(7, 3, bias)
        self.out = nn.Conv2d(3, 3, 1, bias=bias)

    def forward(self, x):
        skip1 = self.down1(x)
        skip2 = self.down2(self.pool(skip1))
        x = self.bottom(self.pool(skip2))
        x = self.up2(x)
        x = self.conv2(torch.cat([x, skip2[:, :, : x.size(2), : x.size(3)]], dim=1))
        x = self.up1(x)
        rows, columns = skip1.size(2) - x.size(2), skip1.size(3) - x.size(3)
        x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        x = self.conv1(torch.cat((skip1, x), 1))
        mask = self.out(x)
        return mask.mean([-2, -1])


@network(numbers(2, 6, 6), relu=True)
class Refiner(nn.Module):
    """A coarse and a fine branch, added after interpolation to the size of the other."""

    def __init__(self, bias=True):
        super().__init__()
        self.coarse = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=bias)
        self.fine = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=bias)
        self.head = nn.Conv2d(3, 3, 1, bias=bias)

    def forward(self, x):
        fine = self.fine(x).clamp(min=0)
        coarse = F.interpolate(F.relu(self.coarse(x)), size=fine.shape[2:], mode="nearest")
        x = F.interpolate(torch.add(fine, coarse), scale_factor=0.5, mode="bilinear")
        return torch.amax(self.head(x), dim=(2, 3))


class InceptionBlock(nn.Module):
    """Four branches side by side, joined in their channels."""

    def __init__(self, inplanes, bias):
        super().__init__()
        self.branch1x1 = nn.Conv2d(inplanes, 2, 1, bias=bias)
        self.branch5x5_1 = nn.Conv2d(inplanes, 2, 1, bias=bias)
        self.branch5x5_2 = nn.Conv2d(2, 3, 5, padding=2, bias=bias)
        self.branch3x3 = nn.Conv2d(inplanes, 3, (3, 1), padding=(1, 0), bias=bias)
        self.branch_pool = nn.Conv2d(inplanes, 2, 1, bias=bias)

    def forward(self, x):
        branches = [
            self.branch1x1(x),
            self.branch5x5_2(F.relu(self.branch5x5_1(x), inplace=True)),
            self.branch3x3(x),
            self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)),
        ]
        return F.relu(torch.cat(branches, 1), inplace=True)


@network(numbers(3, 9, 9), relu=True)
class Inception(nn.Module):
    """Branches of several widths, max pooling with a stride beside them."""

    def __init__(self, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=1, bias=bias)
        self.mixed1 = InceptionBlock(4, bias)
        self.reduce = nn.Conv2d(10, 4, 3, stride=2, bias=bias)
        self.mixed2 = InceptionBlock(14, bias)
        self.fc = nn.Linear(10, 3, bias=bias)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.mixed1(x)
        x = torch.cat([F.relu(self.reduce(x)), F.max_pool2d(x, kernel_size=3, stride=2)], dim=1)
        x = self.mixed2(x)
        x = F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)
        return self.fc(x)


@network(numbers(2, 8, 8), relu=True)
class DenseNet(nn.Module):
    """Every layer sees all that came before it."""

    def __init__(self, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=bias)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4 + 2 * i, affine=bias) for i in range(3)])
        self.convs = nn.ModuleList(
            [nn.Conv2d(4 + 2 * i, 2, 3, padding=1, bias=False) for i in range(3)]
        )
        self.transition = nn.Sequential(
            nn.BatchNorm2d(10, affine=bias), nn.Conv2d(10, 5, 1, bias=False), nn.AvgPool2d(2)
        )
        self.classifier = nn.Linear(5, 3, bias=bias)

    def forward(self, x):
        features = [F.relu_(self.stem(x))]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        x = self.transition(torch.cat(features, 1))
        return self.classifier(torch.flatten(F.adaptive_max_pool2d(x, (1, 1)), 1))


@network(numbers(4, 8, 8))
class MobileNet(nn.Module):
    """Depthwise separable convolutions, group normalisation, swish written out."""

    def __init__(self, bias=True):
        super().__init__()
        self.blocks = nn.Sequential(self.block(4, 8, bias, 1), self.block(8, 6, bias, 2))
        self.head = nn.Conv2d(6, 3, 1, bias=bias)

    @staticmethod
    def block(inplanes, planes, bias, stride):
        return nn.Sequential(
            nn.Conv2d(inplanes, inplanes, 3, stride, 1, groups=inplanes, bias=bias),
            nn.GroupNorm(2, inplanes, affine=bias),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inplanes, planes, 1, bias=bias),
            nn.GroupNorm(2, planes, affine=bias),
            Swish(),
        )

    def forward(self, x):
        x = self.head(self.blocks(x))
        return x.view(x.shape[0], x.shape[1], -1).mean(-1)


class Swish(nn.Module):
    """The activation by its formula."""

    def forward(self, x):
        return x * torch.sigmoid(x)


def channel_shuffle(x, groups):
    """Mix the channels of grouped convolutions."""
    n, channels, height, width = x.size()
    x = x.view(n, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(n, -1, height, width)


@network(numbers(4, 6, 6), relu=True)
class ShuffleNet(nn.Module):
    """Halves of the channels, one convolved by groups, shuffled together again."""

    def __init__(self, bias=True):
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Conv2d(2, 2, 3, padding=1, groups=2, bias=bias) for _ in range(2)]
        )
        self.last = nn.Conv2d(4, 3, 3, bias=bias)

    def forward(self, x):
        for branch in self.branches:
            left, right = x.chunk(2, dim=1)
            x = channel_shuffle(torch.cat((left, branch(right).relu_()), dim=1), 2)
        return self.last(x).sum(3).mean(2)


@network(numbers(3, 8, 8))
class SqueezeExcite(nn.Module):
    """Channels weighed by gates made from their own means."""

    def __init__(self, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=bias)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(8, 2, bias=bias),
            nn.ReLU(inplace=True),
            nn.Linear(2, 8, bias=bias),
            nn.Sigmoid(),
        )
        self.head = nn.Linear(8, 3, bias=bias)

    def forward(self, x):
        x = F.relu(self.conv(x))
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        x = x * y.expand_as(x)
        return self.head(x.mean((2, 3)))


class DropPath(nn.Module):
    """Leave out a residual branch at random, in training alone."""

    def __init__(self, drop_prob=0.2):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = torch.rand(x.shape[0], *(1,) * (x.ndim - 1)) >= self.drop_prob
        return x.div(1 - self.drop_prob) * keep


@network(numbers(3, 8, 8))
class ConvNeXt(nn.Module):
    """Large depthwise kernel, channels last, LayerNorm, GELU, and a learned scale per channel."""

    def __init__(self, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, kernel_size=2, stride=2, bias=bias)
        self.dwconv = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=bias)
        self.norm = nn.LayerNorm(4, eps=1e-6, bias=bias)
        self.pwconv1 = nn.Linear(4, 16, bias=bias)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(16, 4, bias=bias)
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.drop_path = DropPath()
        self.head = nn.Linear(4, 3, bias=bias)

    def forward(self, x):
        x = self.stem(x)
        shortcut = x
        x = self.dwconv(x)
        x = x.permute(0, 2, 3, 1)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        x = self.gamma * x
        x = x.permute(0, 3, 1, 2)
        x = shortcut + self.drop_path(x)
        return self.head(x.flatten(2).mean(-1))


@network(numbers(1, 4, 6, 6), relu=True)
class VideoNet(nn.Module):
    """Convolutions over space and time."""

    def __init__(self, bias=True):
        super().__init__()
        self.conv1 = nn.Conv3d(1, 3, kernel_size=3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm3d(3, affine=bias)
        self.conv2 = nn.Conv3d(3, 4, (2, 3, 3), bias=bias)
        self.fc = nn.Linear(4, 3, bias=bias)

    def forward(self, x):
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), (1, 2, 2))
        x = F.leaky_relu(self.conv2(x), 0.1)
        return self.fc(torch.flatten(F.adaptive_avg_pool3d(x, 1), start_dim=1))


@network(numbers(1, 8, 8), outputs=1, head="sigmoid", relu=True)
class Discriminator(nn.Module):
    """One Sequential with spectral norms that ends in a sigmoid; its output without axes."""

    def __init__(self, bias=True):
        super().__init__()
        self.main = nn.Sequential(
            spectral_norm(nn.Conv2d(1, 4, 4, 2, 1, bias=False)),
            nn.LeakyReLU(0.2, inplace=True),
            spectral_norm(nn.Conv2d(4, 6, 3, 1, 1, bias=False)),
            nn.BatchNorm2d(6, affine=bias),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(6, 1, 4, 1, 0, bias=bias),
            nn.Sigmoid(),
        )

    def forward(self, image):
        return self.main(image).view(-1, 1).squeeze(1)


# --- Sequences and text ---------------------------------------------------------------------


class Chomp1d(nn.Module):
    """Cut off the steps that look into the future."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x[:, :, : -self.size].contiguous()


class TemporalBlock(nn.Module):
    """Two causal convolutions with weight normalisation, and a residual."""

    def __init__(self, inputs, outputs, dilation, bias):
        super().__init__()
        options = {"padding": dilation, "dilation": dilation, "bias": bias}
        self.conv1 = weight_norm(nn.Conv1d(inputs, outputs, 2, **options))
        self.conv2 = weight_norm(nn.Conv1d(outputs, outputs, 2, **options))
        self.net = nn.Sequential(
            self.conv1, Chomp1d(dilation), nn.ReLU(), nn.Dropout(0.2),
            self.conv2, Chomp1d(dilation), nn.ReLU(), nn.Dropout(0.2),
        )  # fmt: skip
        self.downsample = nn.Conv1d(inputs, outputs, 1, bias=bias) if inputs != outputs else None
        self.relu = nn.ReLU()

    def forward(self, x):
        out = self.net(x)
        res = x if self.downsample is None else self.downsample(x)
        return self.relu(out + res)


@network(numbers(10, 2), relu=True)
class TCN(nn.Module):
    """Temporal convolutional network; its layers are registered under two names each."""

    def __init__(self, bias=True):
        super().__init__()
        self.tcn = nn.Sequential(
            TemporalBlock(2, 4, 1, bias),
            TemporalBlock(4, 4, 2, bias),
            TemporalBlock(4, 3, 4, bias),
        )
        self.linear = nn.Linear(3, 3, bias=bias)

    def forward(self, inputs):
        y = self.tcn(inputs.transpose(1, 2))
        return self.linear(y[:, :, -1])


@network(numbers(2, 12))
class WaveNet(nn.Module):
    """Gated dilated convolutions, padded to the left, with residual and skip connections."""

    def __init__(self, bias=True):
        super().__init__()
        self.start = nn.Conv1d(2, 4, 1, bias=bias)
        self.dilations = [1, 2, 4]
        self.filters = nn.ModuleList(
            nn.Conv1d(4, 4, 2, dilation=d, bias=bias) for d in self.dilations
        )
        self.gates = nn.ModuleList(
            nn.Conv1d(4, 4, 2, dilation=d, bias=bias) for d in self.dilations
        )
        self.residuals = nn.ModuleList(nn.Conv1d(4, 4, 1, bias=bias) for _ in self.dilations)
        self.end = nn.Conv1d(4, 3, 1, bias=bias)

    def forward(self, x):
        x, skip = self.start(x), 0
        for d, f, g, r in zip(
            self.dilations, self.filters, self.gates, self.residuals, strict=True
        ):
            padded = F.pad(x, (d, 0))
            z = torch.tanh(f(padded)) * torch.sigmoid(g(padded))
            z = r(z)
            skip = skip + z
            x = (x + z) * math.sqrt(0.5)
        return self.end(F.elu(skip)).mean(-1)


@network(numbers(4, 1, 7, 7))
class CNNLSTM(nn.Module):
    """A convolutional network on each frame, an LSTM over the frames."""

    def __init__(self, bias=True):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 3, 3, bias=bias), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.rnn = nn.LSTM(12, 5, num_layers=1, batch_first=True, bias=bias)
        self.fc = nn.Linear(5, 3, bias=bias)

    def forward(self, x):
        batch_size, timesteps, C, H, W = x.size()
        c_out = self.cnn(x.view(batch_size * timesteps, C, H, W))
        r_in = c_out.view(batch_size, timesteps, -1)
        r_out, _ = self.rnn(r_in)
        return self.fc(r_out[:, -1, :])


@network(numbers(6, 3), head="log_softmax")
class GRUClassifier(nn.Module):
    """The last state of a GRU, and a log-softmax."""

    def __init__(self, bias=True):
        super().__init__()
        self.gru = nn.GRU(3, 5, num_layers=2, batch_first=True, dropout=0.2, bias=bias)
        self.out = nn.Linear(5, 3, bias=bias)
        self.softmax = nn.LogSoftmax(dim=-1)

    def forward(self, x):
        _, h_n = self.gru(x)
        return self.softmax(self.out(h_n[-1]))


@network(tokens(7, 12))
class BiLSTM(nn.Module):
    """Text classifier: the last states of both directions of two layers."""

    def __init__(self, bias=True):
        super().__init__()
        self.embedding = nn.Embedding(12, 4, padding_idx=0)
        self.lstm = nn.LSTM(
            4, 3, num_layers=2, bidirectional=True, batch_first=True, dropout=0.5, bias=bias
        )
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 3, bias=bias)

    def forward(self, text):
        embedded = self.dropout(self.embedding(text))
        _output, (hidden, _cell) = self.lstm(embedded)
        hidden = torch.cat([hidden[-2], hidden[-1]], 1)
        return self.fc(self.dropout(hidden))


def lengths(longest):
    """Draw the lengths of sequences."""
    return lambda rng, n: rng.integers(1, longest + 1, n)


@network(tokens(6, 9), lengths(6))
class PackedLSTM(nn.Module):
    """Sentences of unequal lengths, packed: the last state is that of the last word."""

    def __init__(self, bias=True):
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.lstm = nn.LSTM(4, 3, bidirectional=True, batch_first=True, bias=bias)
        self.fc = nn.Linear(6, 3, bias=bias)

    def forward(self, text, text_lengths):
        embedded = self.embedding(text)
        packed = pack_padded_sequence(
            embedded, text_lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        return self.fc(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1))


@network(numbers(6, 3), outputs=1)
class TimeFirstLSTM(nn.Module):
    """Regression by an LSTM that has the time axis first, which is torch's default."""

    def __init__(self, bias=True):
        super().__init__()
        self.hidden_size = 4
        self.lstm = nn.LSTM(3, self.hidden_size, bias=bias)
        self.linear = nn.Linear(4, 1, bias=bias)

    def forward(self, x):
        h0 = torch.zeros(1, x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
        c0 = torch.zeros(1, x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
        out, (_hn, _cn) = self.lstm(x.permute(1, 0, 2), (h0, c0))
        return self.linear(out[-1])


@network(numbers(5, 3), relu=True)
class ReLURNN(nn.Module):
    """A plain recurrent network of ReLUs, its states averaged over time."""

    def __init__(self, bias=True):
        super().__init__()
        self.rnn = nn.RNN(
            3, 4, nonlinearity="relu", batch_first=True, bidirectional=True, bias=bias
        )
        self.fc = nn.Linear(8, 3, bias=bias)

    def forward(self, x):
        output, _ = self.rnn(x)
        return self.fc(output.mean(dim=1))


@network(numbers(5, 3), relu=True)
class HandmadeRNN(nn.Module):
    """A recurrence as a loop over time; the same layers are used at each step."""

    def __init__(self, bias=True):
        super().__init__()
        self.hidden_size = 4
        self.i2h = nn.Linear(3 + self.hidden_size, self.hidden_size, bias=bias)
        self.h2o = nn.Linear(self.hidden_size, 3, bias=bias)

    def init_hidden(self, x):
        return x.new_zeros(x.size(0), self.hidden_size)

    def forward(self, x):
        hidden = self.init_hidden(x)
        for step in x.unbind(dim=1):
            combined = torch.cat((step, hidden), 1)
            hidden = F.relu(self.i2h(combined))
        return self.h2o(hidden)


@network(numbers(4, 3))
class CellLSTM(nn.Module):
    """An LSTM cell in a loop, its outputs stacked and pooled."""

    def __init__(self, bias=True):
        super().__init__()
        self.cell = nn.LSTMCell(3, 4, bias=bias)
        self.fc = nn.Linear(4, 3, bias=bias)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 4).to(x)
        c = torch.zeros_like(h)
        outputs = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            outputs.append(h)
        outputs = torch.stack(outputs, dim=1)
        return self.fc(outputs.max(dim=1).values)


@network(tokens(6, 10), relu=True)
class MeanOfWords(nn.Module):
    """Text classifier without attention: the mean of the words that are there."""

    def __init__(self, bias=True):
        super().__init__()
        self.embedding = nn.Embedding(10, 4, padding_idx=0)
        self.fc1 = nn.Linear(4, 6, bias=bias)
        self.fc2 = nn.Linear(6, 3, bias=bias)

    def forward(self, tokens):
        mask = (tokens != 0).unsqueeze(-1)
        embedded = self.embedding(tokens) * mask
        pooled = embedded.sum(dim=1) / mask.sum(dim=1)
        return self.fc2(torch.relu(self.fc1(pooled)))


@network(tokens(6, 10), relu=True)
class BagOfWords(nn.Module):
    """Text classifier without attention: the mean over all tokens."""

    def __init__(self, bias=True):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.fc = nn.Linear(4, 5, bias=bias)
        self.out = nn.Linear(5, 3, bias=bias)
        self.activation = F.relu

    def forward(self, tokens):
        return self.out(self.activation(self.fc(self.embed(tokens).mean(1))))


# The gradient of a maximum takes the first of equal values, relevance all of them: no word twice.
@network(tokens(9, 11, repeated=False), relu=True)
class TextCNN(nn.Module):
    """Convolutions of several widths over words, each pooled over the sentence."""

    def __init__(self, bias=True):
        super().__init__()
        self.embedding = nn.Embedding(11, 4, padding_idx=0)
        self.convs = nn.ModuleList([nn.Conv1d(4, 3, width, bias=bias) for width in (2, 3, 4)])
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(9, 3, bias=bias)

    def forward(self, x):
        x = self.embedding(x).transpose(1, 2)
        x = [F.relu(conv(x)) for conv in self.convs]
        x = [F.max_pool1d(c, c.size(2)).squeeze(2) for c in x[:2]] + [x[2].max(dim=2)[0]]
        return self.fc(self.dropout(torch.cat(x, dim=1)))


@network(numbers(5, 3))
class AttentionPooling(nn.Module):
    """States weighed by a softmax over time; returns the weights too."""

    def __init__(self, bias=True):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True, bidirectional=True, bias=bias)
        self.attention = nn.Linear(8, 1, bias=bias)
        self.fc = nn.Linear(8, 3, bias=bias)

    def forward(self, x):
        states = self.gru(x)[0]
        weights = F.softmax(self.attention(torch.tanh(states)), dim=1)
        context = (weights * states).sum(dim=1)
        return self.fc(context), weights.squeeze(-1)


@network(tokens(6, 10))
class MaskedAttention(nn.Module):
    """Words weighed by a softmax that does not see the padding, summed by a matrix product."""

    def __init__(self, bias=True):
        super().__init__()
        self.embedding = nn.Embedding(10, 5, padding_idx=0)
        self.proj = nn.Linear(5, 5, bias=bias)
        self.query = nn.Parameter(torch.randn(5))
        self.fc = nn.Linear(5, 3, bias=bias)

    def forward(self, tokens):
        mask = tokens == 0
        h = torch.tanh(self.proj(self.embedding(tokens)))
        scores = torch.matmul(h, self.query)
        scores = scores.masked_fill(mask, float("-inf"))
        weights = F.softmax(scores, dim=-1)
        context = torch.bmm(weights.unsqueeze(1), h).squeeze(1)
        return self.fc(context)


# --- Several inputs -------------------------------------------------------------------------


@network(numbers(1, 6, 6), numbers(4), relu=True)
class ImageAndTable(nn.Module):
    """An image and a row of a table."""

    def __init__(self, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=bias)
        self.pool = nn.AvgPool2d(2)
        self.table = nn.Sequential(nn.Linear(4, 5, bias=bias), nn.ReLU())
        self.fc = nn.Linear(12 + 5, 3, bias=bias)

    def forward(self, image, table):
        image = self.pool(self.conv(image).relu())
        image = image.reshape(image.shape[0], -1)
        return self.fc(torch.cat([image, self.table(table)], dim=-1))


@network(numbers=numbers(3), categories=categories(4, 3), relu=True, outputs=1)
class WideAndDeep(nn.Module):
    """Columns of a table: numbers, and categories that are embedded one by one."""

    def __init__(self, bias=True):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(4, 3), nn.Embedding(3, 2)])
        self.bn = nn.BatchNorm1d(3, affine=bias)
        self.deep = nn.Sequential(
            nn.Linear(8, 6, bias=bias),
            nn.BatchNorm1d(6, affine=bias),
            nn.ReLU(inplace=True),
            nn.Linear(6, 1, bias=bias),
        )
        self.wide = nn.Linear(3, 1, bias=bias)

    def forward(self, categories, numbers):
        embedded = [embed(categories[:, i]) for i, embed in enumerate(self.embeddings)]
        deep = self.deep(torch.cat([*embedded, self.bn(numbers)], dim=1))
        return self.wide(numbers) + deep


@network(numbers(5), numbers(5), relu=True)
class Siamese(nn.Module):
    """One encoder on two inputs; their difference decides."""

    def __init__(self, bias=True):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(5, 6, bias=bias), nn.ReLU(), nn.Linear(6, 4, bias=bias)
        )
        self.head = nn.Linear(4, 3, bias=bias)

    def forward(self, first, second):
        return self.head(F.relu(self.encoder(first) - self.encoder(second)))


# --- Tables ---------------------------------------------------------------------------------


@network(numbers(6))
class Highway(nn.Module):
    """Transform or carry: `t * h + (1 - t) * x`."""

    def __init__(self, bias=True):
        super().__init__()
        self.plain = nn.ModuleList([nn.Linear(6, 6, bias=bias) for _ in range(3)])
        self.gate = nn.ModuleList([nn.Linear(6, 6, bias=bias) for _ in range(3)])
        self.out = nn.Linear(6, 3, bias=bias)

    def forward(self, x):
        for plain, gate in zip(self.plain, self.gate, strict=True):
            h = F.relu(plain(x))
            t = torch.sigmoid(gate(x))
            x = t * h + (1 - t) * x
        return self.out(x)


@network(numbers(6))
class GatedMLP(nn.Module):
    """Gated linear units, by the function and written out."""

    def __init__(self, bias=True):
        super().__init__()
        self.first = nn.Linear(6, 8, bias=bias)
        self.second = nn.Linear(4, 10, bias=bias)
        self.out = nn.Linear(5, 3, bias=bias)

    def forward(self, x):
        x = F.glu(self.first(x), dim=-1)
        values, gates = torch.split(self.second(x), 5, dim=-1)
        x = values.mul(gates.sigmoid())
        return self.out(x)


@network(numbers(6))
class ResidualMLP(nn.Module):
    """Pre-norm residual blocks with GELU."""

    def __init__(self, bias=True):
        super().__init__()
        self.embed = nn.Linear(6, 5, bias=bias)
        self.norms = nn.ModuleList([nn.LayerNorm(5, bias=bias) for _ in range(2)])
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Linear(5, 8, bias=bias), nn.GELU(), nn.Linear(8, 5, bias=bias), nn.Dropout()
                )
                for _ in range(2)
            ]
        )
        self.head = nn.Linear(5, 3, bias=bias)

    def forward(self, x):
        x = self.embed(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.head(F.layer_norm(x, (5,)))


@network(numbers(5))
class MixtureOfExperts(nn.Module):
    """Experts weighed by a softmax."""

    def __init__(self, bias=True):
        super().__init__()
        self.experts = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(5, 4, bias=bias), nn.SiLU(), nn.Linear(4, 3, bias=bias))
                for _ in range(3)
            ]
        )
        self.router = nn.Linear(5, 3, bias=bias)

    def forward(self, x):
        weights = self.router(x).softmax(dim=-1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return torch.sum(weights.unsqueeze(2) * outputs, 1)


@network(numbers(5), relu=True)
class Ensemble(nn.Module):
    """The scores of several networks, averaged; one of them takes part twice."""

    def __init__(self, bias=True):
        super().__init__()
        self.members = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(5, 4, bias=bias), nn.ReLU(), nn.Linear(4, 3, bias=bias)
                )
                for name in ("a", "b", "c")
            }
        )

    def forward(self, x):
        scores = [member(x) for member in self.members.values()] + [self.members["a"](2 * x)]
        return torch.stack(scores).sum(0) / len(scores)


@network(numbers(5), outputs=5, relu=True)
class TiedAutoencoder(nn.Module):
    """Parameters without layers: decoded by the transpose of what encodes."""

    def __init__(self, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5) / 2)
        self.scale = nn.Parameter(torch.rand(4) + 0.5)
        self.hidden_bias = nn.Parameter(torch.randn(4)) if bias else None
        self.visible_bias = nn.Parameter(torch.randn(5)) if bias else None

    def forward(self, x):
        code = self.scale * F.relu(F.linear(x, self.weight, self.hidden_bias))
        decoded = code @ self.weight
        if self.visible_bias is not None:
            decoded = decoded + self.visible_bias
        return decoded


@network(numbers(5), outputs=1, relu=True)
class BinaryLogit(nn.Module):
    """One logit whose axis is squeezed away; a layer that is used over and over."""

    def __init__(self, bias=True):
        super().__init__()
        self.enter = nn.Linear(5, 9, bias=bias)
        self.again = nn.Linear(9, 9, bias=bias)
        self.leave = nn.Linear(9, 1, bias=bias)
        self.activation = nn.ReLU()

    def forward(self, x):
        x = self.activation(self.enter(x))
        for _ in range(3):
            x = self.activation(self.again(x))
        return self.leave(x).squeeze()


@network(numbers(4), outputs=2)
class Regressor(nn.Module):
    """Smooth activations, standardised input, an output in physical units."""

    def __init__(self, bias=True):
        super().__init__()
        self.register_buffer("mean", torch.linspace(-0.5, 0.5, 4) if bias else torch.zeros(4))
        self.register_buffer("std", torch.linspace(0.5, 2.0, 4))
        self.hidden = nn.Linear(4, 6, bias=bias)
        self.hidden2 = nn.Linear(6, 6, bias=bias)
        self.output = nn.Linear(6, 2, bias=bias)
        self.offset = 3.0 if bias else 0.0

    def forward(self, x):
        x = (x - self.mean) / self.std
        x = torch.tanh(self.hidden(x))
        x = F.softplus(self.hidden2(x))
        return 10.0 * self.output(x) + self.offset


@network(numbers(5), relu=True)
class Maxout(nn.Module):
    """Each unit is the largest of three linear pieces."""

    def __init__(self, bias=True):
        super().__init__()
        self.first = nn.Linear(5, 12, bias=bias)
        self.second = nn.Linear(4, 9, bias=bias)

    def forward(self, x):
        x = self.first(x).view(-1, 4, 3).max(-1)[0]
        x, _ = torch.max(self.second(x).unflatten(1, (3, 3)), dim=2)
        return x


@network(numbers(4, 3), relu=True)
class GraphNet(nn.Module):
    """Nodes that average over their neighbours, on one graph."""

    def __init__(self, bias=True):
        super().__init__()
        adjacency = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1.0]])
        self.register_buffer("adjacency", adjacency / adjacency.sum(1, keepdim=True))
        self.conv1 = nn.Linear(3, 4, bias=bias)
        self.conv2 = nn.Linear(4, 3, bias=bias)

    def forward(self, x):
        x = F.relu(torch.matmul(self.adjacency, self.conv1(x)))
        x = self.adjacency @ self.conv2(x)
        return x.mean(dim=-2)


class SpectralConv(nn.Module):
    """A layer of a Fourier neural operator: a matrix for each of few frequencies."""

    def __init__(self, channels, modes):
        super().__init__()
        self.modes = modes
        shape = channels, channels, *modes
        self.low = nn.Parameter(torch.randn(shape, dtype=torch.cdouble) / channels)
        self.high = nn.Parameter(torch.randn(shape, dtype=torch.cdouble) / channels)

    def forward(self, x):
        rows, columns = self.modes
        spectrum = torch.fft.rfft2(x)
        out = torch.zeros(
            len(x),
            x.shape[1],
            x.size(-2),
            x.size(-1) // 2 + 1,
            dtype=spectrum.dtype,
            device=x.device,
        )
        for part, weight in ((slice(rows), self.low), (slice(-rows, None), self.high)):
            out[:, :, part, :columns] = torch.einsum(
                "bixy,ioxy->boxy", spectrum[:, :, part, :columns], weight
            )
        return torch.fft.irfft2(out, s=x.shape[-2:])


@network(numbers(6, 8, 2), relu=True)
class FourierOperator(nn.Module):
    """A Fourier neural operator on fields, channels last, with coordinates beside them."""

    def __init__(self, bias=True):
        super().__init__()
        self.lift = nn.Linear(4 if bias else 2, 3, bias=bias)
        self.spectral = nn.ModuleList(SpectralConv(3, (2, 3)) for _ in range(2))
        self.plain = nn.ModuleList(nn.Conv2d(3, 3, 1, bias=bias) for _ in range(2))
        self.project = nn.Linear(3, 3, bias=bias)
        self.coordinates = bias

    def forward(self, x):
        if self.coordinates:
            rows, columns = (
                torch.linspace(0, 1, n, dtype=x.dtype, device=x.device) for n in x.shape[1:3]
            )
            grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
            x = torch.cat([x, grid.expand(len(x), -1, -1, -1)], -1)
        h = self.lift(x).permute(0, 3, 1, 2)
        for spectral, plain in zip(self.spectral, self.plain, strict=True):
            h = F.relu(spectral(h) + plain(h))
        return self.project(h.permute(0, 2, 3, 1)).mean((1, 2))


@network(numbers(4, 4, 2), relu=True)
class GridToMesh(nn.Module):
    """Encoder, processor and decoder between a grid and a coarser mesh, by messages on edges."""

    def __init__(self, bias=True):
        super().__init__()
        cells = torch.arange(16)
        self.register_buffer("up", cells // 8 * 2 + cells % 4 // 2)  # the node of each cell
        self.register_buffer("edges", torch.tensor([[0, 1, 1, 3, 2, 0], [1, 0, 3, 2, 3, 2]]))
        self.encode, self.message = nn.Linear(2, 4, bias=bias), nn.Linear(8, 4, bias=bias)
        self.update, self.decode = nn.Linear(8, 4, bias=bias), nn.Linear(6, 3, bias=bias)

    def forward(self, x):
        cells = x.flatten(1, 2)
        nodes = x.new_zeros(len(x), 4, 4)
        nodes.index_add_(1, self.up, F.relu(self.encode(cells)))
        for _ in range(2):
            source, target = self.edges
            messages = F.relu(self.message(torch.cat([nodes[:, source], nodes[:, target]], -1)))
            index = target[None, :, None].expand(len(x), -1, 4)
            mean = torch.zeros_like(nodes).scatter_reduce(1, index, messages, "mean")
            nodes = nodes + F.relu(self.update(torch.cat([nodes, mean], -1)))
        return self.decode(torch.cat([cells, nodes[:, self.up]], -1)).sum(1)


@network(numbers(7, 3), relu=True)
class SlowestSteps(nn.Module):
    """States written into a buffer step by step, of which the largest are kept in order."""

    def __init__(self, bias=True):
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 4, bias=bias), nn.Linear(12, 3, bias=bias)

    def forward(self, x):
        states = x.new_zeros(len(x), x.shape[1], 4)
        h = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = F.relu(self.enter(x[:, t])) + 0.5 * h
            states[:, t] = h
        changes = states.diff(dim=1).abs()
        return self.leave(changes.topk(3, dim=1).values.flatten(1))
