"""The training loop, in plain sight: `fit` → `epoch` → `batch`, and every verb of a step is a short method.

Net, criterion, optimizer, schedule, device and loaders are made in a model's `train.py` and passed in. Nothing has to
be inherited to change the loop: a hook is any object with some of the methods `EVENTS`, and a step is a function.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, Self, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from inflame.errors import DataError, UserError, did_you_mean
from inflame.model.engine import fitting, sharding
from inflame.model.engine.checkpoint import random_state, set_random_state
from inflame.model.engine.device import Device, One
from inflame.model.engine.memory import Parts, joined
from inflame.model.engine.optim import align
from inflame.model.engine.placing import placed
from inflame.model.engine.steps import Careful, plain_step  # noqa: F401 - who writes a step begins with that one
from inflame.model.engine.tally import Tally

EVENTS: Final = (
    "before_fit",
    "before_epoch",
    "before_backward",  # learner.value is the loss
    "before_step",  # the gradients are there, the weights still as they were
    "after_batch",
    "after_epoch",  # learner.metrics is the epoch's row
    "pause",  # after a batch (of validation too) and after an epoch: state_dict() is complete, a moment to save or stop
    "after_fit",  # not after an error
    "close",  # always
)


class Cancel(Exception):
    """What a hook or a step raises to leave a part of the loop early, in good order: a way to go on, no error."""


class CancelBatch(Cancel):
    """No optimizer step for this batch."""


class CancelEpoch(Cancel):
    """No more batches in this epoch; it is validated and closed."""


class CancelFit(Cancel):
    """No more training."""


class Loader(Protocol):
    """Batches `(x, y)`: x float32 [N, C, H, W], normalised; y int64 [N], or float [N, K] for soft labels.

    Their order and content are a function of (seed, epoch): from `start` on an epoch goes as if it had begun at 0.
    Global random generators aren't touched, and labels that were given aren't overwritten.
    """

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches `start`, `start` + 1, … of epoch number `epoch` (from 0)."""


@runtime_checkable
class Shareable(Loader, Protocol):
    """A loader that can make a part of every batch alone. With others each of several processes makes whole batches
    and drops what isn't its own."""

    def share(self, rank: int, world: int) -> Loader:
        """A loader of the same batches, of each every `world`-th item from `rank` on; where there is none, any one."""

    def whole(self, batch: int) -> int:
        """The items of batch number `batch` (from 0), all shares together."""


@final
class TimeBudget:
    """Seconds that training may take, validation and everything else included, from the making of this object on.

    `reserve`: seconds to keep for the last validation, until the learner has measured one. A resume carries over what
    was used before. `clock` gives seconds.
    """

    def __init__(
        self, seconds: float = math.inf, *, reserve: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self.reserve, self._clock = seconds, reserve, clock
        self._zero = clock()

    def carry(self, seconds: float) -> None:
        """Counts `seconds` that were used before this object was made."""
        self._zero -= seconds

    def elapsed(self) -> float:
        """Seconds used."""
        return self._clock() - self._zero

    def left(self) -> float:
        """Seconds that remain, at least 0."""
        return max(0.0, self.seconds - self.elapsed())

    def progress(self) -> float:
        """The share of the time that is used, the reserve left out: 1 is when to stop. 0 where time doesn't end."""
        return 0.0 if self.seconds == math.inf else self.elapsed() / max(self.seconds - self.reserve, 1e-9)


@dataclass(slots=True)
class Place:
    """How far training is: epochs done, batches done in this epoch, batches done in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


class Sizable(Loader, Protocol):
    """A loader whose batches can have another size."""

    batch_size: int

    def sized(self, batch_size: int) -> Self:
        """A loader of the same items in batches of that size."""


def shared(loader: Loader, device: Device) -> Loader:
    """What makes this process's share of each batch, where there are several and the loader can do that."""
    return loader.share(device.rank, device.world) if device.world > 1 and isinstance(loader, Shareable) else loader


@final
class Learner:
    """Runs batches through a net. Everything it uses is an attribute, for hooks and steps to see and to change.

    `schedule(progress)` gives the factor on every group's learning rate, progress from 0 to 1. `scored` is the net
    that is validated: `net`, or the average of its weights when the hook `Ema` keeps one. `lies` says in words where
    the training items lie and why; empty where there was nothing to choose.
    """

    def __init__(
        self,
        *,
        net: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        optimizer: Optimizer,
        train_loader: Loader,
        val_loader: Loader | None = None,
        schedule: Callable[[float], float] = lambda progress: 1.0,
        device: Device | None = None,
        hooks: Sequence[object] = (),
        step: Callable[[Learner, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.net, self.criterion, self.schedule = net, criterion, schedule
        self.device = device or One()
        self.train_loader, self.lies = placed(shared(train_loader, self.device), self.device.place)
        held = val_loader if val_loader is not None and len(val_loader) else None  # of no item nothing can be said
        self.val_loader = None if held is None else placed(held, self.device.place)[0]
        self.model, self.optimizer = self.device.setup(net, optimizer)  # what is called and stepped: maybe wrappers
        self.scored = net
        self.at, self.epochs, self.budget = Place(), math.inf, TimeBudget()
        self.progress = 0.0
        self.fitting = self.suspect = False  # suspect: the loss is where no checkpoint should be saved
        self.metrics: dict[str, float] = {}
        self.x = self.y = self.value = torch.empty(0)  # the batch at hand, and its loss
        self.careful, self.looks = Careful(), Parts()
        self._take = step or self.careful
        self.hooks: list[object] = []
        self._calls: dict[str, list[Callable[[Learner], None]]] = {event: [] for event in EVENTS}
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self._tally = Tally(self.device.place)
        self._carried = 0.0  # seconds of the time budget that were used before a resume
        self._validated, self._validation = 0.0, math.inf  # when the last validation ended, how long the quickest took
        for hook in hooks:
            self.add(hook)

    def add(self, hook: object) -> None:
        """Appends a hook; it is told from the next event on. One with an event that doesn't exist: UserError."""
        _check(hook)
        self.hooks.append(hook)
        for event, calls in self._calls.items():
            if hasattr(hook, event):
                calls.append(getattr(hook, event))

    def fit(self, epochs: int | None = None, *, budget: TimeBudget | None = None) -> dict[str, float]:
        """Trains until `epochs` are done or `budget` is used up, whichever comes first. Gives the last epoch's row.

        before_fit
        while epochs and time are left:
            before_epoch
            for x, y in train_loader, from where a resume starts:
                set the learning rate for the progress made
                predict → loss → before_backward → backward → before_step → step → zero_grad
                after_batch, pause
            validate, with a pause after each batch
            after_epoch, pause
        after_fit
        close, whatever happened
        """
        self._begin(epochs, budget)
        try:
            with suppress(CancelFit):
                self.tell("before_fit")
                while self.at.batch or self._progress() < 1.0:  # an epoch that was begun is closed
                    self.epoch()
            self.tell("after_fit")
        finally:
            self.fitting = False
            self.tell("close")
        return self.metrics

    def epoch(self) -> None:
        """One pass over the training batches, or what is left of it, then validation."""
        self.net.train()
        with suppress(CancelEpoch):
            self.tell("before_epoch")
            for x, y in self.train_loader.epoch(self.at.epoch, self.at.batch):
                self.progress = self._progress()
                if self.progress >= 1.0:
                    break
                self.batch(x, y)
        self.progress = self._progress()
        self.metrics = self._row()
        try:
            self.tell("after_epoch")
        finally:
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
            self._tally = Tally(self.device.place)
        self.tell("pause")

    def batch(self, x: Tensor, y: Tensor) -> None:
        """One step, counted."""
        factor = self.schedule(self.progress)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.x, self.y = x, y = self.device.to(x, y, whole=_whole(self.train_loader, self.at.batch))
        try:
            logits, loss = self._take(self, x, y)
            if self.device.counts:
                self._tally.add(loss, logits, y)
        except CancelBatch:
            self.zero_grad()
        self.at.batch += 1
        self.at.step += 1
        self.tell("after_batch")
        self.tell("pause")

    def predict(self, x: Tensor) -> Tensor:
        """Logits [N, K], in the device's precision."""
        with self.device.autocast():
            logits: Tensor = self.model(x)
        return logits

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The criterion, in float32."""
        return self.criterion(logits if logits.dtype == torch.float32 else logits.float(), y)

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`."""
        self.value = loss
        self.tell("before_backward")
        self.device.backward(loss)

    def step(self) -> None:
        """One step of the optimizer, unless a hook cancels it."""
        self.tell("before_step")
        self.device.step(self.optimizer)

    def zero_grad(self) -> None:
        """Forgets the gradients: what `optimizer.zero_grad()` does, without its profiling, which costs 14 µs."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def tell(self, event: str) -> None:
        """Calls the hooks that have a method of this name. One that cancels doesn't keep the others from being told."""
        cancelled: Cancel | None = None
        for call in self._calls[event]:
            try:
                call(self)
            except Cancel as cancel:
                cancelled = cancel
        if cancelled is not None:
            raise cancelled

    def evaluate(self, loader: Loader) -> dict[str, float]:
        """`{"loss", "accuracy", "n"}` of `scored` on the loader's epoch 0; changes no weight and no buffer."""
        tally, loader = Tally(self.device.place), shared(loader, self.device)
        with _evaluating(self.scored):
            for index, (x, y) in enumerate(loader.epoch(0)):
                x, y = self.device.to(x, y, train=False, whole=_whole(loader, index))
                logits = _answers(self, x)
                if len(y):
                    tally.add(self.loss(logits, y), logits, y)
                if self.fitting:
                    self.tell("pause")
        return tally.means(self.device)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs of this process. Complete whenever hooks are told `pause`; for a file see
        `fitting.gathered`."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "device": self.device.state_dict(),
            "at": asdict(self.at),
            "elapsed": self.budget.elapsed(),
            "tally": self._tally.settle().tolist(),
            "metrics": self.metrics,
            "parts": self.careful.parts,
            "random": random_state(),
            "hooks": {name: hook.state_dict() for name, hook in _remembering(self.hooks)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken. Made for another net or optimizer: CheckpointError."""
        try:
            fitting.require(state["net"], self.net.state_dict())
            state = sharding.parted(state, self.net, self.optimizer)
            self.net.load_state_dict(state["net"])
            self.optimizer.load_state_dict(state["optimizer"])
            align(self.optimizer)
            self.device.load_state_dict(state["device"])
            for name, hook in _remembering(self.hooks):
                if name in state["hooks"]:
                    hook.load_state_dict(state["hooks"][name])
            self.at, self._carried, self.metrics = Place(**state["at"]), state["elapsed"], state["metrics"]
            self.careful.parts = state.get("parts", 1)
            own = fitting.own(state, self.device)
            self._tally.sums.copy_(torch.tensor(own["tally"], dtype=torch.float64))
            set_random_state(own["random"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise fitting.refusal(error) from error

    def _begin(self, epochs: int | None, budget: TimeBudget | None) -> None:
        if epochs is None and budget is None:
            raise UserError("Training would never end.", remedy="Say fit(epochs) or fit(budget=TimeBudget(seconds)).")
        if not len(self.train_loader):
            raise DataError("There is nothing to train on.", remedy="Check the splits: train must have items.")
        budget = budget or TimeBudget()
        budget.carry(self._carried)
        self.budget, self.epochs, self.fitting = budget, math.inf if epochs is None else epochs, True
        self._carried, self._validated = 0.0, budget.elapsed()

    def _progress(self) -> float:
        """What is done of the training, from 0 to 1 (and beyond): of the epochs, or of the time."""
        size = len(self.train_loader)
        done = (self.at.epoch * size + self.at.batch) / (self.epochs * size) if self.epochs else 1.0
        return done if self.budget.seconds == math.inf else max(done, self.device.agree(self.budget.progress()))

    def _row(self) -> dict[str, float]:
        """The epoch's numbers: the one place where the loop waits for the device."""
        train = self._tally.means(self.device)
        row = {"epoch": self.at.epoch + 1, "step": self.at.step, "loss": train["loss"], "accuracy": train["accuracy"]}
        row = row if train["n"] else {key: row[key] for key in ("epoch", "step")}
        if self.val_loader is not None and self._due():
            began = self.budget.elapsed()
            val = self.evaluate(self.val_loader)
            self._validated = self.budget.elapsed()
            # The quickest one: others may have had a checkpoint saved in one of their pauses.
            self._validation = self.budget.reserve = min(self._validation, self._validated - began)
            row |= {"val_loss": val["loss"], "val_accuracy": val["accuracy"]}
        return row | {"lr": self.optimizer.param_groups[0]["lr"], "seconds": self.budget.elapsed()}

    def _due(self) -> bool:
        """Against the clock, validation may have a tenth of the time; the last one is always made."""
        if self.budget.seconds == math.inf or self.progress >= 1.0 or self._validation == math.inf:
            return True
        return self.device.agree(self.budget.elapsed() - self._validated) >= 9 * self.device.agree(self._validation)


def _whole(loader: Loader, batch: int) -> int | None:
    """The items of a batch of which the loader makes a share, as `Device.to` wants it."""
    count = getattr(loader, "whole", None)
    return None if count is None else int(count(batch))


def _answers(learner: Learner, x: Tensor) -> Tensor:
    """What is scored makes of this process's share of a batch, which may be empty."""

    def seen(x: Tensor) -> Tensor:
        with torch.inference_mode(not learner.device.spread), torch.no_grad(), learner.device.autocast():
            logits: Tensor = learner.scored(x)
        return logits

    if learner.device.spread:  # all processes take part in each pass, and alike
        return seen(x)
    return joined(learner.looks(seen, x)) if len(x) else x


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Every module of `net` in evaluation mode, and then back in the mode in which it was, one by one."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _remembering(hooks: Sequence[object]) -> Iterator[tuple[str, Any]]:
    """The hooks with a memory, by names that don't change when others come or go."""
    seen: Counter[str] = Counter()
    for hook in hooks:
        if hasattr(hook, "state_dict"):
            kind = type(hook).__name__
            seen[kind] += 1
            yield (kind if seen[kind] == 1 else f"{kind}-{seen[kind]}"), hook


def _check(hook: object) -> None:
    """A misspelt event would never be told, and nobody would notice."""
    for name in dir(hook):
        if name.startswith(("before_", "after_")) and name not in EVENTS:
            raise UserError(
                f"The hook {type(hook).__name__} has a method {name}, but there is no such event."
                f"{did_you_mean(name, EVENTS)}",
                remedy=f"The events are: {', '.join(EVENTS)}.",
            )
