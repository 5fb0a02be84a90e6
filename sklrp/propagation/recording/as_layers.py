"""Torch functions that do what a layer does: they are explained as that layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

# Functions that do what a layer does: name mapped to a function of the same arguments that gives
# the layer and the arguments of its forward.
LAYERS: dict[str, Callable[..., tuple[nn.Module, tuple[Any, ...]]]] = {}


def bare_layer(layer_type: type[nn.Module], **attributes: Any) -> nn.Module:
    """Return a layer in evaluation mode without running its constructor, which draws weights."""
    # The attributes are those that handlers read, and those that the layer prints itself with.
    layer = layer_type.__new__(layer_type)
    nn.Module.__init__(layer)
    vars(layer).update(attributes, training=False)
    return layer


def as_layer(*names: str) -> Callable[[Any], Any]:
    """Register the decorated function as the translation of torch functions to a layer."""

    def decorate(translate: Any) -> Any:
        LAYERS.update(dict.fromkeys(names, translate))
        return translate

    return decorate


def _elementwise(layer_type: type[nn.Module], **parameters: Any) -> Any:
    """Return the translation of an activation with parameters of these names and defaults."""

    def translate(input: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
        given = {**parameters, **dict(zip(parameters, args, strict=False)), **kwargs}
        return bare_layer(layer_type, inplace=inplace, **given), (input,)

    return translate


LAYERS |= {
    "relu": _elementwise(nn.ReLU),
    "relu6": _elementwise(nn.ReLU6),
    "sigmoid": _elementwise(nn.Sigmoid),
    "tanh": _elementwise(nn.Tanh),
    "logsigmoid": _elementwise(nn.LogSigmoid),
    "softsign": _elementwise(nn.Softsign),
    "selu": _elementwise(nn.SELU),
    "silu": _elementwise(nn.SiLU),
    "mish": _elementwise(nn.Mish),
    "hardswish": _elementwise(nn.Hardswish),
    "hardsigmoid": _elementwise(nn.Hardsigmoid),
    "tanhshrink": _elementwise(nn.Tanhshrink),
    "leaky_relu": _elementwise(nn.LeakyReLU, negative_slope=0.01),
    "elu": _elementwise(nn.ELU, alpha=1.0),
    "celu": _elementwise(nn.CELU, alpha=1.0),
    "gelu": _elementwise(nn.GELU, approximate="none"),
    "softplus": _elementwise(nn.Softplus, beta=1.0, threshold=20.0),
    "hardtanh": _elementwise(nn.Hardtanh, min_val=-1.0, max_val=1.0),
    "hardshrink": _elementwise(nn.Hardshrink, lambd=0.5),
    "softshrink": _elementwise(nn.Softshrink, lambd=0.5),
    "threshold": _elementwise(nn.Threshold, threshold=0.0, value=0.0),
    "glu": _elementwise(nn.GLU, dim=-1),
}


@as_layer(
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "feature_alpha_dropout",
)  # fmt: skip
def _dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, train: Any = None
) -> Any:
    if training if train is None else train:
        raise TypeError("it drops also in evaluation mode; pass training=self.training")
    return bare_layer(nn.Identity), (input,)


@as_layer("prelu")
def _prelu(input: Any, weight: Tensor) -> Any:
    return bare_layer(nn.PReLU, weight=weight, num_parameters=weight.numel()), (input,)


def _softmax(layer_type: type[nn.Module]) -> Any:
    def translate(
        input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
    ) -> Any:
        return bare_layer(layer_type, dim=dim), (input,)

    return translate


LAYERS |= {"softmax": _softmax(nn.Softmax), "log_softmax": _softmax(nn.LogSoftmax)}


@as_layer("linear")
def _linear(input: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    layer = bare_layer(
        nn.Linear,
        weight=weight,
        bias=bias,
        in_features=weight.shape[-1],
        out_features=weight.shape[0],
    )
    return layer, (input,)


def _tuple(value: Any, n: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * n


def _convolution(n: int, layer_type: type[nn.Module]) -> Any:
    def translate(
        input: Any,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        layer = bare_layer(
            layer_type,
            weight=weight,
            bias=bias,
            in_channels=weight.shape[1] * groups,
            out_channels=weight.shape[0],
            kernel_size=tuple(weight.shape[2:]),
            stride=_tuple(stride, n),
            padding=padding if isinstance(padding, str) else _tuple(padding, n),
            dilation=_tuple(dilation, n),
            groups=groups,
            padding_mode="zeros",
            transposed=False,
            output_padding=(0,) * n,
        )
        return layer, (input,)

    return translate


def _transposed_convolution(n: int, layer_type: type[nn.Module]) -> Any:
    def translate(
        input: Any,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        layer = bare_layer(
            layer_type,
            weight=weight,
            bias=bias,
            in_channels=weight.shape[0],
            out_channels=weight.shape[1] * groups,
            kernel_size=tuple(weight.shape[2:]),
            stride=_tuple(stride, n),
            padding=_tuple(padding, n),
            dilation=_tuple(dilation, n),
            groups=groups,
            padding_mode="zeros",
            transposed=True,
            output_padding=_tuple(output_padding, n),
        )
        return layer, (input,)

    return translate


def _max_pool(n: int, layer_type: type[nn.Module]) -> Any:
    def translate(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        layer = bare_layer(
            layer_type,
            kernel_size=kernel_size,
            stride=kernel_size if stride is None else stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            return_indices=return_indices,
        )
        return layer, (input,)

    return translate


def _avg_pool(n: int, layer_type: type[nn.Module]) -> Any:
    def translate(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        # The layer of one axis keeps tuples, and knows no divisor.
        wrap = (lambda v: _tuple(v, 1)) if n == 1 else (lambda v: v)
        layer = bare_layer(
            layer_type,
            kernel_size=wrap(kernel_size),
            stride=wrap(kernel_size if stride is None else stride),
            padding=wrap(padding),
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            **({} if n == 1 else {"divisor_override": divisor_override}),
        )
        return layer, (input,)

    return translate


def _adaptive_pool(n: int, layer_type: type[nn.Module]) -> Any:
    def translate(input: Any, output_size: Any, return_indices: bool = False) -> Any:
        layer = bare_layer(layer_type, output_size=output_size, return_indices=return_indices)
        return layer, (input,)

    return translate


for _n in (1, 2, 3):
    for _name, _translation, _stem in (
        ("conv{}d", _convolution, "Conv{}d"),
        ("conv_transpose{}d", _transposed_convolution, "ConvTranspose{}d"),
        ("max_pool{}d", _max_pool, "MaxPool{}d"),
        ("avg_pool{}d", _avg_pool, "AvgPool{}d"),
        ("adaptive_max_pool{}d", _adaptive_pool, "AdaptiveMaxPool{}d"),
        ("adaptive_avg_pool{}d", _adaptive_pool, "AdaptiveAvgPool{}d"),
    ):
        LAYERS[_name.format(_n)] = _translation(_n, getattr(nn, _stem.format(_n)))


@as_layer("batch_norm")
def _batch_norm(
    input: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    if training:
        running_mean = running_var = None  # refused as a layer without them is
    types = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    layer = bare_layer(
        types[input.dim()],
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
        eps=eps,
        momentum=momentum,
        num_features=input.shape[1],
        affine=weight is not None,
        track_running_stats=not training,
    )
    return layer, (input,)


@as_layer("instance_norm")
def _instance_norm(
    input: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    types = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
    layer = bare_layer(
        types[input.dim()],
        running_mean=None if use_input_stats else running_mean,
        running_var=None if use_input_stats else running_var,
        weight=weight,
        bias=bias,
        eps=eps,
        momentum=momentum,
        num_features=input.shape[1],
        affine=weight is not None,
        track_running_stats=not use_input_stats,
    )
    return layer, (input,)


@as_layer("layer_norm")
def _layer_norm(
    input: Any,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    layer = bare_layer(
        nn.LayerNorm,
        normalized_shape=_tuple(normalized_shape, 1),
        weight=weight,
        bias=bias,
        eps=eps,
        elementwise_affine=weight is not None,
    )
    return layer, (input,)


@as_layer("group_norm")
def _group_norm(
    input: Any,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    layer = bare_layer(
        nn.GroupNorm,
        num_groups=num_groups,
        num_channels=input.shape[1],
        weight=weight,
        bias=bias,
        eps=eps,
        affine=weight is not None,
    )
    return layer, (input,)


@as_layer("embedding")
def _embedding(
    input: Any,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if not isinstance(input, Tensor):  # torch.embedding takes the weights first
        raise TypeError("embedding takes a tensor of indices.")
    if input.is_floating_point():
        input, weight = weight, input
    layer = bare_layer(
        nn.Embedding,
        weight=weight,
        num_embeddings=weight.shape[0],
        embedding_dim=weight.shape[1],
        padding_idx=padding_idx,
        max_norm=max_norm,
        norm_type=norm_type,
        scale_grad_by_freq=False,
        sparse=False,
    )
    return layer, (input,)


@as_layer("embedding_bag")
def _embedding_bag(
    input: Any,
    weight: Tensor,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    layer = bare_layer(
        nn.EmbeddingBag,
        weight=weight,
        num_embeddings=weight.shape[0],
        embedding_dim=weight.shape[1],
        max_norm=max_norm,
        norm_type=norm_type,
        scale_grad_by_freq=False,
        mode=mode,
        sparse=False,
        padding_idx=padding_idx,
        include_last_offset=include_last_offset,
    )
    return layer, (input, offsets, per_sample_weights)


@as_layer("rms_norm")
def _rms_norm(
    input: Any, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Any:
    layer = bare_layer(
        nn.RMSNorm,
        normalized_shape=_tuple(normalized_shape, 1),
        weight=weight,
        eps=eps,
        elementwise_affine=weight is not None,
    )
    return layer, (input,)


@as_layer("rrelu")
def _rrelu(
    input: Any,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    if training:
        raise TypeError("it draws its slopes; pass training=self.training")
    return bare_layer(nn.RReLU, lower=lower, upper=upper, inplace=inplace), (input,)


@as_layer("im2col")
def _unfold(
    input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    layer = bare_layer(
        nn.Unfold, kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride
    )
    return layer, (input,)


@as_layer("col2im")
def _fold(
    input: Any,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Any:
    layer = bare_layer(
        nn.Fold,
        output_size=output_size,
        kernel_size=kernel_size,
        dilation=dilation,
        padding=padding,
        stride=stride,
    )
    return layer, (input,)


@as_layer("interpolate", "upsample")
def _interpolate(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    if antialias:
        raise TypeError("interpolate with antialias=True is not supported; set antialias=False.")
    layer = bare_layer(
        nn.Upsample,
        size=size,
        scale_factor=scale_factor,
        mode=mode,
        align_corners=align_corners,
        recompute_scale_factor=recompute_scale_factor,
    )
    return layer, (input,)
