"""What the website remembers: late answers up to a number, and the rest in a database that can be written, or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from inflame.web import store
from inflame.web.answers import Answer
from inflame.web.store import Store

CLASSES = 10


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Store]:
    found = Store(str(tmp_path / "log.db"), lambda entry: None)
    yield found
    found.close()


def answer(number: int) -> Answer:
    shares = tuple([0.91] + [0.01] * (CLASSES - 1))
    return Answer(
        label="a",
        probability=0.91,
        top=tuple((chr(97 + place), share) for place, share in enumerate(shares)),
        set=("a",),
        known=True,
        unlike=False,
        level="likely",
        distance=0.1,
        limit=0.2,
        sha256=f"{number:064x}",
        model="letters",
        version="0123456789ab",
        embedding=np.zeros(4, np.float16).tobytes(),
        shares=shares,
        seen=np.arange(12, dtype=np.float32).tobytes(),
        kind="PNG",
    )


@pytest.mark.parametrize(("limit", "value", "left"), [("_LATELY", 7, 7), ("_CLASSES", 55, 5)])
def test_the_oldest_are_forgotten(
    made: Store, limit: str, value: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, limit, value)
    kept = [made.keep(answer(number), "api") for number in range(20)]
    made.settle()
    found = [made.find(one.id) for one in kept]
    assert found == [None] * (20 - left) + kept[-left:]  # None: the log has it, and its model has gone


def test_the_log_has_what_it_was_told(made: Store) -> None:
    kept = made.keep(answer(1), "api", b"the thing itself")
    made.settle()
    entry = made.log.find(kept.id)
    assert entry is not None
    assert (entry.kind, entry.seen.tolist()) == ("PNG", list(range(12)))
    assert made.log.kept(entry.input) == b"the thing itself"
    assert (kept.embedding, kept.seen, kept.shares) == (b"", b"", ())  # not needed any more


# --- whether it can be written ----------------------------------------------------------------------


def test_a_database_that_can_be_written_is_written(made: Store) -> None:
    assert made.probe() == ""
    first = made.log.noted("written")
    assert made.probe() == ""
    assert made.log.noted("written") > first


def test_a_folder_in_the_place_of_the_file(made: Store, tmp_path: Path) -> None:
    assert made.probe() == ""
    (tmp_path / "log.db").rename(tmp_path / "away")
    (tmp_path / "log.db").mkdir()
    assert made.probe() == f"{tmp_path / 'log.db'} can't be written: unable to open database file"
    (tmp_path / "log.db").rmdir()
    (tmp_path / "away").rename(tmp_path / "log.db")
    assert made.probe() == ""


def test_a_file_that_can_only_be_read(tmp_path: Path) -> None:
    """By its own header, which holds for root as well: written by a later format than SQLite knows."""
    path = tmp_path / "log.db"
    Store(str(path), lambda entry: None).close()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.close()
    with path.open("r+b") as file:
        file.seek(18)
        file.write(b"\x03")
    made = Store(str(path), lambda entry: None)
    assert "attempt to write a readonly database" in made.probe()
    made.close()


def test_a_user_without_rights(url: str) -> None:
    import psycopg

    owner = Store(url, lambda entry: None)
    assert owner.probe() == ""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    reader = Store(url.replace("inflame@", "reader@"), lambda entry: None)
    assert "permission denied" in reader.probe()
    assert reader.log.state().waiting == 0  # not by way of the spool
    reader.close()
    owner.close()


def test_a_server_that_is_stopped(own_server: tuple[str, Callable[[], None]]) -> None:
    place, stop = own_server
    made = Store(place, lambda entry: None)
    assert made.probe() == ""
    stop()
    assert "refused" in made.probe()
    made.close()
