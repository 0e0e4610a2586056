"""Checkpoints: whole or not at all, known to be whole when read, and never anything that runs."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inflame.errors import CheckpointError, StorageError
from inflame.model.engine import checkpoint


def rich() -> dict[str, Any]:
    """A state with everything that a state may hold."""
    torch.manual_seed(0)
    dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)
    return {
        "net": {"weight": torch.randn(4, 3, 2, 2), "scalar": torch.tensor(2.5), "empty": torch.empty(0, 5)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {"momentum": None}}, "groups": [{"lr": 0.1}]},
        "dtypes": [torch.arange(6).reshape(2, 3).to(dtype) for dtype in dtypes],
        "numbers": [1, -2.5, 1e300, float("inf"), 0.1 + 0.2, True, None, "Käfer 🐞", 2**70],
        "nested": ({"a/b": torch.zeros(2)}, {"a": {"b": torch.ones(2)}}, (1, (2,))),
        "clash": {"0": torch.zeros(1), 0: torch.ones(1)},
        "numpy": np.arange(5, dtype=np.uint32),
        "$": "a key that looks like a mark",
    }


def test_what_is_read_is_what_was_saved(tmp_path: Path, same: Any) -> None:
    state = rich()
    checkpoint.save(state, tmp_path)
    found = checkpoint.load(tmp_path)
    assert found is not None
    numpy, expected = found.pop("numpy"), state.pop("numpy")
    assert numpy.dtype == expected.dtype
    assert (numpy == expected).all()
    assert same(found, state)
    assert isinstance(found["nested"], tuple)
    assert list(found["optimizer"]["state"]) == [0, 1]


def test_any_tool_reads_the_tensors(tmp_path: Path) -> None:
    path = checkpoint.save(rich(), tmp_path)
    tensors = load_file(path)
    assert torch.equal(tensors["net/weight"], rich()["net"]["weight"])
    assert tensors["__sha256__"].shape == (32,)


def test_channels_last_stays_channels_last(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    checkpoint.save({"weight": weight, "turned": torch.randn(3, 2).t()}, tmp_path)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found["weight"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found["weight"], weight)


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.load(tmp_path / "missing") is None


def test_what_cant_be_kept_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint.save({"step": 1}, tmp_path)
    with pytest.raises(TypeError, match=r"Path.*hooks/it"):
        checkpoint.save({"hooks": {"it": tmp_path}}, tmp_path)
    assert checkpoint.load(tmp_path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NEWEST]


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in range(4):
        checkpoint.save({"step": step}, tmp_path)
    assert checkpoint.read(tmp_path / checkpoint.NEWEST) == {"step": 3}
    assert checkpoint.read(tmp_path / checkpoint.PREVIOUS) == {"step": 2}
    assert len(list(tmp_path.iterdir())) == 2


DAMAGE = {
    "a changed byte": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "a changed header": lambda data: data[:20] + b"X" + data[21:],
    "half of it": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "nothing": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "one byte more": lambda data: data + b"\0",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_is_said_and_the_one_before_it_used(tmp_path: Path, how: str) -> None:
    checkpoint.save({"step": 1, "w": torch.ones(50)}, tmp_path)
    newest = checkpoint.save({"step": 2, "w": torch.ones(50)}, tmp_path)
    newest.write_bytes(DAMAGE[how](newest.read_bytes()))
    said: list[str] = []
    found = checkpoint.load(tmp_path, said.append)
    assert found is not None
    assert found["step"] == 1
    assert len(said) == 1
    assert str(newest) in said[0]
    # The damaged one is out of the row: the next save leaves the good one as the one before.
    checkpoint.save({"step": 3}, tmp_path)
    assert checkpoint.read(tmp_path / checkpoint.PREVIOUS)["step"] == 1
    assert (tmp_path / checkpoint.DAMAGED).exists()


def test_when_all_are_damaged_it_says_what_to_do(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save({"step": step}, tmp_path)
    for name in (checkpoint.NEWEST, checkpoint.PREVIOUS):
        (tmp_path / name).write_bytes(b"rubbish" * 20)
    with pytest.raises(CheckpointError, match="No checkpoint can be read") as error:
        checkpoint.load(tmp_path)
    assert "fresh=true" in error.value.remedy


def test_a_kill_between_the_two_renames_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoint.save({"step": 1}, tmp_path)
    os.replace(tmp_path / checkpoint.NEWEST, tmp_path / checkpoint.PREVIOUS)
    (tmp_path / ".tmp-1-00000000.safetensors").write_bytes(b"half written")
    assert checkpoint.load(tmp_path) == {"step": 1}
    checkpoint.save({"step": 2}, tmp_path)
    assert checkpoint.load(tmp_path) == {"step": 2}


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_the_mode_honours_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = checkpoint.save({"step": 1}, tmp_path / "last")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_reading_never_runs_anything(tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/boom",)

    tmp_path.joinpath(checkpoint.NEWEST).write_bytes(pickle.dumps({"net": Bomb()}) + b"\0" * 64)
    torch.save({"net": Bomb()}, tmp_path / checkpoint.PREVIOUS)
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "boom").exists()


# --- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A real file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_old_one(small_disk: Path, same: Any) -> None:
    folder = small_disk / "last"
    small = {"step": 1, "w": torch.randn(1000)}
    checkpoint.save(small, folder)
    with pytest.raises(StorageError, match="full") as error:
        checkpoint.save({"step": 2, "w": torch.randn(100_000)}, folder)
    assert error.value.remedy
    found = checkpoint.load(folder)
    assert same(found, small)
    assert [path.name for path in folder.iterdir()] == [checkpoint.NEWEST]
    checkpoint.save({"step": 3}, folder)  # with room again it goes on


_LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from inflame.errors import StorageError
from inflame.model.engine import checkpoint
folder = Path(sys.argv[1])
checkpoint.save({"step": 1, "w": torch.ones(1000)}, folder)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    checkpoint.save({"step": 2, "w": torch.ones(100_000)}, folder)
except StorageError as error:
    print("StorageError", checkpoint.load(folder)["step"], len(list(folder.iterdir())))
"""


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    assert ran.stdout.split() == ["StorageError", "1", "1"], ran.stderr


def test_a_disk_that_fails_while_syncing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save({"step": 1}, tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError):
            checkpoint.save({"step": 2}, tmp_path)
    assert checkpoint.read(tmp_path / checkpoint.NEWEST) == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


# --- random generators ---------------------------------------------------------------------------


def _draw() -> list[float]:
    return [torch.rand(1).item(), float(np.random.rand()), random.random(), float(np.random.randn())]


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    before = checkpoint.random_state()
    try:
        _draw()  # numpy now holds a second gaussian back
        checkpoint.save(checkpoint.random_state(), tmp_path)
        expected = [_draw() for _ in range(3)]
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        found = checkpoint.load(tmp_path)
        assert found is not None
        checkpoint.set_random_state(found)
        assert [_draw() for _ in range(3)] == expected
    finally:
        checkpoint.set_random_state(before)


def test_the_header_holds_no_more_than_the_state(tmp_path: Path) -> None:
    """No machine, user or path gets into a file that people pass on."""
    path = checkpoint.save({"step": 1, "w": torch.ones(2)}, tmp_path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header.keys() == {"__metadata__", "w", "__sha256__"}
    assert json.loads(header["__metadata__"]["state"]).keys() == {"step", "w"}
