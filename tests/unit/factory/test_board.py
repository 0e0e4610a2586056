from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inflame import store
from inflame.cli.main import main
from inflame.errors import UserError
from inflame.factory import board as ranking
from inflame.factory.answers import Answers
from inflame.factory.board import Board
from inflame.factory.judge import Side

Made = Callable[..., Path]
Spoil = Callable[[Sequence[int], Sequence[int]], list[int]]


def board(by: str = "test.accuracy", **how: Any) -> Board:
    return ranking.board(ranking.select(by=by), by=by, **how)


def ranks(found: Board, table: int = 0) -> dict[str, int | None]:
    return {entry.name: entry.rank for entry in found.tables[table].entries}


def test_who_cannot_be_told_apart_shares_a_rank(made: Made, truth: list[int], spoilt: Spoil) -> None:
    for name, wrong in {"best": 10, "near": 13, "poor": 60, "poorer": 64}.items():
        made(name, truth, spoilt(truth, range(wrong)), settings={"hyperparam": {"rate": wrong}})
    found = board()
    assert ranks(found) == {"best": 1, "near": 1, "poor": 3, "poorer": 3}
    (table,) = found.tables
    assert (table.tried, table.n, table.tested) == (4, 300, 4)
    assert "more items would tell" in table.advice
    assert table.entries[1].settings == {"hyperparam.rate": 13}, "what differs, and nothing else"


def test_seeds_of_a_recipe_are_one_entry_and_count(made: Made, truth: list[int], spoilt: Spoil) -> None:
    for seed, wrong in enumerate((20, 24, 28)):
        made(f"a-{seed}", truth, spoilt(truth, range(wrong)), settings={"seed": seed})
    made("b", truth, spoilt(truth, range(90)), settings={"hyperparam": {"rate": 1}})
    (table,) = board().tables
    first = table.entries[0]
    assert first.runs == ("a-0", "a-1", "a-2")
    assert first.value == pytest.approx(1 - 24 / 300)
    assert first.cost["cpu_s"] == 30.0
    assert first.low is not None
    assert first.high is not None
    assert first.low < 1 - 28 / 300
    assert (table.tried, len(table.entries), [entry.rank for entry in table.entries]) == (4, 2, [1, 2])
    assert len(board(each=True).tables[0].entries) == 4


def test_only_runs_on_the_same_items_are_ranked_together(made: Made, truth: list[int], spoilt: Spoil) -> None:
    made("a", truth, truth, settings={"hyperparam": {"rate": 1}})
    made("b", truth, spoilt(truth, range(99)), settings={"hyperparam": {"rate": 2}})
    made("c", truth[::-1], truth[::-1], items="others")
    found = board()
    assert [[entry.name for entry in table.entries] for table in found.tables] == [["a", "b"], ["c"]]
    assert ranks(found, 1) == {"c": 1}


def test_equal_hashes_of_unequal_items_are_noticed(made: Made, truth: list[int]) -> None:
    made("a", truth, truth, settings={"hyperparam": {"rate": 1}})
    made("b", truth[:200], truth[:200], settings={"hyperparam": {"rate": 2}})
    (table,) = board().tables
    assert "b is not ranked: a and b were not judged on the same items" in table.note


def test_runs_that_said_less_are_told_apart_by_the_version_of_their_data(made: Made, truth: list[int]) -> None:
    made("a", truth, truth, data={"version": "1"}, recipe=None)
    made("b", truth, truth, data={"version": "1"}, recipe=None)
    made("c", truth, truth, data={}, recipe=None)
    assert [len(table.entries) for table in board().tables] == [2, 1]


def test_the_best_of_many_is_said_with_their_number_and_what_to_expect(made: Made) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 150)
    for place in range(12):  # all equally good: what sets them apart is luck
        said = np.where(rng.random(150) < 0.8, labels, (labels + 1) % 3)
        made(f"r-{place}", labels.tolist(), said.tolist(), settings={"hyperparam": {"rate": place}})
    made("failed", labels.tolist(), labels.tolist(), test=None, state="failed")
    (table,) = board().tables
    assert (table.tried, table.unscored) == (13, 1)
    assert set(ranks(board()).values()) == {1}
    assert table.expected is not None
    assert table.entries[0].value - 0.04 > table.expected
    assert abs(table.expected - 0.8) < abs(table.entries[0].value - 0.8)
    assert board(tried=37).tables[0].tried == 37


def test_equal_runs_are_hardly_ever_told_apart() -> None:
    """Twelve models that are right as often as each other, on 300 items: in 1 board of 20 at most one is set apart."""
    rng, labels = np.random.default_rng(0), np.zeros(300, np.int64)
    uris = pa.array([f"{number:03}" for number in range(300)])
    apart = 0
    for _ in range(200):
        wrong = rng.random((12, 300)) > 0.88
        runs = sorted((Answers(uris, labels, row.astype(np.int64), np.zeros(300)) for row in wrong), key=_errors)
        sides = {place: Side(name=str(place), blocks={"": [run]}) for place, run in enumerate(runs)}
        apart += set(ranking.ranked(sides, "accuracy")[0].values()) != {1}
    assert apart / 200 < 0.09  # 0.05, and what 200 boards leave open


def _errors(run: Answers) -> int:
    return int(run.predicted.sum())


@pytest.mark.parametrize("by", ["test.log_loss", "val.accuracy"])
def test_by_other_scores(made: Made, truth: list[int], spoilt: Spoil, by: str) -> None:
    made("a", truth, spoilt(truth, range(90)), settings={"hyperparam": {"rate": 1}})
    made("b", truth, truth, settings={"hyperparam": {"rate": 2}})
    (table,) = board(by).tables
    assert [entry.name for entry in table.entries] == ["b", "a"]
    assert [entry.rank for entry in table.entries] == [1, 2]
    assert all(entry.low is not None for entry in table.entries)
    assert (table.expected is None) == by.startswith("val")


def test_a_score_that_no_run_reports() -> None:
    with pytest.raises(UserError, match="Did you mean") as error:
        ranking.measured("test.acuracy")
    assert "val.macro_f1" in error.value.remedy


def test_the_best_are_tested_and_the_rest_said_not_to_be(made: Made, truth: list[int], spoilt: Spoil) -> None:
    for wrong in range(6):
        made(f"r{wrong}", truth, spoilt(truth, range(wrong)), settings={"hyperparam": {"rate": wrong}})
    found = board(top=3)
    assert ranks(found) == {"r0": 1, "r1": 1, "r2": 1, "r3": None, "r4": None, "r5": None}
    assert found.tables[0].tested == 3


# --- the verb --------------------------------------------------------------------------------------


@pytest.fixture
def three(made: Made, truth: list[int], spoilt: Spoil) -> None:
    for name, wrong in {"good-001": 10, "good-002": 14, "bad-001": 90}.items():
        made(name, truth, spoilt(truth, range(wrong)), settings={"hyperparam": {"rate": wrong}})


@pytest.mark.usefixtures("three")
def test_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board"]) == 0
    said = capsys.readouterr().out
    assert "zoo: 300 test items, 3 runs tried" in said
    lines = [line.split() for line in said.splitlines()]
    assert [line[:2] for line in lines if line and line[0].isdigit()] == [
        ["1", "good-001"],
        ["1", "good-002"],
        ["3", "bad-001"],
    ]
    assert "of 3, chosen on these items" in said
    assert "2 share rank 1; of the first two: about" in said
    assert "30 CPU-s" in said
    assert "assumed (2026-" in said


@pytest.mark.usefixtures("three")
def test_as_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, rows, flat = (tmp_path / name for name in ("b.html", "b.csv", "b.parquet"))
    assert main(["board", "--html", str(page), "--csv", str(rows), "--parquet", str(flat), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in told["tables"][0]["entries"]] == ["good-001", "good-002", "bad-001"]
    assert told["assumed"]["core_hour"] > 0
    text = page.read_text()
    assert text.count("<tr") == 4
    assert "good-<wbr>002" in text
    assert "http" not in text.replace("http-equiv", "")
    with rows.open() as file:
        assert [row["rank"] for row in csv.DictReader(file)] == ["1", "1", "3"]
    table = pq.read_table(flat)
    assert table["cpu_s"].to_pylist() == [10.0] * 3
    assert json.loads(table["settings"][0].as_py()) == {"hyperparam.rate": 10}


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["good-*"], {"good-001", "good-002"}),
        (["good-001", "bad-001"], {"good-001", "bad-001"}),
        (["accuracy > 0.9"], {"good-001", "good-002"}),
        (["settings->>'$.hyperparam.rate' = 90"], {"bad-001"}),
        (["--data", "zoo"], {"good-001", "good-002", "bad-001"}),
        (["accuracy > 0.96", "good-*"], {"good-001"}),
    ],
)
def test_which_runs(words: list[str], names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--json", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {entry["name"] for table in told["tables"] for entry in table["entries"]} == names


@pytest.mark.usefixtures("three")
def test_folders_of_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", str(store.home() / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"][0]["tried"] == 3


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["god-001"], 'Did you mean "good-001"?'),
        (["--by", "test.acuracy"], 'Did you mean "test.accuracy"?'),
        (["--data", "zo"], 'Did you mean "zoo"?'),
        (["acuracy > 0.3"], "no such column: acuracy"),
        (["--top", "1"], "--top takes a number"),
        (["--sweep", "nowhere"], 'There is no sweep "nowhere"'),
    ],
)
def test_wrong_words(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", *words]) == 2
    assert told in capsys.readouterr().err


def test_no_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board"]) == 0
    assert "no runs yet" in capsys.readouterr().out


@pytest.mark.usefixtures("three")
def test_prices_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    own = store.home() / "costs.toml"
    own.write_text('core_hour = 3600\ncurrency = "CHF"\ndate = "2027-01"\n')
    assert main(["board", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"]["money"] == pytest.approx(30.0)
    assert main(["board"]) == 0
    assert "assumed (2027-01): 3600 CHF" in capsys.readouterr().out
    for text, told in {
        "core_our = 1": 'Did you mean "core_hour"?',
        'core_hour = "much"': "is not a number",
        "gpu_watts = -1": "is not a number of at least 0",
        "currency = 3": "is not text",
        "core_hour": "is not TOML",
    }.items():
        own.write_text(text)
        assert main(["board"]) == 2
        assert told in capsys.readouterr().err
