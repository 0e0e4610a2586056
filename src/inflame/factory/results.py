"""The trials of a sweep in order, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence

from inflame.factory.trials import Sweep, Trial


def ranked(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """The best first by the first objective; then those without a value."""
    sign = 1 if sweep.directions[0] == "maximize" else -1
    with_value = [trial for trial in trials if trial.values and trial.state != "failed"]
    order = sorted(with_value, key=lambda trial: (-sign * trial.values[0], trial.number))
    return [*order, *(trial for trial in trials if trial not in with_value)]


def best(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """The best trial, of those that came to an end of their budget; of two objectives the Pareto front."""
    complete = [trial for trial in trials if trial.state != "failed" and len(trial.values) == len(sweep.objectives)]
    ended = [trial for trial in complete if trial.state == "done"] or complete
    if len(sweep.objectives) == 1:
        return ranked(sweep, ended)[:1]
    return ranked(sweep, [one for one in ended if not any(_dominates(sweep, other, one) for other in ended)])


def _dominates(sweep: Sweep, one: Trial, other: Trial) -> bool:
    """Whether `one` is as good in everything and better in something."""
    signs = [1 if way == "maximize" else -1 for way in sweep.directions]
    mine = [sign * value for sign, value in zip(signs, one.values, strict=True)]
    theirs = [sign * value for sign, value in zip(signs, other.values, strict=True)]
    return all(a >= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs
