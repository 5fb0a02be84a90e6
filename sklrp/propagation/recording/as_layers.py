"""Torch functions that do what a layer does: they are explained as that layer.

A network may call ``F.conv2d(x, weight)`` where others hold an ``nn.Conv2d``. The recorder looks
the function up in :data:`LAYERS`, which translates its arguments to such a layer; the layer's
handler does the rest. A function without weights costs one row in ``_PLAIN``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Translation = Callable[..., tuple[nn.Module, tuple[Any, ...]]]

# The name of a function mapped to its translation, which takes the function's arguments and
# returns the layer, in evaluation mode, and the arguments of the layer's forward.
LAYERS: dict[str, Translation] = {}

# Layers without weights: their constructors take what the functions take behind the input.
_PLAIN: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "logsigmoid": nn.LogSigmoid,
    "softsign": nn.Softsign,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "tanhshrink": nn.Tanhshrink,
    "leaky_relu": nn.LeakyReLU,
    "rrelu": nn.RReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "hardtanh": nn.Hardtanh,
    "hardshrink": nn.Hardshrink,
    "softshrink": nn.Softshrink,
    "threshold": nn.Threshold,
    "glu": nn.GLU,
    "softmax": nn.Softmax,
    "log_softmax": nn.LogSoftmax,
    "max_pool1d": nn.MaxPool1d,
    "max_pool2d": nn.MaxPool2d,
    "max_pool3d": nn.MaxPool3d,
    "avg_pool1d": nn.AvgPool1d,
    "avg_pool2d": nn.AvgPool2d,
    "avg_pool3d": nn.AvgPool3d,
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "adaptive_max_pool3d": nn.AdaptiveMaxPool3d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_avg_pool3d": nn.AdaptiveAvgPool3d,
    "interpolate": nn.Upsample,
    "upsample": nn.Upsample,
    "im2col": nn.Unfold,  # F.unfold and F.fold, as the recorder names them
    "col2im": nn.Fold,
}
_FUNCTIONS = {"im2col": F.unfold, "col2im": F.fold}

# Arguments that none of these layers has, and that change what a function does.
_REFUSED = {
    "training": "it draws its slopes; pass training=self.training",
    "antialias": "interpolate with antialias=True is not supported; set antialias=False.",
}


def _translate_by_constructor(name: str, layer_type: type[nn.Module]) -> Translation:
    """Return the translation of a function to a layer without weights."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD  # not nn.Module's *args and **kwargs
    parameters = [p for p in inspect.signature(layer_type).parameters.values() if p.kind is kind]
    known = {parameter.name for parameter in parameters}
    # F.max_pool2d hides its arguments, but the function that it calls shows them.
    function: Any = _FUNCTIONS.get(name) or getattr(F, f"{name}_with_indices", getattr(F, name))
    try:
        signature = inspect.signature(function)
    except ValueError:  # it is written in C++: its arguments are in the constructor's order
        signature = inspect.Signature([inspect.Parameter("input", kind), *parameters])

    def translate(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        for argument, why in _REFUSED.items():
            if given.get(argument):
                raise TypeError(why)
        layer = layer_type(**{k: v for k, v in given.items() if k in known})
        vars(layer)["training"] = False
        return layer, (given["input"],)

    return translate


LAYERS |= {name: _translate_by_constructor(name, kind) for name, kind in _PLAIN.items()}


def _bare(layer_type: type[nn.Module], **attributes: Any) -> nn.Module:
    """Return a layer in evaluation mode without running its constructor, which draws weights."""
    # The attributes are those that handlers read, and those that the layer prints itself with.
    layer = layer_type.__new__(layer_type)
    nn.Module.__init__(layer)
    vars(layer).update(attributes, training=False)
    return layer


def _translates(*names: str, like: Any = None) -> Callable[[Any], Any]:
    """Register the decorated function as the translation of torch functions to a layer.

    With ``like`` it gets all arguments of that function by name, defaults included; without, they
    come as the network gives them.
    """

    signature = None if like is None else inspect.signature(like)

    def decorate(translate: Any) -> Any:
        def bound(*args: Any, **kwargs: Any) -> Any:
            assert signature is not None
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            return translate(**given.arguments)

        LAYERS.update(dict.fromkeys(names, translate if signature is None else bound))
        return translate

    return decorate


def _tuple(value: Any, n: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * n


@_translates(
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "feature_alpha_dropout",
)  # fmt: skip
def _as_dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, train: Any = None
) -> Any:
    if training if train is None else train:  # `train` in torch.dropout, `training` in F.dropout
        raise TypeError("it drops also in evaluation mode; pass training=self.training")
    return nn.Identity().eval(), (input,)


@_translates("prelu")
def _as_prelu(input: Any, weight: Tensor) -> Any:
    return _bare(nn.PReLU, weight=weight, num_parameters=weight.numel()), (input,)


@_translates("linear")
def _as_linear(input: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    n_out, n_in = weight.shape
    layer = _bare(nn.Linear, weight=weight, bias=bias, in_features=n_in, out_features=n_out)
    return layer, (input,)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@_translates("conv1d", "conv2d", "conv3d")
def _as_convolution(
    input: Any, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Any:  # fmt: skip
    return _bare_convolution(
        _CONVOLUTIONS, weight.shape[1] * groups, weight.shape[0], weight=weight, bias=bias,
        stride=stride, padding=padding, dilation=dilation, groups=groups, output_padding=0,
    ), (input,)  # fmt: skip


@_translates("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _as_transposed_convolution(
    input: Any, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    return _bare_convolution(
        _TRANSPOSED, weight.shape[0], weight.shape[1] * groups, weight=weight, bias=bias,
        stride=stride, padding=padding, dilation=dilation, groups=groups,
        output_padding=output_padding,
    ), (input,)  # fmt: skip


def _bare_convolution(
    types: Sequence[type[nn.Module]], n_in: int, n_out: int, weight: Tensor, groups: int,
    bias: Tensor | None, **spatial: Any,
) -> nn.Module:  # fmt: skip
    """Return the convolution over as many axes as the weights have behind the channels."""
    n = weight.dim() - 2
    return _bare(
        types[n - 1],
        weight=weight,
        bias=bias,
        in_channels=n_in,
        out_channels=n_out,
        kernel_size=tuple(weight.shape[2:]),
        groups=groups,
        padding_mode="zeros",
        transposed=types is _TRANSPOSED,
        **{k: v if isinstance(v, str) else _tuple(v, n) for k, v in spatial.items()},
    )


_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


@_translates("batch_norm", like=F.batch_norm)
def _as_batch_norm(input: Any, training: bool, **given: Any) -> Any:
    return _bare_channel_norm(_BATCH_NORMS, input, not training, **given), (input,)


@_translates("instance_norm", like=F.instance_norm)
def _as_instance_norm(input: Any, use_input_stats: bool, **given: Any) -> Any:
    return _bare_channel_norm(_INSTANCE_NORMS, input, not use_input_stats, **given), (input,)


def _bare_channel_norm(
    types: Mapping[int, type[nn.Module]], input: Any, tracks: bool, **given: Any
) -> nn.Module:
    """Return a norm of channels, without running statistics unless the function uses them."""
    if not tracks:  # a batch normalisation without them is refused by its handler
        given |= {"running_mean": None, "running_var": None}
    return _bare(
        types[input.dim()],
        num_features=input.shape[1],
        affine=given["weight"] is not None,
        track_running_stats=tracks,
        **given,
    )


@_translates("layer_norm", like=F.layer_norm)
def _as_layer_norm(input: Any, **given: Any) -> Any:
    return _bare_shape_norm(nn.LayerNorm, **given), (input,)


@_translates("rms_norm", like=F.rms_norm)
def _as_rms_norm(input: Any, **given: Any) -> Any:
    return _bare_shape_norm(nn.RMSNorm, **given), (input,)


def _bare_shape_norm(
    layer_type: type[nn.Module], normalized_shape: Any, weight: Tensor | None, **given: Any
) -> nn.Module:
    """Return a norm over the last axes, of ``normalized_shape``."""
    shape, affine = _tuple(normalized_shape, 1), weight is not None
    return _bare(
        layer_type, normalized_shape=shape, weight=weight, elementwise_affine=affine, **given
    )


@_translates("group_norm", like=F.group_norm)
def _as_group_norm(input: Any, weight: Tensor | None, **given: Any) -> Any:
    n_channels, affine = input.shape[1], weight is not None
    layer = _bare(nn.GroupNorm, num_channels=n_channels, weight=weight, affine=affine, **given)
    return layer, (input,)


@_translates("embedding", like=F.embedding)
def _as_embedding(input: Any, weight: Any, **given: Any) -> Any:
    if not isinstance(input, Tensor):
        raise TypeError("embedding takes a tensor of indices.")
    if input.is_floating_point():  # torch.embedding takes the weights first, F.embedding second
        input, weight = weight, input
    n_rows, n_columns = weight.shape
    layer = _bare(
        nn.Embedding, weight=weight, num_embeddings=n_rows, embedding_dim=n_columns, **given
    )
    return layer, (input,)


@_translates("embedding_bag", like=F.embedding_bag)
def _as_embedding_bag(
    input: Any, weight: Tensor, offsets: Any, per_sample_weights: Any, **given: Any
) -> Any:
    n_rows, n_columns = weight.shape
    layer = _bare(
        nn.EmbeddingBag, weight=weight, num_embeddings=n_rows, embedding_dim=n_columns, **given
    )
    return layer, (input, offsets, per_sample_weights)
