"""What a job carries to another machine: its code, inflame, the list of requirements and the bootstrap, as one archive
named by its content, so that it is uploaded once. Where the code is large, the archive holds only what every job needs
and names the parts that hold the rest; of these only the ones that have changed are uploaded.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import inflame
from inflame import store
from inflame.infra.pack import requirements, snapshot, wheel
from inflame.infra.pack.entry import Entry
from inflame.infra.pack.snapshot import INSIDE, Snapshot
from inflame.records import JobSpec, Package

BUILTIN = "inflame:"  # a model that comes with inflame, and is in its wheel
CODE, PARTS = "code", "parts"
SMALL = 32 * 2**20  # bytes of code up to which it is one archive
SPREAD = 256  # parts of larger code
_MODELS = Path(inflame.__file__).parent / "model"
_NO_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # of no files


@dataclass(frozen=True, slots=True, kw_only=True)
class Luggage:
    """All that goes along, before it is packed. `files` are ours, by their names in the archive; `name` is that of the
    archive, `parts` the code by the names of its parts, where it is large."""

    name: str
    tree: str
    model: str
    files: dict[str, bytes] = field(repr=False)
    code: Snapshot | None = field(repr=False, default=None)
    parts: dict[str, tuple[Entry, ...]] = field(repr=False, default_factory=dict)

    def package(self, place: str) -> Package:
        """How a job names it, at a place where it is or will be."""
        archive = store.join(place, CODE, f"{self.name}.tar.gz")
        known = {"files": len(self.code.entries), "bytes": self.code.size} if self.code else {}
        return Package(tree=self.tree, archive=archive, model=self.model, sha256=self.name, **known)


def collect(spec: JobSpec, place: str, *, limit: int = snapshot.LIMIT, small: int = SMALL) -> Luggage:
    """What the job would carry to `place`, looked at and named; nothing is written there. Refuses what `snapshot.take`
    does. The model folder must have an `app.py`."""
    folder = Path(spec.model).expanduser().resolve()
    builtin = folder.parent == _MODELS
    code = None if builtin else snapshot.take(folder, limit=limit)
    ours = wheel.files()
    lines = requirements.needed(folder, output=spec.output or place, arguments=spec.arguments, image=spec.image)
    files = {
        "bootstrap.py": ours["inflame/infra/bootstrap.py"],
        "requirements.txt": "".join(f"{line}\n" for line in lines).encode(),
        "code.json": _told(code),
    }
    parts: dict[str, tuple[Entry, ...]] = {}
    if code is not None and code.size > small:
        parts = _parts(code)
        files["parts.json"] = json.dumps(sorted(parts)).encode()
    tree = code.tree if code else _NO_TREE
    told = "\0".join([tree, wheel.digest(ours), wheel.digest(files)])
    model = f"{BUILTIN}{folder.name}" if code is None else code.model
    name = hashlib.sha256(told.encode()).hexdigest()[:40]
    return Luggage(name=name, tree=tree, model=model, files=files, code=code, parts=parts)


def upload(luggage: Luggage, place: str) -> Package:
    """Puts at `place` what isn't there yet; gives the package with the size of what was uploaded in `bytes`."""
    there = _names(store.join(place, CODE))
    sent = 0
    if luggage.parts and luggage.code is not None:
        known = _names(store.join(place, CODE, PARTS))
        for name, entries in luggage.parts.items():
            if f"{name}.tar.gz" not in known:
                sent += _put(store.join(place, CODE, PARTS, f"{name}.tar.gz"), {}, luggage.code, entries)
    package = luggage.package(place)
    if f"{luggage.name}.tar.gz" not in there:  # last: what it names is there
        files = {**luggage.files, wheel.name(): wheel.build(wheel.files())}
        whole = () if luggage.parts or luggage.code is None else luggage.code.entries
        sent += _put(package.archive, files, luggage.code, whole)
    return replace(package, bytes=sent)


def _told(code: Snapshot | None) -> bytes:
    """Where the code came from, for the provenance of the run."""
    if code is None:
        return json.dumps({"tree": _NO_TREE}).encode()
    about = {"tree": code.tree, "commit": code.commit, "branch": code.branch, "diff": code.diff}
    return json.dumps(about, sort_keys=True).encode(errors="surrogateescape")


def _parts(code: Snapshot) -> dict[str, tuple[Entry, ...]]:
    """The files in groups by a hash of their paths, so that a change leaves most groups as they are."""
    groups: dict[int, list[Entry]] = {}
    for entry in code.entries:
        groups.setdefault(hashlib.sha256(entry.path.encode(errors="replace")).digest()[0] % SPREAD, []).append(entry)
    named = {}
    for entries in groups.values():
        told = "".join(f"{one.mode} {one.blob} {one.path}\n" for one in entries)
        named[hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()[:40]] = tuple(entries)
    return named


def _put(uri: str, files: dict[str, bytes], code: Snapshot | None, entries: Iterable[Entry]) -> int:
    """Packs and uploads; the bytes that went."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "code.tar.gz"
        contents = code.contents(entries) if code is not None else iter(())
        pack(archive, {f"{INSIDE}/{name}": data for name, data in files.items()}, contents)
        store.upload(archive, uri)
        return archive.stat().st_size


def pack(target: Path, files: dict[str, bytes], contents: Iterator[tuple[Entry, bytes]]) -> None:
    """Writes a .tar.gz: the same bytes for the same files, whenever and by whomever it is made."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, data in sorted(files.items()):
            _add(tar, name, "100644", data)
        for entry, data in contents:
            _add(tar, entry.path, entry.mode, data)


def _add(tar: tarfile.TarFile, name: str, mode: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.mode = 0o755 if mode == "100755" else 0o644
    if mode == "120000":
        about.type, about.linkname = tarfile.SYMTYPE, data.decode(errors="surrogateescape")
        tar.addfile(about)
        return
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


def _names(uri: str) -> set[str]:
    """The names below a uri; none where nothing is there yet."""
    return set(store.listdir(uri)) if store.exists(uri) else set()
