"""`INFLAME_MIRROR`: a folder or an address that stands in for the network, one folder per data set.

Its layout is the data set's name with `_` for `-`, and in it the files and their `SHA256SUMS`, by which they are
checked. An address (http(s):// or what fsspec reads) needs `SHA256SUMS`, because it can't be listed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from inflame import store
from inflame.artifact import fetch
from inflame.errors import DataError, InflameError, NetworkError, StorageError

SUMS = "SHA256SUMS"

_THREADS = 8


def place(name: str) -> str:
    """Where the mirror keeps the data set `name`; empty when there is no mirror."""
    given = os.environ.get("INFLAME_MIRROR", "").strip()
    return store.join(given, name.replace("-", "_")) if given else ""


def urls(name: str, file: str) -> tuple[str, ...]:
    """The mirror's address of one file, to be put before the public ones; empty when there is no mirror."""
    folder = place(name)
    return (_join(folder, file),) if folder else ()


def copy(name: str, root: Path, rename: Callable[[str], str | None]) -> str:
    """Copies the data set's files from the mirror to `root` and checks them; returns why it couldn't, or "".

    `rename` maps a file's name at the mirror (`/` between parts) to its place below `root`; None leaves it out.
    Files that are already there in the right version are kept.
    """
    folder = place(name)
    if not folder:
        return "INFLAME_MIRROR: not set"
    try:
        wanted = [(rename(file), file, sha256) for file, sha256 in _listed(folder)]
        jobs = [(target, file, sha256) for target, file, sha256 in wanted if target is not None]
        if not jobs:
            return f"{store.shown(folder)}: none of its files belong to {name}"
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(lambda job: _bring(folder, root, *job), jobs):
                pass
    except StorageError:
        raise
    except (NetworkError, DataError) as error:
        return error.where if isinstance(error, NetworkError) else f"{store.shown(folder)}: {error.message}"
    return ""


def _bring(folder: str, root: Path, target: str, file: str, sha256: str) -> None:
    remote = fetch.Remote(name=file, urls=(_join(folder, file),), sha256=sha256)
    fetch.download(remote, root / target, bulk=True)


def _join(folder: str, file: str) -> str:
    return store.join(folder, quote(file) if folder.startswith(("http://", "https://")) else file)


def _listed(folder: str) -> list[tuple[str, str]]:
    """(name, sha256) of the mirror's files; a local folder without SHA256SUMS is listed unchecked."""
    sums = store.join(folder, SUMS)
    local = store.local(folder)
    if local is not None and not local.is_dir():
        raise DataError("there is no such folder.", remedy="Correct INFLAME_MIRROR.", where=folder)
    if local is not None and not (local / SUMS).is_file():
        return [(path.relative_to(local).as_posix(), "") for path in sorted(local.rglob("*")) if path.is_file()]
    try:
        text = _text(sums)
    except InflameError as error:
        raise DataError(f"{SUMS} could not be read ({error.message})", remedy="Correct it.", where=sums) from error
    return _parsed(text, sums)


def _text(sums: str) -> str:
    if not sums.startswith(("http://", "https://")):
        return store.read_text(sums)
    # over http by the standard library, like every other file: no driver needed
    target = store.home() / "cache" / "mirror" / fetch.digest_text(sums)
    target.unlink(missing_ok=True)
    return store.read_text(fetch.download(fetch.Remote(name=SUMS, urls=(sums,)), target))


def _parsed(text: str, where: str) -> list[tuple[str, str]]:
    """The lines `sha256  name`, as `sha256sum` writes them; a name that leads outside the folder is refused."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        sha256, _, name = line.strip().partition(" ")
        name = name.strip().removeprefix("*").removeprefix("./")
        parts = PurePosixPath(name).parts
        if len(sha256) != 64 or not parts or name.startswith("/") or ".." in parts:
            if not line.strip():
                continue
            raise DataError(
                f"{SUMS} line {number} is not `sha256  name`.", remedy="Make it anew: sha256sum", where=where
            )
        found.append((name, sha256))
    return found
