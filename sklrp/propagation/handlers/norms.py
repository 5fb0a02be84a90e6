r"""Handlers of the normalisations.

Those of a sample (layer, group, instance and root-mean-square normalisation) take the statistics
of the sample as constants, the rule of Ali et al. 2022 for Transformers: with the standard
deviation :math:`\sigma` of a group of :math:`m` values held fixed, the layer is the affine map

.. math:: y_j = \frac{w_j}{\sigma} \Big(x_j - \frac{1}{m} \sum_i x_i\Big) + b_j ,

centring included, and relevance is shared by contribution to it, as the epsilon rule does:
:math:`R_i = x_i \sum_j \frac{\partial y_j}{\partial x_i}\Big|_\sigma \frac{R_j}{s(y_j)}`, the bias
keeping its part. Without epsilon and bias that is gradient times input with the deviation held
fixed, and all relevance is handed on. With the statistics of the training data, as in batch
normalisation, the mean is part of the bias.

References
----------
.. [Ali2022] Ali et al., "XAI for Transformers: better explanations through conservative
   propagation", ICML 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.propagation.handlers.reshaping import base_name, spatial_shape
from sklrp.propagation.registry import register
from sklrp.propagation.sharing import channelwise, contribute
from sklrp.propagation.tape import Pull, Step
from sklrp.rules import Signal


@register(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _batch_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    if signal.x.dim() > 2:
        spatial_shape(step, signal)
    return _scale(step, signal, step.weight, step.bias)


@register(nn.LayerNorm, any_axis=True)
def _layer_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    dims = _trailing(step, signal)
    z = F.layer_norm(signal.x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    return _standardise(step, signal, z, signal.x.shape, dims, layer.weight, layer.bias)


@register(nn.GroupNorm)
def _group_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    x = signal.x
    z = F.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)
    weight, bias = _of_channels(layer, x.dim() - 2)
    grouped = x.shape[0], layer.num_groups, -1, *x.shape[2:]
    return _standardise(step, signal, z, grouped, range(2, x.dim() + 1), weight, bias)


@register(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def _instance_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    x, n_spatial = signal.x, len(spatial_shape(step, signal))
    if layer.track_running_stats:
        return _scale(step, signal, *scale_and_shift(layer))
    z = F.instance_norm(x, weight=layer.weight, bias=layer.bias, eps=layer.eps)
    weight, bias = _of_channels(layer, n_spatial)
    return _standardise(step, signal, z, x.shape, range(2, x.dim()), weight, bias)


if hasattr(nn, "RMSNorm"):  # since torch 2.4

    @register(nn.RMSNorm, any_axis=True)
    def _rms_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
        layer: Any = step.layer
        x, dims = signal.x, _trailing(step, signal)
        z = F.rms_norm(x, layer.normalized_shape, layer.weight, layer.eps)
        return _standardise(step, signal, z, x.shape, dims, layer.weight, None, centred=False)


def _trailing(step: Step, signal: Signal) -> range:
    """Return the axes that a normalisation of the last ones acts on."""
    layer: Any = step.layer
    n_axes, n_own = signal.x.dim(), len(layer.normalized_shape)
    if signal.axis >= n_axes - n_own:
        raise TypeError(
            f"Relevance through {base_name(layer)} {step.name!r} is not supported: it normalises "
            f"over the last {n_own} of {n_axes} axes, the one of the samples among them; give it "
            "the axes of one sample as normalized_shape."
        )
    return range(n_axes - n_own, n_axes)


def _of_channels(layer: Any, n_spatial: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the weight and the bias of a normalisation, to be multiplied with its input."""
    weight, bias = layer.weight, layer.bias
    return (
        None if weight is None else channelwise(weight, n_spatial),
        None if bias is None else channelwise(bias, n_spatial),
    )


def scale_and_shift(layer: Any) -> tuple[Tensor, Tensor]:
    """Return a normalisation with running statistics as a scale and a shift of each channel."""
    scale = torch.rsqrt(layer.running_var + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight.detach()
    shift = -layer.running_mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias.detach()
    return scale, shift


def _scale(step: Step, signal: Signal, scale: Tensor, shift: Tensor) -> tuple[Signal, Pull]:
    """Scale and shift the channels; the shift has its share as a bias."""
    n_spatial = signal.x.dim() - 2
    scale, shift = channelwise(scale, n_spatial), channelwise(shift, n_spatial)
    out = signal.apply(lambda x: x * scale + shift)
    if out.low is not None and out.high is not None:  # a negative scale swaps the bounds
        low, high = torch.minimum(out.low, out.high), torch.maximum(out.low, out.high)
        out = replace(out, low=low, high=high)
    return out, contribute(step, signal.x, out.x, lambda ratio: ratio * scale, bias=shift)


def _standardise(
    step: Step,
    signal: Signal,
    z: Tensor,
    shape: Sequence[int],
    dims: range,
    weight: Tensor | None,
    bias: Tensor | None,
    centred: bool = True,
) -> tuple[Signal, Pull]:
    """Share what standardised ``signal``, viewed in ``shape``, over ``dims``, and gave ``z``."""
    x, layer = signal.x.reshape(shape), step.layer
    n_values = math.prod(x.shape[dim] for dim in dims)
    eps: Any = torch.finfo(x.dtype).eps if layer.eps is None else layer.eps

    def adjoint(ratio: Tensor) -> Tensor:
        if centred:
            variance = x.var([*dims], correction=0, keepdim=True)
        else:
            variance = x.square().mean([*dims], keepdim=True)
        ratio = ratio if weight is None else ratio * weight
        back = ratio.reshape(-1, *x.shape) * torch.rsqrt(variance + eps)
        if centred:
            back = back - back.mean([dim + 1 for dim in dims], keepdim=True)
        return back.reshape(ratio.shape)

    out = Signal(z)
    if signal.low is not None:  # of m values none is further from the mean than sqrt(m - 1) sigma
        reach = z.new_full((1, *z.shape[1:]), math.sqrt(n_values - centred))
        reach = reach if weight is None else reach * weight.abs()
        middle = 0.0 if bias is None else bias
        out = replace(out, low=middle - reach, high=middle + reach)
    return out, contribute(step, signal.x, z, adjoint, bias)
