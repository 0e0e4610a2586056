"""Sharding: nothing lost, nothing twice, whatever is killed; pictures made smaller; the same bytes from any number of
workers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inflame import artifact
from inflame.artifact import finding, quick, shard
from inflame.artifact.preprocess import PictureError
from inflame.artifact.shard import Recipe
from inflame.cli.main import main
from inflame.errors import DataError, SettingError

SMALL = Recipe(shard_mb=0.02, size=32)


@pytest.mark.parametrize("to", shard.FORMATS)
def test_every_item_is_in_one_shard_with_its_label(photos: Path, tmp_path: Path, to: str) -> None:
    source = finding.listed(photos)
    told: list[tuple[int, int]] = []
    index = shard.shard(
        source,
        tmp_path / "out",
        Recipe(to=to, shard_mb=0.02, size=32),
        workers=1,
        progress=lambda done, total: told.append((done, total)),
    )
    assert index["items"] == len(source) == told[-1][0]
    assert len(index["shards"]) > 2
    assert index == shard.verify(tmp_path / "out")
    found = artifact.open(tmp_path / "out")
    original = artifact.open(photos)
    assert found.classes == original.classes
    assert sorted(found.items["label"].to_pylist()) == sorted(original.items["label"].to_pylist())


def test_workers_do_not_change_a_byte(photos: Path, tmp_path: Path) -> None:
    source = finding.listed(photos)
    one = shard.shard(source, tmp_path / "one", SMALL, workers=1)
    two = shard.shard(source, tmp_path / "two", SMALL, workers=2)
    assert [note["sha256"] for note in one["shards"]] == [note["sha256"] for note in two["shards"]]
    other = shard.shard(source, tmp_path / "other", Recipe(shard_mb=0.02, size=32, seed=1), workers=1)
    assert one["shards"][0]["sha256"] != other["shards"][0]["sha256"]


def test_one_shard_is_shared_by_all_workers(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few shards don't leave processes without work; bad items are told in their order."""
    monkeypatch.setattr(shard, "_CHUNK", 5)
    bad = photos / "lime" / "lime_03.jpg"
    bad.write_bytes(b"<html>not found</html>")
    recipe, source = Recipe(shard_mb=100, size=32, skip_bad=True), finding.listed(photos)
    one = shard.shard(source, tmp_path / "one", recipe, workers=1)
    two = shard.shard(source, tmp_path / "two", recipe, workers=2)
    assert len(one["shards"]) == 1
    assert [note["sha256"] for note in one["shards"]] == [note["sha256"] for note in two["shards"]]
    assert [item["uri"] for item in two["skipped"]] == ["lime/lime_03.jpg"]
    with pytest.raises(DataError, match="lime_03"):
        shard.shard(source, tmp_path / "three", Recipe(shard_mb=100, size=32), workers=2)


def test_a_second_call_makes_only_what_lacks(photos: Path, tmp_path: Path) -> None:
    source = finding.listed(photos)
    first = shard.shard(source, tmp_path / "out", SMALL, workers=1)
    name = first["shards"][1]["name"]
    (tmp_path / "out" / name).unlink()
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tfrecord")}
    again = shard.shard(source, tmp_path / "out", SMALL, workers=1)
    assert again == first
    assert all((tmp_path / "out" / kept).stat().st_mtime_ns == when for kept, when in times.items())


def test_other_data_or_another_recipe_is_refused(photos: Path, tmp_path: Path) -> None:
    source = finding.listed(photos)
    shard.shard(source, tmp_path / "out", SMALL, workers=1)
    with pytest.raises(SettingError, match="other data, or made in another way"):
        shard.shard(source, tmp_path / "out", Recipe(shard_mb=0.02, size=48), workers=1)
    with pytest.raises(SettingError, match="tfrecrd"):
        shard.shard(source, tmp_path / "new", Recipe(to="tfrecrd"))


def test_a_changed_byte_is_found_by_verify(photos: Path, tmp_path: Path) -> None:
    index = shard.shard(finding.listed(photos), tmp_path / "out", SMALL, workers=1)
    path = tmp_path / "out" / index["shards"][0]["name"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=path.name):
        shard.verify(tmp_path / "out")


def test_a_bad_item_is_named_or_left_out(photos: Path, tmp_path: Path) -> None:
    bad = next(photos.rglob("*.jpg"))
    bad.write_bytes(b"<html>not found</html>")
    uri = bad.relative_to(photos).as_posix()
    with pytest.raises(DataError, match=uri):
        shard.shard(finding.listed(photos), tmp_path / "out", SMALL, workers=1)
    skipping = Recipe(shard_mb=0.02, size=32, skip_bad=True)
    index = shard.shard(finding.listed(photos), tmp_path / "skipped", skipping, workers=1)
    assert [item["uri"] for item in index["skipped"]] == [uri]
    assert index["items"] == len(finding.listed(photos)) - 1


@pytest.mark.parametrize("verb", ["check", "split", "shard"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_the_rest_of_a_damaged_shard_is_read_when_asked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, damage: str
) -> None:
    shards = tmp_path / "shards"
    index = shard.shard(finding.listed(photos), shards, SMALL, workers=1)
    path = shards / index["shards"][0]["name"]
    data = bytearray(path.read_bytes())
    record = 0 if damage == "flipped" else index["shards"][0]["items"] - 1
    if damage == "flipped":
        data[500] ^= 1
    path.write_bytes(data if damage == "flipped" else data[:-9])
    words = [verb, str(shards), *([str(tmp_path / "again"), "--workers", "1"] if verb == "shard" else [])]
    assert main(words) == 2
    assert f"{path.name}, record {record} " in capsys.readouterr().err
    assert main([*words, "--skip-bad", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    if verb == "check":
        named = [item for fault in found["faults"] if fault["kind"] == "unreadable" for item in fault["items"]]
        assert named == [f"{path.name}#{record}"]
    count = sum(map(len, found.values())) if verb == "split" else found["items"]
    assert count == index["items"] - 1


def picture(size: tuple[int, int], form: str = "JPEG", mode: str = "RGB", **how: object) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).convert(mode).save(file, form, **how)
    return file.getvalue()


def test_pictures_are_made_smaller_and_small_ones_left_alone() -> None:
    data, ext, size = shard.resized(picture((400, 300)), 128, "x")
    assert (ext, size) == (".jpg", (171, 128))
    assert Image.open(io.BytesIO(data)).size == (171, 128)
    small = picture((100, 90))
    assert shard.resized(small, 128, "x") == (small, ".jpg", (100, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture((400, 300), exif=exif)
    assert shard.resized(turned, 128, "x")[2] == (128, 171)
    assert shard.resized(picture((300, 300), "WEBP"), 128, "x")[1:] == (".jpg", (128, 128))
    with pytest.raises(PictureError):
        shard.resized(b"junk", 128, "x")


def test_scaled_decoding_looks_the_same() -> None:
    large = picture((1600, 1200))
    mine = np.asarray(Image.open(io.BytesIO(shard.resized(large, 128, "x")[0])), dtype=float)
    whole = Image.open(io.BytesIO(large)).resize((171, 128), Image.Resampling.BILINEAR)
    assert np.abs(mine - np.asarray(whole, dtype=float)).mean() < 3


def test_only_ordinary_photos_take_the_quick_way() -> None:
    assert quick.ordinary(picture((400, 300))) == (400, 300)
    assert quick.ordinary(picture((400, 300), progressive=True)) == (400, 300)
    exif = Image.Exif()
    exif[0x0112] = 6
    for other in (
        picture((400, 300), exif=exif),
        picture((400, 300), "PNG"),
        picture((400, 300))[:-9],
        picture((9000, 6000), progressive=True, quality=20),  # 54 million pixels, passed over ten times
        picture((400, 300), mode="L"),
        picture((400, 300), mode="CMYK"),
        b"",
    ):
        assert quick.ordinary(other) is None


@pytest.mark.parametrize(
    "how", [{}, {"subsampling": 0}, {"comment": b"\xff\xc0"}, {"dpi": (72, 72)}, {"optimize": True}]
)
def test_the_size_in_a_plain_head_is_that_of_the_picture(how: dict[str, object]) -> None:
    whole = picture((401, 300), **how)  # type: ignore[arg-type]
    assert quick._plainest(whole) == (401, 300)
    for cut in range(0, len(whole), 37):
        assert quick._plainest(whole[:cut]) in (None, (401, 300))


def test_texts_and_tables_are_sharded_too(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text(
        "text,label,split\n" + "".join(f"some words {n},k{n % 2},train\n" for n in range(9))
    )
    index = shard.shard(finding.listed(tmp_path / "news.csv"), tmp_path / "out", Recipe(shard_mb=1), workers=1)
    assert index["kind"] == "text"
    found = artifact.open(tmp_path / "out")
    assert (found.kind, len(found), found.classes) == ("text", 9, ("k0", "k1"))


def test_a_kill_loses_nothing(photos: Path, tmp_path: Path) -> None:
    """SIGKILL again and again while shards are made; then the same command ends with the same bytes."""
    whole = shard.shard(finding.listed(photos), tmp_path / "whole", SMALL, workers=1)
    line = (
        "import sys, time\nfrom inflame.artifact import finding, shard\n"
        "make = shard.make\n"
        "def slow(job):\n    time.sleep(0.05)\n    return make(job)\n"
        "shard.make = slow\n"
        "shard.shard(finding.listed(sys.argv[1]), sys.argv[2], shard.Recipe(shard_mb=0.02, size=32), workers=1)\n"
    )
    command = [sys.executable, "-c", line, str(photos), str(tmp_path / "out")]
    for _ in range(3):
        process = subprocess.Popen(command, env={**os.environ})
        deadline = time.monotonic() + 30
        before = len(list((tmp_path / "out").glob("notes/*")))
        while len(list((tmp_path / "out").glob("notes/*"))) == before and time.monotonic() < deadline:
            if process.poll() is not None:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, env={**os.environ}, check=True).returncode == 0
    index = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert [note["sha256"] for note in index["shards"]] == [note["sha256"] for note in whole["shards"]]
    for note in index["shards"]:
        assert hashlib.sha256((tmp_path / "out" / note["name"]).read_bytes()).hexdigest() == note["sha256"]


def test_into_a_bucket_and_out_of_one(photos: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in photos.rglob("*.jpg"):
        memory.pipe(f"/raw/{path.relative_to(photos).as_posix()}", path.read_bytes())
    try:
        source = finding.listed("memory://raw")
        assert len(source) == 36
        index = shard.shard(source, "memory://shards", SMALL, workers=1)
        assert index == shard.verify("memory://shards")
        opened = artifact.open("memory://raw")
        assert opened.version == artifact.open(photos).version
    finally:
        memory.rm("/raw", recursive=True)
        memory.rm("/shards", recursive=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_makes_the_same_bytes_also_when_a_worker_dies(photos: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from inflame.artifact import shard_ray

    whole = shard.shard(finding.listed(photos), tmp_path / "whole", SMALL, workers=1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        run, killed = shard_ray.runner(cluster.address), []

        def watched(jobs: object) -> object:
            for note in run(jobs):  # type: ignore[arg-type]
                if not killed:
                    killed.append(cluster.remove_node(second, allow_graceful=False))
                yield note

        index = shard.shard(finding.listed(photos), tmp_path / "out", SMALL, run=watched)  # type: ignore[arg-type]
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed
    assert [note["sha256"] for note in index["shards"]] == [note["sha256"] for note in whole["shards"]]
