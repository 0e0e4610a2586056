"""Loss and accuracy of many batches, counted where the net runs, so that counting never makes a step wait."""

from __future__ import annotations

import math
from typing import Any, Final, final

import torch
from torch import Tensor

from inflame.model.engine.device import Device

# So many batches wait to be counted together, unless their logits are more numbers than that. Counting takes a dozen
# kernels, whose code a training step doesn't keep in the processor's caches: 200 µs at once, or 30 µs in every step.
_BATCHES: Final = 256
_NUMBERS: Final = 4_000_000


@final
class Tally:
    """Mean loss and accuracy over batches."""

    def __init__(self, place: torch.device) -> None:
        wide = torch.float32 if place.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self.sums = torch.zeros(3, device=place, dtype=wide)  # loss, hits, items
        self._here = place.type == "cpu"  # where reading a number waits for nothing
        self._waiting: list[tuple[Any, Tensor, Tensor]] = []
        self._size = self._keep = 0

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """One batch; `loss` is the mean over it."""
        size = y.shape[0]
        if size != self._size or len(self._waiting) >= self._keep:
            self.settle()
            self._size, self._keep = size, min(_BATCHES, _NUMBERS // max(1, logits.numel()))
        self._waiting.append((loss.item() if self._here else loss.detach(), logits.detach(), y))

    def settle(self) -> Tensor:
        """The sums, with all batches in them."""
        if self._waiting:
            losses, logits, labels = zip(*self._waiting, strict=True)
            y, wide = torch.cat(labels), self.sums.dtype
            hits = torch.cat(logits).argmax(1) == (y if y.dim() == 1 else y.argmax(1))
            self.sums[0] += self._size * (sum(losses) if self._here else torch.stack(losses).sum(dtype=wide))
            self.sums[1] += hits.sum(dtype=wide)
            self.sums[2] += self._size * len(losses)
            self._waiting.clear()
        return self.sums

    def means(self, device: Device) -> dict[str, float]:
        """`{"loss", "accuracy", "n"}` over all processes. Waits for the device."""
        loss, hits, n = device.reduce(self.settle()).tolist()
        return {"loss": loss / n if n else math.nan, "accuracy": hits / n if n else math.nan, "n": n}
