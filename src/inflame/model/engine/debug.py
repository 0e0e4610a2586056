"""Looks at a training that puzzles: `debug=overfit` (can it learn one batch?), `debug=tiny` (does the whole road hold?)
and `debug=profile` (where does the time go?)."""

from __future__ import annotations

import gzip
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from inflame import store
from inflame.config import Settings
from inflame.model.engine.learner import Learner, Loader, TimeBudget
from inflame.model.engine.progress import Progress

ITEMS, EPOCHS = 60, 2  # of a tiny training
STEPS, ENOUGH = 300, 0.02  # of overfitting: at most so many steps, until the loss has fallen to this share
WARM, MEASURED = 3, 20  # steps of a profile
TRACE: Final = "profile.json.gz"

Say = Callable[[str, str], None]


class Seen(Exception):
    """Ends a training that was only looked at; `result` is what was seen, as JSON."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("looked at, not trained")
        self.result = result


def tiny(settings: Settings) -> Settings:
    """The same settings for a few items and epochs: data, net, test, bundle and report in seconds."""
    values = settings.hyperparam.to_json()
    if "num_epochs" in values:
        values["num_epochs"] = EPOCHS
    hyperparam = type(settings.hyperparam).from_json(values)
    return replace(settings, limit=min(settings.limit or ITEMS, ITEMS), hyperparam=hyperparam, budget=None)


def overfit(learner: Learner, say: Say) -> dict[str, Any]:
    """Trains on the first batch alone: a net that can't learn that by heart has a bug, or a learning rate that is off
    by far (Karpathy, 2019, "A recipe for training neural networks"). The loss is compared with its least value, which
    label smoothing keeps above zero."""
    one = _Again(learner.train_loader)
    learner.train_loader, learner.val_loader = one, None
    learner.hooks, learner._calls = [], {event: [] for event in learner._calls}
    learner.schedule = lambda progress: 1.0
    watch = _Watch()
    learner.add(watch)
    learner.add(Progress(say=lambda line: say("overfit", line)))
    learner.fit(STEPS)
    first, last, steps = watch.losses[0], watch.losses[-1], len(watch.losses)
    learned = watch.right >= 0.99 and last < first
    verdict = "net, loss and labels fit together" if learned else "it doesn't learn even that: look for a bug"
    say("overfit", f"{len(one.y)} items: loss {first:.3g} → {last:.3g}, {watch.right:.0%} right, {steps} steps")
    say("overfit", verdict)
    return {
        "debug": "overfit",
        "learned": learned,
        "items": len(one.y),
        "steps": steps,
        "first_loss": first,
        "last_loss": last,
        "accuracy": watch.right,
    }


def profile(learner: Learner, folder: Path, say: Say) -> dict[str, Any]:
    """Where the time of a step goes, measured over `MEASURED` steps, and a trace for chrome://tracing in `folder`."""
    clock = _Clock(learner)
    learner.train_loader = _Timed(learner.train_loader, clock, WARM + MEASURED)
    learner.val_loader = None
    activities = [torch.profiler.ProfilerActivity.CPU]
    if learner.device.place.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as traced:
        learner.fit(1, budget=TimeBudget())
    parts = clock.shares()
    width = max(len(name) for name in parts)
    total = sum(parts.values())
    for name, seconds in parts.items():
        say("profile", f"{name:<{width}} {1e3 * seconds:9.3f} ms a step {seconds / total:5.0%}")
    for row in _costly(traced):
        say("profile", row)
    plain = folder / TRACE.removesuffix(".gz")
    traced.export_chrome_trace(str(plain))
    with store.atomic(folder / TRACE) as part, plain.open("rb") as source, gzip.open(part, "wb") as file:
        shutil.copyfileobj(source, file)
    plain.unlink()
    say("profile", f"the trace, for chrome://tracing or ui.perfetto.dev: {folder / TRACE}")
    return {
        "debug": "profile",
        "steps": clock.steps,
        "milliseconds": {name: round(1e3 * seconds, 4) for name, seconds in parts.items()},
        "trace": str(folder / TRACE),
    }


def _costly(traced: Any, most: int = 5) -> list[str]:
    """The operations that took most time themselves."""
    found = sorted(traced.key_averages(), key=lambda row: -row.self_cpu_time_total)[:most]
    everything = max(1e-9, sum(row.self_cpu_time_total for row in traced.key_averages()))
    return [f"{row.self_cpu_time_total / everything:5.0%}  {row.key[:60]} ({row.count} calls)" for row in found]


@final
class _Again:
    """The first batch of a loader, as a whole epoch of one step."""

    def __init__(self, loader: Loader) -> None:
        self.x, self.y = next(iter(loader.epoch(0)))
        self.whole = getattr(loader, "whole", None)  # where it makes a share of each batch

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batch, unless it was had."""
        yield from [(self.x, self.y)][start:]


@final
class _Watch:
    """Ends the training when the batch is known by heart."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.right = 0.0

    def after_epoch(self, learner: Learner) -> None:
        """One batch is one epoch here."""
        from inflame.model.engine.learner import CancelFit

        self.losses.append(learner.metrics["loss"])
        self.right = learner.metrics["accuracy"]
        if self.right == 1.0 and self.losses[-1] <= ENOUGH * self.losses[0]:
            raise CancelFit


@final
class _Clock:
    """Seconds between the marks of a step, added up; a GPU is waited for at each mark."""

    NAMES: Final = ("data", "forward", "backward", "step", "overhead")

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.sums = dict.fromkeys(self.NAMES, 0.0)
        self.steps = 0
        self._last = 0.0
        learner.add(self)

    def mark(self, name: str) -> None:
        """What went by since the last mark was `name`."""
        if self.learner.device.place.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.sums[name] += now - self._last
        self._last = now

    def begin(self) -> None:
        """Forgets what was warming up."""
        self.sums = dict.fromkeys(self.NAMES, 0.0)
        self.steps = 0

    def before_backward(self, learner: Learner) -> None:
        """The loss is there."""
        self.mark("forward")

    def before_step(self, learner: Learner) -> None:
        """The gradients are there."""
        self.mark("backward")

    def after_batch(self, learner: Learner) -> None:
        """The weights are changed, and all hooks before this one were told."""
        self.mark("step")
        self.steps += 1

    def shares(self) -> dict[str, float]:
        """Seconds a step of each part."""
        return {name: self.sums[name] / max(1, self.steps) for name in self.NAMES}


@final
class _Timed:
    """A loader whose work is measured, and which ends after so many batches."""

    def __init__(self, loader: Loader, clock: _Clock, most: int) -> None:
        self.loader, self.clock, self.most = loader, clock, most
        self.whole = getattr(loader, "whole", None)  # where it makes a share of each batch

    def __len__(self) -> int:
        return min(self.most, len(self.loader))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches, timed."""
        batches = iter(self.loader.epoch(epoch, start))
        self.clock._last = time.perf_counter()
        for number in range(len(self)):
            if number == min(WARM, len(self) - 1):
                self.clock.begin()
            else:
                self.clock.mark("overhead")
            batch = next(batches, None)
            if batch is None:
                return
            self.clock.mark("data")
            yield batch
