"""What a folder means: labels, splits, and what is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inflame.artifact import listing
from inflame.errors import DataError
from inflame.records import Dataset, Fault


def lay(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    return root


def rows(found: Dataset) -> set[tuple[str, str, str]]:
    columns = (found.items[name].to_pylist() for name in ("uri", "label", "split"))
    return set(zip(*columns, strict=True))


def fault(found: Dataset, word: str) -> Fault:
    (one,) = [fault for fault in found.faults if word in fault.reason]
    return one


def test_class_folders(tmp_path: Path) -> None:
    found = listing.folder(lay(tmp_path / "my photos", "cat/1.jpg", "dog/2.PNG", "dog/deep/er/3.webp", "cat/nosuffix"))
    assert rows(found) == {
        ("cat/1.jpg", "cat", ""),
        ("cat/nosuffix", "cat", ""),
        ("dog/2.PNG", "dog", ""),
        ("dog/deep/er/3.webp", "dog", ""),
    }
    assert (found.name, found.classes, found.faults) == ("my photos", ("cat", "dog"), ())
    assert found.items["size"].to_pylist() == [1] * 4


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "VALIDATION", "Testing"), ("train", "val", "test")),
        (("train", "dev", "evaluation"), ("train", "val", "test")),
        (("train", "eval", "test"), ("train", "val", "test")),
        (("train", "valid"), ("train", "val")),
        (("train", "eval"), ("train", "test")),
        (("train",), ("train",)),
    ],
)
def test_split_folders(tmp_path: Path, folders: tuple[str, ...], splits: tuple[str, ...]) -> None:
    names = [f"{folder}/{kind}/{folder}.jpg" for folder in folders for kind in ("cat", "dog")]
    found = listing.folder(lay(tmp_path, *names))
    assert {split for _, _, split in rows(found)} == set(splits)
    assert found.classes == ("cat", "dog")


def test_trains_may_be_a_class(tmp_path: Path) -> None:
    found = listing.folder(lay(tmp_path, "train/1.jpg", "plane/2.jpg", "test tube/3.jpg"))
    assert found.classes == ("plane", "test tube", "train")
    assert {split for _, _, split in rows(found)} == {""}


def test_a_wrapping_folder_is_looked_through(tmp_path: Path) -> None:
    found = listing.folder(lay(tmp_path, "repo-main/photos/cat/1.jpg", "repo-main/photos/dog/2.jpg"))
    assert found.classes == ("cat", "dog")
    assert ("repo-main/photos/cat/1.jpg", "cat", "") in rows(found)
    wrapped = listing.folder(lay(tmp_path / "b", "x/train/cat/1.jpg", "x/test/cat/2.jpg"))
    assert {split for _, _, split in rows(wrapped)} == {"train", "test"}


def test_one_class_is_listed_and_left_to_others_to_judge(tmp_path: Path) -> None:
    assert listing.folder(lay(tmp_path / "a", "cat/1.jpg")).classes == ("cat",)
    assert listing.folder(lay(tmp_path / "b", "cat/indoor/1.jpg")).classes == ("cat",)


def test_an_empty_class_keeps_its_name(tmp_path: Path) -> None:
    assert listing.folder(lay(tmp_path, "cat/1.jpg", "dog/")).classes == ("cat", "dog")


def test_what_systems_leave_about_is_ignored_and_told(tmp_path: Path) -> None:
    junk = [".DS_Store", "cat/Thumbs.db", "cat/._1.jpg", "__MACOSX/cat/1.jpg", "cat/desktop.ini", ".git/x.jpg"]
    found = listing.folder(lay(tmp_path, "cat/1.jpg", "dog/2.jpg", *junk))
    assert len(found) == 2
    told = fault(found, "system")
    assert (told.kind, told.severity) == ("junk", "info")
    assert set(told.items) == {".DS_Store", "cat/Thumbs.db", "cat/._1.jpg", "__MACOSX", "cat/desktop.ini", ".git"}


def test_other_files_and_pictures_without_a_class_are_told(tmp_path: Path) -> None:
    found = listing.folder(lay(tmp_path, "cat/1.jpg", "dog/2.jpg", "flat.jpg", "README.md", "SHA256SUMS", "cat/a.txt"))
    assert len(found) == 2
    assert fault(found, "no label").items == ("flat.jpg",)
    assert fault(found, "not a picture").items == ("cat/a.txt",)


def test_folders_beside_the_splits_are_told(tmp_path: Path) -> None:
    found = listing.folder(lay(tmp_path, "train/cat/1.jpg", "test/cat/2.jpg", "extra/x/3.jpg", "train/4.jpg"))
    assert len(found) == 2
    assert set(fault(found, "no label").items) == {"extra/x/3.jpg", "train/4.jpg"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "is empty"),
        (("cat/", "dog/"), "is empty"),
        (("a/1.doc", "b/2.doc", "b/3.pdf"), "no pictures, only other files (2 .doc, 1 .pdf)"),
        (("1.jpg", "2.jpg"), "2 pictures lie flat"),
        (("train/1.jpg", "test/2.jpg"), "1 picture lies flat in"),
        ((".DS_Store",), "is empty"),
    ],
)
def test_nothing_to_learn_from(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError) as caught:
        listing.folder(lay(tmp_path, *names))
    assert said in caught.value.message
    assert "photos/cat/1.jpg" in caught.value.remedy


STRANGE = ["a b", "ünï☃", "new\nline", "tab\t", "quote'\"", "#1", "%20", "café", " lead", os.fsdecode(b"raw\xff\xe9")]


def test_strange_names_work_everywhere(tmp_path: Path) -> None:
    found = listing.folder(lay(tmp_path, *(f"{name}/{name}.jpg" for name in STRANGE)))
    assert len(found) == len(found.classes) == len(STRANGE)
    for uri, label, _ in rows(found):
        uri.encode()
        label.encode()
        assert listing.locate(found.root, uri).read_bytes() == b"x"
        assert uri == f"{label}/{label}.jpg"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "dog/2.jpg")
    for folder in ("cat", "dog"):
        (tmp_path / folder / "up").symlink_to(tmp_path)
        (tmp_path / folder / "self").symlink_to(".")
    (tmp_path / "cat" / "other").symlink_to("../dog")
    found = listing.folder(tmp_path)
    assert len(found) == 2
    assert len(fault(found, "a link to a folder").items) == 5


def test_linked_folders_and_pictures_are_followed(tmp_path: Path) -> None:
    lay(tmp_path / "real", "1.jpg")
    lay(tmp_path / "set", "dog/2.jpg")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "dog" / "3.jpg").symlink_to(tmp_path / "real" / "1.jpg")
    (tmp_path / "set" / "dog" / "gone.jpg").symlink_to("nowhere")
    assert {uri for uri, _, _ in rows(listing.folder(tmp_path / "set"))} == {
        "cat/1.jpg",
        "dog/2.jpg",
        "dog/3.jpg",
        "dog/gone.jpg",
    }


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "dog/2.jpg")
    os.mkfifo(tmp_path / "cat" / "3.jpg")
    assert len(listing.folder(tmp_path)) == 2


def test_very_deep_folders(tmp_path: Path) -> None:
    deep = tmp_path / "cat"
    deep.mkdir()
    for _ in range(1200):
        deep = deep / "d"
        deep.mkdir()
    lay(deep, "1.jpg")
    lay(tmp_path, "dog/2.jpg")
    try:
        found = listing.folder(tmp_path)
    finally:
        (deep / "1.jpg").unlink()
        os.removedirs(deep)  # pytest's own clearing up would fall over it
    assert found.classes == ("cat", "dog")
    assert len(found) == 2


def test_nothing_is_written(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "dog/2.jpg")
    before = sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    listing.folder(tmp_path)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
