"""Zip and tar files opened with distrust: nothing lands outside the folder, and a small file can't fill the disk.

Every member is written whole or not at all, so an unpacking that was killed goes on when it is called again.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from inflame import store
from inflame.errors import DataError, InflameError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an archive may grow to. Pictures hardly shrink: 200 times its size is a bomb, not a data set."""

    ratio: int = 200  # unpacked bytes per packed byte, once `free` is passed
    free: int = 1 << 28  # bytes that are always allowed: empty pictures do shrink
    total: int = 1 << 40
    members: int = 20_000_000


LIMITS = Limits()


def is_archive(path: Path) -> bool:
    """Whether the name is that of a zip or tar file."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(
    archive: Path,
    folder: Path,
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    limits: Limits = LIMITS,
) -> int:
    """Writes the files of `archive` into `folder` and returns how many there are.

    `rename` maps a member's name (`/` between parts) to its place below `folder`; None leaves it out. Members that
    are there in their full length are kept. Raises DataError for a damaged, encrypted or dangerous archive: a path
    that leads outside, a link, a device, or more bytes than `limits` allow.
    """
    store.make_folder(folder)
    allowed = min(limits.total, max(limits.free, limits.ratio * archive.stat().st_size))
    written = count = 0
    with _border(archive, folder):
        for name, size, read in _members(archive):
            count += 1
            if count > limits.members:
                raise _bomb(archive, f"has more than {limits.members:,} files")
            place = rename(name)
            if place is None:
                continue
            target = folder / _safe(archive, place)
            if size is not None and target.is_file() and target.stat().st_size == size:
                written += size
            else:
                with read() as source:
                    written += _write(source, target, most=allowed - written)
            if written > allowed:
                raise _bomb(archive, f"grows beyond {allowed / 1e9:.1f} GB from {archive.stat().st_size / 1e6:.1f} MB")
    return count


def _write(source: IO[bytes], target: Path, *, most: int) -> int:
    """Writes one member by way of a temporary name and returns its bytes; stops soon after `most`, unfinished."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp-{os.getpid()}-00000000")  # a name that `store.sweep` knows
    count = 0
    try:
        with temporary.open("wb") as file:
            while count <= most and (block := source.read(_BLOCK)):
                count += len(block)
                file.write(block)
        if count <= most:
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _members(archive: Path) -> Iterator[tuple[str, int | None, Callable[[], IO[bytes]]]]:
    """(name, size, how to read it) of every file; folders are left out, everything else is refused."""
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[tuple[str, int | None, Callable[[], IO[bytes]]]]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            name = info.filename.replace("\\", "/")  # some Windows tools write it so, against the standard
            mode = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or name.endswith("/") or mode == stat.S_IFDIR:
                continue
            if mode not in (0, stat.S_IFREG):
                raise _dangerous(archive, f"{name} is a link or a device")
            if info.flag_bits & 1:
                raise DataError(
                    f"{archive.name} is locked with a password.",
                    where=str(archive),
                    remedy="Unpack it yourself and give the folder.",
                )
            yield name, info.file_size, lambda info=info: file.open(info)  # type: ignore[misc]


def _tar_members(archive: Path) -> Iterator[tuple[str, int | None, Callable[[], IO[bytes]]]]:
    with tarfile.open(archive, "r:*") as file:
        for info in file:
            if info.isdir():
                continue
            if not info.isreg():
                raise _dangerous(archive, f"{info.name} is a link or a device")
            yield info.name.removeprefix("./"), info.size, lambda info=info: _reader(file, info)  # type: ignore[misc]
        while file.fileobj.read(_BLOCK):  # type: ignore[union-attr,unused-ignore]
            pass  # the checksum of the packing comes last, after the end of the tar


def _reader(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    source = file.extractfile(info)
    if source is None:
        raise tarfile.ReadError(f"{info.name} can't be read")
    return source


def _safe(archive: Path, name: str) -> Path:
    """The member's relative path, once it is certain that it stays inside."""
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if windows.drive or windows.is_absolute() or posix.is_absolute() or name.startswith(("/", "\\")):
        raise _dangerous(archive, f"{name} is an absolute path")
    if ".." in posix.parts or ".." in windows.parts or not posix.parts or "\0" in name:
        raise _dangerous(archive, f"{name} leads outside the folder")
    return Path(*posix.parts)


def _bomb(archive: Path, reason: str) -> DataError:
    return DataError(
        f"{archive.name} {reason}: it looks like an archive made to fill the disk.",
        where=str(archive),
        remedy="If you trust it, unpack it yourself and give the folder.",
    )


def _dangerous(archive: Path, reason: str) -> DataError:
    return DataError(
        f"{archive.name} is refused: in it, {reason}.",
        where=str(archive),
        remedy="If you trust it, unpack it yourself and give the folder.",
    )


@contextmanager
def _border(archive: Path, folder: Path) -> Iterator[None]:
    """Turns what the readers of archives raise into DataError, and a full disk into StorageError."""
    try:
        with store.guard(folder, remedy=_room(archive, folder)):
            yield
    except InflameError:
        raise
    except Exception as error:
        # zipfile, tarfile, zlib, lzma, struct, the file system: a flipped bit can surface as nearly anything.
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(
        f"{archive.name} can't be unpacked: {str(error) or type(error).__name__}.",
        where=str(archive),
        remedy="Copy or download it again: it is damaged, or it is not the zip or tar file its name says.",
    )


def _room(archive: Path, folder: Path) -> str:
    free, size = shutil.disk_usage(folder).free / 1e9, archive.stat().st_size / 1e9
    return f"Free some space: {archive.name} is {size:.1f} GB packed, and {free:.1f} GB are free."
