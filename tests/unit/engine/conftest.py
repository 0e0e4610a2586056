"""A net small enough to train in milliseconds, with everything that makes exact resume hard: batch norm and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner


class Batches:
    """Batches whose order is a function of (seed, epoch); `given` remembers which were given."""

    def __init__(self, items: int = 96, size: int = 16, *, seed: int = 0, shuffle: bool = True) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(items, 1, 8, 8, generator=generator)
        self.y = (self.x[:, 0, :4].mean((1, 2)) > self.x[:, 0, 4:].mean((1, 2))).long() + (
            self.x[:, 0, 0, 0] > 1
        ).long()
        self.size, self.seed, self.shuffle = size, seed, shuffle
        self.given: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return math.ceil(len(self.y) / self.size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        order = torch.randperm(len(self.y), generator=generator) if self.shuffle else torch.arange(len(self.y))
        for index in range(start, len(self)):
            self.given.append((epoch, index))
            rows = order[index * self.size : (index + 1) * self.size]
            yield self.x[rows], self.y[rows]


def tiny_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 3)
    )


@pytest.fixture
def batches() -> type[Batches]:
    return Batches


@pytest.fixture
def make_learner() -> Callable[..., Learner]:
    """Makes a learner, the same each time; keywords change its parts (`rate`, and those of `Learner`)."""

    def make(rate: float = 0.05, **changes: Any) -> Learner:
        net = changes.pop("net", None) or tiny_net()
        parts: dict[str, Any] = {
            "net": net,
            "criterion": nn.CrossEntropyLoss(),
            "optimizer": torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9),
            "train_loader": Batches(),
            "val_loader": Batches(40, shuffle=False),
            "schedule": lambda progress: 1 - progress,
            "device": One("cpu"),
        }
        return Learner(**{**parts, **changes})

    return make


class Losses:
    """A hook that remembers every step's loss, bit by bit."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def before_step(self, learner: Learner) -> None:
        self.values.append(learner.value.item())


@pytest.fixture
def losses() -> type[Losses]:
    return Losses


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@pytest.fixture
def same() -> Callable[[Any, Any], bool]:
    """Whether two states are equal to the last bit."""
    return _same
