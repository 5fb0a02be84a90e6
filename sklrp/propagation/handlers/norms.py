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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.modules import TargetUnits
from sklrp.propagation.bounds import box, linear
from sklrp.propagation.formula import channelwise
from sklrp.propagation.handlers.activations import pass_all
from sklrp.propagation.handlers.operands import base_name, spatial_shape
from sklrp.propagation.registry import NEW, mark, register
from sklrp.propagation.sharing import contribute
from sklrp.propagation.tape import Pull, Step
from sklrp.rules import Signal


def running_scale(layer: Any) -> tuple[Tensor, Tensor]:
    """Return a normalisation with running statistics as a scale and a shift of each channel."""
    if layer.running_mean is None or layer.running_var is None:
        raise TypeError(
            "it keeps no running statistics, so a sample's output depends on its batch; set "
            "track_running_stats=True"
        )
    scale = torch.rsqrt(layer.running_var + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight.detach()
    shift = -layer.running_mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias.detach()
    return scale, shift


@register(
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    weights=running_scale, bounds=linear, fold="scale",
)  # fmt: skip
@mark(NEW)
def _batch_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    if signal.x.dim() > 2:
        spatial_shape(step, signal)
    return _scale_and_shift(step, signal)


@register(
    TargetUnits, weights=lambda layer: (layer.scale, layer.mean), bounds=linear, fold="scale"
)
def _target_units(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    return _scale_and_shift(step, signal)


def _within_reach(step: Step, signal: Signal) -> Signal:
    """Bound a normalisation of samples, whatever its input is."""
    out, _ = step.handler(step, signal)
    layer: Any = step.layer
    n_values, weight, bias = out.x[0].numel(), layer.weight, getattr(layer, "bias", None)
    if hasattr(layer, "normalized_shape"):
        n_values = math.prod(layer.normalized_shape)
    else:
        n_values //= getattr(layer, "num_groups", out.x.shape[1])
        weight, bias = _of_channels(layer, out.x.dim() - 2)
    # Of m centred values none is further from their mean than sqrt(m - 1) deviations; of m values
    # that are not centred, none is larger than sqrt(m) times their root mean square.
    centred = base_name(layer) != "RMSNorm"
    reach = torch.full_like(out.x, math.sqrt(n_values - centred))
    reach = reach if weight is None else reach * weight.detach().abs()
    middle = torch.zeros_like(reach) if bias is None else torch.zeros_like(reach) + bias.detach()
    half = len(out.x) // 2  # the same for both corners
    return box(out, (middle - reach)[:half], (middle + reach)[:half])


@register(nn.LayerNorm, any_axis=True, bounds=_within_reach)
@mark(NEW)
def _layer_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    dims = _trailing(step, signal)
    own = layer.normalized_shape, layer.weight, layer.bias, layer.eps
    z, _, inverse = torch.native_layer_norm(signal.x, *own)
    return _standardise(
        step, signal, z, signal.x.shape, dims, layer.weight, layer.bias, inverse=inverse
    )


@register(nn.GroupNorm, bounds=_within_reach)
@mark(NEW)
def _group_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    x = signal.x
    z = F.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)
    weight, bias = _of_channels(layer, x.dim() - 2)
    grouped = x.shape[0], layer.num_groups, -1, *x.shape[2:]
    return _standardise(step, signal, z, grouped, range(2, x.dim() + 1), weight, bias)


def _scale_if_running(layer: Any) -> tuple[Tensor | None, Tensor | None]:
    return running_scale(layer) if layer.track_running_stats else (None, None)


def _instance_norm_bounds(step: Step, signal: Signal) -> Signal:
    return _within_reach(step, signal) if step.weight is None else linear(step, signal)


@register(
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    weights=_scale_if_running, bounds=_instance_norm_bounds,
)  # fmt: skip
def _instance_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    x, n_spatial = signal.x, len(spatial_shape(step, signal))
    if step.weight is not None:
        return _scale_and_shift(step, signal)
    z = F.instance_norm(x, weight=layer.weight, bias=layer.bias, eps=layer.eps)
    weight, bias = _of_channels(layer, n_spatial)
    return _standardise(step, signal, z, x.shape, range(2, x.dim()), weight, bias)


if hasattr(nn, "RMSNorm"):  # since torch 2.4

    @register(nn.RMSNorm, any_axis=True, bounds=_within_reach)
    def _rms_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
        layer: Any = step.layer
        x, dims = signal.x, _trailing(step, signal)
        z = F.rms_norm(x, layer.normalized_shape, layer.weight, layer.eps)
        return _standardise(step, signal, z, x.shape, dims, layer.weight, None, centred=False)


@register(nn.LocalResponseNorm, nn.CrossMapLRN2d)
def _local_response(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Divide by the activity of neighbouring channels, which counts as a constant too."""
    return signal.apply(step.layer.forward, signal.nonnegative), pass_all


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


def _scale_and_shift(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Scale and shift the channels; the shift has its share as a bias."""
    n_spatial = signal.x.dim() - 2
    scale, shift = channelwise(step.weight, n_spatial), channelwise(step.bias, n_spatial)
    out = signal.apply(lambda x: torch.addcmul(shift, x, scale))  # in one pass
    if step.shifted:
        return out, lambda relevance, kept: relevance
    return out, contribute(step, signal.x, out.x, lambda ratio: ratio.mul_(scale), bias=shift)


def _standardise(
    step: Step,
    signal: Signal,
    z: Tensor,
    shape: Sequence[int],
    dims: range,
    weight: Tensor | None,
    bias: Tensor | None,
    centred: bool = True,
    inverse: Tensor | None = None,
) -> tuple[Signal, Pull]:
    """Share what standardised ``signal``, viewed in ``shape``, over ``dims``, and gave ``z``.

    The inverse of the deviation is computed where it is not known.
    """
    x, layer = signal.x.reshape(shape), step.layer
    eps: Any = torch.finfo(x.dtype).eps if layer.eps is None else layer.eps

    def find_inverse() -> Tensor:
        if inverse is not None:
            return inverse.to(x.dtype)
        if centred:
            variance = x.var([*dims], correction=0, keepdim=True)
        else:
            variance = x.square().mean([*dims], keepdim=True)
        return torch.rsqrt(variance + eps)

    def adjoint(ratio: Tensor) -> Tensor:
        ratio = ratio if weight is None else ratio * weight
        back = ratio.reshape(-1, *x.shape) * find_inverse()
        if centred:
            back -= back.mean([dim + 1 for dim in dims], keepdim=True)
        return back.reshape(ratio.shape)

    return Signal(z), contribute(step, signal.x, z, adjoint, bias)
