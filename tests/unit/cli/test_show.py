"""Tables are aligned, fit the terminal, and lose nothing in a pipe."""

from __future__ import annotations

import json
import sys

import pytest

from inflame.cli import show
from inflame.cli.show import as_json, bold, table


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_numbers_stand_right_and_texts_left() -> None:
    assert table(("class", "train"), [("a", 5), ("long", 12345)]) == "class  train\na          5\nlong   12345"


def test_without_rows_there_is_a_head() -> None:
    assert table(("a", "b"), []) == "a  b"


def test_a_line_break_in_a_name_breaks_no_row() -> None:
    assert table(("file",), [("a\nb",)]).splitlines() == ["file", "a b"]


def test_a_pipe_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "x" * 500 in table(("file",), [("x" * 500,)])


@pytest.mark.parametrize("columns", [20, 40, 79])
def test_a_narrow_terminal_keeps_both_ends(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path = "photos/" + "y" * 100 + "/last.jpg"
    lines = table(("file", "label"), [(path, "cat")]).splitlines()
    assert all(len(line) <= columns for line in lines)
    assert lines[1].startswith("pho")
    assert ".jpg" in lines[1]
    assert "…" in lines[1]
    assert lines[1].endswith("cat")


def test_sentences_go_on_in_the_next_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        ("ok", "job", "it runs"),
        ("not ok", "checkpoint", "it ended without a checkpoint: resumed, it begins anew"),
    ]
    monkeypatch.setenv("COLUMNS", "50")
    lines = show.findings(found).splitlines()
    assert lines[:3] == [
        "        what        found",
        "ok      job         it runs",
        "not ok  checkpoint  it ended without a checkpoint:",
    ]
    assert lines[3] == " " * 20 + "resumed, it begins anew"
    monkeypatch.delenv("COLUMNS")
    assert show.findings(found).splitlines()[-1].endswith("checkpoint: resumed, it begins anew")


def test_wide_letters_take_two_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    lines = table(("file", "n"), [("猫" * 40, "1"), ("e\u0301", "2")]).splitlines()
    assert lines[1].count("猫") == 13
    assert lines[2] == "e\u0301" + " " * 26 + "  2"


@pytest.mark.usefixtures("terminal")
def test_colour_only_where_it_is_seen_and_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bold("a") == "\x1b[1ma\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert bold("a") == "a"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert bold("a") == "a"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert bold("a") == "a"


def test_json_keeps_letters_and_survives_bytes_that_are_none() -> None:
    assert as_json({"a": "größe"}) == '{"a": "größe"}'
    assert as_json({"a": "x\udcff"}).encode() == b'{"a": "x\\udcff"}'
    assert json.loads(as_json(["x\udcff"])) == ["x\udcff"]
