"""The two databases that a log can be in, behind one small interface: SQLite in a file, PostgreSQL by its URL."""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, final

from inflame import store
from inflame.errors import MissingExtra, UserError
from inflame.monitor import schema

Row = tuple[Any, ...]
Step = tuple[str, Sequence[Row]]  # a statement, and the rows to do it with


class Unavailable(Exception):
    """The database can't be used now: locked, full, damaged or gone. Its text says why, in a line."""


class Newer(Unavailable):
    """The tables were made by a later inflame, and this one doesn't know what they mean."""

    def __init__(self, version: str) -> None:
        super().__init__(f"its tables have version {version}, and this inflame knows {schema.newest()} at most")


class Database(ABC):
    """Statements use `?`; those of `write` happen all or not at all. Safe to share between threads.

    Each method but `close` raises Unavailable. What needs the tables makes them, or brings them up to date, first.
    """

    shown: str  # where it is, without a password

    @abstractmethod
    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """The rows that the statement finds."""

    @abstractmethod
    def write(self, steps: Iterable[Step]) -> None:
        """Does all steps in one transaction; when it returns they outlive this process."""

    @abstractmethod
    def scrub(self, *tables: str) -> None:
        """Lets nothing of what was deleted from the tables stay in the files."""

    @abstractmethod
    def version(self) -> str:
        """Which version its tables have, see schema; changes nothing."""

    @abstractmethod
    def migrate(self, to: str) -> None:
        """Brings the tables to a version. What opens the database later brings them to the newest."""

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

    def scrub(self, *tables: str) -> None:
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

    def version(self) -> str:
        """See Database."""
        if not self.path.exists():
            return schema.NOTHING
        try:
            with closing(self._connected(self._patience)) as connection:
                return self._version(connection)
        except (sqlite3.Error, OSError) as error:
            raise self._gone(error) from error

    def migrate(self, to: str) -> None:
        """See Database."""
        with self._lock:
            self.close()
            try:
                self._migrate(to)
            except (sqlite3.Error, OSError) as error:
                raise self._gone(error) from error

    def _connection(self) -> sqlite3.Connection:
        """Opened when it is needed, and again when the file was put away or replaced."""
        if self._open is not None and self._file != self._found():
            self.close()
        if self._open is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            found = self._connected(self._patience)
            try:
                if self._version(found) == schema.NOTHING:
                    self._make(found)
                if _is_old(self._version(found)):
                    self._migrate(schema.newest())
            except BaseException:
                found.close()
                raise
            self._open, self._file = found, self._found()
        return self._open

    def _connected(self, patience: float) -> sqlite3.Connection:
        found = sqlite3.connect(
            self.path, timeout=patience, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = NORMAL")
            found.execute("PRAGMA secure_delete = ON")
        except BaseException:
            found.close()
            raise
        return found

    def _version(self, connection: sqlite3.Connection) -> str:
        try:
            found = connection.execute(schema.ASK).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            found = None
        if found is not None:
            return str(found[0])
        old = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'predictions'").fetchone()
        return schema.UNNUMBERED if old else schema.NOTHING

    def _make(self, connection: sqlite3.Connection) -> None:
        connection.execute(schema.LOCKS["sqlite"])
        try:
            if self._version(connection) == schema.NOTHING:  # another process may have been quicker
                for statement in schema.statements("sqlite"):
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _migrate(self, to: str) -> None:
        schema.migrate("sqlite", lambda: self._connected(schema.PATIENCE), self.shown, to)

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

    def scrub(self, *tables: str) -> None:
        """See Database."""
        with self._lock:
            try:
                self._connection().execute(f"VACUUM {', '.join(tables)}")
            except self._psycopg.Error as error:
                raise self._gone(error) from error

    def close(self) -> None:
        """See Database."""
        with self._lock:
            if self._open is not None:
                with suppress(Exception):
                    self._open.close()
            self._open = None

    def version(self) -> str:
        """See Database."""
        try:
            with closing(self._connected(self._patience)) as connection:
                return self._version(connection)
        except (self._psycopg.Error, OSError) as error:
            raise self._gone(error) from error

    def migrate(self, to: str) -> None:
        """See Database."""
        with self._lock:
            self.close()
            try:
                self._migrate(to)
            except (self._psycopg.Error, OSError) as error:
                raise self._gone(error) from error

    def _connection(self) -> Any:
        if self._open is None or self._open.closed:
            found = self._connected(self._patience)
            try:
                if self._version(found) == schema.NOTHING:
                    self._make(found)
                if _is_old(self._version(found)):
                    self._migrate(schema.newest())
            except BaseException:
                found.close()
                raise
            self._open = found
        return self._open

    def _connected(self, patience: float) -> Any:
        found = self._psycopg.connect(self._uri, autocommit=True, connect_timeout=max(2, int(self._patience)))
        try:
            found.execute(f"SET lock_timeout = {int(patience * 1000)}")
        except BaseException:
            found.close()
            raise
        return found

    def _version(self, connection: Any) -> str:
        try:
            found = connection.execute(schema.ASK).fetchone()
        except self._psycopg.errors.UndefinedTable:
            found = None
        if found is not None:
            return str(found[0])
        old = connection.execute("SELECT to_regclass('predictions')").fetchone()[0]
        return schema.UNNUMBERED if old else schema.NOTHING

    def _make(self, connection: Any) -> None:
        with connection.transaction():
            connection.execute(schema.LOCKS["postgresql"])
            if connection.execute("SELECT to_regclass('predictions')").fetchone()[0] is None:
                for statement in schema.statements("postgresql"):
                    connection.execute(statement)

    def _migrate(self, to: str) -> None:
        def connect() -> Any:
            found = self._connected(schema.PATIENCE)
            found.autocommit = False
            return found

        schema.migrate("postgresql", connect, self.shown, to)

    def _gone(self, error: Exception) -> Unavailable:
        if not isinstance(error, self._psycopg.errors.LockNotAvailable):
            self.close()
        return Unavailable(str(error).strip().partition("\n")[0] or type(error).__name__)


def _is_old(version: str) -> bool:
    if version > schema.newest():
        raise Newer(version)
    return version < schema.newest()


def _marked(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")


def _clean(row: Sequence[Any]) -> Row:
    """PostgreSQL takes no NUL in a text."""
    return tuple(cell.replace("\x00", "") if isinstance(cell, str) else cell for cell in row)
