"""Relevance by rule zero without this package: torch's own gradient times input, in float64.

For networks of piecewise linear functions both are the same; the tests of networks compare them.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

import sklrp


def gradient_times_input(network, inputs, target=1):
    """Return the relevance of each input, which gets it as floats, and the scores."""
    tensors = [torch.tensor(one) for one in inputs]
    floats = [x.double().requires_grad_() if wants_relevance(x) else x for x in tensors]
    scores = network(*floats)
    sources = [x for x in floats if x.requires_grad]
    found = torch.autograd.grad(scores[:, target].sum(), sources, allow_unused=True)
    gradients = dict(zip(map(id, sources), found, strict=True))
    relevance = []
    for x in floats:
        gradient = gradients.get(id(x))
        part = torch.zeros(x.shape) if gradient is None else x * gradient
        relevance.append(part.detach().numpy())
    return relevance, scores.detach().numpy()


def wants_relevance(x):
    """Lengths, of one axis, are the only inputs that get none."""
    return x.dim() > 1


def assert_is_gradient_times_input(network, *inputs, plain=None, batch_size=None, target=1):
    """Hold scores and relevance of a network against torch's own of `plain`, the same network."""
    n_samples = len(inputs[0])
    size = batch_size or n_samples
    parts = [
        # A copy for each, as a forward may leave attributes changed behind.
        gradient_times_input(
            copy.deepcopy(plain or network), [x[k : k + size] for x in inputs], target
        )
        for k in range(0, n_samples, size)
    ]
    relevance, details = sklrp.explain(
        network, inputs if len(inputs) > 1 else inputs[0], target=target, rule="zero",
        epsilon=0.0, batch_size=batch_size, return_details=True,
    )  # fmt: skip
    relevance = relevance if isinstance(relevance, tuple) else (relevance,)
    scores = np.concatenate([scores[:, target] for _, scores in parts])
    np.testing.assert_allclose(details.score, scores, rtol=1e-9, atol=1e-11)
    for k, found in enumerate(relevance):
        expected = np.concatenate([own[k] for own, _ in parts])
        scale = np.abs(expected).max() + 1e-3
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10 * scale)


def by_differences(network, X, target=1, step=1e-6):
    """Return the gradient by differences, exact to rounding but at a kink, and the scores.

    Unlike autograd it sees what is changed in place through detached tensors.
    """

    def score(x):
        with torch.no_grad():
            return network(torch.tensor(x))[:, target].numpy()

    gradient = np.zeros(X.shape)
    for place in np.ndindex(*X.shape[1:]):
        moved = np.zeros(X.shape)
        moved[(slice(None), *place)] = step
        gradient[(slice(None), *place)] = (score(X + moved) - score(X - moved)) / (2 * step)
    return gradient, score(X)
