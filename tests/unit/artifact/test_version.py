"""Versions: kept, found, compared and brought back, whatever the kind of data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inflame import artifact, store
from inflame.artifact import changes, finding, listing, manifest, opening, overlay, packed, packs, version
from inflame.errors import DataError
from inflame.records import Dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def _texts(root: Path) -> Path:
    for number in range(12):
        path = root / f"kind{number % 2}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"dear reader {number} caf\xe9 words words".encode("cp1252"))
    return root


def _table(root: Path) -> Path:
    root.mkdir()
    rows = [f'"what is said, {number}",kind{number % 2},{"test" if number > 7 else "train"}' for number in range(12)]
    (root / "news.csv").write_text("\n".join(["text,label,split", *rows]))
    return root / "news.csv"


def _packed(root: Path) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 8, 8), dtype=np.uint8)
    made = packed.write(root, (pixels, [str(row % 3) for row in range(9)], ["train"] * 6 + ["test"] * 3))
    return opening._prepared(made)


def test_photos_come_back_as_they_were(photos: Path, folder: Path, tmp_path: Path) -> None:
    found = artifact.open(photos)
    made, new = version.take(found, folder, note="as they came")
    assert (new, made.items, made.classes, made.new_items, made.note) == (True, 36, 3, 36, "as they came")
    assert made.version == found.version
    opened = artifact.open(version.restore(folder, made, tmp_path / "then"))
    assert opened.version == found.version
    assert changes.between(found.items, opened.items).nothing
    for uri in found.items["uri"].to_pylist():
        assert (tmp_path / "then" / uri).read_bytes() == (photos / uri).read_bytes()


def test_texts_keep_their_bytes(folder: Path, tmp_path: Path) -> None:
    root = _texts(tmp_path / "letters")
    found = artifact.open(root)
    made, _ = version.take(found, folder)
    opened = artifact.open(version.restore(folder, made, tmp_path / "then"))
    assert (opened.kind, opened.version) == ("text", found.version)
    assert (tmp_path / "then/kind0/0.txt").read_bytes() == (root / "kind0/0.txt").read_bytes()


def test_rows_of_a_table_come_back_as_a_table(folder: Path, tmp_path: Path) -> None:
    found = artifact.open(_table(tmp_path / "news"))
    made, _ = version.take(found, folder)
    opened = artifact.open(version.restore(folder, made, tmp_path / "then"))
    assert (opened.kind, len(opened), opened.version) == ("text", 12, found.version)


def test_rows_of_an_array_come_back_as_an_array(folder: Path, tmp_path: Path) -> None:
    found = _packed(tmp_path / "small")
    kept = found.items.filter([row != 4 for row in range(9)])
    less = Dataset(**{**_fields(found), "items": kept, "version": manifest.version(kept)})
    made, _ = version.take(less, folder)
    assert made.shape == (8, 8)
    target = version.restore(folder, made, tmp_path / "then")
    opened = artifact.open(target)
    assert opened.version == less.version
    assert (np.load(target / "images.npy") == np.delete(packed.images(found), 4, axis=0)).all()
    assert opened.items["uri"].to_pylist() == [f"images.npy#{row}" for row in range(8)]


def test_labels_moved_by_hand_are_kept(photos: Path, folder: Path, tmp_path: Path) -> None:
    overlay.save(photos, overlay.Overlay(excluded={"lime/lime_01.jpg": "blurred"}, moved={"lime/lime_00.jpg": "plum"}))
    found = artifact.open(photos)
    made, _ = version.take(found, folder)
    opened = artifact.open(version.restore(folder, made, tmp_path / "then"))
    assert (
        dict(zip(opened.items["uri"].to_pylist(), opened.items["label"].to_pylist(), strict=True))["lime/lime_00.jpg"]
        == "plum"
    )
    assert (len(opened), opened.version) == (35, found.version)


def test_a_second_version_adds_only_what_is_new(photos: Path, folder: Path) -> None:
    first, _ = version.take(artifact.open(photos), folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (photos / "lime/lime_00.jpg").unlink()
    shutil.move(photos / "lime/lime_01.jpg", photos / "plum/other.jpg")
    (photos / "plum/plum_00.jpg").write_bytes((photos / "plum/plum_00.jpg").read_bytes() + b"\0")
    second, _ = version.take(artifact.open(photos), folder)
    assert (second.new_items, second.items) == (1, 35)
    assert all(path.read_bytes() == data for path, data in before.items())
    assert [one.version for one in version.snapshots(folder)] == [second.version, first.version]
    found = changes.between(version.load(folder, first).items, version.load(folder, second).items)
    assert found.removed == ("lime/lime_00.jpg",)
    assert [uri for uri, *_ in found.relabelled] == ["plum/other.jpg"]
    assert found.changed == ("plum/plum_00.jpg",)


def test_the_same_again_is_the_same_version(photos: Path, folder: Path) -> None:
    first, _ = version.take(artifact.open(photos), folder)
    again, new = version.take(artifact.open(photos), folder, note="another word")
    assert (new, again) == (False, first)


def test_nothing_tells_where_the_data_lay(photos: Path, folder: Path) -> None:
    version.take(artifact.open(photos), folder)
    for path in folder.rglob("*.json"):
        assert str(photos) not in path.read_text()


def test_a_file_that_changes_meanwhile_stops_it(photos: Path, folder: Path) -> None:
    found = artifact.open(photos)
    (photos / "lime/lime_03.jpg").write_bytes(b"other")
    with pytest.raises(DataError, match=r"lime_03\.jpg is no longer"):
        version.take(found, folder)
    assert not version.snapshots(folder)
    (photos / "lime/lime_03.jpg").unlink()
    with pytest.raises(DataError, match=r"lime_03\.jpg is no longer"):
        version.take(found, folder)


def test_one_that_was_stopped_goes_on(
    photos: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "MOST", 10_000)
    found = artifact.open(photos)
    late = photos / found.items["uri"][30].as_py()
    late.rename(tmp_path / "away.jpg")
    with pytest.raises(DataError, match=late.name):
        version.take(found, folder)
    (tmp_path / "away.jpg").rename(late)
    kept = len(packs.known(folder / "packs"))
    assert 0 < kept < 36
    made, _ = version.take(found, folder)
    assert made.new_items == 36 - kept
    version.verify(folder, made)


def test_damage_is_found(photos: Path, folder: Path, tmp_path: Path) -> None:
    made, _ = version.take(artifact.open(photos), folder)
    (pack,) = (folder / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    with pytest.raises(DataError, match=pack.name):
        version.verify(folder, made)
    with pytest.raises(DataError, match=pack.name):
        version.restore(folder, made, tmp_path / "then")
    assert not (tmp_path / "then").exists()


@pytest.mark.parametrize("uri", ["../evil.jpg", "/tmp/evil.jpg", "a/../../evil.jpg", "index.csv", ""])
def test_a_version_from_elsewhere_writes_nothing_outside(photos: Path, folder: Path, tmp_path: Path, uri: str) -> None:
    made, _ = version.take(artifact.open(photos), folder)
    found = version.load(folder, made)
    items = found.items.set_column(0, "uri", [[uri, *found.items["uri"].to_pylist()[1:]]])
    manifest.save(Dataset(**{**_fields(found), "items": items}), folder / "versions" / made.short)
    with pytest.raises(DataError, match="outside its folder"):
        version.restore(folder, made, tmp_path / "deep" / "then")
    assert not list(tmp_path.rglob("evil.jpg"))


def test_restoring_overwrites_nothing(photos: Path, folder: Path) -> None:
    made, _ = version.take(artifact.open(photos), folder)
    with pytest.raises(DataError, match="already there"):
        version.restore(folder, made, photos)


def test_words_for_a_version(photos: Path, folder: Path, tmp_path: Path) -> None:
    first, _ = version.take(artifact.open(photos), folder)
    (photos / "lime/lime_00.jpg").unlink()
    second, _ = version.take(artifact.open(photos), folder)
    assert version.find(first.version[:6], [folder]) == (folder, first)
    assert version.find(first.version, [folder]) == (folder, first)
    assert version.find("photos", [folder]) == (folder, second)
    with pytest.raises(DataError, match=r'no version "fotos".*"photos"'):
        version.find("fotos", [folder])
    with pytest.raises(DataError, match="no version") as told:
        version.find("photos", [])
    assert "inflame version DATA" in told.value.remedy


def test_an_ambiguous_word_is_refused(folder: Path) -> None:
    for digits in ("aaaa1", "aaaa2"):
        made = version.Snapshot(version=digits * 12, name="x", kind="image", items=1, classes=1, time="2026")
        store.write(folder / "versions" / made.short / "snapshot.json", json.dumps(made.to_json()))
    with pytest.raises(DataError, match="may be any of"):
        version.find("aaaa", [folder])
    assert version.find("aaaa2", [folder])[1].version.startswith("aaaa2")


def test_names_of_folders_are_safe() -> None:
    assert version.home_of("../../etc").parent == store.home() / "versions"
    assert version.home_of("..").name == "data"
    assert version.home_of("my photos").name == "my-photos"


def test_a_damaged_snapshot_is_named(photos: Path, folder: Path) -> None:
    made, _ = version.take(artifact.open(photos), folder)
    (folder / "versions" / made.short / "snapshot.json").write_text("{")
    with pytest.raises(DataError, match=made.short):
        version.snapshots(folder)


def test_rows_of_shards_come_back_as_files(photos: Path, folder: Path, tmp_path: Path) -> None:
    from inflame.artifact import shard

    shard.shard(finding.listed(photos), tmp_path / "shards", shard.Recipe(to="tfrecord", size=0), workers=1)
    found = artifact.open(tmp_path / "shards")
    assert all("#" in uri for uri in found.items["uri"].to_pylist())
    made, _ = version.take(found, folder)
    opened = artifact.open(version.restore(folder, made, tmp_path / "then"))
    assert opened.version == found.version


def _fields(found: Dataset) -> dict[str, object]:
    return {name: getattr(found, name) for name in ("name", "kind", "classes", "root", "version", "items")}


def test_the_table_of_a_restored_version_has_all_columns(photos: Path, folder: Path, tmp_path: Path) -> None:
    made, _ = version.take(artifact.open(photos), folder)
    head = version.restore(folder, made, tmp_path / "then").read_text().partition("\n")[0]
    assert head.replace('"', "").split(",") == ["path", *listing.COLUMNS[1:]]
