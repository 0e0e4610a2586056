"""Contents in packs: each once, by its hash, in few large files that are only ever added to.

A pack is a Parquet file of two columns, `sha256` (32 bytes) and `data`, which any Parquet reader opens. Nothing but the
packs says what is there, so nothing can contradict them: what a killed writer finished is found and used again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import final

import pyarrow as pa
import pyarrow.parquet as pq

from inflame import store
from inflame.errors import DataError

SCHEMA = pa.schema([("sha256", pa.binary(32)), ("data", pa.large_binary())])
MOST = 256_000_000  # bytes of content after which a pack is closed
_GROUP = 8_000_000  # bytes of content that are written, and read, in one go


def known(folder: Path) -> dict[bytes, Path]:
    """The pack in which each hash (32 bytes) is; reads only the hashes. Damaged: DataError."""
    found: dict[bytes, Path] = {}
    for pack in sorted(folder.glob("*.parquet")):
        try:
            hashes = pq.read_table(pack, columns=["sha256"])["sha256"].to_pylist()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise _damaged(pack, str(error)) from error
        found.update(dict.fromkeys(hashes, pack))
    return found


def write(folder: Path, contents: Iterable[tuple[bytes, bytes]], *, small: bool = False, most: int = 0) -> int:
    """Puts (hash, data) pairs into new packs of about `most` (0: `MOST`) bytes; returns how many bytes of data.

    A pack is there whole or not at all, and is named after the hashes in it. small: worth compressing (texts, rows of
    pixels). Needs the memory of one item and about 8 MB. The caller sees to it that no two processes write at once.
    """
    total, rest = 0, iter(contents)
    while (first := next(rest, None)) is not None:
        total += _pack(folder, first, rest, small, most or MOST)
    return total


def _pack(folder: Path, first: tuple[bytes, bytes], rest: Iterator[tuple[bytes, bytes]], small: bool, most: int) -> int:
    name, size = hashlib.sha256(), 0
    unnamed = folder / f"unnamed-{os.getpid()}.parquet"
    pair: tuple[bytes, bytes] | None = first
    with store.atomic(unnamed) as part, _Writer(part, small) as writer:
        while pair is not None:
            writer.add(*pair)
            name.update(pair[0])
            size += len(pair[1])
            pair = next(rest, None) if size < most else None
    unnamed.replace(folder / f"{name.hexdigest()[:32]}.parquet")
    return size


@final
class _Writer:
    """A Parquet file that gets its rows one by one."""

    def __init__(self, path: Path, small: bool) -> None:
        self.file = pq.ParquetWriter(
            path, SCHEMA, compression="zstd" if small else "none", use_dictionary=False, write_statistics=False
        )
        self.hashes: list[bytes] = []
        self.data: list[bytes] = []
        self.size = 0

    def add(self, sha256: bytes, data: bytes) -> None:
        self.hashes.append(sha256)
        self.data.append(data)
        self.size += len(data)
        if self.size >= _GROUP:
            self.flush()

    def flush(self) -> None:
        if self.hashes:
            self.file.write_table(pa.table([self.hashes, self.data], schema=SCHEMA))
            self.hashes, self.data, self.size = [], [], 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.flush()
        with suppress(OSError):
            self.file.close()


def read(
    folder: Path, wanted: Iterable[bytes], places: Mapping[bytes, Path] | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """(hash, data) of every wanted hash, each once, pack by pack; every one is checked against its hash.

    Something is missing or isn't what its hash says: DataError, which names the pack."""
    places = known(folder) if places is None else places
    left: dict[Path, set[bytes]] = {}
    for sha256 in wanted:
        if sha256 not in places:
            raise _missing(folder, sha256)
        left.setdefault(places[sha256], set()).add(sha256)
    for pack, hashes in sorted(left.items()):
        yield from _rows(pack, hashes)


def _rows(pack: Path, hashes: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The wanted rows of one pack; stretches of it that hold none of them are not read."""
    try:
        file = pq.ParquetFile(pack)
        for group in range(file.num_row_groups):
            if not hashes & set(file.read_row_group(group, columns=["sha256"])["sha256"].to_pylist()):
                continue
            table = file.read_row_group(group)
            for sha256, data in zip(table["sha256"], table["data"], strict=True):
                key = sha256.as_py()
                if key in hashes:
                    content = data.as_py()
                    if hashlib.sha256(content).digest() != key:
                        raise _damaged(pack, f"the content {key.hex()[:12]} doesn't have that hash")
                    hashes.discard(key)
                    yield key, content
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _damaged(pack, str(error)) from error
    if hashes:
        raise _missing(pack, next(iter(hashes)))


def _missing(place: Path, sha256: bytes) -> DataError:
    return DataError(
        f"The content {sha256.hex()[:12]}… is not in the packs of {place}.",
        where=str(place),
        remedy="Bring the packs that are missing: inflame version pull, or dvc pull",
    )


def _damaged(pack: Path, reason: str) -> DataError:
    return DataError(
        f"The pack {pack.name} is damaged: {reason}.",
        where=str(pack),
        remedy="Delete it and bring it again (inflame version pull, or dvc pull), or make the snapshot again.",
    )
