"""What a keyword means that a function does not take: errors answer with the code that works.

`sklrp._constraints` asks here for the functions whose parameters it checks, and `named` decorates
the others that explain. The rules enter their parameters, so that `gamma=0.1` beside a rule is
answered with the rule that takes it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sklrp._checks import UnsaidError, cut_error, forbid_unsaid, say_meant, suggest
from sklrp._wording import say_value

_Function = TypeVar("_Function", bound=Callable[..., Any])

# The parameters of each rule, by the name of its class, in the order in which they are defined.
OF_RULES: dict[str, tuple[str, ...]] = {}
# What other libraries of LRP call a parameter.
_ELSEWHERE = {
    "rule": ("composite", "rules", "lrp_rule", "rule_name", "method"),
    "epsilon": ("eps", "stabilizer", "stabiliser"),
    "target": ("label", "labels", "class_index", "neuron_selection", "output_index"),
}
# What `sklrp.explain` alone takes, of all that explain.
_OF_EXPLAIN = ("return_details", "check", "out")


def named(function: _Function) -> _Function:
    """Decorate a function: an error about unknown keywords names it, and says what is meant."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UnsaidError:
            raise
        except Exception as error:
            if isinstance(error, TypeError):
                _name_call(function, args, kwargs, error)
            given = inspect.signature(function).bind(*args, **kwargs).arguments
            forbid_unsaid({name: one for name, one in given.items() if name != "self"}, error)
            cut_error(error)
            raise

    return wrapper  # type: ignore[return-value]


def _name_call(
    function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], error: TypeError
) -> None:
    """Raise an error that names the function if it takes no such parameters."""
    parameters = inspect.signature(function).parameters
    unknown = [name for name in kwargs if name not in parameters]
    whose = function.__qualname__.split(".")[-2:]
    name = whose[0] if whose[-1] == "__init__" else function.__name__
    meant = say_rule({one: kwargs[one] for one in unknown}) if "rule" in parameters else ""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as wrong:
        meant = meant or "".join(_name_unknown(one, parameters) for one in unknown)
        if "too many positional" in str(wrong):
            meant = _say_positional(parameters)
        raise TypeError(f"{name}: {wrong}.{meant}") from None
    if meant and "unexpected keyword" in str(error):  # it hands other keywords on
        raise TypeError(f"{name} takes no {', '.join(unknown)}.{meant}") from None


def _name_unknown(name: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """Say which function takes a parameter, or which one of this function is meant."""
    if name in _OF_EXPLAIN and {"rule", "epsilon"} <= set(parameters):
        return f" {name!r} is a parameter of sklrp.explain(model, X), which returns arrays."
    return say_keyword(name, parameters)


def _say_positional(parameters: Mapping[str, inspect.Parameter]) -> str:
    """Say which parameters may stand without their names, and how the next is given."""
    own = [one for name, one in parameters.items() if name != "self"]
    plain = [one.name for one in own if one.kind is one.POSITIONAL_OR_KEYWORD]
    by_name = [one.name for one in own if one.kind is one.KEYWORD_ONLY]
    rest = f": {by_name[0]}=..." if by_name else ""
    return f" Give those after {plain[-1]!r} by name{rest}." if plain else f" Name them{rest}."


def say_rule(given: Mapping[str, Any]) -> str:
    """Say which rule has parameters that were given beside it, "" if none has."""
    given = dict(given)
    bounds = given.pop("bounds", None)
    if isinstance(bounds, list | tuple) and len(bounds) == 2:
        given |= {"low": bounds[0], "high": bounds[1]}
    rules = {rule: [name for name in given if name in own] for rule, own in OF_RULES.items()}
    rule = max(rules, key=lambda rule: len(rules[rule]), default=None)
    if rule is None or not rules[rule]:
        return ""
    written = ", ".join(f"{name}={say_value(given[name], 40)}" for name in rules[rule])
    are = "is a parameter" if len(rules[rule]) == 1 else "are parameters"
    said = ", ".join(map(repr, rules[rule]))
    return f" {said} {are} of a rule: rule=sklrp.{rule}({written})."


def say_keyword(
    name: str,
    known: Iterable[str],
    elsewhere: Mapping[str, Sequence[str]] = _ELSEWHERE,
    *,
    inline: bool = False,
) -> str:
    """Say which parameter is meant by what another library calls it, or by one that is close.

    Parameters
    ----------
    name : str
        What was given.
    known : iterable of str
        The parameters that there are.
    elsewhere : mapping of str to sequence of str, optional
        What other libraries call each parameter; by default, those of `explain`.
    inline : bool, default=False
        Whether to go on with a sentence, see `suggest`.

    Returns
    -------
    str
        The question, "" if nothing is close.
    """
    known = set(known)
    meant = [ours for ours, theirs in elsewhere.items() if name in theirs and ours in known]
    return say_meant(meant, inline=inline) or suggest(name, known, inline=inline)
