"""What lies in a folder of pictures or texts: items, labels and splits, taken from the names of folders.

Nothing is opened and nothing is written; each real folder is listed once, so links in a circle do no harm. The
result is a `Dataset` whose table also has `size` and `mtime` (ns) of each file, by which the index knows it again.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from inflame.errors import DataError
from inflame.records import Dataset, Fault

COLUMNS = ("uri", "label", "split", "sha256", "group", "time")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS] + [("size", pa.int64()), ("mtime", pa.int64())])

PICTURES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .pnm .avif .heic .heif .jp2 .ico .tga".split()
)
_OTHERS = frozenset(
    ".txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .toml .html .htm .pdf .doc .docx .xls .xlsx .ppt .py .ipynb "
    ".js .css .zip .tar .gz .tgz .xz .bz2 .7z .rar .npy .npz .pt .pth .pkl .h5 .hdf5 .parquet .arrow .onnx "
    ".safetensors .tfrecord .db .sqlite .log .mp3 .wav .ogg .flac .mp4 .mov .avi .mkv .webm .exe "
    ".sh .bat .lnk .url .ini .cfg .part .crdownload .tmp .bak".split()
)
TEXTS = frozenset((".txt", ".text"))
_JUNK = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "icon\r"))
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing"),
}
_EITHER = ("eval", "evaluation")  # the test split, or validation when there is another test split
_ALIAS = {alias: split for split, aliases in _SPLITS.items() for alias in aliases}

_LAYOUT = (
    "Put the pictures of each class into a folder with the name of the class (photos/cat/1.jpg, photos/dog/2.jpg; "
    "train/, val/ and test/ above them if you like), or give a CSV with the columns path,label."
)
_PRIVATE = 0xF700  # in file names, bytes that are no UTF-8 are kept as U+F780 … U+F7FF


def table(**columns: Sequence[Any]) -> pa.Table:
    """A table of items with all columns of `SCHEMA`; the missing ones are empty (`size` and `mtime` 0)."""
    rows = len(columns["uri"])
    return pa.table(
        {
            name: columns[name]
            if name in columns
            else pa.repeat(
                pa.scalar("" if SCHEMA.field(name).type == pa.string() else 0, SCHEMA.field(name).type), rows
            )
            for name in SCHEMA.names
        },
        schema=SCHEMA,
    )


def to_uri(name: str) -> str:
    """A file name as text that can be stored: bytes that are no UTF-8 become private characters."""
    if name.isascii():
        return name
    return "".join(chr(ord(c) - 0xDC00 + _PRIVATE) if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)


def locate(root: str | Path, uri: str) -> Path:
    """The file that `uri` of a data set with that root names: the way back from `to_uri`."""
    path = Path(root) / uri
    if uri.isascii() or os.path.lexists(path):
        return path
    first, last = _PRIVATE + 0x80, _PRIVATE + 0xFF
    return Path(root) / "".join(chr(ord(c) - _PRIVATE + 0xDC00) if first <= ord(c) <= last else c for c in uri)


def split_name(word: str, others: Iterable[str] = ()) -> str:
    """`train`, `val` or `test` for a word that means it (any case); "" for any other word. `others` are the words
    beside it: evaluation is the test split unless one of them is."""
    known = _ALIAS.get(word.strip().casefold(), "")
    if not known and word.strip().casefold() in _EITHER:
        return "val" if any(_ALIAS.get(other.strip().casefold()) == "test" for other in others) else "test"
    return known


def is_junk(name: str) -> bool:
    """Whether operating systems and programs leave such files about: .DS_Store, Thumbs.db, ._x, anything hidden."""
    return name.startswith(".") or name.casefold() in _JUNK


def is_picture(name: str) -> bool:
    """Whether a file of that name may be a picture: by its suffix, or because the suffix says nothing."""
    suffix = os.path.splitext(name)[1].casefold()  # noqa: PTH122 - a million names
    return suffix in PICTURES or suffix not in _OTHERS


@dataclass(slots=True)
class _Tree:
    """A folder and what is below it."""

    name: str
    uri: str  # relative to the root; "" for the root
    pictures: list[tuple[str, int, int]] = field(default_factory=list)  # uri, size, mtime
    texts: list[tuple[str, int, int]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[_Tree] = field(default_factory=list)

    def walk(self) -> Iterator[_Tree]:
        waiting = [self]
        while waiting:
            tree = waiting.pop()
            yield tree
            waiting += reversed(tree.folders)

    def holds_pictures(self) -> bool:
        return any(tree.pictures for tree in self.walk())


def folder(path: Path, *, shown: str = "") -> Dataset:
    """The data set of a folder of class folders, with or without train, val and test above them. Texts (.txt) are
    taken where class folders hold no picture.

    The label is the first level below the root or the split; deeper levels are allowed. A single folder around
    everything is looked through. Splits that folders name are in `split`, else it is empty; sha256 is empty.
    `classes` has the empty ones too. Raises DataError when there is nothing to learn from; `shown` is what
    messages call the folder.
    """
    root = path.resolve()
    where = shown or str(path)
    junk: list[str] = []
    loops: list[str] = []
    top = _list(root, junk, loops)
    kind = _kind(top)
    top = _inner(top)
    splits = _split_folders(top)
    groups = [(split, tree) for tree, split in splits] or [("", top)]
    if not any(tree.folders and tree.holds_pictures() for _, tree in groups):
        raise _nothing(top, [tree for _, tree in groups], where)
    uris: list[tuple[str, int, int]] = []
    labels: list[str] = []
    named: list[str] = []
    for split, tree in groups:
        for named_folder in tree.folders:
            found = [picture for below in named_folder.walk() for picture in below.pictures]
            uris += found
            labels += [to_uri(named_folder.name)] * len(found)
            named += [split] * len(found)
    faults = [*_junk_faults(junk, loops), *_layout_faults(top, groups, bool(splits))]
    items = table(
        uri=[uri for uri, _, _ in uris],
        label=labels,
        split=named,
        size=[size for _, size, _ in uris],
        mtime=[mtime for _, _, mtime in uris],
    )
    return Dataset(
        name=to_uri(root.name) or "data",
        kind=kind,
        classes=tuple(sorted({to_uri(each.name) for _, tree in groups for each in tree.folders})),
        root=str(root),
        version="",
        items=items,
        faults=tuple(faults),
    )


# --- walking ------------------------------------------------------------------------------------------


def _list(root: Path, junk: list[str], loops: list[str]) -> _Tree:
    """The tree below `root`, in the order of names; each real folder once."""
    top = _Tree(name=root.name, uri="")
    own = root.stat()
    seen = {(own.st_dev, own.st_ino)}
    waiting = [(top, str(root))]
    while waiting:
        tree, place = waiting.pop()
        for entry in _entries(place):
            uri = to_uri(f"{tree.uri}/{entry.name}" if tree.uri else entry.name)
            if is_junk(entry.name):
                junk.append(uri)
            elif entry.is_dir():
                identity = _identity(entry)
                if identity is None or identity in seen:
                    loops.append(uri)
                    continue
                seen.add(identity)
                below = _Tree(name=entry.name, uri=uri)
                tree.folders.append(below)
                waiting.append((below, entry.path))
            elif is_picture(entry.name) and (state := _state(entry)) is not None:
                tree.pictures.append((uri, *state))
            elif _is_text(entry.name) and (state := _state(entry)) is not None:
                tree.texts.append((uri, *state))
            else:
                tree.others.append(uri)
    return top


def _entries(place: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"The folder {place} can't be read: {error.strerror}.",
            where=place,
            remedy=f"Give yourself the right to read it: chmod -R u+rX {place}",
        ) from error


def _identity(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    try:
        state = entry.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _state(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """(size, mtime) of a file; None for what is no file: opening a pipe would wait for ever."""
    try:
        state = entry.stat()
    except OSError:  # a link to nothing: opening it will say so
        return -1, -1
    return (state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None


def _is_text(name: str) -> bool:
    return os.path.splitext(name)[1].casefold() in TEXTS  # noqa: PTH122 - a million names


def _kind(top: _Tree) -> str:
    """Whether the folder is one of pictures or of texts; what is not of that kind is put among the others.

    Files without a suffix may be either: they count as texts where texts outnumber files that are pictures by name.
    """
    below = [tree for tree in top.walk() if tree is not top]
    texts = sum(len(tree.texts) for tree in below)
    sure = sum(len(_sure(tree)) for tree in below)
    if not texts or sure:
        for tree in top.walk():
            tree.others += [uri for uri, _, _ in tree.texts]
        return "image"
    for tree in top.walk():
        named = set(_sure(tree))
        tree.others += [uri for uri, _, _ in tree.pictures if uri in named or tree is top]
        bare = [] if tree is top else [item for item in tree.pictures if item[0] not in named]
        tree.pictures = sorted([*tree.texts, *bare]) if tree is not top else []
    return "text"


# --- what folders mean ---------------------------------------------------------------------------------


def _inner(top: _Tree) -> _Tree:
    """The folder that holds the classes: a lone folder around several others is only a wrapping."""
    level = top
    while not level.pictures and len(level.folders) == 1:
        if split_name(level.folders[0].name) == "train":
            return level
        level = level.folders[0]
    return level if not level.pictures and level.holds_pictures() else top


def _split_folders(top: _Tree) -> list[tuple[_Tree, str]]:
    """The folders that are splits. One name alone may be a class (trains beside planes), unless it is all there is."""
    names = [tree.name for tree in top.folders]
    found = [(tree, split) for tree in top.folders if (split := split_name(tree.name, names))]
    several = len({split for _, split in found}) > 1
    alone = bool(found) and len(top.folders) == 1 and bool(top.folders[0].folders)
    return found if several or alone else []


def _junk_faults(junk: list[str], loops: list[str]) -> Iterator[Fault]:
    if junk:
        yield Fault(kind="junk", severity="info", reason="left by a program or the system: ignored", items=tuple(junk))
    if loops:
        yield Fault(
            kind="junk",
            severity="info",
            reason="a link to a folder that is listed already: ignored",
            items=tuple(loops),
        )


def _layout_faults(top: _Tree, groups: list[tuple[str, _Tree]], split: bool) -> Iterator[Fault]:
    """What the layout leaves out: pictures outside any class folder, files that are no pictures."""
    trees = [tree for _, tree in groups]
    beside = [below for tree in top.folders if tree not in trees for below in tree.walk()] if split else []
    flat = [uri for tree in [*([top] if split else []), *trees, *beside] for uri in _sure(tree)]
    if flat:
        yield Fault(
            kind="junk",
            severity="warning",
            reason="not in a class folder: it has no label, left out",
            items=tuple(flat),
        )
    kinds = [kind for _, tree in groups for kind in tree.folders]
    others = [uri for kind in kinds for below in kind.walk() for uri in below.others]
    if others:
        yield Fault(kind="junk", severity="warning", reason="not a picture by its name: left out", items=tuple(others))


def _sure(tree: _Tree) -> list[str]:
    """The files right in a folder that are pictures by their suffix: SHA256SUMS and LICENSE have none."""
    return [uri for uri, _, _ in tree.pictures if os.path.splitext(uri)[1].casefold() in PICTURES]  # noqa: PTH122


def _nothing(top: _Tree, trees: Sequence[_Tree], where: str) -> DataError:
    """Why there is nothing to learn from in the folder."""
    flat = next((tree for tree in trees if _sure(tree)), None)
    if flat is not None:
        count, place = len(_sure(flat)), f"{where}/{flat.uri}" if flat.uri else where
        return DataError(
            f"{count:,} picture{'s lie' if count > 1 else ' lies'} flat in {place}, without class folders: nothing "
            "says what they show.",
            where=where,
            remedy=_LAYOUT,
        )
    others = Counter(
        os.path.splitext(uri)[1].casefold() or "without suffix"  # noqa: PTH122
        for below in top.walk()
        for uri in below.others + [uri for uri, _, _ in below.pictures]
    )
    if others:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(4))
        return DataError(f"{where} has no pictures, only other files ({kinds}).", where=where, remedy=_LAYOUT)
    return DataError(f"{where} is empty: there are no pictures in it.", where=where, remedy=_LAYOUT)
