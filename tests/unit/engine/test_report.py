"""The report is made from a run folder's files alone, tells the truth about them, and needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inflame.errors import DataError
from inflame.model.engine import calibrate, metrics
from inflame.model.engine.report import advice, duration, percent, report, soft
from inflame.records import dumps

CLASSES = ("apple", "lime", "plum")
VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


def plain(text: str) -> str:
    """With ordinary spaces only."""
    return re.sub(r"\s+", " ", text)


class Page(HTMLParser):
    """What a browser would make of the page: tags in balance, what is fetched, ids, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = plain(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> was never opened"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def run_folder(folder: Path, root: Path, uris: list[str], labels: list[int], **changes: Any) -> Path:
    """A finished run on these items: a third each in train, val and test, every fifth answer wrong."""
    classes = changes.pop("classes", CLASSES)
    n, k = len(uris), len(classes)
    y = np.array(labels)
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 0.7, (n, k))
    logits[np.arange(n), np.where(np.arange(n) % 5 == 4, (y + 1) % k, y)] += 4
    split = np.array(changes.pop("split", [("train", "val", "test")[i % 3] for i in range(n)]))
    held = np.flatnonzero(split == "val")
    rule = calibrate.fit(logits[held], y[held], error=0.1)
    p = rule.apply(logits)
    doubt = np.where(split == "train", p[np.arange(n), y] * np.where(np.arange(n) % 5 == 4, 0.01, 1), np.nan)
    folder.mkdir(parents=True)
    (folder / "bundle").mkdir()
    table = {
        "uri": uris,
        "label": [classes[i] for i in y],
        "split": split.tolist(),
        "predicted": [classes[i] for i in p.argmax(axis=1)],
        "probabilities": pa.array(p.astype(np.float32).tolist(), pa.list_(pa.float32())),
        "correct": p.argmax(axis=1) == y,
        "suspect": pa.array(doubt, from_pandas=True),
    }
    pq.write_table(pa.table(table), folder / "predictions.parquet")
    pq.write_table(pa.table({"uri": uris, "label": table["label"], "split": split.tolist()}), folder / "items.parquet")
    faults = [{"kind": "unreadable", "severity": "error", "reason": "it ends too early", "items": ["apple/cut.jpg"]}]
    dataset = {
        "name": "fruit",
        "classes": classes,
        "root": str(root),
        "version": "f" * 64,
        "items": n,
        "faults": faults,
    }
    ladder = [
        {"name": "majority", "accuracy": 0.4, "n": 12, "p": None, "accepted": True, "seconds": 0.3},
        {"name": "probe", "accuracy": 0.8, "n": 12, "p": 0.004, "accepted": True, "seconds": 9.0, "note": "frozen"},
        {"name": "tail", "accuracy": 0.8, "n": 12, "p": 1.0, "accepted": False, "seconds": 31.0},
    ]
    status = {"state": "done", "model": "auto", "seconds": 41.2, "started": 1767323045.0, "ladder": ladder}
    rows = [
        {"epoch": e, "loss": 2.0 / e, "val_loss": 2.2 / e, "val_accuracy": 1 - 0.5 / e, "seconds": 3.0 * e, "lr": None}
        for e in range(1, 6)
    ]
    files = {
        "dataset.json": dumps({**dataset, **changes.get("dataset", {})}),
        "status.json": dumps({**status, **changes.get("status", {})}),
        "config.json": dumps({"budget": 45.0, "seed": 7}),
        "provenance.json": dumps({"argv": ["app.py", "train"], "seed": 7, "versions": {"python": "3.11"}}),
        "bundle/calibration.json": dumps(rule),
        "bundle/classes.json": dumps(list(classes)),
        "bundle/bundle.json": dumps({"version": "c" * 64, "dataset": {"name": "fruit"}}),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def run(tmp_path: Path, photos: Path) -> Path:
    """A finished run on the photos."""
    uris = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    return run_folder(tmp_path / "run-1", photos, uris, [CLASSES.index(uri.split("/")[0]) for uri in uris])


def page(folder: Path) -> Page:
    return Page(report(folder).read_text())


def found(folder: Path) -> dict[str, Any]:
    report(folder)
    value: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return value


def test_the_numbers_are_those_of_the_predictions(run: Path) -> None:
    table = pq.read_table(run / "predictions.parquet").to_pylist()
    test = [row for row in table if row["split"] == "test"]
    value = found(run)
    k, n = sum(row["correct"] for row in test), len(test)
    assert value["split"] == "test"
    assert (value["accuracy"]["test"]["k"], value["accuracy"]["test"]["n"]) == (k, n)
    assert (value["accuracy"]["test"]["low"], value["accuracy"]["test"]["high"]) == metrics.wilson(k, n)
    assert sum(c["support"] for c in value["classes"]) == n
    assert sum(map(sum, value["confusion"]["matrix"])) == n
    assert value["mistakes"]["n"] == n - k
    assert [item["uri"] for item in value["mistakes"]["items"]] == [
        row["uri"] for row in sorted((r for r in test if not r["correct"]), key=lambda r: -max(r["probabilities"]))
    ]
    doubtful = sorted((row for row in table if row["suspect"] is not None), key=lambda row: row["suspect"])
    expected = [row["uri"] for row in doubtful if row["suspect"] < value["suspects"]["below"]]
    assert [item["uri"] for item in value["suspects"]["items"]] == expected
    assert value["suspects"]["of"] == sum(row["split"] == "train" for row in table)


def test_the_page_says_what_the_json_says(run: Path) -> None:
    value, shown = found(run), page(run)
    rate = value["accuracy"]["test"]
    assert percent(rate["value"])[:-2] in shown.text
    assert f"of {rate['n']} test items right" in shown.text
    assert plain(f"95 % interval {percent(rate['low'])} to {percent(rate['high'])}") in shown.text
    assert "looked at once" in shown.text
    assert "41 s of 45 s" in shown.text
    for line in value["advice"]:
        assert plain(line["text"]) in shown.text
    for item in value["mistakes"]["items"]:
        assert item["uri"] in shown.text
    assert "not better" in shown.text
    assert "it ends too early" in shown.text
    assert len(shown.all("img")) == len(value["mistakes"]["items"]) + len(value["suspects"]["items"])


def test_the_page_says_why_and_where_the_time_went(run: Path) -> None:
    status = json.loads((run / "status.json").read_text())
    why = [
        {"choice": "backbone", "taken": "resnet18", "why": "0.84 of 160 photos"},
        {"choice": "rung tail", "taken": "not taken", "why": "its test is in the table of steps"},
        {"choice": "rung whole", "taken": "not begun", "why": "an epoch takes 20 s of the 9 s left"},
    ]
    looks = {"plain": 0.83, "mirrored": 0.84, "n": 400, "split": "val"}
    (run / "status.json").write_text(json.dumps({**status, "why": why, "spent": {"features": 12.0}, "looks": looks}))
    shown = page(run)
    assert "Why this model" in shown.text
    assert "0.84 of 160 photos" in shown.text
    assert "an epoch takes 20 s" in shown.text
    assert "its test is in the table" not in shown.text
    assert "features 12 s" in shown.text
    assert "83.0 % without, 84.0 % with of 400 held-out pictures" in shown.text
    assert found(run)["reasons"] == why


def test_the_page_needs_nothing_else(run: Path) -> None:
    shown = page(run)
    assert shown.all("script") == []
    assert shown.all("link") == []
    assert all(image["src"].startswith("data:image/jpeg;base64,") and image["alt"] for image in shown.all("img"))
    ids = {attributes["id"] for _, attributes in shown.tags if "id" in attributes}
    links = [attributes["href"] for attributes in shown.all("a")]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert {a["aria-labelledby"] for a in shown.all("section")} <= ids
    text = (run / "report.html").read_text()
    assert re.findall(r"url\(|@import|https?://", text) == []
    assert all("aria-label" in svg for svg in shown.all("svg"))


def test_it_can_be_made_again_elsewhere_without_the_pictures(run: Path, tmp_path: Path, photos: Path) -> None:
    before = found(run)
    shutil.rmtree(photos)
    moved = tmp_path / "else" / "run-1"
    shutil.move(run, moved)
    assert found(moved) == before
    assert "picture not found" in page(moved).text


def test_a_hostile_name_is_only_text(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>\"'{{ 7 * 7 }}"
    classes = (nasty, "</style><script>", "c")
    uris = [f"a/{nasty}{i}.jpg" for i in range(30)]
    faults = [{"kind": "junk", "severity": "info", "reason": nasty, "items": [nasty]}]
    folder = run_folder(
        tmp_path / "r", tmp_path, uris, [i % 3 for i in range(30)], classes=classes,
        dataset={"name": nasty, "faults": faults}, status={"model": nasty},
    )  # fmt: skip
    shown = page(folder)
    assert shown.all("script") == []
    assert shown.all("img") == []
    assert nasty in shown.text.replace("\n", " ")


def test_packed_pictures(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    np.save(root / "images.npy", np.random.default_rng(0).integers(0, 256, (30, 12, 12), dtype=np.uint8))
    folder = run_folder(tmp_path / "r", root, [f"images.npy#{i}" for i in range(30)], [i % 3 for i in range(30)])
    images = page(folder).all("img")
    assert images
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)


@pytest.mark.parametrize(("k", "cells", "listed"), [(25, True, True), (60, False, True), (130, False, True)])
def test_many_classes(k: int, cells: bool, listed: bool, tmp_path: Path) -> None:
    n = 6 * k
    names = tuple(f"kind_{i:03}" for i in range(k))
    folder = run_folder(
        tmp_path / "r", tmp_path, [f"{i}.jpg" for i in range(n)], [i // 6 for i in range(n)], classes=names
    )
    shown = page(folder)
    assert ("Rows: what it is. Columns" in shown.text) == cells
    assert ("in the order of the class list" in shown.text) == (25 < k <= 100)
    assert ("Most frequent confusions" in shown.text) == listed
    if k > 25:
        assert f"{k - 25} more classes" in shown.text


def test_without_a_test_split_it_says_so(tmp_path: Path) -> None:
    split = ["train" if i % 2 else "val" for i in range(30)]
    folder = run_folder(
        tmp_path / "r", tmp_path, [f"{i}.jpg" for i in range(30)], [i % 3 for i in range(30)], split=split
    )
    assert found(folder)["split"] == "val"
    assert "There was no test split" in page(folder).text
    assert "looked at once" not in page(folder).text


def test_held_out_is_what_choices_were_made_on(run: Path) -> None:
    rows = pq.read_table(run / "predictions.parquet").to_pylist()
    val = [row for row in rows if row["split"] == "val"]
    value = found(run)["held_out"]
    assert (value["k"], value["n"]) == (sum(row["correct"] for row in val), len(val))
    rule = json.loads((run / "bundle" / "calibration.json").read_text())
    (run / "bundle" / "calibration.json").write_text(dumps({**rule, "source": "out-of-fold"}))
    assert found(run)["held_out"]["n"] == sum(row["split"] != "test" for row in rows)


def test_the_baseline_is_the_most_frequent_class_of_the_training_items(tmp_path: Path) -> None:
    labels, split = [0] * 4 + [1] * 8 + [2] * 2, ["train", "test"] * 2 + ["train"] * 2 + ["test"] * 6 + ["train"] * 2
    labels[4:6] = [0, 0]  # train: 0 four times, 2 twice; test: mostly 1
    folder = run_folder(tmp_path / "r", tmp_path, [f"{i}.jpg" for i in range(14)], labels, split=split)
    value = found(folder)["majority"]
    assert (value["class"], value["k"], value["n"]) == ("apple", 2, 8)


def test_suspects_of_the_reported_split_are_left_to_the_mistakes(run: Path) -> None:
    table = pq.read_table(run / "predictions.parquet")
    doubt = pa.array([0.001] * len(table))
    pq.write_table(table.set_column(table.column_names.index("suspect"), "suspect", doubt), run / "predictions.parquet")
    value = found(run)["suspects"]
    assert value["n"] == value["of"] == sum(split != "test" for split in table["split"].to_pylist())
    assert all(item["split"] != "test" for item in value["items"])


def test_a_class_that_the_split_lacks_shifts_nothing(tmp_path: Path) -> None:
    labels = [0, 2] * 15
    folder = run_folder(tmp_path / "r", tmp_path, [f"{i}.jpg" for i in range(30)], labels)
    value = found(folder)
    assert [c["name"] for c in value["classes"]] == list(CLASSES)
    assert value["classes"][1]["support"] == 0
    assert "no item in this split" in page(folder).text


def test_a_run_that_was_stopped(run: Path) -> None:
    for name in ("predictions.parquet", "report.json"):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "bundle")
    (run / "status.json").write_text(dumps({"state": "interrupted", "model": "auto"}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 6, "lo')
    value, shown = found(run), page(run)
    assert "accuracy" not in value
    assert len(value["curves"]) == 5
    assert "has not finished (it is interrupted)" in shown.text
    assert "No answers have been measured yet" in shown.text
    assert value["advice"] == []


@pytest.mark.parametrize(
    "name", ["predictions.parquet", "items.parquet", "provenance.json", "config.json", "metrics.jsonl"]
)
def test_a_damaged_file_costs_only_its_part(name: str, run: Path) -> None:
    (run / name).write_bytes(b"\x00{damaged")
    assert page(run).text
    (run / name).unlink()
    assert page(run).text


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder") as caught:
        report(tmp_path)
    assert "inflame runs" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_an_epoch_that_came_twice_counts_once(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 5, "loss": 9.0, "seconds": 16.0}) + "\n")
    assert [(row["epoch"], row["loss"]) for row in found(run)["curves"]][-1] == (5, 9.0)
    assert len(found(run)["curves"]) == 5


def test_long_runs_are_thinned(run: Path) -> None:
    rows = "".join(json.dumps({"epoch": e, "loss": 1.0, "seconds": float(e)}) + "\n" for e in range(5000))
    (run / "metrics.jsonl").write_text(rows)
    curves = found(run)["curves"]
    assert len(curves) == 200
    assert (curves[0]["epoch"], curves[-1]["epoch"]) == (0, 4999)


def test_calibration_before_is_undone_exactly(run: Path) -> None:
    rule = calibrate.Calibration.from_json(json.loads((run / "bundle" / "calibration.json").read_text()))
    rows = [r for r in pq.read_table(run / "predictions.parquet").to_pylist() if r["split"] == "test"]
    p = np.array([row["probabilities"] for row in rows])
    raw = calibrate.softmax(np.log(p) * rule.temperature)
    again = calibrate.softmax(np.log(raw), rule.temperature)
    np.testing.assert_allclose(again, p, atol=1e-6)
    correct = np.array([row["correct"] for row in rows])
    assert found(run)["calibration"]["ece_before"] == pytest.approx(metrics.ece(raw.max(axis=1), correct), abs=1e-6)


def test_advice_is_about_what_was_found(run: Path) -> None:
    value = found(run)
    sections = [line["see"] for line in value["advice"]]
    assert sections[0] == "data"
    assert "labels" in sections
    assert len(sections) <= 4
    assert advice({"curves": []}) == []


def test_words() -> None:
    assert percent(0.9462) == "94.6\u202f%"
    assert percent(0.99996) == "99.9\u202f%"
    assert percent(1.0) == "100.0\u202f%"
    assert percent(0.004, 0) == "< 1\u202f%"
    assert percent(0.0, 0) == "0\u202f%"
    assert percent(None) == "–"
    assert [duration(s) for s in (0.432, 58.3, 200, 3600 * 5 + 300, 120, None)] == [
        "0.432\xa0s", "58\xa0s", "3 min 20 s", "5 h 5 min", "2 min", "–",
    ]  # fmt: skip
    assert soft("a_b<i>") == "a_<wbr>b&lt;i&gt;"
