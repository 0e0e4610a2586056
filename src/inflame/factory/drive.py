"""The driver of a sweep: asks for points, sends trials to workers, watches them, stops the hopeless, goes on after any
death, its own too. What it knows is in the journal and the run folders; it can be killed between any two lines."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from inflame import store
from inflame.config.axes import Axis
from inflame.errors import RunError, UserError
from inflame.factory import objectives, stopping, watch
from inflame.factory.journal import Journal
from inflame.factory.limits import Limits
from inflame.factory.stopping import Ladder
from inflame.factory.trials import LOCK, STATE, Sweep, Trial
from inflame.factory.turns import Turns
from inflame.factory.words import example, run_folder, run_folders, words
from inflame.factory.working import Glance, Work, stopped_by_signals
from inflame.infra.launcher import ENDED
from inflame.infra.pools.pool import Pool
from inflame.records import Job, JobSpec, dumps
from inflame.runs import Run, lock
from inflame.runs.begin import REUSE, SWEEP, TRIAL
from inflame.runs.index import folder_of_runs

RETRIES = 4  # starts of a trial that was killed from outside, before it counts as failed
GRACE = 20.0  # seconds that a trial which was told to stop may take to save
_KILLED = 128 + signal.SIGKILL
_SECONDS = 30.0  # trials that are shorter may be lost in a power cut
_LOOK, _TURN, _NOTE = 0.2, 0.1, 2.0  # seconds between looks at the trials, turns of the loop, notes of the time


Show = Callable[[Glance], None]


def drive(sweep: Sweep, varied: Sequence[Axis], workers: Pool, show: Show = lambda _: None) -> list[Trial]:
    """Works at a sweep until the space, the trials or the time are used up; the trials as they are then. `show` is
    called about twice a second. Ctrl-C and SIGTERM let trials save and raise KeyboardInterrupt; where another driver is
    at work: UserError, and nothing is touched."""
    held = lock.take(sweep.path / LOCK)
    if held is None:
        raise UserError(
            f"Another process is working on the sweep {sweep.name}.",
            where=str(sweep.path),
            remedy="Wait until it ends, or stop it; see what it does: inflame board --sweep " + sweep.name,
        )
    try:
        return Driver(sweep, varied, workers, show).run()
    finally:
        held.release()


class Driver:
    """One sitting of a sweep, by the process that holds its lock."""

    def __init__(self, sweep: Sweep, varied: Sequence[Axis], workers: Pool, show: Show) -> None:
        self.sweep, self.axes, self.workers, self.show = sweep, varied, workers, show
        self.steps = Ladder(kind=sweep.unit, rungs=sweep.rungs)
        self.direction, self.several = sweep.directions[0], len(sweep.objectives) > 1
        like = JobSpec(model=sweep.model, arguments=example(sweep, varied))
        if not sweep.storage:  # else nothing is begun before the database has answered
            workers.prepare(like)  # while we read and import
        self.journal = Journal(sweep, varied)
        workers.prepare(like)
        self.working: dict[int, Work] = {}
        self.limits = Limits(sweep, len(workers.slots), self.money)
        self._host = f"{os.uname().nodename}:{store.home()}"
        self.turns = Turns(sweep, varied, self.journal, self.limits.left, self._host)
        self.curves: list[stopping.Curve] = []
        self.usual, self._quick = 0.0, math.inf  # seconds between two rows, and of the last finished trial
        self._noted = self._shown = 0.0

    def run(self) -> list[Trial]:
        """See `drive`."""
        try:
            with stopped_by_signals():
                self._adopt()
                self._loop()
            self._close()
        except BaseException:
            self._interrupt()
            raise
        return list(self.journal.trials.values())

    def money(self) -> float:
        """US dollars that the trials have taken so far, as far as their place has a price."""
        known = self.journal.trials | {number: work.trial for number, work in self.working.items()}
        return sum(trial.cost or 0.0 for trial in known.values())

    # --- the loop --------------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            self._harvest()
            self._give_up()
            self._fill()
            if not self.working:
                return
            self._look()
            self._tell()
            self.workers.wait(_TURN)

    def _fill(self) -> None:
        while self.turns.again and (why := self.limits.over()):
            self._write(replace(self.turns.again.pop(), state="stopped", reason=why))
        for slot in range(len(self.workers.slots)):
            if slot in {work.slot for work in self.working.values()} or not self.workers.free(slot):
                continue
            trial = self.turns.next(self.working)
            if trial is None:
                return
            self._send(trial, slot)

    # --- a trial ---------------------------------------------------------------------------------

    def _send(self, trial: Trial, slot: int) -> None:
        """Starts the trial, at the rung that it has; of seconds, each rung is a run of its own."""
        run = run_folder(self.sweep, trial)
        job = trial.job if trial.state == "running" and trial.job else f"{run.name}-{trial.attempt + 1}"
        started = replace(
            trial,
            state="running",
            budget=self.steps.budget(trial.rung),
            run=run.name,
            job=job,
            attempt=trial.attempt + (job != trial.job),
            host=self._host,
            reason="",
        )
        self.journal.write(started)
        spec = JobSpec(model=self.sweep.model, arguments=words(self.sweep, started), output=str(run))
        variables = {SWEEP: self.sweep.name, TRIAL: str(trial.number), REUSE: "1", **self._hasty()}
        request = self.workers.asked(self.workers.request(spec), name=job, slot=slot, variables=variables)
        self.working[trial.number] = Work(started, self.workers.send(request), slot, run)

    def _hasty(self) -> dict[str, str]:
        """Trials of seconds needn't wait for the disk: what a power cut undoes is done again."""
        return {store.HASTY: "1"} if self._quick < _SECONDS else {}

    def _harvest(self) -> None:
        for number, work in list(self.working.items()):
            job = self.workers.status(work.job)
            if job.status in ENDED:
                del self.working[number]
                self._reap(work, job)

    def _reap(self, work: Work, job: Job) -> None:
        """What came of a trial whose process has ended."""
        run = Run(path=work.run)
        state, status = run.state, run.read_status()
        trial = replace(work.trial, seconds=self._spent(work, status), cost=self._cost(work.trial))
        known = objectives.values(run, self.sweep.objectives)
        memory = watch.out_of_memory() > work.memory
        kills = trial.kills + (2 if memory else 1)
        if state == "done" and status.get("state") == "done" and (job.code == 0 or known):
            self._finished(trial, run, known, time.time() - work.began)
        elif work.intent:
            self._write(replace(trial, state=work.intent))
        elif job.code == _KILLED and kills < RETRIES and not self.workers.resends:
            self.turns.again.append(replace(trial, kills=kills, state="waiting"))
        elif job.status == "stopped":
            self.turns.again.append(replace(trial, state="waiting"))  # somebody stopped it, not the sweep
        else:
            said, _ = self.workers.said(job)
            self._write(replace(trial, state="failed", reason=watch.reason(job, status, said, memory=memory)))

    def _finished(self, trial: Trial, run: Run, known: tuple[float, ...], wall: float) -> None:
        """A trial that has come to its end; wall: seconds since it was sent."""
        if not known:
            lacks = f"its run reports no {' and '.join(self.sweep.objectives)}"
            self._write(replace(trial, state="failed", reason=lacks))
            return
        taken = run.read_status()
        name = run.path.resolve().name
        reused = "" if taken.get("trial") == trial.number and taken.get("sweep") == self.sweep.name else f"is {name}"
        if trial.budget is not None and self.steps.kind == "seconds" and not reused:
            late = wall - trial.budget  # of which machines elsewhere take most, until they are there
            around = late if self.workers.resends else min(trial.seconds - trial.budget + 0.5, 0.2 * trial.budget)
            self.turns.around = max(self.turns.around, around)
        self._learn(run, trial)
        self._quick = trial.seconds
        longer = self.steps.kind == "seconds" and trial.rung < self.steps.top and not self.several
        state = "waiting" if longer else "done"
        self._write(replace(trial, state=state, values=known, run=name, reason=reused))

    def _learn(self, run: Run, trial: Trial) -> None:
        """Keeps the curve of a finished trial, for others to be compared with."""
        budget = self.steps.rungs[-1] if self.steps.kind == "epochs" else trial.budget
        if not budget or self.several:
            return
        rows = run.metrics()
        found = stopping.points(rows, self.sweep.objectives[0], self.steps.kind, budget)
        plain = [(share, value) for share, value in found if value is not None]
        if plain:
            final = objectives.best([value for _, value in plain], self.direction)
            self.curves.append(stopping.Curve(tuple(plain), final, budget))
        self.usual = max(self.usual, watch.longest_step(rows))

    def _write(self, trial: Trial) -> None:
        self.journal.write(trial)

    def _spent(self, work: Work, status: dict[str, Any]) -> float:
        """Seconds of the trial: of the whole run where that is one for all rungs, else of all its runs."""
        run = float(status.get("seconds") or 0.0)
        if self.steps.kind != "seconds" or not work.trial.rung:
            return round(run, 3)
        before = sum(Run(path=folder).seconds for folder in run_folders(self.sweep, work.trial)[:-1])
        return round(before + run, 3)

    def _cost(self, trial: Trial) -> float | None:
        """US dollars of all the trial's runs, as far as their place has a price."""
        known = [self.workers.cost(folder.name) for folder in run_folders(self.sweep, trial)]
        priced = [cost for cost in known if cost is not None]
        return round(sum(priced), 4) if priced else None

    # --- watching --------------------------------------------------------------------------------

    def _look(self) -> None:
        now, over = time.time(), self.limits.over()
        for work in self.working.values():
            if work.intent:
                if now - work.told > GRACE:
                    self.workers.cancel(work.job, signal.SIGKILL)
                continue
            if over:
                self._stop(work, "stopped", over)
            elif now - work.looked > _LOOK:
                work.looked = now
                work.trial = replace(work.trial, cost=self._cost(work.trial))
                self._watch(work, now)

    def _watch(self, work: Work, now: float) -> None:
        fresh = work.tail.read(work.run / "metrics.jsonl")
        said = self.workers.said(work.job)[1]
        silent = now - max(work.began, said, work.tail.touched)
        if silent > max(self.sweep.hang, 10 * self.usual):
            last = self.workers.said(work.job)[0]
            self._stop(work, "failed", f"hung: nothing new for {silent:.0f} s; last: {last}", signal.SIGKILL)
            return
        if not fresh:
            return
        if self.several:
            return
        limit = self.steps.rungs[-1] if self.steps.kind == "epochs" else work.trial.budget
        budget = limit or math.inf  # without one a trial is never far, and still may diverge
        found = stopping.points(work.tail.rows, self.sweep.objectives[0], self.steps.kind, budget)
        if limit and self.steps.kind == "epochs" and self._at_rung(work, found, budget):
            return
        if why := self._hopeless(work, found, budget):
            plain = [value for _, value in found if value is not None]
            values = (objectives.best(plain, self.direction),) if len(plain) == len(found) else ()
            work.trial = replace(work.trial, values=values)
            self._stop(work, "stopped", why)

    def _hopeless(self, work: Work, found: Sequence[tuple[float, float | None]], budget: float) -> str:
        if not self.sweep.stopping:
            plain = [pair for pair in found if pair[1] is None]
            return "diverged: a number that is no longer finite" if plain else ""
        return stopping.hopeless(
            found,
            name=self.sweep.objectives[0],
            direction=self.direction,
            classes=watch.classes(work.run),
            finished=self.curves,
            incumbent=self._to_beat(work.trial, budget),
            budget=budget,
        )

    def _to_beat(self, trial: Trial, budget: float) -> float | None:
        """What a trial must come to: the best that finished trials of its budget had; where there are longer ones to
        be earned, the least that earns one."""
        sign = 1 if self.direction == "maximize" else -1
        finals = sorted((sign * one.final for one in self.curves if one.budget == budget), reverse=True)
        place = len(finals) // stopping.ETA - 1 if self.steps.kind == "seconds" and trial.rung < self.steps.top else 0
        return sign * finals[max(place, 0)] if finals else None

    def _at_rung(self, work: Work, found: Sequence[tuple[float, float | None]], budget: float) -> bool:
        """At the end of a rung of epochs: goes on at once where that is earned, else saves and waits for its turn."""
        trial, plain = work.trial, [value for _, value in found if value is not None]
        if trial.rung >= self.steps.top or not plain or found[-1][0] * budget < self.steps.rungs[trial.rung] - 1e-9:
            return False
        value = objectives.best(plain, self.direction)
        others = list(self.journal.trials.values())
        work.trial = replace(trial, values=(value,))
        if stopping.earned(trial, value, others, trial.rung, self.steps, self.direction):
            work.trial = replace(work.trial, rung=trial.rung + 1, budget=self.steps.budget(trial.rung + 1))
            self._write(work.trial)
            return False
        self._stop(work, "waiting", "")
        return True

    def _stop(self, work: Work, state: str, reason: str, number: int = signal.SIGTERM) -> None:
        """Tells a trial to save and stop; it keeps its run folder and checkpoint."""
        work.intent, work.told = state, time.time()
        work.trial = replace(work.trial, reason=reason)
        self.workers.cancel(work.job, number)

    def _give_up(self) -> None:
        """Ends a sweep in which nothing works."""
        trials = self.journal.trials.values()
        failed = [trial for trial in trials if trial.state == "failed"]
        good = any(trial.values and trial.state != "failed" for trial in trials)
        if len(failed) >= max(3, 2 * len(self.workers.slots)) and not good:
            raise RunError(
                f"The first {len(failed)} trials all failed; the last one: {failed[-1].reason}",
                where=str(folder_of_runs() / failed[-1].run),
                remedy="Try one by hand: inflame train "
                + " ".join([Path(self.sweep.model).name, *words(self.sweep, failed[-1])]),
            )

    # --- begin and end ---------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Takes over what an earlier driver of this sweep left: trials that are still at work, or were."""
        free = list(range(len(self.workers.slots)))
        for trial in list(self.journal.trials.values()):
            mine = trial.host == self._host
            if trial.ended or not trial.job or not mine:
                if trial.state == "waiting" and not trial.job and mine:
                    self.turns.again.append(trial)  # made, and never begun
                elif trial.state in ("done", "waiting") and trial.values:
                    self._learn(Run(path=folder_of_runs() / trial.run), trial)
                continue
            job = Job(id=trial.job, backend=self.sweep.where, status="running")
            if not self.workers.knows(job):
                if trial.state == "running":
                    self.turns.again.append(trial)
                continue
            now = self.workers.status(job)
            if trial.state == "waiting" and now.status in ENDED:
                self._learn(Run(path=folder_of_runs() / trial.run), trial)
                continue
            place = self.workers.place(job)
            slot = place if place in free else (free[0] if free else 0)
            free = [one for one in free if one != slot]
            intent = "waiting" if trial.state == "waiting" else ""
            self.working[trial.number] = Work(trial, job, slot, run_folder(self.sweep, trial), intent=intent)

    def _interrupt(self) -> None:
        """Lets all trials save; they go on when the sweep does."""
        for work in self.working.values():
            self.workers.cancel(work.job)
        end = time.monotonic() + GRACE
        with suppress(KeyboardInterrupt):
            while time.monotonic() < end and any(self._alive(work) for work in self.working.values()):
                time.sleep(0.05)
        for work in self.working.values():
            if self._alive(work):
                self.workers.cancel(work.job, signal.SIGKILL)
        self._note("interrupted")

    def _alive(self, work: Work) -> bool:
        return self.workers.status(work.job).status not in ENDED

    def _close(self) -> None:
        for trial in list(self.journal.trials.values()):
            if trial.state == "waiting" and trial.host == self._host:
                why = (
                    f"not among the best third at {trial.budget:g} {self.steps.kind}" if trial.values else "never begun"
                )
                self._write(replace(trial, state="stopped", reason=why))
        self._tell(force=True)
        self._note("done")  # last: telling may note that it is running

    def _tell(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if now - self._noted > _NOTE:
            self._note("running")
            self._noted = now
        if force or now - self._shown > 0.5:
            self._shown = now
            working = [work.trial for work in self.working.values()]
            self.show(Glance(list(self.journal.trials.values()), working, self.limits.seconds(), self.money()))

    def _note(self, state: str) -> None:
        with suppress(OSError):
            said = {"state": state, "seconds": round(self.limits.seconds(), 3), "updated": round(time.time(), 3)}
            store.write(self.sweep.path / STATE, dumps(said))
