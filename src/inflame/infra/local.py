"""This machine as a place to train: here in the foreground (`become`), or beside you (`send`). With a package it is a
machine like any other: the archive is unpacked into a fresh folder, and its bootstrap runs the job.

A job beside you is a folder below `home()/jobs`: job.json, log.txt and, when it has ended, its exit code.
So any process can ask for its state, also when the one that sent it is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from inflame import host, store
from inflame.errors import UserError
from inflame.infra import places
from inflame.infra.command import PREEMPTED, command, variables
from inflame.infra.launcher import ENDED, Launcher, app, run_folder
from inflame.records import Job, JobSpec, Package, dumps

BUSY = 0.7  # load of a core above which a machine counts as busy

# The shell outlives the signals that end the training, to write down how it ended.
_WITNESS = 'trap : TERM INT; "$@"; code=$?; echo $code > "$0"; exit $code'
_PASSED = (
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "OMP_NUM_THREADS",
    "INFLAME_MIRROR",
    "INFLAME_BEAT",
    "no_proxy",
    "NO_PROXY",
)
_SERVICES = (
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "NO_GCE_CHECK",
    "GCSFS_",
    "STORAGE_EMULATOR_HOST",
    "http_",
    "https_",
    "HTTP_",
    "HTTPS_",
    "SSL_",
)
_ARCHIVE = "code.tar.gz"
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGKILL)


class Local(Launcher):
    """Training as a process of this machine, with this Python and the whole environment. `python`: of a packaged job,
    where that is to be another one."""

    def __init__(self, python: Path | None = None) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._python = python or Path(sys.executable)

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The command line. More than one machine is refused: here is only one."""
        if spec.count != 1:
            raise UserError(
                f"A local job has one machine, not {spec.count}.",
                remedy="Leave the count out, or name another backend.",
            )
        if package is not None:
            return _packaged(spec, package)
        output = (f"output={spec.output}",) if spec.output else ()
        return {
            "backend": "local",
            "command": [sys.executable, str(app(spec)), "train", *spec.arguments, *output],
            "environment": list(spec.environment),
            "output": spec.output,
        }

    def send(self, request: dict[str, Any]) -> Job:
        """Starts the command in a session of its own; its words go to log.txt of the job's folder."""
        _demand(request["environment"])
        folder = _new_folder()
        packaged = "variables" in request
        output = request["output"] or str(folder / "run")
        command = request["command"] + ([] if request["output"] else [f"output={output}"])
        environment = _bare(request, folder, self._python) if packaged else _environment()
        if packaged:
            _bring(request["archive"], folder / _ARCHIVE)
        with (folder / "log.txt").open("wb") as log:
            child = subprocess.Popen(
                ["/bin/sh", "-c", _WITNESS, str(folder / "code"), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder if packaged else None,
                start_new_session=True,
            )
        job = Job(id=folder.name, backend="local", status="running", output=output)
        who = {"pid": child.pid, "born": host.born(child.pid)}
        about = {**job.to_json(), **who, "command": command, "packaged": packaged}
        store.write(folder / "job.json", dumps(about))
        self._children[job.id] = child
        threading.Thread(target=child.wait, daemon=True).start()  # a job may outlive this launcher: it is reaped then
        return job

    def status(self, job: Job) -> Job:
        """Read from the job's folder; `failed` with code 137 when it vanished without a word (killed, power cut)."""
        folder = _folder(job)
        alive = self._alive(job, folder)  # asked before the code is read: a job that ends in between is not lost
        with suppress(FileNotFoundError, ValueError):
            code = int((folder / "code").read_text())
            if job.id in self._children:
                self._children[job.id].wait()  # its shell has only to leave
            states = {0: "done", PREEMPTED: "preempted"} | dict.fromkeys(_STOPPED, "stopped")
            return replace(job, status=states.get(code, "failed"), code=code)
        return replace(job, status="running") if alive else replace(job, status="failed", code=128 + signal.SIGKILL)

    def logs(self, job: Job) -> Iterator[str]:
        """The lines of log.txt."""
        with (_folder(job) / "log.txt").open(encoding="utf-8", errors="replace") as lines:
            yield from (line.rstrip("\n") for line in lines)

    def cancel(self, job: Job) -> Job:
        """SIGTERM to the job: the training saves and exits. Returns at once; `status` tells when it has."""
        now = self.status(job)
        if now.status not in ENDED:
            with suppress(ProcessLookupError):
                os.killpg(_description(_folder(job))["pid"], signal.SIGTERM)
        return now

    def fetch(self, job: Job) -> Path:
        """The run folder, where the job wrote it."""
        packaged = _description(_folder(job)).get("packaged", False)
        if packaged:
            return places.fetched(job)
        remedy = f"See what it said: {_folder(job) / 'log.txt'}"
        return run_folder(job, store.local(job.output), at=job.output, remedy=remedy)

    def sent(self) -> list[str]:
        """The names of the jobs that this launcher has sent."""
        return list(self._children)

    def processes(self, job: Job) -> list[int]:
        """The process groups of the job: its own, and that of the training that its bootstrap runs."""
        return host.groups(int(_description(_folder(job))["pid"]))

    def _alive(self, job: Job, folder: Path) -> bool:
        if job.id in self._children:
            return self._children[job.id].poll() is None
        about = _description(folder)
        return host.lives(about["pid"], about["born"])


def become(request: dict[str, Any]) -> NoReturn:
    """Turns this process into the training itself: terminal, signals and exit code need nobody in between."""
    _demand(request["environment"])
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(request["command"][0], request["command"], _environment())


def _packaged(spec: JobSpec, package: Package) -> dict[str, Any]:
    """The command that every other machine gets; the archive is brought to the job's folder before."""
    app(spec)
    if not spec.output:
        raise UserError("A packaged job needs an output.", where="--output", remedy="Give one: --output FOLDER")
    return {
        "backend": "local",
        "command": command(_ARCHIVE),
        "archive": package.archive,
        "variables": variables(spec, package),
        "environment": list(spec.environment),
        "output": spec.output,
    }


def _bring(archive: str, target: Path) -> None:
    source = store.local(archive)
    if source is None:
        store.download(archive, target)
    else:
        shutil.copyfile(source, target)


def _bare(request: dict[str, Any], folder: Path, python: Path) -> dict[str, str]:
    """What another machine would have: next to nothing of ours but the keys of places, and variables asked for."""
    wanted = (*_PASSED, *request["environment"])
    passed = {key: value for key, value in os.environ.items() if key in wanted or key.startswith(_SERVICES)}
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    parts = store.make_folder(store.home() / "cache" / "parts")
    ours = {"PATH": path, "INFLAME_WORK": str(folder / "work"), "INFLAME_PARTS": str(parts)}
    return {**passed, **ours, **request["variables"]}


def _environment() -> dict[str, str]:
    """All of ours, the moment at which the user's patience began, and a log that tells each line when it is said.

    Threads of OpenMP that wait by spinning cost a busy machine up to four times the time, and by sleeping a quiet one a
    tenth: they sleep where others are at work.
    """
    busy = {"OMP_WAIT_POLICY": "passive"} if os.getloadavg()[0] > BUSY * host.cores() else {}
    return {"INFLAME_STARTED": repr(time.time()), "PYTHONUNBUFFERED": "1", **busy, **os.environ}


def _demand(names: list[str]) -> None:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(
            f"The environment lacks {', '.join(missing)}, which the job asks for.", remedy=f"export {missing[0]}=…"
        )


def _jobs() -> Path:
    return store.make_folder(store.home() / "jobs")


def _new_folder() -> Path:
    for number in range(1, sys.maxsize):
        with suppress(FileExistsError):
            folder = _jobs() / f"local-{number:03}"
            folder.mkdir()
            return folder
    raise AssertionError("unreachable")


def _folder(job: Job) -> Path:
    folder = _jobs() / job.id
    if not (folder / "job.json").is_file():
        raise UserError(f"There is no local job {job.id}.", remedy=f"Look into {_jobs()} for those that are.")
    return folder


def _description(folder: Path) -> dict[str, Any]:
    text: dict[str, Any] = json.loads((folder / "job.json").read_text())
    return text
