"""A loss that runs away and a score that stands still: what rings, when, and what must not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inflame.errors import Diverged
from inflame.model.engine import checkpoint
from inflame.model.engine.hooks import SaveLast
from inflame.model.engine.learner import Learner
from inflame.model.engine.trend import Trend

Make = Callable[..., Learner]
CHANCE = math.log(3)


class Told:
    """A hook that pretends: step i had the loss `losses(i)`, and validation i the accuracy `scores(i)`."""

    def __init__(
        self, losses: Callable[[int], float] = lambda step: 0.5, scores: Callable[[int], float] | None = None
    ) -> None:
        self.losses, self.scores = losses, scores

    def after_batch(self, learner: Learner) -> None:
        learner.value = torch.tensor(self.losses(learner.at.step))

    def after_epoch(self, learner: Learner) -> None:
        if self.scores is not None:
            learner.metrics |= {"val_accuracy": self.scores(learner.at.epoch), "val_loss": 1.0}


def test_sgd_with_a_rate_far_too_high_does_not_end_without_a_word(make_learner: Make, tmp_path: Path) -> None:
    learner = make_learner(rate=1e4, schedule=lambda progress: 1.0, hooks=[Trend(chance=CHANCE), SaveLast(tmp_path)])
    with pytest.raises(Diverged, match="run away since step") as told:
        learner.fit(60)
    assert "Lower hyperparam.learning_rate" in told.value.remedy
    assert learner.at.step < 200


def test_a_short_training_that_ends_so_has_diverged_too(make_learner: Make) -> None:
    with pytest.raises(Diverged):
        make_learner(rate=1e4, schedule=lambda progress: 1.0, hooks=[Trend(chance=CHANCE)]).fit(5)  # 30 steps


def test_the_checkpoint_that_is_left_is_from_before(make_learner: Make, tmp_path: Path) -> None:
    def losses(step: int) -> float:
        return 0.3 if step <= 40 else 1e3

    hooks = [Told(losses), Trend(chance=CHANCE), SaveLast(tmp_path, every=1e-9, share=1e9)]  # at every batch
    with pytest.raises(Diverged) as told:
        make_learner(hooks=hooks).fit(100)
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert 1 <= state["at"]["step"] <= 40
    assert f"step {state['at']['step']} is from before" in told.value.remedy
    learner = make_learner(hooks=[Trend(chance=CHANCE), SaveLast(tmp_path)])
    assert checkpoint.resume(learner, tmp_path)
    learner.fit(15)  # and from there it goes on


def test_nothing_is_saved_while_the_loss_is_above(make_learner: Make, tmp_path: Path) -> None:
    saved = []

    class Saved:
        def pause(self, learner: Learner) -> None:
            state = checkpoint.load(tmp_path)
            saved.append(None if state is None else state["at"]["step"])

    watch = Trend(chance=CHANCE)
    last = SaveLast(tmp_path, every=1e-9, share=1e9)
    make_learner(hooks=[Told(lambda step: 1e3 if 30 < step <= 60 else 0.3), watch, last, Saved()]).fit(20)
    assert not watch.above  # it came back: nothing rang, and it is saved again
    final = checkpoint.load(tmp_path)
    assert final is not None
    assert final["at"]["step"] == 120
    assert 45 not in saved
    assert 55 not in saved


@pytest.mark.parametrize(
    "losses",
    [
        lambda step: 1e6 if step % 50 == 0 else 0.4,  # a batch now and then
        lambda step: 0.01 if step < 100 else 0.9 * CHANCE,  # far above its best, but no worse than chance
        lambda step: 12.0 / step**0.5,  # a loss that begins high
        lambda step: 5.0 + 2 * math.sin(step),  # another kind of loss
        lambda step: 8.0 if 100 <= step < 150 else 0.5,  # a while, and back
    ],
    ids=["spikes", "chance", "high", "noisy", "a while"],
)
def test_what_must_not_ring(make_learner: Make, losses: Callable[[int], float]) -> None:
    learner = make_learner(hooks=[Told(losses), Trend(chance=CHANCE)])
    learner.fit(80)
    assert not learner.suspect


def test_a_loss_that_is_no_number_rings_where_no_other_guard_looks(make_learner: Make) -> None:
    learner = make_learner(hooks=[Told(lambda step: math.nan if step == 20 else 0.4), Trend(chance=CHANCE)])
    with pytest.raises(Diverged, match="about nan"):
        learner.fit(10)
    assert learner.at.step == 20


def test_it_remembers_over_a_resume(make_learner: Make, tmp_path: Path) -> None:
    make_learner(hooks=[Told(lambda step: 0.2), Trend(chance=CHANCE), SaveLast(tmp_path)]).fit(3)
    watch = Trend(chance=CHANCE)
    learner = make_learner(hooks=[Told(lambda step: 1e3), watch, SaveLast(tmp_path)])
    checkpoint.resume(learner, tmp_path)
    assert watch.best == pytest.approx(0.2)
    with pytest.raises(Diverged, match=r"its best was 0\.2"):
        learner.fit(60)


def test_a_score_that_stands_still_for_half_of_the_training_is_said_once(make_learner: Make) -> None:
    said: list[str] = []
    make_learner(hooks=[Told(scores=lambda epoch: min(epoch, 3) / 10), Trend(flat=said.append)]).fit(20)
    assert said == ["validation has not improved since epoch 4 (accuracy 30.0%)"]


@pytest.mark.parametrize(
    ("epochs", "scores"), [(20, lambda epoch: epoch // 8), (5, lambda epoch: 0.5)], ids=["slow steps", "few epochs"]
)
def test_a_score_that_moves_now_and_then_is_not(make_learner: Make, epochs: int, scores: Any) -> None:
    said: list[str] = []
    make_learner(hooks=[Told(scores=scores), Trend(flat=said.append)]).fit(epochs)
    assert said == []


def test_a_healthy_training_is_not_changed(make_learner: Make, same: Any) -> None:
    ends = []
    for hooks in ([], [Trend(chance=CHANCE)]):
        learner = make_learner(hooks=hooks)
        learner.fit(3)
        ends.append(learner.net.state_dict())
    assert same(*ends)
