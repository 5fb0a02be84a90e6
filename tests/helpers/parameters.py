"""Random parameters for layers and networks, so that no weight, bias or statistic is special.

Called by nearly every test of relevance.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def randomised(model, seed=0, bias=True):
    """`model` in float64 and evaluation mode, with random parameters and statistics."""
    rng = np.random.default_rng(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            shape = tuple(parameter.shape)
            values = rng.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
            if len(shape) == 1:
                values = 0.5 * values if bias else np.zeros(shape)
            parameter.copy_(torch.from_numpy(np.asarray(values)))
        for module in model.modules():
            if isinstance(module, NORMS):
                size = module.num_features
                module.running_mean.copy_(torch.from_numpy(rng.normal(size=size)))
                module.running_var.copy_(torch.from_numpy(rng.uniform(0.5, 2.0, size=size)))
                if module.weight is not None:
                    module.weight.copy_(torch.from_numpy(rng.uniform(-1.5, 1.5, size=size)))
    return model
