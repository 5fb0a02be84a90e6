"""Attention and other products of two signals, against plain loops over one sample in NumPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp import Composite, Epsilon
from tests.helpers.comparing import assert_close
from tests.helpers.parameters import randomised

ATTENTIONS = ("attnlrp", "constant", "cp")
EPSILONS = (0.0, 1e-2)


CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")


def assert_accounted(relevance, details):
    """What arrives and what was kept is the score."""
    score = np.asarray(details.score)
    arrived = np.asarray(relevance).reshape(*score.shape, -1).sum(-1)
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    size = max(1.0, *(float(np.abs(layer.relevance).max()) for layer in details.layers))
    assert np.abs(arrived + kept - score).max() <= 1e-9 * size


def rule_of(attention="attnlrp", product="all"):
    return Composite([("all", Epsilon(), "all")], product=product, attention=attention)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# --- The rules in plain loops ----------------------------------------------------------------


def stable(z, epsilon):
    return z + (epsilon if z >= 0 else -epsilon)


def share(relevance, parts, z, epsilon):
    """Share what z, of which parts are a part, received."""
    if stable(z, epsilon) == 0:
        return np.zeros_like(parts)
    return parts * (relevance / stable(z, epsilon))


def dense(relevance, x, layer, epsilon):
    """Pull relevance (T, J) through a dense layer to its inputs (T, I)."""
    weight = layer.weight.detach().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().numpy()
    passed = np.zeros_like(x)
    for t, j in np.ndindex(relevance.shape):
        parts = x[t] * weight[j]
        passed[t] += share(relevance[t, j], parts, parts.sum() + bias[j], epsilon)
    return passed


def product(relevance, a, b, epsilon, takes):
    """Pull relevance of a @ b; what takes is both, half each, or the first or second alone."""
    of_a, of_b = np.zeros_like(a), np.zeros_like(b)
    for i, j in np.ndindex(relevance.shape):
        terms = a[i] * b[:, j]
        factor = 2 if takes == "both" else 1
        parts = share(relevance[i, j], terms, factor * terms.sum(), epsilon)
        if takes in ("both", "first"):
            of_a[i] += parts
        if takes in ("both", "second"):
            of_b[:, j] += parts
    return of_a, of_b


def softmax(relevance, x):
    """Pull relevance through a softmax over the last axis, by its Taylor decomposition."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    passed = np.zeros_like(x)
    for i, j in np.ndindex(x.shape):
        if np.isfinite(x[i, j]):
            passed[i, j] = x[i, j] * (relevance[i, j] - weights[i, j] * relevance[i].sum())
    return passed


# --- One head ---------------------------------------------------------------------------------


class Head(nn.Module):
    """One head of attention over a sequence, its mean, and a dense layer."""

    def __init__(self, attend, mask=None):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(3, n) for n in (4, 4, 5))
        self.out, self.attend = nn.Linear(5, 2), attend
        self.register_buffer("mask", mask)

    def forward(self, x):
        out = self.attend(self, self.q(x), self.k(x), self.v(x))
        return self.out(out.mean(1))


def softmax_of_scores(self, q, k, v):
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1) @ v


def by_bmm(self, q, k, v):
    scores = torch.bmm(q, k.mT) * q.size(-1) ** -0.5
    return torch.bmm(scores.softmax(2), v)


def keys_first(self, q, k, v):
    """The same, transposed: keys along the rows."""
    weights = torch.softmax(k @ q.mT / 2.0, dim=-2)
    return (v.mT @ weights).mT


def by_broadcast(self, q, k, v):
    scores = (q.unsqueeze(2) * k.unsqueeze(1)).sum(-1) / 2.0
    return (F.softmax(scores, -1).unsqueeze(-1) * v.unsqueeze(1)).sum(2)


def masked(self, q, k, v):
    scores = (q @ k.mT / 2.0).masked_fill(self.mask, -math.inf)
    return torch.softmax(scores, -1) @ v


def masked_in_place(self, q, k, v):
    scores = q @ k.mT / 2.0
    scores.masked_fill_(self.mask, float("-inf"))
    return torch.softmax(scores, -1) @ v


def masked_by_where(self, q, k, v):
    scores = torch.where(self.mask, torch.tensor(-1e9, dtype=q.dtype), q @ k.mT / 2.0)
    return torch.softmax(scores, -1) @ v


def masked_by_infinite_sum(self, q, k, v):
    shift = torch.zeros(self.mask.shape, dtype=q.dtype).masked_fill(self.mask, -math.inf)
    return torch.softmax(q @ k.mT / 2.0 + shift, -1) @ v


def dropped(self, q, k, v):
    weights = F.dropout(torch.softmax(q @ k.mT / 2.0, -1), 0.5, self.training)
    return weights @ v


CAUSAL = torch.ones(4, 4).triu(1).bool()
PLAIN = {
    "matmul": softmax_of_scores, "bmm": by_bmm, "keys first": keys_first, "dropout": dropped,
}  # fmt: skip
MASKED = {
    "masked_fill": masked, "in place": masked_in_place, "where": masked_by_where,
    "infinite sum": masked_by_infinite_sum,
}  # fmt: skip


def expected_of_head(model, x, target, attention, epsilon, mask=None):
    """Return the relevance of one sample, step by step."""
    start = torch.from_numpy(x)
    q, k, v = (layer(start).detach().numpy() for layer in (model.q, model.k, model.v))
    scores = q @ k.T / 2.0
    if mask is not None:
        scores[mask.numpy()] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = weights @ v
    mean = out.mean(0)
    z = model.out(torch.from_numpy(mean))[target].item()
    relevance = np.zeros((1, 2))
    relevance[0, target] = z
    of_mean = dense(relevance, mean[None], model.out, epsilon)[0]
    of_out = np.array(
        [share(of_mean[j], out[:, j] / len(out), mean[j], epsilon) for j in range(len(mean))]
    ).T
    takes = "both" if attention == "attnlrp" else "second"
    of_weights, of_v = product(of_out, weights, v, epsilon, takes)
    passed = dense(of_v, x, model.v, epsilon)
    if attention == "attnlrp":
        of_scores = softmax(of_weights, scores)
        of_q, of_k = product(of_scores, q, k.T, epsilon, "both")
        passed += dense(of_q, x, model.q, epsilon) + dense(of_k.T, x, model.k, epsilon)
    return passed, z


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", PLAIN | MASKED)
def test_a_head_by_hand(name, attention, epsilon):
    mask = CAUSAL if name in MASKED else None
    model, X = randomised(Head((PLAIN | MASKED)[name], mask)), numbers(3, 4, 3)
    relevance, details = sklrp.explain(
        model, X, target="all", rule=rule_of(attention), epsilon=epsilon, return_details=True
    )
    for n, target in itertools.product(range(3), range(2)):
        expected, score = expected_of_head(model, X[n], target, attention, epsilon, mask)
        assert_close(details.score[n, target], score)
        assert_close(relevance[n, target], expected)
    assert_accounted(relevance, details)
