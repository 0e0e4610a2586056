"""Shards are read as they were written, by us and by the libraries they are named after."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inflame import artifact
from inflame.artifact import contents
from inflame.artifact.formats import example, parquet, tfrecord, webdataset
from inflame.artifact.formats.entry import Entry
from inflame.errors import DataError

FORMATS = {"a.tfrecord": tfrecord, "a.tar": webdataset, "a.parquet": parquet}


def jpeg(seed: int, size: int = 24) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def written(path: Path, count: int = 10) -> list[tuple[Entry, bytes]]:
    items = [
        (
            Entry(
                key="",
                label=f"kind {n % 2} ü",
                split="test" if n == 3 else "train",
                sha256=f"{n:064d}",
                group=f"g{n}",
                time="2020-01-01",
                uri=f"kind/{n}.jpg",
                ext=".jpg",
                height=24,
                width=24,
            ),
            jpeg(n),
        )
        for n in range(count)
    ]
    writer = FORMATS[path.name].Writer(path, ("kind 0 ü", "kind 1 ü"))  # type: ignore[attr-defined]
    for entry, data in items:
        assert writer.add(entry, data) > 0
    writer.close()
    return items


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_written_is_read(tmp_path: Path, name: str) -> None:
    items = written(tmp_path / name)
    found = list(FORMATS[name].entries(tmp_path / name))  # type: ignore[attr-defined]
    read = FORMATS[name].opened(tmp_path / name)  # type: ignore[attr-defined]
    assert len(found) == len(items)
    for got, (entry, data) in zip(found, items, strict=True):
        assert read(got.key) == data
        for field in ("split", "sha256", "group", "time", "uri"):
            assert getattr(got, field) == getattr(entry, field)
    whole = artifact.open(tmp_path / name)
    assert set(whole.classes) <= {"kind 0 ü", "kind 1 ü", "0", "1"}
    source = contents.Contents(whole.root)
    assert {source.read(uri) for uri in whole.items["uri"].to_pylist()} == {data for _, data in items}


@pytest.mark.parametrize("name", FORMATS)
def test_equal_items_give_equal_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    written(tmp_path / "one" / name)
    written(tmp_path / "two" / name)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_that_is_not_there_is_told(tmp_path: Path, name: str) -> None:
    written(tmp_path / name)
    with pytest.raises(DataError, match="has no record"):
        FORMATS[name].opened(tmp_path / name)("99")  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_ours(tmp_path: Path) -> None:
    import webdataset

    items = written(tmp_path / "a.tar")
    found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [sample["jpg"] for sample in found] == [data for _, data in items]
    assert [int(sample["cls"]) for sample in found] == [n % 2 for n in range(10)]
    assert json.loads(found[3]["json"])["label"] == "kind 1 ü"


def test_hugging_face_reads_ours_and_we_theirs(tmp_path: Path) -> None:
    import datasets

    items = written(tmp_path / "a.parquet")
    found = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert found.features["label"].names == ["kind 0 ü", "kind 1 ü"]
    assert isinstance(found[0]["image"], Image.Image)
    assert found[0]["image"].size == (24, 24)
    found.save_to_disk(str(tmp_path / "theirs"))
    ours = artifact.open(tmp_path / "theirs")
    assert len(ours) == len(items)
    assert ours.classes == ("kind 0 ü", "kind 1 ü")


def test_tensorflow_examples_of_others_are_read(tmp_path: Path) -> None:
    payload = example.encode({"image": [jpeg(1)], "label": [1], "file_name": [b"x.jpg"]})
    (tmp_path / "b.tfrecord").write_bytes(tfrecord.frame(payload) * 2)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    found = artifact.open(tmp_path / "b.tfrecord")
    assert found.classes == ("dog",)


def test_an_example_is_what_tensorflow_would_write() -> None:
    # features { feature { key: "a" value { int64_list { value: 1 } } } }, by hand from the wire format
    assert example.encode({"a": [1]}).hex() == "0a0c0a0a0a016112051a030a0101"
    unpacked = bytes.fromhex("0a0b0a090a016112041a020801")  # the same list, not packed
    assert example.parse(unpacked) == {"a": [1]}


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(
            st.lists(st.binary(max_size=20), min_size=1, max_size=3),
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
            st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
        ),
        max_size=4,
    )
)
def test_examples_come_back(features: dict[str, Any]) -> None:
    assert example.parse(example.encode(features)) == features


@given(st.binary(max_size=60))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        example.parse(data)


def test_the_checksum_is_that_of_tfrecord() -> None:
    # crc32c("123456789") is 0xE3069283 (RFC 3720); TFRecord rotates it by 15 and adds a constant
    crc = 0xE3069283
    assert tfrecord.masked(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert tfrecord.frame(b"ab")[:8] == struct.pack("<Q", 2)


@pytest.mark.parametrize(("cut", "said"), [(-3, "cut short"), (-400, "cut short")])
def test_a_shard_cut_short_is_named(tmp_path: Path, cut: int, said: str) -> None:
    path = tmp_path / "a.tfrecord"
    items = written(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=said) as told:
        artifact.open(path)
    assert "a.tfrecord, record 9" in told.value.message
    assert "--skip-bad" in told.value.remedy
    found = artifact.open(path, skip_bad=True)
    assert len(found) == len(items) - 1
    assert any("cut short" in fault.reason for fault in found.faults)


def test_a_changed_byte_costs_one_record(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    written(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"byte of it was changed|length was changed"):
        artifact.open(path)
    assert len(artifact.open(path, skip_bad=True)) == 9


def test_a_changed_header_of_a_tar_is_named_and_costs_one_item(tmp_path: Path) -> None:
    """tarfile takes a header that it can't read for the end, and says nothing."""
    path = tmp_path / "a.tar"
    items = written(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"00000004.jpg")
    data[place + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tar, file 12 in it: its header was changed") as told:
        artifact.open(path)
    assert "--skip-bad" in told.value.remedy
    found = artifact.open(path, skip_bad=True)
    assert len(found) == len(items) - 1
    assert [fault.items for fault in found.faults if fault.kind == "unreadable"] == [("a.tar#12",)]


def test_a_tar_cut_between_two_files_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    items = written(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"00000004.jpg")])
    with pytest.raises(DataError, match=r"the end of the tar is missing"):
        artifact.open(path)
    assert 0 < len(artifact.open(path, skip_bad=True)) < len(items)


def test_a_changed_byte_in_a_picture_of_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    written(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"JFIF") + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet, rows 0 to 9, can't be read.*CRC"):
        FORMATS["a.parquet"].opened(path)("3")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["a.tar", "a.parquet"])
def test_other_shards_cut_short_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    written(path)
    (tmp_path / "good").mkdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=name):
        list(FORMATS[name].entries(path))  # type: ignore[attr-defined]
    told: list[str] = []
    list(FORMATS[name].entries(path, on_bad=lambda _, reason: told.append(reason)))  # type: ignore[attr-defined]
    assert len(told) == 1
