"""Slurm's commands on this machine, where Slurm itself is not: jobs are processes, at work at once. There is no queue,
no limit and no cgroup; what partitions, accounts and nodes there are is not asked.

The commands are in a folder for PATH; what they do is in `slurm_command`.
"""

from __future__ import annotations

import secrets
import shlex
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from inflame.infra.loopback import slurm_command
from inflame.infra.loopback.machine import Machine
from inflame.infra.loopback.server import Answer, Asked

GRACE = 30.0  # seconds between SIGTERM and SIGKILL: Slurm's KillWait
COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo")
_KNOWN = frozenset(
    "account acctg-freq array batch bb bbf begin chdir clusters comment constraint container contiguous core-spec "
    "cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution error exclude "
    "exclusive export export-file extra extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node "
    "gpus-per-socket gpus-per-task gres gres-flags hint hold ignore-pbs input job-name kill-on-invalid-dep licenses "
    "mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue "
    "nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket oom-kill-step "
    "open-mode output overcommit oversubscribe parsable partition power prefer priority profile propagate qos quiet "
    "reboot requeue reservation resv-ports signal sockets-per-node spread-job switches test-only thread-spec "
    "threads-per-core time time-min tmp tres-bind tres-per-task uid use-min-nodes verbose wait wait-all-nodes wckey "
    "wrap".split()
)


class _Refused(Exception):
    """What a command says on stderr, before it ends with 1."""


class _Job:
    def __init__(self, number: int, script: str, options: dict[str, str], environment: dict[str, str]) -> None:
        self.number, self.script, self.options, self.environment = number, script, options, environment
        self.machine: Machine | None = None
        self.state, self.code = "PENDING", 0
        self.ending = ""  # the state that it will have in the end, where somebody else decides that

    @property
    def active(self) -> bool:
        return self.state in ("PENDING", "RUNNING")

    def stop(self) -> None:
        if self.machine is not None:
            self.machine.stop(GRACE)

    def kill(self) -> None:
        if self.machine is not None:
            self.machine.kill()

    def say(self, line: str) -> None:
        path = Path(self.options["output"].replace("%j", str(self.number)))
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


class Slurm:
    """The control plane. `folder` holds what its jobs run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, _Job] = {}
        self._next = 1000 + secrets.randbelow(900_000)  # ports of jobs are made of their numbers
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Answer:
        """The words of a command, and what it says."""
        told = asked.json()
        name, *words = told["words"]
        try:
            with self._lock:
                out, err = getattr(self, f"_{name}")(words, told)
        except _Refused as error:
            return _said(1, err=f"{name}: error: {error}\n")
        return _said(0, out, err)

    def refuse(self, fault: str) -> Answer:
        """Slurm has one way to be out of reach."""
        return _said(1, err=f"error: {slurm_command.FAR}\n")

    def take_away(self, number: str) -> None:
        """Takes a job's nodes for a better one, with notice; it is begun anew where it may be."""
        self.jobs[number].ending = "PREEMPTED"
        self.jobs[number].stop()

    def lose(self, number: str) -> None:
        """Ends a job's nodes without a word, as a power cut does."""
        self.jobs[number].ending = "NODE_FAIL"
        self.jobs[number].kill()

    def forget(self, number: str) -> None:
        """Deletes a job behind everybody's back."""
        self.jobs.pop(number).kill()

    def close(self) -> None:
        """Ends all jobs."""
        for job in list(self.jobs.values()):
            job.ending = "CANCELLED"
            job.kill()
            if job.machine is not None:
                job.machine.wait(10)

    # --- the commands ----------------------------------------------------------------------------

    def _sbatch(self, words: list[str], told: dict[str, Any]) -> tuple[str, str]:
        script = told["given"]
        if not script.startswith("#!"):
            raise _Refused("This does not look like a batch script.")
        lines = [line.split(maxsplit=1)[1] for line in script.splitlines() if line.startswith("#SBATCH ")]
        options = _options([*lines, *words])
        if "test-only" in options:
            about = f"on {options.get('nodes', '1')} nodes in partition {options.get('partition', 'any')}"
            return "", f"sbatch: Job {self._next} to start now {about}, were it free\n"
        names = options.get("export", "ALL").split(",")
        given = {name: value for name, value in told["environment"].items() if name in names or "ALL" in names}
        job = _Job(self._next, script, options, given)
        self._next += 1
        self.jobs[str(job.number)] = job
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return f"{job.number}\n" if "parsable" in options else f"Submitted batch job {job.number}\n", ""

    def _squeue(self, words: list[str], told: dict[str, Any]) -> tuple[str, str]:
        """Of `--name NAME --format "%i %T"`."""
        name = words[words.index("--name") + 1]
        found = [job for job in self.jobs.values() if job.active and job.options.get("job-name") == name]
        return "".join(f"{job.number} {job.state}\n" for job in found), ""

    def _scontrol(self, words: list[str], told: dict[str, Any]) -> tuple[str, str]:
        """Of `show job -o NUMBER`."""
        job = self._job(words[-1], "slurm_load_jobs")
        about = f"JobId={job.number} JobName={job.options.get('job-name', '')} JobState={job.state} Reason=None"
        return f"{about} ExitCode={job.code}:0\n", ""

    def _scancel(self, words: list[str], told: dict[str, Any]) -> tuple[str, str]:
        job = self._job(words[-1], "Kill job error on job id")
        if job.active:
            job.ending = "CANCELLED"
            job.stop()
        return "", ""

    def _sinfo(self, words: list[str], told: dict[str, Any]) -> tuple[str, str]:
        return "slurm: none, inflame's own commands\n", ""

    def _job(self, number: str, what: str) -> _Job:
        if number not in self.jobs:
            raise _Refused(f"{what}: Invalid job id specified")
        return self.jobs[number]

    # --- the jobs --------------------------------------------------------------------------------

    def _run(self, job: _Job) -> None:
        folder = self.folder / str(job.number)
        folder.mkdir(parents=True)
        script = folder / "slurm_script"
        script.write_text(job.script, encoding="utf-8")
        nodes = job.options.get("nodes", "1")
        about = {"SLURM_JOB_ID": str(job.number), "SLURM_NNODES": nodes, "SLURM_JOB_NODELIST": "localhost"}
        while True:
            words = ["/bin/sh", str(script)]
            job.machine = Machine(words, {**job.environment, **about}, {str(folder): folder}, job.say, grace=GRACE)
            job.state = "RUNNING"
            if job.ending:
                job.stop()
            code = job.machine.wait() or 0
            if job.ending != "PREEMPTED" or "requeue" not in job.options:
                break
            job.ending, job.state = "", "PENDING"
        job.code = code
        job.state = job.ending or ("FAILED" if code else "COMPLETED")


def commands(folder: Path, url: str) -> Path:
    """Makes the commands, which ask the control plane at `url`; the folder for PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-SI", slurm_command.__file__, url.partition("://")[2]]
    for name in (*COMMANDS, "srun"):
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {shlex.join(words)} {name} "$@"\n', encoding="utf-8")
        file.chmod(0o755)
    return folder


def _options(words: Sequence[str]) -> dict[str, str]:
    """Long options by name. One that sbatch doesn't have is refused, as it would."""
    found: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name.startswith("--"):
            if name[2:] not in _KNOWN:
                raise _Refused(f"unrecognized option '{name}'\nTry \"sbatch --help\" for more information")
            found[name[2:]] = value
    with suppress(ValueError):
        if int(found.get("nodes", "1")) > 0:
            return found
    raise _Refused(f"Invalid --nodes specification: {found['nodes']}")


def _said(code: int, out: str = "", err: str = "") -> Answer:
    return Answer(body={"code": code, "out": out, "err": err})
