"""Steps of convolutional networks that torch computes slowly, in a quicker way to the same.

torch pads the channels of what it computes to those of a whole register, so that back to an image
of one channel takes as long as to eight. To one channel, what each output channel sends back is a
convolution of its own, which is quick, and one product adds them up; to two or three, one product
gives what each place of the kernel sends back. And of what a ReLU keeps a maximum is taken: the
ReLU of the maximum is the same, at a quarter of the places. A maximum whose place nobody asks for
is taken of whole rows, then of their columns.

The engine's convolutions ask, `skill_map` for its gradients, and the nets of the estimators.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp._torch import runs_plainly

# For more channels torch's own way back is as quick, and so it is for so few values.
_FEW, _FEW_VALUES = 3, 2**18


def is_of_few_channels(layer: nn.Module, weight: Tensor) -> bool:
    """Tell whether `to_few_channels` leads back through a layer: a convolution of few channels.

    Parameters
    ----------
    layer : nn.Module
        The layer.
    weight : Tensor
        Its weights.

    Returns
    -------
    bool
        The answer; False where torch's own way is the quicker one.
    """
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and _are_few(weight)
        and layer.stride == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and min(_pads(layer.kernel_size, layer.padding, layer.dilation)) >= 0
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
    )


def _are_few(weight: Tensor) -> bool:
    """Tell whether the input channels are one, or so few that their places are not many."""
    n_few, n_places = weight.shape[1], weight[0, 0].numel()
    return n_few == 1 or (n_few <= _FEW and n_few * n_places <= 2 * len(weight))


def to_few_channels(
    values: Tensor, weight: Tensor, padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return ``conv_transpose2d(values, weight)`` of a convolution of few channels, of stride 1.

    Parameters
    ----------
    values : Tensor of shape (n_samples, n_channels, height, width)
        What is led back, best with its channels last.
    weight : Tensor of shape (n_channels, n_few, *kernel)
        The weights of the convolution.
    padding, dilation : (int, int)
        Its padding and dilation.

    Returns
    -------
    Tensor of shape (n_samples, n_few, *size of the input)
        The sum over the output's channels.
    """
    if weight.shape[1] > 1:
        if values.numel() < _FEW_VALUES:
            return F.conv_transpose2d(values, weight, None, 1, padding, 0, 1, dilation)
        return _add_places(values, weight, padding, dilation)
    pads = _pads(weight.shape[2:], padding, dilation)
    flipped = weight.flip(2, 3).clone(memory_format=torch.channels_last)
    each = F.conv2d(values, flipped, None, 1, pads, tuple(dilation), groups=len(weight))
    return (each.movedim(1, -1) @ each.new_ones(len(weight))).unsqueeze(1)


def _add_places(
    values: Tensor, weight: Tensor, padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return the same from what each place of the kernel sends back, moved to where it belongs."""
    size, kernel = values.shape[2:], weight.shape[2:]
    pixels = values.movedim(1, -1).flatten(0, -2)
    each = (weight.flatten(1).t() @ pixels.t()).view(*weight.shape[1:], len(values), *size)
    whole = [n + d * (k - 1) for n, d, k in zip(size, dilation, kernel, strict=True)]
    back = values.new_zeros(weight.shape[1], len(values), *whole)
    for place in itertools.product(*map(range, kernel)):
        starts = [d * k for d, k in zip(dilation, place, strict=True)]
        rows, columns = (slice(s, s + n) for s, n in zip(starts, size, strict=True))
        back[:, :, rows, columns] += each[:, place[0], place[1]]
    rows, columns = (slice(p, n - p) for p, n in zip(padding, whole, strict=True))
    return back[:, :, rows, columns].transpose(0, 1)


def quicken(module: nn.Module) -> None:
    """Make a network and its gradients in its input quick, in place: a caller's own copy."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and is_of_few_channels(layer, layer.weight):
            layer.__class__ = _QuickConvolution
    _put_in_quick_order(module)
    for layer in module.modules():
        if type(layer) is nn.MaxPool2d:
            layer.__class__ = _QuickMaximum


def _put_in_quick_order(module: nn.Module) -> None:
    # A forward of the user's own may take a part of the layers, or look between them.
    if type(module) is nn.Sequential and runs_plainly(module):
        for place, layer in enumerate(in_quick_order(module)):
            module[place] = layer
            _put_in_quick_order(layer)


def in_quick_order(network: nn.Sequential) -> list[nn.Module]:
    """Return layers with maxima before ReLUs, which changes no output and no gradient.

    Parameters
    ----------
    network : nn.Sequential
        The layers; one with hooks or a forward of its own stays where it is.

    Returns
    -------
    list of nn.Module
        The layers.
    """
    # Where the largest value of a window is positive, it is the same one before and behind the
    # ReLU, the first of several; elsewhere both are 0, and so is the gradient.
    layers = list(network)
    for k, (one, other) in enumerate(itertools.pairwise(network)):
        is_pair = type(one) is nn.ReLU and type(other) is nn.MaxPool2d
        if is_pair and not other.return_indices and runs_plainly(one) and runs_plainly(other):
            layers[k : k + 2] = other, one
    return layers


def take_largest(layer: nn.MaxPool2d, x: Tensor) -> Any:
    """Return what a max pooling returns, which is quicker where no gradient is asked for.

    Parameters
    ----------
    layer : nn.MaxPool2d
        The layer.
    x : Tensor of shape (n_samples, n_channels, height, width)
        What enters it.

    Returns
    -------
    Tensor of shape (n_samples, n_channels, n_rows, n_columns)
        The largest value of each window; with the indices if the layer returns them.
    """
    pooled = nn.MaxPool2d.forward
    if not _stands_in_tiles(layer) or x.dim() != 4 or x.device.type != "cpu":
        return pooled(layer, x)
    if (torch.is_grad_enabled() and x.requires_grad) or not x.is_floating_point():
        return pooled(layer, x)
    height, width = _on_both_axes(layer.kernel_size)
    n_rows, n_columns, n_channels = x.shape[2] // height, x.shape[3] // width, x.shape[1]
    if not n_rows * n_columns or not x.is_contiguous(memory_format=torch.channels_last):
        return pooled(layer, x)
    # Rows lie in one piece. Of columns torch steps over gaps, so that fewer of them are better.
    rows = x.movedim(1, -1)[:, : n_rows * height].unflatten(1, (n_rows, height)).flatten(3)
    largest = reduce(torch.maximum, rows.unbind(2))[..., : n_columns * width * n_channels]
    columns = largest.unflatten(-1, (n_columns, width * n_channels)).split(n_channels, dim=-1)
    return reduce(torch.maximum, columns).movedim(-1, 1)


def _stands_in_tiles(layer: nn.MaxPool2d) -> bool:
    """Tell whether windows stand side by side, from the first value on, and nothing else."""
    kernel, stride = layer.kernel_size, layer.stride
    kernel, stride = (_on_both_axes(kernel if size is None else size) for size in (kernel, stride))
    return (
        kernel != (1, 1)
        and stride == kernel
        and _on_both_axes(layer.padding) == (0, 0)
        and _on_both_axes(layer.dilation) == (1, 1)
        and not layer.ceil_mode
        and not layer.return_indices
    )


def _on_both_axes(size: Any) -> tuple[int, int]:
    """Return a size of windows as two numbers; torch takes one, or one in a list, for both."""
    sizes = (size,) if isinstance(size, Integral) else tuple(size)
    return sizes[0], sizes[-1]


def _pads(kernel: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Return the padding of the convolution that leads back."""
    return [d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True)]


class _QuickConvolution(nn.Conv2d):
    """A convolution of few channels, with a quick gradient in its input and none in weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution."""
        if input.dim() != 4 or input.dtype != self.weight.dtype:
            return super().forward(input)
        options = self.weight, self.bias, self.padding, self.dilation
        found: Tensor = _Convolve.apply(input, *options)
        return found


class _QuickMaximum(nn.MaxPool2d):
    """A max pooling that is quick where no gradient is asked for."""

    def forward(self, input: Tensor) -> Any:
        """Return the largest value of each window."""
        return take_largest(self, input)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Any, padding: Any, dilation: Any
    ) -> Any:
        ctx.save_for_backward(weight)
        ctx.options = padding, dilation
        return F.conv2d(x, weight, bias, 1, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return to_few_channels(gradients[0], weight, *ctx.options), None, None, None, None
