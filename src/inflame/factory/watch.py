"""What can be seen of a run while it is at work, from outside: its numbers as they come, how it ended, and why."""

from __future__ import annotations

import itertools
import json
import signal
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from inflame.records import Job

_EVENTS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


@dataclass(slots=True)
class Tail:
    """The rows of a `metrics.jsonl` that grows. `touched`: when it last did, in seconds since 1970."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    touched: float = 0.0
    _place: int = 0
    _file: int = 0

    def read(self, path: Path) -> bool:
        """Whether there is something new. A file that was replaced, as on a resume, is read from its beginning."""
        try:
            stat = path.stat()
        except OSError:
            return False
        self.touched = stat.st_mtime
        if stat.st_ino != self._file or stat.st_size < self._place:
            self.rows, self._place, self._file = [], 0, stat.st_ino
        if stat.st_size == self._place:
            return False
        with suppress(OSError), path.open("rb") as file:
            file.seek(self._place)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._place += len(whole)
            for line in whole.splitlines():
                with suppress(ValueError):
                    row = json.loads(line)
                    if isinstance(row, dict):
                        self.rows.append(row)
            return bool(whole)
        return False


def longest_step(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds between two rows, usually."""
    moments = [float(row["seconds"]) for row in rows if isinstance(row.get("seconds"), (int, float))]
    gaps = [late - early for early, late in itertools.pairwise(moments) if late > early]
    return statistics.median(gaps) if gaps else 0.0


@lru_cache(maxsize=64)
def _classes(path: Path, stamp: int) -> int:
    with suppress(OSError, ValueError):
        return len(json.loads(path.read_bytes()).get("classes", ()))
    return 0


def classes(run: Path) -> int:
    """How many classes the data of a run has; 0 where it doesn't say."""
    path = run / "dataset.json"
    try:
        return _classes(path, path.stat().st_mtime_ns)
    except OSError:
        return 0


def reason(job: Job, status: Mapping[str, Any], said: str, *, memory: bool) -> str:
    """Why a trial failed: what its run says, else its place, else how its process ended, and the last line of its log.
    memory: whether there was too little of it meanwhile."""
    told = str(status.get("error") or "") if status.get("state") == "failed" else ""
    if told:
        return " ".join(told.split())[:300]
    if job.reason:
        return job.reason
    if job.code is not None and job.code > 128:
        with suppress(ValueError):
            told = f"killed ({signal.Signals(job.code - 128).name}){', out of memory' if memory else ''}"
    if not told:
        told = f"exit code {job.code}" if job.code else "it left no result"
    return f"{told}; last line: {said[:200]}" if said else told


def out_of_memory() -> int:
    """How many processes the kernel has killed for want of memory, as far as it says: in this container, or at all."""
    for events in _EVENTS:
        with suppress(OSError, ValueError):
            for line in events.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
