"""The table of attention rules: every task is drawn and fits its network, rows are told."""

import numpy as np
import pytest
import torch

from tests import attention_facts


@pytest.mark.sweep(2)
@pytest.mark.parametrize("task", sorted(set(attention_facts.TASKS) - {"streamflow"}))
def test_tasks_fit_their_networks(task):
    draw, pooling, _ = attention_facts.TASKS[task]
    X, y, sizes = draw()
    assert len(X) == len(y)
    assert len(np.unique(y[: len(y) // 2])) == len(np.unique(y))
    network = attention_facts.Transformer(n_outputs=3, pooling=pooling, **sizes).eval()
    assert network(torch.tensor(X[:2], dtype=torch.float32)).shape == (2, 3)


def test_rows_say_what_was_found():
    told = {"task": "a", "score": 0.9, "is_class": True, "rule": "cp", "reasons": ["used"]}
    cells = {"true": 2, "cells": 9, "map": 0.5, "input": 0.25, "untrained": [0.1, 0.2]}
    lines = attention_facts.tabulate(
        [{**told, **cells, "verdict": "artifact"}, {**told, "verdict": "fact", "reasons": []}]
    )
    assert lines[2:] == [
        "| a | accuracy 0.90 | 2 of 9 | cp | 0.50 | 0.25 | 0.10 to 0.20 | artifact: used |",
        "| | | | cp |  | |  | fact |",
    ]
