"""What a person sees while a net trains: how far it is, how good, and how much time is left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TextIO, final

from inflame.model.engine.learner import Learner


@final
class Progress:
    """Shows how far training is and how much time is left: a bar on a terminal, elsewhere at most a dozen lines.

    Lines go to `say` (by default to `stream`), the bar to `stream` (by default stderr).
    """

    LINES: Final = 10

    def __init__(self, *, say: Callable[[str], None] | None = None, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._say = say or self._write
        self._bar: Any = None
        self._shown = 0
        self._next = 0.0
        self._last = ""

    def before_fit(self, learner: Learner) -> None:
        """Draws the bar, on a terminal."""
        if learner.device.main and self._stream.isatty():
            from tqdm import tqdm

            shape = "{desc} {percentage:3.0f}%|{bar}|{postfix}"
            self._bar = tqdm(total=1.0, file=self._stream, bar_format=shape, dynamic_ncols=True, leave=False)

    def pause(self, learner: Learner) -> None:
        """Moves the bar, ten times a second."""
        if self._bar is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.1
            self._draw(learner)

    def after_epoch(self, learner: Learner) -> None:
        """Says a line for the first epoch and for each tenth of the training."""
        self._last = line(learner)
        tenth = int(min(1.0, learner.progress) * self.LINES)
        if learner.device.main and self._bar is None and (tenth > self._shown or self._shown == 0):
            self._shown = max(tenth, 1)
            self._say(self._last)
            self._last = ""

    def close(self, learner: Learner) -> None:
        """Takes the bar away and says how the last epoch was."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._last and learner.device.main:
            self._say(self._last)

    def _write(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def _draw(self, learner: Learner) -> None:
        self._bar.n = min(1.0, learner.progress)
        self._bar.set_description_str(f"epoch {learner.at.epoch + 1}", refresh=False)
        self._bar.set_postfix_str(_numbers(learner.metrics), refresh=False)
        self._bar.refresh()


def line(learner: Learner) -> str:
    """The last epoch in one line: `epoch 3 of 20: loss 0.412, accuracy 88.1 %, …, 12 s, 48 s left`."""
    of = "" if learner.epochs == math.inf else f" of {learner.epochs}"
    time_left = "" if learner.budget.seconds == math.inf else f", {learner.budget.left():.0f} s left"
    row = learner.metrics
    return f"epoch {row['epoch']}{of}: {_numbers(row)}, {row['seconds']:.0f} s{time_left}"


def _numbers(row: dict[str, float]) -> str:
    parts = [f"loss {row['loss']:.3f}, accuracy {row['accuracy']:.1%}"] if "loss" in row else []
    if "val_loss" in row:
        parts.append(f"validation {row['val_loss']:.3f}, {row['val_accuracy']:.1%}")
    return ", ".join(parts) or "no batch"
