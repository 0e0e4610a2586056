"""Where things are kept: one way to read and write for a plain path and for a uri.

A plain path and `file://` use the standard library alone. `memory:// s3:// gs:// az:// abfs:// http(s)://`
go through fsspec, imported on use. Whatever is written is written whole or not at all.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from inflame import remote
from inflame.errors import DataError, StorageError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

HASTY = "INFLAME_HASTY"  # set for work of seconds, of which a power cut may lose the last; a killed process loses none
_TEMPORARY = re.compile(r"^\.tmp-(\d+)-[0-9a-f]{8}")
_TAKEN = re.compile("precondition|alreadyexists|already exists|status=(412|409)", re.IGNORECASE)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM}


def home() -> Path:
    """The folder of everything inflame keeps, `$INFLAME_HOME` or `~/.inflame`, made on demand
    with `data/`, `cache/` and `runs/` inside."""
    given = os.environ.get("INFLAME_HOME")
    folder = Path(given).expanduser().absolute() if given else Path.home() / ".inflame"
    for name in ("data", "cache", "runs"):
        make_folder(folder / name, remedy="Set INFLAME_HOME to a folder that you can write to.")
    return folder


def mirror() -> Path | None:
    """The folder that stands in for the network, `$INFLAME_MIRROR`, or None."""
    given = os.environ.get("INFLAME_MIRROR")
    if not given:
        return None
    folder = Path(given).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(
            f"INFLAME_MIRROR names {folder}, which is not a folder.",
            where="environment variable INFLAME_MIRROR",
            remedy="Set it to the folder that holds the data sets, or unset it to use the network.",
        )
    return folder


def local(uri: str | os.PathLike[str]) -> Path | None:
    """The path that a plain path or a `file://` uri names; None for any other uri."""
    text = os.fspath(uri)
    found = remote.SCHEME.match(text)
    if found is None:
        return Path(text).expanduser()
    if found[1].lower() != "file":
        return None
    from urllib.parse import unquote

    place = text[found.end() :].removeprefix("localhost")
    return Path(unquote(place)).expanduser()


def join(uri: str | os.PathLike[str], *parts: str) -> str:
    """The uri (or path) of something below `uri`."""
    text = os.fspath(uri)
    return str(Path(text, *parts)) if not remote.SCHEME.match(text) else "/".join([text.rstrip("/"), *parts])


def shown(uri: str | os.PathLike[str]) -> str:
    """The uri without a password or a signed query: fit for messages and logs."""
    text = os.fspath(uri)
    return text if local(text) is not None else remote.shown(text)


def make_folder(path: Path, *, remedy: str = "") -> Path:
    """`path`, made with its parents when missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(
            f"{path} can't be made a folder: a file of that name is in the way.",
            where=str(path),
            remedy=remedy or "Move that file, or name another folder.",
        ) from error
    except OSError as error:
        raise storage_error(error, path, remedy=remedy) from error
    return path


@contextmanager
def atomic(path: str | os.PathLike[str], *, mode: int = 0o666) -> Iterator[Path]:
    """A temporary path beside `path` to write to; when the block ends well it becomes `path`, durably.

    The file has that mode, less the umask, from its first byte on, and the suffix of `path`. On any error it is
    removed and what was at `path` is untouched. Parents are made. A disk that is full or read-only raises StorageError.
    """
    target = Path(os.path.realpath(path))
    make_folder(target.parent)
    with guard(target):
        temporary = _temporary(target)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        mode = os.fstat(descriptor).st_mode & 0o777
        os.close(descriptor)
        try:
            yield temporary
            # Some writers make a file of their own and rename it, with a mode that only the owner can read.
            if temporary.stat().st_mode & 0o777 != mode:
                temporary.chmod(mode)
            _sync(temporary)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(target.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `path` to fill; when the block ends well it becomes `path`, in one step.

    A folder that was at `path` is replaced, and kept when the block fails. Files in it get the usual mode.
    """
    target = Path(os.path.realpath(path))
    make_folder(target.parent)
    with guard(target):
        temporary = _temporary(target)
        temporary.mkdir()
        mode = temporary.stat().st_mode & 0o666
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    file.chmod(mode)
                    _sync(file)
            _sync(temporary)
            _put_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync(target.parent)


@contextmanager
def guard(where: str | os.PathLike[str], *, remedy: str = "") -> Iterator[None]:
    """Turns a full disk, a read-only file system and a refused permission inside the block into StorageError."""
    try:
        yield
    except OSError as error:
        if is_storage(error):
            raise storage_error(error, where, remedy=remedy) from error
        raise


def is_storage(error: OSError) -> bool:
    """Whether the place is at fault: a full disk, a read-only file system, a refused permission."""
    return error.errno == errno.EROFS or error.errno in _FULL or error.errno in _DENIED


def storage_error(error: OSError, where: str | os.PathLike[str], *, remedy: str = "") -> StorageError:
    """The StorageError for what the operating system said about `where`."""
    place = os.fspath(where)
    if error.errno in _FULL:
        what, way = f"The disk is full: {place} could not be written.", "Free some space"
    elif error.errno == errno.EROFS:
        what, way = f"The file system is read-only: {place} could not be written.", "Choose another place"
    elif error.errno in _DENIED:
        what, way = f"No permission for {place}.", "Choose a place you own"
    else:
        what, way = f"{place} could not be used: {error.strerror or error}.", "Check the path"
    default = f"{way} (output=FOLDER or INFLAME_HOME name another), then give the same command again."
    return StorageError(what, where=place, remedy=remedy or default)


def sweep(folder: Path) -> int:
    """Removes what killed writers left below `folder`; the caller knows that no other process writes there.
    Returns how many leftovers there were."""
    found = [path for path in folder.rglob(".tmp-*") if _TEMPORARY.match(path.name)]
    for path in found:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return len(found)


def write(uri: str | os.PathLike[str], content: bytes | str) -> None:
    """Puts `content` (text as UTF-8) at `uri`, whole or not at all."""
    # A file name that isn't UTF-8 reaches us as lone surrogates; in JSON their escape is read back as they were.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    path = local(uri)
    if path is not None:
        with atomic(path) as temporary:
            temporary.write_bytes(data)
        return

    def put(system: Any, place: str) -> None:
        _make_parent(system, place, os.fspath(uri))
        system.pipe_file(place, data)

    remote.ask(os.fspath(uri), put)


def create(uri: str | os.PathLike[str], content: bytes | str) -> bool:
    """Puts `content` at `uri` where nothing is yet, in one step: of several that try, one gets True.
    What each of them writes must differ from what the others do."""
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    path = local(uri)
    if path is not None:
        make_folder(path.parent)
        with guard(path):
            temporary = _temporary(path)
            temporary.write_bytes(data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
        return True

    def put(system: Any, place: str) -> bool:
        if system.exists(place):  # also after a try of ours whose answer got lost
            return bool(system.cat_file(place) == data)
        _make_parent(system, place, os.fspath(uri))
        try:
            system.pipe_file(place, data, **({"overwrite": False} if _is_azure(uri) else {"mode": "create"}))
        except FileExistsError:
            return False
        except Exception as error:  # each driver says it in its own way
            if _TAKEN.search(f"{type(error).__name__} {error}"):
                return False
            raise
        return True

    return remote.ask(os.fspath(uri), put)


def upload(path: Path, uri: str | os.PathLike[str]) -> None:
    """Puts a copy of a local file at `uri`, whole or not at all, in pieces: no matter how large it is."""
    target = local(uri)
    if target is not None:
        with atomic(target) as temporary:
            shutil.copyfile(path, temporary)
        return

    def put(system: Any, place: str) -> None:
        _make_parent(system, place, os.fspath(uri))
        system.put_file(str(path), place)

    remote.ask(os.fspath(uri), put)


def download(uri: str, path: Path) -> None:
    """Puts a copy of what is at a remote `uri` at `path`, whole or not at all, in pieces."""
    with atomic(path) as temporary:
        remote.ask(uri, lambda system, place: system.get_file(place, str(temporary)))


def read_bytes(uri: str | os.PathLike[str]) -> bytes:
    """What is at `uri`. Nothing there: DataError."""
    path = local(uri)
    if path is None:
        return remote.ask(os.fspath(uri), lambda system, place: bytes(system.cat_file(place)))
    with _border(path):
        return path.read_bytes()


def read_text(uri: str | os.PathLike[str]) -> str:
    """The UTF-8 text at `uri`. Nothing there, or not text: DataError."""
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown(uri)} is not UTF-8 text.", where=shown(uri), remedy="Save it as UTF-8, or name another file."
        ) from error


def exists(uri: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is at `uri`."""
    path = local(uri)
    if path is None:
        return remote.ask(os.fspath(uri), lambda system, place: bool(system.exists(place)))
    with _border(path):
        return path.exists()


def listdir(uri: str | os.PathLike[str]) -> list[str]:
    """The names in the folder `uri`, sorted, without leftovers of killed writers."""
    path = local(uri)
    if path is None:
        found = remote.ask(os.fspath(uri), lambda system, place: system.ls(place, detail=False))
        names = [str(entry).rstrip("/").rpartition("/")[2] for entry in found]
    else:
        with _border(path):
            names = [entry.name for entry in path.iterdir()]
    return sorted(name for name in names if not _TEMPORARY.match(name))


@contextmanager
def open_uri(uri: str | os.PathLike[str], mode: str = "rb") -> Iterator[IO[Any]]:
    """The open file at `uri` (text modes are UTF-8). A local file opened with `w` is replaced atomically."""
    encoding = None if "b" in mode else "utf-8"
    path = local(uri)
    if path is not None and "w" in mode:
        with atomic(path) as temporary, temporary.open(mode, encoding=encoding) as file:
            yield file
        return
    if path is None:
        how = {} if encoding is None else {"encoding": encoding}
        opened: Any = remote.ask(os.fspath(uri), lambda system, place: system.open(place, mode, **how))
    else:
        with _border(path):
            opened = path.open(mode, encoding=encoding)
    with opened as file:
        yield file


def _is_azure(uri: str | os.PathLike[str]) -> bool:
    return os.fspath(uri).startswith(("az:", "abfs:", "abfss:"))


def _temporary(target: Path) -> Path:
    # The suffix stays, because many writers choose their format by it; the name doesn't, because of its length.
    return target.parent / f".tmp-{os.getpid()}-{os.urandom(4).hex()}{target.suffix[:16]}"


def _sync(path: Path) -> None:
    if HASTY in os.environ:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some file systems can't, and that is that
            raise
    finally:
        os.close(descriptor)


def _put_folder(temporary: Path, target: Path) -> None:
    """Puts the folder at its place; what was there is left at `temporary`, to be removed."""
    if not os.path.lexists(target):
        temporary.rename(target)
    elif not _exchange(temporary, target):
        aside = _temporary(target)
        target.rename(aside)
        temporary.rename(target)
        aside.rename(temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step (renameat2, Linux), so that there is no moment without a folder."""
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _make_parent(system: Any, place: str, uri: str) -> None:
    """Memory has folders; buckets only have names with slashes in them."""
    if uri.startswith("memory:") and "/" in place:
        system.makedirs(place.rpartition("/")[0], exist_ok=True)


@contextmanager
def _border(path: Path) -> Iterator[None]:
    """Turns what the operating system says about a path into our errors."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise remote.absent(str(path), error) from error
    except OSError as error:
        raise storage_error(error, path) from error
