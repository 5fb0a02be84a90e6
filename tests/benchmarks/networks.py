"""The time of networks whose forward is written by hand: transformers and published networks.

``python -m tests.benchmarks`` prints the rows. The published networks are those of torchvision,
with random weights, and appear where it is installed: it comes with zennit, in the environment of
the peers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from sklrp import explain
from sklrp.propagation.known_networks import forget_all

from .engine import gradient
from .measure import Row, median_times

try:
    from torchvision import models
except (ImportError, RuntimeError):  # built for another torch, it fails in its own way
    models = None

PLAIN = {"resnet18": "≤ 1.2", "densenet121": "≤ 1.2"}
NARROW = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf")
PUBLISHED = PLAIN | dict.fromkeys(NARROW, "≤ 2.0")


class Encoder(nn.Module):
    """A transformer encoder over a sequence, the mean of whose states decides."""

    def __init__(self, width: int = 64, n_layers: int = 4) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        return self.head(self.encoder(x).mean(1))


class Block(nn.Module):
    """Attention and a perceptron, each behind a normalisation and beside a skip connection."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.before = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.behind = nn.LayerNorm(width)
        self.dense = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens behind the block."""
        qkv = self.qkv(self.before(x)).unflatten(2, (3, self.n_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.dense(self.behind(x))


class VisionTransformer(nn.Module):
    """ViT-tiny: patches of 16 x 16, 12 blocks of width 192 with 3 heads, and a class token."""

    def __init__(self, size: int = 224, width: int = 192, depth: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, (size // 16) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, 3) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


REACH = "≤ 1.6"
TRANSFORMERS: dict[str, tuple[Callable[..., nn.Module], int, tuple[int, ...]]] = {
    "transformer encoder, 4 layers of 64, 50 steps": (Encoder, 256, (50, 64)),
    "ViT-tiny 3x224x224": (VisionTransformer, 24, (3, 224, 224)),
}
SMALL = {
    "transformer encoder, 4 layers of 64, 50 steps": (partial(Encoder, 8, 1), 2, (5, 8)),
    "ViT-tiny 3x224x224": (partial(VisionTransformer, 32, 12, 1), 2, (3, 32, 32)),
}


def bench_transformers(quick: bool = False) -> list[Row]:
    """Return the time of rule epsilon on transformers over that of the yardstick.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take small networks and one repeat.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``rule``, ``ratio`` and ``reach``.
    """
    return [
        row
        for name, (make, n, shape) in (SMALL if quick else TRANSFORMERS).items()
        for row in _compare(f"{name}, {n} samples", make(), n, shape, REACH, quick)
    ]


def bench_published(quick: bool = False) -> list[Row]:
    """Return the same of torchvision's networks, on few samples and on as many as pay the probes.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take two samples of one network and one repeat.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``rule``, ``ratio`` and ``reach``; none without torchvision.
    """
    return [
        row
        for name, network, n, shape, reach in make_published(quick)
        for row in _compare(f"{name}, {n} samples", network, n, shape, reach, quick)
    ]


def make_published(quick: bool) -> Iterator[tuple[str, nn.Module, int, tuple[int, ...], str]]:
    """Yield torchvision's networks, the number and shape of their samples, and what to reach."""
    for name, reach in list(PUBLISHED.items())[: 1 if quick else None] if models else ():
        for n, to in ((8, reach), (64, "")):
            network = draw_statistics(getattr(models, name)(), (3, 64, 64))
            yield f"{name} 3x64x64", network, 2 if quick else n, (3, 64, 64), to


def draw_statistics(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Let a network's batch normalisations have the statistics of some samples."""
    # With those that they start with, values fade from layer to layer: MobileNet's scores are
    # 1e-9, and its map is zero in single precision.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches: there is one
    X = np.random.default_rng(1).normal(size=(16, *shape)).astype(np.float32)
    with torch.no_grad():
        network.train()(torch.from_numpy(X))
    return network


def first_call(model: nn.Module, X: np.ndarray) -> np.ndarray:
    """Explain a network as if no call had done so before: it is probed."""
    forget_all()
    return explain(model, X, rule="epsilon")


def _compare(
    case: str, network: nn.Module, n: int, shape: tuple[int, ...], reach: str, quick: bool
) -> list[Row]:
    """Return the rows of a network: of its first call, and of later ones."""
    model = network.eval().requires_grad_(False)
    X = np.random.default_rng(0).normal(size=(2 if quick else n, *shape)).astype(np.float32)
    functions = {
        "yardstick": partial(gradient, model, X),
        "first call": partial(first_call, model, X),
        "explain": partial(explain, model, X, rule="epsilon"),
    }
    t = median_times(functions, 1 if quick else 5)
    return [
        {
            "what": f"{name} / forward + gradient", "case": case, "rule": "epsilon",
            "ratio": t[name] / t["yardstick"], "reach": to,
        }
        for name, to in (("first call", ""), ("explain", reach))
    ]  # fmt: skip
