"""The tables of a log and their version: made where they are missing, brought up to date where they are old.

Whoever opens a log asks for its version, one SELECT. A new log gets its tables by the statements of all revisions in
their order; only one that another inflame has made needs Alembic, which is imported then. Either way it is one
transaction under a lock: processes may start at once, and of one that is killed in between nothing is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from inflame.errors import MissingExtra

TABLE = "log_version"  # not Alembic's own name: others may have theirs in the same database
ASK = f"SELECT version_num FROM {TABLE}"
NOTHING, UNNUMBERED = "", "0000"  # no tables; tables of the time before they had a version
PATIENCE = 60.0  # seconds that a migration waits for others
FOLDER = Path(__file__).parent / "migrations"

_WORDS = {
    "sqlite": {
        "serial": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "real": "REAL",
        "bytes": "BLOB",
        "now": "(julianday('now') - 2440587.5) * 86400.0",
    },
    "postgresql": {
        "serial": "BIGSERIAL PRIMARY KEY",
        "real": "DOUBLE PRECISION",
        "bytes": "BYTEA",
        "now": "extract(epoch FROM now())",
    },
}
_DRIVERS = {"sqlite": "sqlite+pysqlite://", "postgresql": "postgresql+psycopg://"}
LOCKS = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(1768842093)"}
_EXTRAS = {"sqlite": "web", "postgresql": "postgres"}
_alone = threading.Lock()  # what Alembic is about to do is known to the whole process


@cache
def revisions() -> tuple[str, ...]:
    """The versions that this inflame knows, the oldest first."""
    return tuple(sorted(path.name[1:5] for path in (FOLDER / "versions").glob("r[0-9]*.py")))


def newest() -> str:
    """The version that this inflame works with."""
    return revisions()[-1]


def statements(dialect: str) -> list[str]:
    """What makes the tables of a new log, in "sqlite" or "postgresql"."""
    key = f"CONSTRAINT {TABLE}_pkc PRIMARY KEY (version_num)"  # as Alembic makes it
    made = f"CREATE TABLE IF NOT EXISTS {TABLE} (version_num VARCHAR(32) NOT NULL, {key})"
    tables = [line for name in revisions() for line in lines(name, "up", dialect)]
    return [*tables, made, f"INSERT INTO {TABLE} (version_num) VALUES ('{newest()}')"]


def revision(name: str) -> ModuleType:
    """A revision: its docstring says what it is about, UP and DOWN are its statements."""
    (path,) = (FOLDER / "versions").glob(f"r{name}_*.py")
    return import_module(f"inflame.monitor.migrations.versions.{path.stem}")


def about(name: str) -> str:
    """What a revision is about, in a line."""
    return (revision(name).__doc__ or "").partition("\n")[0]


def lines(name: str, way: str, dialect: str) -> list[str]:
    """The statements of a revision, "up" or "down"."""
    found = revision(name)
    return spelt(found.UP if way == "up" else found.DOWN, dialect)


def steps(version: str, to: str) -> list[tuple[str, str]]:
    """What leads from one version to another: revisions, each with "up" or "down"."""
    known = revisions()
    if version <= to:
        return [(name, "up") for name in known if version < name <= to]
    return [(name, "down") for name in reversed(known) if to < name <= version]


def spelt(statements: Sequence[str], dialect: str) -> list[str]:
    """Statements in the words of a database."""
    return [statement.format(**_WORDS[dialect]) for statement in statements]


def execute(statements: Sequence[str]) -> None:
    """Does the statements of a revision, in the migration that is under way."""
    from alembic import op

    for line in spelt(statements, op.get_context().dialect.name):
        op.execute(line)


def migrate(dialect: str, connect: Callable[[], Any], place: str, to: str) -> None:
    """Brings the tables to a version, up or down (to NOTHING they are gone), or leaves all as it was.

    connect: opens the database, without a transaction. Raises the errors of its driver.
    """
    try:
        import sqlalchemy
        from alembic import command
        from alembic.config import Config
        from alembic.migration import MigrationContext
    except ImportError as error:
        raise MissingExtra(
            "The log was made by another inflame, and Alembic, which changes its tables, isn't installed.",
            extra=_EXTRAS[dialect],
            where=place,
        ) from error

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    engine = sqlalchemy.create_engine(_DRIVERS[dialect], creator=connect, poolclass=sqlalchemy.NullPool)
    try:
        with _alone, engine.begin() as connection:
            connection.exec_driver_sql(LOCKS[dialect])
            config.attributes["connection"] = connection
            now = MigrationContext.configure(connection, opts={"version_table": TABLE}).get_current_revision()
            (command.upgrade if (now or UNNUMBERED) <= to else command.downgrade)(config, to or "base")
    except sqlalchemy.exc.DBAPIError as error:
        raise (error.orig or error) from error
