"""The run folder: all there is to know about one training, for this process and for any other."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from inflame import host, store
from inflame.errors import InflameError, NetworkError, StorageError
from inflame.records import Record, dumps
from inflame.runs import lock

if TYPE_CHECKING:
    from types import TracebackType

    from inflame.config import Settings

FORMAT = 1
STATUS, LOCK, METRICS, LOG = "status.json", "lock", "metrics.jsonl", "log.txt"
STARTED = "INFLAME_STARTED"  # when the command that this process serves began (seconds since 1970)
PUSHING = 10.0  # seconds that an interrupted run takes to copy itself to its output, at most
PREVIOUS = ".previous"  # what stood in an output folder that is being trained anew, until the new run is done


class Cost:
    """What a run has used of the machine, all sittings together.

    The first run of a process that was started for it bears what came before it as well: Python's start, the imports,
    the check of the data.
    """

    __slots__ = ("_before", "_began", "_cpu", "_devices")
    alone = True  # no other run has begun in this process

    def __init__(self, before: dict[str, Any] | None = None, devices: int = 1) -> None:
        whole, Cost.alone = Cost.alone and STARTED in os.environ, False
        self._before, self._devices = before or {}, devices
        self._began, self._cpu = time.time(), 0.0 if whole else host.cpu_seconds()
        if whole:
            with suppress(ValueError):
                self._began = min(self._began, float(os.environ[STARTED]))

    def now(self) -> dict[str, float]:
        """`cpu_s`, `gpu_s` (of devices held, busy or not) and `wall_s`, in seconds."""
        wall = max(0.0, time.time() - self._began)
        used = {
            "cpu_s": max(0.0, host.cpu_seconds() - self._cpu),
            "gpu_s": wall * self._devices if host.holds_gpu() else 0.0,
            "wall_s": wall,
        }
        return {name: round(float(self._before.get(name, 0.0)) + value, 3) for name, value in used.items()}


class Live:
    """What the process that is at work in a run folder holds: the lock, the open files, the clock."""

    __slots__ = ("began", "cost", "earlier", "flushed", "lock", "log", "metrics", "pushed", "pushing", "uri")

    def __init__(self, held: lock.Lock, *, earlier: float, uri: str, cost: Cost | None = None) -> None:
        self.lock = held
        self.began = time.monotonic()
        self.earlier = earlier  # seconds of the sittings before this one
        self.cost = cost or Cost()
        self.uri = uri  # where the folder is copied to, when it is to be elsewhere
        self.pushed: dict[str, tuple[int, int]] = {}
        self.pushing = threading.Lock()
        self.metrics: IO[str] | None = None
        self.log: IO[str] | None = None
        self.flushed = self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run folder. `Run.begin` gives one to work in (use it in a `with`); `find` and `list_runs` give ones to read.

    Leaving the `with` writes the state: `done`, `interrupted` (Ctrl-C, SIGTERM) or `failed`.
    """

    path: Path
    resumed: bool = False
    live: Live | None = field(default=None, repr=False, compare=False)

    @classmethod
    def begin(cls, settings: Settings, identity: str, name: str, version: str = "") -> Run:
        """A folder to work in: the unfinished run of the same `identity` if there is one (`resumed`), else a new one,
        at `settings.output` or as `<model>-<name>-NNN` in `$INFLAME_HOME/runs`. `name` and `version` are those of the
        data set.

        Errors: UserError when `output` holds something else, or `resume` names a run of other settings or data and
        `force` isn't set; StorageError when it can't be written.
        """
        from inflame.runs.begin import begin

        return begin(settings, identity, name, version)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.name

    def read_status(self) -> dict[str, Any]:
        """What `status.json` says (times are seconds since 1970); empty when it can't be read."""
        try:
            value = json.loads((self.path / STATUS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def state(self) -> str:
        """`running`, `done`, `failed` or `interrupted`; a run whose process was killed is interrupted."""
        state = str(self.read_status().get("state", "interrupted"))
        return "interrupted" if state == "running" and not lock.held(self.path / LOCK) else state

    @property
    def bundle(self) -> Path | None:
        """The folder of the model that came out, once there is one."""
        folder = self.path / "bundle"
        return folder if (folder / "bundle.json").is_file() else None

    @property
    def seconds(self) -> float:
        """How long the run has been worked on, all sittings together."""
        if self.live is None:
            return float(self.read_status().get("seconds", 0.0))
        return self.live.earlier + time.monotonic() - self.live.began

    def say(self, text: str) -> None:
        """A line for the person who waits (stderr) and for `log.txt`."""
        text = text.encode(errors="backslashreplace").decode()  # a file name may hold bytes that are no text
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # a progress bar may stand there
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{clear}{text}\n")
            sys.stderr.flush()
        self.note(text)

    def note(self, text: str) -> None:
        """A line for `log.txt` alone. A log that can't be written stops nothing."""
        line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n"
        with suppress(OSError, ValueError):
            if self.live is None:
                return
            if self.live.log is None:
                self.live.log = (self.path / LOG).open("a", encoding="utf-8", errors="backslashreplace")
            self.live.log.write(line)
            self.live.log.flush()

    def status(self, **fields: Any) -> None:
        """Merges `fields` into `status.json`, whole or not at all, and writes the metrics out."""
        self.flush()
        now = round(time.time(), 3)
        merged = {**self.read_status(), **fields, "updated": now, "seconds": round(self.seconds, 3)}
        if self.live is not None:
            merged["cost"] = self.live.cost.now()
        store.write(self.path / STATUS, dumps(merged))
        if self.live is not None:
            self.live.lock.touch()
            if fields.get("state") == "interrupted":  # whoever stopped it may kill it soon
                self._push_within(PUSHING)
            elif "state" in fields:
                self.push()

    def metric(self, **row: Any) -> None:
        """A line of `metrics.jsonl`. Kept in memory for up to a second; a number that isn't finite becomes null."""
        live = self._working()
        if live.metrics is None:
            with store.guard(self.path / METRICS):
                live.metrics = (self.path / METRICS).open("a", buffering=1 << 16, encoding="utf-8")
        try:
            line = _encode(row)
        except ValueError:
            line = _encode({key: _finite(value) for key, value in row.items()})
        try:
            live.metrics.write(line + "\n")
        except OSError as error:
            raise store.storage_error(error, self.path / METRICS) from error
        if time.monotonic() - live.flushed > 1:
            self.flush()

    def flush(self) -> None:
        """Writes out the metrics that are still in memory."""
        if self.live is not None and self.live.metrics is not None:
            self.live.flushed = time.monotonic()
            with store.guard(self.path / METRICS):
                self.live.metrics.flush()

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`; a last line that was cut off by a kill is left out."""
        self.flush()
        return read_metrics(self.path / METRICS)

    def rewind(self, key: str, last: float, *, stage: str | None = None) -> None:
        """Drops the metric rows of `stage` (None: those of none) whose `key` is above `last`: what came after the
        checkpoint of a resume."""
        live = self._working()

        def late(row: dict[str, Any]) -> bool:
            value = row.get(key)
            return row.get("stage") == stage and isinstance(value, (int, float)) and value > last

        rows = [row for row in self.metrics() if not late(row)]
        if live.metrics is not None:
            live.metrics.close()
            live.metrics = None
        store.write(self.path / METRICS, "".join(_encode(row) + "\n" for row in rows))

    def write(self, name: str, value: Any) -> Path:
        """Puts a file into the folder, whole or not at all: text and bytes as they are, the rest as JSON."""
        path = self.path / name
        store.write(path, value if isinstance(value, (str, bytes)) else dumps(value))
        return path

    def provenance(self, settings: Settings) -> None:
        """Writes `provenance.json`: code, seed, versions, hardware, and the words that started the process; the status
        gets the version of the code."""
        from inflame.runs.provenance import gather

        found = gather(settings)
        self.write("provenance.json", found)
        self.status(code=found["code"])

    def push(self) -> None:
        """Copies what is new in the folder to the `output` uri, where that is not on this machine."""
        live = self.live
        if live is None or not live.uri:
            return
        with live.pushing:  # a thread that writes checkpoints pushes too
            for path in sorted(self.path.rglob("*")):
                name = path.relative_to(self.path).as_posix()
                mine = name != LOCK and not name.startswith(PREVIOUS) and not path.name.startswith(".tmp-")
                if mine and path.is_file():
                    stat = path.stat()
                    stamp = (stat.st_mtime_ns, stat.st_size)
                    if live.pushed.get(name) != stamp:
                        self._push_file(path, store.join(live.uri, name))
                        live.pushed[name] = stamp

    def pushed(self, path: Path) -> None:
        """Copies what is new to the `output` uri while training goes on: a network that fails is noted, and stops
        nothing."""
        try:
            self.push()
        except (InflameError, OSError) as error:
            self.note(f"not copied yet ({path.name}): {error}")

    def _push_within(self, seconds: float) -> None:
        """Copies for at most so long; what has not arrived by then is in the folder all the same."""
        if self.live is None or not self.live.uri:
            return
        thread = threading.Thread(target=self.pushed, args=(self.path / STATUS,), name="last push", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            self.say(
                f"not all of the run is at {store.shown(self.live.uri)} after {seconds:.0f} s; it is in {self.path}"
            )

    def _push_file(self, path: Path, uri: str) -> None:
        try:
            store.upload(path, uri)
        except NetworkError as error:
            raise NetworkError(
                f"{error.message} The run itself is whole, in {self.path}.",
                where=error.where,
                remedy="Check the address, the network and the credentials, or copy that folder there by hand.",
            ) from error

    def close(self) -> None:
        """Lets go of the folder. The state stays as it was last written."""
        if self.live is None:
            return
        for file in (self.live.metrics, self.live.log):
            if file is not None:
                with suppress(OSError, ValueError):
                    file.close()
        self.live.metrics = self.live.log = None
        self.live.lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end(error)
        except (InflameError, OSError):
            if error is None:  # otherwise what went wrong first is what matters
                raise
        finally:
            self.close()

    def _end(self, error: BaseException | None) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.status(state="done")
            shutil.rmtree(self.path / PREVIOUS, ignore_errors=True)
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.note("interrupted")
            self.status(state="interrupted")
        else:
            self.note(error.explain() if isinstance(error, InflameError) else _story(error))
            self.status(state="failed", error=f"{type(error).__name__}: {error}")

    def _working(self) -> Live:
        if self.live is None:
            raise StorageError(
                f"The run {self.name} is open for reading only.",
                where=str(self.path),
                remedy="Write to the run that Run.begin gives.",
            )
        return self.live


class Follows(Exception):
    """Ends a process that only took its share of the training of another one: what is left to do is that one's."""


class Already(Follows):
    """Ends a process whose training has been done before: the run folder of the same identity, data and code."""


class Follower(Run):
    """The run folder of the first of several processes, for the others: there to read, and silent."""

    __slots__ = ()

    def say(self, text: str) -> None:
        """Nothing: the first process talks."""

    note = say

    def status(self, **fields: Any) -> None:
        """Nothing: the first process writes."""

    metric = status

    def rewind(self, key: str, last: float, *, stage: str | None = None) -> None:
        """Nothing: the first process writes."""

    def pushed(self, path: Path) -> None:
        """Nothing: the first process writes."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a `metrics.jsonl`; none when there is no such file."""
    if not path.is_file():
        return []
    rows = []
    for line in store.read_bytes(path).splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def _story(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    return value.item() if hasattr(value, "item") else str(value)  # numbers of numpy and torch


def _finite(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_plain).encode
