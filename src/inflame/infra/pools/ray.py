"""Jobs on a Ray cluster: an actor for each place, which forks jobs on its node as `inflame.infra.pools.warm` does here.

All nodes must see the program, the data and `$INFLAME_HOME` under the same names (a shared folder). What runs on a node
that dies, or belongs to a master that dies, is over; it goes on elsewhere from its last checkpoint, as any training.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from inflame import host, plugins, store
from inflame.errors import NetworkError, UserError
from inflame.infra.launcher import ENDED
from inflame.infra.pools.pool import Pool
from inflame.infra.pools.warm import NEVER, Warm
from inflame.infra.pools.zygote import TIED
from inflame.records import Job, JobSpec, Package

_PATIENCE = 30.0  # seconds that a node may take to answer


class Ray(Pool):
    """`workers` places of `cpus` cores (and `gpus` GPUs) each, on the cluster at `address` ("auto": the one this
    machine is part of; "": one made here)."""

    def __init__(self, address: str = "", *, workers: int = 0, cpus: float = 1, gpus: float = 0) -> None:
        self._ray: Any = plugins.need("ray", "ray", "The place ray")
        self.slots = [[] for _ in range(workers or host.cores())]
        self._address, self._cpus, self._gpus = address, cpus, gpus
        self._actors: dict[int, Any] = {}
        self._sent: dict[str, tuple[int, Any]] = {}  # the slot and the answer of each job
        self._joined = False
        self._since: dict[str, float] = {}  # when each was sent
        self._here = Warm()

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The words for app.py, and what a place has."""
        asked = self._here.request(spec)
        return {**asked, "backend": "ray", "cpus": self._cpus, "gpus": self._gpus, "address": self._address}

    def send(self, request: dict[str, Any]) -> Job:
        """Sends the job to its place; returns at once."""
        slot = request["slot"] or 0
        home = str(store.home())
        actor = self._actor(slot)
        answer = actor.send.remote(
            {**request, "slot": None, "variables": {**request["variables"], "INFLAME_HOME": home}}
        )
        name = request["id"]
        if not name:
            job: Job = self._ask(answer, None)
            name = job.id
        self._sent[name], self._since[name] = (slot, answer), time.monotonic()
        return Job(id=name, backend="ray", status="running", output=request["output"])

    def status(self, job: Job) -> Job:
        """As its node says; `stopped` where that has died, or the job was another master's."""
        if job.id not in self._sent:
            return replace(job, status="stopped", code=NEVER)
        slot, answer = self._sent[job.id]
        ready, _ = self._ray.wait([answer], timeout=0)
        lost = replace(job, status="stopped", code=NEVER)
        if not ready and time.monotonic() - self._since.get(job.id, 0.0) > _PATIENCE:
            return self._lost(job, slot, lost)
        if not ready:
            return replace(job, status="queued")
        if self._ask(answer, None) is None:
            return self._lost(job, slot, lost)
        now = self._ask(self._actors[slot].status.remote(job), None) if slot in self._actors else None
        return self._lost(job, slot, lost) if now is None else replace(now, backend="ray")

    def logs(self, job: Job) -> Iterator[str]:
        """The lines of log.txt, in the shared home."""
        yield from self._here.logs(job)

    def cancel(self, job: Job, number: int = signal.SIGTERM) -> Job:
        """SIGTERM to the job, by its node."""
        now = self.status(job)
        if now.status not in ENDED and job.id in self._sent:
            actor = self._actors.get(self._sent[job.id][0])
            if actor is not None:
                actor.cancel.remote(job, int(number))
        return now

    def fetch(self, job: Job) -> Path:
        """The run folder, in the shared home."""
        return self._here.fetch(job)

    def prepare(self, spec: JobSpec) -> None:
        """Joins the cluster."""
        self._connect()

    def wait(self, seconds: float) -> None:
        """Sleeps."""
        time.sleep(seconds)

    def said(self, job: Job) -> tuple[str, float]:
        """By the log in the shared home."""
        return self._here.said(job)

    def knows(self, job: Job) -> bool:
        """Whether the job was sent, by whomever."""
        return job.id in self._sent or self._here.knows(job)

    def place(self, job: Job) -> int | None:
        """The slot of a job of this master's."""
        return self._sent[job.id][0] if job.id in self._sent else None

    def free(self, slot: int) -> bool:
        """Whether there is a process for the slot, or the cluster has room for one: nodes die, and others join."""
        if slot in self._actors or not self._ray.is_initialized():
            return True
        there = self._ray.available_resources()
        return bool(there.get("CPU", 0) >= self._cpus and there.get("GPU", 0) >= self._gpus)

    def close(self) -> None:
        """Lets the places go, and the cluster where this process joined or made it."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        if self._joined:
            self._ray.shutdown()
            self._joined = False

    def _actor(self, slot: int) -> Any:
        if slot not in self._actors:
            self._connect()
            made = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0)(_Node)
            self._actors[slot] = made.remote(dict(os.environ))
        return self._actors[slot]

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        try:
            self._ray.init(
                address=self._address or None, log_to_driver=False, include_dashboard=False, logging_level="ERROR"
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise NetworkError(
                f"No Ray cluster answers at {self._address or 'this machine'}: {str(error).splitlines()[0]}",
                where=f"--address {self._address}",
                remedy="Start one (ray start --head), or leave --address out: one is made here.",
            ) from error
        self._joined = True

    def _ask(self, answer: Any, default: Any) -> Any:
        """What a node answers; the default when it has died."""
        try:
            return self._ray.get(answer, timeout=_PATIENCE)
        except UserError:
            raise
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from error
            raise
        except (self._ray.exceptions.RayError, TimeoutError):
            return default

    def _lost(self, job: Job, slot: int, lost: Job) -> Job:
        """The job is over with its node; the next one of this place gets another."""
        actor = self._actors.pop(slot, None)
        if actor is not None:
            self._ray.kill(actor)
        self._sent.pop(job.id, None)
        return lost


class _Node:
    """One place: lives in a process of a node of the cluster."""

    def __init__(self, environment: dict[str, str]) -> None:
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        os.environ["INFLAME_HOME"] = environment.get("INFLAME_HOME", os.environ.get("INFLAME_HOME", ""))
        os.environ[TIED] = "1"
        self.pool = Warm()

    def send(self, request: dict[str, Any]) -> Job:
        """Forks the job."""
        os.environ["INFLAME_HOME"] = request["variables"]["INFLAME_HOME"]
        return self.pool.send(request)

    def status(self, job: Job) -> Job:
        """As it is now."""
        return self.pool.status(job)

    def cancel(self, job: Job, number: int) -> None:
        """Sends it a signal."""
        self.pool.cancel(job, number)
