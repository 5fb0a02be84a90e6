"""Composites: which rule acts on which layer, and the presets of the literature.

References
----------
.. [Montavon2019c] Montavon et al., "Layer-wise relevance propagation: an overview", LNCS 11700,
   2019.
.. [Kohlbrenner2020] Kohlbrenner et al., "Towards best practice in explaining neural network
   decisions with LRP", IJCNN 2020.
.. [Lapuschkin2019c] Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what
   machines really learn", Nature Communications 10, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from numbers import Real
from typing import Any

from sklrp._checks import say_layer, suggest
from sklrp._keywords import named
from sklrp._wording import say_value
from sklrp.rules import RULES, AlphaBeta, Epsilon, Flat, Gamma, Rule, Value, ZBox, ZPlus

__all__ = ["Composite", "available_rules", "check_rule"]

KINDS = ("conv", "dense", "recurrent")
PRODUCTS = ("all", "prop", "abs", "half")
ATTENTIONS = ("attnlrp", "constant", "cp")
_TAKEN = ("rules", "product", "attention", "")
PLACES = ("first", "last", "all", *KINDS)

# What acts on convolutions, and on the first weighted layer in execution order; the rest takes
# epsilon.
_PRESETS: dict[str, tuple[Callable[[], Rule], Callable[[], Rule] | None]] = {
    "auto": (ZPlus, None),
    "epsilon_plus": (ZPlus, None),
    "epsilon_plus_flat": (ZPlus, Flat),
    "epsilon_alpha2_beta1": (AlphaBeta, None),
    "epsilon_alpha2_beta1_flat": (AlphaBeta, Flat),
    "epsilon_gamma_box": (Gamma, ZBox),
}


class Composite(Value):
    """Rules by place: the first row that matches a layer says its rule.

    Use it where one rule for the whole network will not do: convolutions want z-plus or gamma,
    dense layers epsilon, the first layer something of its own. The rows are named, as in
    scikit-learn's ``ColumnTransformer``, so that ``composite.set_params(conv__gamma=0.5)`` reaches
    into a row, and a grid search can.

    Parameters
    ----------
    rules : list of (name, rule, place)
        ``name`` is a string, unique, without ``"__"``. ``rule`` is a :class:`Rule`. ``place`` is

        - ``"first"``: every layer with weights that sees the input before any other has, such as
          the stems of several branches, at all its uses;
        - ``"last"``: the last layer with weights in execution order, at all its uses;
        - ``"all"``: every layer with weights;
        - a kind of layer: ``"conv"``, ``"dense"`` or ``"recurrent"``;
        - a layer type, such as ``torch.nn.Linear``;
        - the name of a layer, or of a block of layers, as in ``named_modules()``;
        - a callable ``(name, layer) -> bool``.

    product : {"all", "prop", "abs", "half"}, default="all"
        How the product of a gate and a signal, inside LSTMs and GRUs and wherever a network
        multiplies by a sigmoid, shares its relevance: the signal takes all; in proportion to the
        values of gate and signal, or to their absolute values; half each (Arras et al. 2019).
        ``"all"`` is the one that is right for a linear signal, and the fastest. Two signals of
        which neither is a gate, such as queries and keys, share half each under ``"all"`` too.

    attention : {"attnlrp", "constant", "cp"}, default="attnlrp"
        What the weights of an attention are: every softmax inside the network.

        - ``"attnlrp"``: signals. The softmax hands relevance on by its Taylor decomposition at its
          input, and in products with values the two share half each [Achtibat2024]_.
        - ``"constant"``: held constant, whatever ``product`` is. Values take all relevance, and
          queries and keys get none [Ali2022c]_.
        - ``"cp"``: as ``"constant"``, and in a product of an activation and a signal, as in
          SwiGLU, the activation is held constant too: CP-LRP, as the authors of [Achtibat2024]_
          wrote it for language models.

    References
    ----------
    .. [Achtibat2024] Achtibat et al., "AttnLRP: attention-aware layer-wise relevance propagation
       for Transformers", ICML 2024.
    .. [Ali2022c] Ali et al., "XAI for Transformers: better explanations through conservative
       propagation", ICML 2022.

    Examples
    --------
    >>> from sklrp import Composite, Epsilon, Flat, Gamma
    >>> composite = Composite([("input", Flat(), "first"), ("conv", Gamma(), "conv"),
    ...                        ("dense", Epsilon(), "all")])
    >>> composite.set_params(conv__gamma=0.5)
    Composite(rules=[('input', Flat(), 'first'), ('conv', Gamma(gamma=0.5), 'conv'), ('dense',
    Epsilon(), 'all')])
    """

    @named
    def __init__(
        self,
        rules: Sequence[tuple[str, Rule, Any]] = (),
        product: str = "all",
        attention: str = "attnlrp",
    ) -> None:
        self.rules = rules
        self.product = product
        self.attention = attention

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with ``deep``, the rows by name and their rules' parameters too.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the rows and their parameters.

        Returns
        -------
        dict
            Parameter names mapped to values.
        """
        params: dict[str, Any] = {
            "rules": self.rules, "product": self.product, "attention": self.attention,
        }  # fmt: skip
        if deep:
            for name, rule, _ in self.rules:
                params[name] = rule
                params.update({f"{name}__{k}": v for k, v in rule.get_params().items()})
        return params

    def set_params(self, **params: Any) -> Composite:
        """Set ``rules``, a row's rule by its name, or a parameter of it (``conv__gamma``).

        Parameters
        ----------
        **params : dict
            Parameters and their values.

        Returns
        -------
        Composite
            The composite itself.
        """
        if "rules" in params:
            self.rules = params.pop("rules")
        names = [row[0] for row in self.rules]
        for name in [key for key in params if key in names]:
            rule = params.pop(name)
            self.rules = [(n, rule if n == name else r, place) for n, r, place in self.rules]
        super().set_params(**params)
        return self

    def __repr__(self) -> str:
        """Return the expression that rebuilds the composite."""
        rows = (f"({name!r}, {rule!r}, {_show_place(place)})" for name, rule, place in self.rules)
        product = "" if self.product == "all" else f", product={self.product!r}"
        other = "" if self.attention == "attnlrp" else f", attention={self.attention!r}"
        return f"Composite(rules=[{', '.join(rows)}]{product}{other})"

    def validate(self) -> None:
        """Raise ValueError or TypeError if a row is malformed or its rule out of range."""
        if not isinstance(self.rules, list | tuple) or not self.rules:
            raise ValueError(
                "rules of Composite must be a list of (name, rule, place), "
                f"got {say_value(self.rules)}."
            )
        for option, known in (("product", PRODUCTS), ("attention", ATTENTIONS)):
            value = getattr(self, option)
            if not isinstance(value, str) or value not in known:
                raise ValueError(
                    f"{option} of Composite must be one of {known}, got {say_value(value)}."
                    f"{suggest(value, known)}"
                )
        seen: set[str] = set()
        for row in self.rules:
            if not isinstance(row, list | tuple) or len(row) != 3:
                raise ValueError(
                    "Each row of Composite must be (name, rule, place), "
                    f"got {say_value(row)} in rules."
                )
            name, rule, place = row
            if not isinstance(name, str) or "__" in name or name in _TAKEN:
                raise ValueError(
                    "Names in Composite must be strings without '__', other than 'rules', "
                    f"'product' and 'attention', got {say_value(name)}."
                )
            if name in seen:
                raise ValueError(f"Names in Composite must be unique, got {name!r} twice.")
            seen.add(name)
            if not isinstance(rule, Rule):
                raise TypeError(
                    f"The rule of row {name!r} must be a Rule such as Epsilon(), "
                    f"got {say_value(rule)}."
                )
            rule.validate()
            if not isinstance(place, str | type) and not callable(place):
                raise TypeError(
                    f"The place of row {name!r} must be one of {PLACES}, a layer type, the name "
                    f"of a layer or a callable, got {say_value(place)}."
                )

    def resolve(
        self,
        layers: Sequence[tuple[str, Any, str]],
        first: Collection[int] = (0,),
        last: Collection[int] | None = None,
    ) -> list[Rule]:
        """Return the rule of each layer.

        Parameters
        ----------
        layers : list of (name, layer, kind)
            The layers with weights, in execution order.
        first : collection of int, default=(0,)
            The positions of those that see the input first.
        last : collection of int or None, default=None
            The positions of the last one; None for the end.

        Returns
        -------
        list of Rule
            One rule per layer.

        Raises
        ------
        ValueError
            If no row matches a layer, or a row's place names nothing in the network.
        """
        names = [name for name, _, _ in layers]
        for row, _, place in self.rules:
            if (
                isinstance(place, str)
                and place not in PLACES
                and not any(_within(n, place) for n in names)
            ):
                raise ValueError(
                    f"The place {place!r} of row {row!r} is neither one of {PLACES} nor the name "
                    "of a layer with weights; their names are "
                    f"{names}.{suggest(place, [*PLACES, *names])}"
                )
        ends = (len(layers) - 1,) if last is None else last
        return [
            self._rule_of(row, {"first": i in first, "last": i in ends})
            for i, row in enumerate(layers)
        ]

    def _rule_of(self, row: tuple[str, Any, str], at: dict[str, bool]) -> Rule:
        name, layer, kind = row
        for _, rule, place in self.rules:
            if isinstance(place, type):
                matches = isinstance(layer, place)
            elif callable(place):
                matches = bool(place(name, layer))
            elif place in at:
                matches = at[place]
            elif place in PLACES:
                matches = place in ("all", kind)
            else:
                matches = _within(name, place)
            if matches:
                return rule
        raise ValueError(
            f"No row of {self!r} matches {say_layer(name)} ({type(layer).__name__}); add a last "
            "row such as ('rest', Epsilon(), 'all')."
        )


@named
def check_rule(rule: Any, *, bounds: tuple[Any, Any] | None = None) -> Composite:
    """Return ``rule`` as a validated :class:`Composite`.

    Parameters
    ----------
    rule : str, Rule or Composite
        ``"auto"`` (z-plus on convolutions, epsilon elsewhere), the name of a rule or of a preset
        (see :func:`available_rules`), a rule or a composite.
    bounds : (low, high) or None, default=None
        The bounds for the :class:`ZBox` rules that have none of their own.

    Returns
    -------
    Composite
        A new composite; ``rule`` itself is not changed.

    Raises
    ------
    ValueError
        If the name is unknown or a parameter is out of its range.
    TypeError
        If ``rule`` is something else.

    Examples
    --------
    >>> from sklrp import check_rule
    >>> check_rule("epsilon")
    Composite(rules=[('all', Epsilon(), 'all')])
    """
    if isinstance(rule, str):
        if rule not in available_rules():
            raise ValueError(
                f"rule must be one of {available_rules()}, a Rule or a Composite, "
                f"got {say_value(rule)}."
                f"{suggest(rule, available_rules())}"
            )
        if rule in _PRESETS:
            conv, first = _PRESETS[rule]
            rows = [("conv", conv(), "conv"), ("dense", Epsilon(), "all")]
            composite = Composite([("input", first(), "first"), *rows] if first else rows)
        else:
            composite = Composite([("all", RULES[rule](), "all")])
    elif isinstance(rule, Composite):
        composite = rule
    elif isinstance(rule, Rule):
        composite = Composite([("all", rule, "all")])
    else:
        raise TypeError(
            f"rule must be one of {available_rules()}, a Rule such as Epsilon() or a Composite, "
            f"got {say_value(rule)} of type {type(rule).__name__}.{_say_instance(rule)}"
        )
    _check_box(bounds)
    composite.validate()
    rows = [(n, with_bounds(r, bounds), place) for n, r, place in composite.rules]
    return Composite(rows, composite.product, composite.attention)


def _say_instance(rule: Any) -> str:
    """Say how a rule is made of its class, or of its name and its parameter."""
    if isinstance(rule, type) and issubclass(rule, Rule):
        return f" Make one of its class: rule=sklrp.{rule.__name__}()."
    if isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[1], Real):
        made = RULES.get(str(rule[0]))
        if made is not None:
            return f" Make one with its parameter: rule=sklrp.{made.__name__}({rule[1]!r})."
    return ""


def _check_box(bounds: Any) -> None:
    """Raise an error unless bounds are None or a pair of what a `ZBox` takes."""
    if bounds is None:
        return
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise TypeError(f"bounds must be None or a pair (low, high), got {say_value(bounds)}.")
    try:
        ZBox(*bounds).validate()
    except (TypeError, ValueError) as error:
        raise type(error)(f"bounds={say_value(bounds)}: {error}") from error


def available_rules() -> list[str]:
    """Return the names that ``rule`` accepts: ``"auto"``, the rules and the presets.

    Returns
    -------
    list of str
        The names.

    Examples
    --------
    >>> from sklrp import available_rules
    >>> available_rules()[:3]
    ['auto', 'zero', 'epsilon']
    """
    return ["auto", *RULES, *(name for name in _PRESETS if name != "auto")]


def with_bounds(rule: Rule, bounds: tuple[Any, Any] | None) -> Rule:
    """Return a z-box rule with the bounds that it lacks, any other rule as it is."""
    if bounds is None or not isinstance(rule, ZBox):
        return rule
    low, high = (
        b if own is None else own for own, b in zip((rule.low, rule.high), bounds, strict=True)
    )
    filled = ZBox(low, high)
    filled.validate()
    return filled


def _within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def _show_place(place: Any) -> str:
    if isinstance(place, str):
        return repr(place)
    qualified = getattr(place, "__qualname__", None)
    return f"{place.__module__}.{qualified}" if qualified else repr(place)
