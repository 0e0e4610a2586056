"""What makes a bundle whole: its files, their hashes, and the check of both. No torch, no numpy."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame.errors import BundleError
from inflame.records import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
FILES = (
    "model.onnx",
    "model.safetensors",
    "preprocess.json",
    "classes.json",
    "calibration.json",
    "reference.json",
    "card.md",
)


NEAREST = "nearest.npz"  # in bundles since 0.1 whose training items were at hand
EXPECTED = "expected.npz"  # in bundles whose held-out items were asked, see expecting.py
SOMETIMES = (NEAREST, EXPECTED)
WEIGHTS = "model.safetensors"  # checked, but not kept in memory


def verify(folder: str | Path) -> dict[str, Any]:
    """The content of bundle.json, after every file was found and every hash was right. Otherwise BundleError."""
    return load(folder)[0]


def load(folder: str | Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The content of bundle.json, and that of the other files (but the weights), just as they were checked.

    A file that is missing or was changed raises BundleError. A bundle that is replaced meanwhile, by a training that
    goes on, is read again.
    """
    place = Path(folder)
    for last in (False, False, True):
        before = _stamp(place)
        try:
            return _load(place)
        except BundleError:
            if last or _stamp(place) == before:
                raise
    raise AssertionError("the last round returns or raises")


def _load(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    info = _manifest(folder)
    contents = {}
    for name in (*FILES, *(name for name in info["sha256"] if name in SOMETIMES)):
        content = None if name == WEIGHTS else _content(folder / name)
        found = _sha256(folder / name) if content is None else hashlib.sha256(content).hexdigest()
        if found is None or found != info["sha256"].get(name):
            raise _broken(folder, f"{name} is not the file that the bundle was made with")
        if content is not None:
            contents[name] = content
    return info, contents


def _manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise BundleError(
            f"There is no bundle at {folder}.",
            where=str(folder),
            remedy="Name the folder of a finished run or its bundle; `inflame runs` lists them.",
        )
    try:
        info = json.loads((folder / "bundle.json").read_bytes())
        number, seal = info["format"], info.pop("seal")
        intact = seal == _digest(info) and info["version"] == _digest(info["sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(folder, "bundle.json is missing or damaged") from error
    if not intact:
        raise _broken(folder, "bundle.json was changed")
    if number != FORMAT:
        raise BundleError(
            f"The bundle has format {number}, this inflame reads format {FORMAT}.",
            where=str(folder),
            remedy="Install the newest version: pip install --upgrade inflame",
        )
    return dict(info)


def _stamp(folder: Path) -> bytes | None:
    """What tells one bundle at this place from another."""
    return _content(folder / "bundle.json")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _broken(folder: Path, what: str) -> BundleError:
    return BundleError(
        f"The bundle can't be trusted: {what}.",
        where=str(folder),
        remedy="Copy the whole folder again from where it was made, or train again.",
    )


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes bundle.json: the version is the hash of all hashes, the seal that of everything else in it."""
    names = (*FILES, *(name for name in SOMETIMES if (folder / name).exists()))
    hashes = {name: _sha256(folder / name) for name in names}
    info = {"format": FORMAT, "version": _digest(hashes), **facts}
    info |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "sha256": hashes}
    info = json.loads(dumps(info))  # the seal is that of what is read back
    (folder / "bundle.json").write_text(dumps({**info, "seal": _digest(info)}), encoding="utf-8")


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
