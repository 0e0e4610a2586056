"""Archives: what comes out, what is refused, and that nothing lands outside."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from inflame.artifact import unpack
from inflame.artifact.unpack import Limits
from inflame.errors import DataError, StorageError

NAMES = ["cat/1.jpg", "cat/Ünïcode ☃.jpg", "dog/with space.jpg", "dog/new\nline.jpg"]


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


MEMBERS = {name: name.encode() * 50 for name in NAMES}


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_every_kind_of_archive(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "zip":
        make_zip(path, MEMBERS)
    else:
        make_tar(path, MEMBERS, "w:" + suffix.removeprefix("tar").removeprefix("."))
    assert unpack.is_archive(path)
    assert unpack.unpack(path, tmp_path / "out") == 4
    assert files(tmp_path / "out") == MEMBERS
    assert {p.stat().st_mode & 0o444 for p in (tmp_path / "out").rglob("*.jpg")} == {0o444}


def test_names_that_are_no_utf8_survive_a_tar(tmp_path: Path) -> None:
    name = os.fsdecode(b"cat/caf\xe9.jpg")
    unpack.unpack(make_tar(tmp_path / "a.tar", {name: b"x"}, "w"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "cat").iterdir()] == [os.fsdecode(b"caf\xe9.jpg")]


def test_backslashes_of_windows_tools_are_slashes(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"cat\\1.jpg": b"x"})
    unpack.unpack(path, tmp_path / "out")
    assert files(tmp_path / "out") == {"cat/1.jpg": b"x"}


def test_members_can_be_renamed_and_left_out(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x/a.jpg": b"a", "x/b.txt": b"b"})
    unpack.unpack(path, tmp_path / "out", rename=lambda name: f"y/{name[2:]}" if name.endswith("jpg") else None)
    assert files(tmp_path / "out") == {"y/a.jpg": b"a"}


@pytest.mark.parametrize(
    "name", ["../out.jpg", "a/../../out.jpg", "/etc/out.jpg", "..\\out.jpg", "C:\\out.jpg", "c:/out.jpg", "\\\\host\\x"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    make = make_zip if kind == "zip" else make_tar
    path = make(tmp_path / f"a.{kind}", {"good.jpg": b"x", name: b"evil"})
    with pytest.raises(DataError) as caught:
        unpack.unpack(path, tmp_path / "in" / "out")
    assert "refused" in caught.value.message
    assert b"evil" not in files(tmp_path).values()
    assert set(files(tmp_path)) <= {path.name, "in/out/good.jpg"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(DataError, match="a link or a device"):
        unpack.unpack(path, tmp_path / "out")
    assert files(tmp_path / "out") == {}


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path, info = tmp_path / "a.zip", zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="a link or a device"):
        unpack.unpack(path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_stopped_early(tmp_path: Path, kind: str) -> None:
    members = {f"{n}.jpg": b"\0" * 5_000_000 for n in range(6)}
    path = tmp_path / f"a.{kind}"
    make_zip(path, members) if kind == "zip" else make_tar(path, members)
    with pytest.raises(DataError, match="made to fill the disk"):
        unpack.unpack(path, tmp_path / "out", limits=Limits(free=10_000_000))
    assert sum(len(data) for data in files(tmp_path / "out").values()) <= 10_000_000
    assert unpack.unpack(path, tmp_path / "out", limits=Limits(free=30_000_000)) == 6


def test_too_many_members(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {str(n): b"" for n in range(20)})
    with pytest.raises(DataError, match="more than 10 files"):
        unpack.unpack(path, tmp_path / "out", limits=Limits(members=10))


def test_a_locked_zip_says_so(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.jpg": b"x"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="password"):
        unpack.unpack(path, tmp_path / "out")


def test_damage_is_one_clear_message(tmp_path: Path) -> None:
    noise = os.urandom(30_000)
    for make, name in ((make_zip, "a.zip"), (make_tar, "a.tar.gz")):
        path = make(tmp_path / name, {"a.jpg": noise, "b.jpg": noise[::-1]})
        data = bytearray(path.read_bytes())
        for change in ("flip", "cut", "empty", "text"):
            bad = bytearray(data)
            if change == "flip":
                bad[len(bad) // 2] ^= 0x55
            path.write_bytes(
                {"flip": bad, "cut": data[: len(data) // 2], "empty": b"", "text": b"<html>no</html>"}[change]
            )
            with pytest.raises(DataError) as caught:
                unpack.unpack(path, tmp_path / f"out-{name}-{change}")
            assert "can't be unpacked" in caught.value.message
            assert not list(tmp_path.rglob(".tmp-*"))


def test_a_name_too_long_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be unpacked"):
        unpack.unpack(make_zip(tmp_path / "a.zip", {"x" * 300: b""}), tmp_path / "out")


def test_a_file_and_a_folder_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be unpacked"):
        unpack.unpack(make_zip(tmp_path / "a.zip", {"a": b"", "a/b": b""}), tmp_path / "out")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        unpack.unpack(make_zip(tmp_path / "a.zip", {"a": b""}), tmp_path / "file" / "out")


def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    members = {f"{n % 7}/{n}.jpg": bytes([n % 256]) * 1000 for n in range(3000)}
    path = make_tar(tmp_path / "a.tar.gz", members)
    code = (
        "import sys; from pathlib import Path; from inflame.artifact import unpack;"
        "unpack.unpack(*map(Path, sys.argv[1:]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path), str(tmp_path / "out")])
    deadline = time.monotonic() + 20
    while not (tmp_path / "out/0/0.jpg").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    complete = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.jpg")}
    assert complete
    assert unpack.unpack(path, tmp_path / "out") == 3000
    assert {name: data for name, data in files(tmp_path / "out").items() if ".tmp-" not in name} == members
    assert all(p.stat().st_mtime_ns == changed for p, changed in complete.items())
