"""`open` from end to end: names, folders, zips and tables; the index; versions; samples; what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import inflame.artifact
from inflame.artifact import cache, listing, manifest, opening, preprocess, scanning, sources, survey
from inflame.errors import DataError, NetworkError, UserError
from inflame.records import Dataset, Preprocess

SQUARES = Preprocess(size=24, resize=32)


def age(folder: Path) -> None:
    """Makes all files older than the index's caution."""
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)


def state(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The uris that were really read from files."""
    seen: list[str] = []
    scan = scanning.scan

    def spy(root: Path, uris: Any, **options: Any) -> Any:
        seen.extend(uris)
        return scan(root, uris, **options)

    monkeypatch.setattr(survey, "scan", spy)
    return seen


def kinds(found: Dataset) -> list[tuple[str, tuple[str, ...]]]:
    return [(fault.kind, fault.items) for fault in found.faults]


# --- a folder ---------------------------------------------------------------------------------------------------


def test_a_folder_of_photos(photos: Path) -> None:
    before = state(photos)
    found = opening.open(photos)
    assert (found.name, found.kind, found.classes) == ("photos", "image", ("apple", "lime", "plum"))
    assert len(found) == 36
    assert found.items.column_names == ["uri", "label", "split", "sha256", "group", "time"]
    assert set(found.items["split"].to_pylist()) == {"train", "val", "test"}
    assert all(len(sha256) == 64 for sha256 in found.items["sha256"].to_pylist())
    assert len(found.version) == 64
    assert found.faults == ()
    assert state(photos) == before


def test_a_second_open_reads_nothing(photos: Path, read: list[str]) -> None:
    age(photos)
    first = opening.open(photos)
    assert len(read) == 36
    second = opening.open(str(photos) + "/")
    assert len(read) == 36
    assert second == first
    assert second.items.equals(first.items)


def test_only_what_changed_is_read_again(photos: Path, read: list[str]) -> None:
    age(photos)
    first = opening.open(photos)
    read.clear()
    shutil.copy(photos / "apple/apple_00.jpg", photos / "apple/new.jpg")
    (photos / "lime/lime_01.jpg").write_bytes((photos / "lime/lime_02.jpg").read_bytes() + b"\0")
    (photos / "plum/plum_00.jpg").unlink()
    second = opening.open(photos)
    assert sorted(read) == ["apple/new.jpg", "lime/lime_01.jpg"]
    assert len(second) == 36
    assert second.version != first.version


def test_a_file_written_just_now_is_not_trusted_yet(photos: Path, read: list[str]) -> None:
    age(photos)
    (photos / "apple/apple_00.jpg").touch()
    opening.open(photos)
    read.clear()
    opening.open(photos)
    assert read == ["apple/apple_00.jpg"]


@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_a_damaged_index_costs_only_time(photos: Path, home: Path, read: list[str], damage: bytes) -> None:
    age(photos)
    first = opening.open(photos)
    for path in (home / "cache" / "index").iterdir():
        path.write_bytes(damage)
    assert opening.open(photos).items.equals(first.items)
    assert len(read) == 72


def test_an_interrupted_reading_is_not_lost(photos: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    age(photos)
    monkeypatch.setattr(survey, "_STRETCH", 10)
    told: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        told.append((done, total))
        if done == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opening.open(photos, progress=interrupt)
    assert sorted(told)[:25] == [(done, 36) for done in range(1, 26)]
    read.clear()
    assert len(opening.open(photos, canvas=SQUARES)) == 36
    assert len(read) == 16


def test_what_was_read_is_kept_from_time_to_time(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inflame.artifact import index

    age(photos)
    kept: list[int] = []
    monkeypatch.setattr(survey, "_STRETCH", 10)
    monkeypatch.setattr(survey, "_EVERY", -1.0)
    monkeypatch.setattr(index, "remember", lambda *given: kept.append(sum(scan is not None for scan in given[2])))
    opening.open(photos)
    assert kept == [10, 20, 30, 36, 36]


def test_bad_pictures_are_left_out_and_named(photos: Path) -> None:
    good = (photos / "apple/apple_00.jpg").read_bytes()
    (photos / "apple/cut.jpg").write_bytes(good[: len(good) // 2])
    (photos / "apple/empty.jpg").write_bytes(b"")
    (photos / "apple/text.jpg").write_text("hello")
    (photos / "plum/twin.jpg").write_bytes(good)
    (photos / "lime/copy.jpg").write_bytes((photos / "lime/lime_00.jpg").read_bytes())
    (photos / "pear").mkdir()
    (photos / "pear/.DS_Store").write_bytes(b"x")
    found = opening.open(photos)
    uris = set(found.items["uri"].to_pylist())
    out = {"apple/cut.jpg", "apple/empty.jpg", "apple/text.jpg", "plum/twin.jpg", "apple/apple_00.jpg"}
    assert not uris & out
    assert len(uris) == 36
    assert found.classes == ("apple", "lime", "plum")
    assert {item for kind, items in kinds(found) if kind == "unreadable" for item in items} == {
        "apple/cut.jpg",
        "apple/empty.jpg",
        "apple/text.jpg",
    }
    assert ("label_conflict", ("apple/apple_00.jpg", "plum/twin.jpg")) in kinds(found)
    assert ("duplicate", ("lime/copy.jpg", "lime/lime_00.jpg")) in kinds(found)
    assert ("junk", ("pear/.DS_Store",)) in kinds(found)
    assert "empty_class" in [kind for kind, _ in kinds(found)]
    side = dict(zip(found.items["uri"].to_pylist(), found.items["split"].to_pylist(), strict=True))
    assert side["lime/copy.jpg"] == side["lime/lime_00.jpg"]


def test_faults_are_the_same_from_the_index(photos: Path) -> None:
    (photos / "apple/empty.jpg").write_bytes(b"")
    Image.new("CMYK", (40, 40)).save(photos / "apple/print.jpg")
    age(photos)
    assert opening.open(photos).faults == opening.open(photos).faults != ()


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the 2 files can be used; the first, a/1\.jpg") as caught:
        opening.open(tmp_path)
    assert "inflame check" in caught.value.remedy


def test_strange_names_go_all_the_way(tmp_path: Path, photos: Path) -> None:
    names = ["a b", "ünï☃", "new\nline", "#1", os.fsdecode(b"raw\xff\xe9")]
    for name in names:
        for number in range(4):
            (tmp_path / "odd" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(
                photos / f"apple/apple_{number + names.index(name):02}.jpg",
                tmp_path / "odd" / name / f"{name}{number}.jpg",
            )
    (tmp_path / "odd" / "a b" / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"")
    age(tmp_path)
    for _ in range(2):
        found = opening.open(tmp_path / "odd")
        bad = [fault for fault in found.faults if fault.kind == "unreadable"]
        assert [fault.items for fault in bad] == [("a b/bad\uf7ff.jpg",)]
        manifest.save(found, tmp_path / "kept")
        assert manifest.load(tmp_path / "kept").items.equals(found.items)
        for uri in found.items["uri"].to_pylist():
            assert listing.locate(found.root, uri).is_file()


def test_a_folder_with_a_name_that_is_no_utf8(tmp_path: Path, photos: Path) -> None:
    root = tmp_path / os.fsdecode(b"raw\xff")
    shutil.copytree(photos, root)
    found = opening.open(root)
    manifest.save(found, tmp_path / "kept")
    assert manifest.load(tmp_path / "kept").root == str(root)


def test_progress_counts_files(photos: Path) -> None:
    told: list[tuple[int, int]] = []
    opening.open(photos, progress=lambda done, total: told.append((done, total)))
    assert sorted(told) == [(done, 36) for done in range(1, 37)]


@pytest.mark.parametrize("stretch", [7, 4000])
def test_first_reading_keeps_the_squares(photos: Path, stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_STRETCH", stretch)
    (photos / "apple/empty.jpg").write_bytes(b"")
    found = opening.open(photos, canvas=SQUARES)
    kept = np.load(cache.place(found.items["sha256"].to_pylist(), SQUARES))
    assert kept.shape == (36, 32, 32, 3)
    for row in (0, 17, 35):
        expected = preprocess.canvas(photos / found.items["uri"][row].as_py(), SQUARES)
        np.testing.assert_array_equal(kept[row], expected)


def test_too_large_a_cache_is_left_to_the_loader(photos: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(cache, "LEAST", 1000)
    monkeypatch.setattr(cache, "SHARE", 0)
    assert len(opening.open(photos, canvas=SQUARES)) == 36
    assert not (home / "cache" / "pictures").exists()


def test_what_there_is_no_time_to_read_is_left_for_the_next_time(
    photos: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(survey, "_SHORT", 8)
    first = opening.open(photos, canvas=SQUARES, seconds=0)
    assert len(first) == 8
    assert len(first.classes) == 3  # a few of each class come first
    assert ("unread", "warning") in [(fault.kind, fault.severity) for fault in first.faults]
    kept = np.load(cache.place(first.items["sha256"].to_pylist(), SQUARES))
    expected = [preprocess.canvas(photos / uri, SQUARES) for uri in first.items["uri"].to_pylist()]
    np.testing.assert_array_equal(kept, expected)
    second = opening.open(photos, seconds=0)
    assert len(second) == 16
    assert set(first.items["uri"].to_pylist()) < set(second.items["uri"].to_pylist())
    assert len(opening.open(photos)) == 36


def test_a_place_that_cannot_be_listed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="can't be read: Permission denied"):
        opening.open(photos)


# --- splits -----------------------------------------------------------------------------------------------------


def test_split_folders_are_kept(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for kind in photos.iterdir():
        for number, path in enumerate(sorted(kind.iterdir())):
            part = ("train", "dev", "testing")[number % 3]
            (root / part / kind.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / part / kind.name)
    found = opening.open(root, seed=5)
    for uri, split in zip(found.items["uri"].to_pylist(), found.items["split"].to_pylist(), strict=True):
        assert split == {"train": "train", "dev": "val", "testing": "test"}[uri.partition("/")[0]]


def test_a_class_that_lacks_in_a_split_keeps_its_place(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "set" / "train")
    shutil.copytree(photos / "plum", tmp_path / "set" / "test" / "plum")
    found = opening.open(tmp_path / "set")
    assert found.classes == ("apple", "lime", "plum")
    assert found.split("test").classes == ("apple", "lime", "plum")


def test_fractions_and_seed(photos: Path) -> None:
    found = opening.open(photos, splits={"train": 0.5, "dev": 0.5})
    assert set(found.items["split"].to_pylist()) == {"train", "dev"}
    other = opening.open(photos, splits={"train": 0.5, "dev": 0.5}, seed=1)
    assert other.version != found.version
    assert other.items["sha256"].equals(found.items["sha256"])


# --- archives and tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_is_the_folder_in_it(photos: Path, tmp_path: Path, kind: str) -> None:
    made = Path(shutil.make_archive(str(tmp_path / "my photos"), kind, photos.parent, photos.name))
    before = state(tmp_path)
    found = opening.open(made)
    folder = opening.open(photos)
    assert (found.name, found.version, found.classes) == ("my photos", folder.version, folder.classes)
    assert not found.root.startswith(str(tmp_path / "my"))
    again = opening.open(made)
    assert again.root == found.root
    assert [entry for entry in state(tmp_path) if entry not in before] == []


def test_a_damaged_archive_leaves_nothing_behind(photos: Path, tmp_path: Path, home: Path) -> None:
    made = Path(shutil.make_archive(str(tmp_path / "a"), "zip", photos))
    made.write_bytes(made.read_bytes()[:-3000])
    with pytest.raises(DataError, match="can't be unpacked"):
        opening.open(made)
    assert list((home / "cache" / "unpacked").iterdir()) == []


def test_an_archive_of_no_pictures_is_called_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as file:
        file.add(tmp_path / "x.txt", "x.txt")
    with pytest.raises(DataError, match=r"a\.tgz has no pictures"):
        opening.open(tmp_path / "a.tgz")


def test_an_archive_at_an_address(photos: Path, tmp_path: Path, web: Any, hasty: object) -> None:
    made = Path(shutil.make_archive(str(tmp_path / "a"), "zip", photos))
    web.files["/some/my.zip"] = made.read_bytes()
    found = opening.open(web.url("/some/my.zip"))
    assert (found.name, len(found)) == ("my", 36)
    opening.open(web.url("/some/my.zip"))
    assert len(web.asked) == 1
    with pytest.raises(NetworkError):
        opening.open(web.url("/none.zip"))
    with pytest.raises(DataError, match="not the address of a zip"):
        opening.open(web.url("/some/page"))


def test_a_table(photos: Path) -> None:
    lines = [f"{path.relative_to(photos)},{path.parent.name[0]}" for path in sorted(photos.rglob("*.jpg"))]
    (photos / "labels.csv").write_text("\n".join(["path,label", *lines, "gone.jpg,a"]))
    found = opening.open(photos / "labels.csv")
    assert (found.name, len(found), found.classes) == ("labels", 36, ("a", "l", "p"))
    assert [fault.items for fault in found.faults if fault.kind == "unreadable"] == [("gone.jpg",)]


def test_a_table_with_two_labels_for_one_picture(photos: Path) -> None:
    lines = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.jpg"))]
    (photos / "labels.csv").write_text("\n".join(["path,label", *lines, "apple/apple_00.jpg,plum"]))
    found = opening.open(photos / "labels.csv")
    assert "apple/apple_00.jpg" not in found.items["uri"].to_pylist()
    assert len(found) == 35


def test_groups_stay_together(photos: Path) -> None:
    paths = sorted(photos.rglob("*.jpg"))
    lines = [f"{path.relative_to(photos)},{path.parent.name},g{number // 4}" for number, path in enumerate(paths)]
    (photos / "labels.csv").write_text("\n".join(["path,label,group", *lines]))
    found = opening.open(photos / "labels.csv")
    sides: dict[str, set[str]] = {}
    for group, split in zip(found.items["group"].to_pylist(), found.items["split"].to_pylist(), strict=True):
        sides.setdefault(group, set()).add(split)
    assert {len(side) for side in sides.values()} == {1}


# --- names ------------------------------------------------------------------------------------------------------


def test_a_name(home: Path) -> None:
    found = opening.open("digits")
    assert len(found) == 1797
    assert found.root == str(home / "data" / "digits")
    assert set(found.items["split"].to_pylist()) == {"train", "val", "test"}
    assert opening.getdata("DIGITS").version == found.version


def test_a_named_set_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    found = opening.getdata("digits", tmp_path / "here")
    assert found.root == str(tmp_path / "here")
    assert (tmp_path / "here" / "images.npy").is_file()


def test_names_may_be_written_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(sources, "fashion_mnist", lambda root: asked.append(root) or sources.digits(root))
    opening.open("Fashion_MNIST")
    assert asked[0].name == "fashion-mnist"


def test_a_path_object_is_never_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        opening.open(Path("digits"))


def test_getdata_takes_folders_too(photos: Path) -> None:
    assert len(opening.getdata(photos)) == 36


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("mnits", 'Did you mean "mnist"?'),
        ("photso", 'Did you mean "photos"?'),
        ("no/such/folder", "There is no folder, file or data set no/such/folder."),
        ("photso/apple", 'Did you mean "photos"?'),
        ("photos/aple", 'Did you mean "apple"?'),
        (" ", "There is no folder"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(
    photos: Path, monkeypatch: pytest.MonkeyPatch, data: str, said: str
) -> None:
    monkeypatch.chdir(photos.parent)
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        opening.open(data)
    assert said in caught.value.message
    assert "digits" in caught.value.remedy
    assert time.monotonic() - begun < 1


def test_one_picture_is_no_data_set(photos: Path) -> None:
    with pytest.raises(DataError, match="not one that holds a data set") as caught:
        opening.open(photos / "apple/apple_00.jpg")
    assert "inflame predict" in caught.value.remedy


# --- saved ------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(photos: Path, tmp_path: Path) -> None:
    (photos / "apple/empty.jpg").write_bytes(b"")
    found = dataclasses.replace(opening.open(photos), licence="CC0", source="me")
    manifest.save(found, tmp_path / "kept")
    loaded = manifest.load(tmp_path / "kept")
    assert loaded == found
    assert loaded.items.equals(found.items)
    assert json.loads((tmp_path / "kept/dataset.json").read_text())["items"] == 36


@pytest.mark.parametrize("name", ["dataset.json", "items.parquet"])
@pytest.mark.parametrize("damage", [None, b"", b"{}", b'{"faults": 3}'])
def test_a_damaged_manifest_says_so(photos: Path, tmp_path: Path, name: str, damage: bytes | None) -> None:
    manifest.save(opening.open(photos), tmp_path / "kept")
    if damage is None:
        (tmp_path / "kept" / name).unlink()
    else:
        (tmp_path / "kept" / name).write_bytes(damage)
    with pytest.raises(DataError, match="holds no data set" if damage is None else "damaged"):
        manifest.load(tmp_path / "kept")


def test_the_version_is_that_of_the_content(photos: Path, tmp_path: Path) -> None:
    found = opening.open(photos)
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        place = tmp_path / "other" / path.parent.name / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    renamed = opening.open(tmp_path / "other")
    assert renamed.version == found.version
    (tmp_path / "other" / "lime").rename(tmp_path / "other" / "lemon")
    assert opening.open(tmp_path / "other").version != found.version


# --- samples ----------------------------------------------------------------------------------------------------


def test_a_sample_has_the_mixture_of_the_whole(home: Path) -> None:
    whole, part = opening.open("digits"), opening.open("digits", limit=300)
    assert len(part) == 300
    assert set(part.items["uri"].to_pylist()) <= set(whole.items["uri"].to_pylist())
    assert part.classes == whole.classes
    for split in ("train", "val", "test"):
        share = len(whole.split(split)) / len(whole)
        assert abs(len(part.split(split)) - 300 * share) < 15
        assert set(part.split(split).items["label"].to_pylist()) == set(whole.classes)
    before = dict(zip(whole.items["uri"].to_pylist(), whole.items["split"].to_pylist(), strict=True))
    assert all(
        before[u] == s for u, s in zip(part.items["uri"].to_pylist(), part.items["split"].to_pylist(), strict=True)
    )


def test_a_sample_larger_than_the_whole_is_the_whole(photos: Path) -> None:
    assert len(opening.open(photos, limit=1000)) == 36
    assert len(opening.open(photos, limit=2)) == 2
    with pytest.raises(UserError, match="holds nothing"):
        opening.open(photos, limit=0)


def test_a_sample_keeps_rare_classes() -> None:
    labels = ["many"] * 1000 + ["a", "b", "c"]
    table = listing.table(
        uri=[str(row) for row in range(1003)], label=labels, sha256=[f"{row:064x}" for row in range(1003)]
    )
    kept = manifest.sample(table, 5)["label"].to_pylist()
    assert sorted(kept) == ["a", "b", "c", "many", "many"]


def test_a_class_that_a_sample_loses_is_no_class(photos: Path) -> None:
    assert len(opening.open(photos, limit=1).classes) == 1


# --- size and weight --------------------------------------------------------------------------------------------


def test_a_fetched_set_of_70_000_opens_in_a_second(tmp_path: Path, home: Path) -> None:
    from inflame.artifact import packed

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (70_000, 4, 4), dtype=np.uint8)
    labels = [str(row % 10) for row in range(70_000)]
    made = packed.write(home / "data" / "digits", (pixels, labels, ["train"] * 60_000 + ["test"] * 10_000))
    manifest.save(made, home / "data" / "digits")
    begun = time.process_time()
    found = opening.open("digits")
    assert time.process_time() - begun < 1
    assert len(found) == 70_000


def test_importing_the_room_is_cheap() -> None:
    code = "import sys, inflame.artifact; print([m for m in ('numpy', 'pyarrow', 'PIL', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_room_offers() -> None:
    assert set(inflame.artifact.__all__) == {
        "check",
        "getdata",
        "open",
        "split_datafiles",
        "to_arrow",
        "to_huggingface",
        "to_pandas",
        "to_torch",
    }
    for name in inflame.artifact.__all__:
        assert callable(getattr(inflame.artifact, name))
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        inflame.artifact.opne  # noqa: B018
    assert isinstance(opening.open("digits").items, pa.Table)


def test_near_copies_stay_on_one_side_and_growing_moves_nothing(tmp_path: Path) -> None:
    """A picture saved again, smaller and worse, is on the side of the first; and what is there stays when more come."""
    rng = np.random.default_rng(0)

    def photo(place: Path, seed: int, quality: int = 95, size: int = 96) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
        image.resize((size, size)).save(place, quality=quality)

    root = tmp_path / "set"
    for number in range(60):
        photo(root / f"k{number % 2}" / f"{number}.jpg", number)
        if number % 3 == 0:
            photo(root / f"k{number % 2}" / f"{number}_again.jpg", number, quality=40, size=64)
    first = {row["uri"]: row["split"] for row in opening.open(root).items.to_pylist()}
    for number in range(0, 60, 3):
        name = f"k{number % 2}/{number}"
        assert first[f"{name}.jpg"] == first[f"{name}_again.jpg"]
    for number in rng.integers(100, 999, 40).tolist():
        photo(root / f"k{number % 2}" / f"{number}.jpg", number)
    later = {row["uri"]: row["split"] for row in opening.open(root).items.to_pylist()}
    assert {uri: later[uri] for uri in first} == first


def test_what_was_no_picture_is_read_anew_as_a_text(tmp_path: Path) -> None:
    """A table of files that say nothing by their names is one of pictures, until one is a text by its name."""
    rows = [f"{label}/{number}" for label in ("hot", "cold") for number in range(3)]
    for name in (*rows, "cold/last.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"words of {name}")
        os.utime(tmp_path / name, (1e9, 1e9))
    index = tmp_path / "index.csv"
    index.write_text("path,label\n" + "".join(f"{name},{name.partition('/')[0]}\n" for name in rows))
    with pytest.raises(DataError):
        opening.open(index)
    index.write_text(index.read_text() + "cold/last.txt,cold\n")
    for _ in range(2):
        found = opening.open(index)
        assert (found.kind, len(found), found.faults) == ("text", 7, ())
