"""The history of what was measured: a line a number, and a table of now and before."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def history() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "history.py"))


def row(value: float, *, machine: str = "2 x EPYC", name: str = "predict", **more: Any) -> dict[str, Any]:
    about = {"date": "2026-11-01", "commit": "abc1234", "machine": machine, "load": 0.5, "name": name}
    return {**about, "value": value, "unit": "s", "ratio": None, **more}


def test_a_number_becomes_a_line(history: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    history["note"]("predict", 0.312345678, "s", file=file)
    history["note"]("race", 17.6, "s", ratio=7.87, file=file)
    first, second = history["read"](file)
    assert (first["name"], first["value"], first["unit"], first["ratio"]) == ("predict", 0.31235, "s", None)
    assert (second["value"], second["ratio"]) == (17.6, 7.87)
    assert {"date", "commit", "machine", "load"} <= first.keys()
    assert len(file.read_text().splitlines()) == 2


def test_the_table_has_now_before_and_the_change(history: dict[str, Any]) -> None:
    rows = [row(0.5), row(0.4), row(0.3, date="2026-11-02", commit="def5678", ratio=2.5), row(9.0, machine="8 x M2")]
    told = history["table"](rows)
    ours, theirs = told.split("\n\n8 x M2\n") if "\n\n8 x M2\n" in told else told.split("\n8 x M2\n")
    assert "| predict | 0.3 s | 0.4 | -25.0% | █▅▁ | 2.5 | 2026-11-02 def5678 | 0.5 |" in ours
    assert "| predict | 9 s |  |  | ▁ |" in theirs, "another machine's numbers are nothing to compare with"


def test_without_measurements_there_is_no_table(history: dict[str, Any], tmp_path: Path) -> None:
    assert history["table"](history["read"](tmp_path / "none.jsonl")) == "Nothing has been measured yet."


def test_bars_go_from_the_smallest_to_the_largest(history: dict[str, Any]) -> None:
    assert history["sparkline"]([1, 1, 1]) == "▁▁▁"
    assert history["sparkline"]([0, 7, 3.5]) in ("▁█▅", "▁█▄")


def test_what_is_kept_can_be_shown(history: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in (ROOT / "benchmarks" / "history.jsonl").read_text().splitlines()]
    assert all(rows[0].keys() == one.keys() for one in rows)
    assert history["table"](rows).startswith(min(one["machine"] for one in rows))
    assert [one["date"] for one in rows] == sorted(one["date"] for one in rows)


def test_each_benchmark_of_make_bench_keeps_its_numbers() -> None:
    together = (ROOT / "benchmarks" / "__main__.py").read_text()
    names = together.partition("for name in (")[2].partition(")")[0].replace('"', "").split(", ")
    assert len(names) >= 7
    for name in set(names) - {"history"}:
        assert "note(" in (ROOT / "benchmarks" / f"{name}.py").read_text(), name
