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
    return adam(groups(net, learning_rate, weight_decay), betas=(0.9, 0.98))


def adam(groups: list[dict[str, object]], *, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW over `groups`, each of which says its own rate and decay, with one kernel for all: a seventh less time in
    training a small net on a CPU. Weights, gradients and moments must lie alike in memory, see `align`."""
    return torch.optim.AdamW(groups, betas=betas, fused=True)


def sgd(net: nn.Module, *, learning_rate: float, weight_decay: float, momentum: float = 0.9) -> torch.optim.SGD:
    """SGD with Nesterov momentum over every parameter that wants a gradient.

    weight_decay is decoupled: the share of every weight that a step at the full rate takes away, whatever the rate.
    """
    wanted = [p for p in net.parameters() if p.requires_grad]
    decay = weight_decay / learning_rate
    return torch.optim.SGD(wanted, lr=learning_rate, weight_decay=decay, momentum=momentum, nesterov=momentum > 0)


def align(optimizer: torch.optim.Optimizer) -> None:
    """Lays the moments out as their weights are: a checkpoint may come from another layout, and fused kernels go
    through both as they lie in memory."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            alike = isinstance(value, torch.Tensor) and value.shape == weight.shape
            if alike and not hasattr(value, "full_tensor") and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


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


def linear(rate: float, *, size: int, usual: int) -> float:
    """The learning rate of SGD for batches of `size`, where `rate` suits `usual` ones: grows with them (Goyal et al.,
    2017, arXiv:1706.02677)."""
    return rate * size / usual


def root(rate: float, *, size: int, usual: int) -> float:
    """The same for Adam and its kin: grows with the square root (Malladi et al., 2022, arXiv:2205.10287)."""
    return rate * math.sqrt(size / usual)


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
