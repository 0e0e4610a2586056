"""Packs: what goes in comes out, each once, and damage is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inflame.artifact import packs
from inflame.errors import DataError


def _pairs(count: int, size: int = 1000) -> list[tuple[bytes, bytes]]:
    contents = [bytes([number % 256]) * size + str(number).encode() for number in range(count)]
    return [(hashlib.sha256(data).digest(), data) for data in contents]


@pytest.mark.parametrize("small", [True, False])
def test_what_goes_in_comes_out(tmp_path: Path, small: bool) -> None:
    pairs = _pairs(50)
    assert packs.write(tmp_path, pairs, small=small, most=9000) == sum(len(data) for _, data in pairs)
    assert len(list(tmp_path.iterdir())) == 6  # a pack ends with the item that fills it: nine of a good 1,000 bytes
    assert dict(packs.read(tmp_path, [sha for sha, _ in pairs])) == dict(pairs)
    assert dict(packs.read(tmp_path, [pairs[7][0]])) == dict(pairs[7:8])
    assert set(packs.known(tmp_path)) == {sha for sha, _ in pairs}


def test_the_same_contents_make_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        packs.write(tmp_path / name, _pairs(5))
    (one,), (two,) = (list((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()


def test_any_parquet_reader_opens_a_pack(tmp_path: Path) -> None:
    pairs = _pairs(3)
    packs.write(tmp_path, pairs)
    (pack,) = tmp_path.iterdir()
    assert pq.read_table(pack).to_pylist() == [{"sha256": sha, "data": data} for sha, data in pairs]


def test_a_killed_writer_leaves_whole_packs_only(tmp_path: Path) -> None:
    pairs = _pairs(50)

    def until_killed() -> object:
        yield from pairs[:25]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packs.write(tmp_path, until_killed(), most=9000)  # type: ignore[arg-type]
    assert set(packs.known(tmp_path)) == {sha for sha, _ in pairs[:18]}
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}


def test_a_flipped_byte_is_named(tmp_path: Path) -> None:
    pairs = _pairs(3, size=10_000)
    packs.write(tmp_path, pairs)
    (pack,) = tmp_path.iterdir()
    data = bytearray(pack.read_bytes())
    data[data.find(pairs[1][1]) + 5000] ^= 1
    pack.write_bytes(data)
    assert dict(packs.read(tmp_path, [pairs[0][0]])) == dict(pairs[:1])
    with pytest.raises(DataError, match=pack.name):
        list(packs.read(tmp_path, [pairs[1][0]]))


@pytest.mark.parametrize("kept", [0, 100, -8])
def test_a_pack_cut_short_is_named(tmp_path: Path, kept: int) -> None:
    packs.write(tmp_path, _pairs(3))
    (pack,) = tmp_path.iterdir()
    pack.write_bytes(pack.read_bytes()[:kept])
    with pytest.raises(DataError, match=pack.name):
        packs.known(tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    packs.write(tmp_path, _pairs(3))
    with pytest.raises(DataError, match="not in the packs") as told:
        list(packs.read(tmp_path, [b"\0" * 32]))
    assert "version pull" in told.value.remedy
