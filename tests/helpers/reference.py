"""Layer-wise relevance propagation written down naively, to hold the engine against.

Nothing here is fast and nothing is shared with the package. A layer is a list of neurons, a
neuron is the list of inputs that it sees, and a rule is what one neuron does with its relevance.
One sample is explained at a time, in float64, and only elementwise activations are left to torch.

Notation as in the papers: input ``x``, weights ``w``, bias ``b``, contributions ``z_i = x_i w_i``,
pre-activation ``z = sum_i z_i + b``, and ``s(z) = z + eps * sign(z)`` with ``sign(0) = +1``.

Sources: Bach et al. 2015 (zero, epsilon, alpha-beta), Montavon et al. 2017 (w-square, z-box,
z-plus), Montavon et al. 2019 and Andeol et al. 2021 (gamma, generalised to signed inputs),
Lapuschkin et al. 2019 (flat), Arras et al. 2017 (LSTM).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from sklrp.propagation import explain as sklrp_explain
from tests.helpers.comparing import assert_close

KEPT = ("bias", "epsilon", "padding", "initial_state", "dropped")


@dataclass
class Kept:
    """Relevance that a layer did not hand on, by the place that kept it."""

    bias: float = 0.0
    epsilon: float = 0.0
    padding: float = 0.0
    initial_state: float = 0.0
    dropped: float = 0.0

    def add(self, other):
        for name in KEPT:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def sum(self):
        return sum(getattr(self, name) for name in KEPT)


@dataclass
class Neuron:
    """One output of an affine layer: flat indices of the inputs it sees, their weights, its bias.

    An input that is seen through several padded copies is listed once per copy; zero padding is
    not listed, since it is no input.
    """

    inputs: np.ndarray
    weights: np.ndarray
    bias: float
    channel: int


# --- Rules: what one neuron does with its relevance -----------------------------------------


def pos(a):
    return np.where(np.asarray(a) > 0, a, 0.0)


def neg(a):
    return np.where(np.asarray(a) < 0, a, 0.0)


def stabilised(z, eps):
    return z - eps if z < 0 else z + eps


class Described(NamedTuple):
    """A rule, by its name and parameters: all that the reference takes from the package."""

    name: str
    params: dict


def described(rule):
    return (
        rule if isinstance(rule, Described) else Described(type(rule).__name__, rule.get_params())
    )


def rule_epsilon(rule, epsilon):
    """Epsilon that a rule works with when the call says `epsilon`."""
    name, params = described(rule)
    if name == "Zero":
        return 0.0
    own = params.get("epsilon")
    return epsilon if own is None else own


def parts(rule, x, w, b, epsilon, low=None, high=None):
    """Parts of a rule at one neuron: (share of R, numerators, bias in the denominator, eps)."""
    name, params = described(rule)
    eps = rule_epsilon(rule, epsilon)
    if name in ("Zero", "Epsilon"):
        return [(1.0, x * w, b, eps)]
    if name == "Gamma":
        gamma = params["gamma"]
        z = np.sum(x * w) + b
        if z > 0:
            numerators = pos(x) * (w + gamma * pos(w)) + neg(x) * (w + gamma * neg(w))
            return [(1.0, numerators, b + gamma * pos(b), eps)]
        if z < 0:
            numerators = pos(x) * (w + gamma * neg(w)) + neg(x) * (w + gamma * pos(w))
            return [(1.0, numerators, b + gamma * neg(b), eps)]
        return []
    if name in ("AlphaBeta", "ZPlus"):
        alpha, beta = (1.0, 0.0) if name == "ZPlus" else (params["alpha"], params["beta"])
        result = [(alpha, pos(x) * pos(w) + neg(x) * neg(w), pos(b), eps)]
        if beta != 0:
            result.append((-beta, pos(x) * neg(w) + neg(x) * pos(w), neg(b), eps))
        if params.get("renormalize"):
            filled = [part for part in result if part[1].sum() + part[2] != 0]
            if len(filled) < 2:  # alone, a part gives away exactly R
                return [(1.0, *part[1:]) for part in filled]
        return result
    if name == "WSquare":
        return [(1.0, w**2, 0.0, 0.0)]
    if name == "Flat":
        return [(1.0, np.ones_like(w), 0.0, 0.0)]
    if name == "ZBox":
        return [(1.0, x * w - low * pos(w) - high * neg(w), 0.0, 0.0)]
    raise NotImplementedError(name)


def share_out(relevance, numerators, bias, eps):
    """Share `relevance` in proportion to `numerators`, `bias` and the stabilising `eps`."""
    z = numerators.sum() + bias
    denominator = stabilised(z, eps)
    if denominator == 0:
        return np.zeros_like(numerators), Kept(dropped=relevance)
    unit = relevance / denominator
    return numerators * unit, Kept(bias=bias * unit, epsilon=(denominator - z) * unit)


def neuron_relevance(rule, x, w, b, relevance, epsilon, low=None, high=None):
    """Relevance of the inputs of one neuron and what the neuron kept."""
    x, w = np.asarray(x, dtype=float), np.asarray(w, dtype=float)
    received, kept, given = np.zeros_like(w), Kept(), 0.0
    for share, numerators, bias, eps in parts(rule, x, w, b, epsilon, low, high):
        given += share
        shares, lost = share_out(share * relevance, numerators, bias, eps)
        received += shares
        kept.add(lost)
    kept.dropped += (1.0 - given) * relevance  # a neuron without parts passes nothing
    return received, kept


def affine_relevance(rule, neurons, x, relevance, epsilon, low=None, high=None):
    """Relevance of the flat inputs `x` of a layer, one neuron after the other."""
    rule, received, kept = described(rule), np.zeros(x.size), Kept()
    bounds = [None if a is None else np.broadcast_to(a, x.shape).ravel() for a in (low, high)]
    flat = x.ravel()
    for neuron, r in zip(neurons, relevance.ravel(), strict=True):
        if r == 0:
            continue
        seen = neuron.inputs
        limits = [None if a is None else a[seen] for a in bounds]
        shares, lost = neuron_relevance(
            rule, flat[seen], neuron.weights, neuron.bias, r, epsilon, *limits
        )
        np.add.at(received, seen, shares)
        kept.add(lost)
    return received.reshape(x.shape), kept


def affine_forward(neurons, x, shape):
    flat = x.ravel()
    return np.array([flat[n.inputs] @ n.weights + n.bias for n in neurons]).reshape(shape)


# --- Affine layers as lists of neurons --------------------------------------------------------


def numpy(tensor):
    return tensor.detach().cpu().numpy().astype(np.float64)


def source_position(p, n, mode):
    """Index of the input that padded position `p` copies, `None` for zero padding."""
    if 0 <= p < n:
        return p
    if mode == "zeros":
        return None
    if mode == "circular":
        return p % n
    if mode == "replicate":
        return min(max(p, 0), n - 1)
    if mode == "reflect":
        return -p if p < 0 else 2 * (n - 1) - p
    raise NotImplementedError(mode)


def linear_neurons(layer, shape):
    """Neurons of a Linear layer on the last axis of an input of `shape`."""
    weight = numpy(layer.weight)
    bias = np.zeros(len(weight)) if layer.bias is None else numpy(layer.bias)
    neurons = []
    for position in np.ndindex(*shape[:-1]):
        start = int(np.ravel_multi_index((*position, 0), shape))
        for j in range(len(weight)):
            inputs = np.arange(start, start + shape[-1])
            neurons.append(Neuron(inputs, weight[j], float(bias[j]), j))
    return neurons, (*shape[:-1], len(weight))


def conv_padding(layer):
    dims = len(layer.kernel_size)
    if layer.padding == "valid":
        return [(0, 0)] * dims
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in layer.padding]


def conv_neurons(layer, shape):
    """Neurons of a Conv1d, Conv2d or Conv3d layer on an input of `shape` (channels, ...)."""
    weight = numpy(layer.weight)
    bias = np.zeros(len(weight)) if layer.bias is None else numpy(layer.bias)
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    padding, size = conv_padding(layer), shape[1:]
    out = tuple(
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, (before, after), d, k, s in zip(
            size, padding, dilation, kernel, stride, strict=True
        )
    )
    in_per_group = layer.in_channels // layer.groups
    out_per_group = layer.out_channels // layer.groups
    neurons = []
    for channel in range(layer.out_channels):
        first = channel // out_per_group * in_per_group
        for position in np.ndindex(*out):
            inputs, weights = [], []
            for offset in np.ndindex(*kernel):
                source = [
                    source_position(p * s + o * d - before, n, layer.padding_mode)
                    for p, s, o, d, (before, _), n in zip(
                        position, stride, offset, dilation, padding, size, strict=True
                    )
                ]
                if None in source:
                    continue
                for c in range(in_per_group):
                    inputs.append(int(np.ravel_multi_index((first + c, *source), shape)))
                    weights.append(weight[(channel, c, *offset)])
            neurons.append(
                Neuron(
                    np.array(inputs, dtype=int),
                    np.array(weights, dtype=float),
                    float(bias[channel]),
                    channel,
                )
            )
    return neurons, (layer.out_channels, *out)


def neurons_of(layer, shape):
    return (linear_neurons if isinstance(layer, nn.Linear) else conv_neurons)(layer, shape)


def dense_matrix(neurons, n_inputs):
    """The layer as one matrix (n_outputs, n_inputs); copies of one input add up."""
    matrix = np.zeros((len(neurons), n_inputs))
    for row, neuron in zip(matrix, neurons, strict=True):
        np.add.at(row, neuron.inputs, neuron.weights)
    return matrix


def operator_matrix(operation, shape):
    """Matrix of a linear torch operation, by pushing every basis vector through it."""
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    with torch.no_grad():
        images = operation(basis)
    return images.reshape(size, -1).numpy().T, tuple(images.shape[1:])


def norm_scale_shift(norm):
    """Evaluation-time batch normalisation as `scale * x + shift` per channel."""
    scale = 1.0 / np.sqrt(numpy(norm.running_var) + norm.eps)
    if norm.weight is not None:
        scale = scale * numpy(norm.weight)
    shift = -numpy(norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + numpy(norm.bias)
    return scale, shift


def norm_after(neurons, norm):
    """Neurons of an affine layer followed by `norm`, as one affine layer."""
    scale, shift = norm_scale_shift(norm)
    return [
        Neuron(
            n.inputs,
            n.weights * scale[n.channel],
            float(n.bias * scale[n.channel] + shift[n.channel]),
            n.channel,
        )
        for n in neurons
    ]


def norm_before(neurons, norm, shape):
    """Neurons of an affine layer preceded by `norm`, as one affine layer."""
    scale, shift = norm_scale_shift(norm)
    per_channel = math.prod(shape[1:])
    result = []
    for n in neurons:
        channels = n.inputs // per_channel
        result.append(
            Neuron(
                n.inputs,
                n.weights * scale[channels],
                float(n.bias + n.weights @ shift[channels]),
                n.channel,
            )
        )
    return result


# --- Pooling --------------------------------------------------------------------------------


def per_dim(value, dims):
    return (value,) * dims if isinstance(value, int) else tuple(value)


def max_pool_shares(layer, x):
    """What each value has of the maximum of every window: equal values share; the output shape."""
    dims, shape = x.ndim - 1, x.shape
    with torch.no_grad():
        out = tuple(layer(torch.zeros(1, *shape, dtype=torch.float64)).shape[2:])
    rows = []
    for channel in range(shape[0]):
        for position in np.ndindex(*out):
            ranges = []
            for axis in range(dims):
                n, p = shape[1 + axis], position[axis]
                if "Adaptive" in type(layer).__name__:
                    start, stop = p * n // out[axis], -(-(p + 1) * n // out[axis])
                    ranges.append(range(start, stop))
                else:
                    kernel = per_dim(layer.kernel_size, dims)[axis]
                    stride = per_dim(layer.stride, dims)[axis]
                    padding = per_dim(layer.padding, dims)[axis]
                    dilation = per_dim(layer.dilation, dims)[axis]
                    start = p * stride - padding
                    window = range(start, start + kernel * dilation, dilation)
                    ranges.append([i for i in window if 0 <= i < n])
            places = [(channel, *place) for place in itertools.product(*ranges)]
            best = max(x[place] for place in places)
            row = np.zeros(shape)
            for place in places:
                row[place] = x[place] == best
            rows.append(row.ravel() / row.sum())
    return np.array(rows), (shape[0], *out)


def share_by_contribution(matrix, shift, x, relevance, epsilon):
    """Relevance shared by contribution to ``matrix @ x + shift``: averages, normalisation."""
    received, kept = np.zeros(x.size), Kept()
    for row, b, r in zip(matrix, shift, relevance.ravel(), strict=True):
        shares, lost = share_out(r, row * x.ravel(), b, epsilon)
        received += shares
        kept.add(lost)
    return received.reshape(x.shape), kept


# --- LSTM -----------------------------------------------------------------------------------


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


@dataclass
class Direction:
    """Parameters and trace of one layer and direction of an LSTM, in time order of its input."""

    lstm: nn.LSTM
    layer: int
    reverse: bool
    steps: dict = field(default_factory=dict)

    def parameter(self, name):
        suffix = f"_l{self.layer}" + ("_reverse" if self.reverse else "")
        return numpy(getattr(self.lstm, name + suffix))

    def gate(self, name):
        """Weights on the input, weights on the state, and bias of one gate."""
        hidden = self.lstm.hidden_size
        rows = slice(*(hidden * ("ifgo".index(name) + k) for k in (0, 1)))
        w_x, w_h = self.parameter("weight_ih")[rows], self.parameter("weight_hh")[rows]
        if not self.lstm.bias:
            return w_x, w_h, np.zeros(hidden)
        return w_x, w_h, self.parameter("bias_ih")[rows] + self.parameter("bias_hh")[rows]

    def order(self, n_steps):
        return range(n_steps - 1, -1, -1) if self.reverse else range(n_steps)

    def forward(self, x):
        """States (n_steps, hidden_size) of the inputs `x` (n_steps, n_inputs)."""
        hidden = self.lstm.hidden_size
        gates = {name: self.gate(name) for name in "ifgo"}
        h, c, states = np.zeros(hidden), np.zeros(hidden), np.zeros((len(x), hidden))
        for t in self.order(len(x)):
            value = {}
            for name, (w_x, w_h, b) in gates.items():
                z = w_x @ x[t] + w_h @ h + b
                value[name] = np.tanh(z) if name == "g" else sigmoid(z)
            c_new = value["f"] * c + value["i"] * value["g"]
            h_new = value["o"] * np.tanh(c_new)
            self.steps[t] = dict(value, h_before=h, c_before=c, c=c_new)
            h, c = h_new, c_new
            states[t] = h
        return states

    def relevance(self, x, relevance, rule, epsilon, low, high):
        """Relevance of `x` when the states have `relevance` (n_steps, hidden_size)."""
        hidden = self.lstm.hidden_size
        w_x, w_h, b = self.gate("g")
        weights = np.hstack([w_x, w_h])
        neurons = [
            Neuron(np.arange(weights.shape[1]), weights[j], float(b[j]), j) for j in range(hidden)
        ]
        eps = rule_epsilon(rule, epsilon)
        received, kept = np.zeros_like(x), Kept()
        r_h, r_c = np.zeros(hidden), np.zeros(hidden)
        for t in reversed(self.order(len(x))):
            step = self.steps[t]
            r_h = r_h + relevance[t]
            r_c = r_c + r_h  # the output gate and tanh pass
            r_g, r_c_before = np.zeros(hidden), np.zeros(hidden)
            for k in range(hidden):
                new, old = step["i"][k] * step["g"][k], step["f"][k] * step["c_before"][k]
                (r_g[k], r_c_before[k]), lost = share_out(r_c[k], np.array([new, old]), 0.0, eps)
                kept.add(lost)
            inputs = np.concatenate([x[t], step["h_before"]])
            bounds = [None, None]
            if low is not None:
                bounds = [
                    np.concatenate([np.broadcast_to(limit, x.shape)[t], np.full(hidden, at)])
                    for limit, at in ((low, -1.0), (high, 1.0))
                ]
            r_inputs, lost = affine_relevance(rule, neurons, inputs, r_g, epsilon, *bounds)
            kept.add(lost)
            received[t], r_h, r_c = r_inputs[: x.shape[1]], r_inputs[x.shape[1] :], r_c_before
        kept.initial_state += r_h.sum() + r_c.sum()
        return received, kept


def lstm_directions(lstm):
    """Layers of an LSTM, each a list of one or two directions."""
    ways = (False, True) if lstm.bidirectional else (False,)
    return [[Direction(lstm, layer, way) for way in ways] for layer in range(lstm.num_layers)]


def lstm_forward(lstm, x):
    """Outputs (n_steps, n_directions * hidden_size), and the trace that `lstm_relevance` needs."""
    layers, trace = lstm_directions(lstm), []
    for directions in layers:
        trace.append((directions, x))
        x = np.hstack([direction.forward(x) for direction in directions])
    return x, trace


def lstm_relevance(trace, relevance, rule, epsilon, low=None, high=None):
    """Relevance of the LSTM's input when its outputs have `relevance`."""
    kept = Kept()
    for depth, (directions, x) in reversed(list(enumerate(trace))):
        limits = (low, high) if depth == 0 or low is None else (-1.0, 1.0)
        received = np.zeros_like(x)
        for number, direction in enumerate(directions):
            hidden = direction.lstm.hidden_size
            own = relevance[:, number * hidden : (number + 1) * hidden]
            r_x, lost = direction.relevance(x, own, rule, epsilon, *limits)
            received += r_x
            kept.add(lost)
        relevance = received
    return relevance, kept


def state_pooling_matrix(x, pooling, hidden_size):
    """Operator (n_units, n_steps * n_units) that pools states `x` (n_steps, n_units)."""
    steps, units = x.shape
    matrix = np.zeros((units, steps, units))
    for unit in range(units):
        if pooling == "mean":
            matrix[unit, :, unit] = 1.0 / steps
        elif pooling == "max":
            equal = x[:, unit] == x[:, unit].max()
            matrix[unit, equal, unit] = 1.0 / equal.sum()
        else:
            matrix[unit, steps - 1 if unit < hidden_size else 0, unit] = 1.0
    return matrix.reshape(units, -1)


# --- Whole networks -------------------------------------------------------------------------

POOLS_MAX = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
POOLS_AVERAGE = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def named_leaves(module, prefix=""):
    """Layers of nested Sequentials in execution order, with their dotted names."""
    leaves = []
    for name, child in module._modules.items():  # a layer that is used twice counts twice
        path = f"{prefix}{name}"
        if isinstance(child, nn.Sequential):
            leaves += named_leaves(child, path + ".")
        else:
            leaves.append((path, child))
    return leaves


def takes_norm_before(layer):
    """Whether a normalisation before the layer is merged into it: no padding, no groups."""
    if isinstance(layer, nn.Linear):
        return True
    return all(p == (0, 0) for p in conv_padding(layer)) and layer.groups == 1


@dataclass
class Step:
    """One layer of a network: its output, how relevance goes back, what it then kept."""

    name: str
    module: nn.Module
    output: np.ndarray
    backward: object


def network_steps(model, x, rule_of, epsilon, bounds):
    """Run one sample `x` through `model` and remember how relevance goes back, layer by layer."""
    leaves = named_leaves(model)
    while leaves and isinstance(leaves[-1][1], (nn.Softmax, nn.LogSoftmax)):
        leaves.pop()
    steps, lstm_hidden = [], None
    index = 0
    while index < len(leaves):
        name, module = leaves[index]
        index += 1
        norm = None
        if isinstance(module, NORMS) and index < len(leaves):
            following = leaves[index][1]
            if isinstance(following, AFFINE) and takes_norm_before(following):
                norm, (name, module) = module, leaves[index]
                index += 1

        if isinstance(module, AFFINE):
            neurons, shape = neurons_of(module, x.shape)
            if norm is not None:
                neurons = norm_before(neurons, norm, x.shape)
            while index < len(leaves) and isinstance(leaves[index][1], NORMS):
                neurons = norm_after(neurons, leaves[index][1])
                index += 1
            rule = rule_of(name, module)
            limits = limits_of(rule, bounds)

            def backward(r, x=x, neurons=neurons, rule=rule, limits=limits):
                return affine_relevance(rule, neurons, x, r, epsilon, *limits)

            output = affine_forward(neurons, x, shape)
        elif isinstance(module, nn.LSTM):
            rule = rule_of(name, module)
            limits = limits_of(rule, bounds)
            output, trace = lstm_forward(module, x)
            lstm_hidden = module.hidden_size

            def backward(r, trace=trace, rule=rule, limits=limits):
                return lstm_relevance(trace, r, rule, epsilon, *limits)

        elif type(module).__name__ == "StatePooling":
            matrix = state_pooling_matrix(x, module.pooling, lstm_hidden)
            output = matrix @ x.ravel()

            def backward(r, x=x, matrix=matrix, pooling=module.pooling):
                if pooling == "mean":
                    return share_by_contribution(matrix, np.zeros(len(matrix)), x, r, epsilon)
                return (matrix.T @ r).reshape(x.shape), Kept()

        elif type(module).__name__ == "Sweep":
            output = sweep(x, module.sweep)

            def backward(r, x=x, way=module.sweep):
                return unsweep(r, way), Kept()

        elif isinstance(module, POOLS_MAX):
            shares, shape = max_pool_shares(module, x)
            output = (shares @ x.ravel()).reshape(shape)

            def backward(r, x=x, shares=shares):
                return (shares.T @ r.ravel()).reshape(x.shape), Kept()

        elif isinstance(module, POOLS_AVERAGE):
            matrix, shape = operator_matrix(module, x.shape)
            output = (matrix @ x.ravel()).reshape(shape)

            def backward(r, x=x, matrix=matrix):
                return share_by_contribution(matrix, np.zeros(len(matrix)), x, r, epsilon)

        elif isinstance(module, NORMS):
            per_channel = math.prod(x.shape[1:])
            scale, shift = (np.repeat(a, per_channel) for a in norm_scale_shift(module))
            matrix = np.diag(scale)
            output = (matrix @ x.ravel() + shift).reshape(x.shape)

            def backward(r, x=x, matrix=matrix, shift=shift):
                return share_by_contribution(matrix, shift, x, r, epsilon)

        elif "Pad" in type(module).__name__:
            matrix, shape = operator_matrix(module, x.shape)
            zeros = np.zeros((1, *x.shape))
            constant = module(torch.from_numpy(zeros))[0].numpy().ravel()
            matrix = matrix - constant[:, None]
            output = (matrix @ x.ravel() + constant).reshape(shape)

            def backward(r, x=x, matrix=matrix):
                received = matrix.T @ r.ravel()
                return received.reshape(x.shape), Kept(padding=float(r.sum() - received.sum()))

        else:  # elementwise activation, dropout, change of shape: relevance passes unchanged
            if "Dropout" in type(module).__name__:
                output = x
            else:
                with torch.no_grad():
                    output = module(torch.from_numpy(x.copy())[None])[0].numpy()

            def backward(r, x=x):
                return r.reshape(x.shape), Kept()

        steps.append(Step(name, module, output, backward))
        x = output
    return steps


def limits_of(rule, bounds):
    if described(rule).name != "ZBox":
        return (None, None)
    params = described(rule).params
    given = (params["low"], params["high"])
    return tuple(
        b if g is None else np.asarray(g, float) for g, b in zip(given, bounds, strict=True)
    )


def sweep(x, way):
    if way in ("right", "left"):
        x = x.T
    return (x[::-1] if way in ("up", "left") else x).copy()


def unsweep(r, way):
    if way in ("up", "left"):
        r = r[::-1]
    return (r.T if way in ("right", "left") else r).copy()


@dataclass
class Explanation:
    """Relevance of one score of one sample, the score, and per layer (input relevance, kept)."""

    relevance: np.ndarray
    score: float
    layers: dict


def run(model, x, rule_of, epsilon=1e-6, bounds=(None, None)):
    """Steps of `model` for one sample `x`.

    `rule_of` is a rule for all layers with weights, or a callable (name, module) -> rule.
    """
    choose = rule_of if callable(rule_of) else lambda name, module: rule_of
    return network_steps(model, np.asarray(x, dtype=float), choose, epsilon, bounds)


def explain_output(steps, target, contrast=False):
    """Explain output `target` of a network that was run."""
    scores = steps[-1].output
    relevance = np.zeros_like(scores)
    relevance[target] = scores[target]
    score = scores[target]
    if contrast:
        others = [k for k in range(len(scores)) if k != target]
        rival = others[int(np.argmax(scores[others]))]
        relevance[rival] = -scores[rival]
        score = score - scores[rival]
    layers = {}
    for step in reversed(steps):
        relevance, kept = step.backward(relevance)
        layers[step.name] = (float(relevance.sum()), kept)
    return Explanation(relevance, float(score), layers)


def explain_sample(model, x, target, rule_of, contrast=False, **options):
    """Explain output `target` of `model` for one sample `x`."""
    return explain_output(run(model, x, rule_of, **options), target, contrast)


def explain(model, X, target, rule_of, **options):
    """Relevance (n_samples, ...) of output `target`, an int or one int per sample."""
    targets = np.broadcast_to(target, len(X))
    return np.stack(
        [
            explain_sample(model, x, int(t), rule_of, **options).relevance
            for x, t in zip(X, targets, strict=True)
        ]
    )


# --- The package held against it --------------------------------------------------------------


def assert_explained(model, X, rule, rule_of=None, tolerance=1e-9, outputs=None, **options):
    """Hold the relevance and details of outputs against the reference; return the difference.

    `rule_of` says the reference which rule acts where, when `rule` is no plain rule; `outputs`
    are all outputs or some of them.
    """
    bounds = options.pop("bounds", (None, None))
    relevance, details = sklrp_explain(
        model, X, target="all", rule=rule, return_details=True, **options
    )
    given = {layer.name: layer for layer in details.layers}
    worst = 0.0
    n_samples, n_outputs = details.score.shape
    contrast = options.pop("contrast", False)
    rule_of = rule if rule_of is None else rule_of
    samples = [run(model, x, rule_of, bounds=bounds, **options) for x in X]
    for i, t in itertools.product(range(n_samples), outputs or range(n_outputs)):
        expected = explain_output(samples[i], t, contrast)
        worst = max(worst, assert_close(relevance[i, t], expected.relevance, tolerance))
        assert_close(details.score[i, t], expected.score, tolerance)
        lost = sum(layer[cause][i, t] for layer in details.layers for cause in KEPT)
        assert_close(relevance[i, t].sum() + lost, expected.score, tolerance)
        for name, (received, kept) in expected.layers.items():
            if name not in given:  # a layer that only hands on
                assert_close(kept.sum(), 0.0, tolerance)
                continue
            assert_close(given[name].relevance[i, t], received, tolerance)
            for cause in KEPT:
                assert_close(given[name][cause][i, t], getattr(kept, cause), tolerance)
    return worst
