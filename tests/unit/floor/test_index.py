from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from inflame import runs, store
from inflame.errors import UserError
from inflame.runs import index


def make(name: str, folder: Path | None = None, *, config: Any = None, **status: Any) -> Path:
    path = (folder or index.folder_of_runs()) / name
    path.mkdir(parents=True)
    (path / "status.json").write_text(json.dumps({"state": "done", "updated": 1.0, **status}))
    (path / "config.json").write_text(json.dumps(config or {"seed": 1}))
    return path


def names(where: str = "") -> list[str]:
    return [Path(folder).name for folder, _ in runs.known(where)]


@pytest.fixture
def file(home: Path) -> Path:
    return store.home() / "cache" / "runs.sqlite"


def test_the_newest_first_and_what_its_status_says() -> None:
    make("a-001", updated=5.0, model="a")
    make("b-001", updated=7.0)
    assert names() == ["b-001", "a-001"]
    assert json.loads(runs.known()[1][1])["model"] == "a"


def test_what_changes_is_read_again_and_what_goes_is_forgotten() -> None:
    path, other = make("a-001", updated=5.0), make("b-001", updated=7.0)
    assert names() == ["b-001", "a-001"]
    store.write(path / "status.json", json.dumps({"state": "failed", "updated": 9.0}))
    assert names() == ["a-001", "b-001"]
    assert names("state = 'failed'") == ["a-001"]
    other.rename(other.parent.parent / "elsewhere")
    assert names() == ["a-001"]


def test_what_has_not_changed_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    make("a-001")
    assert names() == ["a-001"]
    monkeypatch.setattr(index, "_read", lambda path: pytest.fail(f"read {path}"))
    assert names() == ["a-001"]


@pytest.mark.parametrize("content", [b"no database at all, but long enough to look at" * 40, b"", None])
def test_a_damaged_or_missing_index_is_made_again(file: Path, content: bytes | None) -> None:
    make("a-001")
    assert names() == ["a-001"]
    for other in file.parent.glob("runs.sqlite-*"):
        other.unlink()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert names() == ["a-001"]
    assert file.read_bytes()[:6] == b"SQLite"


def test_pages_that_were_overwritten(file: Path) -> None:
    for number in range(60):
        make(f"a-{number:03}", updated=float(number))
    assert len(names()) == 60
    with sqlite3.connect(file) as table:
        table.execute("PRAGMA journal_mode=DELETE")
    table.close()
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    assert len(names()) == 60
    assert len(names("updated > 29")) == 30


def test_an_index_of_another_version(file: Path) -> None:
    with sqlite3.connect(file) as table:
        table.executescript("CREATE TABLE runs (x); PRAGMA user_version=77")
    table.close()
    make("a-001")
    assert names() == ["a-001"]


def test_a_format_read_before_another_process_wrote_it_drops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    make("a-001")
    assert names() == ["a-001"]
    answers = [0]  # what was read a moment too early
    real = index._format
    monkeypatch.setattr(index, "_format", lambda table: answers.pop() if answers else real(table))
    monkeypatch.setattr(index, "_read", lambda path: pytest.fail(f"read {path}"))
    assert names() == ["a-001"]


def test_an_index_that_can_not_be_opened(file: Path) -> None:
    file.mkdir()
    make("a-001")
    assert names() == ["a-001"]


def test_an_index_that_is_locked(file: Path) -> None:
    make("a-001")
    assert names() == ["a-001"]
    table = sqlite3.connect(file, isolation_level=None)
    table.execute("BEGIN IMMEDIATE")
    make("b-001", updated=9.0)
    assert names() == ["b-001", "a-001"]
    table.close()


def test_a_run_elsewhere_counts_once(tmp_path: Path) -> None:
    path = make("far", tmp_path, updated=3.0)
    for link in ("near-001", "near-002"):
        (index.folder_of_runs() / link).symlink_to(path, target_is_directory=True)
    assert [folder for folder, _ in runs.known()] == [str(path.resolve())]
    assert runs.list_runs()[0].path == path.resolve()


def test_conditions() -> None:
    make("a-001", test={"accuracy": 0.8, "low": 0.7}, model="mnist", config={"hyperparam": {"batch_size": 64}})
    make("b-001", test={"accuracy": 0.95}, config={"hyperparam": {"batch_size": 32}})
    make("c-001", test=None, state="running")
    assert names("accuracy > 0.7 AND model = 'mnist'") == ["a-001"]
    assert names("settings->>'$.hyperparam.batch_size' < 64") == ["b-001"]
    assert names("accuracy IS NULL") == ["c-001"]
    assert names("1 = 2") == []


@pytest.mark.parametrize(
    "where",
    ["acuracy > 1", "1); DELETE FROM runs; --", "(", "name IN (SELECT sql FROM sqlite_master", "load_extension('x')"],
)
def test_conditions_that_are_none(where: str) -> None:
    make("a-001")
    with pytest.raises(UserError, match="can't be searched") as caught:
        runs.known(where)
    assert "accuracy" in caught.value.remedy
    assert names() == ["a-001"]


def test_odd_statuses() -> None:
    make("a-001", updated="yesterday", test=["?"], model={"deep": 1})
    (make("b-001") / "status.json").write_text("{torn")
    (index.folder_of_runs() / "no-run").mkdir()
    assert set(names()) == {"a-001", "b-001"}


def test_rows_have_the_facts_of_a_run_and_what_is_asked_for(tmp_path: Path) -> None:
    told = {
        "test": {"accuracy": 0.9, "n": 10},
        "val": {"accuracy": 0.8},
        "cost": {"cpu_s": 3.5, "gpu_s": 0.0, "wall_s": 2.0},
        "data": {"version": "v", "test": "t"},
        "scores": {"test": {"log_loss": 0.25}},
    }
    path = make("a-001", config={"seed": 7}, **told)
    make("b-001", updated=0.5)
    first, other = index.rows(extra=("scores.test.log_loss",))
    assert first["folder"] == str(path.resolve())
    assert (first["accuracy"], first["val"], first["cpu_s"], first["seed"]) == (0.9, 0.8, 3.5, 7)
    assert (first["version"], first["test_items"], first["scores.test.log_loss"]) == ("v", "t", 0.25)
    assert (other["accuracy"], other["test_items"], other["scores.test.log_loss"]) == (None, None, None)
    assert [row["name"] for row in index.rows("cpu_s > 1")] == ["a-001"]
    elsewhere = make("c-001", tmp_path, **told)
    assert {**index.about(elsewhere), "name": "a-001", "folder": first["folder"]} == {
        **{name: first[name] for name in first if name != "scores.test.log_loss"},
        "settings": '{"seed": 1}',
        "seed": 1,
    }


def test_the_version_of_old_runs_is_that_of_their_data() -> None:
    path = make("a-001")
    (path / "dataset.json").write_text('{"version": "old"}')
    assert index.rows()[0]["version"] == "old"
