"""Trained nets as JSON and arrays, and built anew from them.

`.estimators` calls it for each classifier with a net.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklrp._checks import is_positive_integer
from sklrp._wording import shorten
from sklrp.classifiers.base import NetworkEstimator
from sklrp.classifiers.settings import check_device, check_dtype
from sklrp.persistence.values import Arrays, pack, unpack

_ENTRIES = {"dtype", "module", "lr", "batch_size", "history", "groups", "optimizer"}
_DEVICE_OPTIONS = ("fused", "foreach", "capturable")  # of an optimizer, as suits a device


def pack_net(estimator: NetworkEstimator, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Return an estimator's trained net as JSON, its tensors put among the arrays of the file.

    Parameters
    ----------
    estimator : NetworkEstimator
        The fitted estimator.
    prefix : str
        Of the names of its tensors.
    arrays : dict of str to ndarray
        The arrays of the file so far.

    Returns
    -------
    dict
        What `restore_net` takes.

    Raises
    ------
    ValueError
        If a parameter is no longer that of the training.
    """
    estimator._check_unchanged()
    net = estimator.net_
    optimizer = net.optimizer_.state_dict()
    options = {"params", *net.optimizer_.defaults}  # schedulers add others
    groups = [{k: v for k, v in g.items() if k in options} for g in optimizer["param_groups"]]
    return {
        "dtype": str(net.dtype).removeprefix("torch."),
        "module": pack(dict(net.module_.state_dict()), f"{prefix}module", arrays),
        "lr": pack(net.lr, f"{prefix}lr", arrays),
        "batch_size": net.batch_size,
        "history": pack(net.history.to_list(), f"{prefix}history_", arrays),
        "groups": pack(groups, f"{prefix}optimizer", arrays),
        "optimizer": pack(optimizer["state"], f"{prefix}optimizer", arrays),
    }


def restore_net(
    estimator: NetworkEstimator, packed: dict[str, Any], prefix: str, arrays: Arrays
) -> None:
    """Give an estimator the trained net of a file, on the estimator's device.

    Parameters
    ----------
    estimator : NetworkEstimator
        The estimator, with its fitted attributes apart from the net.
    packed : dict
        What `pack_net` returned.
    prefix : str
        Of the names of its tensors.
    arrays : dict of str to ndarray
        The arrays of the file that nothing has taken yet.

    Raises
    ------
    ValueError
        If there is no such device, or a tensor is missing or has another form than it should.
    """
    try:
        device = check_device(estimator.device)
    except ValueError as error:
        raise ValueError(
            f"{error} load takes it as device=..., the command line as --device"
        ) from error
    if unknown := set(packed) - _ENTRIES:
        raise ValueError(f"its net has the unknown entries {sorted(unknown)}")
    history = unpack(packed["history"], f"{prefix}history_", arrays)
    if not (
        isinstance(packed["lr"], Real)
        and is_positive_integer(packed["batch_size"])
        and isinstance(history, list)
        and all(isinstance(epoch, dict) for epoch in history)
    ):
        raise ValueError("the lr, the batch size or the history of its training is malformed")
    dtype = check_dtype(packed["dtype"], np.dtype(np.float32), device)
    net = estimator._make_net(np.dtype(packed["dtype"]))
    net.dtype = dtype  # that of the training, also on another kind of device
    net.lr, net.batch_size = packed["lr"], packed["batch_size"]
    module = unpack(packed["module"], f"{prefix}module", arrays)
    _check_depth(estimator, module)
    with torch.device("meta"):  # takes no memory, whatever the sizes that the file asks for
        network = net.module().to(dtype)
    _check_tensors("module", module, network.state_dict())
    _check_finite("module", module)
    # Nothing is drawn, since the file has all of it.
    make, net.module = net.module, lambda: network.to_empty(device="cpu")
    net.initialize()
    net.module = make
    groups = unpack(packed["groups"], f"{prefix}optimizer", arrays)
    state = unpack(packed["optimizer"], f"{prefix}optimizer", arrays)
    _load_optimizer(net.optimizer_, groups, state)
    net.module_.load_state_dict(module)
    estimator._restore(net, history)


def _check_depth(estimator: NetworkEstimator, module: dict[str, Any]) -> None:
    """Refuse more layers than there are tensors: a layer takes time, also without memory."""
    for name, value in estimator.get_params(deep=False).items():
        layers = len(value) if isinstance(value, list | tuple) else 0
        if name == "num_layers":
            layers = value
        if layers > max(len(module), 8):  # an input_shape has few axes
            raise ValueError(f"{name} asks for {layers} layers, but it has {len(module)} tensors")


def _check_finite(what: str, tensors: dict[str, Any]) -> None:
    """Raise an error if a weight is NaN or infinite: whatever it touches would be, too."""
    odd = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if odd:
        raise ValueError(f"the tensor {what}.{odd[0]} holds NaN or infinite values")


def _load_optimizer(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], state: dict[int, Any]
) -> None:
    """Give a new optimizer the state of another, if it has the right form."""
    own = optimizer.state_dict()["param_groups"]
    if [_form(group) for group in groups] != [_form(group) for group in own]:
        raise ValueError("the options of its optimizer are not those of the class")
    for group, mine in zip(groups, own, strict=True):
        group.update({name: mine[name] for name in _DEVICE_OPTIONS if name in mine})
    expected = _make_state(optimizer)
    if state and not isinstance(optimizer, torch.optim.LBFGS):  # whose state grows
        _check_tensors("optimizer", _flatten(state), _flatten(expected))
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    parameters = _parameters_of(optimizer)
    for index, values in state.items():
        kept = optimizer.state[parameters[index]]
        for name, value in values.items():  # torch casts them to the dtype of the parameter
            if isinstance(value, Tensor) and value.dtype != kept[name].dtype:
                kept[name] = value.to(kept[name].device)


def _make_state(optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """Return the state that a new optimizer has after one step.

    An optimizer makes its state in its first step. With gradients of zero that is of no harm, as
    the parameters are loaded later.
    """
    for parameter in _parameters_of(optimizer):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(lambda: 0.0)
    optimizer.zero_grad()
    return optimizer.state_dict()["state"]


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _form(group: dict[str, Any]) -> dict[str, Any]:
    """Return what the options of a group of parameters are, numbers and flags as one kind."""
    return {
        name: value if name == "params" else Real if isinstance(value, Real) else type(value)
        for name, value in group.items()
        if name not in _DEVICE_OPTIONS
    }


def _flatten(state: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {f"{i}.{name}": value for i, part in state.items() for name, value in part.items()}


def _check_tensors(what: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise an error unless tensors have the names, shapes and dtypes that they should have."""
    for problem, names in (
        ("lacks", set(expected) - set(given)),
        ("has the extra", set(given) - set(expected)),
    ):
        if names:
            raise ValueError(f"its {what} {problem} tensors {shorten(str(sorted(names)))}")
    for name, value in expected.items():
        forms = [
            f"{tuple(v.shape)} of {v.dtype}" if isinstance(v, Tensor) else type(v).__name__
            for v in (given[name], value)
        ]
        if forms[0] != forms[1]:
            raise ValueError(f"the tensor {what}.{name} is {forms[0]}, but should be {forms[1]}")
