"""Jobs of one model folder at any place: packed once, sent by the place's own launcher, watched in the file of jobs
(`inflame.infra.jobs`), their run folders brought here as they grow.

What the pool knows is in that file and in the outputs, so whoever comes later finds each job again. It says itself how
a job ended: one whose machine was taken away has been sent again as often as that makes sense.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inflame import store
from inflame.errors import DataError, InflameError
from inflame.infra import attempts, jobs, launch
from inflame.infra.command import RUN
from inflame.infra.jobs import Sent
from inflame.infra.launcher import ENDED
from inflame.infra.pack import package, requirements
from inflame.infra.pools.pool import Pool
from inflame.records import Job, JobSpec, Package, dumps
from inflame.runs.begin import SWEEP, TRIAL
from inflame.runs.run import METRICS, STATUS

PACKAGE = "package.json"  # in the folder of the pool: what all its jobs carry
CALLED = "INFLAME_CALLED"  # the job's name: no two of them are the same to their place
LOOK = attempts.BEAT / 2  # seconds between two looks at a job
AGAIN = 60.0  # seconds until a place that refused a job, while others are at work there, is asked again
_FIRST = "dataset.json"
_TOLD = (SWEEP, TRIAL)  # variables that mean something on another machine


@dataclass(slots=True)
class _Seen:
    """What the last look at a job has shown. `line`: the last of its log, from the log's piece `piece`; `heard`: when
    something new came of it (since 1970)."""

    job: Job
    looked: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.time)
    line: str = ""
    piece: str = ""


class Elsewhere(Pool):
    """`workers` jobs at a time, as `plan` has planned one of them. `folder` keeps the name of what was packed: a pool
    that is made anew goes on with the same code. `mark` tells the outputs of these jobs from those of others."""

    resends = True

    def __init__(self, plan: launch.Plan, folder: Path, *, workers: int, mark: str, price: float | None = None) -> None:
        self.slots = [[] for _ in range(workers)]
        self._plan, self._folder, self._mark, self._price = plan, folder, mark, price
        self._package: Package | None = None
        self._seen: dict[str, _Seen] = {}
        self._refused: dict[str, JobSpec] = {}  # jobs that the place had no room for
        self._stopped: set[str] = set()
        self._costs: dict[str, float] = {}  # of runs, as they were known last

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The job as its launcher gets it: that of the plan, with the words of `spec`. The name of the run folder that
        `spec.output` is here is that of the folder there."""
        output = self._output(Path(spec.output).name)
        words = launch.words(spec, self._plan.machine)
        told = replace(self._plan.spec, arguments=words, output=output)
        return {"backend": self._plan.backend, "spec": told.to_json(), "output": output}

    def send(self, request: dict[str, Any]) -> Job:
        """Sends the job, unless it was sent before. While others are at work, one that the place refuses (a quota, a
        network that is gone) waits until it has room; alone, it raises what the place says."""
        name, variables = request["id"], {**request["variables"], CALLED: request["id"]}
        said = tuple(f"{key}={value}" for key, value in variables.items() if key in (*_TOLD, CALLED))
        spec = replace(JobSpec.from_json(request["spec"]), variables=said)
        job = Job(id=name, backend=self._plan.backend, status="queued", output=spec.output)
        return self.status(job) if self.knows(job) else self._sent(job, spec)

    def status(self, job: Job) -> Job:
        """As it was when it was looked at last, `LOOK` seconds ago at most. One that has ended has its run folder
        here."""
        seen = self._seen.setdefault(job.id, _Seen(job, looked=-AGAIN))
        pause = AGAIN if job.id in self._refused else LOOK
        if seen.job.status not in ENDED and time.monotonic() - seen.looked > pause:
            seen.looked = time.monotonic()
            if job.id in self._refused:
                return self._sent(job, self._refused[job.id])
            self._look(seen, jobs.refresh(jobs.get(job.id)))
        return seen.job

    def logs(self, job: Job) -> Iterator[str]:
        """The lines that it has written to its output."""
        yield from jobs.logs(jobs.get(job.id))[0]

    def cancel(self, job: Job, number: int = signal.SIGTERM) -> Job:
        """Asks it to save and stop, until that was heard; its place kills it where it doesn't."""
        if self._refused.pop(job.id, None) is not None:
            self._seen[job.id].job = replace(job, status="stopped", reason="it was stopped before it was sent")
        elif self.knows(job) and job.id not in self._stopped:
            with suppress(InflameError):  # a network that fails for a while: whoever wants it to stop asks again
                jobs.stop(jobs.get(job.id))
                self._stopped.add(job.id)
        return self.status(job)

    def fetch(self, job: Job) -> Path:
        """The run folder, among the runs of this machine. What an earlier sitting left there gives way."""
        sent = jobs.get(job.id)
        name = self._run(sent.spec.output)
        mine = store.home() / "runs" / name
        if (mine / STATUS).exists():
            shutil.rmtree(mine)
        return jobs.fetch(sent, name)

    def prepare(self, spec: JobSpec) -> None:
        """Packs the code and brings it to the place, or finds what was brought there before."""
        if self._package is not None:
            return
        told = self._folder / PACKAGE
        if told.is_file():
            self._package = Package.from_json(json.loads(store.read_text(told)))
            return
        requirements.demand_driver(self._plan.place)
        self._package = package.upload(self._plan.luggage, self._plan.place)
        store.write(told, dumps(self._package))

    def wait(self, seconds: float) -> None:
        """Sleeps."""
        time.sleep(seconds)

    def said(self, job: Job) -> tuple[str, float]:
        """The last line of its log, and when something new came of it. A job that waits for a machine is not silent."""
        seen = self._seen[job.id]
        return seen.line, seen.heard if seen.job.status == "running" else time.time()

    def knows(self, job: Job) -> bool:
        """Whether the job was sent; one whose sending was cut off was not."""
        found = jobs.find(job.id)
        return found is not None and found.native is not None

    def place(self, job: Job) -> int | None:
        """None: one place is like another."""
        return None

    def close(self) -> None:
        """Nothing is held."""

    def cost(self, run: str) -> float | None:
        """US dollars that the jobs of a run folder of that name have taken so far: the time on their machines at the
        price of an hour. None where nobody knows the price."""
        if run not in self._costs:
            self._count(run)
        return self._costs.get(run)

    # --- a job -----------------------------------------------------------------------------------

    def _sent(self, job: Job, spec: JobSpec) -> Job:
        assert self._package is not None
        self._refused.pop(job.id, None)
        try:
            jobs.submit(job.id, self._plan.backend, spec, self._package)
        except InflameError as error:
            if not self._others(job):
                raise
            self._refused[job.id] = spec
            job = replace(job, reason=error.message)
        self._seen[job.id] = _Seen(job)
        return job

    def _others(self, job: Job) -> bool:
        """Whether other jobs of the pool are at work."""
        waiting = {job.id, *self._refused}
        return any(seen.job.status not in ENDED for name, seen in self._seen.items() if name not in waiting)

    def _look(self, seen: _Seen, sent: Sent) -> None:
        """Brings what is new: of a job at work its numbers and its log, of one that has ended all it has left."""
        before, seen.job = seen.job, sent.as_job()
        if sent.ended:
            seen.job = self._landed(seen.job, before)
        elif sent.state != "running":
            seen.heard = time.time()
        else:
            with suppress(InflameError):  # a network that fails for a while: the next look brings it
                self._follow(seen, sent.spec.output)
        self._count(self._run(sent.spec.output))

    def _landed(self, job: Job, before: Job) -> Job:
        """The job that has ended, with its run folder here; as before while that can't be brought."""
        try:
            self.fetch(job)
        except DataError as error:  # it has left none
            return replace(job, reason=job.reason or error.message)
        except InflameError as error:
            return replace(before, reason=f"it has ended, and its run folder can't be brought yet: {error.message}")
        return job

    def _follow(self, seen: _Seen, output: str) -> None:
        lines, piece = attempts.lines(output, after=seen.piece, newest=True)
        told = [line.strip() for line in lines if line.strip() and not line.startswith("{")]
        if piece != seen.piece:
            seen.piece, seen.line, seen.heard = piece, (told or [seen.line])[-1], time.time()
        mine = store.home() / "runs" / self._run(output)
        for name in (METRICS, *([] if (mine / _FIRST).is_file() else [_FIRST])):
            with suppress(DataError):  # not written yet
                data = store.read_bytes(store.join(output, RUN, name))
                if not (mine / name).is_file() or (mine / name).read_bytes() != data:
                    store.write(mine / name, data)
                    seen.heard = time.time()

    def _count(self, run: str) -> None:
        if self._price is not None:
            with suppress(InflameError):
                self._costs[run] = attempts.spent(self._output(run)) / 3600 * self._price

    def _output(self, run: str) -> str:
        return store.join(self._plan.place, "jobs", f"{run}-{self._mark}")

    def _run(self, output: str) -> str:
        """The name of the run folder whose output that is."""
        return output.rpartition("/")[2].removesuffix(f"-{self._mark}")
