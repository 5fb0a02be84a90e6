"""Attention and other products of two signals, against plain loops over one sample in NumPy."""

from __future__ import annotations

import itertools
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp import Composite, Epsilon
from sklrp.propagation import register
from sklrp.propagation.handlers import attention as handler_of_attention
from sklrp.propagation.registry import HANDLERS
from sklrp.propagation.tape import Tape
from tests.helpers.attention_gradients import reference
from tests.helpers.comparing import assert_close
from tests.helpers.parameters import randomised

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # by torch
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


@pytest.mark.sweep(8)
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


# --- Torch's own functions and modules --------------------------------------------------------


class Block(nn.Module):
    """A function of a sequence, and a dense layer."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run, self.head = run, nn.Linear(4, 2)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.head(self.run(self, *inputs))


def of_functions(**options):
    return lambda self, x: F.scaled_dot_product_attention(x, self.l(x), x, **options).mean(1)


def scaled_by_hand(self, x):
    weights = torch.softmax(torch.matmul(x, self.l(x).transpose(-2, -1)) * 0.3, -1)
    return torch.matmul(weights, x).mean(1)


@pytest.mark.parametrize("attention", ["attnlrp", "constant", "cp"])
@pytest.mark.parametrize("product", ["all", "half", "prop", "abs"])
def test_scores_that_are_scaled_at_once(attention, product):
    layers, X = {"l": nn.Linear(4, 4)}, numbers(3, 5, 4)
    at_once, by_hand = (
        sklrp.explain(
            randomised(Block(forward, **layers)), X, target="all", epsilon=0.1,
            rule=rule_of(attention, product), return_details=True,
        )
        for forward in (of_functions(scale=0.3), scaled_by_hand)
    )  # fmt: skip
    assert_close(at_once[0], by_hand[0])
    kept = [sum(layer.epsilon for layer in details.layers) for _, details in (at_once, by_hand)]
    assert_close(*kept)


def separately(query, key, value):
    """Attention whose weights are a value of the network's own."""
    return torch.softmax(query @ key.mT / 2.0, -1) @ value


ROLES = {
    "of all": lambda self, x, attend: attend(self.l(x), x, self.l(x)),
    "constant values": lambda self, x, attend: attend(x, self.l(x), self.v.expand_as(x)),
    "constant scores": lambda self, x, attend: attend(self.q, self.k, self.l(x)),
    "values of more axes": lambda self, x, attend: attend(
        self.l(x), x, torch.stack([self.l(x), x])
    ).mean(0),
}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("product", ["all", "half", "prop", "abs"])
@pytest.mark.parametrize("role", ROLES)
def test_weights_that_are_not_held(monkeypatch, role, product, attention):
    torch.manual_seed(0)
    parts = {name: nn.Parameter(torch.randn(1, 3, 4)) for name in "qkv"}
    parts |= {"l": nn.Linear(4, 4), "o": nn.Linear(4, 2)}
    models = []
    for attend in (F.scaled_dot_product_attention, separately):
        model = nn.Module()
        model.forward = lambda x, m=model, a=attend: m.o((x + ROLES[role](m, x, a)).mean(1))
        for name, part in parts.items():
            setattr(model, name, part)
        models.append(model.double().eval())
    made, soften = [], handler_of_attention._soften

    def watched(*args):
        out, pull = soften(*args)
        made.append(weakref.ref(out.x))
        return out, pull

    pulled, pull = [], Tape.pull
    monkeypatch.setattr(handler_of_attention, "_soften", watched)
    monkeypatch.setattr(
        Tape, "pull", lambda *args: pulled.append([ref() for ref in made]) or pull(*args)
    )
    rule = rule_of(attention, product)
    X = numbers(5, 3, 4)
    at_once, details = sklrp.explain(models[0], X, rule=rule, epsilon=1e-3, return_details=True)
    assert pulled
    assert made or role in ("constant scores", "values of more axes")
    if role != "values of more axes":  # of which the weights are a step of their own
        assert all(weights is None for held in pulled for weights in held)
    assert_accounted(at_once, details)
    assert_close(at_once, sklrp.explain(models[1], X, rule=rule, epsilon=1e-3), 1e-12)


def grouped(self, x):
    q = self.l(x).unflatten(-1, (4, 1)).transpose(1, 2)
    k = x[..., :2].unflatten(-1, (2, 1)).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    return out.transpose(1, 2).flatten(2).mean(1)


def time_first(self, x):
    x = x.transpose(0, 1)
    return self.a(x, x, x)[0].mean(0)


def cross(self, x):
    return self.a(x, x[:, :3, :3], x[:, :3, :2], need_weights=self.a.dropout > 0)[0].mean(1)


def weights_too(self, x):
    out, weights = self.a(x, x, x)
    return torch.bmm(weights, x).mean(1) + out.mean(1)


def weights_of_heads(self, x):
    out, weights = self.a(x, x, x, average_attn_weights=False)
    return out.mean(1) + weights[..., 0].flatten(1)[:, :4]


def mask_of_heads(self, x):
    mask = torch.zeros(2 * len(x), 6, 6, dtype=torch.bool)
    mask[:, :, 3:] = True
    return self.a(x, x, x, attn_mask=mask)[0].mean(1)


def causal_encoder(self, x):
    mask = nn.Transformer.generate_square_subsequent_mask(x.size(1), dtype=x.dtype)
    return self.t(x, mask, is_causal=True)[:, -1]


def with_class_token(self, x):
    x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
    return self.t(x)[:, 0]


def from_learnt_queries(self, x):
    return self.t(self.token.expand(len(x), 2, -1), x).mean(1)


def decoded(self, x):
    mask = nn.Transformer.generate_square_subsequent_mask(2, dtype=x.dtype)
    return self.t(x, x[:, -2:], tgt_mask=mask, tgt_is_causal=True).mean(1)


def heads(**options):
    return nn.MultiheadAttention(4, 2, **{"batch_first": True, **options})


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(4, 2, 8, **{"batch_first": True, **options})


def of_sequence(self, x):
    return self.a(x, x, x, need_weights=False)[0].mean(1)


def encoded(self, x):
    return self.t(x).mean(1)


def shared(**parts):
    positions = nn.Parameter(torch.ones(1, 7, 4))
    return {"token": nn.Parameter(torch.ones(1, 1, 4)), "positions": positions, **parts}


def decoder_layer(**options):
    return nn.TransformerDecoderLayer(4, 2, 8, batch_first=True, **options)


def nest(layer, **options):
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False, **options)


BLOCKS = {
    "function": lambda: Block(of_functions(), l=nn.Linear(4, 4)),
    "causal": lambda: Block(of_functions(is_causal=True), l=nn.Linear(4, 4)),
    "scale": lambda: Block(of_functions(scale=0.3), l=nn.Linear(4, 4)),
    "boolean mask": lambda: Block(
        of_functions(attn_mask=torch.ones(6, 6).tril().bool()), l=nn.Linear(4, 4)
    ),
    "added mask": lambda: Block(
        of_functions(attn_mask=torch.arange(36.0).reshape(6, 6).double()), l=nn.Linear(4, 4)
    ),
    "grouped queries": lambda: Block(grouped, l=nn.Linear(4, 4)),
    "heads": lambda: Block(of_sequence, a=heads()),
    "heads without biases": lambda: Block(of_sequence, a=heads(bias=False)),
    "heads, biases of keys": lambda: Block(of_sequence, a=heads(add_bias_kv=True)),
    "heads, a zero": lambda: Block(of_sequence, a=heads(add_zero_attn=True)),
    "heads, time first": lambda: Block(time_first, a=heads(batch_first=False)),
    "heads, other keys": lambda: Block(cross, a=heads(kdim=3, vdim=2)),
    "heads, other keys, weights": lambda: Block(cross, a=heads(kdim=3, vdim=2, dropout=0.1)),
    "weights": lambda: Block(weights_too, a=heads()),
    "weights of heads": lambda: Block(weights_of_heads, a=heads()),
    "mask of heads": lambda: Block(mask_of_heads, a=heads(add_bias_kv=True, add_zero_attn=True)),
    "layer": lambda: Block(encoded, t=encoder_layer()),
    "layer, norm first": lambda: Block(
        encoded, t=encoder_layer(norm_first=True, activation="gelu")
    ),
    "encoder": lambda: Block(encoded, t=nest(encoder_layer(), norm=nn.LayerNorm(4))),
    "causal encoder": lambda: Block(causal_encoder, t=nest(encoder_layer(norm_first=True))),
    "class token": lambda: Block(with_class_token, **shared(t=encoder_layer())),
    "decoder": lambda: Block(from_learnt_queries, **shared(t=decoder_layer())),
    "decoder, norm first": lambda: Block(
        from_learnt_queries, **shared(t=nn.TransformerDecoder(decoder_layer(norm_first=True), 2))
    ),
    "transformer": lambda: Block(decoded, t=nn.Transformer(4, 2, 1, 1, 8, batch_first=True)),
}  # fmt: skip


@pytest.mark.sweep(10)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", BLOCKS)
def test_torchs_attention_is_gradient_times_input(name, attention):
    """At epsilon 0, against autograd with gradients halved at products."""
    model, X = randomised(BLOCKS[name]()).eval(), numbers(3, 6, 4)
    relevance, details = sklrp.explain(
        model, X, target="all", rule=rule_of(attention), epsilon=0.0, return_details=True
    )
    expected, scores = reference(model, X, attention)
    assert_close(details.score, scores)
    assert_close(relevance, expected)
    assert_accounted(relevance, details)
    with torch.no_grad():  # the fast path of torch, where there is one
        assert_close(details.score, model(torch.from_numpy(X)))


def heads_by_hand(self, x):
    """What nn.MultiheadAttention does, on its own weights."""
    a = self.a
    w_q, w_k, w_v = a.in_proj_weight.chunk(3)
    b_q, b_k, b_v = a.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b).view(len(x), -1, 2, 2).transpose(1, 2)
        for w, b in ((w_q, b_q), (w_k, b_k), (w_v, b_v))
    )
    weights = (q @ k.transpose(-2, -1) / math.sqrt(2)).softmax(-1)
    return a.out_proj((weights @ v).transpose(1, 2).flatten(2)).mean(1)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("weights", [True, False])
def test_heads_are_as_by_hand(attention, weights):
    run = of_sequence if weights else lambda self, x: self.a(x, x, x)[0].mean(1)
    model, X = randomised(Block(run, a=heads())), numbers(3, 6, 4)
    by_hand = Block(heads_by_hand, a=heads()).double()
    by_hand.load_state_dict(model.state_dict())
    found, expected = (
        sklrp.explain(net, X, target="all", rule=rule_of(attention), epsilon=1e-2)
        for net in (model, by_hand)
    )
    assert_close(found, expected)


def talking(self, x):
    """Heads whose weights are mixed by dense layers, before and behind the softmax (CaiT)."""
    q, k, v = (x.unflatten(-1, (2, 2)).transpose(1, 2) for x in (self.q(x), self.k(x), x))
    scores = self.before((q @ k.mT).permute(0, 2, 3, 1))
    weights = self.behind(scores.softmax(-2)).permute(0, 3, 1, 2)
    return (weights @ v).transpose(1, 2).flatten(2).mean(1)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_what_is_computed_from_constant_weights_is_constant(attention):
    layers = {name: nn.Linear(4, 4) for name in "qk"}
    mixing = {name: nn.Linear(2, 2) for name in ("before", "behind")}
    model, X = randomised(Block(talking, **layers, **mixing)), numbers(3, 6, 4)
    relevance, details = sklrp.explain(
        model, X, target="all", rule=rule_of(attention), epsilon=0.0, return_details=True
    )
    assert_close(relevance, reference(model, X, attention)[0])
    assert_accounted(relevance, details)


# --- Products of two signals ------------------------------------------------------------------


def swiglu(self, x):
    return (F.silu(self.q(x)) * self.k(x)).mean(1)


def geglu(self, x):
    return (self.k(x) * F.dropout(F.gelu(self.q(x)), 0.1, self.training)).mean(1)


def glu(self, x):
    return (torch.sigmoid(self.q(x)) * self.k(x)).mean(1)


def gated_convolution(self, x):
    filtered = F.conv1d(x.mT, self.filter, padding=1)
    return (torch.tanh(filtered[:, :4]) * torch.sigmoid(filtered[:, 4:])).mean(2)


def scan(self, x):
    """A selective scan as a loop: decay, input and readout depend on the step (Mamba)."""
    rate = F.softplus(self.q(x))
    decay = torch.exp(-rate.unsqueeze(-1) * self.decay.exp())
    given, taken = self.k(x)[..., :3], self.k(x)[..., 1:]
    state, out = torch.zeros(len(x), 4, 3, dtype=x.dtype), []
    for t in range(x.size(1)):
        new = rate[:, t, :, None] * given[:, t, None] * x[:, t, :, None]
        state = decay[:, t] * state + new
        out.append((state * taken[:, t, None]).sum(-1))
    return (torch.stack(out, 1) * F.silu(self.q(x))).mean(1)


class Held(nn.Module):
    """A layer that holds its input constant, as the documentation writes it."""

    def forward(self, x):
        return x


class Detached(nn.Module):
    """The same for a gradient."""

    def forward(self, x):
        return x.detach()


def held_scan(self, x):
    """The scan of MambaLRP: decay, input and readout are constants."""
    rate = F.softplus(self.q(x))
    decay = self.hold(torch.exp(-rate.unsqueeze(-1) * self.decay.exp()))
    given = self.hold(rate.unsqueeze(-1) * self.k(x)[..., None, :3])
    taken = self.hold(self.k(x)[..., None, 1:])
    state, out = torch.zeros(len(x), 4, 3, dtype=x.dtype), []
    for t in range(x.size(1)):
        state = decay[:, t] * state + given[:, t] * x[:, t, :, None]
        out.append((state * taken[:, t]).sum(-1))
    return (torch.stack(out, 1) * F.silu(self.q(x))).mean(1)


@pytest.mark.parametrize("product", ["all", "half"])
def test_what_a_layer_holds_constant_takes_nothing(product):
    @register(Held, any_axis=True)
    def held(step, signal):
        def pull(relevance, kept):
            if kept is not None:
                kept.add("bias", relevance)

        return replace(signal, gate=True, held=True), pull

    try:
        layers = {"q": nn.Linear(4, 4), "k": nn.Linear(4, 4), "hold": Held()}
        model = randomised(Block(held_scan, decay=nn.Parameter(torch.ones(4, 3)), **layers))
        X = numbers(3, 5, 4)
        relevance, details = sklrp.explain(
            model, X, target="all", rule=rule_of(product=product), epsilon=0.0,
            return_details=True,
        )  # fmt: skip
    finally:
        HANDLERS.pop(Held)
    model.hold = Detached()
    assert_close(relevance, reference(model, X)[0])
    assert_accounted(relevance, details)


GATED = {
    "swiglu": swiglu, "geglu": geglu, "glu": glu, "gated convolution": gated_convolution,
    "scan": scan,
}  # fmt: skip


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", GATED)
def test_products_of_two_signals(name, attention):
    parts = {"filter": nn.Parameter(torch.ones(8, 4, 3)), "decay": nn.Parameter(torch.ones(4, 3))}
    layers = {"q": nn.Linear(4, 4), "k": nn.Linear(4, 4)}
    model, X = randomised(Block(GATED[name], **layers, **parts)).eval(), numbers(3, 5, 4)
    relevance, details = sklrp.explain(
        model, X, target="all", rule=rule_of(attention), epsilon=0.0, return_details=True
    )
    assert_close(relevance, reference(model, X, attention)[0])
    assert_accounted(relevance, details)


@pytest.mark.parametrize("variant", ["prop", "abs", "half"])
@pytest.mark.parametrize("multiply", ["matmul", "mul"])
def test_two_signals_share_by_the_composites_product(multiply, variant):
    """Each product among its own factors, in loops."""

    def run(self, x):
        a, b = self.q(x), self.k(x)
        if multiply == "mul":
            return (a * b).mean(1)
        return (a @ b.mT)[..., :4].mean(1)

    model = randomised(Block(run, q=nn.Linear(4, 4, bias=False), k=nn.Linear(4, 4, bias=False)))
    model.head.bias.data.zero_()
    x = numbers(1, 4, 4)
    rule = rule_of(product=variant)
    relevance = sklrp.explain(model, x, target=1, rule=rule, epsilon=0.0)[0]
    w_q, w_k = model.q.weight.detach().numpy(), model.k.weight.detach().numpy()
    head = model.head.weight[1].detach().numpy()
    a, b = x[0] @ w_q.T, x[0] @ w_k.T
    of_a, of_b = np.zeros_like(a), np.zeros_like(b)
    pairs = (
        [((i, j), (i, j), j) for i, j in np.ndindex(4, 4)]
        if multiply == "mul"
        else [((i, p), (j, p), j) for i, j, p in np.ndindex(4, 4, 4)]
    )
    for one, other, j in pairs:
        term = head[j] / 4 * a[one] * b[other]
        size = {"prop": (a[one], b[other]), "abs": (abs(a[one]), abs(b[other])), "half": (1, 1)}
        part = size[variant][0] / sum(size[variant])
        of_a[one] += term * part
        of_b[other] += term * (1 - part)
    expected = x[0] * ((of_a / a) @ w_q + (of_b / b) @ w_k)
    assert_close(relevance, expected)


def test_two_gates_share_half_each():
    model = randomised(Block(lambda self, x: (self.q(x).sigmoid() * self.k(x).sigmoid()).mean(1),
                             q=nn.Linear(4, 4), k=nn.Linear(4, 4)))  # fmt: skip
    X = numbers(3, 5, 4)
    found = sklrp.explain(model, X, target=0, rule=rule_of(), epsilon=0.0)
    parts = []
    for layer in (model.q, model.k):
        x = torch.from_numpy(X).requires_grad_()
        z = layer(x)
        gates = (model.q(x).sigmoid() * model.k(x).sigmoid()).detach()
        of_z = 0.5 * model.head.weight[0].detach() * gates / gates.shape[1]
        (gradient,) = torch.autograd.grad((z * (of_z / z).detach()).sum(), x)
        parts.append(gradient * x.detach())
    assert_close(found, sum(parts).detach())


# --- Padding ----------------------------------------------------------------------------------

LENGTHS = np.array([6, 4, 2])
PADDED = np.arange(6) >= LENGTHS[:, None]


def over_padding(self, x, mask):
    return self.t(x, src_key_padding_mask=mask).mean(1)


def over_what_is_there(self, x, mask):
    out = self.t(x, src_key_padding_mask=mask)
    there = (~mask).unsqueeze(-1)
    return (out * there).sum(1) / there.sum(1)


def masked_keys(self, x, mask):
    return self.a(x, x, x, key_padding_mask=mask)[0].mean(1)


def masked_keys_of_lengths(self, x, lengths):
    mask = torch.arange(x.size(1)) >= lengths[:, None]
    return self.a(x, x, x, key_padding_mask=mask, need_weights=False)[0].mean(1)


def encoder(**options):
    return nn.TransformerEncoder(encoder_layer(), 2, **options)


PADDINGS = {
    "keys": lambda: Block(masked_keys, a=heads(add_zero_attn=True, add_bias_kv=True)),
    "layer": lambda: Block(over_padding, t=encoder_layer()),
    "encoder": lambda: Block(over_what_is_there, t=encoder()),
    "plain encoder": lambda: Block(over_padding, t=encoder(enable_nested_tensor=False)),
}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", PADDINGS)
def test_padding(name, attention):
    model, X = randomised(PADDINGS[name]()).eval(), numbers(3, 6, 4)
    relevance, details = sklrp.explain(
        model, (X, PADDED), target="all", rule=rule_of(attention), epsilon=0.0,
        return_details=True, check=True,
    )  # fmt: skip
    expected, scores = reference(model, X, attention, (torch.from_numpy(PADDED),))
    assert_close(details.score, scores)
    assert_close(relevance[0], expected)
    np.testing.assert_array_equal(relevance[1], 0.0)
    assert_accounted(relevance[0], details)


@pytest.mark.parametrize("ends", [True, False])
def test_the_fast_path_of_an_encoder_returns_zeros_for_padding(ends):
    """As torch computes it, unless there is padding in the middle of a sequence."""
    mask = PADDED if ends else PADDED[:, ::-1].copy()
    model, X = randomised(Block(over_padding, t=encoder())).eval(), numbers(3, 6, 4)
    with torch.no_grad():
        own = model(torch.from_numpy(X), torch.from_numpy(mask))
    slow = model(torch.from_numpy(X), torch.from_numpy(mask)).detach()
    assert bool((own - slow).abs().max() > 1e-3) == ends
    relevance, details = sklrp.explain(
        model, (X, mask), target="all", rule=rule_of(), return_details=True, check=True
    )
    assert_close(details.score, own)
    assert_accounted(relevance[0], details)


def test_padding_by_lengths_is_that_by_masks():
    by_length = randomised(Block(masked_keys_of_lengths, a=heads()))
    by_mask = Block(masked_keys, a=heads()).double()
    by_mask.load_state_dict(by_length.state_dict())
    X = numbers(3, 6, 4)
    found, expected = (
        sklrp.explain(net, (X, other), rule=rule_of(), epsilon=1e-2)[0]
        for net, other in ((by_length, LENGTHS), (by_mask, PADDED))
    )
    assert_close(found, expected)


def test_a_query_that_may_see_nothing_gets_zeros():
    mask = torch.ones(6, 6).tril(-1).bool()
    model = randomised(Block(of_functions(attn_mask=mask), l=nn.Linear(4, 4)))
    X = numbers(3, 6, 4)
    relevance, details = sklrp.explain(model, X, target="all", rule=rule_of(), return_details=True)
    assert_close(details.score, model(torch.from_numpy(X)).detach())
    assert_accounted(relevance, details)


# --- What is refused --------------------------------------------------------------------------

MIXING = {
    "function": (
        lambda self, x: F.scaled_dot_product_attention(*[x.transpose(0, 1)] * 3).mean(0), {}
    ),
    "heads": (lambda self, x: time_first(self, x.transpose(0, 1)), {"a": heads()}),
    "rows": (lambda self, x: self.a(x[:, 0], x[:, 0], x[:, 0])[0], {"a": heads()}),
    "by hand": (lambda self, x: torch.softmax(x[:, 0] @ x[:, 0].T, -1) @ x[:, 0], {}),
    "keys of others": (
        lambda self, x: (torch.softmax(x @ x[[1, 0]].mT, -1) @ x).mean(1), {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("n_samples", [2, 3])
def test_attention_from_one_sample_to_another_is_refused(name, n_samples):
    run, parts = MIXING[name]
    model = randomised(Block(run, **parts))
    with pytest.raises((TypeError, ValueError), match="samples"):
        sklrp.explain(model, numbers(n_samples, 6, 4), rule=rule_of())


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (of_functions(dropout_p=0.5), "scaled_dot_product_attention.*drops"),
        (
            lambda self, x: F.multi_head_attention_forward(
                *[x.transpose(0, 1)] * 3, 4, 2, self.a.in_proj_weight, None, None, None, False,
                0.5, self.a.out_proj.weight, None,
            )[0].mean(0),
            "multi_head_attention_forward.*drops",
        ),
    ],
)  # fmt: skip
def test_dropout_in_evaluation_is_refused(run, message):
    model = randomised(Block(run, l=nn.Linear(4, 4), a=heads()))
    with pytest.raises(TypeError, match=message):
        sklrp.explain(model, numbers(2, 6, 4), rule=rule_of())


class _Own(nn.Module):
    """Attention by a function of torch, or by layers of torch."""

    def __init__(self):
        super().__init__()
        self.l, self.o = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.o(F.scaled_dot_product_attention(self.l(x), x, self.l(x)).mean(1))


@pytest.mark.parametrize("operation", [nn.Softmax, "matmul"])
def test_own_handlers_are_asked_within_attention(operation, monkeypatch):
    X, model = numbers(5, 3, 4), _Own().double()
    entry, asked = HANDLERS[operation], []

    def handler(step, *args):
        asked.append(step.name)
        return entry.handler(step, *args)

    plain = sklrp.explain(model, X)
    monkeypatch.setitem(HANDLERS, operation, entry._replace(handler=handler))
    assert_close(sklrp.explain(model, X), plain)
    assert asked


def test_attention_over_samples_is_refused():
    class Over(_Own):
        def forward(self, x):
            k = self.l(x)
            learnt = self.o.weight  # two queries of four features
            return self.o(F.scaled_dot_product_attention(learnt, k, k).sum(0, keepdim=True) + x)

    with pytest.raises(TypeError, match="along the axis of the samples"):
        sklrp.explain(Over().double(), numbers(5, 4))
