"""Names of the arguments of torch functions, whatever the order in which they are given.

``torch.batch_norm`` takes the weights before the running statistics, ``F.batch_norm`` behind them.
A function in Python tells its order itself; one in C++ by its schema. `.as_layers` asks
:func:`name_arguments` for the arguments of a call by their names in ``torch.nn.functional``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch.nn.functional as F

from sklrp._torch import get_schemas

# Where C++ has another name for an argument.
_RENAMED = {"self": "input", "indices": "input", "train": "training"}
# What all functions in C++ take by NumPy's names too.
_NUMPY = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input"}


def rename_from_numpy(function: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by name with torch's names in place of NumPy's."""
    if inspect.isfunction(function):
        return dict(kwargs)
    return {_NUMPY.get(name, name): value for name, value in kwargs.items()}


def name_arguments(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that a torch function is given, by name.

    Parameters
    ----------
    function : callable
        The function, as torch's function mode shows it.
    args, kwargs : sequence and mapping
        The arguments.

    Returns
    -------
    dict
        The arguments by their names in ``torch.nn.functional``; defaults are left out.

    Raises
    ------
    TypeError
        If the function cannot be called so, returns several tensors, or shows no names.
    """
    in_python = inspect.isfunction(function)
    if not in_python:
        kwargs = rename_from_numpy(function, kwargs)
        kwargs = {_RENAMED.get(name, name): value for name, value in kwargs.items()}
    error = TypeError("the names of its arguments are not known")
    for signature in _signatures(function) if in_python else _signatures_in_cpp(function.__name__):
        try:
            return dict(signature.bind(*args, **kwargs).arguments)
        except TypeError as problem:
            error = problem
    raise error


@cache
def _signatures(function: Any) -> list[inspect.Signature]:
    """Return the signature of a function in Python."""
    # F.max_pool2d hides its arguments, but the function that it calls shows them.
    return [inspect.signature(getattr(F, f"{function.__name__}_with_indices", function))]


@cache
def _signatures_in_cpp(name: str) -> list[inspect.Signature]:
    """Return the signatures of a function in C++, one for each way to call it."""
    signatures = []
    for arguments, n_returned in get_schemas(name):
        if n_returned > 1:
            raise TypeError(
                f"it returns {n_returned} tensors; call the function of torch.nn.functional, "
                "which returns one"
            )
        signatures.append(
            inspect.Signature(
                [
                    inspect.Parameter(
                        _RENAMED.get(argument, argument),
                        inspect.Parameter.KEYWORD_ONLY
                        if by_name_alone
                        else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                        default=None if optional else inspect.Parameter.empty,
                    )
                    for argument, by_name_alone, optional in arguments
                ]
            )
        )
    return signatures
