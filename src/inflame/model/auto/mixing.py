"""Batches of mixed items: each has a share of another one, and a label to match."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from inflame.artifact.augment import mix
from inflame.artifact.loader import Batches


class Mixed:
    """The batches of a loader as mixup, or CutMix, or one after the other where both are wanted (alphas of the Beta
    that shares are drawn from; 0: not). Labels float32 [B,classes]. What is mixed follows from (seed, epoch, batch)."""

    def __init__(self, batches: Batches, *, classes: int, mixup: float, cutmix: float) -> None:
        self.batches, self.classes, self.mixup, self.cutmix = batches, classes, mixup, cutmix

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def room(self) -> int:
        """Bytes that all pictures take."""
        return self.batches.room

    def on(self, device: torch.device, *, held: bool) -> Mixed:
        """The same, mixed on `device` (see `Batches.on`)."""
        there = self.batches.on(device, held=held)
        return Mixed(there, classes=self.classes, mixup=self.mixup, cutmix=self.cutmix)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start + 1`, … of `epoch`."""
        for batch, (x, y) in enumerate(self.batches.epoch(epoch, start), start):
            step = epoch * len(self) + batch
            cut = bool(self.cutmix) and (not self.mixup or step % 2 == 1)
            alpha = self.cutmix if cut else self.mixup
            yield mix(x, y, classes=self.classes, alpha=alpha, seed=self.batches.seed, step=step, cut=cut)


def mixed(batches: Batches, *, classes: int, mixup: float, cutmix: float) -> Batches | Mixed:
    """The loader itself, or with `Mixed` around it where items are to be mixed."""
    return Mixed(batches, classes=classes, mixup=mixup, cutmix=cutmix) if mixup or cutmix else batches
