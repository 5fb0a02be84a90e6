"""What a module holds beside its tensors stays the user's: `sklrp.explain` runs on copies."""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import itertools
import random
import sys
import threading
import types
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from tests.helpers.parameters import randomised


class Counter:
    """A plain object with state, which counts."""

    def __init__(self):
        self.count, self.seen, self.inner = 0, [], types.SimpleNamespace(calls=[])

    def tick(self, x):
        self.count += 1
        self.seen.append(self.count)
        self.inner.calls.append(self.count)
        return x

    def __repr__(self):
        return f"{self.count} {self.seen} {self.inner}"


class Slotted:
    """The same in slots."""

    __slots__ = ("count", "seen")

    def __init__(self):
        self.count, self.seen = 0, []

    def tick(self, x):
        self.count += 1
        self.seen.append(self.count)
        return x

    def __repr__(self):
        return f"{self.count} {self.seen}"


@dataclasses.dataclass
class Record:
    """The same as a dataclass that holds another object."""

    counter: Counter = dataclasses.field(default_factory=Counter)

    def tick(self, x):
        return self.counter.tick(x)


class Pages(list):
    """A list with an attribute of its own."""

    def __init__(self):
        super().__init__([[]])
        self.turned = 0

    def tick(self, x):
        self[0].append(1)
        self.turned += 1
        return x

    def __repr__(self):
        return f"{list(self)} {self.turned}"


class Holder(nn.Module):
    """A network that calls whatever it holds on its hidden values."""

    def __init__(self, held, use):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)
        self.held, self.use, self.n_calls = held, use, 0

    def count(self, x):
        self.n_calls += 1
        return x

    def forward(self, x):
        hidden = F.relu(self.first(x))
        self.use(self, hidden)
        return self.second(hidden)


def call_held(self, x):
    return self.held(x)


def tick_held(self, x):
    return self.held.tick(x)


def closure_over(counter):
    return lambda x: counter.tick(x)


def draw_held(self, x):
    self.held.random()


HELD = {
    "object": (Counter, tick_held),
    "slots": (Slotted, tick_held),
    "dataclass": (Record, tick_held),
    "list with attributes": (Pages, tick_held),
    "method of an object": (lambda: Counter().tick, call_held),
    "partial": (lambda: functools.partial(Counter().tick), call_held),
    "partial of a function": (
        lambda: functools.partial(lambda seen, x: seen.append(1), []),
        call_held,
    ),
    "closure": (lambda: closure_over(Counter()), call_held),
    "objects in a list": (lambda: [Counter()], lambda self, x: self.held[0].tick(x)),
    "objects in a tuple": (lambda: (Counter(),), lambda self, x: self.held[0].tick(x)),
    "objects in a deque": (
        lambda: collections.deque([Counter()]),
        lambda self, x: self.held[0].tick(x),
    ),
    "objects in a dict": (
        lambda: collections.defaultdict(Counter),
        lambda self, x: self.held["a"].tick(x),
    ),
    "object with a lock": (
        lambda: types.SimpleNamespace(lock=threading.Lock(), seen=[]),
        lambda self, x: self.held.seen.append(1),
    ),
    "NumPy's generator": (lambda: np.random.default_rng(0), draw_held),
    "Python's generator": (lambda: random.Random(0), draw_held),
}


def told(value):
    """Return in words all that is in a value, however it is held."""
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, random.Random):
        return repr(value.getstate())
    if isinstance(value, types.MethodType):
        return repr(value.__self__)
    if isinstance(value, functools.partial):
        return told(value.func) + told(value.args)
    if isinstance(value, types.FunctionType):
        return repr([cell.cell_contents for cell in value.__closure__ or ()])
    return repr(value)


@pytest.mark.parametrize("name", HELD)
def test_what_a_module_holds_is_left_as_it_was(name):
    make, use = HELD[name]
    model = randomised(Holder(make(), use))
    X = np.random.default_rng(0).normal(size=(3, 4))
    before = told(model.held)
    relevance = sklrp.explain(model, X, rule="epsilon")
    assert told(model.held) == before
    plain = nn.Sequential(model.first, nn.ReLU(), model.second)
    np.testing.assert_allclose(relevance, sklrp.explain(plain, X, rule="epsilon"), rtol=1e-10)
    model(torch.from_numpy(X))
    assert told(model.held) != before  # it does change what it holds


def bound(model):
    model.held = model.count


def bound_in_a_list(model):
    model.held = [model.count]


def bound_in_a_partial(model):
    model.held = functools.partial(model.count)


def closed_over(model):
    model.held = lambda x: model.count(x)


def referred_to_weakly(model):
    model.held = weakref.ref(model)


def proxied(model):
    model.held = weakref.proxy(model)


def held_by_an_object(model):
    model.held = types.SimpleNamespace(owner=model)


def replaced_forward(model):
    plain, model.held = model.forward, None

    def forward(x):
        model.count(x)
        return plain(x)

    model.forward = forward


@pytest.mark.parametrize(
    ("hold", "use"),
    [
        (bound, call_held),
        (bound_in_a_list, lambda self, x: self.held[0](x)),
        (bound_in_a_partial, call_held),
        (closed_over, call_held),
        (referred_to_weakly, lambda self, x: self.held().count(x)),
        (proxied, lambda self, x: self.held.count(x)),
        (held_by_an_object, lambda self, x: self.held.owner.count(x)),
        (replaced_forward, lambda self, x: None),
    ],
)
def test_a_way_back_to_the_module_leads_to_its_copy(hold, use):
    model = randomised(Holder(None, use))
    hold(model)
    X = np.random.default_rng(0).normal(size=(3, 4))
    relevance = sklrp.explain(model, X, rule="epsilon")
    assert model.n_calls == 0
    plain = nn.Sequential(model.first, nn.ReLU(), model.second)
    np.testing.assert_allclose(relevance, sklrp.explain(plain, X, rule="epsilon"), rtol=1e-10)
    model(torch.from_numpy(X))
    assert model.n_calls == 1


class ByMethod(nn.Module):
    """A network that keeps the forward of its layer as an attribute."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 3), nn.Linear(3, 2)
        self.run, self.steps = self.layer.forward, itertools.count()

    def forward(self, x):
        next(self.steps)
        return self.head(torch.relu(self.run(x)))


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="counters of Python cannot be copied")
@pytest.mark.filterwarnings("ignore:Pickle, copy, and deepcopy support:DeprecationWarning")
def test_the_forward_of_a_layer_kept_as_an_attribute_is_that_layer():
    model = randomised(ByMethod())
    X = np.random.default_rng(0).normal(size=(3, 4))
    plain = nn.Sequential(model.layer, nn.ReLU(), model.head)
    np.testing.assert_allclose(
        sklrp.explain(model, X, rule="gamma"), sklrp.explain(plain, X, rule="gamma"), rtol=1e-10
    )
    assert [step.name for step in sklrp.plan(model, X=X).steps] == ["layer", "relu", "head"]
    assert next(model.steps) == 0


class _InABlock(nn.Module):
    """A network that is recorded, of layers in a block."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        return self.out(self.block(x))


def test_twins_go_with_their_runs():
    net = _InABlock()
    X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)

    def count():
        return sum(type(o) is _InABlock for o in gc.get_objects())

    gc.collect()
    gc.disable()  # it would find them in the end
    try:
        before = count()
        sklrp.explain(net, X)
        assert count() == before + 1  # which the next call takes
        sklrp.explain(net, X)
        assert count() == before + 1
        del net
        assert count() == before - 1
    finally:
        gc.enable()


@pytest.mark.parametrize("batch_size", [None, 5])
def test_weights_and_activations_go_with_the_network(batch_size):
    """What the collector of circles alone would find stays on an accelerator until it runs."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            self.layer.last = self.layer(x)
            return self.layer.last + 0.0

    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    gc.collect()
    gc.disable()
    try:
        net, before = Net(), len([o for o in gc.get_objects() if type(o) is nn.Linear])
        sklrp.explain(net, X, batch_size=batch_size)
        weight = weakref.ref(net.layer.weight)
        del net
        assert weight() is None
        assert len([o for o in gc.get_objects() if type(o) is nn.Linear]) <= before
    finally:
        gc.enable()


class _Remembering(nn.Module):
    """A network that scales what it is given by how often it has run."""

    def __init__(self, keep):
        super().__init__()
        self.layer, self.child = nn.Linear(3, 2), nn.Module()
        self.count, self.calls, self.by_name = 0, [], {}
        self.nested, self.child.calls = {"calls": []}, {7}
        self.keep = keep

    def forward(self, x):
        factor = 1 + getattr(self, f"keep_{self.keep}")()
        return self.layer(x * factor)

    def keep_number(self):
        self.count += 1
        return self.count

    def keep_list(self):
        self.calls.append(self.calls)
        return len(self.calls)

    def keep_dict(self):
        self.by_name[f"call {len(self.by_name)}"] = 1
        return len(self.by_name)

    def keep_nested(self):
        self.nested["calls"].append(1)
        return len(self.nested["calls"])

    def keep_set(self):
        self.child.calls.add(len(self.child.calls))
        return len(self.child.calls)

    def keep_attribute(self):
        self.child.size = getattr(self.child, "size", 0) + 1
        return self.child.size

    def keep_tensor(self):
        self.child.register_buffer("state", getattr(self.child, "state", torch.zeros(())) + 1)
        return float(self.child.state)

    def keep_hook(self):
        self.child.register_forward_hook(lambda *args: None)
        return len(self.child._forward_hooks)


@pytest.mark.parametrize(
    "keep", ["number", "list", "dict", "nested", "set", "attribute", "tensor", "hook"]
)
def test_no_run_sees_what_another_left(keep):
    net = _Remembering(keep).double()
    X = np.random.default_rng(0).normal(size=(30, 3))
    maps = sklrp.explain(net, X, target=0, rule="epsilon", batch_size=5)
    of_one_run = sklrp.explain(net, X, target=0, rule="epsilon", batch_size=30)
    first = sklrp.explain(net, X[:1], target=0, rule="epsilon")
    np.testing.assert_allclose(maps, of_one_run, rtol=1e-9)
    np.testing.assert_allclose(maps[:1], first, rtol=1e-9)
