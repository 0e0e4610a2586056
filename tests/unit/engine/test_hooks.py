"""The hooks: what is kept, stopped, averaged, guarded, told and shown."""

from __future__ import annotations

import copy
import io
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflame.errors import Diverged, StorageError
from inflame.model.engine import checkpoint, hooks
from inflame.model.engine.hooks import (
    Clip,
    EarlyStop,
    Ema,
    Freeze,
    Interrupted,
    Metrics,
    NonFinite,
    Progress,
    SaveBest,
    SaveLast,
)
from inflame.model.engine.learner import Learner, TimeBudget

Make = Callable[..., Learner]


class At:
    """A hook that does `act(learner)` at `event`, when `step` steps are done."""

    def __init__(self, event: str, step: int, act: Callable[[Learner], Any]) -> None:
        self.step, self.act = step, act
        setattr(self, event, self.when)

    def when(self, learner: Learner) -> None:
        if learner.at.step == self.step:
            self.act(learner)


class Accuracies:
    """A hook that pretends: the validation of epoch i had the accuracy `values[i]`."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def after_epoch(self, learner: Learner) -> None:
        value = self.values[learner.at.epoch]
        learner.metrics |= {"val_accuracy": value, "val_loss": 1 - value}


# --- best ----------------------------------------------------------------------------------------


def test_best_keeps_the_weights_of_the_best_epoch(make_learner: Make, tmp_path: Path, same: Any) -> None:
    kept = []
    best = SaveBest(tmp_path)
    watch = At("after_epoch", 12, lambda learner: kept.append(copy.deepcopy(learner.net.state_dict())))
    make_learner(hooks=[Accuracies(0.5, 0.9, 0.7), watch, best]).fit(3)
    net = make_learner().net
    metrics = best.restore(net)
    assert metrics["epoch"] == 2
    assert metrics["val_accuracy"] == 0.9
    assert same(net.state_dict(), kept[0])


def test_at_equal_accuracy_the_smaller_loss_is_better(make_learner: Make, tmp_path: Path) -> None:
    class Losses:
        def after_epoch(self, learner: Learner) -> None:
            learner.metrics |= {"val_accuracy": 0.8, "val_loss": (0.5, 0.4, 0.6)[learner.at.epoch]}

    best = SaveBest(tmp_path)
    make_learner(hooks=[Losses(), best]).fit(3)
    assert best.restore(make_learner().net)["epoch"] == 2


def test_best_is_the_best_of_the_run_also_after_a_resume(make_learner: Make, tmp_path: Path) -> None:
    first = make_learner(hooks=[Accuracies(0.5, 0.9), SaveBest(tmp_path / "best")])
    first.fit(2)
    checkpoint.save(first.state_dict(), tmp_path / "last")
    second = make_learner(hooks=[Accuracies(0.5, 0.9, 0.8, 0.7), best := SaveBest(tmp_path / "best")])
    assert checkpoint.resume(second, tmp_path / "last")
    second.fit(4)
    assert best.restore(make_learner().net)["epoch"] == 2


def test_a_best_newer_than_the_checkpoint_still_counts(make_learner: Make, tmp_path: Path) -> None:
    """Killed after the best was saved and before the last was: what is made again may be worse (time budgets)."""
    first = make_learner(hooks=[Accuracies(0.5), SaveBest(tmp_path)])
    first.fit(1)
    state = copy.deepcopy(first.state_dict())
    make_learner(hooks=[Accuracies(0.9), SaveBest(tmp_path)]).fit(1)
    again = make_learner(hooks=[Accuracies(0.5, 0.8), best := SaveBest(tmp_path)])
    again.load_state_dict(state)
    again.fit(2)
    assert best.restore(make_learner().net)["val_accuracy"] == 0.9


def test_best_weights_that_are_gone_are_said_and_replaced(make_learner: Make, tmp_path: Path) -> None:
    first = make_learner(hooks=[Accuracies(0.9), SaveBest(tmp_path / "a")])
    first.fit(1)
    said: list[str] = []
    second = make_learner(hooks=[Accuracies(0.9, 0.6), best := SaveBest(tmp_path / "b", say=said.append)])
    second.load_state_dict(first.state_dict())
    second.fit(2)
    assert "0.9000" in said[0]
    assert best.restore(make_learner().net)["val_accuracy"] == 0.6


def test_without_validation_the_training_numbers_decide(make_learner: Make, tmp_path: Path) -> None:
    make_learner(hooks=[best := SaveBest(tmp_path)], val_loader=None).fit(2)
    assert "accuracy" in best.restore(make_learner().net)


def test_a_loss_that_is_no_number_is_never_best(make_learner: Make, tmp_path: Path) -> None:
    make_learner(hooks=[Accuracies(float("nan"), 0.3), best := SaveBest(tmp_path)]).fit(2)
    assert best.restore(make_learner().net)["epoch"] == 2


class Held:
    """Holds back all writing of checkpoints until it is let go; `order` are their folders, as they were written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.order, self.save = threading.Event(), list[str](), checkpoint.save
        self.in_time = True
        monkeypatch.setattr(checkpoint, "save", self.write)

    def write(self, state: dict[str, Any], folder: Path) -> Path:
        self.in_time = self.free.wait(20) and self.in_time
        self.order.append(folder.name)
        return self.save(state, folder)


def test_the_best_is_written_while_training_goes_on_and_before_a_checkpoint_that_knows_of_it(
    make_learner: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    best, last = (
        SaveBest(tmp_path / "best"),
        SaveLast(tmp_path / "last", every=1e9),
    )  # at the end of the first epoch, and of all
    go_on = At("after_batch", 9, lambda learner: held.free.set())  # in the second epoch: nobody waited for the first
    make_learner(hooks=[Accuracies(0.5, 0.4), best, last, go_on]).fit(2)
    assert held.in_time
    assert held.order == ["best", "last", "last"]
    assert best.restore(make_learner().net)["epoch"] == 1


def test_nothing_kept_changes_nothing(make_learner: Make, tmp_path: Path, same: Any) -> None:
    net = make_learner().net
    before = copy.deepcopy(net.state_dict())
    assert SaveBest(tmp_path).restore(net) == {}
    assert same(net.state_dict(), before)


# --- last ----------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _saves(monkeypatch: pytest.MonkeyPatch, clock: Clock, cost: float) -> list[float]:
    """The times at which checkpoints are saved; saving takes `cost` seconds."""
    times: list[float] = []

    def save(state: dict[str, Any], folder: Path) -> Path:
        times.append(clock.now)
        clock.now += cost
        return folder

    monkeypatch.setattr(checkpoint, "save", save)
    return times


class Tick:
    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def before_step(self, learner: Learner) -> None:
        self.clock.now += self.seconds


class Settle:
    """Waits until what is being written is on the disk, so that a clock made for tests tells when it was."""

    def __init__(self, last: SaveLast) -> None:
        self.last = last

    def pause(self, learner: Learner) -> None:
        self.last.writer.wait()


def test_it_saves_every_ten_seconds_and_at_the_end(
    make_learner: Make, batches: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    times = _saves(monkeypatch, clock, 0.01)
    last = SaveLast(tmp_path, clock=clock)
    make_learner(hooks=[Tick(clock, 1.0), last, Settle(last)], train_loader=batches(35 * 2, 2), val_loader=None).fit(1)
    assert [round(time) for time in times] == [10, 20, 30, 35, 35]


def test_saving_takes_no_more_than_its_share_of_the_time(
    make_learner: Make, batches: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    times = _saves(monkeypatch, clock, 1.0)  # a big net
    last = SaveLast(tmp_path, clock=clock)
    learner = make_learner(hooks=[Tick(clock, 0.1), last, Settle(last)], train_loader=batches(16), val_loader=None)
    learner.fit(1500)  # epochs of a tenth of a second
    assert len(times) <= 0.02 * clock.now + 2
    assert max(b - a for a, b in itertools.pairwise(times)) <= 52


def test_the_saved_state_has_seen_all_hooks(make_learner: Make, tmp_path: Path, same: Any) -> None:
    """An average that comes after SaveLast in the list isn't a step behind in the checkpoint."""
    last, ema = SaveLast(tmp_path, every=0.0, share=1e9), Ema(0.9)
    states = []

    class Stop:
        def before_step(self, learner: Learner) -> None:
            if learner.at.step == 3:
                raise ZeroDivisionError

        def close(self, learner: Learner) -> None:
            states.append(copy.deepcopy(ema.state_dict()))

    with pytest.raises(ZeroDivisionError):
        make_learner(hooks=[last, ema, Stop()]).fit(1)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found["at"]["step"] == 3
    assert same(found["hooks"]["Ema"], states[0])


@pytest.fixture
def quiet_signals() -> Iterator[None]:
    """Signals as in a process that has just begun: where coverage is measured SIGTERM has its handler, which would have
    the last word and end the tests. Whatever a test does to them is undone."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("quiet_signals")
def test_a_signal_saves_and_then_stops(make_learner: Make, tmp_path: Path, number: int, same: Any) -> None:
    before = signal.getsignal(number)
    send = At("before_step", 3, lambda learner: os.kill(os.getpid(), number))
    learner = make_learner(hooks=[send, SaveLast(tmp_path)])
    torch.manual_seed(2)
    with pytest.raises(KeyboardInterrupt) as stopped:
        learner.fit(2)
    if isinstance(stopped.value, Interrupted):
        assert stopped.value.signum == number
    assert signal.getsignal(number) == before
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["at"]["step"] == 4  # the batch at hand was finished

    again = make_learner(hooks=[SaveLast(tmp_path)])
    assert checkpoint.resume(again, tmp_path)
    again.fit(2)
    whole = make_learner()
    torch.manual_seed(2)
    whole.fit(2)
    assert same(again.net.state_dict(), whole.net.state_dict())


@pytest.mark.usefixtures("quiet_signals")
def test_one_of_several_stops_where_another_is_told_to_and_asks_only_now_and_then(
    make_learner: Make, batches: Any, tmp_path: Path
) -> None:
    asked: list[int] = []
    learner = make_learner(train_loader=batches(4800), val_loader=None)  # 300 steps
    learner.add(SaveLast(tmp_path, clock=lambda: learner.at.step / 16))

    def reduce(sums: Tensor) -> Tensor:
        if len(sums) != 4:  # the epoch's numbers
            return sums
        asked.append(learner.at.step)
        return sums + torch.tensor([float(learner.at.step > 60), 0.0, 0.0, 0.0])

    learner.device.world = 2
    learner.device.reduce = reduce  # type: ignore[method-assign]
    learner.device.gather = lambda value: [value] * 2  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        learner.fit(1)
    assert asked == [1, 3, 7, 15, 23, 31, 39, 47, 55, 63]  # at first soon, later each half of a second
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["at"]["step"] == 63


@pytest.mark.usefixtures("quiet_signals")
def test_told_to_stop_it_does_not_wait_for_a_copy_elsewhere(make_learner: Make, tmp_path: Path) -> None:
    arrived, sending = threading.Event(), threading.Event()

    def sent(path: Path) -> None:
        sending.set()
        arrived.wait(60)

    def stop(learner: Learner) -> None:
        assert sending.wait(20)
        os.kill(os.getpid(), signal.SIGTERM)

    last = SaveLast(tmp_path, every=1e-9, share=1e9, sent=sent)
    with pytest.raises(Interrupted):
        make_learner(hooks=[At("before_step", 9, stop), last]).fit(5)
    found = checkpoint.load(tmp_path)
    assert not arrived.is_set()
    assert found is not None
    assert found["at"]["step"] == 10  # the newest is on the disk, behind the one that is on its way
    arrived.set()
    last.writer.finish()


@pytest.mark.usefixtures("quiet_signals")
def test_the_handler_that_was_there_has_the_last_word(make_learner: Make, tmp_path: Path) -> None:
    heard: list[tuple[int, bool]] = []

    def mine(number: int, frame: Any) -> None:
        heard.append((number, checkpoint.load(tmp_path) is not None))
        raise KeyboardInterrupt("mine")

    signal.signal(signal.SIGTERM, mine)
    send = At("before_step", 1, lambda learner: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt, match="mine"):
        make_learner(hooks=[send, SaveLast(tmp_path)]).fit(1)
    assert heard == [(signal.SIGTERM, True)]


@pytest.mark.usefixtures("quiet_signals")
def test_a_signal_during_validation_saves_and_validates_again(make_learner: Make, batches: Any, tmp_path: Path) -> None:
    class Interrupting(batches):  # type: ignore[misc]
        def epoch(self, epoch: int, start: int = 0) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            yield from super().epoch(epoch, start)

    learner = make_learner(hooks=[SaveLast(tmp_path)], val_loader=Interrupting(40, shuffle=False))
    with pytest.raises(Interrupted):
        learner.fit(1)
    again = make_learner(hooks=[SaveLast(tmp_path)], train_loader=(loader := batches()))
    assert checkpoint.resume(again, tmp_path)
    row = again.fit(1)
    assert loader.given == []  # all batches of the epoch were done
    assert "val_loss" in row
    assert (row["epoch"], row["step"]) == (1, 6)


@pytest.mark.usefixtures("quiet_signals")
def test_a_signal_after_the_last_batch_is_not_lost(make_learner: Make, tmp_path: Path) -> None:
    send = At("after_fit", 6, lambda learner: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        make_learner(hooks=[SaveLast(tmp_path), send]).fit(1)


@pytest.mark.usefixtures("quiet_signals")
def test_a_second_ctrl_c_does_not_wait(make_learner: Make, tmp_path: Path) -> None:
    def twice(learner: Learner) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # supervisors repeat it: no hurry
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(Interrupted):
        make_learner(hooks=[At("before_step", 1, twice), SaveLast(tmp_path)]).fit(1)


@pytest.mark.usefixtures("quiet_signals")
def test_an_ignored_signal_stays_ignored(make_learner: Make, tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    send = At("before_step", 1, lambda learner: os.kill(os.getpid(), signal.SIGHUP))
    make_learner(hooks=[send, SaveLast(tmp_path)]).fit(1)


def test_outside_the_main_thread_it_trains_and_saves(make_learner: Make, tmp_path: Path) -> None:
    thread = threading.Thread(target=lambda: make_learner(hooks=[SaveLast(tmp_path)]).fit(1))
    thread.start()
    thread.join()
    assert checkpoint.load(tmp_path) is not None


@pytest.mark.usefixtures("quiet_signals")
def test_when_a_stop_cant_be_saved_that_is_what_is_said(
    make_learner: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: dict[str, Any], folder: Path) -> Path:
        raise StorageError("The disk is full.", remedy="Free some space.")

    monkeypatch.setattr(checkpoint, "save", full)
    send = At("before_step", 1, lambda learner: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StorageError):
        make_learner(hooks=[send, SaveLast(tmp_path)]).fit(1)


def test_weights_that_are_not_finite_never_reach_the_disk(make_learner: Make, tmp_path: Path) -> None:
    def poison(learner: Learner) -> None:
        learner.net[1].running_mean[0] = float("inf")

    last = SaveLast(tmp_path, every=0.0, share=1e9)
    with pytest.raises(Diverged, match="no longer finite") as error:
        make_learner(hooks=[At("after_batch", 4, poison), last]).fit(1)
    assert "learning_rate" in error.value.remedy
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["at"]["step"] == 3


# --- early stop ----------------------------------------------------------------------------------


def test_early_stop_waits_and_then_ends(make_learner: Make) -> None:
    learner = make_learner(hooks=[Accuracies(0.5, 0.7, 0.6, 0.7, 0.6, 0.9), EarlyStop(3)])
    learner.fit(6)
    assert learner.at.epoch == 5


def test_patience_zero_never_stops(make_learner: Make) -> None:
    learner = make_learner(hooks=[Accuracies(0.5, 0.4, 0.3, 0.2), EarlyStop(0)])
    learner.fit(4)
    assert learner.at.epoch == 4


def test_early_stop_remembers_over_a_resume(make_learner: Make) -> None:
    values = (0.5, 0.4, 0.3, 0.2)
    first = make_learner(hooks=[Accuracies(*values), EarlyStop(3)])
    first.fit(2)
    second = make_learner(hooks=[Accuracies(*values), EarlyStop(3)])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit(50)
    assert second.at.epoch == 4
    third = make_learner(hooks=[Accuracies(*values), EarlyStop(3)])
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    third.fit(50)  # stopped before: stays so
    assert third.at.epoch == 4


# --- average -------------------------------------------------------------------------------------


def test_ema_is_the_average_and_is_what_is_validated(make_learner: Make, tmp_path: Path, same: Any) -> None:
    expected: dict[str, Tensor] = {}
    updates = 0

    class ByHand:
        def after_batch(self, learner: Learner) -> None:
            nonlocal updates
            updates += 1
            decay = min(0.8, (1 + updates) / (10 + updates))
            for name, value in learner.net.state_dict().items():
                if value.is_floating_point():
                    expected[name] = torch.lerp(expected[name], value, 1 - decay)
                else:
                    expected[name] = value.clone()

    ema, best = Ema(0.8), SaveBest(tmp_path)
    learner = make_learner(hooks=[ema, ByHand(), best])
    expected.update(copy.deepcopy(learner.net.state_dict()))
    row = learner.fit(1)
    assert ema.net is learner.scored
    found = ema.net.state_dict()
    assert all(torch.allclose(found[name].double(), expected[name].double(), atol=1e-6) for name in expected)
    assert not torch.equal(found["5.weight"], learner.net.state_dict()["5.weight"])
    # Validated and kept as best is the average, not the net.
    other = make_learner(net=ema.net)
    assert other.evaluate(learner.val_loader)["loss"] == row["val_loss"]
    best.restore(kept := make_learner().net)
    assert same(kept.state_dict(), found)


def test_ema_goes_on_after_a_resume_to_the_bit(make_learner: Make, tmp_path: Path, same: Any) -> None:
    torch.manual_seed(4)
    whole = make_learner(hooks=[Ema(0.95, every=2)])
    whole.fit(2)
    torch.manual_seed(4)

    def stop(learner: Learner) -> None:
        checkpoint.save(learner.state_dict(), tmp_path)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_learner(hooks=[Ema(0.95, every=2), At("pause", 7, stop)]).fit(2)
    again = make_learner(hooks=[Ema(0.95, every=2)])
    checkpoint.resume(again, tmp_path)
    again.fit(2)
    assert same(again.scored.state_dict(), whole.scored.state_dict())
    assert same(again.net.state_dict(), whole.net.state_dict())


def test_training_with_an_average_is_the_same_training(make_learner: Make, same: Any) -> None:
    nets = []
    for extra in ([], [Ema(0.9)]):
        torch.manual_seed(0)
        learner = make_learner(hooks=extra)
        learner.fit(1)
        nets.append(learner.net.state_dict())
    assert same(*nets)


# --- gradients -----------------------------------------------------------------------------------


def test_clip_bounds_the_norm_of_every_step(make_learner: Make) -> None:
    norms: list[float] = []

    class Norm:
        def before_step(self, learner: Learner) -> None:
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in learner.net.parameters()]).item())

    make_learner(hooks=[Norm(), Clip(0.1), Norm()]).fit(1)
    assert max(norms[0::2]) > 0.2
    assert max(norms[1::2]) <= 0.1001


def test_freeze_keeps_batch_norms_as_they_are(make_learner: Make) -> None:
    learner = make_learner()
    before = learner.net[1].running_mean.clone()
    learner.add(Freeze(learner.net[1]))
    learner.fit(2)
    assert torch.equal(learner.net[1].running_mean, before)
    assert learner.net[4].training


class Poisoned:
    """Batches of which the one at `step` holds a nan."""

    def __init__(self, inner: Any, step: int) -> None:
        self.inner, self.step = inner, step

    def __len__(self) -> int:
        return len(self.inner)

    def epoch(self, epoch: int, start: int = 0) -> Any:
        for index, (x, y) in enumerate(self.inner.epoch(epoch, start), start):
            x = x.clone()
            if epoch * len(self) + index == self.step:
                x[0, 0, 0, 0] = float("nan")
            yield x, y


def test_a_loss_that_is_no_number_stops_before_the_step(make_learner: Make, batches: Any, tmp_path: Path) -> None:
    before: dict[str, Tensor] = {}
    watch = At("before_step", 4, lambda learner: before.update(copy.deepcopy(dict(learner.net.named_parameters()))))
    learner = make_learner(hooks=[watch, NonFinite(tmp_path)], train_loader=Poisoned(batches(), 4))
    with pytest.raises(Diverged, match=r"The loss became nan in epoch 1, batch 5") as error:
        learner.fit(2)
    assert all(torch.equal(value, before[name]) for name, value in learner.net.named_parameters())
    saved = checkpoint.read(tmp_path / NonFinite.FILE)
    assert saved["x"].isnan().sum() == 1
    assert len(saved["y"]) == len(saved["x"])
    assert saved["step"] == 4
    assert str(tmp_path / NonFinite.FILE) in error.value.where
    assert "hold values that aren't finite" in error.value.remedy


class BadGradient(torch.autograd.Function):
    """The identity, with a gradient of nan: what a square root at 0 or an overflow does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        bad = gradients[0].clone()
        bad[0, 0] = float("inf")
        return bad


@pytest.mark.parametrize("clip", [False, True])
def test_a_gradient_that_is_not_finite_stops_before_the_step(make_learner: Make, tmp_path: Path, clip: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.calls = nn.Linear(64, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            out = self.linear(x.flatten(1))
            return BadGradient.apply(out) if self.calls == 3 else out

    net = Net()
    learner = make_learner(net=net, hooks=[*[Clip(1.0)] * clip, NonFinite(tmp_path)], val_loader=None)
    with pytest.raises(Diverged, match="gradient is no longer finite") as error:
        learner.fit(1)
    assert learner.at.step == 2
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    assert "learning_rate" in error.value.remedy


def test_a_rate_that_is_far_too_high_is_named(make_learner: Make, tmp_path: Path) -> None:
    with pytest.raises(Diverged) as error:
        make_learner(rate=1e30, hooks=[NonFinite(tmp_path)], val_loader=None).fit(3)
    assert "learning_rate" in error.value.remedy


def test_the_guard_changes_nothing_in_a_healthy_run(make_learner: Make, tmp_path: Path, same: Any) -> None:
    nets = []
    for extra in ([], [NonFinite(tmp_path)]):
        torch.manual_seed(0)
        learner = make_learner(hooks=extra)
        learner.fit(2)
        nets.append(learner.net.state_dict())
    assert same(*nets)
    assert list(tmp_path.iterdir()) == []


# --- numbers and lines ---------------------------------------------------------------------------


def test_metrics_writes_a_row_per_epoch(make_learner: Make) -> None:
    rows: list[dict[str, Any]] = []
    make_learner(hooks=[Metrics(lambda **row: rows.append(row))]).fit(2)
    names = {"epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"}
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(row.keys() == names for row in rows)
    assert rows[0]["seconds"] <= rows[1]["seconds"]


def test_progress_says_about_ten_lines_however_many_epochs(make_learner: Make, batches: Any) -> None:
    stream = io.StringIO()
    make_learner(hooks=[Progress(stream=stream)], train_loader=batches(16), val_loader=None).fit(200)
    lines = stream.getvalue().splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[0].startswith("epoch 1 of 200: loss ")
    assert lines[-1].startswith("epoch 200 of 200: loss ")


def test_progress_says_every_one_of_few_epochs(make_learner: Make) -> None:
    said: list[str] = []
    make_learner(hooks=[Progress(say=said.append, stream=io.StringIO())]).fit(3)
    assert [line.split(":")[0] for line in said] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]
    assert "validation" in said[0]


def test_progress_says_how_much_time_is_left(make_learner: Make) -> None:
    clock, said = Clock(), []
    make_learner(hooks=[Tick(clock, 1.0), Progress(say=said.append, stream=io.StringIO())], val_loader=None).fit(
        budget=TimeBudget(20.0, clock=clock)
    )
    assert said[0].endswith("6 s, 14 s left")
    assert said[-1].endswith("20 s, 0 s left")


def test_progress_draws_a_bar_on_a_terminal_and_leaves_the_last_line(make_learner: Make) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream, said = Terminal(), []
    make_learner(hooks=[Progress(say=said.append, stream=stream)]).fit(3)
    assert "epoch 1" in stream.getvalue()
    assert "%|" in stream.getvalue()
    assert len(said) == 1
    assert said[0].startswith("epoch 3 of 3")


def test_after_an_error_progress_says_the_last_whole_epoch(make_learner: Make) -> None:
    stream = io.StringIO()

    def fail(learner: Learner) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_learner(hooks=[Progress(stream=stream), At("before_step", 8, fail)]).fit(100)
    assert stream.getvalue().count("epoch 1 of 100") == 1


def test_all_hooks_are_exported() -> None:
    classes = {name for name, value in vars(hooks).items() if isinstance(value, type) and not name.startswith("_")}
    own = {name for name in classes if vars(hooks)[name].__module__.startswith("inflame.model.engine.hooks")}
    assert own | {"Progress"} == set(hooks.__all__)
