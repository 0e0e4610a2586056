"""The log of predictions, the same in SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from inflame.errors import RunError, UserError
from inflame.monitor import entries
from inflame.monitor.entries import Entry, Verdict
from inflame.monitor.log import Log
from inflame.store import home


def entry(number: int = 0, **more: object) -> Entry:
    values = {
        "model": "m1",
        "input": f"{number:064x}",
        "label": "owl",
        "probability": 0.75,
        "probabilities": np.array([0.75, 0.25]),
        "embedding": np.array([1.5, -2.0, 1e9]),
        "seen": np.array([0.5, 3.0]),
        "kind": "JPEG",
        "latency": 0.02,
        "source": "web",
    }
    return Entry(**{**values, **more})


@pytest.fixture
def log(place: str) -> Log:
    found = Log(place)
    found.register("m1", ["owl", "cat"], ["brightness", "contrast"], "birds")
    return found


def test_what_is_added_comes_back(log: Log) -> None:
    one = entry(1)
    log.add([one])
    found = log.find(one.id)
    assert found is not None
    assert (found.label, found.probability, found.known, found.kind, found.time) == (
        "owl",
        0.75,
        True,
        "JPEG",
        one.time,
    )
    np.testing.assert_allclose(found.probabilities, [0.75, 0.25])
    np.testing.assert_array_equal(found.embedding, np.array([1.5, -2, 65504], np.float16))
    np.testing.assert_array_equal(found.seen, [0.5, 3.0])
    assert log.find("none") is None
    assert log.models() == ["m1"]
    assert log.model("m1") == {"classes": ["owl", "cat"], "statistics": ["brightness", "contrast"], "name": "birds"}
    assert log.state().trouble == ""


def test_they_come_in_the_order_of_arrival_though_the_clock_goes_back(log: Log) -> None:
    log.add([entry(number, time=1000.0 - number) for number in range(10)])
    log.add([entry(99, model="m2", time=5.0)])
    assert [found.time for found in log.last(3, "m1")] == [993.0, 992.0, 991.0]
    assert [found.time for found in log.walk(model="m1")] == [1000.0 - number for number in range(10)]
    assert len(list(log.walk(since=995.0, until=998.0))) == 3
    assert len(list(log.walk())) == 11


def test_the_same_entry_twice_is_one(log: Log) -> None:
    one = entry(1)
    log.add([one])
    log.add([one, entry(2)])
    assert len(log.last(10)) == 2


def test_verdicts(log: Log) -> None:
    one, two = entry(1), entry(2)
    log.add([one, two])
    assert log.verdict(Verdict(answer=one.id, said="right", who="ann")).label == "owl"
    log.verdict(Verdict(answer=one.id, said="right", who="ann"))  # a double click
    log.verdict(Verdict(answer=one.id, said="label", label="cat", who="bob", asked=True))
    log.verdict(Verdict(answer=two.id, said="wrong", who="ann"))
    log.verdict(Verdict(answer=two.id, said="wrong", who="ann", taken_back=True))
    found = [(about.id, said.who, said.label, said.asked) for about, said in log.verdicts()]
    assert sorted(found) == sorted([(one.id, "ann", "owl", False), (one.id, "bob", "cat", True)])
    assert log.query("SELECT count(*) FROM verdicts")[0][0] == 4


def test_verdicts_that_make_no_sense(log: Log) -> None:
    one = entry(1)
    log.add([one])
    with pytest.raises(UserError, match="no such answer"):
        log.verdict(Verdict(answer="no", said="right"))
    with pytest.raises(UserError, match='Did you mean "cat"'):
        log.verdict(Verdict(answer=one.id, said="label", label="cap"))
    with pytest.raises(UserError, match="class is missing"):
        log.verdict(Verdict(answer=one.id, said="label"))
    with pytest.raises(UserError, match="Nobody can say"):
        log.verdict(Verdict(answer=one.id, said="maybe"))


@pytest.mark.parametrize("text", ["'; DROP TABLE predictions; --", "<script>alert(1)</script>", "ö\x00\n%s ? {}"])
def test_texts_are_texts(log: Log, text: str) -> None:
    one = entry(1, label=text, source=text)
    log.add([one])
    log.verdict(Verdict(answer=one.id, said="wrong", comment=text, who=text))
    [(about, said)] = log.verdicts()
    assert about.label.replace("\x00", "") == said.comment.replace("\x00", "") == text.replace("\x00", "")


def test_forgetting(log: Log) -> None:
    old, new = entry(1, time=10.0), entry(2, time=1000.0)
    log.add([old, new])
    log.keep(new.input, b"picture")
    log.verdict(Verdict(answer=new.id, said="right"))
    assert log.kept(new.input) == b"picture"
    assert log.forget(before=500.0) == 1
    assert [found.id for found in log.last(5)] == [new.id]
    assert log.forget(input=new.input) == 1
    assert log.kept(new.input) is None
    assert log.verdicts() == []
    with pytest.raises(UserError, match="what to forget"):
        log.forget()


def test_forgotten_bytes_leave_the_files(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log.db"))
    log.add([entry(1, source="canary-in-a-row")])
    log.keep(entry(1).input, b"canary-of-a-picture" * 500)
    log.forget(input=entry(1).input)
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"canary" not in content


def test_what_is_kept_has_an_end(log: Log) -> None:
    for name, days in (("short", -1), ("long", 2), ("renewed", -1)):
        log.keep(name, b"picture", days)
    log.keep("renewed", b"picture", 3)  # whoever agrees again agrees for longer
    log.keep("renewed", b"picture", -1)
    old = "INSERT INTO kept (input, content, time) VALUES (?, ?, ?)"  # as an older inflame does it, beside this one
    days = 86_400.0
    log.change([(old, [("old", b"", time.time() - 91 * days), ("new", b"", time.time() - 89 * days)])])
    assert log.expire() == 2
    assert log.held(["short", "long", "renewed", "old", "new"]) == {"long", "renewed", "new"}
    assert log.expire() == 0


def test_what_an_older_one_left_to_wait_is_taken(place: str, tmp_path: Path) -> None:
    waiting = (tmp_path if place.startswith("/") else home() / "monitor") / "waiting"
    waiting.mkdir(parents=True)
    row = ("kept", "i1", b"picture", time.time())  # without an end
    (waiting / "1-0.rows").write_text(f"{entries.dumps(row)}\n")
    log = Log(place)
    assert log.kept("i1") == b"picture"
    assert log.state().waiting == 0


def test_a_locked_database_delays_nobody_and_loses_nothing(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log.db"), patience=0.05)
    log.add([entry(0)])
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.perf_counter()
    for number in range(1, 20):
        log.add([entry(number)])
    assert time.perf_counter() - began < 1
    assert log.state().waiting == 19
    assert "locked" in log.state().trouble
    other.execute("ROLLBACK")
    time.sleep(1.05)
    log.add([entry(20)])
    assert log.state().to_json() == {"place": log.place, "waiting": 0, "trouble": ""}
    assert len(log.last(100)) == 21


def test_a_damaged_database_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"this is no database" * 500)
    log = Log(str(tmp_path / "log.db"))
    log.add([entry(1)])
    assert log.state().waiting == 1
    assert "not a database" in log.state().trouble
    with pytest.raises(RunError, match="can't be used"):
        log.last(1)
    (tmp_path / "log.db").unlink()
    time.sleep(1.05)
    assert log.settle() == 0
    assert len(log.last(5)) == 1


def test_a_server_that_goes_away_and_comes_back(server: str) -> None:
    import psycopg

    log = Log(server)
    log.add([entry(1)])
    count = len(log.last(1000))
    with psycopg.connect(server, autocommit=True) as connection:  # as a restart does it
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    log.add([entry(2)])
    time.sleep(1.05)
    log.add([entry(3)])
    assert len(log.last(1000)) == count + 2
    nowhere = Log("postgresql://inflame@127.0.0.1:9/none")
    nowhere.add([entry(4)])
    assert nowhere.state().waiting == 1


_WRITER = """
import sys, numpy as np
from inflame.monitor.entries import Entry
from inflame.monitor.log import Log
from inflame.store import home
log, who = Log(sys.argv[1]), sys.argv[2]
for number in range(100_000):
    one = Entry(model="m", input="", label="x", probability=1, id=f"{who}-{number}", embedding=np.zeros(64))
    log.add([one])
    print(one.id, flush=True)
"""


def test_nothing_acknowledged_is_lost_by_a_kill(place: str, tmp_path: Path) -> None:
    """Several writers at once, killed at a moment nobody chose."""
    log = Log(place)
    for turn in range(3):
        outputs = [tmp_path / f"{turn}-{who}" for who in range(3)]
        writers = []
        for output in outputs:
            with output.open("wb") as file:
                writers.append(subprocess.Popen([sys.executable, "-c", _WRITER, place, output.name], stdout=file))
        end = time.monotonic() + 30
        while any(output.stat().st_size < 300 for output in outputs) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.05 * turn)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
        said = {line for output in outputs for line in output.read_text().split("\n")[:-1]}
        log.settle()
        kept = {found.id for found in log.walk()}
        assert len(said) > 30
        assert said <= kept
    if place.startswith("/"):
        assert log.query("PRAGMA integrity_check") == [("ok",)]


def test_many_threads_share_one_log(place: str) -> None:
    log = Log(place)
    threads = [
        threading.Thread(target=lambda start=start: [log.add([entry(start + n)]) for n in range(50)])
        for start in range(0, 400, 50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.settle()
    assert len(log.last(1000)) == 400


def test_a_strange_place() -> None:
    with pytest.raises(UserError, match="no database"):
        Log("mysql://user:secret@host/db")
