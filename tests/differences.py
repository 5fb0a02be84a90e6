"""Print how far the engine is from its plain rewrite, and what it conserves.

Run as ``python -m tests.differences``. The rewrite is ``helpers/reference.py``.

Each number of the first table is the largest absolute difference over the largest absolute
relevance, in float64, over the layers, settings and inputs of the tests. The second table holds
the networks of ``helpers/networks.py``, built without biases: the sum of the relevance of a
sample's input over the explained score, at the sample where it is farthest from 1, by rule epsilon
with 0 and with the default of 1e-6. (A score of 0, from dead units, has no ratio.)
"""

from __future__ import annotations

import warnings
from collections import defaultdict

import numpy as np
from torch import nn

from sklrp import explain
from tests.helpers import affine_layers, lstms, reference
from tests.helpers.networks import NETWORKS, arrays_of, build, draw
from tests.helpers.parameters import randomised

EPSILON = 1e-3
N_SAMPLES = 20


def difference(model, X, rule, rule_of):
    """Return the largest relative difference over samples and outputs."""
    found = reference.sklrp_explain(model, X, target="all", rule=rule, epsilon=EPSILON)
    worst = 0.0
    for i, x in enumerate(X):
        steps = reference.run(model, x, rule_of, epsilon=EPSILON)
        for target in range(found.shape[1]):
            expected = reference.explain_output(steps, target).relevance
            scale = max(np.abs(expected).max(), 1e-300)
            worst = max(worst, np.abs(found[i, target] - expected).max() / scale)
    return worst


def affine_differences():
    """Yield rule, kind of layer and difference for the affine layers."""
    for rule in affine_layers.RULES:
        for name in affine_layers.LAYERS:
            for bias in (True, False):
                layer, shape = affine_layers.build(name, bias)
                n_units = reference.operator_matrix(layer, shape)[0].shape[0]
                head = randomised(nn.Linear(n_units, 2), 1)
                model = nn.Sequential(layer, nn.Flatten(), head)
                X = np.random.default_rng(2).normal(size=shape)
                X = np.stack([X, np.abs(X)])
                yield rule, name.split("-")[0], difference(model, X, *affine_layers.on_first(rule))


def lstm_differences():
    """Yield rule, kind of layer and difference for the recurrent networks."""
    for rule in lstms.RULES:
        for n_layers in (1, 2, 3):
            for bidirectional in (False, True):
                for pooling in ("last", "mean", "max"):
                    model = lstms.network(n_layers, bidirectional, pooling)
                    X = lstms.samples(2)
                    place = lstms.by_place(rule)
                    yield rule, "lstm", difference(model, X, *place)


def conserved():
    """Yield networks without biases and, by two epsilons, the sum of relevance over the score."""
    for name in NETWORKS:
        model, X = build(name, bias=False), draw(name, N_SAMPLES)
        worst = []
        for epsilon in (0.0, 1e-6):
            relevance, details = explain(
                model, X, rule="epsilon", epsilon=epsilon, return_details=True
            )
            total = sum(part.reshape(N_SAMPLES, -1).sum(1) for part in arrays_of(relevance))
            alive = details.score != 0
            ratios = total[alive] / details.score[alive]
            worst.append(ratios[np.abs(ratios - 1).argmax()])
        yield name, *worst


def main():
    """Print the tables."""
    warnings.simplefilter("ignore")
    worst = defaultdict(float)
    for differences in (affine_differences(), lstm_differences()):
        for rule, kind, value in differences:
            worst[repr(rule), kind] = max(worst[repr(rule), kind], value)
    kinds = ["linear", "conv1d", "conv2d", "conv3d", "lstm"]
    print(f"| {'rule':<34} | " + " | ".join(f"{kind:<7}" for kind in kinds) + " |")
    print("|---" * (len(kinds) + 1) + "|")
    for rule in dict.fromkeys(rule for rule, _ in worst):
        cells = (f"{worst[rule, k]:.1e}" if (rule, k) in worst else " " * 7 for k in kinds)
        print(f"| {rule:<34} | " + " | ".join(cells) + " |")
    print(f"\nlargest: {max(worst.values()):.1e}")

    print("\nSum of relevance over score, without biases\n")
    print(f"| {'network':<16} | epsilon 0    | 1e-6     |\n|---|---|---|")
    for name, zero, epsilon in conserved():
        print(f"| {name:<16} | {zero:.10f} | {epsilon:.6f} |")


if __name__ == "__main__":
    main()
