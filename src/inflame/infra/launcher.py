"""What every machine that can train must be able to do. A launcher is a description plus an act:
`request` is pure and shows everything that would be sent; `send` is thin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflame.errors import DataError
from inflame.records import Job, JobSpec, Package, Record

ENDED = ("done", "failed", "stopped")
OK, NOT_OK, UNKNOWN = "ok", "not ok", "could not be checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Record):
    """What a look at a place has shown of one thing that a job needs there: credentials, region, quota, bucket …"""

    what: str
    state: str  # OK, NOT_OK or UNKNOWN
    text: str
    remedy: str = ""


class Launcher(ABC):
    """A place where `python app.py train …` of a model folder can run."""

    @abstractmethod
    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """All that would be sent, as plain JSON values, in the provider's own words. Touches nothing; the same spec and
        package give the same request. `package`: the code, where the machine is another one than this.

        Raises DataError when the model folder has no `app.py`, UserError for what this place can't do.
        """

    @abstractmethod
    def send(self, request: dict[str, Any]) -> Job:
        """Starts the job and returns at once."""

    @abstractmethod
    def status(self, job: Job) -> Job:
        """The job as it is now. An ended job is one of `ENDED` and has an exit code."""

    @abstractmethod
    def logs(self, job: Job) -> Iterator[str]:
        """The lines that the job has written so far, without their line ends."""

    @abstractmethod
    def cancel(self, job: Job) -> Job:
        """Asks the job to save its work and stop; an ended job stays as it is."""

    @abstractmethod
    def fetch(self, job: Job) -> Path:
        """The run folder of the job on this machine. Raises DataError when the job has left none."""

    def check(self, spec: JobSpec) -> list[Finding]:
        """What the job needs at this place, looked at one by one, without starting anything. Raises nothing that a
        user could mend: that is a finding."""
        return []

    def rights(self, spec: JobSpec) -> dict[str, Any]:
        """The least rights that this place must give, as its own JSON, by who needs them; ready to paste."""
        return {}


def app(spec: JobSpec) -> Path:
    """The `app.py` of the spec's model folder, absolute."""
    path = Path(spec.model).expanduser().absolute() / "app.py"
    if not path.is_file():
        raise DataError(
            f"{spec.model} is not a model folder: it has no app.py.",
            where=spec.model,
            remedy="Name a model folder, or make one: inflame new my_model",
        )
    return path


def run_folder(job: Job, folder: Path | None, *, at: str, remedy: str) -> Path:
    """The run folder, which should be there. DataError where the job has left none `at` its place."""
    if folder is None or not folder.is_dir():
        raise DataError(f"The job {job.id} has left no run folder at {at}.", where=at, remedy=remedy)
    return folder
