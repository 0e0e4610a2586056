"""Who gets more time, and what is hopeless."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from inflame.factory import stopping
from inflame.factory.stopping import Curve, Ladder
from inflame.factory.trials import Trial

SECONDS = Ladder(kind="seconds", rungs=(5.0, 15.0, 45.0))


@pytest.mark.parametrize(
    ("seconds", "epochs", "on", "found"),
    [
        (45.0, 0, True, (5.0, 15.0, 45.0)),
        (20.0, 0, True, (6.667, 20.0)),
        (9.0, 0, True, (9.0,)),
        (45.0, 0, False, (45.0,)),
        (None, 9, True, (1.0, 3.0, 9.0)),
        (None, 10, True, (2.0, 4.0, 10.0)),
        (None, 4, True, (2.0, 4.0)),
        (None, 9, False, ()),
        (None, 1, True, ()),
    ],
)
def test_rungs(seconds: float | None, epochs: int, on: bool, found: tuple[float, ...]) -> None:
    assert stopping.ladder(seconds, epochs, stopping=on).rungs == found


def waiting(values: list[float], rung: int = 0) -> list[Trial]:
    return [Trial(number=n, state="waiting", rung=rung, values=(value,)) for n, value in enumerate(values)]


def test_the_best_third_is_promoted_one_by_one() -> None:
    trials = waiting([0.1, 0.2])
    assert stopping.promotable(trials, SECONDS, "maximize") is None, "of two nobody knows"
    trials = waiting([0.1, 0.3, 0.2, 0.5, 0.4, 0.0])
    first = stopping.promotable(trials, SECONDS, "maximize")
    assert first is not None
    assert first.number == 3
    trials[3] = replace(trials[3], state="running", rung=1)
    second = stopping.promotable(trials, SECONDS, "maximize")
    assert second is not None
    assert second.number == 4
    trials[4] = replace(trials[4], state="running", rung=1)
    assert stopping.promotable(trials, SECONDS, "maximize") is None, "two of six are on their way"
    last = stopping.promotable(trials, SECONDS, "maximize", anyway=True)
    assert last is not None
    assert last.number == 1
    least = stopping.promotable(trials, SECONDS, "minimize")
    assert least is not None
    assert least.number == 5


def test_higher_rungs_come_first_and_the_top_is_the_end() -> None:
    trials = [*waiting([0.1, 0.2, 0.3]), *(replace(t, number=t.number + 3) for t in waiting([0.6, 0.7, 0.8], rung=1))]
    found = stopping.promotable(trials, SECONDS, "maximize")
    assert found is not None
    assert found.rung == 1
    assert found.values == (0.8,)
    assert stopping.promotable(waiting([0.1, 0.2, 0.3], rung=2), SECONDS, "maximize", anyway=True) is None


def test_a_trial_goes_on_at_once_when_it_has_earned_it() -> None:
    others = waiting([0.1, 0.2, 0.3, 0.4, 0.5])
    trial = Trial(number=9, state="running")
    assert stopping.earned(trial, 0.6, others, 0, SECONDS, "maximize")
    assert stopping.earned(trial, 0.45, others, 0, SECONDS, "maximize")
    assert not stopping.earned(trial, 0.35, others, 0, SECONDS, "maximize")
    assert not stopping.earned(trial, 0.6, others[:1], 0, SECONDS, "maximize"), "too few to know"


def hopeless(points: list[tuple[float, float | None]], **more: Any) -> str:
    fixed: dict[str, Any] = {"name": "val.accuracy", "direction": "maximize", "classes": 10, "budget": 9.0}
    return stopping.hopeless(points, **{**fixed, "finished": (), "incumbent": None, **more})


def test_what_is_not_finite_or_chance_is_hopeless() -> None:
    assert "finite" in hopeless([(0.1, 0.5), (0.2, None)])
    assert "chance" in hopeless([(0.05, 0.1), (0.15, 0.1)])
    assert not hopeless([(0.05, 0.1)]), "too early"
    assert not hopeless([(0.05, 0.1), (0.15, 0.3)])
    assert not hopeless([(0.05, 0.1), (0.15, 0.1)], classes=0), "how many classes there are isn't known"
    assert not hopeless([(0.2, 2.3), (0.3, 2.3)], name="val_loss", direction="minimize")


def test_what_can_not_catch_up_is_hopeless() -> None:
    curves = [Curve(((0.3, 0.5 + 0.01 * n), (1.0, 0.7 + 0.01 * n)), 0.7 + 0.01 * n, 9.0) for n in range(4)]
    assert "0.6 < 0.73" in hopeless([(0.3, 0.4)], finished=curves, incumbent=0.73)
    assert not hopeless([(0.3, 0.54)], finished=curves, incumbent=0.73), "as others did"
    assert not hopeless([(0.3, 0.4)], finished=curves[:3], incumbent=0.73), "too few curves to know"
    assert not hopeless([(0.3, 0.4)], finished=[replace_budget(one) for one in curves], incumbent=0.73)
    assert not hopeless([(0.2, 0.4)], finished=curves, incumbent=0.73), "too early"
    falling = [Curve(((0.3, 1.0), (1.0, 0.5)), 0.5, 9.0)] * 4
    loss = {"name": "val_loss", "direction": "minimize", "finished": falling, "incumbent": 0.5}
    assert hopeless([(0.3, 1.5)], **loss)
    assert not hopeless([(0.3, 0.9)], **loss)


def replace_budget(one: Curve) -> Curve:
    return Curve(one.points, one.final, 81.0)


def test_shares_of_the_budget() -> None:
    rows = [
        {"epoch": 1, "val_accuracy": 0.5, "seconds": 2.0},
        {"epoch": 2, "loss": 1.0},
        {"epoch": 3, "val_accuracy": None},
    ]
    assert stopping.points(rows, "val.accuracy", "epochs", 9.0) == [(1 / 9, 0.5), (3 / 9, None)]
    assert stopping.points(rows[:1], "val.low", "seconds", 8.0) == [(0.25, 0.5)]
    assert math.isclose(stopping.points(rows[1:2], "loss", "epochs", 4.0)[0][1] or 0, 1.0)
