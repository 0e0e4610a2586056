"""What the website remembers: late answers up to a number, and the rest in a database that can be written, or not."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inflame.errors import StorageError, UserError
from inflame.monitor.entries import Entry
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


# --- links ------------------------------------------------------------------------------------------


def again(entry: Entry) -> Answer:
    """What a server makes of an entry of the log that another server wrote."""
    return replace(answer(0), id=entry.id, time=entry.time, label=entry.label)


@pytest.fixture
def two(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Store]]:
    """Two servers with homes of their own, behind one balancer."""
    stores = []
    for name in ("one", "other"):
        monkeypatch.setenv("INFLAME_HOME", str(tmp_path / name))
        stores.append(Store(place, again))
    yield stores[0], stores[1]
    for made in stores:
        made.close()


def test_servers_of_one_log_see_each_others_links(two: tuple[Store, Store]) -> None:
    one, other = two
    kept = one.keep(answer(1), "web")
    link, until = one.share(kept.id, b"\xff\xd8a picture\x00", 7)
    found = other.shared(link)
    assert found is not None
    assert (found[0].id, found[1], found[2]) == (kept.id, until, b"\xff\xd8a picture\x00")
    assert other.unshare(link)
    assert not other.unshare(link)
    assert one.shared(link) is None


def test_a_link_that_has_ended_is_gone_and_swept(two: tuple[Store, Store]) -> None:
    one, other = two
    kept = one.keep(answer(1), "web")
    ended, lasting = one.share(kept.id, b"x", -1)[0], one.share(kept.id, b"x", 1)[0]
    assert other.shared(ended) is None
    other.sweep()
    assert one.log.query("SELECT id FROM shares") == [(lasting,)]


def test_there_is_an_end_of_links(two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = two
    monkeypatch.setattr(store, "_SHARED", 2)
    kept = one.keep(answer(1), "web")
    one.share(kept.id, b"x", -1)  # has ended: takes no room
    one.share(kept.id, b"x", 1)
    other.share(kept.id, b"x", 1)
    with pytest.raises(StorageError, match="no room"):
        one.share(kept.id, b"x", 1)


def test_what_is_forgotten_is_shared_no_more(two: tuple[Store, Store]) -> None:
    one, other = two
    kept = one.keep(answer(1), "web")
    link, _ = one.share(kept.id, b"x", 1)
    assert one.log.forget(input=kept.sha256) == 1
    assert other.log.query("SELECT id FROM shares") == []
    assert other.shared(link) is None


def test_pictures_of_ended_links_leave_the_files(tmp_path: Path) -> None:
    made = Store(str(tmp_path / "log.db"), again)
    kept = made.keep(answer(1), "web")
    link, _ = made.share(kept.id, b"canary" * 5000, 1)
    made.share(kept.id, b"canary" * 5000, -1)
    made.unshare(link)
    made.sweep()
    assert b"canary" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    made.close()


def test_links_of_a_file_of_before_move_into_the_log_once(place: str, home: Path) -> None:
    made = Store(place, again)
    kept = made.keep(answer(1), "web")
    made.close()
    old = home / "web" / "shares.db"
    old.parent.mkdir(exist_ok=True)
    with sqlite3.connect(old) as table:
        table.execute("CREATE TABLE shares (id TEXT PRIMARY KEY, result TEXT, until REAL, picture BLOB) WITHOUT ROWID")
        ends = time.time() + 1000
        rows = [("lasting", kept.id, ends, b"\x89PNG"), ("ended", kept.id, 5.0, b"")]
        table.executemany("INSERT INTO shares VALUES (?, ?, ?, ?)", rows)
    table.close()
    for _ in range(2):
        made = Store(place, again)
        found = made.shared("lasting")
        assert found is not None
        assert (found[0].id, found[1:]) == (kept.id, (ends, b"\x89PNG"))
        assert made.shared("ended") is None
        assert not old.exists()
        made.close()


def test_links_of_before_wait_for_a_log_that_is_away(own_server: tuple[str, Callable[[], None]], home: Path) -> None:
    place, stop = own_server
    stop()
    old = home / "web" / "shares.db"
    old.parent.mkdir(exist_ok=True)
    with sqlite3.connect(old) as table:
        table.execute("CREATE TABLE shares (id TEXT PRIMARY KEY, result TEXT, until REAL, picture BLOB)")
    table.close()
    made = Store(place, again)
    assert old.exists()
    with pytest.raises(StorageError, match="refused"):
        made.shared("a")
    made.close()


def test_the_log_of_a_later_inflame_is_refused_at_the_start(tmp_path: Path) -> None:
    path = str(tmp_path / "log.db")
    Store(path, again).close()
    with sqlite3.connect(path) as table:
        table.execute("UPDATE log_version SET version_num = '0999'")
    table.close()
    with pytest.raises(UserError, match="later inflame"):
        Store(path, again)


# --- what is kept by consent ------------------------------------------------------------------------


def test_what_is_kept_by_consent_has_an_end(place: str) -> None:
    long, short = Store(place, again, days=30), Store(place, again, days=-1)
    kept = [made.keep(answer(number), "web", b"a picture") for number, made in enumerate((long, short))]
    long.settle()
    short.settle()
    ((until,),) = long.log.query("SELECT until FROM kept WHERE input = ?", [kept[0].sha256])
    assert until == pytest.approx(time.time() + 30 * 86_400, abs=300)
    long.sweep()
    assert [long.log.kept(one.sha256) for one in kept] == [b"a picture", None]
    assert long.log.find(kept[1].id) is not None  # the answer stays
    long.close()
    short.close()
