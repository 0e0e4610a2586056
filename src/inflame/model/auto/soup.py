"""The mean of the weights of several nets: where they were tuned from one beginning it is often better than each, and
costs nothing when it is used (model soups; Wortsman et al., 2022, arXiv:2203.05482)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from inflame.model.engine import nets


def stirred(given: Sequence[nets.Classifier]) -> nets.Classifier:
    """A net of the mean weights and statistics of nets that have the same shape; those stay as they are."""
    net, states = copy.deepcopy(given[0]), [one.state_dict() for one in given]
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.stack([state[name].to(value) for state in states]).mean(dim=0))
    return net
