"""Our parts under Lightning's Trainer, and a LightningModule on our loop: the same losses either way."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflame.errors import UserError
from inflame.model.engine.learner import Learner

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning")
    from inflame.model.engine import lightning as ours

Make = Callable[..., Learner]

pytestmark = pytest.mark.filterwarnings("ignore")


class Steps(lightning.Callback):  # type: ignore[misc]
    """Remembers each step's loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.losses.append(float(outputs["loss"]))


def test_our_parts_under_their_trainer_lose_the_same(make_learner: Make, losses: Any) -> None:
    watch, steps = losses(), Steps()
    torch.manual_seed(0)  # no dropout: a DataLoader too draws from the global generator
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    mine, theirs = make_learner(net=copy.deepcopy(net), hooks=[watch]), make_learner(net=net)
    row = mine.fit(3)
    trainer = ours.fit(theirs, 3, callbacks=[steps], accelerator="cpu")
    assert steps.losses == pytest.approx(watch.values, abs=1e-6)
    for name, value in mine.net.state_dict().items():
        torch.testing.assert_close(theirs.net.state_dict()[name], value)
    assert float(trainer.callback_metrics["val_accuracy"]) == pytest.approx(row["val_accuracy"])
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(row["val_loss"], rel=1e-5)


class Theirs(lightning.LightningModule):  # type: ignore[misc]
    """A module as people write them."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x) if self.how == "parts" else self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return {"loss": loss} if self.how == "dict" else loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        if self.how == "plain":
            return optimizer
        if self.how == "parts":
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]
        if self.how == "two":
            return [optimizer, torch.optim.SGD(self.parameters(), lr=0.1)]
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@pytest.mark.parametrize("how", ["plain", "parts", "dict"])
def test_their_module_on_our_loop_loses_the_same(batches: Any, losses: Any, how: str) -> None:
    module, steps, watch = Theirs(how), Steps(), losses()
    made = ours.learner(copy.deepcopy(module), batches(), batches(40, shuffle=False), hooks=[watch])
    row = made.fit(2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=2, callbacks=[steps], enable_model_summary=False, **quiet)
    trainer.fit(module, ours._loader(batches(), moving=True))
    assert watch.values == pytest.approx(steps.losses, abs=1e-6)
    assert row["train_loss"] == pytest.approx(steps.losses[-1], abs=1e-6)
    assert 0 < row["val_accuracy"] <= 1


def test_several_optimizers_are_refused(batches: Any) -> None:
    with pytest.raises(UserError, match="2 optimizers"):
        ours.learner(Theirs("two"), batches())


class Validated(Theirs):
    """One that validates in its own way."""

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        assert not self.training
        self.log("their_error", (self(x).argmax(1) != y).float().mean())
        self.log_dict({"their_size": torch.tensor(float(len(y)))}, batch_size=1)


def test_their_own_validation_is_called_and_counts_every_item_once(batches: Any) -> None:
    module, quiet = Validated(), {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    row = ours.learner(copy.deepcopy(module), batches(), batches(40, shuffle=False)).fit(2)
    trainer = lightning.Trainer(max_epochs=2, enable_model_summary=False, accelerator="cpu", **quiet)
    trainer.fit(module, ours._loader(batches(), moving=True), ours._loader(batches(40, shuffle=False), moving=False))
    assert row["their_error"] == pytest.approx(1 - row["val_accuracy"])
    assert row["their_error"] == pytest.approx(float(trainer.callback_metrics["their_error"]), abs=1e-6)
    assert row["their_size"] == pytest.approx(40 / 3)  # the mean over three batches, as it was asked for
    assert row["train_loss"] == pytest.approx(float(trainer.callback_metrics["train_loss"]), abs=1e-5)


class Clipped(Theirs):
    """One that changes the step where this loop wouldn't ask it."""

    def configure_gradient_clipping(self, *words: Any, **more: Any) -> None: ...

    def on_after_backward(self) -> None: ...


class Listening(Theirs):
    """One that wants to be told."""

    def on_train_epoch_end(self) -> None: ...


def test_methods_that_nobody_would_call_are_named(batches: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="its own configure_gradient_clipping, on_after_backward") as caught:
        ours.learner(Clipped(), batches())
    assert "hooks=" in caught.value.remedy
    ours.learner(Listening(), batches()).fit(1)
    assert "Nobody calls on_train_epoch_end of Listening" in caplog.text


def test_the_methods_that_are_looked_for_are_lightnings() -> None:
    assert [name for name in (*ours.STEPS, *ours.TOLD) if not hasattr(lightning.LightningModule, name)] == []
