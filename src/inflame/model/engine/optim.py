"""Optimizers and schedules, made by name in a model's `train.py`.

A schedule is a function of progress in [0, 1] (steps ÷ all steps, or elapsed ÷ budget) to a factor of each
parameter group's own learning rate; stretching one schedule over a time budget is Budgeted Training
(Li et al., 2020, arXiv:1905.04753).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

Schedule = Callable[[float], float]


def adamw(net: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over every parameter that wants a gradient; vectors (biases, norms) are not decayed."""
    return torch.optim.AdamW(groups(net, learning_rate, weight_decay), lr=learning_rate, betas=(0.9, 0.98))


def sgd(net: nn.Module, *, learning_rate: float, weight_decay: float, momentum: float = 0.9) -> torch.optim.SGD:
    """SGD with Nesterov momentum over every parameter that wants a gradient.

    weight_decay is decoupled: the share of every weight that a step at the full rate takes away, whatever the rate.
    """
    wanted = [p for p in net.parameters() if p.requires_grad]
    decay = weight_decay / learning_rate
    return torch.optim.SGD(wanted, lr=learning_rate, weight_decay=decay, momentum=momentum, nesterov=momentum > 0)


def groups(net: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups: matrices with decay, vectors without."""
    wanted = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in wanted if p.ndim > 1], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [p for p in wanted if p.ndim <= 1], "lr": learning_rate, "weight_decay": 0.0},
    ]


def layered(
    layers: Iterable[nn.Module], *, learning_rate: float, weight_decay: float, decay: float
) -> list[dict[str, object]]:
    """Parameter groups with layer-wise learning-rate decay: the last layer has the full rate, each earlier one
    `decay` times the next (Clark et al., 2020, ELECTRA, arXiv:2003.10555)."""
    found: list[dict[str, object]] = []
    for depth, layer in enumerate(reversed(list(layers))):
        found += groups(layer, learning_rate * decay**depth, weight_decay)
    return [group for group in found if group["params"]]


def triangle(warmup: float = 0.2) -> Schedule:
    """Up in a straight line until `warmup`, then down to zero at the end (Smith & Topin, 2018, super-convergence)."""

    def factor(progress: float) -> float:
        if progress < warmup:
            return max(progress / warmup, 1e-3)
        return max((1 - progress) / (1 - warmup), 0.0) if warmup < 1 else 1.0

    return factor


def cosine(warmup: float = 0.1) -> Schedule:
    """Up in a straight line until `warmup`, then half a cosine down to zero (Loshchilov & Hutter, 2017)."""

    def factor(progress: float) -> float:
        if progress < warmup:
            return max(progress / warmup, 1e-3)
        return 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / max(1 - warmup, 1e-9), 1.0)))

    return factor
