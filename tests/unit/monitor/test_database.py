"""The tables of a log and their version, the same in SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflame.errors import UserError
from inflame.monitor import schema
from inflame.monitor.database import Unavailable, connect
from inflame.monitor.entries import Entry, Verdict
from inflame.monitor.log import Log

ROWS = 300
_ANSWER = """INSERT INTO predictions
    (id, time, model, input, label, probability, known, probabilities, embedding, seen, kind, latency, source)
    VALUES ('{0}', {0}, 'm', 'i{0}', 'owl', 0.5, 1, {1}, {1}, {1}, 'PNG', 0.1, 'web')"""


def dialect(place: str) -> str:
    return "postgresql" if "://" in place else "sqlite"


def direct(place: str, statements: Iterable[str]) -> list[Any]:
    """What the last statement finds, without any of inflame's code."""
    if dialect(place) == "sqlite":
        with closing(sqlite3.connect(place)) as connection, connection:
            return [connection.execute(statement).fetchall() for statement in statements][-1]
    import psycopg

    with psycopg.connect(place) as connection:
        cursors = [connection.execute(statement) for statement in statements]
        return cursors[-1].fetchall() if cursors[-1].description else []


def tables(place: str) -> list[Any]:
    """All columns of all tables, and the indexes."""
    if dialect(place) == "sqlite":
        columns = "SELECT m.name, c.name, c.type, c.pk FROM sqlite_master m, pragma_table_info(m.name) c"
        indexes = "SELECT name, tbl_name, '', 0 FROM sqlite_master WHERE type = 'index'"
    else:
        columns = (
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns "
            "WHERE table_schema = 'public'"
        )
        indexes = "SELECT indexname, tablename, '', '' FROM pg_indexes WHERE schemaname = 'public'"
    return sorted(direct(place, [columns])) + sorted(direct(place, [indexes]))


@pytest.fixture
def old(place: str) -> str:
    """A log of the time before its tables had a version, with rows in it."""
    empty = "x''" if dialect(place) == "sqlite" else "''"
    direct(
        place,
        [
            *schema.lines("0001", "up", dialect(place)),
            *(_ANSWER.format(number, empty) for number in range(ROWS)),
            f"INSERT INTO kept (input, content, time) VALUES ('i1', {empty}, 1.0)",
        ],
    )
    return place


def script(code: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)


def test_a_new_log_has_the_newest_version(place: str) -> None:
    assert connect(place, 0.25).version() == schema.NOTHING
    log = Log(place)
    assert log.models() == []
    assert log.version() == schema.newest() == schema.revisions()[-1]
    assert direct(place, [schema.ASK]) == [(schema.newest(),)]


def test_an_old_log_keeps_all_its_rows(old: str) -> None:
    log = Log(old)
    assert log.version() == schema.UNNUMBERED
    assert sorted(entry.id for entry in log.walk()) == sorted(str(number) for number in range(ROWS))
    assert log.version() == schema.newest()
    assert log.kept("i1") == b""
    ((until,),) = direct(old, ["SELECT until FROM kept"])
    assert until == pytest.approx(time.time() + 90 * 86_400, abs=300)
    log.verdict(Verdict(answer="1", said="right"))
    assert len(log.verdicts()) == 1


def test_old_and_new_logs_have_the_same_tables(old: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    new = str(tmp_path / "new.db")
    if dialect(old) == "postgresql":
        new = request.getfixturevalue("another_url")
    Log(new).models()
    Log(old).models()
    assert tables(old) == tables(new)


@pytest.mark.parametrize("to", schema.revisions())
def test_up_and_down_keep_what_both_know(old: str, to: str) -> None:
    fresh = tables(old)
    log = Log(old)
    for goal in (schema.newest(), to, schema.newest(), to):
        log.migrate(goal)
        assert log.version() == goal
        assert direct(old, ["SELECT count(*), sum(time) FROM predictions"]) == [(ROWS, sum(range(ROWS)))]
        assert direct(old, ["SELECT count(*) FROM kept"]) == [(1,)]
    if to == "0001":
        assert [row for row in tables(old) if schema.TABLE not in str(row)] == fresh
    assert len(log.last(1000)) == ROWS  # whoever opens it brings it up again
    assert log.version() == schema.newest()


def test_down_to_nothing_and_up(place: str) -> None:
    log = Log(place)
    log.models()
    made = tables(place)
    log.migrate(schema.NOTHING)
    assert log.version() == schema.NOTHING
    assert log.models() == []
    assert tables(place) == made


def test_the_log_of_a_later_inflame_is_refused(place: str) -> None:
    Log(place).models()
    direct(place, [f"UPDATE {schema.TABLE} SET version_num = '0999'"])
    log = Log(place)
    with pytest.raises(UserError, match="made by a later inflame: its tables have version 0999") as error:
        log.models()
    assert error.value.where == log.place
    assert "pip install --upgrade inflame" in error.value.remedy
    numbers = {"probabilities": np.zeros(1), "embedding": np.zeros(1), "seen": np.zeros(1)}
    log.add(
        [Entry(model="m", input="i", label="owl", probability=1.0, kind="PNG", latency=0.1, source="web", **numbers)]
    )
    for refused in (log.version, lambda: log.migrate("0001")):
        with pytest.raises(UserError, match="later inflame"):
            refused()
    assert log.state().waiting == 1  # what was answered meanwhile waits for the later one
    assert "0999" in log.unwritable()
    direct(place, [f"UPDATE {schema.TABLE} SET version_num = '{schema.newest()}'"])
    time.sleep(1.05)
    assert len(log.last(5)) == 1


_OPENS = """
import sys
from inflame.monitor.log import Log
log = Log(sys.argv[1], patience=30.0)
sys.stdin.readline()
print(len(log.last(1000)), log.version(), log.unwritable())
"""


@pytest.mark.parametrize("rows", [0, ROWS])
def test_many_processes_start_at_once(place: str, rows: int, request: pytest.FixtureRequest) -> None:
    if rows:
        request.getfixturevalue("old")
    started = [
        subprocess.Popen([sys.executable, "-c", _OPENS, place], stdin=-1, stdout=-1, text=True) for _ in range(4)
    ]
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in started]
    assert said == [f"{rows} {schema.newest()} \n"] * 4


_STOPS = """
import sys, time
from inflame.monitor import schema
from inflame.monitor.log import Log
execute = schema.execute
def slowly(lines):
    execute(lines)
    if "shares" in str(lines):
        print("half of it", flush=True)
        time.sleep(100)
schema.execute = slowly
Log(sys.argv[1]).models()
"""


def test_a_kill_in_the_middle_leaves_all_as_it_was(old: str) -> None:
    before = tables(old)
    process = script(_STOPS, old)
    assert process.stdout
    assert process.stdout.readline() == "half of it\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert tables(old) == before
    log = Log(old)
    assert log.version() == schema.UNNUMBERED
    assert len(log.last(1000)) == ROWS
    assert log.version() == schema.newest()


_IMPORTS = """
import sys
{before}
from inflame.errors import MissingExtra
from inflame.monitor.log import Log
try:
    print(len(Log(sys.argv[1]).last(1000)), [name for name in ("alembic", "sqlalchemy") if sys.modules.get(name)])
except MissingExtra as error:
    print(error.message, error.remedy)
"""
_WITHOUT = "sys.modules['alembic'] = None"


@pytest.mark.parametrize("before", ["", _WITHOUT])
def test_alembic_is_imported_only_where_tables_change(old: str, tmp_path: Path, before: str) -> None:
    code = _IMPORTS.format(before=before)
    new = str(tmp_path / "new.db")
    assert script(code, new).communicate()[0] == "0 []\n"
    assert script(code, new).communicate()[0] == "0 []\n"
    changed = script(code, old).communicate()[0]
    if before:
        extra = {"sqlite": "web", "postgresql": "postgres"}[dialect(old)]
        assert changed.endswith(f"Alembic, which changes its tables, isn't installed. pip install 'inflame[{extra}]'\n")
        assert connect(old, 0.25).version() == schema.UNNUMBERED
    else:
        assert changed == f"{ROWS} ['alembic', 'sqlalchemy']\n"
        assert script(code, old).communicate()[0] == f"{ROWS} []\n"


def test_who_may_only_write_rows_can_work(url: str) -> None:
    Log(url).models()
    direct(
        url,
        [
            "DROP ROLE IF EXISTS clerk",
            "CREATE ROLE clerk LOGIN",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk",
        ],
    )
    log = Log(url.replace("inflame@", "clerk@"))
    assert log.unwritable() == ""
    with pytest.raises(Unavailable, match="must be owner"):
        connect(url.replace("inflame@", "clerk@"), 0.25).migrate("0001")
    assert log.version() == schema.newest()


def test_steps() -> None:
    assert schema.steps(schema.UNNUMBERED, "0002") == [("0001", "up"), ("0002", "up")]
    assert schema.steps("0003", "0001") == [("0003", "down"), ("0002", "down")]
    assert schema.steps("0002", "0002") == []
