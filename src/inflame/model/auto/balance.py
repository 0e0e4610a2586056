"""Unequal classes: answers corrected for how often each class was seen, where held-out items say that this helps.

A net that saw ninety of one kind and ten of another learns to answer the first in doubt. Taking the logarithm of a
class's share from its logit undoes that (logit adjustment; Menon et al., 2021, arXiv:2007.07314): the best answer is
then the one with the best balanced accuracy, the mean of the classes' recalls.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inflame.model.engine import metrics, nets
from inflame.model.engine.conclude import Floats, Model

from .ladder import Ladder

RATIO = 3.0  # the largest class is so many times the smallest: unequal

Labels = NDArray[np.int64]


def uneven(labels: Labels, classes: int) -> float:
    """How many times as large as the smallest class the largest is; of classes without an item, as if they had one."""
    counts = np.bincount(labels, minlength=classes)
    return float(counts.max() / max(counts.min(), 1))


def offsets(labels: Labels, classes: int) -> Floats:
    """What is added to each class's logit [K]: minus the logarithm of its share of the training items."""
    counts = np.bincount(labels, minlength=classes) + 1.0
    found: Floats = -np.log(counts / counts.sum()).astype(np.float32)
    return found


def balanced(ladder: Ladder, model: Model, train: Labels, *, classes: int) -> Model:
    """The model, or the same with corrected answers where classes are unequal and the held-out items say it is better.

    It costs nothing when it is used: the correction is part of the last layer.
    """
    ratio = uneven(train, classes)
    if ratio <= RATIO or not ladder.session.settings.hyperparam.balance:
        return model
    by = offsets(train, classes)
    logits: Floats = model.logits + by
    before, after = (metrics.balanced(model.labels, found.argmax(axis=1)) for found in (model.logits, logits))
    note = f"balanced accuracy {before:.3f} → {after:.3f}; the largest class is {ratio:.0f} times the smallest"
    if not ladder.climb("balanced", model.logits, logits, model.labels, note=note, even=True):
        return model
    how = f"{model.how}, answers corrected for unequal classes"
    return dataclasses.replace(model, net=shifted(model.net, by), logits=logits, how=how)


def shifted(net: nets.Classifier, by: Floats) -> nets.Classifier:
    """The net with `by` [K] added to its logits, in the bias of its last layer; the net that was given stays."""
    head = copy.deepcopy(net.head)
    last: Any = head[-1] if isinstance(head, nn.Sequential) else head
    spec = net.spec
    if last.bias is None:
        last.bias = nn.Parameter(torch.zeros(last.out_features))
        spec = {**spec, "bias": True}
    with torch.no_grad():
        last.bias += torch.from_numpy(by).to(last.bias)
    return nets.Classifier(net.body, head, spec)
