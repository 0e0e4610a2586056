"""Rows that wait on disk while their database is away: one file per process, a line per row, appended.

A line is whole once `put` has returned, also after a SIGKILL. A file belongs to whoever holds its lock; what a killed
process left is taken over by the next one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

from inflame import store
from inflame.monitor import entries
from inflame.monitor.database import Row

MOST = 500  # rows at a time on their way to the database


@final
class Spool:
    """The rows of tables that wait in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: int | None = None
        self._path = folder / f"{os.getpid()}-{os.urandom(4).hex()}.rows"

    def put(self, table: str, rows: Sequence[Row]) -> None:
        """Appends the rows, in one piece. A disk that is full: StorageError."""
        store.make_folder(self._folder)
        with store.guard(self._path):
            if self._own is None:
                self._own = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._own, fcntl.LOCK_EX)
            content = "".join(f"{entries.dumps((table, *row))}\n" for row in rows).encode()
            before = os.fstat(self._own).st_size
            try:
                while content:
                    content = content[os.write(self._own, content) :]
            except OSError:
                os.ftruncate(self._own, before)  # half a line would swallow the next one
                raise

    def waiting(self) -> int:
        """How many rows wait, of all processes."""
        return sum(path.read_bytes().count(b"\n") for path in self._files())

    def drain(self, take: Callable[[str, list[Row]], None]) -> int:
        """Gives all rows to `take`, table by table, and forgets them; returns how many. `take` must not mind rows
        that it has had before: a process may be killed between the two."""
        return sum(self._emptied(path, take) for path in self._files())

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.rows")) if self._folder.is_dir() else []

    def _emptied(self, path: Path, take: Callable[[str, list[Row]], None]) -> int:
        mine = path == self._path and self._own is not None
        descriptor = self._own if mine else _taken(path)
        if descriptor is None:  # another process is alive, and will see to it
            return 0
        try:
            rows = _rows(path)
            for table in dict.fromkeys(table for table, _ in rows):
                some = [row for name, row in rows if name == table]
                for start in range(0, len(some), MOST):
                    take(table, some[start : start + MOST])
            path.unlink(missing_ok=True)
            if mine:
                self._own = None
                self._path = self._folder / f"{os.getpid()}-{os.urandom(4).hex()}.rows"
        except BaseException:
            if not mine:
                os.close(descriptor)
            raise
        os.close(descriptor)
        return len(rows)


def _taken(path: Path) -> int | None:
    """The file, locked; None when its process lives, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _rows(path: Path) -> list[tuple[str, Row]]:
    """(table, row) of every whole line; the last one is cut short where a disk was full."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            table, *row = entries.loads(line)
        except ValueError:
            continue
        found.append((str(table), tuple(row)))
    return found
