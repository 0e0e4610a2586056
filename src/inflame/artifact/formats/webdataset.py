"""WebDataset tars: the files of an item stand together and share a name up to the first dot.

`000012.jpg` is the picture, `000012.cls` its label, `000012.json` all that is known of it. Written with fixed times and
owners, so that equal items give equal bytes.
"""

from __future__ import annotations

import io
import json
import mmap
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, final

from inflame.artifact import listing
from inflame.artifact.formats.entry import REMEDY, Entry
from inflame.errors import DataError

SUFFIX = ".tar"

_LABELS = ("cls", "label", "class", "txt.cls")


@final
class Writer:
    """Writes items to a path or file object: a picture (or .txt), its label and its description."""

    def __init__(self, target: Path | IO[bytes], classes: tuple[str, ...] = (), *, kind: str = "image") -> None:
        self._file: IO[bytes] = target.open("wb") if isinstance(target, Path) else target
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._number = {name: number for number, name in enumerate(classes)}
        self._kind, self._count = kind, 0

    def add(self, entry: Entry, data: bytes) -> int:
        """Appends an item; returns the bytes written."""
        before, name = self._tar.offset, f"{self._count:08d}"
        about = {
            "label": entry.label,
            "split": entry.split,
            "sha256": entry.sha256,
            "uri": entry.uri,
            "group": entry.group,
            "time": entry.time,
        }
        self._put(f"{name}{entry.ext or ('.txt' if self._kind == 'text' else '.jpg')}", data)
        self._put(f"{name}.cls", str(self._number.get(entry.label, entry.label)).encode())
        self._put(f"{name}.json", json.dumps(about, ensure_ascii=False).encode())
        self._count += 1
        return self._tar.offset - before

    def close(self) -> None:
        """Writes the end of the tar and closes the file."""
        self._tar.close()
        self._file.close()

    def _put(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))


def entries(path: Path, *, on_bad: Callable[[int, str], Any] | None = None) -> Iterator[Entry]:
    """What is in the tar, item by item; keys are the names of the pictures. Labels come from `.json`, `.cls`, or the
    folder inside the tar. Damage: DataError, or with `on_bad(number, reason)` told, and the rest is read."""
    members: dict[str, dict[str, tuple[str, bytes | None]]] = {}
    for tar, member in _walk(path, on_bad or partial(_refuse, path)):
        if not member.isfile() or listing.is_junk(PurePosixPath(member.name).name):
            continue
        folder, name = PurePosixPath(member.name).parent.as_posix(), PurePosixPath(member.name).name
        stem, _, ext = name.partition(".")
        small = ext.lower() in ("json", *_LABELS)
        stream = tar.extractfile(member) if small else None
        data = stream.read() if stream is not None else None
        key = f"{folder}/{stem}"
        if key not in members and len(members) > 4:  # files of one item stand together
            yield from _made(members)
            members = {}
        members.setdefault(key, {})[ext.lower()] = (member.name, data)
    yield from _made(members)


def opened(path: Path) -> Callable[[str], bytes]:
    """The bytes of a member by its name; what stands after a damaged place is found as well."""
    from inflame.artifact.contents import missing

    places = {member.name: (member.offset_data, member.size) for _, member in _walk(path, lambda number, reason: None)}
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(key: str) -> bytes:
        start, size = places.get(key, (0, -1))
        if size < 0 or start + size > len(data):
            raise missing(path, key)
        return bytes(data[start : start + size])

    return read


def _walk(path: Path, on_bad: Callable[[int, str], Any]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of the tar. A damaged place is told once, as (number of the member, reason); if that raises nothing,
    the members after it follow."""
    count = 0
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    yield tar, member
                    count += 1
                # tarfile takes a header that it can't read for the end, but a tar ends with blocks of zeros.
                file.seek(tar.offset)
                end = file.read(tarfile.BLOCKSIZE)
                if len(end) == tarfile.BLOCKSIZE and not any(end):
                    return
            reason = "its header was changed" if end else "the end of the tar is missing"
        except (tarfile.TarError, OSError, EOFError) as error:
            reason = str(error)
        on_bad(count, reason)
        file.seek(tar.offset if count else 0)
        with (
            suppress(tarfile.TarError, OSError, EOFError),
            tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as rest,
        ):
            for member in rest:
                yield rest, member


def _refuse(path: Path, number: int, reason: str) -> None:
    raise DataError(
        f"{path.name}, file {number:,} in it: {reason}.",
        where=str(path),
        remedy=REMEDY,
    )


def _made(members: dict[str, dict[str, tuple[str, bytes | None]]]) -> Iterator[Entry]:
    for key, files in members.items():
        found = next((ext for ext in files if f".{ext}" in listing.PICTURES or f".{ext}" in listing.TEXTS), None)
        if found is None:
            continue
        about = _about(files)
        label = about.get("label", about.get("class", about.get("cls", "")))
        for name in _LABELS:
            if label == "" and name in files:
                label = (files[name][1] or b"").decode("utf-8", "replace").strip()
        if label == "":
            label = PurePosixPath(key).parent.name
        told = {name: str(value or "") for name, value in about.items()}
        yield Entry(
            key=files[found][0],
            label=str(label),
            ext=f".{found}",
            split=told.get("split", ""),
            sha256=told.get("sha256", ""),
            group=told.get("group", ""),
            time=told.get("time", ""),
            uri=told.get("uri", ""),
        )


def _about(files: dict[str, tuple[str, bytes | None]]) -> dict[str, Any]:
    try:
        value = json.loads(files["json"][1] or b"{}") if "json" in files else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
