"""Parquet and Arrow files in the layout of Hugging Face data sets: `image: struct<bytes, path>` (or `text`), `label`.

The metadata that its library writes says which numbers are which classes; both ways are understood.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, final

import pyarrow as pa
import pyarrow.parquet as pq

from inflame.artifact.formats.entry import REMEDY, Entry
from inflame.errors import DataError

SUFFIX = ".parquet"

PICTURES = ("image", "img", "picture", "photo", "jpg", "png")
TEXTS = ("text", "body", "content", "document", "sentence", "message")
LABELS = ("label", "labels", "class", "category", "target", "fine_label", "coarse_label")

_EXTRA = ("split", "sha256", "group", "time", "uri")
_ROWS = 256  # pictures in a row group


@final
class Writer:
    """Writes items to a path or file object."""

    def __init__(self, target: Path | IO[bytes], classes: tuple[str, ...] = (), *, kind: str = "image") -> None:
        content = pa.string() if kind == "text" else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        name = "text" if kind == "text" else "image"
        fields = [pa.field(name, content), pa.field("label", pa.int64()), *((n, pa.string()) for n in _EXTRA)]
        self._schema = pa.schema(
            fields, metadata={"huggingface": json.dumps({"info": {"features": features(kind, classes)}})}
        )
        self._file: IO[bytes] = target.open("wb") if isinstance(target, Path) else target
        compression = "none" if kind != "text" else "zstd"
        self._writer = pq.ParquetWriter(self._file, self._schema, compression=compression, write_page_checksum=True)
        self._number = {label: number for number, label in enumerate(classes)}
        self._name, self._kind = name, kind
        self._rows: list[dict[str, Any]] = []

    def add(self, entry: Entry, data: bytes) -> int:
        """Appends an item; returns about how many bytes it takes."""
        content: Any = data.decode("utf-8", "replace")
        if self._kind != "text":
            content = {"bytes": data, "path": Path(entry.uri).name or f"picture{entry.ext}"}
        row = {self._name: content, "label": self._number[entry.label]}
        self._rows.append({**row, **{name: getattr(entry, name) for name in _EXTRA}})
        if len(self._rows) >= _ROWS:
            self._flush()
        return len(data) + 64

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._flush()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def entries(path: Path, *, on_bad: Callable[[int, str], Any] | None = None) -> Iterator[Entry]:
    """What is in the file, row by row; keys are row numbers. Damage: DataError, or with `on_bad` told and left out."""
    try:
        schema, table = _described(path)
    except (pa.ArrowException, OSError) as error:
        if on_bad is None:
            raise _damaged(path, error) from error
        on_bad(0, str(error))
        return
    label = next((name for name in LABELS if name in table.column_names), "")
    labels = table[label].to_pylist() if label else [""] * table.num_rows
    classes = class_names(schema, label)
    ext = ".txt" if content_column(schema) in TEXTS else ""
    columns = {name: table[name].to_pylist() for name in _EXTRA if name in table.column_names}
    for row, value in enumerate(labels):
        told = {name: str(column[row] or "") for name, column in columns.items()}
        known = isinstance(value, int) and 0 <= value < len(classes)
        named = classes[value] if known else "" if value is None else str(value)
        yield Entry(
            key=str(row),
            label=named,
            ext=ext,
            split=told.get("split", ""),
            sha256=told.get("sha256", ""),
            group=told.get("group", ""),
            time=told.get("time", ""),
            uri=told.get("uri", ""),
        )


def opened(path: Path) -> Callable[[str], bytes]:
    """The picture or text of a row by its number. Row groups are read whole, the last one is kept."""
    from inflame.artifact.contents import missing

    lock = threading.Lock()
    if path.suffix == ".arrow":
        whole = _arrow(path)
        column = whole[content_column(whole.schema) or whole.column_names[0]]
        return lambda key: _bytes(column[int(key)].as_py(), path)
    file = pq.ParquetFile(path, page_checksum_verification=True)
    name = content_column(file.schema_arrow)
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    kept: list[Any] = [-1, None]

    def read(key: str) -> bytes:
        row = int(key) if key.isdigit() else -1
        if name is None or not 0 <= row < starts[-1]:
            raise missing(path, key)
        group = next(number for number in range(len(starts) - 1) if row < starts[number + 1])
        with lock:
            if kept[0] != group:
                try:
                    kept[:] = [group, file.read_row_group(group, columns=[name])[name]]
                except (pa.ArrowException, OSError) as error:
                    raise _damaged(path, error, f"rows {starts[group]:,} to {starts[group + 1] - 1:,}") from error
            value = kept[1][row - starts[group]].as_py()
        return _bytes(value, path)

    return read


def features(kind: str, classes: Sequence[str]) -> dict[str, Any]:
    """The columns as Hugging Face's metadata describes them."""
    value = {"dtype": "string", "_type": "Value"}
    content = {"text": value} if kind == "text" else {"image": {"_type": "Image"}}
    label = {"names": list(classes), "_type": "ClassLabel"}
    return {**content, "label": label, **dict.fromkeys(_EXTRA, value)}


def content_column(schema: pa.Schema) -> str | None:
    """The column that holds the item itself: a picture, or else a text."""
    return next((name for name in (*PICTURES, *TEXTS) if name in schema.names), None)


def class_names(schema: pa.Schema, label: str) -> list[str]:
    """The names of the classes that Hugging Face's metadata gives the label's numbers."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])
        names: list[str] = told["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    return names


def _described(path: Path) -> tuple[pa.Schema, pa.Table]:
    """The schema, and the rows without the pictures or texts themselves."""
    if path.suffix == ".arrow":
        whole = _arrow(path)
        content = content_column(whole.schema)
        return whole.schema, whole.drop_columns([content] if content else [])
    file = pq.ParquetFile(path, page_checksum_verification=True)
    content = content_column(file.schema_arrow)
    return file.schema_arrow, file.read(columns=[name for name in file.schema_arrow.names if name != content])


def _arrow(path: Path) -> pa.Table:
    """A file as Hugging Face's `save_to_disk` writes it, mapped."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source).read_all()


def _bytes(value: Any, path: Path) -> bytes:
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        return (path.parent / str(value.get("path"))).read_bytes()
    return value.encode() if isinstance(value, str) else bytes(value or b"")


def _damaged(path: Path, error: Exception, where: str = "") -> DataError:
    return DataError(
        f"{path.name}{where and f', {where},'} can't be read: {str(error).splitlines()[0]}",
        where=str(path),
        remedy=REMEDY,
    )
