"""The libraries that shards are named after read them: TensorFlow, webdataset, Hugging Face's datasets."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inflame.artifact import finding, shard
from inflame.artifact.contents import Contents

_TENSORFLOW = """
import base64, json, sys
import tensorflow as tf

wanted = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/format": tf.io.FixedLenFeature([], tf.string),
    "image/class/text": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
    "image/filename": tf.io.FixedLenFeature([], tf.string),
    "split": tf.io.FixedLenFeature([], tf.string, default_value=""),
}
records = tf.data.TFRecordDataset(sys.argv[1:]).map(lambda record: tf.io.parse_single_example(record, wanted))
found = []
for item in records:
    shape = tf.io.decode_jpeg(item["image/encoded"]).shape
    found.append({
        "data": base64.b64encode(item["image/encoded"].numpy()).decode(),
        "ext": item["image/format"].numpy().decode(),
        "label": item["image/class/text"].numpy().decode(),
        "number": int(item["image/class/label"]),
        "size": [int(item["image/height"]), int(item["image/width"])],
        "shape": list(shape),
        "uri": item["image/filename"].numpy().decode(),
        "split": item["split"].numpy().decode(),
    })
print(json.dumps(found))
"""


@pytest.fixture
def made(photos: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, dict[str, Any]]:
    """Shards of the photos in a format, several of them, and their index."""
    (photos / "lime").rename(photos / "süß & neu")  # names that are no ASCII
    recipe = shard.Recipe(to=request.param, shard_mb=0.02, size=32)
    return tmp_path / "out", shard.shard(finding.listed(photos), tmp_path / "out", recipe, workers=1)


def _ours(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(label, bytes) of each item as inflame reads them, in the order of the shards."""
    found, source = finding.listed(folder), Contents(folder)
    for uri, label in zip(found.items["uri"].to_pylist(), found.items["label"].to_pylist(), strict=True):
        yield label, source.read(uri)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("made", ["tfrecord"], indirect=True)
def test_tensorflow_reads_them(made: tuple[Path, dict[str, Any]]) -> None:
    """With the Python of INFLAME_TF_PYTHON, or of the environment `.peers/tf`, that has TensorFlow."""
    import base64

    beside = Path(__file__).parents[3] / ".peers" / "tf" / "bin" / "python"
    python = os.environ.get("INFLAME_TF_PYTHON") or str(beside)
    if not Path(python).is_file():
        pytest.skip("needs TensorFlow: set INFLAME_TF_PYTHON to a Python that has it, or make .peers/tf")
    folder, index = made
    shards = [str(folder / about["name"]) for about in index["shards"]]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([python, "-c", _TENSORFLOW, *shards], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [(item["label"], base64.b64decode(item["data"])) for item in found] == list(_ours(folder))
    assert len(found) == index["items"] == 36
    for item in found:
        assert index["classes"][item["number"]] == item["label"]
        assert item["uri"].startswith(item["label"])
        assert item["shape"] == [*item["size"], 3]
        assert (item["ext"], item["split"]) == ("jpg", "")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", ["webdataset"], indirect=True)
def test_webdataset_reads_them(made: tuple[Path, dict[str, Any]]) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder, index = made
    shards = [str(folder / about["name"]) for about in index["shards"]]
    items = list(webdataset.WebDataset(shards, shardshuffle=False))
    found = [(index["classes"][int(item["cls"])], item["jpg"]) for item in items]
    assert found == list(_ours(folder))
    assert [json.loads(item["json"])["label"] for item in items] == [label for label, _ in found]
    decoded = next(iter(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("jpg", "cls")))
    assert decoded[0].shape == (32, 32, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", ["parquet"], indirect=True)
def test_hugging_face_reads_them(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder, index = made
    shards = [str(folder / about["name"]) for about in index["shards"]]
    items = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert items.features["label"].names == index["classes"]
    raw = items.cast_column("image", datasets.Image(decode=False))
    found = [(index["classes"][item["label"]], item["image"]["bytes"]) for item in raw]
    assert found == list(_ours(folder))
    assert items[0]["image"].size == (32, 32)
