"""Words that name a place: a file, a folder, a named data set. A wrong one is answered with the nearest right one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from inflame import plugins
from inflame.errors import DataError, did_you_mean


def data(word: str) -> Path | str:
    """The path that is there, absolute, or the name of a data set that is known. Raises DataError."""
    path = Path(word).expanduser()
    if path.exists():
        return path.resolve()
    if word in plugins.names("source") or "://" in word:
        return word
    raise nowhere(word, plugins.names("source"), "no file or folder here, and no named data set")


def file(word: str) -> Path:
    """The file that is there, absolute. Raises DataError."""
    path = Path(word).expanduser()
    if not path.is_file():
        raise nowhere(word, (), "a folder, not a file" if path.is_dir() else "not a file here")
    return path.resolve()


def nowhere(word: str, names: Iterable[str], what: str) -> DataError:
    """The error for a word that names nothing; guesses among `names` and what lies where it points."""
    names = sorted(names)
    parent = Path(word).expanduser().parent
    beside = [str(parent / entry.name) for entry in parent.iterdir()] if parent.is_dir() else []
    choice = f", or use a name: {', '.join(names)}" if names else ""
    return DataError(
        f'"{word}" is {what}.{did_you_mean(word.rstrip("/"), [*names, *beside])}',
        where=str(Path(word).expanduser().absolute()),
        remedy=f"Check the path{choice}",
    )
