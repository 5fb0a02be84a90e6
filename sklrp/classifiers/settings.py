"""Checks of the settings of a training: device, dtype, optimizer, callbacks, skorch's names.

Estimators call them in `fit`, before anything is trained, and `sklrp.load` for what a file says.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback

from sklrp._checks import suggest
from sklrp._devices import has_float64
from sklrp._skorch import named_callbacks
from sklrp._wording import say_error, say_value
from sklrp.classifiers.net import TrainingNet
from sklrp.classifiers.parameters import suggest_parameter

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adadelta": torch.optim.Adadelta,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "adamw": torch.optim.AdamW,
    "lbfgs": torch.optim.LBFGS,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
# Optimizers with a fused step, and the options that exclude it.
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
_FUSED_ALTERNATIVES = ("fused", "foreach", "differentiable", "capturable")


def check_device(device: str | torch.device, name: str = "device") -> torch.device:
    """Return the device to compute on.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` is the current CUDA device if there is one, else the CPU.
    name : str, default="device"
        Name of the parameter, for the error.

    Returns
    -------
    torch.device
        The device, usable.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if isinstance(device, str) and device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
        if resolved.type == "meta":
            raise RuntimeError("the meta device holds no data")
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            available.append("mps")
        raise ValueError(
            f"{name}={say_value(str(device))} cannot be used: "
            f"{say_error(error)}. Available here are {available}; use one of "
            "them or 'auto'."
        ) from error
    return resolved


def check_dtype(dtype: Any, X_dtype: np.dtype, device: torch.device) -> torch.dtype:
    """Return the floating dtype to compute in.

    Parameters
    ----------
    dtype : "auto", str, numpy dtype or torch dtype
        ``"auto"`` is ``X_dtype`` on the CPU and float32 on an accelerator.
    X_dtype : numpy.dtype
        Dtype of the validated X, float32 or float64.
    device : torch.device
        Device to compute on.

    Returns
    -------
    torch.dtype
        ``torch.float32`` or ``torch.float64``.

    Raises
    ------
    ValueError
        If ``dtype`` is anything else.
    """
    if isinstance(dtype, str) and dtype == "auto":
        dtype = X_dtype if device.type == "cpu" else np.float32
    name = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, (str, torch.dtype)):
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = repr(dtype)
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'auto', 'float32' or 'float64', got {say_value(dtype)}.")
    if name == "float64" and not has_float64(device):
        raise ValueError(
            f"dtype='float64' is not available on device={str(device)!r}: fit with "
            "dtype='auto' or 'float32', or use device='cpu'."
        )
    return getattr(torch, name)


def check_optimizer(
    optimizer: str | type[torch.optim.Optimizer],
) -> type[torch.optim.Optimizer]:
    """Return the class of the optimizer.

    Parameters
    ----------
    optimizer : str or subclass of torch.optim.Optimizer
        Name, a key of ``OPTIMIZERS``, or the class itself.

    Returns
    -------
    type
        Subclass of `torch.optim.Optimizer`.

    Raises
    ------
    ValueError
        If there is no such name.
    TypeError
        If it is neither a name nor an optimizer's class.
    """
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        return optimizer
    if isinstance(optimizer, str):
        if optimizer in OPTIMIZERS:
            return OPTIMIZERS[optimizer]
        hint = suggest(optimizer, OPTIMIZERS, inline=True) or "."
        raise ValueError(
            f"optimizer={optimizer!r} is unknown{hint} Use one of "
            f"{sorted(OPTIMIZERS)} or a subclass of torch.optim.Optimizer."
        )
    raise TypeError(
        f"optimizer must be one of {sorted(OPTIMIZERS)} or a subclass of torch.optim.Optimizer, "
        f"got {say_value(optimizer)}; give its arguments as optimizer__<name>=..."
    )


def optimizer_params(
    optimizer: type[torch.optim.Optimizer],
    given: Mapping[str, Any],
    weight_decay: float,
    device: torch.device,
) -> dict[str, Any]:
    """Return the optimizer's arguments that the user has not given.

    Parameters
    ----------
    optimizer : type
        Subclass of `torch.optim.Optimizer`.
    given : mapping of str to object
        Double-underscore parameters.
    weight_decay : float
        L2 penalty, handed to the optimizer if it is not zero.
    device : torch.device
        Device to compute on.

    Returns
    -------
    dict
        Parameters named ``optimizer__<name>``.

    Raises
    ------
    ValueError
        If there is a weight decay and the optimizer has none.
    """
    params: dict[str, Any] = {}
    if weight_decay and "optimizer__weight_decay" not in given:
        if "weight_decay" not in inspect.signature(optimizer).parameters:
            raise ValueError(
                f"weight_decay={weight_decay} is not supported by {optimizer.__name__}: use "
                "weight_decay=0 or another optimizer."
            )
        params["optimizer__weight_decay"] = weight_decay
    chosen = any(f"optimizer__{name}" in given for name in _FUSED_ALTERNATIVES)
    if optimizer in _FUSED and device.type in ("cpu", "cuda") and not chosen:
        params["optimizer__fused"] = True
    return params


def check_callbacks(callbacks: Any, params: Mapping[str, Any], validates: bool) -> list[Any]:
    """Return a deep copy of callbacks, as skorch changes those that it is given.

    Parameters
    ----------
    callbacks : sequence or None
        Callbacks of skorch, their classes, or tuples ``(name, callback)``.
    params : mapping of str to object
        Double-underscore parameters, which may set what a callback monitors.
    validates : bool
        Whether samples are set aside, so that there is a loss on them.

    Returns
    -------
    list
        The copies.

    Raises
    ------
    TypeError
        If one of them is not a callback, or cannot be copied.
    ValueError
        If one of them monitors a loss on samples that are not set aside.
    """
    callbacks = [] if callbacks is None else callbacks
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise TypeError(
            f"callbacks must be a list of skorch callbacks or tuples (name, callback), got "
            f"{say_value(callbacks)}."
        )
    for item in callbacks:
        callback = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        is_class = isinstance(callback, type) and issubclass(callback, Callback)
        if not (is_class or isinstance(callback, Callback)):
            raise TypeError(
                "callbacks must be a list of skorch callbacks or tuples (name, callback), got "
                f"an item {say_value(item)}."
            )
        if not validates:
            _check_monitor(item, callback, params)
    return [_copy_callback(item) for item in callbacks]


def _check_monitor(item: Any, callback: Any, params: Mapping[str, Any]) -> None:
    """Raise an error if a callback monitors validation data that there are not."""
    kind = callback if isinstance(callback, type) else type(callback)
    name = item[0] if isinstance(item, tuple) else kind.__name__
    if isinstance(callback, type):
        default = inspect.signature(callback).parameters.get("monitor")
        monitor = None if default is None else default.default
    else:
        monitor = getattr(callback, "monitor", None)
    monitor = params.get(f"callbacks__{name}__monitor", monitor)
    if isinstance(monitor, str) and monitor.startswith("valid_"):
        raise ValueError(
            f"the callback {kind.__name__} monitors {monitor!r}, but no samples are set aside to "
            "validate on: set early_stopping=True, which sets validation_fraction of them aside "
            f"and stops by itself, or monitor={'train' + monitor.removeprefix('valid')!r}."
        )


def _copy_callback(item: Any) -> Any:
    """Return a deep copy of a callback, or raise an error that says which cannot be copied."""
    try:
        return copy.deepcopy(item)
    except Exception as error:
        raise TypeError(
            f"the callback {item!r} cannot be copied ({type(error).__name__}: {error}), as fit "
            "does so that yours stays as it is: open files, locks and connections in its "
            "on_train_begin, give it a __deepcopy__, or pass its class and set its arguments by "
            "callbacks__<name>__<argument>."
        ) from error


def check_skorch_names(
    net: TrainingNet, params: Mapping[str, Any], own: Iterable[str], owner: str
) -> None:
    """Raise an error if the net does not understand one of skorch's double-underscore names.

    Parameters
    ----------
    net : TrainingNet
        The net, not initialised yet.
    params : mapping of str to object
        Parameters beside the estimator's own.
    own : iterable of str
        Names of the estimator's own parameters, for suggestions.
    owner : str
        Name of the estimator's class.

    Raises
    ------
    ValueError
        If there is an unknown name, with the nearest known ones.
    """
    if not params:
        return
    known, open_prefixes = _find_names(net)
    unknown = [n for n in sorted(params) if n not in known and not n.startswith(open_prefixes)]
    if unknown:
        name = unknown[0]
        alike = sorted(n for n in known if n.startswith(f"{name.partition('__')[0]}__"))
        hint = f" Known are {alike}." if alike else ""
        close = suggest_parameter(name, own, known, inline=True) or "."
        raise ValueError(f"{owner} got an unexpected parameter {name!r}{close}{hint}")


def _find_names(net: TrainingNet) -> tuple[set[str], tuple[str, ...]]:
    """Return the names that a net takes, and the prefixes of parts that take any name."""
    known = {"iterator_valid__batch_size", "optimizer__param_groups"}
    options = ("batch_size", "shuffle", "drop_last", "device")
    known |= {f"iterator_train__{name}" for name in options}
    parts: dict[str, Any] = {"optimizer": net.optimizer, "criterion": net.criterion}
    for name, callback in named_callbacks(net):
        known.add(f"callbacks__{name}")
        if isinstance(callback, Callback):
            known |= {f"callbacks__{name}__{key}" for key in callback.get_params(deep=False)}
        else:
            parts[f"callbacks__{name}"] = callback
    open_prefixes = []
    for prefix, part in parts.items():
        for argument in inspect.signature(part).parameters.values():
            if argument.kind is argument.VAR_KEYWORD:
                open_prefixes.append(f"{prefix}__")
            elif argument.name != "params":
                known.add(f"{prefix}__{argument.name}")
    return known, tuple(open_prefixes)
