"""A launcher that many trainings of one model folder are sent to, by whoever fills its places one after the other."""

from __future__ import annotations

import signal
from abc import abstractmethod
from typing import Any

from inflame.infra.launcher import Launcher
from inflame.records import Job, JobSpec


class Pool(Launcher):
    """`slots` are the places for jobs that run at a time: the cores of each. A `request` takes three more keys: `id`
    (the name of the job: one of that name that was sent before is not begun again), `slot` (its place) and `variables`
    (of its environment)."""

    slots: list[list[int]]
    resends = False  # whether the pool itself begins a job again that was killed, as often as makes sense

    @abstractmethod
    def cancel(self, job: Job, number: int = signal.SIGTERM) -> Job:
        """As of any launcher; SIGKILL leaves the job no time to save."""

    @abstractmethod
    def prepare(self, spec: JobSpec) -> None:
        """Gets ready for jobs like this one, if it isn't; returns at once."""

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Returns when a job has begun or ended, or after so many seconds."""

    @abstractmethod
    def said(self, job: Job) -> tuple[str, float]:
        """The last line of the job's log that says something, JSON aside, and when it was written (since 1970)."""

    @abstractmethod
    def knows(self, job: Job) -> bool:
        """Whether the job was sent, by whomever."""

    @abstractmethod
    def place(self, job: Job) -> int | None:
        """The slot that the job has."""

    def cost(self, run: str) -> float | None:
        """US dollars that the jobs of the run folder of that name have taken so far; None where nobody knows."""
        return None

    def free(self, slot: int) -> bool:
        """Whether a slot that has no job can take one now."""
        return slot < len(self.slots)

    @abstractmethod
    def close(self) -> None:
        """Lets go of what jobs are started from; those at work stay."""

    def asked(self, request: dict[str, Any], *, name: str, slot: int, variables: dict[str, str]) -> dict[str, Any]:
        """The request for a job with a name and a place."""
        return {**request, "id": name, "slot": slot, "variables": variables}
