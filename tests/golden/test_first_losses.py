"""The first 20 losses of a fixed training: a change that should alter no number shows here that it alters none.

To renew after a change that should: python tests/golden/test_first_losses.py > tests/golden/first_losses.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inflame.model.engine.device import One
from inflame.model.engine.hooks import Clip, Ema
from inflame.model.engine.learner import Learner

GOLDEN = Path(__file__).with_name("first_losses.json")


class Batches:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        self.x = torch.randn(160, 3, 8, 8, generator=generator)
        self.y = torch.randint(0, 4, (160,), generator=generator)

    def __len__(self) -> int:
        return 10

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(160, generator=torch.Generator().manual_seed(epoch))
        for index in range(start, 10):
            rows = order[16 * index : 16 * index + 16]
            yield self.x[rows], self.y[rows]


class Losses:
    def __init__(self) -> None:
        self.values: list[float] = []

    def before_step(self, learner: Learner) -> None:
        self.values.append(learner.value.item())


def first_losses() -> list[float]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(288, 4)
    )
    seen = Losses()
    learner = Learner(
        net=net,
        criterion=nn.CrossEntropyLoss(label_smoothing=0.1),
        optimizer=torch.optim.AdamW(net.parameters(), lr=3e-3),
        train_loader=Batches(),
        val_loader=Batches(),
        schedule=lambda progress: 1 - progress,
        device=One("cpu", threads=1),
        hooks=[seen, Clip(1.0), Ema(0.9)],
    )
    learner.fit(2)
    return seen.values


def test_the_first_20_losses_are_the_golden_ones() -> None:
    assert first_losses() == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-4)  # other CPUs round otherwise


def test_they_are_the_same_bits_each_time() -> None:
    assert first_losses() == first_losses()


if __name__ == "__main__":
    json.dump([round(value, 7) for value in first_losses()], sys.stdout)
    sys.stdout.write("\n")
