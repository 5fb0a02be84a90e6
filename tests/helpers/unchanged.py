"""A picture of all that a call could change, taken before and after it."""

from __future__ import annotations

import random

import numpy as np
import torch

from tests.helpers.networks import arrays_of


def snapshot(model, X):
    """Return all that a call may leave behind."""

    def content(value):
        if isinstance(value, dict):
            return {key: content(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [content(one) for one in value]
        if not isinstance(value, torch.Tensor):
            return id(value)
        grad = None if value.grad is None else content(value.grad)
        told = id(value), value.data_ptr(), value._version, value.requires_grad, grad
        return told, value.detach().numpy().tobytes()

    modules = dict(model.named_modules(remove_duplicate=False))
    return {
        "modules": {
            name: (id(m), id(type(m)), id(vars(type(m)).get("forward")))
            for name, m in modules.items()
        },
        "attributes": {name: content(vars(m)) for name, m in modules.items()},
        "input": [(x.tobytes(), x.flags.writeable) for x in arrays_of(X)],
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "NumPy's": np.random.get_state()[1].tobytes(),  # noqa: NPY002
        "Python's": random.getstate(),
        "settings": (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()),
    }


def assert_unchanged(before, after):
    for what, value in before.items():
        assert after[what] == value, f"{what} changed"
