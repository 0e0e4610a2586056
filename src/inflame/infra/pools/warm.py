"""Many jobs of one model folder on this machine: forked from a process that has everything in memory, each pinned to
cores of its own. A job is a folder below `home()/jobs`, as any local one: whoever comes later can ask for it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from inflame import store
from inflame.errors import UserError
from inflame.infra.launcher import ENDED, app, run_folder
from inflame.infra.pools.pool import Pool
from inflame.infra.pools.zygote import CODE, LOCK, LOG, write_code
from inflame.records import Job, JobSpec, Package, dumps
from inflame.runs import lock

JOB = "job.json"
KILLED = 128 + signal.SIGKILL
NEVER = 128 + signal.SIGTERM  # of a job that was never begun: the zygote was killed first
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_YOUNG = 2.0  # seconds that a job may take to get hold of its lock
_staying: list[subprocess.Popen[bytes]] = []  # zygotes that wait for their last jobs
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Warm(Pool):
    """Jobs of one model folder. `slots` are the cores of each job that may run at a time, `gpus` the names of its GPUs.
    Leaving the `with` lets the process go that they are forked from; jobs that are at work stay."""

    def __init__(self, slots: Sequence[Sequence[int]] = (), gpus: Sequence[Sequence[str]] = ()) -> None:
        self.slots = [list(slot) for slot in slots]
        self._gpus = [",".join(names) for names in gpus]
        self._zygote: subprocess.Popen[bytes] | None = None
        self._app = ""
        self._ordered: dict[str, int] = {}  # the zygote that was told of each job

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the zygote go; it ends when its last job has."""
        if self._zygote is not None:
            for pipe in (self._zygote.stdin, self._zygote.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            try:
                self._zygote.wait(0.5)
            except subprocess.TimeoutExpired:
                _staying.append(self._zygote)
            self._zygote = None

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The words for app.py. `id` and `slot` may be set: the name of the job, and whose cores it gets."""
        if spec.count != 1:
            raise UserError(
                f"A local job has one machine, not {spec.count}.",
                remedy="Leave the count out, or name another backend.",
            )
        output = (f"output={spec.output}",) if spec.output else ()
        return {
            "backend": "warm",
            "app": str(app(spec)),
            "words": ["train", *spec.arguments, *output],
            "environment": list(spec.environment),
            "variables": {},
            "output": spec.output,
            "id": "",
            "slot": None,
        }

    def send(self, request: dict[str, Any]) -> Job:
        """Forks the job. One of that id that was begun before is not begun again."""
        missing = [name for name in request["environment"] if name not in os.environ]
        if missing:
            raise UserError(
                f"The environment lacks {', '.join(missing)}, which the job asks for.", remedy=f"export {missing[0]}=…"
            )
        folder, new = _folder_for(request["id"])
        output = request["output"] or str(folder / "run")
        job = Job(id=folder.name, backend="warm", status="running", output=output)
        if not new and self._begun(folder):
            return self.status(job)
        words = request["words"] + ([] if request["output"] else [f"output={output}"])
        cores = self.slots[request["slot"]] if request["slot"] is not None and self.slots else []
        gpus = self._names(request["slot"])
        about = {**job.to_json(), "command": [request["app"], *words], "cores": cores, "gpus": gpus}
        _write(folder / JOB, dumps(about))
        order = {
            "folder": str(folder),
            "words": words,
            "cwd": str(Path.cwd()),
            "environment": {**_environment(len(cores)), **({_VISIBLE: gpus} if gpus else {}), **request["variables"]},
            "cores": cores,
        }
        self._order(request["app"], order)
        return job

    def status(self, job: Job) -> Job:
        """Read from the job's folder; `failed` with code 137 when it vanished without a word (killed, power cut)."""
        folder = _folder(job)
        alive = lock.held(folder / LOCK)  # asked before the code is read: a job that ends in between is not lost
        code = _code(folder)
        if code is None and not alive and not self._fresh(folder):
            code = _bury(folder)
        if code is None:
            return replace(job, status="running", output=job.output or _described(folder).get("output", ""))
        state = "done" if code == 0 else "stopped" if code in (*_STOPPED, KILLED) else "failed"
        return replace(job, status="failed" if code == KILLED else state, code=code)

    def logs(self, job: Job) -> Iterator[str]:
        """The lines of log.txt."""
        path = _folder(job) / LOG
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as lines:
                yield from (line.rstrip("\n") for line in lines)

    def cancel(self, job: Job, number: int = signal.SIGTERM) -> Job:
        """SIGTERM to the job and all it started: the training saves and exits. Returns at once."""
        now = self.status(job)
        if now.status not in ENDED and (pid := _pid(_folder(job))):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)
        return now

    def fetch(self, job: Job) -> Path:
        """The run folder, where the job wrote it."""
        remedy = f"See what it said: {_folder(job) / LOG}"
        return run_folder(job, store.local(job.output), at=job.output, remedy=remedy)

    def prepare(self, spec: JobSpec) -> None:
        """Starts the zygote, which imports what the app imports."""
        if self._zygote is None:
            self._start(str(app(spec)), ["train", *spec.arguments])

    def wait(self, seconds: float) -> None:
        """Returns when a job has begun or ended, or after so many seconds."""
        zygote = self._zygote
        if zygote is None or zygote.stdout is None:
            time.sleep(seconds)
            return
        ready, _, _ = select.select([zygote.stdout], [], [], seconds)
        if ready and not os.read(zygote.stdout.fileno(), 1 << 16):  # it has died: the next order makes another one
            self.close()

    def said(self, job: Job) -> tuple[str, float]:
        """The last line of the job's log that says something, JSON aside, and when it was written (since 1970)."""
        path = store.home() / "jobs" / job.id / LOG
        with suppress(OSError), path.open("rb") as file:
            stat = os.fstat(file.fileno())
            file.seek(max(0, stat.st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
            told = (line.strip() for line in reversed(lines) if line.strip() and not line.startswith("{"))
            return next(told, ""), stat.st_mtime
        return "", 0.0

    def knows(self, job: Job) -> bool:
        """Whether the job was sent, by whomever."""
        return (store.home() / "jobs" / job.id / JOB).is_file()

    def place(self, job: Job) -> int | None:
        """The slot whose cores and GPUs the job has."""
        told = _described(_folder(job))
        has = told.get("cores"), told.get("gpus", "")
        return next((slot for slot, cores in enumerate(self.slots) if (cores, self._names(slot)) == has), None)

    def _names(self, slot: int | None) -> str:
        """The GPUs of the slot, as CUDA_VISIBLE_DEVICES has them; empty where it has none of its own."""
        return self._gpus[slot] if slot is not None and slot < len(self._gpus) else ""

    def _order(self, app: str, order: dict[str, Any]) -> None:
        line = json.dumps(order).encode() + b"\n"
        for attempt in (1, 2):
            if self._zygote is None or self._zygote.poll() is not None or app != self._app:
                self.close()
                self._start(app, order["words"])
            try:
                assert self._zygote is not None
                assert self._zygote.stdin is not None
                self._zygote.stdin.write(line)
                self._zygote.stdin.flush()
                self._ordered[Path(order["folder"]).name] = self._zygote.pid
            except BrokenPipeError:
                if attempt == 2:
                    raise
            else:
                return

    def _start(self, app: str, words: Sequence[str]) -> None:
        threads = min((len(slot) for slot in self.slots), default=0)
        log = store.make_folder(store.home() / "jobs") / "zygote.log"
        with log.open("ab") as errors:
            self._zygote = subprocess.Popen(
                [sys.executable, "-m", "inflame.infra.pools.zygote", app, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(threads),
                start_new_session=True,
            )
        self._app = app

    def _begun(self, folder: Path) -> bool:
        """Whether the job was begun, by this process or by one before it."""
        return _code(folder) is not None or _pid(folder) is not None

    def _fresh(self, folder: Path) -> bool:
        """Whether the job may be on its way: what was ordered takes as long as the zygote's imports."""
        if _pid(folder):
            return False
        zygote = self._zygote
        if zygote is not None and zygote.poll() is None and self._ordered.get(folder.name) == zygote.pid:
            return True
        with suppress(OSError):
            return time.time() - (folder / JOB).stat().st_mtime < _YOUNG
        return False


def _environment(threads: int) -> dict[str, str]:
    """Ours; with cores of its own a job has as many threads, and they sleep while they wait."""
    return {**os.environ, **({name: str(threads) for name in _THREADS} if threads else {})}


def _folder_for(name: str) -> tuple[Path, bool]:
    """The folder of the job with this name (of a new one without), and whether it is new."""
    jobs = store.make_folder(store.home() / "jobs")
    if name:
        folder, new = jobs / name, True
        try:
            folder.mkdir()
        except FileExistsError:
            new = False
        return folder, new
    for number in range(1, sys.maxsize):
        with suppress(FileExistsError):
            folder = jobs / f"warm-{number:03}"
            folder.mkdir()
            return folder, True
    raise AssertionError("unreachable")


def _bury(folder: Path) -> int | None:
    """Writes down that a job is dead, so that a zygote which still has the order will not begin it; the code. None
    where it has just begun."""
    code = KILLED if _pid(folder) else NEVER
    held = lock.take(folder / LOCK)
    if held is None:
        return None
    try:
        write_code(folder, code)
        return _code(folder)
    finally:
        held.release()


def _write(path: Path, text: str) -> None:
    """Whole or not at all, whoever is killed; a job doesn't outlive the machine, and the disk isn't waited for."""
    with store.guard(path):
        temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def _folder(job: Job) -> Path:
    folder = store.home() / "jobs" / job.id
    if not (folder / JOB).is_file():
        raise UserError(f"There is no local job {job.id}.", remedy=f"Look into {folder.parent} for those that are.")
    return folder


def _described(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / JOB).read_text())
    return found


def _code(folder: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int((folder / CODE).read_text())
    return None


def _pid(folder: Path) -> int | None:
    """The process that got hold of the job's lock: it signs it when it has it."""
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads((folder / LOCK).read_text())["pid"])
    return None
