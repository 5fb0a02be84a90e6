"""The code of the README and of the how-tos runs as it stands, block after block."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sklrp import explain
from sklrp.propagation.step import HANDLERS

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_code_blocks_run(blocks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    accuracy, share, *verdicts = capsys.readouterr().out.splitlines()
    accuracy, share = float(accuracy), float(share)
    assert accuracy > 0.8
    # The box has 4.4 % of the ocean cells; a map of nothing would give it about that much.
    assert share > 0.06
    assert verdicts == [
        "z_plus artifact ['randomization', 'faithfulness']",
        "epsilon fact []",
        "True",
    ]
    assert namespace["relevance"].shape == namespace["sst"].data.shape
    assert namespace["rule"].get_params()["conv__gamma"] == 0.5
    assert "relevance__rule" in namespace["search"].param_grid


def test_files_that_it_names_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    missing = [link for link in links if not (README.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", ["networks.md", "adding_a_layer.md", "trust.md"])
def test_code_of_how_tos_runs_and_prints_what_they_say(page, tmp_path, monkeypatch, capsys):
    """Every block of Python runs, in order; a block without a language is what was printed."""
    monkeypatch.chdir(tmp_path)
    text = (README.parent / "docs" / page).read_text(encoding="utf-8")
    namespace, known = {"__name__": page}, dict(HANDLERS)
    try:
        for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
            if language == "python":
                exec(compile(block, page, "exec"), namespace)
            else:
                assert capsys.readouterr().out == block
        if page == "adding_a_layer.md":
            check_added_layers(namespace)
    finally:
        HANDLERS.clear()
        HANDLERS.update(known)


def check_added_layers(namespace):
    """The how-to's two made-up layers: relevance sums to the score, and takes every rule."""
    torch.manual_seed(0)
    net = nn.Sequential(
        namespace["Scaled"](4, 6), namespace["Tent"](), nn.Linear(6, 2, bias=False)
    ).double()
    same = nn.Sequential(nn.Linear(4, 6, bias=False), namespace["Tent"](), net[2]).double()
    with torch.no_grad():
        same[0].weight.copy_(2 * net[0].weight)
    X = np.random.default_rng(0).normal(size=(5, 4))
    for rule in ("epsilon", "gamma", "alpha_beta", "w_square"):
        relevance, details = explain(net, X, rule=rule, return_details=True)
        np.testing.assert_allclose(relevance, explain(same, X, rule=rule), rtol=1e-12)
        kept = sum(layer.epsilon + layer.dropped for layer in details.layers)
        np.testing.assert_allclose(relevance.sum(1) + kept, details.score, rtol=1e-9)
