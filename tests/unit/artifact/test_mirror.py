"""INFLAME_MIRROR: a folder or a web address, checked by its SHA256SUMS."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from inflame.artifact import mirror
from inflame.errors import StorageError

FILES = {"train/cat/1.jpg": b"one", "train/cat/a ö#b%20c.jpg": b"two", "README.md": b"three"}


def lay_out(folder: Path) -> str:
    lines = []
    for name, data in FILES.items():
        path = folder / "my_set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        lines.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
    return "".join(lines)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    sums = lay_out(folder)
    (folder / "my_set" / "SHA256SUMS").write_text(sums)
    monkeypatch.setenv("INFLAME_MIRROR", str(folder))
    return folder / "my_set"


def pictures(name: str) -> str | None:
    return name if name.endswith(".jpg") else None


def found(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


WANTED = {name: data for name, data in FILES.items() if pictures(name)}


def test_files_are_copied_and_checked(place: Path, tmp_path: Path) -> None:
    assert mirror.copy("my-set", tmp_path / "out", pictures) == ""
    assert found(tmp_path / "out") == WANTED


def test_a_changed_file_is_named(place: Path, tmp_path: Path) -> None:
    (place / "train/cat/1.jpg").write_bytes(b"0ne")
    trouble = mirror.copy("my-set", tmp_path / "out", pictures)
    assert "train/cat/1.jpg: wrong content" in trouble
    assert "train/cat/1.jpg" not in found(tmp_path / "out")


def test_without_sums_a_folder_is_taken_as_it_is(place: Path, tmp_path: Path) -> None:
    (place / "SHA256SUMS").unlink()
    assert mirror.copy("my-set", tmp_path / "out", pictures) == ""
    assert found(tmp_path / "out") == WANTED


def test_what_is_there_is_kept_and_what_is_missing_comes(place: Path, tmp_path: Path) -> None:
    mirror.copy("my-set", tmp_path / "out", pictures)
    kept = tmp_path / "out/train/cat/1.jpg"
    changed = kept.stat().st_mtime_ns
    (tmp_path / "out/train/cat/a ö#b%20c.jpg").unlink()
    assert mirror.copy("my-set", tmp_path / "out", pictures) == ""
    assert found(tmp_path / "out") == WANTED
    assert kept.stat().st_mtime_ns == changed


@pytest.mark.parametrize("value", ["", "  ", "/nowhere/at/all"])
def test_no_mirror_is_an_answer_not_an_error(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_MIRROR", value)
    assert mirror.copy("my-set", tmp_path / "out", pictures)
    assert not (tmp_path / "out").exists()


def test_a_set_without_fitting_files_is_an_answer_too(place: Path, tmp_path: Path) -> None:
    assert "none of its files" in mirror.copy("my-set", tmp_path / "out", lambda _: None)


@pytest.mark.parametrize("line", ["nonsense", f"{'0' * 64}  ../../etc/passwd", f"{'0' * 64}  /etc/passwd"])
def test_sums_that_lead_outside_are_refused(place: Path, tmp_path: Path, line: str) -> None:
    (place / "SHA256SUMS").write_text(f"\n{line}\n")
    assert "line 2" in mirror.copy("my-set", tmp_path / "out", lambda name: name)
    assert not (tmp_path / "out").exists()


def test_a_mirror_on_the_web(web: Any, hasty: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files = {f"/data/my_set/{name}": data for name, data in FILES.items()}
    web.files["/data/my_set/SHA256SUMS"] = lay_out(tmp_path / "unused").encode()
    monkeypatch.setenv("INFLAME_MIRROR", web.url("/data/"))
    assert mirror.copy("my-set", tmp_path / "out", pictures) == ""
    assert found(tmp_path / "out") == WANTED
    web.files["/data/my_set/train/cat/1.jpg"] = b"0ne"
    assert "wrong content" in mirror.copy("my-set", tmp_path / "other", pictures)
    del web.files["/data/my_set/SHA256SUMS"]
    assert "SHA256SUMS could not be read" in mirror.copy("my-set", tmp_path / "third", pictures)


def test_a_mirror_behind_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for name, data in FILES.items():
        system.pipe_file(f"/bucket/my_set/{name}", data)
    system.pipe_file("/bucket/my_set/SHA256SUMS", lay_out(tmp_path / "unused").encode())
    monkeypatch.setenv("INFLAME_MIRROR", "memory://bucket")
    assert mirror.copy("my-set", tmp_path / "out", pictures) == ""
    assert found(tmp_path / "out") == WANTED


def test_a_disk_that_cannot_be_written_is_an_error(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        mirror.copy("my-set", tmp_path / "file" / "out", pictures)


def test_addresses_of_single_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    assert mirror.urls("my-set", "a b.gz") == ()
    monkeypatch.setenv("INFLAME_MIRROR", "https://host/data")
    assert mirror.urls("my-set", "a b.gz") == ("https://host/data/my_set/a%20b.gz",)
    monkeypatch.setenv("INFLAME_MIRROR", "/data")
    assert mirror.urls("my-set", "a b.gz") == ("/data/my_set/a b.gz",)
