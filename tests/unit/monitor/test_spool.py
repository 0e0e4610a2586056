"""Rows that wait on disk: of this process, of one that was killed, of one that is alive, and on a disk that is full."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from inflame.errors import StorageError
from inflame.monitor.spool import MOST, Spool

ROWS = [(1, "a", b"\x00\xff"), (2, "ü", b"")]


def emptied(spool: Spool) -> list[tuple[str, list[Any]]]:
    found: list[tuple[str, list[Any]]] = []
    assert spool.drain(lambda table, rows: found.append((table, rows))) == sum(len(rows) for _, rows in found)
    return found


def test_rows_come_back_table_by_table_and_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert spool.waiting() == 0
    spool.put("predictions", ROWS)
    spool.put("verdicts", ROWS[:1])
    spool.put("predictions", ROWS[:1])
    assert spool.waiting() == 4
    assert emptied(spool) == [("predictions", [*ROWS, ROWS[0]]), ("verdicts", ROWS[:1])]
    assert emptied(spool) == []
    spool.put("verdicts", ROWS[1:])  # in a file of its own again
    assert emptied(spool) == [("verdicts", ROWS[1:])]
    assert not list((tmp_path / "spool").iterdir())


def test_many_rows_go_in_parts(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put("predictions", [(number,) for number in range(MOST + 3)])
    assert [len(rows) for _, rows in emptied(spool)] == [MOST, 3]


def test_a_living_process_keeps_its_rows_and_those_of_a_killed_one_are_taken_over(tmp_path: Path) -> None:
    other, mine = Spool(tmp_path), Spool(tmp_path)
    other.put("verdicts", ROWS)
    assert mine.waiting() == 2
    assert emptied(mine) == []  # the other holds its lock
    (left,) = tmp_path.iterdir()
    dead = tmp_path / "1-dead.rows"
    dead.write_bytes(left.read_bytes() + b'["verdicts", 3, "cut sho')  # a disk was full, and the process was killed
    assert emptied(mine) == [("verdicts", ROWS)]
    assert not dead.exists()
    assert emptied(other) == [("verdicts", ROWS)]


def test_what_the_database_does_not_take_waits_on(tmp_path: Path) -> None:
    (tmp_path / "1-dead.rows").write_text('["verdicts", 1]\n')

    def refuse(table: str, rows: Any) -> None:
        raise ConnectionError("away")

    for spool in (Spool(tmp_path), Spool(tmp_path)):  # the file is let go of, too
        with pytest.raises(ConnectionError):
            spool.drain(refuse)
    assert emptied(Spool(tmp_path)) == [("verdicts", [(1,)])]


def test_half_a_row_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, write = Spool(tmp_path), os.write
    spool.put("verdicts", ROWS[:1])

    def full(descriptor: int, content: bytes) -> int:
        if len(content) > 10:
            return write(descriptor, content[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError, match="full"):
            spool.put("verdicts", [(4, "x" * 30)])
    spool.put("verdicts", ROWS[1:])
    assert emptied(spool) == [("verdicts", ROWS)]
