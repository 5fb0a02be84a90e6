"""Networks that cannot be drawn anew or copied: what needs others of their kind is undecided."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from sklrp.diagnostics import artifact_map, audit, diagnose, randomization_test, skill_map

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 8)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
HELD_OUT = {"X": X[80:], "y": Y[80:], "X_train": X[:80], "n_permutations": 3, "random_state": 0}


class _Positioned(nn.Module):
    """Has a parameter of its own that nothing draws."""

    def __init__(self):
        super().__init__()
        self.pos, self.dense = nn.Parameter(torch.zeros(8)), nn.Linear(8, 2)

    def forward(self, x):
        return self.dense(x + self.pos)


class _Locked(nn.Module):
    """Holds what nothing can copy."""

    def __init__(self):
        super().__init__()
        self.dense, self.lock = nn.Linear(8, 2), threading.Lock()

    def forward(self, x):
        with self.lock:
            return self.dense(x)


class _Once(nn.Linear):
    """Has a start that fails."""

    is_built = False

    def reset_parameters(self):
        if self.is_built:
            raise RuntimeError("the file of starts is gone")
        super().reset_parameters()
        self.is_built = True


class _Fixed(nn.Module):
    """Has no parameters at all."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.zeros(2, 8))

    def forward(self, x):
        return x @ self.weight.T


def trained(net):
    dense = next((m for m in net.modules() if isinstance(m, nn.Linear)), net)
    with torch.no_grad():
        dense.weight.copy_(0.3 * torch.from_numpy(np.random.default_rng(1).normal(size=(2, 8))))
        dense.weight[:, 0] = torch.tensor([-2.0, 2.0])
    return net.eval()


KINDS = {
    "a parameter without a start": (lambda: _Positioned(), "'pos' .* has no start.*reset_param"),
    "a lock": (lambda: _Locked(), "cannot pickle '_thread.lock' object.*copy.deepcopy"),
    "a start that fails": (lambda: nn.Sequential(_Once(8, 2)), "RuntimeError: the file of starts"),
    "no parameters": (lambda: _Fixed(), "no layer with parameters"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_needs_untrained_networks_is_undecided(kind):
    make, why = KINDS[kind]
    net = trained(make())
    report = diagnose(net, mask=np.arange(8) == 0, **HELD_OUT)
    assert report.verdict == "undecided", report
    assert report.reasons == ["true"]
    assert {n: report.questions[n].verdict for n in ("skilled", "true", "learned", "used")} == {
        "skilled": "fact", "true": "undecided", "learned": "undecided", "used": "fact"
    }  # fmt: skip
    text, page = repr(report), report._repr_html_()
    assert "nan" not in text
    assert "  learned       undecided            –" in text.splitlines()
    (said,) = [said for said in report.assumptions if "cannot be drawn anew" in said]
    for words in (said, report.questions["true"].advice, report.questions["learned"].advice):
        assert "cannot be drawn anew" in words
    with pytest.raises(AssertionError, match=why):  # what helps is in the words
        raise AssertionError(said)
    assert "cannot be drawn anew" in page
    assert ">nan" not in page
    assert len(report.to_frame())
    assert report.questions["learned"].plot()
    assert "mask" not in report.reasons
    found = artifact_map(net, **HELD_OUT)
    assert (found.verdict, bool(found.fact[0])) == ("undecided", True)
    assert said in found.assumptions
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        randomization_test(net, X[80:], n_permutations=3, random_state=0)


def test_a_network_that_cannot_be_copied_is_asked():
    net = trained(_Locked()).train()
    found = skill_map(net, X[80:], Y[80:], X_train=X[:80], n_permutations=99, random_state=0)
    assert found.true.tolist() == [True] + [False] * 7
    assert net.training
    assert net.lock is not None
    assert "cannot be copied" in audit(net, X[80:], random_state=0).skipped["training_mode"]


def test_a_net_that_starts_from_such_a_module_trains_no_clones():
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(trained(_Positioned()), max_epochs=1, verbose=0).initialize()
    report = diagnose(net, y_train=Y[:80].astype(np.int64), n_refits=2, **HELD_OUT)
    assert report.assumptions[-1] == (
        "Tests that train clones were left out, as the module from which it starts cannot be "
        "drawn anew."
    )
