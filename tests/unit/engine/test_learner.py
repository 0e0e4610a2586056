"""The loop: it does what a hand-written one does, counts right, keeps time, and goes on exactly where it stopped."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflame.errors import CheckpointError, DataError, UserError
from inflame.model.engine import learner as learner_module
from inflame.model.engine.learner import (
    EVENTS,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Learner,
    TimeBudget,
    plain_step,
)

Make = Callable[..., Learner]


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Tick:
    """A hook: every batch takes `seconds`."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def before_step(self, learner: Learner) -> None:
        self.clock.now += self.seconds


class Stop:
    """A hook that raises `error` at `event`, once `step` steps are done."""

    def __init__(self, event: str, step: int, error: BaseException) -> None:
        self.step, self.error = step, error
        setattr(self, event, self.act)

    def act(self, learner: Learner) -> None:
        if learner.at.step == self.step:
            raise self.error


def by_hand(loader: Any, net: nn.Module, epochs: int, rate: float = 0.05) -> list[float]:
    """The plain loop that the learner must equal."""
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    criterion, losses, total = nn.CrossEntropyLoss(), [], epochs * len(loader)
    net.train()
    for epoch in range(epochs):
        for x, y in loader.epoch(epoch):
            optimizer.param_groups[0]["lr"] = rate * (1 - len(losses) / total)
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def test_equals_a_hand_written_loop_bit_by_bit(make_learner: Make, losses: Any, batches: Any, same: Any) -> None:
    seen = losses()
    learner = make_learner(hooks=[seen])
    net = copy.deepcopy(learner.net)
    torch.manual_seed(1)
    learner.fit(3)
    torch.manual_seed(1)
    assert seen.values == by_hand(batches(), net, 3)
    assert same(learner.net.state_dict(), net.state_dict())


def test_counts_the_loss_and_accuracy_of_the_epoch(make_learner: Make, batches: Any) -> None:
    # 41 items in batches of 16: the last one is smaller. A rate of 0 keeps the net as it is.
    learner = make_learner(rate=0.0, train_loader=batches(41), net=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    row = learner.fit(1)
    data = batches(41)
    with torch.no_grad():
        logits = learner.net(data.x)
    assert row["loss"] == pytest.approx(nn.functional.cross_entropy(logits, data.y).item(), rel=1e-6)
    assert row["accuracy"] == pytest.approx((logits.argmax(1) == data.y).double().mean().item())
    assert (row["epoch"], row["step"]) == (1, 3)
    assert {"val_loss", "val_accuracy", "lr", "seconds"} <= row.keys()


def test_many_batches_are_counted_no_otherwise_than_few(make_learner: Make, batches: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    rows = [
        make_learner(rate=0.0, net=copy.deepcopy(net), train_loader=batches(300, size), val_loader=None).fit(1)
        for size in (1, 300)
    ]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-6)
    assert rows[0]["accuracy"] == rows[1]["accuracy"]


def test_soft_labels_are_counted_by_their_largest(make_learner: Make, batches: Any) -> None:
    class Soft(batches):  # type: ignore[misc]
        def epoch(self, epoch: int, start: int = 0) -> Any:
            for x, y in super().epoch(epoch, start):
                yield x, nn.functional.one_hot(y, 3).float() * 0.8 + 0.1

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    soft = make_learner(rate=0.0, net=copy.deepcopy(net), train_loader=Soft()).fit(1)
    hard = make_learner(rate=0.0, net=copy.deepcopy(net)).fit(1)
    assert soft["accuracy"] == hard["accuracy"]
    assert soft["loss"] != hard["loss"]


def test_validation_changes_no_weight_no_buffer_and_no_mode(make_learner: Make, same: Any) -> None:
    learner = make_learner()
    learner.net[1].eval()  # somebody froze the batch norm
    before, modes = copy.deepcopy(learner.net.state_dict()), [m.training for m in learner.net.modules()]
    generator = torch.get_rng_state()
    first = learner.evaluate(learner.val_loader)
    assert same(learner.net.state_dict(), before)
    assert [m.training for m in learner.net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert learner.evaluate(learner.val_loader) == first


def test_a_fit_with_validation_ends_with_the_same_weights_as_without(make_learner: Make, same: Any) -> None:
    ends = []
    for loader in ("default", None):
        torch.manual_seed(0)
        learner = make_learner() if loader else make_learner(val_loader=None)
        learner.fit(2)
        ends.append(learner.net.state_dict())
    assert same(*ends)


def test_hooks_are_told_in_order(make_learner: Make, batches: Any) -> None:
    told: list[str] = []

    class Everything:
        def __getattr__(self, name: str) -> Any:
            if name not in EVENTS:
                raise AttributeError(name)
            return lambda learner: told.append(name)

    make_learner(hooks=[Everything()], train_loader=batches(32), val_loader=batches(10)).fit(1)
    step = ["before_backward", "before_step", "after_batch", "pause"]
    epoch = ["before_epoch", *step, *step, "pause", "after_epoch", "pause"]
    assert told == ["before_fit", *epoch, "after_fit", "close"]


def test_a_misspelt_event_is_refused(make_learner: Make) -> None:
    class Typo:
        def after_bach(self, learner: Learner) -> None: ...

    with pytest.raises(UserError, match=r"after_bach.*after_batch"):
        make_learner(hooks=[Typo()])


def test_cancel_batch_skips_the_step_and_forgets_the_gradients(make_learner: Make, same: Any) -> None:
    learner = make_learner(hooks=[Stop("before_step", 0, CancelBatch())], val_loader=None)
    weights = copy.deepcopy(learner.net.state_dict())
    seen = []

    class Weights:
        def after_batch(self, learner: Learner) -> None:
            seen.append(learner.net[5].weight.detach().clone())

    learner.add(Weights())
    learner.fit(1)
    assert torch.equal(seen[0], weights["5.weight"])
    assert not torch.equal(seen[1], weights["5.weight"])
    assert learner.at.step == 6  # it counts as done: the schedule and the place in the data go on


def test_cancel_epoch_validates_and_goes_on_with_the_next(make_learner: Make) -> None:
    learner = make_learner(hooks=[Stop("after_batch", 2, CancelEpoch())])
    row = learner.fit(2)
    assert (learner.at.epoch, learner.at.step) == (2, 8)
    assert row["epoch"] == 2


def test_cancel_fit_ends_in_good_order(make_learner: Make) -> None:
    told = []

    class Last:
        def after_epoch(self, learner: Learner) -> None:
            told.append("after_epoch")

        def after_fit(self, learner: Learner) -> None:
            told.append("after_fit")

    learner = make_learner(hooks=[Stop("after_epoch", 6, CancelFit()), Last()])
    learner.fit(5)
    assert told == ["after_epoch", "after_fit"]  # the other hooks heard of the epoch before training ended
    assert (learner.at.epoch, learner.at.batch) == (1, 0)


def test_an_error_closes_the_hooks_and_passes(make_learner: Make) -> None:
    closed = []

    class Close:
        def close(self, learner: Learner) -> None:
            closed.append(True)

    with pytest.raises(ZeroDivisionError):
        make_learner(hooks=[Stop("before_step", 3, ZeroDivisionError()), Close()]).fit(1)
    assert closed == [True]


def test_another_step_is_passed_in(make_learner: Make) -> None:
    def twice(learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        plain_step(learner, x, y)
        return plain_step(learner, x.flip(3), y)

    learner, usual = make_learner(step=twice), make_learner()
    learner.fit(1)
    usual.fit(1)
    assert learner.at.step == usual.at.step == 6
    assert not torch.equal(learner.net[5].weight, usual.net[5].weight)


class Full(nn.Module):
    """A net for which memory is short when more than `most` items come at once."""

    def __init__(self, net: nn.Module, most: int) -> None:
        super().__init__()
        self.net, self.most = net, most

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        out: Tensor = self.net(x)
        return out


def test_where_memory_is_short_the_batch_goes_through_in_parts(make_learner: Make) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    learner, usual = make_learner(net=Full(copy.deepcopy(plain), 4)), make_learner(net=plain)
    row, expected = learner.fit(2), usual.fit(2)
    assert learner.careful.parts >= 2
    assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert row["accuracy"] == expected["accuracy"]
    torch.testing.assert_close(learner.net.net[3].weight, usual.net[3].weight)
    again = make_learner(net=Full(copy.deepcopy(plain), 4))
    again.load_state_dict(learner.state_dict())
    assert again.careful.parts == learner.careful.parts


def test_where_memory_is_short_validation_goes_through_in_parts(make_learner: Make) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    class Short(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training and len(x) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return x

    learner, usual = make_learner(net=nn.Sequential(Short(), plain)), make_learner(net=copy.deepcopy(plain))
    row, expected = learner.fit(2), usual.fit(2)
    assert learner.looks.count == 8
    assert row["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-4)
    assert row["val_accuracy"] == expected["val_accuracy"]


def test_an_item_that_does_not_fit_is_an_error(make_learner: Make) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(torch.OutOfMemoryError):
        make_learner(net=Full(plain, 0)).fit(1)


# --- epochs and time -----------------------------------------------------------------------------


def test_the_schedule_follows_the_epochs_and_scales_each_groups_rate(make_learner: Make, batches: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    optimizer = torch.optim.SGD([{"params": [net[1].weight], "lr": 0.1}, {"params": [net[1].bias], "lr": 0.2}])
    rates = []

    class Watch:
        def before_step(self, learner: Learner) -> None:
            rates.append([group["lr"] for group in learner.optimizer.param_groups])

    make_learner(net=net, optimizer=optimizer, train_loader=batches(32), hooks=[Watch()]).fit(2)
    assert rates == [pytest.approx([0.1 * f, 0.2 * f]) for f in (1, 0.75, 0.5, 0.25)]


def test_the_schedule_follows_the_time(make_learner: Make) -> None:
    clock, seen = Clock(), []
    learner = make_learner(
        hooks=[Tick(clock, 1.0)], val_loader=None, schedule=lambda progress: seen.append(progress) or 1.0
    )
    budget = TimeBudget(10.0, clock=clock)
    clock.now += 2.0  # what happens before the fit is paid for as well
    learner.fit(budget=budget)
    assert seen == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert learner.at.step == 8
    assert learner.at.epoch == 2  # the second one was cut short, and closed
    assert budget.left() == 0.0


def test_whichever_ends_first(make_learner: Make) -> None:
    clock = Clock()
    learner = make_learner(hooks=[Tick(clock, 1.0)], val_loader=None)
    learner.fit(1, budget=TimeBudget(1000.0, clock=clock))
    assert learner.at.step == 6
    other = make_learner(hooks=[Tick(clock, 1.0)], val_loader=None)
    other.fit(50, budget=TimeBudget(4.0, clock=clock))
    assert other.at.step == 4


def test_the_last_validation_fits_into_the_budget(make_learner: Make, batches: Any) -> None:
    clock = Clock()

    class Slow(batches):  # type: ignore[misc]
        def epoch(self, epoch: int, start: int = 0) -> Any:
            clock.now += 2.0
            yield from super().epoch(epoch, start)

    learner = make_learner(hooks=[Tick(clock, 0.5)], val_loader=Slow(40))
    budget = TimeBudget(30.0, clock=clock)
    row = learner.fit(budget=budget)
    assert 29.0 <= budget.elapsed() <= 30.5
    assert "val_accuracy" in row


def test_validation_has_a_tenth_of_the_time(make_learner: Make, batches: Any) -> None:
    clock, rows = Clock(), []

    class Slow(batches):  # type: ignore[misc]
        def epoch(self, epoch: int, start: int = 0) -> Any:
            clock.now += 1.0
            yield from super().epoch(epoch, start)

    class Rows:
        def after_epoch(self, learner: Learner) -> None:
            rows.append("val_loss" in learner.metrics)

    make_learner(hooks=[Tick(clock, 0.1), Rows()], val_loader=Slow(40)).fit(budget=TimeBudget(100.0, clock=clock))
    assert 8 <= sum(rows) <= 13
    assert rows[-1] is True


def test_a_budget_that_is_used_up_trains_nothing(make_learner: Make) -> None:
    clock = Clock()
    budget = TimeBudget(5.0, clock=clock)
    clock.now += 6.0
    learner = make_learner()
    assert learner.fit(budget=budget) == {}
    assert learner.at.step == 0


def test_no_end_and_no_batches_are_refused(make_learner: Make, batches: Any) -> None:
    with pytest.raises(UserError, match="never end"):
        make_learner().fit()
    with pytest.raises(DataError, match="nothing to train on"):
        make_learner(train_loader=batches(0)).fit(1)


# --- going on ------------------------------------------------------------------------------------


class Snapshot:
    """A hook that takes the learner's state at every pause."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def pause(self, learner: Learner) -> None:
        self.states.append(copy.deepcopy(learner.state_dict()))


def test_from_every_pause_it_ends_with_the_same_bits(make_learner: Make, same: Any) -> None:
    snapshot = Snapshot()
    torch.manual_seed(5)
    whole = make_learner(hooks=[snapshot])
    end = whole.fit(2)
    assert len(snapshot.states) == 2 * (6 + 3 + 1)
    for state in snapshot.states:
        torch.manual_seed(999)
        again = make_learner()
        again.load_state_dict(copy.deepcopy(state))
        row = again.fit(2)
        assert same(again.net.state_dict(), whole.net.state_dict())
        assert same(again.optimizer.state_dict(), whole.optimizer.state_dict())
        for key in ("val_loss", "val_accuracy", "epoch", "step", "accuracy"):
            assert row[key] == end[key]
        assert row["loss"] == pytest.approx(end["loss"], rel=1e-12)


def test_a_resume_in_mid_epoch_takes_exactly_the_remaining_batches(make_learner: Make, batches: Any) -> None:
    snapshot = Snapshot()
    make_learner(hooks=[snapshot], val_loader=None).fit(2)
    loader = batches()
    again = make_learner(train_loader=loader, val_loader=None)
    again.load_state_dict(snapshot.states[3])  # after 4 of 6 batches
    again.fit(2)
    assert loader.given == [(0, 4), (0, 5), *((1, index) for index in range(6))]


def test_a_resume_carries_the_used_time_over(make_learner: Make) -> None:
    clock, snapshot = Clock(), Snapshot()
    make_learner(hooks=[Tick(clock, 1.0), snapshot], val_loader=None).fit(budget=TimeBudget(10.0, clock=clock))
    clock.now += 5000.0  # the machine was off
    again = make_learner(hooks=[Tick(clock, 1.0)], val_loader=None)
    again.load_state_dict(snapshot.states[3])  # after 4 seconds
    budget = TimeBudget(10.0, clock=clock)
    again.fit(budget=budget)
    assert again.at.step == 10
    assert budget.elapsed() == pytest.approx(10.0)


def test_a_finished_run_has_nothing_left_to_do(make_learner: Make) -> None:
    learner = make_learner()
    row = learner.fit(1)
    state = copy.deepcopy(learner.state_dict())
    again = make_learner()
    again.load_state_dict(state)
    assert again.fit(1) == row
    assert again.at.step == 6


def test_hooks_memories_are_kept_apart_by_name(make_learner: Make) -> None:
    class Memory:
        def __init__(self, value: int = 0) -> None:
            self.value = value

        def state_dict(self) -> dict[str, int]:
            return {"value": self.value}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.value = state["value"]

    state = make_learner(hooks=[Memory(1), Memory(2)]).state_dict()
    assert state["hooks"] == {"Memory": {"value": 1}, "Memory-2": {"value": 2}}
    one, two = Memory(), Memory()
    make_learner(hooks=[Snapshot(), one, two]).load_state_dict(state)  # others may come and go
    assert (one.value, two.value) == (1, 2)


def test_a_checkpoint_of_another_net_is_refused(make_learner: Make) -> None:
    state = make_learner().state_dict()
    other = make_learner(net=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(CheckpointError, match="of another net") as error:
        other.load_state_dict(state)
    assert "fresh=true" in error.value.remedy


def test_the_class_stays_short_enough_to_be_read() -> None:
    tree = ast.parse(inspect.getsource(learner_module))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Learner"]
    documented = [found, *(node for node in found.body if isinstance(node, ast.FunctionDef))]
    text = sum(len(ast.get_docstring(node, clean=False).splitlines()) for node in documented if ast.get_docstring(node))
    assert (found.end_lineno or 0) - found.lineno - text <= 200


def test_time_budget() -> None:
    clock = Clock()
    budget = TimeBudget(10.0, clock=clock)
    clock.now += 3.0
    assert (budget.elapsed(), budget.left()) == (3.0, 7.0)
    budget.carry(6.0)
    assert (budget.elapsed(), budget.left()) == (9.0, 1.0)
    assert budget.progress() == pytest.approx(0.9)
    budget.reserve = 2.0
    assert budget.progress() == pytest.approx(9 / 8)
    assert (TimeBudget().left(), TimeBudget().progress()) == (math.inf, 0.0)


def test_a_real_second_is_kept(make_learner: Make) -> None:
    began = time.monotonic()
    row = make_learner().fit(budget=TimeBudget(1.0))
    assert 0.9 <= time.monotonic() - began <= 1.5  # a busy machine may be late, never early
    assert row["lr"] < 0.05 * 0.15  # the schedule came to its end with the time
