"""Accelerators, on a device without the hardware: see `helpers/simulated_device.cpp`.

Each test runs a file of `tests/on_device` in a process of its own, as a device is registered for a
whole process. It takes a compiler of C++, which builds the device once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from sklrp._devices import has_float64, to_host
from tests.helpers import simulated_device

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built():
    """Skip where the device cannot be built; what fails although there is a compiler, fails."""
    if simulated_device.find_compiler() is None:
        pytest.skip("no compiler of C++: the simulated device of tests/helpers cannot be built")
    if Version(torch.__version__) < Version("2.7"):
        pytest.skip("the simulated device of tests/helpers is written for torch 2.7 and later")
    simulated_device.build()


RUNS = [
    (file, way) for file in ("own_networks", "trained_models") for way in simulated_device.WAYS
]
# All take minutes: by default each file runs once, and each kind of device.
if os.environ.get("SKLRP_DEVICES") != "all":
    RUNS = [RUNS[0], RUNS[-1]]


@pytest.mark.parametrize(("file", "dtype"), RUNS)
@pytest.mark.slow
def test_on_the_simulated_device(built, file, dtype):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, f"tests/on_device/{file}.py"],
        cwd=ROOT,
        env={**os.environ, simulated_device.VARIABLE: dtype},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "skipped" not in done.stdout


def test_the_device_is_not_in_this_process():
    with pytest.raises(RuntimeError):
        torch.empty(1, device=simulated_device.NAME)


def test_to_host():
    """Tensors become arrays, alone or in lists, and everything else stays what it is."""
    tensor = torch.tensor([[1.0, 2.0]], requires_grad=True)
    assert to_host(tensor).tolist() == [[1.0, 2.0]]
    assert to_host(tensor.bfloat16()).dtype == "float32"
    assert to_host(torch.tensor(3)) == 3
    assert hash(to_host(torch.tensor(3))) == hash(3)
    assert to_host((torch.tensor(1), "a")) == (1, "a")
    assert to_host([[torch.tensor(1)], 2]) == [[torch.tensor(1)], 2]
    values = {"a": tensor}
    assert to_host(values) is values
    assert has_float64(torch.device("cpu"))
