"""The picture of pixel flipping: how the score falls while features are replaced.

`sklrp.plotting` makes it public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sklrp import _models
from sklrp._checks import import_optional
from sklrp._constraints import FINITE, constrained
from sklrp._model_parts import Model, is_regression
from sklrp._rows import count_samples
from sklrp.drawing.sheet import as_text
from sklrp.drawing.views import name_several
from sklrp.metrics import pixel_flipping_curve
from sklrp.propagation import explain
from sklrp.propagation.readings import read_target

# Colours of Okabe and Ito, which people of every colour vision can tell apart.
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_CHANCE = "0.45"
_STYLES = {"most": "-", "least": "--", "random": ":"}
_SAID = {"most": "most relevant first", "least": "least relevant first", "random": "random order"}


class PixelFlippingDisplay:
    """The score while features are replaced: the most relevant first, the least, or at random.

    Make it with `from_estimator` or `from_curve`. The farther the curve of the most relevant first
    lies below the curve of a random order, the better the map names what the network uses.

    Parameters
    ----------
    curves : dict of str to Bunch
        What `sklrp.metrics.pixel_flipping_curve` returned, by the name of the rule.
    score_name : str, default="score of the explained class"
        What the curves show, with its unit.
    replaced : str, default="features"
        What is replaced, step by step.
    reference : float or None, default=None
        The score that a map of zeros stands for, drawn as a line. None (default): no line.

    Attributes
    ----------
    curves, score_name, replaced, reference
        The same.
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        The figure.
    lines_ : dict of (str, str) to matplotlib.lines.Line2D
        Means over the samples, by the name of the rule and the order.
    bands_ : dict of (str, str) to artist
        One standard error of the mean on either side; none for a single sample.
    """

    ax_: Any
    figure_: Any
    lines_: dict[tuple[str, str], Any]
    bands_: dict[tuple[str, str], Any]

    @constrained(
        {"curves": [Mapping], "score_name": [str], "replaced": [str], "reference": [FINITE, None]}
    )
    def __init__(
        self,
        curves: Mapping[str, Any],
        *,
        score_name: str = "score of the explained class",
        replaced: str = "features",
        reference: float | None = None,
    ) -> None:
        self.curves = curves
        self.score_name = score_name
        self.replaced = replaced
        self.reference = reference

    @classmethod
    @constrained(skip_nested=False)
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        rule: Any = "auto",
        target: Any = None,
        epsilon: float = 1e-6,
        reference: Any = None,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> PixelFlippingDisplay:
        """Explain samples, replace their features, and draw the scores.

        Parameters
        ----------
        estimator : estimator, skorch net, nn.Module, pipeline or search
            A fitted model, as `sklrp.explain` takes it; behind the steps of a pipeline, what
            enters the network is explained and replaced.
        X : array-like of shape (n_samples, ...)
            The samples.
        rule : str, Rule, Composite, or list or dict of them, default="auto"
            The rule, see ``explain``. Several are drawn in different colours, with one curve of a
            random order, which is the same for all of them.
        target : object, default=None
            What is explained and followed: a class or the index of an output, or one for each
            sample; or what `sklrp.explain` makes a number of several outputs of, such as a cell or
            a region of a field. None (default): the predicted class, or the only output.
        epsilon : float, default=1e-6
            Stabiliser of rules that have none of their own, see ``explain``.
        reference : {"mean", "zero"}, float, array-like or None, default=None
            The value from which the output is explained, see ``explain``: the map and the curves
            stay as they are, and a line is drawn at it. None (default): as in ``explain``, and no
            line.
        random_state : int, RandomState instance or None, default=None
            Determines the random order, and the order of ties.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None (default) makes a figure.
        **kwargs : dict
            Further parameters of `sklrp.metrics.pixel_flipping_curve`, such as ``groups``,
            ``baseline`` or ``orders``.

        Returns
        -------
        PixelFlippingDisplay
            The display, drawn.
        """
        model = _models.unwrap(estimator)
        entering = model.enter(X)
        orders = tuple(kwargs.pop("orders", _STYLES))
        seed = (
            int(np.random.default_rng().integers(2**31)) if random_state is None else random_state
        )
        curves: dict[str, Any] = {}
        params = {"target": target, "epsilon": epsilon, "reference": reference}
        line = None
        for name, its_rule in name_several(rule, "rule").items():
            relevance, details = explain(
                model.network, entering, rule=its_rule, return_details=True, **params
            )
            if reference is not None and np.ptp(details.reference) == 0:
                line = float(np.ravel(details.reference)[0])
            curves[name or str(its_rule)] = pixel_flipping_curve(
                model.network,
                entering,
                relevance,
                target=target,
                orders=orders,
                random_state=seed,
                **kwargs,
            )
            orders = tuple(order for order in orders if order != "random") or orders
        return cls(
            curves,
            score_name=_name_score(model, entering, target, kwargs.get("response")),
            replaced="features" if kwargs.get("groups") is None else "groups of features",
            reference=line,
        ).plot(ax=ax)

    @classmethod
    @constrained({"curve": [Mapping], "score_name": [str], "replaced": [str]})
    def from_curve(
        cls,
        curve: Any,
        *,
        score_name: str = "score of the explained class",
        replaced: str = "features",
        ax: Any = None,
    ) -> PixelFlippingDisplay:
        """Draw curves that have been computed.

        Parameters
        ----------
        curve : Bunch, or dict of str to Bunch
            What `sklrp.metrics.pixel_flipping_curve` returned; several by the names of rules.
        score_name : str, default="score of the explained class"
            What the curves show, with its unit.
        replaced : str, default="features"
            What is replaced, step by step, such as "patches".
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None (default) makes a figure.

        Returns
        -------
        PixelFlippingDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If there is no curve.
        """
        curves = {"": curve} if "fraction" in curve else dict(curve)
        are_curves = [isinstance(one, Mapping) and "fraction" in one for one in curves.values()]
        if not curves or not all(are_curves):
            raise ValueError(
                "curve must be what pixel_flipping_curve returns, or a dict of such by name, got "
                f"{type(curve).__name__} with the keys {list(curve)}."
            )
        return cls(curves, score_name=score_name, replaced=replaced).plot(ax=ax)

    @constrained()
    def plot(self, ax: Any = None) -> PixelFlippingDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None (default) makes a figure.

        Returns
        -------
        PixelFlippingDisplay
            The display itself.
        """
        plt = import_optional("matplotlib.pyplot", extra="plot", user="PixelFlippingDisplay")
        from matplotlib.ticker import PercentFormatter

        if ax is None:
            _, ax = plt.subplots(
                figsize=(6.4 if len(self.curves) == 1 else 8.4, 4), layout="constrained"
            )
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.bands_ = {}, {}
        for order in _STYLES:
            for number, (name, curve) in enumerate(self.curves.items()):
                if order in curve:
                    self._draw(name, order, curve, self._choose_color(number, order))
        if self.reference is not None:
            ax.axhline(self.reference, color=_CHANCE, lw=0.8, label="reference")
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.set_xlabel(as_text(f"{self.replaced} replaced"))
        ax.set_ylabel(as_text(self.score_name))
        n_samples = max(
            len(curve[order])
            for curve in self.curves.values()
            for order in curve
            if order in _STYLES
        )
        said = (
            f"mean over {n_samples} samples, ± 1 standard error" if n_samples > 1 else "1 sample"
        )
        ax.set_title(said, fontsize="medium")
        if len(self.curves) == 1:
            ax.legend(frameon=False, fontsize="small")
        else:  # too many lines to find room among them
            place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
            ax.legend(frameon=False, fontsize="small", **place)
        return self

    def _choose_color(self, number: int, order: str) -> str:
        """Choose a rule's colour; orders of a single rule have colours of their own."""
        if order == "random":
            return _CHANCE
        if len(self.curves) == 1:
            return _COLORS[order == "least"]
        return _COLORS[number % len(_COLORS)]

    def _draw(self, name: str, order: str, curve: Any, color: str) -> None:
        values, key = curve[order], (name, order)
        mean = values.mean(axis=0)
        several = sum(order in one for one in self.curves.values()) > 1
        label = f"{name}: {_SAID[order]}" if several else _SAID[order]
        self.lines_[key] = self.ax_.plot(
            curve.fraction, mean, color=color, ls=_STYLES[order], label=as_text(label)
        )[0]
        if len(values) > 1:
            error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
            self.bands_[key] = self.ax_.fill_between(
                curve.fraction, mean - error, mean + error, color=color, alpha=0.2, lw=0
            )


def _name_score(model: Model, entering: Any, target: Any, response: str | None) -> str:
    """Say what the curves show, with its unit."""
    if response == "predict_proba":
        return "probability of the explained class"
    if model.has_explain and is_regression(model.network):
        return "prediction, in its own units"
    found = read_target(model, entering, target, count_samples(entering))
    if found.number is not None:
        return "explained number of the output"
    classes = found.model.classes_for(entering)
    if classes is None:
        return "output of the network"
    if not model.has_explain:
        return "output of the explained class"
    if len(classes) == 2:
        return "logit of the explained class minus the other's"
    return "logit of the explained class"
