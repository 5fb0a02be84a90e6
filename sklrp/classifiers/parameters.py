"""Parameters of estimators, declared as fields of their classes.

A class writes ``lr: float = param(default=0.003, allowed=[...])``, as a dataclass does, and says
in its docstring what the parameter means. `ParameterFields`, a base of all estimators, makes of
the fields and docstrings of a class and its bases a constructor with its signature, the
constraints that scikit-learn checks, and one docstring that lists every parameter. Editors and
type checkers read the same signature from the fields, by `typing.dataclass_transform`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, dataclass_transform

from sklrp._checks import say_meant
from sklrp._constraints import refine
from sklrp._keywords import say_keyword

_HEADING = re.compile(r"^(\w[\w ]*)\n-+\n", flags=re.MULTILINE)
_ENTRY = re.compile(r"^(?=\S)", flags=re.MULTILINE)  # the line of an entry is not indented
_LISTS = ("Parameters", "Attributes")  # sections that go on with the entries of the base class
_WHOLE = ("Notes", "References")  # sections that are taken whole where a class has none
_PLACES = {"Parameters": 0, "Attributes": 1, "References": 3, "Examples": 4}  # others between

# What other libraries, and forerunners of this one, call a parameter.
_LAYERS = (
    "hidden",
    "hidden_sizes",
    "hidden_units",
    "hidden_layers",
    "n_hidden",
    "layers",
    "units",
)
# Parameters of `explain` and of `RelevanceTransformer`: no training depends on them.
_OF_EXPLAIN = ("contrast", "epsilon", "reference", "rule", "target")
_ELSEWHERE = {
    "hidden_size": (*_LAYERS, "hidden_dim", "n_units", "num_units"),
    "hidden_layer_sizes": _LAYERS,
    "n_reservoir": (*_LAYERS, "n_units", "reservoir_size", "size"),
    "channels": ("filters", "n_filters", "n_channels", "conv_channels", "out_channels"),
    "lr": ("learning_rate", "learning_rate_init", "eta", "eta0"),
    "max_epochs": ("epochs", "n_epochs", "num_epochs", "max_iter", "n_iter"),
    "random_state": ("seed", "random_seed", "rng"),
    "weight_decay": ("alpha", "l2", "regularization", "penalty"),
    "ridge": ("alpha", "l2", "regularization", "penalty"),
    "patience": ("n_iter_no_change", "early_stopping_patience"),
    "optimizer": ("solver", "optim"),
    "dropout": ("drop", "dropout_rate", "p"),
    "num_layers": ("n_layers", "depth"),
    "kernel_size": ("kernel", "filter_size"),
    "leak_rate": ("leaking_rate", "leak", "alpha"),
    "spectral_radius": ("rho", "sr", "radius"),
    "density": ("sparsity", "connectivity"),
    "input_scale": ("input_scaling",),
    "sweep": ("direction", "orientation"),
}
# The parts of a net of skorch, whose parameters follow after two underscores.
_PARTS = ("iterator_train", "iterator_valid", "optimizer", "criterion", "callbacks")


@dataclass(frozen=True)
class Field:
    """What a class says of one of its parameters, see `param`."""

    default: Any
    allowed: Sequence[Any] | None
    kw_only: bool
    may_change: bool | None
    annotation: Any = inspect.Parameter.empty


def param(
    *,
    default: Any,
    allowed: Sequence[Any] | None = None,
    kw_only: bool = True,
    may_change: bool | None = None,
) -> Any:
    """Declare a parameter of an estimator, in the body of its class.

    Parameters
    ----------
    default : object
        The default value.
    allowed : sequence or None, default=None
        What the value may be, in the words of scikit-learn's parameter constraints. None
        (default): as in the base class that declares the parameter.
    kw_only : bool, default=True
        Whether the parameter can be given by name only.
    may_change : bool or None, default=None
        Whether a training can go on after the value has changed. None (default): as in the base
        class, else False.

    Returns
    -------
    Field
        The declaration; typed as Any, as the annotation beside it is the type of the value.
    """
    return Field(default, allowed, kw_only, may_change)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(param,))
class ParameterFields:
    """Base of estimators whose parameters are declared by `param`.

    The constructor takes the positional parameter first, then the fields of the class, then what
    its bases declare. A field that a base has too changes that one's default, or whatever else it
    names. A class with a method ``_keep_kwargs`` takes any other keyword, and hands it to this
    method. A class that defines ``__init__`` keeps its own.
    """

    _declared: ClassVar[Mapping[str, Field]] = {}  # by the class itself
    _fields: ClassVar[Mapping[str, Field]] = {}  # by its bases too
    _own_doc: ClassVar[str | None] = None  # without what the docstring takes from bases
    _parameter_constraints: ClassVar[dict[str, list[Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._declared, cls._own_doc = _take_fields(cls), cls.__doc__
        if cls._declared or sum(issubclass(b, ParameterFields) for b in cls.__bases__) > 1:
            fields: dict[str, Field] = {}
            for base in reversed(cls.__mro__):  # several bases may declare fields
                declared = vars(base).get("_declared", {})
                new = {name: field for name, field in declared.items() if name not in fields}
                old = {name: _update(f, declared.get(name)) for name, f in fields.items()}
                fields = {**new, **old}
            cls._fields = dict(sorted(fields.items(), key=lambda item: item[1].kw_only))
            allowed = {name: field.allowed for name, field in cls._fields.items()}
            constraints = {name: list(words) for name, words in allowed.items() if words}
            cls._parameter_constraints = refine(constraints)
            if "__init__" not in vars(cls):
                cls.__init__ = _make_init(cls)  # type: ignore[method-assign]
        if cls.__doc__ and hasattr(cls.__init__, "__signature__"):
            cls.__doc__ = _complete_doc(cls)


def _take_fields(cls: type) -> dict[str, Field]:
    """Take the fields out of a class: its instances alone have the attributes."""
    annotations = inspect.get_annotations(cls)
    fields = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
    for name in fields:
        delattr(cls, name)
    return {name: replace(f, annotation=annotations[name]) for name, f in fields.items()}


def _update(old: Field, new: Field | None) -> Field:
    """Return the field of a base, changed by what a class says of it."""
    if new is None:
        return old
    return replace(
        new,
        allowed=old.allowed if new.allowed is None else new.allowed,
        may_change=old.may_change if new.may_change is None else new.may_change,
    )


def _make_init(cls: type[ParameterFields]) -> Any:
    """Return a constructor that stores the parameters and does no more, as scikit-learn asks."""
    takes_more = hasattr(cls, "_keep_kwargs")
    by_name, by_place = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", by_place)]
    parameters += [
        inspect.Parameter(
            name,
            by_name if field.kw_only else by_place,
            default=field.default,
            annotation=field.annotation,
        )
        for name, field in cls._fields.items()
    ]
    if takes_more:
        kind = inspect.Parameter.VAR_KEYWORD
        parameters.append(inspect.Parameter("kwargs", kind, annotation="Any"))
    signature = inspect.Signature(parameters, return_annotation="None")

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            unknown = next((name for name in kwargs if name not in cls._fields), "")
            hint = suggest_parameter(unknown, cls._fields)
            hint = hint or f" Name them: {', '.join(cls._fields)}."
            raise TypeError(f"{type(self).__name__}: {error}.{hint}") from None
        bound.apply_defaults()
        for name in cls._fields:
            setattr(self, name, bound.arguments[name])
        if takes_more:
            # Unknown ones are refused by `fit`: scikit-learn wants constructors to take anything.
            self._keep_kwargs(bound.arguments["kwargs"])

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    __init__.__module__ = cls.__module__
    return __init__


def suggest_parameter(
    unknown: str, own: Iterable[str], others: Iterable[str] = (), *, inline: bool = False
) -> str:
    """Return the question of `say_keyword`, or where else the parameter belongs."""
    if unknown in _OF_EXPLAIN:
        said = f"belongs to explain(X, {unknown}=...), or to RelevanceTransformer in a search."
        return f", which {said}" if inline else f" It {said}"
    part = next((part for part in _PARTS if unknown.startswith(f"{part}_")), None)
    if part is not None and "__" not in unknown:
        return say_meant([f"{part}__{unknown.removeprefix(part)[1:]}"], inline=inline)
    return say_keyword(unknown, {*own, *others}, _ELSEWHERE, inline=inline)


def _complete_doc(cls: type[ParameterFields]) -> str:
    """Return the docstring of a class, with the parameters and attributes of its base."""
    intro, sections = _split_doc(cls._own_doc)
    for base in cls.__mro__[1:]:
        inherited = _split_doc(vars(base).get("_own_doc"))[1]
        for name in _LISTS:
            own, others = (_split_list(part.get(name, "")) for part in (sections, inherited))
            if own or others:
                sections[name] = "\n".join({**own, **others, **own}.values())
        for name in _WHOLE:
            if name in inherited:
                sections.setdefault(name, inherited[name])
    for name in set(_LISTS) & set(sections):
        entries = _split_list(sections[name])
        known = [key for key in (*cls._fields, *entries) if key in entries]
        sections[name] = "\n".join(entries[key] for key in dict.fromkeys(known))
    order = sorted(sections, key=lambda name: _PLACES.get(name, 2))
    parts = [f"{name}\n{'-' * len(name)}\n{sections[name].strip()}" for name in order]
    return "\n\n".join([intro.strip(), *parts]) + "\n"


def _split_doc(doc: str | None) -> tuple[str, dict[str, str]]:
    """Return what comes before the sections of a docstring, and the sections by their names."""
    intro, *rest = _HEADING.split(inspect.cleandoc(doc or ""))
    return intro, dict(zip(rest[::2], rest[1::2], strict=True))


def _split_list(section: str) -> dict[str, str]:
    """Return the entries of a list of parameters or attributes, by name."""
    entries = _ENTRY.split(section.strip())
    return {entry.partition(" :")[0]: entry.rstrip() for entry in entries if entry}
