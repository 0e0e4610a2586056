"""Slurm as a place to train: one batch job, whose machines find each other by what Slurm says of them.

No accounting service is needed: what is under way says `squeue`, what has just ended `scontrol`, and how it ended
stands in the job's output.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from inflame.errors import NetworkError, UserError
from inflame.infra import attempts, machines, places
from inflame.infra.command import PREEMPTED, command, variables
from inflame.infra.launcher import ENDED, NOT_OK, OK, Finding, app
from inflame.infra.places import Place, Setting
from inflame.records import Job, JobSpec, Package

NAME = "slurm"
SETTINGS = (
    Setting(name="partition", help="the partition; without, the cluster's own", variables=("SBATCH_PARTITION",)),
    Setting(name="spot_partition", help="the partition whose jobs may be taken away"),
    Setting(name="account", help="the account that pays", variables=("SBATCH_ACCOUNT",)),
    Setting(name="logs", help="a shared folder for logs", default="~/.inflame/slurm"),
    Setting(name="setup", help="a line before the job, as: module load python/3.12"),
    Setting(name="options", help="further options of sbatch, as: --qos=high --constraint=a100"),
)
_KEPT = ("HOME", "USER", "LOGNAME", "PATH", "LANG", "SHELL")  # of your environment; all else stays here
_TIMEOUT = 60
_STATES = {
    "PENDING": "queued",
    "CONFIGURING": "starting",
    "REQUEUED": "queued",
    "REQUEUE_HOLD": "queued",
    "SUSPENDED": "queued",
    "COMPLETED": "done",
    "CANCELLED": "stopped",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "preempted",
    "BOOT_FAIL": "preempted",
    "FAILED": "failed",
    "OUT_OF_MEMORY": "failed",
    "TIMEOUT": "failed",
    "DEADLINE": "failed",
}
_ELSEWHERE = "Log in to a node of the cluster, and work from there."
_REFUSALS = (
    ("configuration (source|file)", "has no cluster here", _ELSEWHERE),
    ("invalid partition", "has no such partition", "Set partition below [on.slurm]: sinfo lists them."),
    ("invalid account|account or partition", "doesn't know this account", "Set account below [on.slurm]."),
    (
        "node configuration|node count|more processors|memory specification|generic resource|gres|GRES",
        "has no such machines",
        "Take another --machine, --count or partition: sinfo -o '%P %c %m %G' lists what there is.",
    ),
    ("limit|QOS|policy", "doesn't allow you so much", "Take less (--count, --max-time), or ask its administrators."),
    ("denied|not permitted|authentication|munge", "refuses you", "Log in to a node where sbatch works for you."),
)
_FAR = re.compile(r"contact slurm controller|timed out|Connection refused|Unexpected message|Socket", re.IGNORECASE)


class Slurm(Place):
    """Batch jobs of the Slurm cluster that this machine is a login node of."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = places.settings(NAME, SETTINGS, settings)

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The script for `sbatch`, and the variables that it takes from the environment."""
        app(spec)
        places.demand_output(NAME, spec, ("", "file", "s3", "gs", "az", "abfs", "abfss"), self.settings)
        name = places.name(NAME, spec, package)
        words = command(package.archive) if package else ["true"]
        told = variables(spec, package)
        lines = ["#!/bin/sh", *(f"#SBATCH {option}" for option in self._options(spec, name))]
        lines += [f"export {key}={shlex.quote(value)}" for key, value in told.items()]
        lines += [self.settings["setup"]] * bool(self.settings["setup"])
        lines += [f"exec srun --export=ALL --kill-on-bad-exit=1 {shlex.join(words)}"]
        return {
            "backend": NAME,
            "name": name,
            "environment": list(spec.environment),
            "output": spec.output,
            "export": ",".join(dict.fromkeys((*_KEPT, *spec.environment))),
            "script": "\n".join(lines) + "\n",
        }

    def send(self, request: dict[str, Any]) -> Job:
        """`sbatch`, once: of several that wait or run under the same name the first stays."""
        places.filled({}, request["environment"])

        def job(number: str) -> Job:
            return Job(id=number, backend=NAME, status="queued", output=request["output"])

        def look(name: str) -> Job | None:
            found = self._active(name)
            return replace(job(found[0][0]), status=_status(found[0][1])) if found else None

        def create(name: str) -> Job | None:
            self._logs().mkdir(parents=True, exist_ok=True)
            words = ["sbatch", "--parsable", f"--export={request['export']}"]
            try:
                made = _ask(words, given=request["script"]).strip().partition(";")[0]
            except NetworkError:
                return None
            first = next(iter(self._active(name)), (made, ""))[0]
            if first != made:  # a second sender was quicker
                _ask(["scancel", made])
            return job(first)

        return places.send_once(request["name"], look, create)

    def status(self, job: Job) -> Job:
        """As Slurm has it; when that has forgotten it, as its output says."""
        told = _asked(["scontrol", "show", "job", "-o", job.id])
        if told is None:
            seen = attempts.read(job.output)
            if seen.state in ENDED:
                return replace(job, status=seen.state, code=seen.code, reason=seen.reason)
            return places.vanished(job)
        about = dict(re.findall(r"(\w+)=(\S*)", told))
        status = _status(about["JobState"])
        if status in (*ENDED, "preempted"):
            code, signal = (int(part) for part in about.get("ExitCode", "1:0").split(":"))
            code = {"done": 0, "stopped": places.STOPPED}.get(status, code or (128 + signal if signal else 1))
            reason = "" if status == "done" else f"Slurm says {about['JobState']}."
            return replace(job, status="preempted" if code == PREEMPTED else status, code=code, reason=reason)
        reason = about.get("Reason", "None")
        return replace(job, status=status, reason="" if reason == "None" else f"Slurm says: {reason}.")

    def logs(self, job: Job) -> Iterator[str]:
        """The lines of the job's file."""
        path = self._logs() / f"{job.id}.txt"
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as lines:
                yield from (line.rstrip("\n") for line in lines)

    def cancel(self, job: Job) -> Job:
        """SIGTERM to the job, which has a moment (the cluster's KillWait, often 30 s) to save."""
        now = self.status(job)
        if now.status not in (*ENDED, "preempted"):
            _asked(["scancel", job.id])
        return now

    def check(self, spec: JobSpec) -> list[Finding]:
        """Slurm, its answer to this very script, and the output."""
        remedy = "Give the output a place that all nodes see."
        return places.looked(
            lambda: None,
            lambda: _ask(["sinfo", "--version"]),
            {"cluster": lambda: self._tested(spec), "output": lambda: places.writable(spec.output, remedy)},
            {},
        )

    def rights(self, spec: JobSpec) -> dict[str, Any]:
        """Slurm's rights are its administrators' to give."""
        return {"commands": ["sacctmgr show associations user=$USER format=account,partition,qos"]}

    def _options(self, spec: JobSpec, name: str) -> list[str]:
        machine = machines.find(spec.machine, NAME)
        partition = self.settings["spot_partition" if spec.spot else "partition"]
        if spec.spot and not partition:
            raise UserError(
                "Which machines of the cluster may be taken away isn't known.",
                where="--spot",
                remedy=f'Write   spot_partition = "NAME"   below [on.slurm] in {places.FILE}, or leave --spot out.',
            )
        minutes = int((spec.max_time + places.AFTER) // 60) + 1 if spec.max_time else 0
        options = [
            f"--job-name={name}",
            f"--nodes={spec.count}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={machine.cores}",
            f"--mem={machine.memory}G",
            f"--output={self._logs()}/%j.txt",
            "--open-mode=append",
            "--signal=TERM@120",
            "--requeue" if spec.spot else "--no-requeue",
        ]
        options += [f"--gpus-per-node={machine.gpus}"] if machine.gpus else []
        options += [f"--partition={partition}"] if partition else []
        options += [f"--account={self.settings['account']}"] if self.settings["account"] else []
        options += [f"--time={minutes}"] if minutes else []
        return options + shlex.split(self.settings["options"])  # what is said last wins

    def _logs(self) -> Path:
        return Path(self.settings["logs"]).expanduser().absolute()

    def _active(self, name: str) -> list[tuple[str, str]]:
        """Number and state of what waits or runs under the name, the first one first."""
        told = _ask(["squeue", "--noheader", "--user", _user(), "--name", name, "--format", "%i %T"])
        return sorted(((row.split()[0], row.split()[1]) for row in told.splitlines()), key=lambda row: int(row[0]))

    def _tested(self, spec: JobSpec) -> Finding:
        said = _ask(["sbatch", "--test-only"], given=self.request(spec)["script"], both=True).strip()
        return Finding(what="cluster", state=OK if said else NOT_OK, text=said or "sbatch says nothing.")


def _status(state: str) -> str:
    return _STATES.get(state, "running")


def _user() -> str:
    import getpass

    return getpass.getuser()


def _asked(words: list[str]) -> str | None:
    """What Slurm says of a job; None where it doesn't know it."""
    try:
        return _ask(words)
    except UserError as error:
        if "Invalid job id" in error.message:
            return None
        raise


def _ask(words: list[str], *, given: str = "", both: bool = False) -> str:
    """What a command of Slurm's prints, with `both` also on stderr. UserError, or NetworkError where no controller
    answers."""
    if shutil.which(words[0]) is None:
        raise UserError(f"There is no {words[0]} here.", where=NAME, remedy=_ELSEWHERE)
    try:
        done = subprocess.run(
            words, input=given, capture_output=True, text=True, timeout=_TIMEOUT, check=False, env=os.environ
        )
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"{words[0]} gave no answer in {_TIMEOUT} s.", remedy="Try again.", where=NAME) from error
    if done.returncode == 0:
        return done.stdout + (done.stderr if both else "")
    said = done.stderr.strip() or done.stdout.strip()
    if _FAR.search(said):
        raise NetworkError(f"Slurm's controller could not be asked: {said}", where=NAME, remedy="Try again.")
    for pattern, what, remedy in _REFUSALS:
        lines = [line for line in said.splitlines() if re.search(pattern, line)]
        if lines:
            raise UserError(f"Slurm {what}: {lines[0]}", where=NAME, remedy=remedy)
    raise UserError(f"{words[0]} failed: {said}", where=NAME, remedy="Correct what it names.")
