"""What a probe found of a network serves later calls, for as long as it holds."""

import gc
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import sklrp
from sklrp.propagation import compilation, known_networks, preparing
from sklrp.propagation.recording.twin import Twins
from sklrp.propagation.registry import HANDLERS, register
from tests.helpers.comparing import assert_close

X = np.random.default_rng(0).normal(size=(6, 1, 6, 6)).astype(np.float32)


class Net(nn.Module):
    """A network that is recorded, with a normalisation to fold and an attribute to turn."""

    turned_by_class = False

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(36, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.is_turned, self.power = False, 1.0

    def forward(self, x):
        h = torch.relu(self.norm(self.conv(x)))
        if self.is_turned or self.turned_by_class:
            h = h.flip(-1).tanh()
        h = self.fc(self.pool(h).flatten(1) * self.power)
        return h + torch.nn.functional.linear(h, torch.diag(self.scale * 2))


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = Net()
    made(torch.randn(8, 1, 6, 6))
    return made.eval()


@pytest.fixture
def probes(monkeypatch):
    """Count the probes of networks."""
    found = []
    for name in ("probe_once", "probe_network"):
        probe = getattr(compilation, name)

        def counted(*args, name=name, probe=probe):
            found.append(name)
            return probe(*args)

        monkeypatch.setattr(compilation, name, counted)
    return found


def explain(network, samples=X, **options):
    return sklrp.explain(network, samples, **{"rule": "epsilon", "target": 1, **options})


def explain_anew(network, *args, **options):
    known_networks.forget_all()
    return explain(network, *args, **options)


@pytest.mark.parametrize(
    ("n", "probe"), [(1, "probe_network"), (2, "probe_network"), (6, "probe_once")]
)
def test_a_network_is_probed_once(n, probe, net, probes):
    first = explain(net, X[:n])
    assert probes == [probe]
    np.testing.assert_array_equal(explain(net, X[:n]), first)
    # Another rule, other samples and details ask nothing else of it.
    found = explain(net, X[::-1][:n], rule="gamma", return_details=True)[0]
    assert probes == [probe]
    assert_close(found, explain_anew(net, X[::-1][:n], rule="gamma"))


def turn(net):
    net.is_turned = True


def turn_class(net):
    type(net).turned_by_class = True


def weaken(net):
    net.power = 0.5


def widen_pool(net):
    net.pool = nn.MaxPool2d(3, 2, 1)


def set_padding(net):
    net.pool.kernel_size, net.pool.stride, net.pool.padding = 3, 2, 1


def train(net):
    """One step as an optimiser does it, and new statistics."""
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1 + 0.3 * torch.rand_like(p))
    net.train()(2 * torch.randn(8, 1, 6, 6) + 1)
    net.eval()


def set_data(net):
    for p in net.parameters():
        p.data = p.data * 1.5


def change_data(net):
    for p in net.parameters():
        p.data.mul_(1.5)


def load(net):
    net.load_state_dict(
        {k: v + 0.1 * (v.is_floating_point()) for k, v in net.state_dict().items()}
    )


def new_layer(net):
    net.fc = nn.Linear(36, 3)


def new_weight(net):
    net.conv.weight = nn.Parameter(torch.randn(4, 1, 3, 3))


def without_bias(net):
    net.conv.bias = None


def to_double(net):
    net.double()


def parametrize(net):
    nn.utils.parametrizations.weight_norm(net.conv)
    net.conv.parametrizations.weight.original0.data.mul_(2)


def new_forward(net):
    net.forward = lambda x: net.fc(net.pool(net.conv(x)).flatten(1))


CHANGES = (
    turn, turn_class, weaken, widen_pool, set_padding, train, set_data, change_data, load,
    new_layer, new_weight, without_bias, to_double, parametrize, new_forward,
)  # fmt: skip


@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta"])
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_network_that_has_changed_is_explained_as_it_is(change, n, rule, net, monkeypatch):
    monkeypatch.setattr(Net, "turned_by_class", False)
    before = explain(net, X[:n], rule=rule)
    change(net)
    found, details = explain(net, X[:n], rule=rule, return_details=True)
    assert change is to_double or np.abs(found - before).max() > 1e-6
    assert_close(found, explain_anew(net, X[:n], rule=rule))
    with torch.no_grad():
        samples = torch.from_numpy(X[:n]).to(net.fc.weight.dtype)
        np.testing.assert_allclose(details.score, net(samples)[:, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("n", "probe"), [(1, "probe_network"), (6, "probe_once")])
def test_weights_that_forward_computes_are_found_anew(n, probe, net, probes):
    explain(net, X[:n])
    explain(net, X[:n])
    assert len(probes) == 1
    train(net)  # torch.diag(self.scale * 2) is a constant of the tape
    explain(net, X[:n])
    explain(net, X[:n])
    assert probes == [probe] * 2


class Turning(nn.Module):
    """A layer of it has other attributes for many samples than for few."""

    def __init__(self):
        super().__init__()
        self.fc, self.act, self.out = nn.Linear(4, 6), nn.LeakyReLU(), nn.Linear(6, 2)

    def forward(self, x):
        self.act.negative_slope = 0.1 * min(len(x), 3)
        return self.out(self.act(self.fc(x)))


@pytest.mark.parametrize("n", [1, 2, 6, 40])
def test_a_network_that_varies_is_probed_once(n, probes):
    samples = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    net = Turning()
    found = [explain(net, samples, batch_size=40) for _ in range(4)]
    n_probes = len(probes)
    for one in found[1:]:
        assert_close(one, found[0], 1e-5)
    explain(net, samples, batch_size=40)
    assert len(probes) == n_probes
    assert_close(found[0], explain_anew(net, samples, batch_size=40), 1e-5)


class TwoOutputs(nn.Module):
    """Two outputs by name, of views that are changed in place, with the samples second."""

    def __init__(self):
        super().__init__()
        self.fc, self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x, other=None):
        h = self.fc(x if other is None else x + other)
        h.view(len(h), 2, 3)[:, 0].mul_(0.5)
        h = torch.relu(h.transpose(0, 1)).transpose(0, 1)
        return {"one": self.one(h), "two": self.two(h)}


@pytest.mark.parametrize("n", [1, 6])
def test_other_questions_are_not_mixed_up(n):
    samples = np.random.default_rng(0).normal(size=(n, 4))
    net = TwoOutputs().double()
    questions = [
        (samples, {"target": ("one", 1)}),
        (samples, {"target": ("two", 1)}),
        (samples, {"target": ("two", 1), "layers": ["fc"]}),
        ((samples, samples), {"target": ("two", 1)}),
        ({"other": samples, "x": samples}, {"target": ("one", 0)}),
        (samples, {"target": ("two", 2), "rule": sklrp.ZBox(-4.0, 4.0)}),
        (samples.astype(np.float32), {"target": ("two", 1), "contrast": True}),
    ]
    found = [explain(net, X, **options) for X, options in questions * 2]
    for (X, options), *answers in zip(questions, found[:7], found[7:], strict=True):
        fresh = parts_of(explain_anew(net, X, **options))
        for answer in map(parts_of, answers):
            for one, other in zip(answer, fresh, strict=True):
                assert_close(one, other, 1e-6)


def parts_of(found):
    """Return the arrays of relevance in what explain returned."""
    if isinstance(found, dict):
        return [found[name] for name in ("other", "x")]
    if isinstance(found, tuple):
        return [part for part in found if isinstance(part, np.ndarray)]
    return [found]


def test_forgotten_twins_go_without_the_collector(net):
    def count():
        return sum(type(o) is Net for o in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = count()
        explain(net)
        assert count() == before + 1
        known_networks.forget_all()
        assert count() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("change", ["hook", "training", "handler"])
@pytest.mark.parametrize("n", [1, 6])
def test_what_is_refused_is_refused_later_too(change, n, net, handlers_restored):
    explain(net, X[:n])
    if change == "hook":
        net.conv.register_forward_hook(lambda *args: None)
        with pytest.raises(TypeError, match="forward hooks"):
            explain(net, X[:n])
    elif change == "training":
        net.train()  # it is explained as in evaluation mode
        assert_close(explain(net, X[:n]), explain_anew(net.eval(), X[:n]))
    else:
        before = explain(net, X[:n])
        entry = HANDLERS[nn.Conv2d]

        def lossy(step, signal):
            out, pull = entry.handler(step, signal)
            return out, lambda relevance, kept: 2 * pull(relevance, kept)

        register(nn.Conv2d, kind="conv", weights=entry.weights, fold=entry.fold)(lossy)
        with pytest.raises(TypeError, match="is not what it got"):
            explain(net, X[:n])
        HANDLERS[nn.Conv2d] = entry
        np.testing.assert_array_equal(explain(net, X[:n]), before)


def test_the_kind_of_a_layer_is_asked_anew(net, handlers_restored):
    explain(net, rule="epsilon_plus")
    entry = HANDLERS[nn.Linear]
    register(nn.Linear, kind="conv", weights=entry.weights, fold=entry.fold)(entry.handler)
    assert_close(explain(net, rule="epsilon_plus"), explain_anew(net, rule="epsilon_plus"))


class OutOfSight(nn.Module):
    """A factor of it comes of the samples, out of sight, once a switch is on."""

    switch = SimpleNamespace(on=False)

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        factor = torch.ones(2)
        if OutOfSight.switch.on:
            with torch._C.DisableTorchFunction():
                factor = x.sum(1, keepdim=True).expand(-1, 2).clone()
        return self.fc(x) * factor


@pytest.mark.parametrize("n", [1, 2, 6, 40])
def test_what_is_computed_out_of_sight_later_is_refused(n, monkeypatch):
    samples = np.random.default_rng(1).normal(size=(n, 4)).astype(np.float32) + 3
    net = OutOfSight()
    explain(net, samples)
    monkeypatch.setattr(OutOfSight.switch, "on", True)
    with pytest.raises(TypeError):
        explain(net, samples)


class Tokens(nn.Module):
    """The same of integers."""

    def __init__(self):
        super().__init__()
        self.table, self.fc = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, tokens):
        h = self.table(tokens)
        factor = torch.ones(2)
        if OutOfSight.switch.on:
            with torch._C.DisableTorchFunction():
                factor = h.sum((1, 2)).expand(2, -1).t().clone()
        return self.fc(h.mean(1)) * factor


@pytest.mark.parametrize("n", [1, 2, 6, 40])
def test_what_is_computed_of_tokens_out_of_sight_later_is_refused(n, monkeypatch):
    samples = np.random.default_rng(1).integers(0, 9, size=(n, 5))
    net = Tokens()
    explain(net, samples)
    explain(net, samples)
    monkeypatch.setattr(OutOfSight.switch, "on", True)
    with pytest.raises(TypeError):
        explain(net, samples)


class Cut(nn.Module):
    """The number of its outputs lies in a buffer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.register_buffer("keep", torch.tensor([True, True, True, False, False]))

    def forward(self, x):
        return torch.relu(self.fc(x))[:, self.keep]


@pytest.mark.parametrize("n", [1, 2, 3, 40])
@pytest.mark.parametrize("left", [1, 2, 5])
def test_another_number_of_outputs(left, n):
    samples = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    net = Cut()
    assert explain(net, samples, target="all").shape == (n, 3, 4)
    explain(net, samples)
    net.keep[:] = torch.arange(5) < left
    assert explain(net, samples, target="all").shape == (n, left, 4)
    net.keep[:] = True
    found = explain(net, samples, target=4)
    assert_close(found, explain_anew(net, samples, target=4))


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("options", [{}, {"layers": ["norm"]}, {"batch_size": 1}])
def test_another_way_by_a_class(options, n, net, monkeypatch):
    """What is wrong with what is known is no error of the call, wherever it is found."""
    rule = sklrp.Composite(
        [("first", sklrp.ZBox(-3.0, 3.0), "first"), ("rest", sklrp.ZBox(), "all")]
    )
    monkeypatch.setattr(Net, "turned_by_class", False)
    for given in ("epsilon", rule):
        explain(net, X[:n], rule=given, **options)
        monkeypatch.setattr(Net, "turned_by_class", True)
        found = explain(net, X[:n], rule=given, **options)
        wanted = explain_anew(net, X[:n], rule=given, **options)
        for one, other in zip(found, wanted, strict=True):
            if isinstance(one, np.ndarray):
                assert_close(one, other)
        monkeypatch.setattr(Net, "turned_by_class", False)


def test_the_kind_of_functions_is_asked_anew(monkeypatch):
    class OfKind(nn.Module):
        kind_of_layers = "dense"

        def __init__(self):
            super().__init__()
            self.weight, self.out = nn.Parameter(torch.randn(6, 4)), nn.Linear(6, 2)

        def forward(self, x):
            return self.out(torch.relu(torch.nn.functional.linear(x, self.weight)))

    samples = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    net = OfKind()
    before = explain(net, samples, rule="epsilon_plus")
    monkeypatch.setattr(OfKind, "kind_of_layers", "conv")
    found = explain(net, samples, rule="epsilon_plus")
    assert np.abs(found - before).max() > 1e-3
    assert_close(found, explain_anew(net, samples, rule="epsilon_plus"))


def test_twins_of_another_state_are_not_kept(net):
    """Another thread may change the network between what is recalled and its twin."""
    expected = explain(net)
    (entry,) = [e for k, e in known_networks._KNOWN.items() if k[0] == id(net)]
    entry.known.idle.clear()  # another thread has it
    twins = Twins(net, entry.known.idle, entry.known.source)
    power, net.power = net.power, 0.5
    with twins.lend():
        pass
    assert not entry.known.idle
    net.power = power
    np.testing.assert_allclose(explain(net), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [1, 6])
def test_another_thread_may_forget_first(n, net, monkeypatch):
    """What is known and wrong is probed anew, whoever has let go of it."""
    monkeypatch.setattr(Net, "turned_by_class", False)
    explain(net, X[:n])
    monkeypatch.setattr(Net, "turned_by_class", True)

    def forget(network):
        known_networks.forget(network)
        return False

    monkeypatch.setattr(preparing, "forget", forget)
    found = explain(net, X[:n])
    assert_close(found, explain_anew(net, X[:n]))


class Circular(nn.Module):
    """A part of it knows the whole."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.fc.__dict__["whole"] = self

    def forward(self, x):
        return torch.relu(self.fc(x))


@pytest.mark.parametrize("make", [Net, Circular])
def test_what_is_known_goes_with_the_network(make):
    samples = X if make is Net else X.reshape(6, -1)[:, :4]
    net = make()
    explain(net, samples)
    assert any(key[0] == id(net) for key in known_networks._KNOWN) == (make is Net)
    identity, gone = id(net), []
    weakref.finalize(net, gone.append, True)
    del net
    gc.collect()  # Circular is for it to find, whoever knows of it
    assert gone
    assert not any(key[0] == identity for key in known_networks._KNOWN)


def test_a_network_that_its_own_parameter_refers_to_goes_in_the_end():
    net = Net()
    net.scale.register_hook(lambda gradient: net.power * gradient)  # noqa: F821
    explain(net)
    gone = []
    weakref.finalize(net, gone.append, True)
    del net
    for _ in range(3):
        gc.collect()
    assert gone


@pytest.mark.parametrize("name", ["fc", "conv"])
def test_what_a_network_no_longer_holds_goes_with_the_next_call(name, net):
    explain(net)
    explain(net, X[:1])
    if name == "fc":
        old = weakref.ref(net.fc)
        net.fc = nn.Linear(36, 3)
    else:
        old = weakref.ref(net.conv.weight)
        net.conv.weight = nn.Parameter(torch.randn(4, 1, 3, 3))
    assert old() is not None
    explain(net)
    assert old() is None


def test_weights_as_they_were_read_are_not_kept():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return torch.relu(self.fc(x))

    net = Plain()
    explain(net, np.ones((6, 4), np.float32) * np.arange(6)[:, None])
    kept = [e.known.steps for k, e in known_networks._KNOWN.items() if k[0] == id(net)]
    assert kept
    assert all(step.weight is None and step.bias is None for steps in kept for step, _ in steps)


def test_few_networks_are_known(monkeypatch):
    known_networks.forget_all()
    monkeypatch.setattr(known_networks, "_MOST", 3)
    nets = [Net().eval() for _ in range(5)]
    for net in nets:
        explain(net)
    assert [key[0] for key in known_networks._KNOWN] == [id(net) for net in nets[-3:]]


class OfProducts(nn.Module):
    """Its weights are a product of others."""

    def __init__(self):
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return torch.nn.functional.linear(x, self.u @ self.v)


@pytest.mark.parametrize("n", [1, 6])
def test_large_tensors_of_a_forward_are_not_kept(n, monkeypatch):
    samples, net = np.ones((n, 4), np.float32) + np.arange(n)[:, None], OfProducts()
    monkeypatch.setattr(known_networks, "_MOST_BYTES", 60)
    explain(net, samples)
    assert not any(key[0] == id(net) for key in known_networks._KNOWN)
    monkeypatch.setattr(known_networks, "_MOST_BYTES", 1000)
    explain(net, samples)
    assert any(key[0] == id(net) for key in known_networks._KNOWN)


def test_threads_share_what_is_known(net):
    expected = explain(net)
    found = {}

    def work(k):
        found[k] = [explain(net) for _ in range(8)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for maps in found.values():
        for one in maps:
            np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_workers_and_one_process_agree(n_jobs, net):
    explain(net)
    assert_close(explain(net, n_jobs=n_jobs, batch_size=3), explain_anew(net))


def test_other_shapes_are_probed_for_themselves(probes):
    class AnySize(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

    net = AnySize()
    large = np.random.default_rng(0).normal(size=(6, 1, 9, 7)).astype(np.float32)
    for _ in range(2):
        for samples in (X, large, X.astype(np.float64)):
            found = explain(net, samples)
            assert found.shape == samples.shape
    assert len(probes) == 3


class CellByHand(nn.Module):
    """A recurrent cell, whose initial state is a constant for each sample."""

    def __init__(self):
        super().__init__()
        self.of_x, self.of_h, self.out = nn.Linear(3, 8), nn.Linear(4, 8), nn.Linear(4, 2)

    def forward(self, x):
        h = torch.full((len(x), 4), 0.5, dtype=x.dtype)
        for step in x.unbind(1):
            gate, new = (self.of_x(step) + self.of_h(h)).chunk(2, 1)
            gate = gate.sigmoid()
            h = gate * h + (1 - gate) * new.tanh()
        return self.out(h)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_initial_state_stays_one(n):
    samples = np.random.default_rng(0).normal(size=(3, 4, 3))
    torch.manual_seed(0)
    net = CellByHand().double()
    expected = explain(net, samples)[:n]
    for _ in range(2):
        assert_close(explain(net, samples[:n]), expected)
