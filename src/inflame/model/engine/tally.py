"""Loss and accuracy of many batches, counted where the net runs, so that counting never makes a step wait."""

from __future__ import annotations

import math
from typing import Any, Final, final

import torch
from torch import Tensor

from inflame.model.engine.device import Device

# So many batches wait to be counted together, unless their logits are more numbers than that. Counting takes a dozen
# kernels, whose code a training step doesn't keep in the processor's caches: 200 µs at once, or 30 µs in every step.
_BATCHES: Final = 128
_NUMBERS: Final = 4_000_000


@final
class Tally:
    """Mean loss and accuracy over batches."""

    def __init__(self, place: torch.device) -> None:
        wide = torch.float32 if place.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self.sums = torch.zeros(3, device=place, dtype=wide)  # loss, hits, items
        self._here = place.type == "cpu"  # where reading a number waits for nothing
        self._losses: list[Any] = []
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._size = self._keep = 0

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """One batch; `loss` is the mean over it."""
        if len(y) != self._size or len(self._losses) >= self._keep:
            self.settle()
            self._size, self._keep = len(y), min(_BATCHES, _NUMBERS // max(1, logits.numel()))
        self._losses.append(loss.item() if self._here else loss.detach())
        self._logits.append(logits.detach())
        self._labels.append(y)

    def settle(self) -> Tensor:
        """The sums, with all batches in them."""
        if self._losses:
            wide, labels = self.sums.dtype, torch.cat(self._labels)
            hits = torch.cat(self._logits).argmax(1) == (labels if labels.dim() == 1 else labels.argmax(1))
            loss = sum(self._losses) if self._here else torch.stack(self._losses).sum(dtype=wide)
            self.sums[0] += loss * self._size
            self.sums[1] += hits.sum(dtype=wide)
            self.sums[2] += self._size * len(self._losses)
            for waiting in (self._losses, self._logits, self._labels):
                waiting.clear()
        return self.sums

    def means(self, device: Device) -> dict[str, float]:
        """`{"loss", "accuracy", "n"}` over all processes. Waits for the device."""
        loss, hits, n = device.reduce(self.settle()).tolist()
        return {"loss": loss / n if n else math.nan, "accuracy": hits / n if n else math.nan, "n": n}
