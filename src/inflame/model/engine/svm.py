"""Linear SVMs of sparse texts, one against the rest. Without torch, since other processes load this module to fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Floats = NDArray[np.float32]


def scores(x: Any, labels: Labels, out: Any, classes: int, strength: float) -> Floats:
    """What an SVM fitted on x [N,V] (scipy CSR) and labels [N] says to the rows of `out` [M,V]: [M,K]."""
    weight, bias = matrix(x, labels, classes, strength)
    return np.asarray(out @ weight + bias, dtype=np.float32)


def matrix(x: Any, labels: Labels, classes: int, strength: float) -> tuple[Floats, Floats]:
    """Weights [V,K] and bias [K] of SVMs with squared hinge loss (C: `strength`); a class that is absent gets weights
    of 0."""
    weight, bias = np.zeros((x.shape[1], classes), np.float32), np.full(classes, -1.0, np.float32)
    present = np.unique(labels)
    if len(present) < 2:  # the other folds have no text of any other class
        bias[present] = 1.0
        return weight, bias
    from sklearn.svm import LinearSVC

    fitted = LinearSVC(C=strength, tol=0.5, random_state=0).fit(x, labels)
    if len(present) == 2:
        low, high = present
        weight[:, high], bias[high] = fitted.coef_[0], fitted.intercept_[0]
        weight[:, low], bias[low] = -fitted.coef_[0], -fitted.intercept_[0]
    else:
        weight[:, present], bias[present] = fitted.coef_.T, fitted.intercept_
    return weight, bias
