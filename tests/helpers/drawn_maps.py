"""A classifier whose maps are given, so that a test of maps can be held against what is known."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin

from sklrp.diagnostics.explained import Explained


class Drawn(ClassifierMixin, BaseEstimator):
    """A classifier whose maps are given; null models have other maps."""

    classes_ = np.array([0, 1])
    module_ = torch.nn.Linear(1, 1)

    def __init__(self, maps, nulls=None, score=1.0):
        self.maps, self.nulls, self.score = maps, nulls, score
        self.is_fitted_ = True
        self.input_shape_ = maps.shape[1:]

    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.zeros(len(X), dtype=int)

    def explain(self, X, *, target=None, return_details=False, **params):
        maps = self.maps[: len(X)]
        trained = getattr(self, "weight", None) is None or self.weight == self.module_.weight
        if self.nulls is not None and not trained:
            maps = self.nulls[: len(X)]
        score = np.full(len(X), self.score)
        details = type("Details", (), {"score": score, "layers": []})
        return (maps, details) if return_details else maps


def drawn(maps, nulls=None, X=None, y=None):
    """Explain samples with the given maps, and with other maps by random networks."""
    estimator = Drawn(maps, nulls)
    if y is not None and y.dtype.kind in "iu":
        estimator.classes_ = np.unique(y)
    estimator.module_ = torch.nn.Linear(1, 1)
    estimator.weight = estimator.module_.weight.item()
    X = np.ones_like(maps) if X is None else X
    return Explained(estimator, X, y, random_state=0)
