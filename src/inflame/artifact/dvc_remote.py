"""Folders of versions and DVC: the `.dvc` file that stands for one in git, and pushing and pulling through DVC.

A folder in a DVC repository of yours is treated as DVC treats any other: the `.dvc` file beside it belongs into your
git, and remotes are those of the repository. The folders in inflame's home are a DVC repository of their own without
git; there the `.dvc` file is kept at the remote too, beside DVC's files, so that another machine finds it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from inflame import plugins, store
from inflame.artifact import fetch
from inflame.errors import DataError, NetworkError, RunError, StorageError, UserError

_QUIET = {"DVC_NO_ANALYTICS": "1", "CI": "1"}  # no telemetry, no looking for a newer DVC
_OURS = """\
[core]
    analytics = false
    check_update = false
    no_scm = True
[cache]
    type = "reflink,hardlink,copy"
"""
_DESCRIBED = re.compile(
    r"outs:\n- md5: [0-9a-f]{32}\.dir\n  size: \d+\n  nfiles: \d+\n  hash: md5\n  path: ([^\n/]+)\n"
)
_INCOMING = "incoming"
_REFUSED = re.compile(r"forbidden|access ?denied|403|credentials|not authorized|permission", re.IGNORECASE)


def dvc_file(folder: Path) -> Path:
    """The `.dvc` file that stands for a folder of versions: beside it."""
    return folder.with_name(f"{folder.name}.dvc")


def repository(folder: Path) -> Path | None:
    """The DVC repository that a folder is in, or None."""
    return next((parent for parent in folder.absolute().parents if (parent / ".dvc" / "config").is_file()), None)


def track(folder: Path) -> Path:
    """The `.dvc` file of a folder of versions, brought up to date: valid for `dvc push`, `dvc pull`, `dvc checkout`.

    In a DVC repository of yours DVC itself does it, if it is installed, which also fills DVC's cache.
    """
    root = repository(folder)
    if root is not None and root != _home() and _installed():
        _add(root, folder)
    else:
        store.write(dvc_file(folder), describe(folder))
    return dvc_file(folder)


def describe(folder: Path) -> str:
    """The text of the `.dvc` file of a folder, letter by letter what `dvc add` writes (DVC 3)."""
    files = [path for path in _files(folder) if not path.name.startswith(".tmp-")]
    sums = _sums(folder, files)
    listing = [{"md5": sums[name], "relpath": name} for name in sorted(sums)]
    md5 = hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    size = sum(path.stat().st_size for path in files)
    path = folder.name if re.fullmatch(r"[A-Za-z][\w.-]*", folder.name) else json.dumps(folder.name)
    return f"outs:\n- md5: {md5}.dir\n  size: {size}\n  nfiles: {len(files)}\n  hash: md5\n  path: {path}\n"


def push(folder: Path, remote: str = "", *, shown: bool = False) -> str:
    """Sends a folder of versions to a remote; returns the remote. What is there already is not sent again.

    remote: a place (`s3://bucket/versions`, a folder), or in a DVC repository of yours also the name of one; "" is the
    one used last, or the repository's default. shown: let DVC draw its progress on stderr. Raises MissingExtra without
    DVC, UserError without a remote, NetworkError when DVC can't reach it.
    """
    _need()
    if repository(folder) not in (None, _home()):
        root = repository(folder)
        assert root is not None
        _dvc(root, "push", *_remote_of(root, remote), str(dvc_file(folder)), shown=shown)
        return remote or "the default remote"
    _of_home(folder)
    place = _place(folder, remote)
    there = _there(place, folder)
    if there and there != _synced(folder):
        pull(folder, place, shown=shown)  # somebody else added versions: both sides' are kept
    _add(_home(), folder)
    _dvc(_home(), "push", "-r", folder.name, str(dvc_file(folder)), shown=shown)
    if any(path.stat().st_nlink == 1 for path in _files(folder)):  # else each pack is on this disk twice
        _dvc(_home(), "checkout", "--relink", "--quiet", str(dvc_file(folder)), fails=False)
    _note(place, folder, dvc_file(folder).read_text(encoding="utf-8"))
    return place


def pull(folder: Path, remote: str = "", *, shown: bool = False) -> str:
    """Brings the versions at a remote that aren't here; those that are only here stay. Errors as `push`; also DataError
    when the remote has none of that name."""
    _need()
    if repository(folder) not in (None, _home()):
        root = repository(folder)
        assert root is not None
        _dvc(root, "pull", *_remote_of(root, remote), str(dvc_file(folder)), shown=shown)
        return remote or "the default remote"
    _of_home(folder)
    place = _place(folder, remote)
    text = _there(place, folder)
    found = _DESCRIBED.fullmatch(text)
    if found is None or found[1].strip('"') != folder.name:
        raise DataError(
            f"There are no versions of {folder.name} at {store.shown(place)}.",
            where=store.shown(store.join(place, dvc_file(folder).name)),
            remedy=f"Check the name and the place; where the data is: inflame version push {folder.name} --remote …",
        )
    with fetch.alone(folder):
        incoming = _home() / _INCOMING / folder.name
        shutil.rmtree(incoming, ignore_errors=True)
        store.write(dvc_file(incoming), text)
        _dvc(_home(), "pull", "-r", folder.name, str(dvc_file(incoming)), shown=shown)
        _take_over(incoming, folder)
        shutil.rmtree(_home() / _INCOMING, ignore_errors=True)
        store.write(_seen(folder), text)
    track(folder)
    return place


def _home() -> Path:
    return store.home() / "versions"


def _of_home(folder: Path) -> None:
    """Makes inflame's own folders of versions a DVC repository; a folder elsewhere is not made one unasked."""
    if folder.absolute().parent != _home().absolute():
        raise UserError(
            f"{folder} is not in a DVC repository.",
            where=str(folder),
            remedy="Make one: git init && dvc init; or leave out --to: then versions are kept in the home of inflame.",
        )
    if not (_home() / ".dvc" / "config").is_file():
        store.write(_home() / ".dvc" / "config", _OURS)


def _place(folder: Path, remote: str) -> str:
    """Where the versions of a folder in inflame's home go: as said now, or as said last."""
    if not remote:
        remote = _dvc(_home(), "config", f"remote.{folder.name}.url", fails=False).strip()
        if not remote:
            raise UserError(
                f"Nobody said yet where the versions of {folder.name} go.", remedy="--remote s3://bucket/versions"
            )
        return remote
    path = store.local(remote)
    place = remote if path is None else str(path.absolute())
    store.exists(place)  # a kind of place that isn't known is told before anything is sent
    _dvc(_home(), "remote", "add", "--force", "--quiet", folder.name, place)
    return place


def _remote_of(root: Path, remote: str) -> tuple[str, ...]:
    """The words for a remote of a repository: its name; a place gets the name inflame, in a file that git ignores."""
    if "://" in remote or "/" in remote:
        place = remote if "://" in remote else str(Path(remote).expanduser().absolute())
        _dvc(root, "remote", "add", "--local", "--force", "--quiet", "inflame", place)
        return ("-r", "inflame")
    return ("-r", remote) if remote else ()


def _there(place: str, folder: Path) -> str:
    """The `.dvc` file at the remote, "" when there is none."""
    uri = store.join(place, dvc_file(folder).name)
    return store.read_text(uri) if store.exists(uri) else ""


def _note(place: str, folder: Path, text: str) -> None:
    store.write(store.join(place, dvc_file(folder).name), text)
    store.write(_seen(folder), text)


def _synced(folder: Path) -> str:
    """The `.dvc` file that this machine last sent or got."""
    return _seen(folder).read_text(encoding="utf-8") if _seen(folder).is_file() else ""


def _seen(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.synced")


def _take_over(incoming: Path, folder: Path) -> None:
    """Moves what a folder doesn't have yet into it: packs first, so that no version lacks its contents."""
    for path in sorted(_files(incoming), key=lambda path: (path.suffix != ".parquet", path.name == "snapshot.json")):
        target = folder / path.relative_to(incoming)
        if not target.exists():
            store.make_folder(target.parent)
            path.replace(target)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _sums(folder: Path, files: list[Path]) -> dict[str, str]:
    """The MD5 of each file by its name in the folder, remembered by size and time of change."""
    memory = store.home() / "cache" / "index" / f"{fetch.digest_text(f'md5:{folder.absolute()}')[:32]}.json"
    known: dict[str, list[object]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="utf-8"))
    found = {}
    for path in files:
        name, state = path.relative_to(folder).as_posix(), path.stat()
        now = [state.st_size, state.st_mtime_ns]
        kept = known.get(name, [])
        found[name] = [*now, kept[2] if kept[:2] == now else fetch.digest(path, "md5")]
    with suppress(StorageError):
        store.write(memory, json.dumps(found))
    return {name: str(md5) for name, (_, _, md5) in found.items()}


# --- DVC ---------------------------------------------------------------------------------------------------------


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("dvc") is not None


def _add(root: Path, folder: Path) -> None:
    """Lets DVC take in a folder while nobody writes to it."""
    with fetch.alone(folder):
        store.sweep(folder)
        _dvc(root, "add", "--quiet", str(folder))


def _need() -> None:
    plugins.need("dvc", "dvc", "Pushing and pulling versions")


def _dvc(root: Path, *words: str, shown: bool = False, fails: bool = True) -> str:
    """What `dvc WORDS` in a repository says on stdout. Its own process, as DVC's settings and logs are global."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=root,
        env={**os.environ, **_QUIET},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        check=False,
        errors="replace",
    )
    if done.returncode and fails:
        raise _failed(words, done.stderr or "")
    return done.stdout if not done.returncode else ""


def _failed(words: tuple[str, ...], said: str) -> RunError:
    """The error for what DVC said: it was refused, or something else."""
    lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()[-1:]
    told = " ".join(line.removeprefix("ERROR: ").strip() for line in lines)[:500] or "see what it says above"
    if words[0] not in ("push", "pull"):
        return RunError(f"dvc {words[0]} failed: {told}", where=words[-1], remedy="Correct what DVC says.")
    way = "Check the address and the network, then give the same command again: it goes on."
    if _REFUSED.search(told):
        way = "Give the credentials in the environment (for s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
    return NetworkError(f"DVC could not {words[0]}: {told}", where=words[-1], remedy=way)
