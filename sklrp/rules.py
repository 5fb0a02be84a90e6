r"""The rules of layer-wise relevance propagation (LRP), as small values.

Notation, here and in the engine: an affine layer takes :math:`x_i` to the pre-activation
:math:`z_j = \sum_i x_i w_{ij} + b_j` and receives the relevance :math:`R_j`; a rule says how much
of it, :math:`R_i`, goes on to each input. :math:`v^+ = \max(v, 0)`, :math:`v^- = \min(v, 0)`, and
:math:`s(z) = z + \epsilon\,\mathrm{sign}(z)` with :math:`\mathrm{sign}(0) = +1`.

Every rule is a sum of *parts*. A part takes a share of :math:`R_j` and splits it in proportion to
a numerator, a sum of products of an input map and a weight map:

.. math:: R_i = \sum_{\text{parts}} \mathrm{share} \sum_{\text{terms}}
          \mathrm{map}(x)_i \sum_j \mathrm{map}(w)_{ij} \frac{R_j}{s(d_j)}, \qquad
          d_j = \sum_{\text{terms}} \sum_i \mathrm{map}(x)_i \mathrm{map}(w)_{ij} +
          \mathrm{map}(b)_j .

One generic step in :mod:`sklrp.propagation` serves all of them on every kind of affine layer, so a
new rule is a class with a ``parts`` method and nothing else.

References
----------
.. [Bach2015] Bach et al., "On pixel-wise explanations for non-linear classifier decisions by
   layer-wise relevance propagation", PLoS ONE 10(7), 2015.
.. [Montavon2017] Montavon et al., "Explaining nonlinear classification decisions with deep Taylor
   decomposition", Pattern Recognition 65, 2017.
.. [Montavon2019] Montavon et al., "Layer-wise relevance propagation: an overview", LNCS 11700,
   2019.
.. [Lapuschkin2019] Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what
   machines really learn", Nature Communications 10, 2019.
.. [Andeol2021] Andéol et al., "Learning domain invariant representations by joint Wasserstein
   distance minimization", arXiv 2106.04923, 2021 (the sign-safe form of the gamma rule).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor

from sklrp._constraints import Interval, ShortErrors
from sklrp._devices import to_host
from sklrp._keywords import OF_RULES, named
from sklrp._missing import forbid_masked
from sklrp._sklearn import check_own_params, param_names
from sklrp._wording import say_value

# Type checkers and editors read this list; a rule that is missing here is added by its class.
__all__ = [
    "AlphaBeta",
    "Epsilon",
    "Flat",
    "Gamma",
    "Part",
    "Rule",
    "Signal",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
]

# The rules of this package by the names that `explain(rule=...)` takes, in the order of this file.
# A class is enough: `Rule` enters it here, and names, persistence and exports read this table.
RULES: dict[str, type[Rule]] = {}


@dataclass(frozen=True)
class Signal:
    """What flows forward between two layers: the activations and what is known of them.

    Attributes
    ----------
    x : Tensor of shape (n_samples, ...)
        The activations.
    nonnegative : bool, default=False
        Whether ``x`` is known to be nowhere negative, as after a ReLU; products with its negative
        part are then left out.
    low, high : Tensor of shape (1, ...) or None, default=None
        The bounds of ``x``, where the rule of the layer that takes it is :class:`ZBox`.
    seen : Tensor of shape (1, ...) or None, default=None
        Ones, and zeros where ``x`` is padding; None where nothing is.
    gate : bool, default=False
        Whether ``x`` is a gate, such as a sigmoid: in a product with a signal, the signal takes
        all relevance.
    sigmoid : bool, default=False
        Whether the gate is the output of a sigmoid or a softmax, and no integer of the input.
    mask : bool, default=False
        Whether ``x`` only selects: it is boolean, or was made by a comparison or a search. It is a
        gate that takes no relevance, whatever the composite's ``product``.
    held : bool, default=False
        Whether ``x`` is a gate that counts as a constant in products, as a sample's deviation does
        and the weights of an attention under ``attention="constant"``: it takes nothing there,
        whatever the composite's ``product``.
    position : bool, default=False
        Whether ``x`` is integers that were counted along masks, such as the positions of tokens:
        what they look up is a constant.
    activated : bool, default=False
        Whether ``x`` is the output of an activation, such as SiLU.
    lengths : Tensor of shape (n_samples,) or None, default=None
        How many steps each sequence of ``x``, (n_samples, n_steps, n_features), has; None if all.
    axis : int, default=0
        Where the network itself has the axis of the samples. Handlers of layers have it first.
    samples : Tensor of x's shape or None, default=None
        While a network is probed, the sample that each value of ``x`` belongs to.
    """

    x: Tensor
    nonnegative: bool = False
    low: Tensor | None = None
    high: Tensor | None = None
    seen: Tensor | None = None
    gate: bool = False
    sigmoid: bool = False
    mask: bool = False
    held: bool = False
    position: bool = False
    activated: bool = False
    lengths: Tensor | None = None
    axis: int = 0
    samples: Tensor | None = None

    def apply(self, function: Callable[[Tensor], Tensor], nonnegative: bool = False) -> Signal:
        """Return the signal behind a function, of which nothing else is known."""
        return Signal(function(self.x), nonnegative)

    def but(self, **changes: Any) -> Signal:
        """Return the same with other attributes, in a part of the time of `replace`."""
        other = object.__new__(Signal)
        vars(other).update(vars(self))
        vars(other).update(changes)
        return other


InputMap = Callable[[Signal], Tensor | None]
WeightMap = Callable[[Tensor], Tensor]


class Part(NamedTuple):
    """One numerator and one denominator of a rule, and the share of relevance they split.

    Attributes
    ----------
    share : float
        The share of the incoming relevance; the shares of a rule's parts sum to one at each
        output.
    terms : tuple of (input map, weight map)
        The products that make up the numerator and, summed over the inputs, the denominator. An
        input map takes a :class:`Signal` and may return None for a term that vanishes.
    bias : callable or None, default=None
        The map of the bias in the denominator; None leaves the bias out.
    sign : {0, 1, -1}, default=0
        The sign of the pre-activations on which the part acts; 0 means on all.
    stabilize : bool, default=True
        Whether epsilon is added to the denominator.
    """

    share: float
    terms: tuple[tuple[InputMap, WeightMap], ...]
    bias: WeightMap | None = None
    sign: int = 0
    stabilize: bool = True


# Input maps: x, x+, x-, 1 and the distances to the bounds of z-box.
def x(signal: Signal) -> Tensor:
    """Return the activations."""
    return signal.x


def x_pos(signal: Signal) -> Tensor:
    """Return the positive part of the activations."""
    return signal.x if signal.nonnegative else signal.x.clamp(min=0)


def x_neg(signal: Signal) -> Tensor | None:
    """Return the negative part of the activations, None where it is known to vanish."""
    return None if signal.nonnegative else signal.x.clamp(max=0)


def x_one(signal: Signal) -> Tensor:
    """Return ones in the shape of one sample, zeros at its padding."""
    return signal.x.new_ones((1, *signal.x.shape[1:])) if signal.seen is None else signal.seen


def above_low(signal: Signal) -> Tensor | None:
    """Return how far the activations are above their lower bounds."""
    return None if signal.low is None else signal.x - signal.low


def below_high(signal: Signal) -> Tensor | None:
    """Return how far the activations are below their upper bounds, a negative number."""
    return None if signal.high is None else signal.x - signal.high


# Weight maps, for biases too.
@dataclass(frozen=True)
class Signed:
    """The weight map ``pos * max(v, 0) + neg * min(v, 0)``.

    Any function may be a weight map; the engine needs fewer products for those of this class.
    """

    pos: float
    neg: float

    @property
    def opposite(self) -> Signed:
        """The map with the two factors exchanged."""
        return Signed(self.neg, self.pos)

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the map of weights or a bias."""
        if self.pos == self.neg:
            return weight if self.pos == 1.0 else self.pos * weight
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        return up.mul_(self.pos).add_(down, alpha=self.neg)


w, w_pos, w_neg = Signed(1.0, 1.0), Signed(1.0, 0.0), Signed(0.0, 1.0)


class Value(ShortErrors, BaseEstimator):
    """Base of rules and composites: parameters as in scikit-learn, equality by value."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return those of nested values too.

        Returns
        -------
        dict
            The parameters by their names.
        """
        missing = [name for name in param_names(type(self)) if not hasattr(self, name)]
        if missing:
            raise TypeError(
                f"{type(self).__name__} must store each parameter of its __init__ under the "
                f"parameter's own name, but has no attribute {missing[0]!r}: set "
                f"self.{missing[0]} = {missing[0]} in __init__."
            )
        return super().get_params(deep)

    def __eq__(self, other: object) -> bool:
        """Return whether ``other`` is of the same type and has the same parameters."""
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        """Return a hash of the type and the parameters."""
        return hash(self._key())

    def __repr__(self) -> str:
        """Return the expression that rebuilds the value."""
        params = self.get_params(deep=False)
        shown = (
            f"{name}={_plain(params[name])!r}"
            for name, parameter in inspect.signature(type(self)).parameters.items()
            if _freeze(params[name]) != _freeze(parameter.default)
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def _key(self) -> tuple[Any, ...]:
        params = self.get_params(deep=False)
        return (type(self), *((name, _freeze(params[name])) for name in sorted(params)))


def _plain(value: Any) -> Any:
    """Return arrays and NumPy scalars as lists and numbers, whose ``repr`` rebuilds them."""
    if hasattr(value, "__array__"):
        return np.asarray(to_host(value)).tolist()
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _freeze(value: Any) -> Any:
    """Return a hashable stand-in for ``value``: lists and arrays become tuples."""
    value = _plain(value)
    return tuple(_freeze(v) for v in value) if isinstance(value, list | tuple) else value


def _snake(name: str) -> str:
    """Return the name of a rule by that of its class: ``AlphaBeta`` is ``alpha_beta``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Rule(Value):
    """Base class of the LRP rules.

    A rule is a value in the manner of scikit-learn's Gaussian-process kernels: it has
    ``get_params`` and ``set_params``, can be cloned, compared, hashed and pickled, and prints as
    the expression that rebuilds it. The constructor only stores; :func:`sklrp.check_rule`
    validates.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Users' rules get no name: one named Gamma must not change what "gamma" means.
        if cls.__module__ == __name__ and cls.__qualname__ == cls.__name__:
            RULES[_snake(cls.__name__)] = cls
            OF_RULES[cls.__name__] = tuple(inspect.signature(cls).parameters)
            if cls.__name__ not in __all__:
                __all__.append(cls.__name__)

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the rule; see :class:`Part`."""
        raise NotImplementedError(f"{type(self).__name__} must define parts().")

    def resolve_epsilon(self, epsilon: float) -> float:
        """Return the rule's own epsilon or, where it has none, the one of the call.

        Parameters
        ----------
        epsilon : float
            The epsilon of the call.

        Returns
        -------
        float
            The epsilon to use.
        """
        own = getattr(self, "epsilon", None)
        return epsilon if own is None else float(own)

    def validate(self) -> None:
        """Raise ValueError or TypeError if a parameter is out of its range."""
        check_own_params(self)


_EPSILON: list[Any] = [None, Interval(Real, 0, np.inf, closed="left")]


class Zero(Rule):
    r"""The basic rule, LRP-0.

    :math:`R_i = \sum_j \frac{x_i w_{ij}}{z_j} R_j`; nothing passes where :math:`z_j = 0`. On a
    network of ReLUs it equals gradient times input (with average pooling, which has no rule of its
    own, give ``explain`` an epsilon of 0 too). It is exact and noisy: prefer :class:`Epsilon`
    unless you compare with a gradient method.

    References
    ----------
    Bach et al. 2015, eq. 56.

    Examples
    --------
    >>> from sklrp import Zero
    >>> Zero()
    Zero()
    """

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the rule."""
        return (Part(1.0, ((x, w),), bias=w, stabilize=False),)

    def resolve_epsilon(self, epsilon: float) -> float:
        """Return 0, whatever the epsilon of the call."""
        return 0.0


class Epsilon(Rule):
    r"""The epsilon rule: contributions with a stabilised denominator.

    :math:`R_i = \sum_j \frac{x_i w_{ij}}{s(z_j)} R_j`. The rule for dense and recurrent layers.
    A larger epsilon absorbs relevance where the evidence is weak or contradictory.

    Parameters
    ----------
    epsilon : float or None, default=None
        The stabiliser, at least 0, in the units of the pre-activations; None takes the one given
        to ``explain``.

    References
    ----------
    Bach et al. 2015, eq. 58.

    Examples
    --------
    >>> from sklrp import Epsilon
    >>> Epsilon(0.01)
    Epsilon(epsilon=0.01)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"epsilon": _EPSILON}

    @named
    def __init__(self, epsilon: float | None = None) -> None:
        self.epsilon = epsilon

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the rule."""
        return (Part(1.0, ((x, w),), bias=w),)


class Gamma(Rule):
    r"""The gamma rule, in the form that is right for inputs of either sign.

    Where :math:`z_j > 0`, positive contributions are favoured:

    .. math:: R_i = \sum_j \frac{x_i^+ (w_{ij} + \gamma w_{ij}^+)
              + x_i^- (w_{ij} + \gamma w_{ij}^-)}
              {s(\sum_i \cdot + b_j + \gamma b_j^+)} R_j ;

    where :math:`z_j < 0`, negative ones, with :math:`w^+ \leftrightarrow w^-` and :math:`b_j +
    \gamma b_j^-`; where :math:`z_j = 0` nothing passes. It lies between epsilon (:math:`\gamma =
    0`) and z-plus (:math:`\gamma \to \infty`), and is meant for convolutions.

    Parameters
    ----------
    gamma : float, default=0.25
        How much the contributions of the output's own sign are favoured, at least 0.
    epsilon : float or None, default=None
        The stabiliser, at least 0; None takes the one given to ``explain``.

    References
    ----------
    Montavon et al. 2019, table 10.1; Andéol et al. 2021 for signed inputs.

    Examples
    --------
    >>> from sklrp import Gamma
    >>> Gamma().set_params(gamma=0.5)
    Gamma(gamma=0.5)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "gamma": [Interval(Real, 0, np.inf, closed="left")],
        "epsilon": _EPSILON,
    }

    @named
    def __init__(self, gamma: float = 0.25, epsilon: float | None = None) -> None:
        self.gamma = gamma
        self.epsilon = epsilon

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the rule."""
        up = Signed(1.0 + self.gamma, 1.0)
        down = up.opposite
        return (
            Part(1.0, ((x_pos, up), (x_neg, down)), bias=up, sign=+1),
            Part(1.0, ((x_pos, down), (x_neg, up)), bias=down, sign=-1),
        )


class AlphaBeta(Rule):
    r"""The alpha-beta rule: positive and negative contributions apart.

    .. math:: R_i = \sum_j \left(\alpha \frac{z_{ij}^+}{s(\sum_i z_{ij}^+ + b_j^+)}
              - \beta \frac{z_{ij}^-}{s(\sum_i z_{ij}^- + b_j^-)}\right) R_j, \qquad \alpha - \beta
                = 1,

    with :math:`z_{ij}^+ = x_i^+ w_{ij}^+ + x_i^- w_{ij}^-` and :math:`z_{ij}^- = x_i^+ w_{ij}^- +
    x_i^- w_{ij}^+`. Meant for convolutions; on regression with signed output, and where the input
    is signed, read its maps with care.

    Parameters
    ----------
    alpha : float, default=2.0
        The weight of the positive contributions, at least 1.
    beta : float, default=1.0
        The weight of the negative ones, ``alpha - 1``.
    epsilon : float or None, default=None
        The stabiliser, at least 0; None takes the one given to ``explain``.
    renormalize : bool, default=False
        At an output without negative (or without positive) contributions the literature's form
        gives away ``alpha`` (or ``-beta``) times its relevance; with True such an output gives
        away exactly its relevance.

    References
    ----------
    Bach et al. 2015, eq. 60.

    Examples
    --------
    >>> from sklrp import AlphaBeta
    >>> AlphaBeta(alpha=3.0, beta=2.0)
    AlphaBeta(alpha=3.0, beta=2.0)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "alpha": [Interval(Real, 1, np.inf, closed="left")],
        "beta": [Interval(Real, 0, np.inf, closed="left")],
        "epsilon": _EPSILON,
        "renormalize": ["boolean"],
    }

    @named
    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 1.0,
        epsilon: float | None = None,
        renormalize: bool = False,
    ) -> None:
        self.alpha = alpha
        self.beta = beta
        self.epsilon = epsilon
        self.renormalize = renormalize

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the rule."""
        positive = Part(self.alpha, ((x_pos, w_pos), (x_neg, w_neg)), bias=w_pos)
        negative = Part(-self.beta, ((x_pos, w_neg), (x_neg, w_pos)), bias=w_neg)
        return (positive, negative) if self.beta else (positive,)

    def validate(self) -> None:
        """Raise ValueError or TypeError if a parameter is out of its range."""
        super().validate()
        if abs(self.alpha - self.beta - 1.0) > 1e-9:
            raise ValueError(
                f"AlphaBeta needs alpha - beta = 1, got alpha={self.alpha!r}, beta={self.beta!r}; "
                f"set beta={self.alpha - 1.0:g} or alpha={self.beta + 1.0:g}."
            )


class ZPlus(Rule):
    r"""The z-plus rule: positive contributions alone, alpha-beta with (1, 0).

    :math:`R_i = \sum_j \frac{z_{ij}^+}{s(\sum_i z_{ij}^+ + b_j^+)} R_j`. The rule for
    convolutions.

    Parameters
    ----------
    epsilon : float or None, default=None
        The stabiliser, at least 0; None takes the one given to ``explain``.

    References
    ----------
    Montavon et al. 2017, eq. 12; Bach et al. 2015, eq. 60, for signed inputs.

    Examples
    --------
    >>> from sklrp import ZPlus
    >>> ZPlus()
    ZPlus()
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"epsilon": _EPSILON}

    @named
    def __init__(self, epsilon: float | None = None) -> None:
        self.epsilon = epsilon

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the rule."""
        return AlphaBeta(1.0, 0.0).parts()


class WSquare(Rule):
    r"""The w-square rule: by squared weights, whatever the input.

    :math:`R_i = \sum_j \frac{w_{ij}^2}{\sum_i w_{ij}^2} R_j`. For first layers whose input is
    unbounded.

    References
    ----------
    Montavon et al. 2017, eq. 10.

    Examples
    --------
    >>> from sklrp import WSquare
    >>> WSquare()
    WSquare()
    """

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the rule."""
        return (Part(1.0, ((x_one, lambda weight: weight.square()),), stabilize=False),)


class Flat(Rule):
    r"""The flat rule: the same to each input that an output sees.

    :math:`R_i = \sum_j \frac{1}{n_j} R_j` with :math:`n_j` the number of inputs of output
    :math:`j`, padding not counted. For the first convolution, where it shows the resolution of the
    layers above. As the first layer of an MLP it gives every input the same relevance.

    References
    ----------
    Lapuschkin et al. 2019.

    Examples
    --------
    >>> from sklrp import Flat
    >>> Flat()
    Flat()
    """

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the rule."""
        return (
            Part(1.0, ((x_one, lambda weight: weight.new_ones(weight.shape)),), stabilize=False),
        )


class ZBox(Rule):
    r"""The z-box rule: for a first layer whose input lies in a box.

    .. math:: R_i = \sum_j \frac{x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-}
              {\sum_i (x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-)} R_j

    Parameters
    ----------
    low, high : float, array-like in the shape of one sample, or None, default=None
        The bounds of the layer's input, in its units; those of a first layer are in the shape of
        ``X``. None takes the smallest and the largest value of the training data, which the
        classifiers of this package remember (a bare module must be given them) and, on a layer
        behind others, the bounds that follow from them by interval arithmetic. Inside an LSTM they
        are those of its input; its states lie in (-1, 1).

    References
    ----------
    Montavon et al. 2017, eq. 16.

    Examples
    --------
    >>> from sklrp import ZBox
    >>> ZBox(low=0.0, high=1.0)
    ZBox(low=0.0, high=1.0)
    """

    @named
    def __init__(self, low: Any = None, high: Any = None) -> None:
        self.low = low
        self.high = high

    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the rule."""
        terms = ((above_low, w_pos), (below_high, w_neg))  # x w - low w+ - high w-
        return (Part(1.0, terms, stabilize=False),)

    def validate(self) -> None:
        """Raise ValueError or TypeError if a parameter is out of its range."""
        for name, bound in (("low", self.low), ("high", self.high)):
            bound = forbid_masked(to_host(bound), f"{name} of ZBox")
            try:
                values = np.asarray(0.0 if bound is None else bound)
                finite = np.isfinite(values).all()
                if values.dtype.kind not in "iuf" or not values.size:
                    raise TypeError
            except Exception:  # of the value's own code too
                raise TypeError(
                    f"{name} of ZBox must be a number, an array or None, got "
                    f"{say_value(bound, 80)}."
                ) from None
            if not finite:
                raise ValueError(f"{name} of ZBox must be finite, got {say_value(bound, 80)}.")
        if self.low is None or self.high is None:
            return
        low, high = (np.asarray(to_host(v), dtype=float) for v in (self.low, self.high))
        try:
            bad = low >= high
        except ValueError:
            raise ValueError(
                f"low and high of ZBox must have the same shape, got {low.shape} and {high.shape}."
            ) from None
        # A constant input (land, a black border) may have equal bounds of its own.
        if np.all(bad) or (low > high).any():
            raise ValueError(
                f"ZBox needs low < high, got low={_plain(self.low)!r} and "
                f"high={_plain(self.high)!r}; set low to the smallest and high to the largest "
                "value that the input can take."
            )
