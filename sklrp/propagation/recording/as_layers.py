"""Torch functions that do what a layer does: they are explained as that layer.

A network may call ``F.conv2d(x, weight)`` where others hold an ``nn.Conv2d``. The recorder calls
:func:`to_layer`, which translates the function's arguments to such a layer; the layer's handler
does the rest. A function without weights costs one row in ``_PLAIN``. ``torch.batch_norm`` and
``F.batch_norm`` take the same arguments in another order: `.signatures` names them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sklrp.propagation.contraction import Contraction
from sklrp.propagation.recording.signatures import name_arguments

Translation = Callable[..., tuple[nn.Module, tuple[Any, ...]]]

# The name of a function mapped to its translation, which takes the function's arguments by their
# names in torch.nn.functional, and returns the layer, in evaluation mode, and the arguments of the
# layer's forward.
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
    "max_pool1d_with_indices": nn.MaxPool1d,
    "max_pool2d_with_indices": nn.MaxPool2d,
    "max_pool3d_with_indices": nn.MaxPool3d,
    "adaptive_max_pool1d_with_indices": nn.AdaptiveMaxPool1d,
    "adaptive_max_pool2d_with_indices": nn.AdaptiveMaxPool2d,
    "adaptive_max_pool3d_with_indices": nn.AdaptiveMaxPool3d,
    "lp_pool1d": nn.LPPool1d,
    "lp_pool2d": nn.LPPool2d,
    "local_response_norm": nn.LocalResponseNorm,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_avg_pool3d": nn.AdaptiveAvgPool3d,
    "interpolate": nn.Upsample,
    "upsample": nn.Upsample,
    "im2col": nn.Unfold,  # F.unfold and F.fold, as the recorder names them
    "col2im": nn.Fold,
}

# Arguments that change nothing in evaluation mode, or nothing but gradients and speed.
_IDLE = frozenset(
    ["_stacklevel", "cudnn_enable", "cudnn_enabled", "momentum", "scale_grad_by_freq", "sparse"]
)
# Arguments that layers do not have, and the values that ask for nothing; None for all others.
_NEUTRAL = {"training": False, "antialias": False, "scale": 1, "input_scale": 1}
_REFUSED = {
    "training": "it draws its slopes; pass training=self.training",
    "antialias": "interpolation with antialias=True is not supported; set antialias=False",
}


def to_layer(
    base: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return the layer that does what a call of a torch function does.

    Parameters
    ----------
    base : str
        The name by which the translation is found, a key of ``LAYERS``.
    function : callable
        The function, as torch shows it.
    args, kwargs : sequence and mapping
        Its arguments, as the network gives them.

    Returns
    -------
    layer : nn.Module
        The layer, in evaluation mode.
    args : tuple
        The arguments of its forward.

    Raises
    ------
    TypeError
        If the call does what no layer does; it says why.
    """
    given = name_arguments(function, args, kwargs)
    return LAYERS[base](**{name: v for name, v in given.items() if name not in _IDLE})


def _translate_by_constructor(layer_type: type[nn.Module]) -> Translation:
    """Return the translation of a function to a layer without weights."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD  # not nn.Module's *args and **kwargs
    parameters = inspect.signature(layer_type).parameters.values()
    known = {parameter.name for parameter in parameters if parameter.kind is kind}

    def translate(input: Any, **given: Any) -> Any:
        for name, value in given.items():
            if name not in known and value != _NEUTRAL.get(name):
                raise TypeError(_REFUSED.get(name, f"leave out {name}={value!r}"))
        # Constructors take tuples where functions take lists too.
        own = {name: v for name, v in given.items() if name in known}
        layer = layer_type(**{n: tuple(v) if isinstance(v, list) else v for n, v in own.items()})
        vars(layer)["training"] = False
        return layer, (input,)

    return translate


if hasattr(nn, "LPPool3d"):  # since torch 2.4
    _PLAIN["lp_pool3d"] = nn.LPPool3d
LAYERS |= {name: _translate_by_constructor(layer_type) for name, layer_type in _PLAIN.items()}


def _bare(layer_type: type[nn.Module], **attributes: Any) -> nn.Module:
    """Return a layer in evaluation mode without running its constructor, which draws weights."""
    # The attributes are those that handlers read, and those that the layer prints itself with.
    layer = layer_type.__new__(layer_type)
    nn.Module.__init__(layer)
    vars(layer).update(attributes, training=False)
    return layer


def _translates(*names: str) -> Callable[[Translation], Translation]:
    """Register the decorated function as the translation of torch functions to a layer."""

    def decorate(translate: Translation) -> Translation:
        LAYERS.update(dict.fromkeys(names, translate))
        return translate

    return decorate


def _tuple(value: Any, n: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * n


@_translates(
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "feature_alpha_dropout",
)  # fmt: skip
def _as_dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if training:
        raise TypeError("it drops also in evaluation mode; pass training=self.training")
    return nn.Identity().eval(), (input,)


_UNPOOLINGS = {1: nn.MaxUnpool1d, 2: nn.MaxUnpool2d, 3: nn.MaxUnpool3d}


@_translates("max_unpool1d", "max_unpool2d", "max_unpool3d")
def _as_unpooling(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Any:  # fmt: skip
    n_spatial = input.dim() - 2
    if n_spatial not in _UNPOOLINGS:
        raise TypeError("its input must have the axes of samples and channels in front")
    layer = _UNPOOLINGS[n_spatial](kernel_size, stride, padding).eval()
    return layer, (input, indices, output_size)


@_translates("prelu")
def _as_prelu(input: Any, weight: Tensor) -> Any:
    return _bare(nn.PReLU, weight=weight, num_parameters=weight.numel()), (input,)


@_translates("linear")
def _as_linear(input: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    n_out, n_in = weight.shape
    layer = _bare(nn.Linear, weight=weight, bias=bias, in_features=n_in, out_features=n_out)
    return layer, (input,)


@_translates("contract")
def _as_contraction(input: Any, weight: Tensor, equation: str) -> Any:
    return _bare(Contraction, weight=weight, equation=equation), (input,)


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


@_translates("batch_norm")
def _as_batch_norm(input: Any, training: bool = False, **given: Any) -> Any:
    return _bare_channel_norm(_BATCH_NORMS, input, not training, **given), (input,)


@_translates("instance_norm")
def _as_instance_norm(input: Any, use_input_stats: bool = True, **given: Any) -> Any:
    return _bare_channel_norm(_INSTANCE_NORMS, input, not use_input_stats, **given), (input,)


def _bare_channel_norm(
    types: Mapping[int, type[nn.Module]], input: Any, tracks: bool,
    running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
) -> nn.Module:  # fmt: skip
    """Return a norm of channels, without running statistics unless the function uses them."""
    if not tracks:  # a batch normalisation without them is refused by its handler
        running_mean = running_var = None
    return _bare(
        types[input.dim()],
        num_features=input.shape[1],
        affine=weight is not None,
        track_running_stats=tracks,
        momentum=None,
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
        eps=eps,
    )


@_translates("layer_norm")
def _as_layer_norm(
    input: Any, normalized_shape: Any, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5,
) -> Any:  # fmt: skip
    shape = _tuple(normalized_shape, 1)
    return _bare_shape_norm(nn.LayerNorm, shape, weight, bias=bias, eps=eps), (input,)


@_translates("rms_norm")
def _as_rms_norm(
    input: Any, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Any:
    shape = _tuple(normalized_shape, 1)
    return _bare_shape_norm(nn.RMSNorm, shape, weight, eps=eps), (input,)


def _bare_shape_norm(
    layer_type: type[nn.Module], shape: tuple[int, ...], weight: Tensor | None, **given: Any
) -> nn.Module:
    """Return a norm over the last axes, of ``shape``."""
    affine = weight is not None
    return _bare(
        layer_type, normalized_shape=shape, weight=weight, elementwise_affine=affine, **given
    )


@_translates("group_norm")
def _as_group_norm(
    input: Any, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:  # fmt: skip
    return _bare(
        nn.GroupNorm, num_groups=num_groups, num_channels=input.shape[1], weight=weight, bias=bias,
        eps=eps, affine=weight is not None,
    ), (input,)  # fmt: skip


@_translates("embedding")
def _as_embedding(
    input: Any, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0,
) -> Any:  # fmt: skip
    n_rows, n_columns = weight.shape
    return _bare(
        nn.Embedding, weight=weight, num_embeddings=n_rows, embedding_dim=n_columns,
        padding_idx=padding_idx, max_norm=max_norm, norm_type=norm_type,
        scale_grad_by_freq=False, sparse=False,
    ), (input,)  # fmt: skip


@_translates("embedding_bag")
def _as_embedding_bag(
    input: Any, weight: Tensor, offsets: Any = None, max_norm: float | None = None,
    norm_type: float = 2.0, mode: str = "mean", per_sample_weights: Any = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Any:  # fmt: skip
    n_rows, n_columns = weight.shape
    layer = _bare(
        nn.EmbeddingBag, weight=weight, num_embeddings=n_rows, embedding_dim=n_columns,
        max_norm=max_norm, norm_type=norm_type, mode=mode, scale_grad_by_freq=False, sparse=False,
        include_last_offset=include_last_offset, padding_idx=padding_idx,
    )  # fmt: skip
    return layer, (input, offsets, per_sample_weights)
