"""get, check and split say what is there, write where they are told to, and never into the data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from inflame import artifact
from inflame.cli import data
from inflame.cli.main import main
from inflame.records import Fault


@pytest.fixture
def faulty(photos: Path) -> Path:
    """The photos, with an empty file and a copy among them."""
    (photos / "apple" / "empty.jpg").touch()
    (photos / "plum" / "copy.jpg").write_bytes((photos / "plum" / "plum_00.jpg").read_bytes())
    return photos


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- get -----------------------------------------------------------------------------------------


def test_get_without_a_name_lists_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get"]) == 0
    assert {"digits", "mnist", "clothing"} <= set(capsys.readouterr().out.split())
    main(["get", "--json"])
    assert "digits" in json.loads(capsys.readouterr().out)


def test_get_shows_licence_counts_and_the_next_step(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "digits"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("licence  CC BY 4.0\n")
    assert f"folder   {home / 'data' / 'digits'}" in out
    assert "1,797 in 10 classes" in out
    assert "class  train  val  test" in out
    assert out.endswith("next   inflame train digits --in 60s\n")


def test_get_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "digits", "--to", str(tmp_path / "here"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["items"] == sum(sum(row.values()) for row in told["counts"].values()) == 1797
    assert told["root"] == str(tmp_path / "here")
    assert told["classes"] == list("0123456789")


# --- check ---------------------------------------------------------------------------------------


def test_check_writes_beside_the_data_and_never_into_it(
    faulty: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _files(faulty)
    assert main(["check", str(faulty)]) == 0
    out = capsys.readouterr().out
    assert _files(faulty) == before
    assert out.startswith("photos: 38 items in 3 classes")
    assert "error    unreadable" in out
    assert "apple/empty.jpg" in out
    assert "warning  duplicate" in out
    told = json.loads((home / "checks" / "photos" / "check.json").read_text())
    assert {fault["kind"] for fault in told["faults"]} == {"unreadable", "duplicate"}
    assert "empty.jpg" in (home / "checks" / "photos" / "check.html").read_text()
    assert str(home / "checks" / "photos" / "check.html") in out


def test_check_as_json_and_elsewhere(faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(faulty), "--json", "--out", str(tmp_path / "found")]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "found" / "check.json").read_text())


def test_check_into_the_data_is_refused(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _files(faulty)
    assert main(["check", str(faulty), "--out", str(faulty / "apple" / "found")]) == 2
    assert "never written to" in capsys.readouterr().err
    assert _files(faulty) == before
    assert not (faulty / "apple" / "found").exists()


def test_good_data_has_no_faults(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(photos)]) == 0
    assert "no faults found" in capsys.readouterr().out


def test_a_fault_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    reason = "truncated: this JPEG ends before the picture does: copy it again, or take it out"
    said = data._said(Fault(kind="unreadable", severity="error", reason=reason, items=("a/1.jpg", "a/2.jpg")))
    assert all(len(line) < 70 for line in said.splitlines())
    assert " ".join(said.split()) == f"error unreadable 2 {reason} a/1.jpg and 1 more"


# --- split ---------------------------------------------------------------------------------------


def test_split_is_an_index(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _files(photos)
    index = tmp_path / "lists" / "index.csv"
    words = ["split", str(photos), "--splits", "train=0.5", "rest=0.5", "--out", str(index)]
    assert main(words) == 0
    assert "class  train  rest" in capsys.readouterr().out
    assert _files(photos) == before
    with index.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    assert {row["split"] for row in rows} == {"train", "rest"}
    assert all((index.parent / row["path"]).is_file() for row in rows)
    first = index.read_bytes()
    assert main(words) == 0
    assert index.read_bytes() == first
    assert main([*words, "--seed", "1"]) == 0
    assert index.read_bytes() != first


def test_an_index_is_a_data_set(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["split", str(photos), "--out", str(tmp_path / "index.csv"), "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert main(["split", str(tmp_path / "index.csv"), "--json", "--seed", "5"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {split: len(items) for split, items in again.items()} == {
        split: len(items) for split, items in before.items()
    }


@pytest.fixture(params=["folder", "rows", "tfrecord", "webdataset", "parquet"])
def letters(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Forty texts of two classes, in class folders, as rows of a table, or in shards."""
    texts = {f"{label}/{number}.txt": f"{label} {number} words" for label in ("hot", "cold") for number in range(20)}
    folder = tmp_path / "letters"
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if request.param == "folder":
        return folder
    if request.param == "rows":
        lines = [json.dumps({"label": name.partition("/")[0], "text": text}) for name, text in texts.items()]
        (tmp_path / "letters.jsonl").write_text("\n".join(lines))
        return tmp_path / "letters.jsonl"
    assert main(["shard", str(folder), str(tmp_path / "shards"), "--to", request.param]) == 0
    return tmp_path / "shards"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_index_of_texts_is_one_of_texts(letters: Path, tmp_path: Path, suffix: str) -> None:
    index = tmp_path / "lists" / f"index.{suffix}"
    assert main(["split", str(letters), "--out", str(index)]) == 0
    before, again = artifact.open(letters), artifact.open(index)
    assert (before.kind, again.kind) == ("text", "text")
    assert not [fault for fault in again.faults if fault.severity == "error"]
    assert again.version == before.version  # the same contents, labels and splits


def test_split_as_parquet(photos: Path, tmp_path: Path) -> None:
    assert main(["split", str(photos), "--out", str(tmp_path / "index.parquet")]) == 0
    table = pq.read_table(tmp_path / "index.parquet")
    assert table.column_names == ["path", "label", "split", "sha256"]
    assert set(table["split"].to_pylist()) == {"train", "val", "test"}


def test_the_data_may_come_last(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["split", "--splits", "train=0.8", "val=0.2", str(photos), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"train", "val"}
    assert main(["split", "--splits", "train=0.8"]) == 2


@pytest.fixture
def bursts(photos: Path) -> Path:
    """The photos, as if taken in bursts of three."""
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        exif = Image.Exif()
        exif[0x0110] = "Canon"
        exif.get_ifd(0x8769)[0x9003] = f"2021:05:03 10:{number // 3:02}:{number % 3:02}"
        with Image.open(path) as image:
            image.save(path, quality=95, exif=exif)
    return photos


def test_bursts_are_advised_and_kept_together(bursts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bursts), "--out", str(tmp_path / "found")]) == 0
    said = capsys.readouterr().out
    assert "advice   burst" in said
    assert f"inflame split {bursts} --by burst" in said
    (advice,) = json.loads((tmp_path / "found" / "check.json").read_text())["advice"]
    assert advice["command"] in (tmp_path / "found" / "check.html").read_text()
    assert main([*advice["command"].split()[1:], "--folds", "3", "--out", str(tmp_path / "index.csv")]) == 0
    with (tmp_path / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    for column in ("split", "fold"):
        assert all(len({row[column] for row in rows[start : start + 3]}) == 1 for start in range(0, 36, 3))


def test_a_way_that_the_data_overrules_is_said(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(photos), "--out", str(tmp_path / "index.csv")]) == 0
    assert main(["split", str(tmp_path / "index.csv"), "--by", "random"]) == 0
    assert "kept, not divided by random (--resplit divides anew)" in capsys.readouterr().out
    assert main(["split", str(tmp_path / "index.csv"), "--resplit"]) == 0
    assert "numbers can't be compared" in capsys.readouterr().out


def test_no_bursts_without_times(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["split", str(photos), "--by", "burst"]) == 2
    assert "No photo says when it was taken" in capsys.readouterr().err
