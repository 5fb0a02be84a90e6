"""The time of explanations, on the CPU, against a forward pass with its gradient and the peers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklrp import MLPClassifier, check_rule, explain
from sklrp.modules import StatePooling
from sklrp.propagation import fast
from sklrp.propagation.defence import Defence

from .measure import Row, median_times, threads

try:
    import zennit.composites
    import zennit.types
except ImportError:
    zennit = None
try:
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule
except ImportError:
    LRP = None

EPSILON = 1e-6
BOX = (-5.0, 5.0)
CAPTUM = {"MLP": "≥ 2.5", "CNN": "≥ 6", "VGG-like": "≥ 3.5"}
LSTM = {(64, 100, 10, 64): "≤ 0.9", (64, 100, 100, 128): "≤ 0.55", (256, 100, 10, 64): "≤ 0.5"}
CHUNK_BYTES = 8 * 2**20
PRESETS = ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box")
RULES = (*PRESETS, "gamma", "alpha_beta")


@dataclass
class Case:
    """A network, its input, and what each rule is to reach there, also against zennit."""

    name: str
    model: nn.Sequential
    X: np.ndarray
    reach: dict[str, str]
    zennit: dict[str, str] = field(default_factory=dict)
    chunk: int | None = None  # samples whose largest activation fits the caches


def make_mlp() -> nn.Sequential:
    """Return the perceptron for maps of 2700 cells."""
    return nn.Sequential(
        *(nn.Linear(2700, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2))
    )


def make_cnn(size: int) -> nn.Sequential:
    """Return two convolutions with pooling, for one channel of ``size`` x ``size``."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * (size // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def make_vgg() -> nn.Sequential:
    """Return three blocks of two convolutions, for three channels of 64 x 64."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(after, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(128 * 8 * 8, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers)


def make_cases(quick: bool) -> Iterator[Case]:
    """Yield the layered networks; for a smoke test with few samples."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    def draw(n: int, *shape: int) -> np.ndarray:
        return rng.normal(size=(2 if quick else n, *shape)).astype(np.float32)

    def each(*values: float) -> dict[str, str]:
        """Return what the rules are to reach, in their order; 0 where nothing is set."""
        return {rule: f"≤ {v}" if v else "" for rule, v in zip(RULES, values, strict=True)}

    def faster(value: float) -> dict[str, str]:
        return dict.fromkeys(PRESETS, f"≥ {value}")

    mlp = {rule: v for rule, v in each(1.0, 1.05, 0, 0, 1.6, 2.0).items() if v}
    yield Case(
        "MLP 2700-128-64-2, 1024 samples",
        make_mlp(), draw(1024, 2700), mlp, dict.fromkeys(PRESETS[:2], "≥ 2.8"),
    )  # fmt: skip
    yield Case(
        "CNN 1x28x28, 256 samples",
        make_cnn(28), draw(256, 1, 28, 28), each(0.53, 0.77, 0.71, 0.82, 0, 1.31), faster(4),
    )  # fmt: skip
    yield Case(
        "VGG-like 3x64x64, 32 samples",
        make_vgg(), draw(32, 3, 64, 64), each(0.8, 1.1, 1.5, 1.3, 0, 1.8), faster(3.5),
    )  # fmt: skip
    size = 28 if quick else 100
    yield Case(
        "CNN 1x100x100, 256 samples",
        make_cnn(size), draw(256, 1, size, size), each(1.1, 1.5, 1.5, 1.6, 0, 2.2),
        chunk=CHUNK_BYTES // (4 * 16 * size**2),
    )  # fmt: skip


def gradient(model: nn.Module, X: np.ndarray, chunk: int | None = None) -> np.ndarray:
    """Return the gradient of the largest score of each sample: the yardstick."""
    if chunk is None:
        x = torch.from_numpy(X).clone().requires_grad_()
        return torch.autograd.grad(model(x).amax(1).sum(), x)[0].numpy()
    out = np.empty_like(X)
    for start in range(0, len(X), chunk):
        rows = slice(start, start + chunk)
        out[rows] = gradient(model, X[rows])
    return out


def chunked_gradient(model: nn.Module, X: np.ndarray, chunk: int) -> np.ndarray:
    """Return the same in chunks, by a network whose weights have their channels last."""
    x = torch.from_numpy(X).contiguous(memory_format=torch.channels_last)
    return gradient(model, x.numpy(), chunk)


def make_yardstick(case: Case) -> Callable[[], Any]:
    """Return the yardstick of a layered network, in chunks where it is to be."""
    model = case.model.eval().requires_grad_(False)
    if not case.chunk:
        return partial(gradient, model, case.X)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return partial(chunked_gradient, last, case.X, case.chunk)


def bench_presets(quick: bool = False) -> list[Row]:
    """Return the time of the presets over that of the yardstick, and of the peers over ours.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take two samples and one repeat.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``rule``, ``ratio`` and ``reach``.
    """
    rows = []
    for case in make_cases(quick):
        model, X = case.model.eval().requires_grad_(False), case.X
        reaches = case.reach
        functions: dict[str, Callable[[], Any]] = {"yardstick": make_yardstick(case)}
        for rule in reaches:
            functions[rule] = partial(explain, model, X, rule=check_rule(rule, bounds=BOX))
        if zennit is not None:
            for rule in case.zennit:
                functions[f"{rule}, zennit"] = partial(by_zennit, model, X, rule)
        if LRP is not None and case.zennit:
            functions["epsilon, captum"] = partial(by_captum, Viewed(model), X)
        with quiet():
            t = median_times(functions, 1 if quick else 5)
        what = f"explain / {'chunked ' * bool(case.chunk)}forward + gradient"
        for rule, reach in reaches.items():
            rows.append(_row(what, case.name, t[rule] / t["yardstick"], reach, rule))
        for key in (key for key in t if "," in key):
            rule, peer = key.split(", ")
            reach = case.zennit[rule] if peer == "zennit" else CAPTUM[case.name.split()[0]]
            rows.append(_row(f"{peer} / explain", case.name, t[key] / t[rule], reach, rule))
    return rows


class Viewed(nn.Module):
    """A network that flattens by a function: Captum knows no `nn.Flatten`."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.layers = nn.ModuleList(m for m in model if not isinstance(m, nn.Flatten))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        for layer in self.layers:
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
        return x


def by_zennit(model: nn.Module, X: np.ndarray, preset: str) -> Tensor:
    """Return the relevance of the largest scores by zennit."""
    options: dict[str, Any] = {"epsilon": EPSILON}
    if preset == "epsilon":
        rule = zennit.rules.Epsilon(**options)
        composite = zennit.composites.LayerMapComposite(
            [(zennit.types.Activation, zennit.rules.Pass()), (zennit.types.Linear, rule)]
        )
    else:
        if preset.endswith("_box"):
            options |= {"low": BOX[0], "high": BOX[1]}
        composite = getattr(zennit.composites, preset.title().replace("_", ""))(**options)
    x = torch.from_numpy(X).clone().requires_grad_()
    with composite.context(model) as modified:
        scores = modified(x)
        best = scores.max(1, keepdim=True)
        start = torch.zeros_like(scores).scatter_(1, best.indices, best.values.detach())
        return torch.autograd.grad(scores, x, start)[0]


def by_captum(model: nn.Module, X: np.ndarray) -> Tensor:
    """Return the relevance of the largest scores by Captum, with rule epsilon."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.MaxPool2d):
            layer.rule = EpsilonRule(EPSILON)
    x = torch.from_numpy(X).clone().requires_grad_()
    return LRP(model).attribute(x, target=model(x).argmax(1)).detach()


def bench_lstm(quick: bool = False) -> list[Row]:
    """Return the time of rule epsilon on LSTMs over that of the yardstick.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take two samples of three steps.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``rule``, ``ratio`` and ``reach``.
    """
    rows = []
    for name, reach, model, X in make_lstm_cases(quick):
        functions = {
            "yardstick": partial(gradient, model, X),
            "ours": partial(explain, model, X, rule="epsilon"),
        }
        t = median_times(functions, 1 if quick else 9)
        what = "explain / forward + gradient"
        rows.append(_row(what, name, t["ours"] / t["yardstick"], reach, "epsilon"))
    return rows


def make_lstm_cases(quick: bool) -> Iterator[tuple[str, str, nn.Sequential, np.ndarray]]:
    """Yield the name, what to reach, the network and the data of each LSTM."""
    for shape, reach in LSTM.items():
        n, n_steps, n_inputs, n_units = (2, 3, 4, 5) if quick else shape
        torch.manual_seed(0)
        model = make_lstm(n_inputs, n_units).eval().requires_grad_(False)
        X = np.random.default_rng(0).normal(size=(n, n_steps, n_inputs)).astype(np.float32)
        yield f"LSTM {shape}", reach, model, X


def make_lstm(n_inputs: int, n_units: int) -> nn.Sequential:
    """Return an LSTM whose last state decides."""
    lstm = nn.LSTM(n_inputs, n_units, batch_first=True)
    return nn.Sequential(lstm, StatePooling("last"), nn.Linear(n_units, 2))


class ByHand(nn.Module):
    """The layers of an `nn.Sequential`, called in a forward as users write it."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        for layer in self.layers:
            x = torch.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        return x


def bench_ways(quick: bool = False) -> list[Row]:
    """Return the cost of all classes, of a forward by hand, of the estimator, and of many samples.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take few samples.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``rule``, ``ratio``, ``unit`` and ``reach``.
    """
    rows = []
    n_repeats = 1 if quick else 9
    for case in list(make_cases(quick))[:3]:
        model, X = case.model.eval(), case.X
        functions = {
            "one": partial(explain, model, X, target=0, rule="epsilon"),
            "all": partial(explain, model, X, target="all", rule="epsilon"),
            "by hand": partial(explain, ByHand(model), X, target=0, rule="epsilon"),
        }
        t = median_times(functions, n_repeats)
        what = "forward by hand / nn.Sequential"
        rows.append(_row(what, case.name, t["by hand"] / t["one"], "≤ 1.15", "epsilon"))
        if model[-1].out_features == 10:
            what = "all of 10 classes / one"
            rows.append(_row(what, case.name, t["all"] / t["one"], "≤ 5.5", "epsilon"))

    rng = np.random.default_rng(0)
    n_features, n_many = (30, 50) if quick else (2700, 100_000)
    X = rng.standard_normal((n_many, n_features), dtype=np.float32)
    clf = MLPClassifier((128, 64), max_epochs=1, device="cpu", random_state=0)
    clf.fit(X[:50], np.arange(50) % 2)
    name = f"MLP {n_features}-128-64-2"
    for n, unit, reach in ((1, "ms", "≤ 1"), (1024, "%", "≤ 5")):
        functions = {
            "engine": partial(explain, clf.module_, X[:n], rule="epsilon"),
            "estimator": partial(clf.explain, X[:n], rule="epsilon"),
        }
        t = median_times(functions, 101 if n == 1 else 9 * n_repeats)
        excess = t["estimator"] - t["engine"]
        value = 1e3 * excess if unit == "ms" else 100 * excess / t["engine"]
        what = "clf.explain beyond explain"
        rows.append(_row(what, f"{name}, batch {n}", value, reach, "epsilon", unit))

    functions = {
        "yardstick": partial(gradient, clf.module_, X, 1024),
        "ours": partial(explain, clf.module_, X, rule="epsilon"),
    }
    with threads(2):
        t = median_times(functions, 1 if quick else 3)
    what = "throughput / that of forward + gradient in batches of 1024"
    case = f"{name}, {n_many} samples, 2 threads"
    rows.append(_row(what, case, t["yardstick"] / t["ours"], "≥ 0.9", "epsilon"))
    return rows


def bench_shortcut(quick: bool = False) -> list[Row]:
    """Return the time of the formula as it is written over that of its shortcut.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take two samples and one repeat.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``rule``, ``ratio`` and ``reach``.
    """
    rows = []
    for case in list(make_cases(quick))[:3]:
        model, X = case.model.eval().requires_grad_(False), case.X
        for rule, reach in (("epsilon", "≥ 1.2"), ("gamma", "≥ 1"), ("alpha_beta", "≥ 1")):
            t = times_with_and_without(without_shortcut, model, X, rule, 1 if quick else 7)
            what = "without the shortcut / with it"
            rows.append(_row(what, case.name, t["without"] / t["with"], reach, rule))
    return rows


def bench_defence(quick: bool = False) -> list[Row]:
    """Return what comparing scores with the network's own forward costs.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take two samples and one repeat.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``rule``, ``ratio`` and ``reach``.
    """
    rows = []
    rng = np.random.default_rng(0)
    n = 2 if quick else 100
    cases = (
        ("MLP 2700-128-64-2", make_mlp(), (2700,)),
        ("CNN 1x28x28", make_cnn(28), (1, 28, 28)),
    )
    for name, model, shape in cases:
        model, X = model.eval(), rng.normal(size=(n, *shape)).astype(np.float32)
        for rule in ("epsilon", "epsilon_plus"):
            t = times_with_and_without(without_defence, model, X, rule, 1 if quick else 101)
            ratio = t["with"] / t["without"]
            what = "with scores compared / without"
            rows.append(_row(what, f"{name}, {n} samples", ratio, "≤ 1.05", rule))
    return rows


def times_with_and_without(without: Any, model: Any, X: Any, rule: str, repeats: int) -> Any:
    """Return the median times of an explanation as it is, and without a part of the engine."""
    functions = {
        "with": partial(explain, model, X, rule=rule),
        "without": partial(without, model, X, rule=rule),
    }
    return median_times(functions, repeats)


def without_defence(model: nn.Module, X: np.ndarray, rule: str) -> np.ndarray:
    """Explain without a comparison with the network's own scores."""
    compare = Defence.compare
    Defence.compare = lambda *args: None
    try:
        return explain(model, X, rule=rule)
    finally:
        Defence.compare = compare


def without_shortcut(model: nn.Module, X: np.ndarray, rule: str) -> np.ndarray:
    """Explain by the formula alone."""
    fast.ENABLED = False
    try:
        return explain(model, X, rule=rule)
    finally:
        fast.ENABLED = True


def _row(what: str, case: str, ratio: float, reach: str, rule: str, unit: str = "") -> Row:
    row = {"what": what, "case": case, "rule": rule, "ratio": ratio, "reach": reach}
    return row | ({"unit": unit} if unit else {})


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of peers and of the flat rule."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
