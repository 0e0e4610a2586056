"""What a worker that is free does next: a trial that lost its process, a longer try of a good one, a new point."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from inflame.config.axes import Axis
from inflame.factory import samplers, stopping
from inflame.factory.journal import Journal
from inflame.factory.stopping import Ladder
from inflame.factory.trials import Sweep, Trial

AROUND = 1.0  # seconds that starting and ending a trial takes, before any was measured
_MOST_TRIES = 1000  # to find a point that was not tried before


class Turns:
    """The trials that are still to come. `left`: seconds of the sweep that are left; `around`: those that a trial takes
    beside its budget; `again`: trials whose process is gone, to be started once more."""

    def __init__(
        self, sweep: Sweep, axes: Sequence[Axis], journal: Journal, left: Callable[[], float], host: str
    ) -> None:
        self.sweep, self.axes, self.journal, self.left, self.host = sweep, axes, journal, left, host
        self.steps = Ladder(kind=sweep.unit, rungs=sweep.rungs)
        self.again: list[Trial] = []
        self.around = AROUND
        self._exhausted = False
        self._learned: samplers.Learned | None = None
        if samplers.learns(sweep.sampler):
            self._learned = samplers.Learned(sweep.sampler, axes, sweep.directions, seed=sweep.seed, own=sweep.own)

    def next(self, working: Collection[int]) -> Trial | None:
        """The next trial, while those with the numbers `working` are at work. Near the end of the time the best one is
        tried for longer, earned or not; also where nothing else is left to do and no trial came to its end."""
        if self.again:
            return self.again.pop(0)
        trials = list(self.journal.trials.values())
        if trial := self._promoted(trials, working, anyway=self._ending()):
            return trial
        if self._fits(self.steps.budget(0)) and (trial := self._new(trials)):
            return trial
        over = not working and not any(one.state == "done" for one in trials)
        return self._promoted(trials, working, anyway=True) if over else None

    def _ending(self) -> bool:
        rungs = self.steps.rungs
        return self.steps.kind == "seconds" and len(rungs) > 1 and self.left() < rungs[0] + rungs[1] + 2 * self.around

    def _promoted(self, trials: Sequence[Trial], working: Collection[int], *, anyway: bool) -> Trial | None:
        if len(self.sweep.objectives) > 1 or not self.steps.top:
            return None
        free = [trial for trial in trials if trial.number not in working or trial.state != "waiting"]
        found = stopping.promotable(free, self.steps, self.sweep.directions[0], anyway=anyway)
        if found is None or not self._fits(self.steps.budget(found.rung + 1)):
            return None
        return replace(found, rung=found.rung + 1)

    def _fits(self, budget: float | None) -> bool:
        """Whether a trial with this budget ends within the time of the sweep, as far as can be known."""
        if self.steps.kind == "seconds" and budget is not None:
            return budget + self.around <= self.left()
        finished = [trial.seconds for trial in self.journal.trials.values() if trial.state == "done" and trial.seconds]
        return (0.8 * statistics.median(finished) if finished else 0.0) < self.left()

    def _new(self, trials: Sequence[Trial]) -> Trial | None:
        """A point that was not tried yet; None when there is none, or enough were tried."""
        if self.sweep.storage:  # other machines may be at it
            self.journal.refresh()
            trials = list(self.journal.trials.values())
        if self._exhausted or (self.sweep.most is not None and len(trials) >= self.sweep.most):
            return None
        number = len(trials)
        settings = self._point(number, trials)
        if settings is None:
            self._exhausted = True
            return None
        made = self.journal.create(Trial(number=number, settings=settings, host=self.host))
        return made if made.number == number else self._instead(made)

    def _instead(self, made: Trial) -> Trial | None:
        """`made` with the point of the number that it got, where a driver on another machine was quicker; None, and it
        is taken back, where that one took the last."""
        self.journal.refresh()
        others = [trial for trial in self.journal.trials.values() if trial.number != made.number]
        earlier = sum(trial.number < made.number for trial in others)
        full = self.sweep.most is not None and earlier >= self.sweep.most
        settings = None if full else self._point(made.number, others)
        if settings is None:
            self.journal.drop(made)
            return None
        return self.journal.write(replace(made, settings=settings))

    def _point(self, number: int, trials: Sequence[Trial]) -> dict[str, Any] | None:
        name, seed = self.sweep.sampler, self.sweep.seed
        if self.sweep.points or name == "grid":
            if (listed := self._listed(number)) is not None:
                return listed
            taken = {trial.number for trial in trials}  # a number that was taken back left its point to others
            left = (self._listed(other) for other in range(number) if other not in taken)
            return next((one for one in left if all(one != trial.settings for trial in trials)), None)
        tried = [trial.settings for trial in trials]
        if len(tried) >= samplers.size(self.axes):
            return None
        found = self._learned and self._learned.propose(number, trials)
        found = found or samplers.point(name, self.axes, number, seed=seed)
        for attempt in range(1, _MOST_TRIES):  # what was tried before would tell nothing new
            if found not in tried:
                return found
            found = samplers.point("random", self.axes, number + attempt * 1_000_003, seed=seed)
        return None

    def _listed(self, number: int) -> dict[str, Any] | None:
        """The point with this number of those that were listed beforehand; None at their end."""
        if not self.sweep.points:
            return samplers.point("grid", self.axes, number, seed=self.sweep.seed)
        return dict(self.sweep.points[number]) if number < len(self.sweep.points) else None
