"""Diagnoses of a number that is made of several outputs, against a network of that one output."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sklrp.diagnostics import artifact_map, diagnose
from tests.helpers.planted.values import field_ahead

FEW = {"n_permutations": 3, "max_samples": 12, "random_state": 0}
REGION = np.zeros((4, 5), dtype=bool)
REGION[1, 2:4] = True


@pytest.fixture(scope="module")
def case():
    return field_ahead(0)


def single(network, cells):
    """Return the network with the sum of some cells of its field as its only output."""
    *body, last = copy.deepcopy(network)
    dense = nn.Linear(64, 1)
    with torch.no_grad():
        dense.weight[:] = last.dense.weight[cells].sum(0)
        dense.bias[:] = last.dense.bias[cells].sum(0)
    return nn.Sequential(*body, dense)


class Named(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return {"field": self.network(x), "other": self.network(x).sum((1, 2))}


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    ("target", "cells"),
    [
        ((1, 2), [7]),
        (REGION, [7, 8]),
        (REGION.astype(float), [7, 8]),
        (lambda y: y[:, 1, 2:4].sum(1), [7, 8]),
        (("field", 1, 2), [7]),
    ],
    ids=["cell", "mask", "weights", "function", "name"],
)
def test_a_diagnosis_is_of_the_number(case, target, cells):
    is_named = isinstance(target, tuple) and target[0] == "field"
    network = Named(case.model) if is_named else case.model
    y = case.y.reshape(len(case.y), -1)[:, cells].sum(1)
    report = diagnose(network, case.X, case.y, target=target, rule="epsilon", **FEW)
    expected = diagnose(single(case.model, cells), case.X, y, rule="epsilon", **FEW)
    assert report.tests["skilled"].statistic > 0.5
    for test in ("skilled", "used"):  # others draw untrained networks
        found = report.tests[test].statistic
        assert found == pytest.approx(expected.tests[test].statistic, rel=1e-3, abs=1e-4), test
    for name in ("mean", "skill"):
        np.testing.assert_allclose(report.picture[name], expected.picture[name], atol=1e-4)


def test_the_truth_may_be_of_the_number_or_lack_values_elsewhere(case):
    y = case.y.copy()
    y[:, 3] = np.nan  # land
    params = {"target": (1, 2), "rule": "epsilon", **FEW}
    whole = diagnose(case.model, case.X, y, **params)
    own = diagnose(case.model, case.X, case.y[:, 1, 2], **params)
    assert own.tests["skilled"].statistic > 0.5
    assert whole.tests["skilled"].statistic == pytest.approx(own.tests["skilled"].statistic)


def test_artifact_map_of_a_region(case):
    found = artifact_map(case.model, case.X, case.y, target=REGION, rule="epsilon", **FEW)
    cells = [7, 8]
    y = case.y.reshape(len(case.y), -1)[:, cells].sum(1)
    expected = artifact_map(single(case.model, cells), case.X, y, rule="epsilon", **FEW)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-4)


@pytest.mark.parametrize(("target", "message"), [
    ((4, 2), r"index 4 of axis 0 must lie in 0\.\.3"),
    (None, r"target=None, but the network returns 20 values"),
    (REGION[:3], r"must have the output's shape \(4, 5\)"),
    ("field", r"must name an output"),
    ("all", r"one of 20 values"),
])  # fmt: skip
def test_targets_that_do_not_fit_are_refused(case, target, message):
    with pytest.raises(ValueError, match=message):
        diagnose(case.model, case.X, case.y, target=target, **FEW)
