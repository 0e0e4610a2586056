"""What sources, archives, tables and manifests promise, over random input."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inflame.artifact import listing, manifest, mirror, packed, tabular, unpack
from inflame.errors import DataError

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def attempt(act: Callable[[], Any]) -> tuple[Any, DataError | None]:
    """What came of it, or the refusal; any other error is a failure of the test."""
    try:
        return act(), None
    except DataError as error:
        return None, error


names = st.binary(min_size=1, max_size=20).filter(lambda raw: not set(raw) & {0, ord("/")} and raw not in (b".", b".."))


@FEW
@given(raw=names)
def test_any_file_name_can_be_stored_and_found_again(raw: bytes, tmp_path: Path) -> None:
    name = os.fsdecode(raw)
    (tmp_path / name).write_bytes(raw)
    uri = listing.to_uri(name)
    uri.encode()
    assert listing.locate(tmp_path, uri).read_bytes() == raw
    (tmp_path / name).unlink()


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
rows = st.lists(
    st.tuples(st.integers(0, 40), words, st.sampled_from(["train", "val", "test"])), min_size=1, max_size=40
)


def table(found: list[tuple[int, str, str]]) -> pa.Table:
    return listing.table(
        uri=[f"{number}.jpg" for number in range(len(found))],
        label=[label for _, label, _ in found],
        split=[split for _, _, split in found],
        sha256=[hashlib.sha256(bytes([content])).hexdigest() for content, _, _ in found],
    )


@FEW
@given(found=rows, data=st.data())
def test_the_version_is_that_of_the_set_of_contents(found: list[tuple[int, str, str]], data: st.DataObject) -> None:
    version = manifest.version(table(found))
    assert manifest.version(table(data.draw(st.permutations(found)))) == version
    content, label, split = found[0]
    assert manifest.version(table([(content, label + "x", split), *found[1:]])) != version
    assert manifest.version(table([(content + 1, label, split), *found[1:]])) != version
    assert manifest.version(table([*found, found[0]])) != version


@FEW
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=12), limit=st.integers(1, 300), seed=st.integers(0, 99))
def test_a_sample_is_exact_stratified_and_blind_to_order(counts: list[int], limit: int, seed: int) -> None:
    labels = [str(group) for group, count in enumerate(counts) for _ in range(count)]
    items = listing.table(
        uri=[str(row) for row in range(len(labels))],
        label=labels,
        sha256=[hashlib.sha256(str(row).encode()).hexdigest() for row in range(len(labels))],
    )
    part = manifest.sample(items, limit)
    assert part.num_rows == min(limit, len(labels))
    shuffled = items.take(np.random.default_rng(seed).permutation(len(labels)))
    assert set(manifest.sample(shuffled, limit)["uri"].to_pylist()) == set(part["uri"].to_pylist())
    if limit >= len(counts):
        assert len(set(part["label"].to_pylist())) == len(counts)


members = st.lists(st.text(st.sampled_from("ab./\\:\n é"), min_size=1, max_size=12), min_size=1, max_size=6)


@FEW
@given(found=members, kind=st.sampled_from(["zip", "tar"]))
def test_no_archive_writes_outside_its_folder(
    found: list[str], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("unpack")
    archive = place / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for name in dict.fromkeys(found):
                file.writestr(name, b"x")
    else:
        with tarfile.open(archive, "w") as tar:
            for name in found:
                info = tarfile.TarInfo(name)
                info.size = 1
                tar.addfile(info, io.BytesIO(b"x"))
    _, refusal = attempt(lambda: unpack.unpack(archive, place / "in" / "out"))
    assert refusal is None or refusal.remedy
    assert {path for path in place.rglob("*") if path.is_file()} - {archive} <= set((place / "in" / "out").rglob("*"))


@FEW
@given(data=st.binary(max_size=60) | st.binary(max_size=40).map(lambda rest: b"\0\0\x08\x01\0\0\0" + rest))
def test_any_bytes_are_an_idx_file_or_a_clear_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    array, refusal = attempt(lambda: packed.read_idx(tmp_path / "a"))
    assert refusal.remedy if refusal else array.dtype == np.uint8


cells = st.text(st.sampled_from('ab",;\t\n\r .x'), max_size=6)


@FEW
@given(
    data=st.binary(max_size=80)
    | st.lists(st.tuples(cells, cells, cells), max_size=6).map(
        lambda lines: "\n".join(["path,label,split", *map(",".join, lines)]).encode()
    )
)
def test_any_table_is_a_data_set_or_a_clear_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"picture")
    (tmp_path / "t.csv").write_bytes(data)
    found, refusal = attempt(lambda: tabular.read(tmp_path / "t.csv"))
    if refusal:
        assert refusal.remedy
        assert str(tmp_path / "t.csv") in refusal.where
    else:
        assert all((tmp_path / uri).is_file() for uri in found.items["uri"].to_pylist())
        assert all(found.items["label"].to_pylist())


@FEW
@given(
    text=st.text(st.sampled_from("0a./ *\n"), max_size=30) | st.text(max_size=8).map(lambda name: f"{'0' * 64}  {name}")
)
def test_sums_never_name_a_file_outside(text: str) -> None:
    try:
        found = mirror._parsed(text, "SHA256SUMS")
    except DataError:
        return
    for name, sha256 in found:
        assert len(sha256) == 64
        assert not name.startswith("/")
        assert ".." not in Path(name).parts
