"""Bad input and bad luck: one clear message with the remedy, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

TRAIN = ("hyperparam.num_epochs=1",)


def inflame(*words: str | Path, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; its exit code and that it shows no traceback are checked."""
    command = [sys.executable, "-m", "inflame", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code == 2:
        assert "do:" in done.stderr
    return done


def test_missing_empty_and_foreign_folders(tmp_path: Path) -> None:
    assert "nowhere" in inflame("train", tmp_path / "nowhere", code=2).stderr
    (tmp_path / "empty").mkdir()
    inflame("train", tmp_path / "empty", code=2)
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "notes.txt").write_text("no picture")
    inflame("train", tmp_path / "texts", code=2)


def test_one_class_only(photos: Path) -> None:
    for name in ("apple", "lime"):
        shutil.rmtree(photos / name)
    assert "one class, plum" in inflame("train", photos, code=2).stderr


def test_typos_are_answered_with_the_right_word() -> None:
    assert "train" in inflame("trian", "mnist", code=2).stderr
    assert "hyperparam.learning_rate" in inflame("train", "mnist", "hyperparam.learning_rat=1", code=2).stderr
    inflame("train", "mnist", "hyperparam.batch_size=abc", code=2)


def bomb(path: Path, width: int, height: int) -> None:
    """A valid PNG of zeros, tiny on disk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * min(height, 2000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_bad_files_among_good_ones_are_left_out_and_named(photos: Path) -> None:
    good = (photos / "lime" / "lime_00.jpg").read_bytes()
    (photos / "lime" / "cut.jpg").write_bytes(good[: len(good) // 2])
    (photos / "lime" / "none.jpg").write_bytes(b"")
    (photos / "plum" / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    bomb(photos / "plum" / "bomb.png", 50_000, 50_000)
    Image.new("RGB", (50_000, 1), "purple").save(photos / "plum" / "a line é ü.png")
    (photos / "pear").mkdir()
    Image.new("RGB", (70, 70), "yellow").save(photos / "pear" / "only one.png")
    done = inflame("train", photos, *TRAIN, "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    faults = json.loads((Path(found["run"]) / "dataset.json").read_text())["faults"]
    unreadable = {item for fault in faults if fault["kind"] == "unreadable" for item in fault["items"]}
    assert unreadable == {"lime/cut.jpg", "lime/none.jpg", "plum/page.jpg", "plum/bomb.png"}
    assert {fault["kind"] for fault in faults} >= {"unreadable", "small_class"}
    assert len(done.stderr.splitlines()) <= 25


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "train", "mnist", "io.training_input=digits", f"output={tmp_path}/file/run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "do:" in done.stderr
    assert "Traceback" not in done.stderr


def begun(home: Path, seed: int) -> subprocess.Popen[str]:
    """A training that has saved its first checkpoint."""
    child = subprocess.Popen(training(seed), stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if list(home.glob("runs/*/last/checkpoint.safetensors")):
            return child
        time.sleep(0.1)
    child.kill()
    raise AssertionError("no checkpoint within a minute")


def training(seed: int) -> list[str]:
    words = ("mnist", "io.training_input=digits", f"seed={seed}", "hyperparam.num_epochs=12", "limit=900")
    return [sys.executable, "-m", "inflame", "train", *words]


def test_a_killed_training_goes_on_with_the_same_command(home: Path) -> None:
    with begun(home, 1) as child:
        child.send_signal(signal.SIGKILL)
    done = subprocess.run(training(1), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on" in done.stderr
    assert "resume" in done.stderr
    (run,) = home.glob("runs/*")
    assert json.loads((run / "status.json").read_text())["state"] == "done"


def test_a_damaged_checkpoint_is_said_and_survived(home: Path) -> None:
    with begun(home, 2) as child:
        child.send_signal(signal.SIGKILL)
    for path in home.glob("runs/*/last/checkpoint.safetensors"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    done = subprocess.run(training(2), capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)
    if done.returncode == 1:  # every copy was damaged: said, with what to do
        assert "fresh=true" in done.stderr


def test_a_bundle_with_a_changed_byte_is_refused(photos: Path, home: Path) -> None:
    inflame("train", photos, *TRAIN)
    picture = photos / "lime" / "lime_00.jpg"
    assert json.loads(inflame("predict", picture, "--json").stdout)
    (model,) = home.glob("runs/*/bundle/model.onnx")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert "can't be trusted" in inflame("predict", picture, code=2).stderr


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        command = [*training(3), f"output={place}/run"]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "do:" in done.stderr
    finally:
        subprocess.run(["umount", str(place)], check=True)
