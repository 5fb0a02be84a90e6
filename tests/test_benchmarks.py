"""The benchmarks run: every row is there and holds a number. How fast is not asked here."""

from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
import torch

import sklrp

# What the tables are to show, peers aside: a row each at least.
ROWS = {
    "explain / forward + gradient",
    "explain / chunked forward + gradient",
    "forward by hand / nn.Sequential",
    "all of 10 classes / one",
    "clf.explain beyond explain",
    "throughput / that of forward + gradient in batches of 1024",
    "per-sample NumPy loop / explain",
    "exponent of time against samples",
    "exponent of time against features",
    "exponent of time against steps",
    "fit / raw torch loop",
    "skorch's default / fit",
    "predict_proba / forward pass",
    "trainings / (k + 1)",
    "import sklrp",
    "python -m sklrp --help",
    "load / fit",
}
MEMORY = {"peak in one chunk / yardstick", "peak above the output, default chunks"}

esn = importlib.import_module("tests.benchmarks.esn")
main = importlib.import_module("tests.benchmarks.__main__")
shares = importlib.import_module("tests.benchmarks.shares")
written_out = importlib.import_module("tests.benchmarks.written_out")


@pytest.fixture(scope="module")
def sections():
    """The rows of each section, of tiny cases."""
    return dict(main.run(quick=True, n_threads=1))


@pytest.mark.slow
def test_every_row_has_a_number(sections):
    rows = [row for found in sections.values() for row in found]
    expected = ROWS | (MEMORY if sys.platform == "linux" else set())
    assert expected <= {row["what"] for row in rows}
    for row in rows:
        assert math.isfinite(row["ratio"]), row
        # How much slower the estimator is than the engine is within the noise, and so is what
        # tiny cases grow by.
        noisy = row["what"].startswith(("clf.explain", "exponent"))
        assert row["ratio"] > 0 or noisy, row


@pytest.mark.slow
def test_tables_and_what_is_met(sections):
    text = "\n".join(main.table(title, found) for title, found in sections.items())
    n_rows = sum(map(len, sections.values()))
    assert len(text.splitlines()) == n_rows + 4 * len(sections)
    assert "nan" not in text
    given = [main.is_met({"ratio": 1.5, "reach": r}) for r in ("≤ 1.4", "≥ 1.4", "≤ 1.5", "")]
    assert given == [False, True, True, None]


def test_time_is_taken_apart():
    kinds = dict.fromkeys(["addmm", "mkldnn_convolution", "_convolution", "addmv_"], "products")
    kinds |= dict.fromkeys(["copy_", "_to_copy", "as_strided", "zero_"], "moves")
    kinds |= dict.fromkeys(["div", "tanh", "copysign", "topk", "is_nonzero"], "value by value")
    assert {name: shares.find_kind(f"aten::{name}") for name in kinds} == kinds
    x = torch.ones(700, 700)
    for work, part in ((x.mm, 0), (x.pow, 1), (torch.empty_like(x).copy_, 2)):
        _, *parts = shares.take_apart(lambda work=work: [work(x) for _ in range(20)], x.sum, 3)
        assert (
            max(range(3), key=parts.__getitem__) == part
        )  # Python aside, which a busy core adds to


def test_echo_state_networks():
    found = esn.compare_readouts(quick=True)
    assert len(found) == 12
    assert all(0 <= row["|cosine|"] <= 1 + 1e-12 for row in found)
    bare = [row for row in found if row["bias_scale"] == 0 and row["rule"] != "gamma"]
    assert all(abs(row["sum / score"] - 1) < 0.1 for row in bare)  # nothing but epsilon keeps
    leaks = esn.compare_leaks(quick=True)
    assert {(row["sweep"], row["leak_rate"]) for row in leaks} == {
        (sweep, leak) for sweep in ("right", "left") for leak in (0.01, 0.05)
    }
    text = esn.write_table(found) + esn.write_table(leaks)
    assert "nan" not in text


def test_write_between_markers(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("Above.\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nBelow.\n")
    main.write(path, "| new |", main.MARKERS)
    assert path.read_text() == (
        "Above.\n<!-- benchmarks -->\n\n| new |\n\n<!-- /benchmarks -->\nBelow.\n"
    )
    path.write_text("Above.\n")
    with pytest.raises(ValueError, match="must hold the lines"):
        main.write(path, "| new |", main.MARKERS)


def test_machine_is_described():
    assert "2 threads, " in main.machine(2)
    assert "torch 2." in main.machine(2)


def test_what_is_written_out_is_what_is_explained():
    for case, _, explain, model, X, _ in written_out.make_rows(quick=True):
        model, X = model.double(), X.astype(np.float64)
        found = sklrp.explain(model, X, rule="epsilon")
        largest = abs(found).max()
        assert largest > 0, case
        np.testing.assert_allclose(explain(model, X), found, atol=1e-9 * largest, err_msg=case)
