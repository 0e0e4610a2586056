"""The two databases that a log can be in, behind one small interface: SQLite in a file, PostgreSQL by its URL."""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from inflame import store
from inflame.errors import MissingExtra, UserError

Row = tuple[Any, ...]
Step = tuple[str, Sequence[Row]]  # a statement, and the rows to do it with

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS predictions (
        seq {serial}, id TEXT NOT NULL UNIQUE, time {real} NOT NULL, model TEXT NOT NULL, input TEXT NOT NULL,
        label TEXT NOT NULL, probability {real} NOT NULL, known INTEGER NOT NULL, probabilities {bytes} NOT NULL,
        embedding {bytes} NOT NULL, seen {bytes} NOT NULL, kind TEXT NOT NULL, latency {real} NOT NULL,
        source TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS predictions_time ON predictions (time)",
    "CREATE INDEX IF NOT EXISTS predictions_input ON predictions (input)",
    """CREATE TABLE IF NOT EXISTS verdicts (
        seq {serial}, answer TEXT NOT NULL, said TEXT NOT NULL, label TEXT NOT NULL, who TEXT NOT NULL,
        asked INTEGER NOT NULL, comment TEXT NOT NULL, taken_back INTEGER NOT NULL, time {real} NOT NULL,
        UNIQUE (answer, who, time))""",
    "CREATE INDEX IF NOT EXISTS verdicts_answer ON verdicts (answer)",
    "CREATE TABLE IF NOT EXISTS models (version TEXT PRIMARY KEY, facts TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS kept (input TEXT PRIMARY KEY, content {bytes} NOT NULL, time {real} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


class Unavailable(Exception):
    """The database can't be used now: locked, full, damaged or gone. Its text says why, in a line."""


class Database(ABC):
    """Statements use `?`; those of `write` happen all or not at all. Safe to share between threads.

    `read` and `write` raise Unavailable.
    """

    shown: str  # where it is, without a password

    @abstractmethod
    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """The rows that the statement finds."""

    @abstractmethod
    def write(self, steps: Iterable[Step]) -> None:
        """Does all steps in one transaction; when it returns they outlive this process."""

    @abstractmethod
    def scrub(self) -> None:
        """Lets nothing of what was deleted stay in the files."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of it."""


def connect(uri: str, patience: float) -> Database:
    """The database at a path, `sqlite:///…` or `postgresql://…`; `patience`: seconds that a lock is waited for.

    Nothing is opened yet: a database that is away for now may come back.
    """
    if uri.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        return Postgres(uri.replace("+psycopg", "", 1), patience)
    path = uri.removeprefix("sqlite:///")
    if "://" in path:
        raise UserError(
            f"{store.shown(uri)} is no database that a log can be in.",
            where=store.shown(uri),
            remedy="Name a file, or postgresql://user@host/database.",
        )
    return Sqlite(Path(path).expanduser(), patience)


@final
class Sqlite(Database):
    """A file with a write-ahead log: several processes read and write, and what was written outlives a SIGKILL."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path, self.shown = path, str(path)
        self._patience, self._lock = patience, threading.RLock()
        self._open: sqlite3.Connection | None = None
        self._file = (0, 0)  # the one that is open

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """See Database."""
        with self._lock:
            try:
                return self._connection().execute(statement, tuple(values)).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise self._gone(error) from error

    def write(self, steps: Iterable[Step]) -> None:
        """See Database."""
        with self._lock:
            try:
                connection = self._connection()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    for statement, rows in steps:
                        connection.executemany(statement, rows)
                    connection.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                raise self._gone(error) from error

    def scrub(self) -> None:
        """See Database: deleted pages are overwritten at once (secure_delete), the write-ahead log here."""
        with self._lock:
            try:
                self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                raise self._gone(error) from error

    def close(self) -> None:
        """See Database."""
        with self._lock:
            if self._open is not None:
                self._open.close()
            self._open = None

    def _connection(self) -> sqlite3.Connection:
        """Opened when it is needed, and again when the file was put away or replaced."""
        if self._open is not None and self._file != self._found():
            self.close()
        if self._open is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            found = sqlite3.connect(
                self.path, timeout=self._patience, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            try:
                found.execute("PRAGMA journal_mode = WAL")
                found.execute("PRAGMA synchronous = NORMAL")
                found.execute("PRAGMA secure_delete = ON")
                types = {"serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "real": "REAL", "bytes": "BLOB"}
                for statement in SCHEMA:
                    found.execute(statement.format(**types))
            except BaseException:
                found.close()
                raise
            self._open, self._file = found, self._found()
        return self._open

    def _found(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_dev, found.st_ino

    def _gone(self, error: Exception) -> Unavailable:
        # Locked and full pass by themselves; after anything else the file is opened anew.
        if not isinstance(error, sqlite3.OperationalError) or "locked" not in str(error):
            self.close()
        return Unavailable(str(error))


@final
class Postgres(Database):
    """A server; the connection is made when it is needed, and again when it was lost."""

    def __init__(self, uri: str, patience: float) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtra(
                "A log in PostgreSQL needs psycopg, which isn't installed.", extra="postgres", where=store.shown(uri)
            ) from error
        self._psycopg, self._uri, self.shown = psycopg, uri, store.shown(uri)
        self._patience, self._lock = patience, threading.RLock()
        self._open: Any = None

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """See Database."""
        with self._lock:
            try:
                connection = self._connection()
                with connection.transaction():
                    found = connection.execute(_marked(statement), _clean(values)).fetchall()
                return [tuple(row) for row in found]
            except (self._psycopg.Error, OSError) as error:
                raise self._gone(error) from error

    def write(self, steps: Iterable[Step]) -> None:
        """See Database."""
        with self._lock:
            try:
                connection = self._connection()
                with connection.transaction(), connection.cursor() as cursor:
                    for statement, rows in steps:
                        cursor.executemany(_marked(statement), [_clean(row) for row in rows])
            except (self._psycopg.Error, OSError) as error:
                raise self._gone(error) from error

    def scrub(self) -> None:
        """See Database."""
        with self._lock:
            try:
                self._connection().execute("VACUUM predictions, verdicts, kept")
            except self._psycopg.Error as error:
                raise self._gone(error) from error

    def close(self) -> None:
        """See Database."""
        with self._lock:
            if self._open is not None:
                with suppress(Exception):
                    self._open.close()
            self._open = None

    def _connection(self) -> Any:
        if self._open is None or self._open.closed:
            found = self._psycopg.connect(self._uri, autocommit=True, connect_timeout=max(2, int(self._patience)))
            try:
                found.execute(f"SET lock_timeout = {int(self._patience * 1000)}")
                types = {"serial": "BIGSERIAL PRIMARY KEY", "real": "DOUBLE PRECISION", "bytes": "BYTEA"}
                with found.transaction():  # IF NOT EXISTS alone may fail when two make the tables at once
                    found.execute("SELECT pg_advisory_xact_lock(1768842093)")
                    for statement in SCHEMA:
                        found.execute(statement.format(**types))
            except BaseException:
                found.close()
                raise
            self._open = found
        return self._open

    def _gone(self, error: Exception) -> Unavailable:
        if not isinstance(error, self._psycopg.errors.LockNotAvailable):
            self.close()
        return Unavailable(str(error).strip().partition("\n")[0] or type(error).__name__)


def _marked(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")


def _clean(row: Sequence[Any]) -> Row:
    """PostgreSQL takes no NUL in a text."""
    return tuple(cell.replace("\x00", "") if isinstance(cell, str) else cell for cell in row)
