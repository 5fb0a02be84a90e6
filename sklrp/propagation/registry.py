"""What is supported: handlers of layer types and torch functions, and how they are found.

Handlers enter by :func:`register`; the plan and the recorder look them up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sklrp._checks import say_layer, suggest
from sklrp._torch import CONV_FORWARD, get_global_hooks, get_hooks, get_tensors
from sklrp._wording import say_value
from sklrp.propagation.tape import Handler

Weights = Callable[[Any], tuple[Tensor | None, Tensor | None]]


# The steps of memory that is changed through a view of it; no functions of torch are called so.
WRITING, READING = "change in place", "view of what changed"


def supported() -> list[str]:
    """Return what relevance passes through: layer types, and names of torch functions.

    A torch function that does what a layer does (``F.conv2d``) is supported where the layer is.

    Returns
    -------
    list of str
        The names, layer types first.

    Examples
    --------
    >>> from sklrp.propagation import supported
    >>> "Conv2d" in supported(), "cat" in supported()
    (True, True)
    """
    keys = [key for key, entry in HANDLERS.items() if entry.handler not in REFUSING | INNER]
    types = sorted(key.__name__ for key in keys if isinstance(key, type))
    return types + sorted(key for key in keys if isinstance(key, str) and key.isidentifier())


def complex_name(function: str) -> str:
    """Return what the handler of a function is registered as that takes complex numbers."""
    return f"complex {function}"


def find_complex(function: str) -> Entry | None:
    """Return what is registered for a function of complex numbers, None if nothing is."""
    entry = HANDLERS.get(complex_name(function))
    if entry is None and (plain := HANDLERS.get(function)) and plain.handler in COMPLEX:
        return plain
    return entry


# What is stepped over at the end of a network: scores are taken before it.
HEADS: dict[type[nn.Module], str] = {
    nn.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
    nn.Sigmoid: "sigmoid",
    nn.LogSigmoid: "logsigmoid",
}
_HEAD_TYPES = tuple(HEADS)


def find_head(layer: Any) -> str | None:
    """Return the name of a layer that is stepped over at the end, None for another."""
    if not isinstance(layer, _HEAD_TYPES):  # as nearly all are not
        return None
    return next(name for kind, name in HEADS.items() if isinstance(layer, kind))


# The methods that a layer's computation is in.
_CALLED = frozenset(["__call__", "forward", CONV_FORWARD])


def find_entry(layer: nn.Module) -> Entry | None:
    """Return what is registered for a layer, None if nothing is that it runs as."""
    for layer_type in type(layer).__mro__:
        if layer_type in HANDLERS and runs_as(layer, layer_type):
            return HANDLERS[layer_type]
    return None


def count_registered() -> int:
    """Return how often an operation was registered: what was found before may hold no more."""
    return len(_REGISTERED)


def is_built_in(handler: Any) -> bool:
    """Return whether a handler is one of this package."""
    # functools.wraps gives another function the module of what it wraps.
    named = str(getattr(handler, "__module__", "")).startswith("sklrp.propagation.")
    return named and not hasattr(handler, "__wrapped__")


def are_built_in(*operations: Any) -> bool:
    """Return whether the handlers of layer types or functions are those of this package."""
    return all(is_built_in(HANDLERS[operation].handler) for operation in operations)


def runs_as(layer: nn.Module, layer_type: type[nn.Module]) -> bool:
    """Return whether a layer computes what ``layer_type`` does: nothing of it is overridden."""
    if not vars(layer).keys().isdisjoint(_CALLED):
        return False
    return type(layer) is layer_type or all(
        getattr(type(layer), name, None) is getattr(layer_type, name, None) for name in _CALLED
    )


def is_torchs(layer: nn.Module) -> bool:
    """Return whether a layer computes what a layer of torch does, and no other does."""
    kinds = [kind for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn.")]
    return any(runs_as(layer, kind) for kind in kinds)


def is_plain_sequence(module: nn.Module) -> bool:
    """Return whether a module is an ``nn.Sequential`` that runs its layers one after the other."""
    return isinstance(module, nn.Sequential) and runs_as(module, nn.Sequential)


def check_hooks(module: nn.Module, path: str) -> None:
    """Refuse a module with forward hooks, and one that has no weights yet."""
    if any(map(is_lazy, get_tensors(module))):
        raise ValueError(
            f"{_say_module(module, path)} is lazy and has no weights yet; run the network once "
            "on a few samples, and train it."
        )
    everywhere = get_global_hooks()
    if everywhere:
        raise TypeError(
            f"There are forward hooks on all modules, {_tell(everywhere)}, which relevance would "
            "not see. A counter of operations or a profiler sets them while it is at work "
            "(torch.utils.flop_counter.FlopCounterMode): explain outside its with block, or "
            "remove them."
        )
    hooks = get_hooks(module)
    if hooks:
        raise TypeError(
            f"{_say_module(module, path)} has forward hooks, {_tell(hooks)}, which relevance "
            "would not see; remove them before explaining: a logger's by its handle.remove() (or "
            "unwatch), those of pruning and of old-style weight or spectral normalisation by "
            "torch's prune.remove, remove_weight_norm and remove_spectral_norm."
        )


def _say_module(module: nn.Module, path: str) -> str:
    """Return where a module is, and its type."""
    return f"{say_layer(path, start=True)} ({type(module).__name__})"


def _tell(hooks: Sequence[Any]) -> str:
    """Return the names of hooks, with the modules that define them."""
    named = [h if hasattr(h, "__qualname__") else type(h) for h in hooks]
    return ", ".join(sorted({f"{h.__module__}.{h.__qualname__}" for h in named}))


class Entry(NamedTuple):
    """What is registered: a handler, and how the engine is to call it."""

    handler: Handler
    kind: str | None = None
    any_axis: bool = False
    weights: Weights | None = None
    bounds: Callable[..., Any] | None = None
    fold: str | None = None


HANDLERS: dict[Any, Entry] = {}
_REGISTERED: list[Any] = []  # all operations, each as often as it was registered
_KINDS = ("conv", "dense", "recurrent")
_FOLDS = ("rows", "columns", "scale")


PASSING: set[Handler] = set()  # handlers that change at most the shape


SHARING: set[Handler] = set()  # others whose outputs lie mostly in the memory of their input


NEW: set[Handler] = set()  # handlers of what returns new memory, but where it is called in place


NUMERIC: set[Handler] = set()  # handlers of functions of numbers, which must be constants


SOURCED: set[Handler] = set()  # handlers of functions whose first argument must be a signal


COMPLEX: set[Handler] = set()  # handlers that move complex numbers as they do real ones


FLOATING: set[Handler] = set()  # handlers of functions of activations, which integers run plainly


REFUSING: set[Handler] = set()  # handlers that refuse a layer by name


INNER: set[Handler] = set()  # handlers of functions of this package, which torch does not have


def mark(*groups: set[Handler]) -> Callable[[Handler], Handler]:
    """Put the decorated handler into groups, such as ``SOURCED``."""

    def decorate(handler: Handler) -> Handler:
        for group in groups:
            group.add(handler)
        return handler

    return decorate


def register(
    *operations: Any,
    kind: str | None = None,
    any_axis: bool = False,
    weights: Weights | None = None,
    bounds: Callable[..., Any] | None = None,
    fold: str | None = None,
) -> Callable[[Handler], Handler]:
    """Register the decorated function as the handler of layer types or torch functions.

    A handler of a layer type takes the :class:`Step` and the arguments of the layer's ``forward``,
    in which a :class:`~sklrp.rules.Signal` stands for each tensor that depends on the network's
    input. It returns what ``forward`` returns, with signals in place of tensors, and a function
    ``pull(relevance, kept)``. That function takes the relevance of the output, ``(n_targets,
    *output.shape)``, or a tuple of them if there are several outputs, None for one that got no
    relevance; it returns the relevance of the input, ``(n_targets, *input.shape)``, or a tuple, in
    the order of the signals, None for one that gets none; and, unless ``kept`` is None, it adds
    what it does not pass on to ``kept``, by cause. The samples are on the first axis.

    A handler of a torch function does the same with the function's arguments. The name of the
    function counts: a handler of ``torch.relu`` also serves ``Tensor.relu`` and ``F.relu``, and
    what is written in place (``relu_``).

    Parameters
    ----------
    *operations : type, callable or str
        Subclasses of ``nn.Module``; a subclass of them is handled too, unless it overrides
        ``forward``. Or torch functions, or their names.
    kind : {"conv", "dense", "recurrent"} or None, default=None
        What the layer is to a composite, if it has weights and takes a rule.
    any_axis : bool, default=False
        Whether the layer does the same to a tensor whose samples are not on the first axis: it
        acts on single values, or on the last axis alone.
    weights : callable or None, default=None
        ``weights(layer)`` returns the weight and the bias (or None) of an affine layer. It is
        called once per plan; the handler finds them as ``step.weight`` and ``step.bias``.
    bounds : callable or None, default=None
        What the layer does to the box that its input lies in, for z-box rules behind it:
        :func:`monotone`, :func:`turning` or :func:`linear`, or a function of its own (see
        :mod:`sklrp.propagation.bounds`). None (default): the bounds of the output are unknown.
    fold : {"rows", "columns", "scale"} or None, default=None
        How a batch normalisation is folded into the weights of its neighbour: ``"rows"`` for a
        layer whose weight has outputs on the first axis and inputs on the second, ``"columns"``
        for one that has them the other way round, ``"scale"`` for the normalisation, whose weight
        is a factor of each channel. None (default): it is not folded.

    Returns
    -------
    callable
        The decorator.

    Raises
    ------
    ValueError
        If `kind` or `fold` is not one of the known ones.
    TypeError
        If `weights` or `bounds` is not a function.

    Examples
    --------
    >>> from torch import nn
    >>> from sklrp.propagation import monotone, register
    >>> class Negate(nn.Module):
    ...     def forward(self, x):
    ...         return -x
    >>> @register(Negate, bounds=monotone)
    ... def negate(step, signal):
    ...     return signal.apply(step.layer.forward), lambda relevance, kept: relevance
    """
    for name, value, known in (("kind", kind, _KINDS), ("fold", fold, _FOLDS)):
        if value is not None and value not in known:
            raise ValueError(
                f"{name} must be one of {known} or None, got {say_value(value)}."
                f"{suggest(value, known)}"
            )
    for name, function in (("weights", weights), ("bounds", bounds)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function or None, got {say_value(function)}.")
    entry = partial(Entry, kind=kind, any_axis=any_axis, weights=weights, bounds=bounds, fold=fold)

    def decorate(handler: Handler) -> Handler:
        for operation in operations:
            key = operation if isinstance(operation, str | type) else operation.__name__
            HANDLERS[key] = entry(handler)
            _REGISTERED.append(key)
        return handler

    return decorate
