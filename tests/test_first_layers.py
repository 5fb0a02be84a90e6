"""Layers that see the input first: one rule for all of them, and z-box in the input's units."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp import Composite, Epsilon, Flat, Gamma, ZBox
from sklrp.propagation import plan
from tests.helpers.comparing import assert_close

MEAN = torch.tensor([0.4, 0.5, 0.6]).double().view(1, 3, 1, 1)
STD = torch.tensor([0.2, 0.3, 0.5]).double().view(1, 3, 1, 1)
BOX = Composite([("input", ZBox(0.0, 1.0), "first"), ("rest", Epsilon(0.0), "all")])


class Normalised(nn.Module):
    """A convolution behind something that normalises the input."""

    def __init__(self, normalise):
        super().__init__()
        self.normalise = normalise
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self.norm, self.drop = nn.BatchNorm2d(3), nn.Dropout()
        self.double().eval()
        self.norm.running_mean.copy_(MEAN.flatten())
        self.norm.running_var.copy_(STD.flatten() ** 2 - self.norm.eps)

    def forward(self, x):
        return self.fc(F.relu(self.conv(self.normalise(self, x))).mean((2, 3)))


def build(normalise):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Normalised(normalise)


def in_place(self, x):
    x = x.clone()
    x.sub_(MEAN).div_(STD)
    return x


def converted(self, x):
    return self.drop(((x - MEAN) / STD).to(x.dtype))  # torch returns it as it was


def z_box_of_the_input(model, x, target):
    """Z-box on what the convolution makes of x, by its formula: bounds 0 and 1 normalised."""
    z, low, high = ((v - MEAN) / STD for v in (x, torch.zeros_like(x), torch.ones_like(x)))
    hidden = F.relu(model.conv(z))
    relevance = hidden * model.fc.weight[target].view(1, -1, 1, 1) / hidden[0, 0].numel()
    w = model.conv.weight
    up, down = w.clamp(min=0), w.clamp(max=0)
    pairs = [(z, w), (-low, up), (-high, down)]
    ratio = relevance / sum(F.conv2d(v, weight, padding=1) for v, weight in pairs)
    return sum(v * F.conv_transpose2d(ratio, weight, padding=1) for v, weight in pairs).detach()


NORMALISATIONS = {
    "operators": lambda self, x: (x - MEAN) / STD,
    "in place": in_place,
    "converted and dropped": converted,
    "methods": lambda self, x: x.sub(MEAN).div(STD),
    "from a constant": lambda self, x: (MEAN - x) / -STD,
    "scaled before": lambda self, x: x * (1 / STD) - MEAN / STD,
    "added": lambda self, x: torch.add(x, -MEAN) / STD,
    "addcmul": lambda self, x: torch.addcmul(-MEAN / STD, x, 1 / STD),
    "channel by channel": lambda self, x: torch.stack(
        [(x[:, k] - MEAN[0, k]) / STD[0, k] for k in range(3)], 1
    ),
    "channels last": lambda self, x: (
        (x.permute(0, 2, 3, 1) - MEAN.flatten()) / STD.flatten()
    ).permute(0, 3, 1, 2),
    "in another dtype": lambda self, x: (x.to(torch.float64) - MEAN).type_as(x) / STD,
    "turned around": lambda self, x: ((x.flip(3) - MEAN) / STD).flip(3),
    "in two steps": lambda self, x: ((2 * x - 1) - (2 * MEAN - 1)) / (2 * STD),
    "batch normalisation that padding keeps apart": lambda self, x: self.norm(x),
    "function": lambda self, x: torch.batch_norm(
        x, None, None, self.norm.running_mean, self.norm.running_var, False, 0.1, 1e-5, False
    ),
}


@pytest.mark.sweep(10)
@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.parametrize("place", ["first", "conv"])
def test_z_box_has_its_bounds_in_units_of_the_input(name, place):
    """As if the normalisation were folded into the layer; its shift takes nothing."""
    model = build(NORMALISATIONS[name])
    x = torch.tensor(np.random.default_rng(0).uniform(size=(3, 3, 6, 6)))
    rule = Composite([("input", ZBox(0.0, 1.0), place), ("rest", Epsilon(0.0), "all")])
    relevance, details = sklrp.explain(
        model, x, target=1, rule=rule, epsilon=0.0, return_details=True
    )
    assert_close(relevance, z_box_of_the_input(model, x, 1))
    one_by_one = sklrp.explain(model, x, target=1, rule=rule, epsilon=0.0, batch_size=1)
    assert_close(one_by_one, relevance)
    kept = sum(layer.bias + layer.dropped for layer in details.layers)
    assert_close(relevance.sum((1, 2, 3)).numpy() + kept, details.score)
    assert_close(details.score, model(x)[:, 1].detach())


def test_z_box_of_a_chain_with_a_normalisation_in_front():
    model = build(lambda self, x: self.norm(x))
    net = nn.Sequential(
        model.norm, model.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc
    )
    x = torch.tensor(np.random.default_rng(1).uniform(size=(3, 3, 6, 6)))
    assert_close(
        sklrp.explain(net, x, target=0, rule=BOX, epsilon=0.0), z_box_of_the_input(model, x, 0)
    )


def test_other_rules_share_with_the_shift():
    """A constant that is subtracted has the share of a bias, unless z-box follows."""
    model = build(NORMALISATIONS["operators"])
    x = torch.tensor(np.random.default_rng(0).uniform(size=(3, 3, 6, 6)), requires_grad=True)
    relevance = sklrp.explain(model, x.detach(), target=1, rule="zero", epsilon=0.0)
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    assert_close(relevance, (x * gradient).detach())


def test_a_shift_in_front_of_z_box_and_more_is_refused():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv1d(2, 2, 1).double(), nn.Linear(8, 2).double()

        def forward(self, x):
            x = x - 0.5
            return self.fc((x + self.conv(x)).flatten(1))

    with pytest.raises(TypeError, match=r"'sub'.*z-box.*shift the samples before"):
        sklrp.explain(Residual(), np.zeros((3, 2, 4)), rule=BOX)


class TwoStems(nn.Module):
    """An image and a table, each with a stem of its own, and normalised by forward."""

    def __init__(self):
        super().__init__()
        self.image, self.table = nn.Conv2d(1, 2, 3), nn.Linear(4, 3)
        self.fc = nn.Linear(5, 2)
        self.double()

    def forward(self, image, table):
        image = F.relu(self.image((image - 0.5) / 0.25)).mean((2, 3))
        return self.fc(torch.cat([image, F.relu(self.table((table - 2.0) / 4.0))], 1))


def test_z_box_of_several_inputs():
    """Each stem has its own bounds, in units of its own input."""
    torch.manual_seed(0)
    model, rng = TwoStems(), np.random.default_rng(0)
    image, table = rng.uniform(size=(3, 1, 5, 5)), rng.uniform(-2, 9, size=(3, 4))
    rows = [
        ("image", ZBox(0.0, 1.0), "image"),
        ("table", ZBox(np.full(4, -2.0), np.full(4, 9.0)), "table"),
        ("rest", Epsilon(0.0), "all"),
    ]
    found = sklrp.explain(model, (image, table), target=1, rule=Composite(rows), epsilon=0.0)
    # The same network on what is normalised before, with the bounds normalised.
    rows[0] = ("image", ZBox(-2.0, 2.0), "image")
    rows[1] = ("table", ZBox(-1.0, 7.0 / 4.0), "table")
    shifted = TwoStems.__new__(TwoStems)
    shifted.__dict__.update(model.__dict__)
    shifted.forward = lambda image, table: model.fc(
        torch.cat([F.relu(model.image(image)).mean((2, 3)), F.relu(model.table(table))], 1)
    )
    expected = sklrp.explain(
        shifted, ((image - 0.5) / 0.25, (table - 2.0) / 4.0), target=1, rule=Composite(rows),
        epsilon=0.0,
    )  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def test_z_box_of_masked_input():
    """A mask lets zero in beside what lies in the box."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2, bias=False).double()

        def forward(self, x, mask):
            return self.fc((x * mask) / 2.0)

    model, rng = Masked(), np.random.default_rng(0)
    X, mask = rng.uniform(1.0, 3.0, size=(4, 4)), rng.uniform(size=(4, 4)) > 0.4
    found, _ = sklrp.explain(
        model, (X, mask), target=0, rule=Composite([("all", ZBox(1.0, 3.0), "all")]), epsilon=0.0
    )
    x, w = torch.tensor(X * mask) / 2.0, model.fc.weight[0].detach()
    parts = x * w - 1.5 * w.clamp(max=0)  # the lower bound is 0, the upper 3 / 2
    expected = parts / parts.sum(1, keepdim=True) * (x @ w)[:, None]
    assert_close(found, expected)


def test_integers_under_z_box_are_refused():
    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2).double()

        def forward(self, pixels, table):
            return self.fc(pixels.double() / 255.0 + table)

    rule = Composite([("all", ZBox(0, 255), "all")])
    with pytest.raises(ValueError, match=r"z-box rule on layer 'fc'.*pass floats"):
        sklrp.explain(Pixels(), (np.ones((3, 4), np.uint8), np.zeros((3, 4))), rule=rule)


# --- One layer, one rule --------------------------------------------------------------------


class Siamese(nn.Module):
    """One stem for two images, and the difference of what it makes of them."""

    def __init__(self, functional=False):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(1, 4, 3, bias=False), nn.Linear(8, 2, bias=False)
        self.functional = functional
        self.double()

    def embed(self, x):
        x = F.conv2d(x, self.stem.weight) if self.functional else self.stem(x)
        return F.relu(x).mean((2, 3))

    def forward(self, one, other):
        return self.fc(torch.cat([self.embed(one), self.embed(other)], 1))


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("rule", ["epsilon_plus_flat", "epsilon_alpha2_beta1_flat"])
def test_a_layer_that_is_used_twice_has_one_rule(rule, functional):
    torch.manual_seed(0)
    model = Siamese(functional)
    with torch.no_grad():
        model.fc.weight[:, 4:] = model.fc.weight[:, :4]
    X = np.random.default_rng(0).normal(size=(3, 1, 6, 6))
    one, other = sklrp.explain(model, (X, X), target=0, rule=rule)
    assert np.abs(one).max() > 0
    assert_close(one, other)
    rules = [step.rule for step in plan(model, rule, (X, X)).steps if step.kind == "conv"]
    assert rules == [Flat(), Flat()]


class Branches(nn.Module):
    """Two stems side by side, one deeper than the other, and a layer that sees both."""

    def __init__(self):
        super().__init__()
        self.wide, self.fine = nn.Conv1d(2, 3, 5, padding=2), nn.Conv1d(2, 3, 1)
        self.deep, self.mixed = nn.Conv1d(3, 3, 3, padding=1), nn.Conv1d(8, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        wide, fine = F.relu(self.wide(x)), F.relu(self.deep(F.relu(self.fine(x))))
        return self.fc(F.relu(self.mixed(torch.cat([x, wide, fine], 1))).mean(2))


def test_parallel_stems_are_first():
    """What sees the input beside features is not: it stands at the end of a U-Net."""
    rows = [("input", Flat(), "first"), ("end", Epsilon(0.1), "last"), ("rest", Gamma(), "all")]
    steps = plan(Branches(), Composite(rows), np.zeros((3, 2, 6), "float32")).steps
    rules = {step.name: step.rule for step in steps if step.kind is not None}
    assert rules == {
        "wide": Flat(), "fine": Flat(), "deep": Gamma(), "mixed": Gamma(), "fc": Epsilon(0.1),
    }  # fmt: skip


def test_a_layer_that_is_used_deeper_again_stays_one():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv1d(2, 2, 3, padding=1), nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(F.relu(self.conv(F.relu(self.conv(x)))).mean(2))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = plan(Again(), "epsilon_plus_flat", np.zeros((3, 2, 6), "float32")).steps
    assert [step.rule for step in steps if step.kind == "conv"] == [Flat(), Flat()]


def test_a_recurrent_cell_is_first_at_every_step():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.fc = nn.GRUCell(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = x.new_zeros(len(x), 4)
            for t in range(x.size(1)):
                h = self.cell(x[:, t], h)
            return self.fc(h)

    rows = [("input", Gamma(), "first"), ("rest", Epsilon(), "all")]
    steps = plan(Cell(), Composite(rows), np.zeros((3, 4, 3), "float32")).steps
    assert [step.rule for step in steps if step.kind == "recurrent"] == [Gamma()] * 4


@pytest.mark.parametrize("n_hidden", [5, 6])  # six: transposed weights have the shape of the own
@pytest.mark.parametrize("decode", [F.linear, lambda h, w: h @ w.t()], ids=["linear", "matmul"])
def test_a_decoder_with_the_weights_of_its_encoder_is_not_first(n_hidden, decode):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.out = nn.Linear(6, n_hidden, bias=False), nn.Linear(6, 2)

        def forward(self, x):
            return self.out(decode(F.relu(self.encoder(x)), self.encoder.weight.t()))

    composite = Composite([("first", Gamma(), "first"), ("rest", Epsilon(), "all")])
    found = plan(Tied().eval(), rule=composite, X=np.ones((3, 6), np.float32))
    rules = [step.rule for step in found.steps if step.kind is not None]
    assert rules == [Gamma(), Epsilon(), Epsilon()]
