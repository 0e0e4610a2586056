"""Which trials get more time, and which are not worth any more.

`Ladder` is asynchronous successive halving (ASHA; Li et al., arXiv 1810.05934): each trial begins with a small budget;
a third of those that have used one up get three times as much. `hopeless` looks at a single run while it trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inflame.factory.objectives import best, curve
from inflame.factory.trials import Trial
from inflame.records import Record

ETA = 3  # a third goes on, with three times the budget
SHORTEST = 5.0  # seconds of a run that say anything about it
_CHANCE, _EARLY = 1.1, 0.1  # no better than 1.1 x chance after a tenth of the budget
_LATE, _ENOUGH = 0.25, 4  # when a curve is compared with those of finished trials, and how many there must be


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder(Record):
    """The budgets that a trial may have one after the other. `kind`: "seconds" (each rung is a run of its own, whose
    schedule is made for that time), "epochs" (the same run goes on) or "" (there is one rung, the recipe's own)."""

    kind: str = ""
    rungs: tuple[float, ...] = ()

    @property
    def top(self) -> int:
        """The number of the last rung."""
        return max(0, len(self.rungs) - 1)

    def budget(self, rung: int) -> float | None:
        """Of a rung, in seconds or epochs; None: the recipe's own."""
        return self.rungs[rung] if self.rungs else None


def ladder(seconds: float | None, epochs: int, *, stopping: bool) -> Ladder:
    """The rungs of a recipe that takes so many seconds (or, without, epochs)."""
    if seconds is not None:
        levels = 3 if seconds >= SHORTEST * ETA**2 else 2 if seconds >= SHORTEST * ETA else 1
        rungs = [float(f"{seconds / ETA ** (levels - 1 - level):.4g}") for level in range(levels)]
        return Ladder(kind="seconds", rungs=tuple(rungs) if stopping else (seconds,))
    if epochs >= ETA and stopping:
        levels = 3 if epochs >= ETA**2 else 2
        whole = [math.ceil(epochs / ETA ** (levels - 1 - level)) for level in range(levels)]
        return Ladder(kind="epochs", rungs=tuple(float(rung) for rung in whole))
    return Ladder()


def promotable(trials: Sequence[Trial], steps: Ladder, direction: str, *, anyway: bool = False) -> Trial | None:
    """The waiting trial that has earned the next rung: the best of the highest rung on which one is among the best
    third of all that came so far. anyway: the best one of the highest rung, earned or not."""
    sign = 1 if direction == "maximize" else -1
    for rung in range(steps.top - 1, -1, -1):
        there = [trial for trial in trials if trial.values and _reached(trial, rung, steps)]
        ranked = sorted(there, key=lambda trial: (-sign * trial.values[0], trial.number))
        earned = ranked if anyway else ranked[: len(ranked) // ETA]
        for trial in earned:
            if trial.state == "waiting" and trial.rung == rung:
                return trial
    return None


def earned(trial: Trial, value: float, trials: Sequence[Trial], rung: int, steps: Ladder, direction: str) -> bool:
    """Whether a trial with this value at a rung is among the best third of those that came there, so that it may go
    on at once."""
    sign = 1 if direction == "maximize" else -1
    others = [other for other in trials if other.number != trial.number and other.values]
    there = [sign * other.values[0] for other in others if _reached(other, rung, steps)]
    better = sum(1 for other in there if other >= sign * value)
    return better < (len(there) + 1) // ETA


def _reached(trial: Trial, rung: int, steps: Ladder) -> bool:
    """Whether the trial has used up the budget of the rung."""
    return trial.rung > rung or (trial.rung == rung and trial.state in ("waiting", "stopped", "done"))


@dataclass(frozen=True, slots=True)
class Curve:
    """What a finished trial had at which share of its budget."""

    points: tuple[tuple[float, float], ...]
    final: float
    budget: float


def points(rows: Sequence[Mapping[str, Any]], name: str, kind: str, budget: float) -> list[tuple[float, float | None]]:
    """(share of the budget, value) of the rows in which the objective was looked at."""
    unit = "epoch" if kind == "epochs" else "seconds"
    return [(float(row.get(unit) or 0) / budget, value) for row, value in curve(rows, name)]


def hopeless(
    found: Sequence[tuple[float, float | None]],
    *,
    name: str,
    direction: str,
    classes: int,
    finished: Sequence[Curve],
    incumbent: float | None,
    budget: float,
) -> str:
    """Why a run isn't worth going on with; "" while it is.

    Its numbers are no longer finite; or it is no better than chance after a tenth of its budget; or, added to its best
    value, the most that any finished trial of that budget gained from there on is less than the best trial has.
    """
    if any(value is None for _, value in found):
        return "diverged: a number that is no longer finite"
    plain = [(share, value) for share, value in found if value is not None]
    if not plain:
        return ""
    now, top = plain[-1][0], best([value for _, value in plain], direction)
    accuracy = name in ("val.accuracy", "val.low", "val_accuracy")
    if accuracy and classes and now >= _EARLY and len(plain) > 1 and top <= _CHANCE / classes:
        return f"no better than chance ({top:.3f}) after {now:.0%} of its budget"
    alike = [one for one in finished if one.budget == budget]
    if incumbent is None or now < _LATE or len(alike) < _ENOUGH:
        return ""
    sign = 1 if direction == "maximize" else -1
    gains = [sign * (one.final - _at(one, now, direction)) for one in alike]
    hoped = top + sign * max(*gains, 0.0)
    if sign * hoped < sign * incumbent:
        return (
            f"{top:.4g} after {now:.0%}: with the most that any trial gained from there, {hoped:.4g} < {incumbent:.4g}"
        )
    return ""


def _at(one: Curve, share: float, direction: str) -> float:
    """The best value of a finished trial up to a share of its budget."""
    before = [value for at, value in one.points if at <= share] or [one.points[0][1] if one.points else one.final]
    return best(before, direction)
