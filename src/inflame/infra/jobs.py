"""The jobs that were sent from here, wherever they run: one small SQLite file in inflame's home.

What a job does is read from its output folder (see `attempts`); its launcher is asked besides, for what happens before
the job is there and after its machine is gone. The file holds what nobody else knows: what was sent, where to, how
often. So nothing is lost when the laptop sleeps: the next look finds what has happened meanwhile, and sends again what
was taken away.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from inflame import plugins, store
from inflame.errors import InflameError, UserError, did_you_mean
from inflame.infra import attempts, places
from inflame.infra.command import ATTEMPTS
from inflame.infra.launcher import ENDED, Launcher
from inflame.records import Job, JobSpec, Package, Record, dumps
from inflame.runs import lock

FILE = "jobs.sqlite"
SENDING, QUEUED, PREEMPTED = "sending", "queued", "preempted"
PATIENT = 2  # how often a job is sent whose machine should not have vanished: its memory may be too small
PATIENCE = 120.0  # seconds that one process waits for another one that sends the same job
_TABLE = """
create table if not exists jobs (
  id text primary key, backend text not null, spec text not null, package text not null, native text not null,
  state text not null, reason text not null, code integer, cost real, seconds real not null default 0,
  sent integer not null default 0, base integer not null default 0, asked integer not null default 0,
  created real not null, updated real not null
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent(Record):
    """A job as the file has it. `native`: as its launcher knows it. `sent`: how often it was; `base`: the attempts that
    there were before it was sent the last time; `asked`: whether somebody wants it to stop."""

    id: str
    backend: str
    spec: JobSpec
    package: Package
    native: Job | None
    state: str
    reason: str = ""
    code: int | None = None
    cost: float | None = None
    seconds: float = 0.0
    sent: int = 0
    base: int = 0
    asked: bool = False
    created: float = 0.0
    updated: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    def as_job(self) -> Job:
        """The same in the words of launchers."""
        told = {"status": self.state, "code": self.code, "cost": self.cost, "reason": self.reason}
        return Job(id=self.id, backend=self.backend, output=self.spec.output, **told)  # type: ignore[arg-type]


def launcher(backend: str) -> Launcher:
    """The launcher of that name, made once for this process: it may have children, and connections."""
    return _launcher(backend, store.home())


@lru_cache(maxsize=32)
def _launcher(backend: str, home: Path) -> Launcher:
    found: Launcher = plugins.load("launcher", backend)()
    return found


def name(spec: JobSpec, backend: str, code: str) -> str:
    """What a job is called here: the same for the same job. One that is done is followed by another one."""
    told = dumps({"spec": replace(spec, output="").to_json(), "backend": backend, "code": code, "to": spec.output})
    stem = re.sub(r"[^a-z0-9]+", "-", Path(spec.model).name.lower()).strip("-")[:24] or "job"
    digest = hashlib.sha256(told.encode()).hexdigest()[:6]
    for number in range(1, 1000):
        called = f"{stem}-{digest}" if number == 1 else f"{stem}-{digest}-{number}"
        found = find(called)
        if found is None or found.state != "done":
            return called
    raise UserError(f"The job {stem}-{digest} has been done a thousand times.", remedy="Say seed=N, to do another one.")


def submit(called: str, backend: str, spec: JobSpec, package: Package) -> Sent:
    """Sends the job, exactly once: one of this name that is under way is given as it is, and one whose sending was cut
    off is sent now. A job that failed or was stopped goes on where it was."""
    request = launcher(backend).request(spec, package)  # what can't be is refused before anything is written
    now = time.time()
    with _base() as base:
        base.execute(
            "insert into jobs (id, backend, spec, package, native, state, reason, created, updated) "
            "values (?, ?, ?, ?, '', ?, '', ?, ?) on conflict do nothing",
            (called, backend, _text(spec), _text(package), SENDING, now, now),
        )
    with _alone(called):
        found = get(called)
        if found.native is None or found.ended:
            return _send(found, request)
    return refresh(found)


def find(called: str) -> Sent | None:
    """The job of exactly that name; None where there is none."""
    with _base() as base:
        row = base.execute("select * from jobs where id = ?", (called,)).fetchone()
    return None if row is None else _row(row)


def get(called: str) -> Sent:
    """The job of that name, or of a name that begins so. Unknown: UserError with the nearest."""
    found = find(called)
    if found is not None:
        return found
    known = [one.id for one in every()]
    close = [one for one in known if called and one.startswith(called)]
    if len(close) == 1:
        return get(close[0])
    raise UserError(
        f'There is no job "{called}".{did_you_mean(called, known)}'
        + (f" It could be {', '.join(close)}." if close else ""),
        remedy="inflame jobs list",
    )


def every() -> list[Sent]:
    """All jobs, the newest first, as they were known last."""
    with _base() as base:
        return [_row(row) for row in base.execute("select * from jobs order by created desc, id")]


def latest() -> Sent:
    """The one that was sent last. None: UserError."""
    found = every()
    if not found:
        raise UserError("No job was sent yet.", remedy="inflame launch mnist --on local")
    return found[0]


def refresh(sent: Sent) -> Sent:
    """The job as it is now, sent again where its machine was taken away. A place that can't be reached: as it was known
    last, and why."""
    if sent.ended:
        return sent
    if sent.native is None:
        return replace(sent, reason=sent.reason or "its sending was cut off: give the launch command again")
    try:
        now = _look(sent)
    except InflameError as error:  # a place that can't be reached, a token that has expired
        return replace(sent, reason=f"as last known: {error.message}")
    if now.state == PREEMPTED and _over(now):
        now = replace(now, state="stopped", reason="it was asked to stop") if now.asked else _resent(now)
    return _keep(sent, now)


def stop(sent: Sent) -> Sent:
    """Asks the job to save and stop, by its place and by its output folder. Returns at once."""
    if sent.ended:
        return sent
    with _base() as base:
        base.execute("update jobs set asked = 1 where id = ?", (sent.id,))
    if sent.native is None:
        return _keep(sent, replace(sent, asked=True, state="stopped", reason="it was stopped before it was sent"))
    attempts.ask_to_stop(sent.spec.output)
    launcher(sent.backend).cancel(sent.native)
    return refresh(replace(sent, asked=True))


def logs(sent: Sent, after: str = "") -> tuple[list[str], str]:
    """The lines that came after the piece `after`, and the name of the last piece. Where the job has not come so far as
    to write any, its place may have some: of machines that don't start."""
    lines, last = attempts.lines(sent.spec.output, after=after)
    if not lines and not after and sent.ended and sent.native is not None:
        return list(launcher(sent.backend).logs(sent.native)), ""
    return lines, last


def fetch(sent: Sent, name: str = "") -> Path:
    """The run folder of the job, among the runs of this machine, under its own name or another one. DataError when it
    has left none."""
    name = name or sent.id
    folder = places.fetched(replace(sent.as_job(), id=name))
    mine = store.home() / "runs" / name
    if folder != mine:
        with store.atomic_folder(mine) as temporary:
            shutil.copytree(folder, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock", ".tmp-*"))
    return mine


# --- what happens to one -------------------------------------------------------------------------


def _look(sent: Sent) -> Sent:
    """What the output folder and the launcher say, put together."""
    assert sent.native is not None
    native = launcher(sent.backend).status(sent.native)
    seen = attempts.read(sent.spec.output)  # after the launcher: an ended job has written its end before
    mine = seen.attempt > sent.base or (seen.state == "failed" and native.status in (*ENDED, PREEMPTED))
    now = replace(sent, native=native)
    gone = native.status in (*ENDED, PREEMPTED)
    if mine and seen.state in ENDED:
        return replace(now, state=seen.state, reason=seen.reason, code=seen.code, cost=seen.cost, seconds=seen.seconds)
    if mine and seen.state == PREEMPTED:
        return replace(now, state=PREEMPTED, reason=seen.reason, cost=seen.cost)
    if mine and not gone:
        return replace(now, state=seen.state, reason="", seconds=seen.seconds)
    if mine:  # it was at work, and its machine is gone without a word
        state = "stopped" if sent.asked or native.status == "stopped" else PREEMPTED
        return replace(now, state=state, code=native.code, reason=native.reason or "its machine vanished")
    return replace(now, state=native.status, code=native.code, reason=native.reason, cost=native.cost)


def _over(sent: Sent) -> bool:
    """Whether the place will not start it again by itself."""
    return sent.native is not None and sent.native.status in (*ENDED, PREEMPTED)


def _resent(sent: Sent) -> Sent:
    """The job sent once more. Where that can't be now, the next look tries again."""
    try:
        return _again(sent)
    except InflameError as error:
        return replace(sent, reason=f"{sent.reason}; it can't be sent again yet: {error.message}")


def _again(sent: Sent) -> Sent:
    """The job sent once more, or failed when that was often enough. Of several processes that look, one sends."""
    if sent.sent >= (ATTEMPTS if sent.spec.spot else PATIENT):
        return replace(sent, state="failed", reason=f"taken away {sent.sent} times; last: {sent.reason}")
    with _alone(sent.id):
        now = get(sent.id)
        if now.sent > sent.sent or now.ended:
            return now
        return _send(sent, launcher(sent.backend).request(sent.spec, sent.package))


def _send(sent: Sent, request: dict[str, Any]) -> Sent:
    """Sends it. A process that is killed meanwhile has sent it or not: its launcher, and the job itself, look."""
    seen = attempts.read(sent.spec.output).attempt
    native = launcher(sent.backend).send(request)
    now = replace(sent, native=native, state=native.status, reason="", code=None, sent=sent.sent + 1, base=seen)
    return _keep(sent, replace(now, asked=False))


@contextmanager
def _alone(called: str) -> Iterator[None]:
    """Inside, no other process or thread sends this job."""
    folder = store.make_folder(store.home() / "jobs" / ".locks")
    until = time.monotonic() + PATIENCE
    while (held := lock.take(folder / called)) is None:
        if time.monotonic() > until:
            raise UserError(
                f"Another process is sending {called}.", remedy=f"See what it says: inflame jobs status {called}"
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        held.release()


# --- the file ------------------------------------------------------------------------------------


def _keep(old: Sent, now: Sent) -> Sent:
    if now == old:
        return now
    now = replace(now, updated=time.time())
    with _base() as base:
        base.execute(
            "update jobs set native = ?, state = ?, reason = ?, code = ?, cost = ?, seconds = ?, sent = ?, base = ?, "
            "asked = max(asked * (sent = ?), ?), updated = ? where id = ? and sent <= ?",
            (
                _text(now.native) if now.native else "",
                *(now.state, now.reason, now.code, now.cost, now.seconds, now.sent, now.base),
                *(now.sent, now.asked, now.updated, now.id, now.sent),
            ),
        )
    return now


def _row(row: sqlite3.Row) -> Sent:
    told = dict(row)
    native = Job.from_json(json.loads(told.pop("native"))) if told["native"] else told.pop("native") or None
    spec, package = JobSpec.from_json(json.loads(told.pop("spec"))), Package.from_json(json.loads(told.pop("package")))
    return Sent(native=native, spec=spec, package=package, asked=bool(told.pop("asked")), **told)


def _text(record: Record) -> str:
    return json.dumps(record.to_json(), ensure_ascii=False)


@contextmanager
def _base() -> Iterator[sqlite3.Connection]:
    """The open file; what is done in the block is kept whole or not at all."""
    with closing(sqlite3.connect(store.home() / FILE, timeout=30)) as base:
        base.row_factory = sqlite3.Row
        base.execute("pragma journal_mode = wal")
        base.execute(_TABLE)
        with base:
            yield base
