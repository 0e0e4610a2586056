"""Lightning, both ways: our parts under `lightning.Trainer`, and any `LightningModule` on our loop.

Who has Trainer callbacks, strategies or loggers that they need keeps them; who has a LightningModule gets the time
budget, exact resume, bundle and report without rewriting it. The same batches give the same losses either way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from inflame.errors import UserError
from inflame.model.engine.device import Device
from inflame.model.engine.learner import Learner, Loader

_warn = logging.getLogger("inflame").warning

# What a module may have of its own: parts of the step, and what a Trainer tells it.
STEPS = (
    "backward",
    "configure_gradient_clipping",
    "configure_model",
    "lr_scheduler_step",
    "on_after_backward",
    "on_after_batch_transfer",
    "on_before_backward",
    "on_before_batch_transfer",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "optimizer_step",
    "optimizer_zero_grad",
    "transfer_batch_to_device",
)
TOLD = (
    "configure_callbacks",
    "on_fit_end",
    "on_fit_start",
    "on_load_checkpoint",
    "on_save_checkpoint",
    "on_train_batch_end",
    "on_train_batch_start",
    "on_train_end",
    "on_train_epoch_end",
    "on_train_epoch_start",
    "on_train_start",
    "on_validation_batch_end",
    "on_validation_batch_start",
    "on_validation_end",
    "on_validation_epoch_end",
    "on_validation_epoch_start",
    "on_validation_start",
    "prepare_data",
    "setup",
    "teardown",
)


def fit(learner: Learner, epochs: int, **trainer: Any) -> Trainer:
    """Trains the learner's net with its criterion, optimizer, schedule and loaders for `epochs` under a `Trainer` with
    the arguments `trainer`; hooks stay silent, callbacks take their place. Gives the trainer.

    The metrics `loss`, `val_loss` and `val_accuracy` are logged. On several devices Lightning would shard samplers; our
    loaders have none, so every process sees every batch: use `devices=N` of inflame for that.
    """
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    runner = Trainer(max_epochs=epochs, **{**quiet, **trainer})
    val = None if learner.val_loader is None else _loader(learner.val_loader, moving=False)
    runner.fit(_Parts(learner, epochs), _loader(learner.train_loader, moving=True), val)
    return runner


def learner(
    module: LightningModule,
    train_loader: Loader,
    val_loader: Loader | None = None,
    *,
    device: Device | None = None,
    hooks: Sequence[object] = (),
) -> Learner:
    """A learner that trains a LightningModule: its `training_step((x, y), index)` is the step, `configure_optimizers`
    the optimizer and schedulers, `forward` what is validated (as logits [N,K], by cross-entropy). Its own
    `validation_step` gets the same batches afterwards. Values that it logs are in the learner's `metrics`.

    Modules with several optimizers, manual optimization, or a method of their own for a part of the step (`STEPS`) are
    refused: UserError. Of other methods that only a Trainer calls (`TOLD`) a warning says that nobody does here.
    """
    _require_usual(module)
    optimizer, schedulers = _optimizers(module)
    logged = _Logged(module)
    log, log_dict = logged.log, logged.log_dict

    module.log, module.log_dict = log, log_dict  # type: ignore[method-assign, assignment]
    return Learner(
        net=module,
        criterion=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        train_loader=train_loader,
        val_loader=val_loader,
        device=device,
        step=_step(module),
        hooks=[_Schedules(schedulers), logged, *hooks],
    )


def _own(module: LightningModule, name: str) -> bool:
    """Whether the module has a method of its own in place of Lightning's."""
    return getattr(type(module), name, None) is not getattr(LightningModule, name, None)


def _require_usual(module: LightningModule) -> None:
    steps = [name for name in STEPS if _own(module, name)]
    if steps:
        raise UserError(
            f"{type(module).__name__} has its own {', '.join(steps)}, which this loop wouldn't call.",
            where=type(module).__name__,
            remedy="Run it under lightning.Trainer, or say it as a hook or a step: Learner(…, hooks=[…], step=…)",
        )
    told = [name for name in TOLD if _own(module, name)]
    if told:
        _warn(f"Nobody calls {', '.join(told)} of {type(module).__name__} on this loop; hooks take their place.")


@final
class _Parts(LightningModule):
    """The learner's parts, as Lightning wants to see them."""

    def __init__(self, learner: Learner, epochs: int) -> None:
        super().__init__()
        self.net = learner.net
        self._learner, self._epochs = learner, epochs
        self._rates = [group["lr"] for group in learner.optimizer.param_groups]
        self._right = self._seen = self._loss = 0.0

    def configure_optimizers(self) -> Optimizer:
        return self._learner.optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        done = self.trainer.current_epoch * len(self._learner.train_loader) + batch_idx
        factor = self._learner.schedule(done / (self._epochs * len(self._learner.train_loader)))
        for group, rate in zip(self._learner.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        loss: Tensor = self._learner.criterion(self.net(x).float(), y)
        self.log("loss", loss, batch_size=len(y))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        x, y = batch
        logits = self.net(x).float()
        self.log("val_loss", self._learner.criterion(logits, y), batch_size=len(y))
        self.log("val_accuracy", (logits.argmax(1) == y).float().mean(), batch_size=len(y))


class _Epochs(IterableDataset[Any]):
    """The batches of a loader; each iteration is the next epoch, or always the first."""

    def __init__(self, loader: Loader, *, moving: bool) -> None:
        self.loader, self.moving, self.epoch = loader, moving, 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        self.epoch += self.moving
        return self.loader.epoch(epoch)


def _loader(loader: Loader, *, moving: bool) -> DataLoader[Any]:
    return DataLoader(_Epochs(loader, moving=moving), batch_size=None)


def _step(module: LightningModule) -> Callable[[Learner, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A step of the loop that asks the module for its loss; the logits are what its `forward` gave on the way."""
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _, __, given: seen.append(given.detach()))

    def step(learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        seen.clear()
        with learner.device.autocast():
            told: Any = module.training_step((x, y), learner.at.batch)
        loss: Tensor = told["loss"] if isinstance(told, dict) else told
        if not seen:  # it calls its parts, not itself
            with torch.no_grad(), learner.device.autocast():
                module(x)
        logits = seen[-1].float()
        learner.backward(loss)
        learner.step()
        learner.zero_grad()
        return logits, loss

    return step


def _optimizers(module: LightningModule) -> tuple[Optimizer, list[tuple[Any, str]]]:
    """The one optimizer, and schedulers with when they step: "step" or "epoch"."""
    given: Any = module.configure_optimizers()
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], list | tuple):
        optimizers, schedulers = list(given[0]), list(given[1])
    elif isinstance(given, dict):
        optimizers = [given["optimizer"]]
        schedulers = [given["lr_scheduler"]] if "lr_scheduler" in given else []
    else:
        optimizers, schedulers = list(given) if isinstance(given, list | tuple) else [given], []
    if len(optimizers) != 1 or not isinstance(optimizers[0], Optimizer) or not module.automatic_optimization:
        raise UserError(
            f"{type(module).__name__} has {len(optimizers)} optimizers or steps them itself; this loop steps one.",
            remedy="Run it under lightning.Trainer, or give configure_optimizers one optimizer.",
        )
    found = []
    for scheduler in schedulers:
        plain = scheduler if isinstance(scheduler, dict) else {"scheduler": scheduler}
        found.append((plain["scheduler"], plain.get("interval", "epoch")))
    return optimizers[0], found


@final
class _Schedules:
    """Steps torch's schedulers, and tells the loop the rates that come out."""

    def __init__(self, schedulers: list[tuple[Any, str]]) -> None:
        self.schedulers = schedulers

    def after_batch(self, learner: Learner) -> None:
        self._move(learner, "step")

    def after_epoch(self, learner: Learner) -> None:
        self._move(learner, "epoch")

    def _move(self, learner: Learner, when: str) -> None:
        moved = [scheduler.step() for scheduler, interval in self.schedulers if interval == when]
        if moved:
            learner.rates = [group["lr"] for group in learner.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"schedulers": [scheduler.state_dict() for scheduler, _ in self.schedulers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for (scheduler, _), kept in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(kept)


@final
class _Logged:
    """What the module logged last stands in the epoch's row; of what its `validation_step` logs, the mean over the
    items."""

    def __init__(self, module: LightningModule) -> None:
        self.module = module
        self.values: dict[str, float] = {}
        self._sums: dict[str, tuple[float, int]] | None = None  # while validating
        self._items = 0  # of the batch at hand

    def log(self, name: str, value: Any, *_: Any, batch_size: int | None = None, **__: Any) -> None:
        """In the place of the module's own."""
        if self._sums is None:
            self.values[name] = float(value)
        else:
            count = batch_size or self._items
            total, items = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + count * float(value), items + count

    def log_dict(self, values: Any, *words: Any, **more: Any) -> None:
        """The same for several."""
        for name, value in values.items():
            self.log(name, value, *words, **more)

    def after_epoch(self, learner: Learner) -> None:
        if learner.val_loader is not None and "val_loss" in learner.metrics and _own(self.module, "validation_step"):
            self._validate(learner)
        learner.metrics = {**self.values, **learner.metrics}

    def _validate(self, learner: Learner) -> None:
        assert learner.val_loader is not None
        self._sums = {}
        self.module.eval()
        try:
            for index, (x, y) in enumerate(learner.val_loader.epoch(0)):
                x, y = learner.device.to(x, y, train=False)
                self._items = len(y)
                with torch.no_grad(), learner.device.autocast():
                    self.module.validation_step((x, y), index)
            self.values |= {name: total / items for name, (total, items) in self._sums.items()}
        finally:
            self._sums = None
            self.module.train()
