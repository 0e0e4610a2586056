"""Progressive resizing: the first part of a training sees smaller pictures, so that its steps cost half as much.

Pictures are made smaller, not cut (Howard, 2018, fast.ai for DAWNBench; Tan & Le, 2021, EfficientNetV2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from inflame.model.engine.learner import Learner, plain_step


def growing(*, until: float, scale: float = 0.75) -> Callable[[Learner, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A step for `Learner(step=…)` that shrinks x float32 [N,C,H,W] to `scale` of its side while the share of the
    training that is done is below `until` (0: never)."""

    def step(learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if learner.progress < until:
            side = max(8, round(x.shape[-1] * scale / 2) * 2)
            x = functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
            x = x.contiguous(memory_format=torch.channels_last)
        return plain_step(learner, x, y)

    return step
