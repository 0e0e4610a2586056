"""A table of pictures and labels as a data set: columns path and label, and if you like split, group and time.

CSV, TSV, JSON lines or Parquet. Paths are relative to the table's own folder; instead of a path a row may hold the text
itself (column text). What is wrong is named by file and line.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from inflame.artifact import contents, listing, texts
from inflame.errors import DataError, did_you_mean
from inflame.records import Dataset, Fault

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
TEXTS = ("text", "body", "content", "document", "sentence", "message")  # columns that hold the item itself

_COLUMNS = {
    "path": ("path", "filename", "file", "image", "uri", "file_name", "filepath", "file_path", "image_path"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "subset"),
    "group": ("group", "group_id", "patient", "patient_id", "subject_id", "person_id", "video", "video_id"),
    "time": ("time", "date", "timestamp"),
}
_ALIAS = {alias: name for name, aliases in _COLUMNS.items() for alias in aliases}
_GUESSED = [alias for alias in _ALIAS if alias not in _COLUMNS["group"][1:]]  # the others are like too many words
_SHOWN = 5  # lines named in one message


def is_table(path: Path) -> bool:
    """Whether the file is a table: by its name, and for Parquet by having paths and no pictures or texts in it."""
    if path.suffix.lower() != ".parquet":
        return path.suffix.lower() in SUFFIXES
    import pyarrow.parquet as pq

    try:
        names = {name.casefold() for name in pq.read_schema(path).names}
    except (OSError, ValueError):
        return False
    return not names & {*TEXTS, "image"} and bool(names & set(_COLUMNS["path"]))


def read(path: Path) -> Dataset:
    """The data set that a table describes: splits as written, sha256 empty (see `listing.folder`).

    Raises DataError for text that isn't UTF-8, missing or misspelt columns, a broken row or an unknown split. Missing
    files, empty labels and repeated rows are faults.
    """
    rows = _rows(path)
    _, header = next(rows, (1, []))
    columns = _columns(path, header)
    picked = _Picked(path, columns, width=len(header), text="path" not in columns)
    for line, row in rows:
        picked.take(line, row)
    if _encoding(path) not in ("utf-8", "utf-8-sig", "utf-16"):
        picked.wrong.setdefault(("odd_mode", "info", f"not UTF-8 but {_encoding(path)}: read as that"), []).append(
            (1, path.name)
        )
    return picked.dataset()


class _Picked:
    """The rows taken so far, column by column, and what is wrong with the others."""

    def __init__(self, path: Path, columns: dict[str, int], width: int, *, text: bool = False) -> None:
        self.path, self.columns, self.width, self.text = path, columns, width, text
        self.count = 0
        self.root = path.resolve().parent
        self.changed = path.stat().st_mtime_ns
        self.taken: dict[str, list[str]] = {name: [] for name in (*_COLUMNS, "line")}
        self.states: list[tuple[int, int]] = []
        self.seen: set[tuple[str, str]] = set()
        self.wrong: dict[tuple[str, str, str], list[tuple[int, str]]] = {}

    def take(self, line: int, row: list[str]) -> None:
        """One row: an item, or a fault."""
        number, self.count = self.count, self.count + 1
        item = self.columns["text" if self.text else "path"]
        if not max(item, self.columns["label"]) < len(row) <= self.width:
            raise _bad(self.path, line, f"has {len(row)} fields; the first line has {self.width}")
        value = {name: row[index].strip() if index < len(row) else "" for name, index in self.columns.items()}
        if self.text:
            value["path"] = f"{self.path.name}#{number}"
        uri, state = self.find(row[item], number)
        if not value["path"]:
            self.blame("no_path", "error", "the path is empty", line, f"{self.path.name}:{line}")
        elif not value["label"]:
            self.blame("no_label", "error", "the label is empty", line, uri)
        elif state is None:
            self.blame("unreadable", "error", "there is no such file", line, uri)
        elif (uri, value["label"]) in self.seen:
            self.blame("duplicate", "info", "the row is repeated: counted once", line, uri)
        else:
            spaced = not self.text and uri != row[item] and uri == row[item].strip()
            if spaced or value["label"] != row[self.columns["label"]]:
                self.blame("odd_mode", "info", "spaces around the path or the label: read without them", line, uri)
            self.seen.add((uri, value["label"]))
            self.states.append(state)
            value |= {"path": uri, "split": self.split(line, value.get("split", "")), "line": str(line)}
            for name, cells in self.taken.items():
                cells.append(value.get(name, ""))

    def find(self, cell: str, number: int) -> tuple[str, tuple[int, int] | None]:
        """The uri of the picture that a cell names (or of the text that it is), and its size and mtime; None when there
        is no such file."""
        if self.text:
            return f"{self.path.name}#{number}", (len(cell), self.changed)
        forms = (unicodedata.normalize(form, cell.strip()) for form in ("NFC", "NFD") if not cell.isascii())
        tried = dict.fromkeys([cell.strip(), cell, cell.strip().replace("\\", "/"), *forms])
        for name in tried:
            for place in (name, contents.divided(name)[0]):  # the file itself, or the shard or array it is in
                try:
                    state = os.stat(listing.locate(self.root, place))  # noqa: PTH116 - a million rows
                except (OSError, ValueError):
                    continue
                if place and os.path.isfile(self.root / place):  # noqa: PTH113
                    return name, (state.st_size, state.st_mtime_ns)
        return cell.strip(), None

    def split(self, line: int, word: str) -> str:
        """The split that a cell names."""
        if not word:
            return ""
        found = listing.split_name(word)
        if not found:
            known = ("train", "val", "test")
            raise _bad(self.path, line, f'names the split "{word}".{did_you_mean(word, known)} Use train, val or test')
        return found

    def blame(self, kind: str, severity: str, reason: str, line: int, uri: str) -> None:
        """Notes what is wrong with a row."""
        self.wrong.setdefault((kind, severity, reason), []).append((line, uri))

    def dataset(self) -> Dataset:
        """All rows as a data set. No row can be used: DataError."""
        if not self.taken["path"]:
            raise self.useless()
        return Dataset(
            name=listing.to_uri(self.path.stem),
            kind="text" if self.text else _kind(self.root, self.taken["path"]),
            classes=tuple(sorted(set(self.taken["label"]))),
            root=str(self.root),
            version="",
            items=listing.table(
                uri=self.taken["path"],
                **{name: self.taken[name] for name in ("label", "split", "group", "time")},
                size=[size for size, _ in self.states],
                mtime=[mtime for _, mtime in self.states],
            ),
            faults=tuple(self.faults()),
        )

    def faults(self) -> Iterator[Fault]:
        """What is wrong, kind by kind, with the lines."""
        for (kind, severity, reason), found in self.wrong.items():
            lines = ", ".join(f"{line:,}" for line, _ in found[:_SHOWN]) + (" …" if len(found) > _SHOWN else "")
            where = f"{self.path.name}, line{'s' if len(found) > 1 else ''} {lines}"
            yield Fault(
                kind=kind, severity=severity, reason=f"{reason} ({where})", items=tuple(uri for _, uri in found)
            )

    def useless(self) -> DataError:
        """Why no row can be used."""
        if not self.wrong:
            return DataError(
                f"{self.path} has no rows below its first line.",
                where=str(self.path),
                remedy="Write one row for each picture: path,label",
            )
        (_, _, reason), found = next(iter(self.wrong.items()))
        line, uri = found[0]
        return DataError(
            f"No row of {self.path.name} can be used: {reason}, beginning with {uri}.",
            where=f"{self.path}:{line}",
            remedy=f"Paths are taken relative to the folder of the table, {self.root}. Correct the column, or move the "
            "table there.",
        )


def _kind(root: Path, uris: Sequence[str]) -> str:
    """What the named items are: as in a folder, by their suffixes; of records of a shard the first one says it."""
    held: dict[str, str] = {}  # suffix → the first that has it
    for uri in uris:
        file = contents.divided(uri)[0] or uri if "#" in uri else uri
        held.setdefault(os.path.splitext(file)[1].casefold(), uri)  # noqa: PTH122 - a million rows
    if not held.keys() & {".npy", *listing.PICTURES}:
        if held.keys() & {*SUFFIXES, *listing.TEXTS}:
            return "text"
        with suppress(DataError, OSError, ValueError):  # what can't be read is told when it is read
            shards = (uri for suffix, uri in held.items() if suffix in contents.OPENERS)
            if any(not texts.no_text(contents.Contents(root).read(uri)) for uri in shards):
                return "text"
    return "image"


def opened(path: Path) -> Callable[[str], bytes]:
    """The text of a row by its number (0: the first below the header), as UTF-8."""
    texts = _bodies(path)

    def read(key: str) -> bytes:
        number = int(key) if key.isdigit() else -1
        if not 0 <= number < len(texts):
            raise contents.missing(path, key)
        return texts[number].encode()

    return read


def _bodies(path: Path) -> list[str]:
    """The text of every row."""
    rows = _rows(path)
    _, header = next(rows, (1, []))
    names = [cell.strip().casefold() for cell in header]
    place = next((names.index(name) for name in TEXTS if name in names), -1)
    return [row[place] if 0 <= place < len(row) else "" for _, row in rows]


# --- reading ----------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row that isn't blank; the first is the header."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _json_rows(path)
        return
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        yield 1, list(table.column_names)
        columns = [column.to_pylist() for column in table.columns]
        for line, cells in enumerate(zip(*columns, strict=True), 2):
            yield line, ["" if cell is None else str(cell) for cell in cells]
        return
    text = _text(path)
    first = text.lstrip().partition("\n")[0]
    counts = {mark: first.count(mark) for mark in ("\t", ",", ";")}
    preferred = "\t" if path.suffix.lower() == ".tsv" else ","
    delimiter = preferred if counts[preferred] else max(counts, key=lambda mark: counts[mark])
    csv.field_size_limit(1 << 27)  # texts are longer than the 128 kB that cells may have
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise _bad(path, reader.line_num, f"can't be read ({error})") from error


def _json_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file of JSON objects, with the names of the first one's keys (and of later new ones) before."""
    objects: list[tuple[int, dict[str, object]]] = []
    names: dict[str, None] = {}
    for line, text in enumerate(_text(path).splitlines(), 1):
        if text.strip():
            try:
                value = json.loads(text)
            except ValueError as error:
                raise _bad(path, line, f"is no JSON ({error})") from error
            if not isinstance(value, dict):
                raise _bad(path, line, "is no JSON object", remedy='Write one object a line: {"path": …, "label": …}')
            objects.append((line, value))
            names |= dict.fromkeys(value)
    yield 1, list(names)
    for line, value in objects:
        yield line, ["" if value.get(name) is None else str(value[name]) for name in names]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} can't be read: {error.strerror}.", where=str(path), remedy="Check the name and its permissions."
        ) from error
    if b"\0" in data[:1000] and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise _bad(path, 1, "is not text", remedy="Save the table as UTF-8 (in a spreadsheet: CSV UTF-8).")
    return texts.decode(data)[0]


def _encoding(path: Path) -> str:
    return "utf-8" if path.suffix.lower() == ".parquet" else texts.decode(path.read_bytes())[1]


def _columns(path: Path, header: list[str]) -> dict[str, int]:
    """The index of each known column. Of several names for one thing the first in `_COLUMNS` counts."""
    names = [cell.strip().casefold() for cell in header]
    for name in names:
        if name in _ALIAS and names.count(name) > 1:
            raise _bad(path, 1, f'has two columns "{name}"')
    found = {
        meaning: names.index(next(alias for alias in aliases if alias in names))
        for meaning, aliases in _COLUMNS.items()
        if any(alias in names for alias in aliases)
    }
    for name, cell in zip(names, header, strict=True):
        close = [] if name in _ALIAS else difflib.get_close_matches(name, _GUESSED, n=1, cutoff=0.8)
        if close and _ALIAS[close[0]] not in found:
            raise _bad(path, 1, f'has a column "{cell.strip()}"; did you mean "{close[0]}"?')
    body = next((names.index(name) for name in TEXTS if name in names), -1)
    if body >= 0 and "path" not in found:
        found["text"] = body
    missing = [meaning for meaning in (_item(found), "label") if meaning not in found]
    if missing:
        shown = ", ".join(cell.strip() for cell in header[:8]) or "nothing"
        raise _bad(
            path,
            1,
            f"lacks a column for the {' and the '.join(missing)}: it has {shown}",
            remedy="Name the columns in the first line: path,label and, if you like, split,group,time.",
        )
    return found


def _item(found: dict[str, int]) -> str:
    return "text" if "text" in found else "path"


def _bad(path: Path, line: int, what: str, *, remedy: str = "") -> DataError:
    return DataError(
        f"{path.name}, line {line:,} {what}{'' if what.endswith('?') else '.'}",
        where=f"{path}:{line}",
        remedy=remedy or "Correct the table: path,label in its first line, one row for each picture below.",
    )
