import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from inflame import store
from inflame.errors import DataError, MissingExtra, NetworkError, StorageError, UserError


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


PLACES = ["plain", "file", "memory"]


@pytest.fixture(params=PLACES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same promises hold for a path, a file:// uri and a remote uri."""
    name = "a b é"
    return {"plain": str(tmp_path / name), "file": (tmp_path / name).as_uri(), "memory": f"memory://{tmp_path.name}"}[
        request.param
    ]


def test_what_is_written_is_read(folder: str) -> None:
    uri = store.join(folder, "deep", "x.txt")
    assert not store.exists(uri)
    store.write(uri, "çà")
    store.write(store.join(folder, "deep", "b.bin"), b"\x00\xff")
    assert store.exists(uri)
    assert store.read_text(uri) == "çà"
    assert store.read_bytes(store.join(folder, "deep", "b.bin")) == b"\x00\xff"
    assert store.listdir(store.join(folder, "deep")) == ["b.bin", "x.txt"]
    with store.open_uri(uri, "w") as file:
        file.write("new\n")
    with store.open_uri(uri, "r") as file:
        assert file.read() == "new\n"


def test_nothing_there_is_said(folder: str) -> None:
    for act in (store.read_bytes, store.read_text, store.listdir):
        with pytest.raises(DataError, match="does not exist") as caught:
            act(store.join(folder, "none"))
        assert caught.value.where


def test_bytes_that_are_no_text_are_said(tmp_path: Path) -> None:
    store.write(tmp_path / "x", b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        store.read_text(tmp_path / "x")


def test_a_file_name_that_is_no_text_comes_back_through_json(tmp_path: Path) -> None:
    import json

    name = os.fsdecode(b"caf\xe9.jpg")
    store.write(tmp_path / "x.json", json.dumps({"name": name}, ensure_ascii=False))
    assert json.loads(store.read_text(tmp_path / "x.json"))["name"] == name


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    store.write(tmp_path / "x", "1")
    with pytest.raises(StorageError, match="in the way"):
        store.write(tmp_path / "x" / "y", "1")


def test_atomic_has_the_usual_mode_whatever_the_writer_does(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store.write(tmp_path / "a", "1")
        with store.atomic(tmp_path / "b.npy") as temporary:
            assert temporary.suffix == ".npy"
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as tempfile makes them
        with store.atomic_folder(tmp_path / "c") as temporary:
            os.close(os.open(temporary / "x", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    for name in ("a", "b.npy", "c/x"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640, name
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_leaves_nothing_and_spoils_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    store.write(tmp_path / "f", "old")
    store.write(tmp_path / "d" / "x", "old")

    def fail(writer: Callable[[Path], AbstractContextManager[Path]], name: str, inside: str) -> None:
        with writer(tmp_path / name) as temporary:
            (temporary / inside).write_text("half")
            raise error

    with pytest.raises(error):
        fail(store.atomic, "f", "")
    with pytest.raises(error):
        fail(store.atomic_folder, "d", "x")
    assert names(tmp_path) == ["d", "f"]
    assert (tmp_path / "f").read_text() == "old"
    assert (tmp_path / "d" / "x").read_text() == "old"


@pytest.mark.parametrize("exchange", [True, False])
def test_atomic_folder_replaces_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(store, "_exchange", lambda one, other: False)
    for name in ("one", "two"):
        with store.atomic_folder(tmp_path / "d") as temporary:
            (temporary / name).write_text(name)
    assert names(tmp_path / "d") == ["two"]
    assert names(tmp_path) == ["d"]


def test_a_killed_writer_leaves_the_old_file_and_can_be_swept_up_after(tmp_path: Path) -> None:
    store.write(tmp_path / "run" / "f.txt", "old")
    code = (
        "import os, sys; from inflame import store\n"
        "with store.atomic(sys.argv[1]) as t:\n    t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run" / "f.txt")], check=False)
    assert (tmp_path / "run" / "f.txt").read_text() == "old"
    assert len(names(tmp_path / "run")) == 2
    assert store.listdir(tmp_path / "run") == ["f.txt"]
    assert store.sweep(tmp_path) == 1
    assert names(tmp_path / "run") == ["f.txt"]


def test_a_link_that_a_kill_left_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / ".tmp-1-0123abcd").symlink_to(tmp_path / "kept", target_is_directory=True)
    assert store.sweep(tmp_path) == 1
    assert names(tmp_path) == ["kept"]


def test_atomic_writes_through_a_link(tmp_path: Path) -> None:
    store.write(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")],
)
def test_a_disk_that_refuses_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=says) as caught:
        store.write(tmp_path / "f", "x")
    assert "same command" in caught.value.remedy
    assert names(tmp_path) == []


def test_a_really_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(StorageError, match="full"), store.guard("x"):
        Path("/dev/full").write_text("x")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), store.atomic(tmp_path / "f"):
        1 / 0  # noqa: B018
    with pytest.raises(FileNotFoundError), store.guard("x"):
        (tmp_path / "none").read_text()


def test_home_is_made_on_demand(home: Path) -> None:
    assert store.home() == home
    assert names(home) == ["cache", "data", "runs"]


def test_home_can_be_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INFLAME_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.home() == tmp_path / ".inflame"


def test_home_in_a_file_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store.write(tmp_path / "x", "")
    monkeypatch.setenv("INFLAME_HOME", str(tmp_path / "x"))
    with pytest.raises(StorageError) as caught:
        store.home()
    assert "INFLAME_HOME" in caught.value.remedy


def test_mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    assert store.mirror() is None
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path))
    assert store.mirror() == tmp_path
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path / "none"))
    with pytest.raises(UserError, match="INFLAME_MIRROR"):
        store.mirror()


def test_files_go_there_and_come_back(folder: str, tmp_path: Path) -> None:
    file, uri = tmp_path / "large.bin", store.join(folder, "deep", "large.bin")
    file.write_bytes(bytes(range(256)) * 999)
    store.upload(file, uri)
    assert store.read_bytes(uri) == file.read_bytes()
    if store.local(uri) is None:
        store.download(uri, tmp_path / "back" / "large.bin")
        assert (tmp_path / "back" / "large.bin").read_bytes() == file.read_bytes()
        with pytest.raises(DataError, match="does not exist"):
            store.download(f"{uri}.none", tmp_path / "none")
        assert not (tmp_path / "none").exists()


def test_a_scheme_that_nobody_knows_gets_a_guess() -> None:
    with pytest.raises(UserError, match='Did you mean "https://"'):
        store.read_bytes("htps://host/x")


def test_a_missing_driver_is_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def refuse(name: str) -> None:
        raise ImportError(f"Install {name}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", refuse)
    with pytest.raises(MissingExtra) as caught:
        store.read_bytes("s3://bucket/key")
    assert caught.value.remedy == "pip install 'inflame[s3]'"


def test_a_driver_that_breaks_is_a_network_error_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def breaks(*args: object, **more: object) -> bytes:
        raise RuntimeError("anything")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", breaks)
    with pytest.raises(NetworkError, match="anything") as caught:
        store.read_bytes("memory://user:secret@host/key?signature=secret")
    assert "secret" not in caught.value.explain()


def test_plain_paths_never_import_fsspec(tmp_path: Path) -> None:
    code = (
        "import sys; from inflame import store\n"
        "store.write(sys.argv[1], 'x'); store.read_text(sys.argv[1]); store.listdir(sys.argv[2])\n"
        "print([name for name in ('fsspec', 'numpy', 'torch', 'pyarrow', 'hydra') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "x"), str(tmp_path)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"
