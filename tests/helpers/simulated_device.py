"""A device without the hardware: built from `simulated_device.cpp`, registered in a process.

`tests/test_devices.py` calls `build`, and `tests/on_device` calls `start` in a process of its own:
a device is registered for a whole process, and other tests must not see it. There tensors are
moved to it by ``.to("simulated")``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import types
from pathlib import Path

import torch
from filelock import FileLock
from torch.utils import cpp_extension

NAME = "simulated"
VARIABLE = "SIMULATED_DEVICE"  # of the environment: how a process has the device
WAYS = ("float64", "float32")  # what it holds at most
_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-std=c++20", "-O0", "-w", "-fPIC", "-shared", "-DAT_PER_OPERATOR_HEADERS")


def find_compiler() -> str | None:
    """Return the path of a compiler of C++, None where there is none."""
    return shutil.which(cpp_extension.get_cxx_compiler())


def build() -> Path:
    """Return the device's library, built where torch keeps extensions unless it is there."""
    told = (torch.__version__, platform.machine(), *_FLAGS)
    key = hashlib.sha256(_SOURCE.read_bytes() + repr(told).encode()).hexdigest()[:16]
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    library = Path(root) / f"sklrp_simulated_device_{key}.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{library}.lock"):
        if not library.exists():
            new = library.with_suffix(f".{os.getpid()}")
            command = [find_compiler(), *_FLAGS, str(_SOURCE), "-o", str(new)]
            command += [f"-I{path}" for path in cpp_extension.include_paths()]
            command += [f"-L{path}" for path in cpp_extension.library_paths()]
            subprocess.run([*command, "-lc10", "-ltorch_cpu"], check=True)
            new.replace(library)
    return library


def holds_float64() -> bool:
    """Tell whether the device of this process has float64."""
    return os.environ.get(VARIABLE) != "float32"


def start(library: Path) -> None:
    """Register the device in this process."""
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _make_module())
    torch.utils.generate_methods_for_privateuse1_backend()
    _register_functions()
    torch.ops.simulated_device.refuse_float64(not holds_float64())


def _make_module() -> types.ModuleType:
    """Return what is to the device as ``torch.cuda`` is to CUDA."""
    device = torch.ops.simulated_device
    module = types.ModuleType(f"torch.{NAME}")
    vars(module).update(
        is_available=lambda: True,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        _lazy_init=lambda: None,
        device_count=lambda: 1,
        current_device=lambda: 0,
        device=lambda _: contextlib.nullcontext(),
        synchronize=lambda _=None: None,
        get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
        manual_seed=device.manual_seed,
        manual_seed_all=device.manual_seed,
        get_rng_state=lambda _=None: device.get_rng_state(),
        set_rng_state=lambda state, _=None: device.set_rng_state(state),
    )
    return module


# What accelerators compute as one function: cells of recurrent layers, and dropout.

_LIBRARY = torch.library.Library("aten", "IMPL")  # what is registered goes when it is let go


def _register_functions() -> None:
    for name, function in _FUNCTIONS.items():
        _LIBRARY.impl(name, function, "PrivateUse1")


def _add(x, h, *biases):
    return sum((bias for bias in biases if bias is not None), x + h)


def _lstm_cell(x, h, c, x_bias=None, h_bias=None):
    i, f, g, o = _add(x, h, x_bias, h_bias).chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * c + i * g
    return o * c.tanh(), c, torch.cat([i, f, g, o], 1)


def _lstm_cell_backward(of_h, of_c, c_before, c, gates, has_bias):
    i, f, g, o = gates.chunk(4, 1)
    of_h = torch.zeros_like(c) if of_h is None else of_h
    through = of_h * o * (1 - c.tanh() ** 2) + (0 if of_c is None else of_c)
    of_gates = torch.cat(
        [
            through * g * i * (1 - i),
            through * c_before * f * (1 - f),
            through * i * (1 - g**2),
            of_h * c.tanh() * o * (1 - o),
        ],
        1,
    )
    return of_gates, through * f, of_gates.sum(0) if has_bias else of_gates.new_empty(0)


def _gru_cell(x, h, state, x_bias=None, h_bias=None):
    r, z, n = _add(x, torch.zeros_like(x), x_bias).chunk(3, 1)
    r_h, z_h, n_h = _add(h, torch.zeros_like(h), h_bias).chunk(3, 1)
    r, z = (r + r_h).sigmoid(), (z + z_h).sigmoid()
    n = (n + r * n_h).tanh()
    return n + z * (state - n), torch.cat([r, z, n, state, n_h], 1)


def _gru_cell_backward(of_h, kept, has_bias):
    r, z, n, state, n_h = kept.chunk(5, 1)
    of_n = of_h * (1 - z) * (1 - n**2)
    of_r, of_z = of_n * n_h * r * (1 - r), of_h * (state - n) * z * (1 - z)
    of_x, of_hidden = torch.cat([of_r, of_z, of_n], 1), torch.cat([of_r, of_z, of_n * r], 1)
    biases = [v.sum(0) if has_bias else v.new_empty(0) for v in (of_x, of_hidden)]
    return of_x, of_hidden, of_h * z, *biases


def _dropout(x, p, train):
    if train is False:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    mask = torch.empty_like(x).bernoulli_(1 - p)
    return x * mask / (1 - p), mask.bool()


_FUNCTIONS = {
    "native_dropout": _dropout,
    "_thnn_fused_lstm_cell": _lstm_cell,
    "_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward,
    "_thnn_fused_gru_cell": _gru_cell,
    "_thnn_fused_gru_cell_backward": _gru_cell_backward,
}
