"""An index of all runs in one SQLite file, so that a thousand run folders needn't be read to be listed or searched.

It only repeats what the folders say: what is missing, old or damaged in it is read from them again, and where the file
can't be written, the same is done in memory.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from inflame import store
from inflame.errors import UserError
from inflame.runs.run import STATUS

COLUMNS = {
    "name": "TEXT",
    "model": "TEXT",
    "dataset": "TEXT",
    "state": "TEXT",
    "accuracy": "REAL",
    "low": "REAL",
    "high": "REAL",
    "seconds": "REAL",
    "started": "REAL",
    "updated": "REAL",
    "settings": "TEXT",
    "recipe": "TEXT",
    "seed": "INTEGER",
    "code": "TEXT",
    "n": "INTEGER",
    "val": "REAL",
    "version": "TEXT",
    "content": "TEXT",
    "test_items": "TEXT",
    "val_items": "TEXT",
    "cpu_s": "REAL",
    "gpu_s": "REAL",
    "wall_s": "REAL",
}
_INNER = {"entry": "TEXT PRIMARY KEY", "folder": "TEXT", "stamp": "TEXT", "status": "TEXT"}
_TABLE = ", ".join(f"{name} {kind}" for name, kind in {**_INNER, **COLUMNS}.items())
_FORMAT = 3
_READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)

Known = tuple[str, str]  # a run folder, and its status as JSON


def folder_of_runs() -> Path:
    """`$INFLAME_HOME/runs`."""
    return store.home() / "runs"


def known(where: str = "") -> list[Known]:
    """Every run folder with its status, the one worked on last first; with `where`, those that meet that condition.

    `where` is SQL over `COLUMNS`; `settings` is JSON (`settings->>'$.seed' = 1`). One that isn't: UserError.
    """
    return list(dict(_select("folder, status", where)).items())  # a folder that two links lead to is one run


def _select(what: str, where: str) -> list[tuple[Any, ...]]:
    with _table() as table:
        if where:
            table.set_authorizer(lambda act, *_: sqlite3.SQLITE_OK if act in _READING else sqlite3.SQLITE_DENY)
        try:
            return table.execute(
                f"SELECT {what} FROM runs WHERE ({where or 1}) ORDER BY updated DESC, name DESC"
            ).fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise UserError(
                f"The runs can't be searched by that: {error}.",
                where=where,
                remedy=f"Write a condition of SQL over {', '.join(COLUMNS)}, like: accuracy > 0.9 AND model = 'mnist'",
            ) from error


def rows(where: str = "", *, extra: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row of `COLUMNS` (without the settings) and its `folder` for every run that meets the condition; `extra` are
    paths into the status, like "scores.test.log_loss"."""
    names = ["folder", *(name for name in COLUMNS if name != "settings")]
    wanted = [*names, *(f"json_extract(status, '$.{path}')" for path in extra)]
    found = _select(", ".join(wanted), where)
    return [dict(zip((*names, *extra), row, strict=True)) for row in {row[0]: row for row in found}.values()]


def about(folder: Path) -> dict[str, Any]:
    """The row of one run folder, wherever it lies, read from itself."""
    return {
        "folder": str(folder.resolve()),
        **{name: _plain(value) for name, value in _values(folder, _read(folder / STATUS)).items()},
    }


@contextmanager
def _table() -> Iterator[sqlite3.Connection]:
    """The index, up to date."""
    file = store.home() / "cache" / "runs.sqlite"
    for place in (file, file, ":memory:"):
        table = None
        try:
            table = sqlite3.connect(place, timeout=1.0, isolation_level=None)
            _refresh(table)
        except sqlite3.Error as error:
            if table is not None:
                table.close()
            if place == file and not isinstance(error, sqlite3.OperationalError):  # damaged, and quickly made again
                for name in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
                    with suppress(OSError):
                        name.unlink()
            continue
        with closing(table):
            yield table
        return


def _refresh(table: sqlite3.Connection) -> None:
    """Reads again what has changed since the last time: one look at each folder's status tells."""
    if _format(table) != _FORMAT:
        table.execute("PRAGMA journal_mode=WAL")
        table.execute("BEGIN IMMEDIATE")
        if _format(table) != _FORMAT:  # else another process has made it in between
            table.execute("DROP TABLE IF EXISTS runs")
            table.execute(f"CREATE TABLE runs ({_TABLE})")
            table.execute(f"PRAGMA user_version={_FORMAT}")
        table.execute("COMMIT")
    table.execute("PRAGMA synchronous=OFF")  # whatever is lost is read again
    before = dict(table.execute("SELECT entry, stamp FROM runs"))
    now = dict(_stamps())
    runs = folder_of_runs()
    changed = [_row(runs, name, stamp) for name, stamp in now.items() if before.get(name) != stamp]
    gone = [(name,) for name in before if name not in now]
    if changed or gone:
        table.execute("BEGIN IMMEDIATE")
        table.executemany("DELETE FROM runs WHERE entry = ?", gone)
        marks = ", ".join("?" * (len(_INNER) + len(COLUMNS)))
        table.executemany(f"INSERT OR REPLACE INTO runs VALUES ({marks})", changed)
        table.execute("COMMIT")


def _format(table: sqlite3.Connection) -> int:
    return int(table.execute("PRAGMA user_version").fetchone()[0])


def _stamps() -> Iterator[tuple[str, str]]:
    """The name of each run's entry, and what changes whenever its status is written."""
    with os.scandir(folder_of_runs()) as entries:
        for entry in entries:
            with suppress(OSError):
                stat = os.stat(f"{entry.path}/{STATUS}")  # noqa: PTH116
                yield entry.name, f"{stat.st_mtime_ns} {stat.st_size} {stat.st_ino}"


def _row(runs: Path, entry: str, stamp: str) -> tuple[Any, ...]:
    folder = (runs / entry).resolve()
    status = _read(folder / STATUS)
    values = _values(folder, status)
    return entry, str(folder), stamp, json.dumps(status), *(_plain(values[name]) for name in COLUMNS)


def _values(folder: Path, status: dict[str, Any]) -> dict[str, Any]:
    settings = _read(folder / "config.json")
    test, val, data, cost = (_part(status, name) for name in ("test", "val", "data", "cost"))
    return {
        **{name: status.get(name) for name in ("model", "dataset", "state", "seconds", "started", "recipe", "code")},
        **{name: test.get(name) for name in ("accuracy", "low", "high", "n")},
        **{name: cost.get(name) for name in ("cpu_s", "gpu_s")},
        "wall_s": cost.get("wall_s", status.get("seconds")),
        "name": folder.name,
        "updated": status["updated"] if isinstance(status.get("updated"), float) else 0.0,
        "settings": settings,
        "seed": status.get("seed", settings.get("seed")),
        "val": val.get("accuracy"),
        "version": data.get("version") or _read(folder / "dataset.json").get("version"),
        "content": data.get("content"),
        "test_items": data.get("test"),
        "val_items": data.get("val"),
    }


def _part(status: dict[str, Any], name: str) -> dict[str, Any]:
    value = status.get(name)
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> str | float | None:
    """What a cell can hold."""
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
