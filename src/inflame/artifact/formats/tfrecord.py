"""TFRecord files, without TensorFlow: records with a checksum each, whose payload is a `tf.train.Example`.

A record is its length (8 bytes), the masked CRC-32C of those, the payload, and the masked CRC-32C of the payload
(tensorflow/core/lib/io/record_writer.h). TensorFlow reads what is written here, and the other way round.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, final

import google_crc32c

from inflame.artifact.formats import example
from inflame.artifact.formats.entry import REMEDY, Entry
from inflame.errors import DataError

SUFFIX = ".tfrecord"

# What other writers call the things we look for, ours first: TF Model Garden, TFDS, Keras examples.
_PICTURE = ("image/encoded", "image", "image_raw", "encoded", "image/raw", "img", "jpeg")
_TEXT = ("text", "sentence", "content", "document", "body")
_LABEL = ("image/class/text", "label_name", "class", "image/object/class/text", "label", "image/class/label", "target")
_NAME = ("image/filename", "file_name", "filename", "image/source_id", "id")

_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")


def masked(data: bytes | memoryview) -> int:
    """TFRecord's checksum: CRC-32C, rotated and shifted so that a checksum of checksums isn't weak."""
    crc: int = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """The record of a payload."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, _TAIL.pack(masked(length)), payload, _TAIL.pack(masked(payload))))


@final
class Writer:
    """Writes items to a file object or path, one record each; `classes` gives a label its number."""

    def __init__(self, target: Path | IO[bytes], classes: tuple[str, ...] = (), *, kind: str = "image") -> None:
        self._file: IO[bytes] = target.open("wb") if isinstance(target, Path) else target
        self._number = {name: number for number, name in enumerate(classes)}
        self._kind = kind

    def add(self, entry: Entry, data: bytes) -> int:
        """Appends an item; returns the bytes written."""
        return self._file.write(frame(example.encode(_features(entry, data, self._number, self._kind))))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _features(entry: Entry, data: bytes, numbers: dict[str, int], kind: str) -> dict[str, example.Value]:
    found: dict[str, example.Value] = {
        "image/class/text": [entry.label.encode()],
        "image/class/label": [numbers.get(entry.label, -1)],
        "image/filename": [entry.uri.encode()],
        "split": [entry.split.encode()],
        "sha256": [entry.sha256.encode()],
        "group": [entry.group.encode()],
        "time": [entry.time.encode()],
    }
    if kind == "text":
        return found | {"text": [data]}
    found |= {"image/encoded": [data], "image/format": [entry.ext.lstrip(".").encode()]}
    return found | {"image/height": [entry.height], "image/width": [entry.width]}


def records(path: Path, *, check: bool = True) -> Iterator[tuple[int, memoryview]]:
    """(offset, payload) of every record. A file cut short or with a changed byte: DataError with the record's
    number and offset. A length that fits is believed, so a changed payload hides no later record from
    `skim`."""
    for number, (offset, payload, reason) in enumerate(skim(path, check=check)):
        if reason:
            raise damaged(path, number, offset, reason)
        yield offset, payload


def skim(path: Path, *, check: bool = True) -> Iterator[tuple[int, memoryview, str]]:
    """(offset, payload, what is wrong with it or "") of every record that can be found; the last one may be cut."""
    with path.open("rb") as file:
        if not (size := file.seek(0, 2)):
            return
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    place = 0
    while place < size:
        if place + _HEAD.size > size:
            yield place, data[:0], "it is cut short"
            return
        length, crc = _HEAD.unpack_from(data, place)
        if masked(data[place : place + 8]) != crc:
            yield place, data[:0], "its length was changed, so nothing after it can be found"
            return
        begin, end = place + _HEAD.size, place + _HEAD.size + length
        if end + _TAIL.size > size:
            yield place, data[:0], "it is cut short"
            return
        payload = data[begin:end]
        wrong = check and masked(payload) != _TAIL.unpack_from(data, end)[0]
        yield place, payload, "a byte of it was changed" if wrong else ""
        place = end + _TAIL.size


def entries(path: Path, *, check: bool = True, on_bad: Callable[[int, str], Any] | None = None) -> Iterator[Entry]:
    """What is in the file, record by record; keys are record numbers. Damage: DataError, or with `on_bad(number,
    reason)` told and passed over."""
    for number, (offset, payload, reason) in enumerate(skim(path, check=check)):
        if not reason:
            try:
                yield _entry(number, example.parse(payload))
                continue
            except ValueError as error:
                reason = f"it holds no tf.train.Example ({error})"
        if on_bad is None:
            raise damaged(path, number, offset, reason)
        on_bad(number, reason)


def opened(path: Path) -> Callable[[str], bytes]:
    """The picture (or text) of a record by its number. The file is skimmed once, then read in place."""
    offsets: list[tuple[memoryview, str]] = []
    lock = threading.Lock()

    def read(key: str) -> bytes:
        with lock:
            if not offsets:
                offsets.extend((payload, reason) for _, payload, reason in skim(path, check=False))
        from inflame.artifact.contents import missing

        number = int(key) if key.isdigit() else -1
        if not 0 <= number < len(offsets) or offsets[number][1]:
            raise missing(path, key)
        try:
            return _content(example.parse(offsets[number][0]))
        except (ValueError, LookupError) as error:
            raise missing(path, key) from error

    return read


def damaged(path: Path, number: int, offset: int, reason: str) -> DataError:
    """The error for a bad record."""
    return DataError(
        f"{path.name}, record {number:,} (byte {offset:,}): {reason}.",
        where=str(path),
        remedy=REMEDY,
    )


def _entry(number: int, features: dict[str, Any]) -> Entry:
    found = _content_name(features)
    if found is None:
        raise ValueError("no picture or text in it: " + ", ".join(sorted(features)[:8]))
    form = _text(features, "image/format")
    return Entry(
        key=str(number),
        label=_label(features),
        split=_text(features, "split"),
        sha256=_text(features, "sha256"),
        group=_text(features, "group"),
        time=_text(features, "time"),
        uri=next(filter(None, (_text(features, key) for key in _NAME)), ""),
        ext=".txt" if found in _TEXT else f".{form.lower()}" if form else "",
        height=_number(features, "image/height"),
        width=_number(features, "image/width"),
    )


def _content_name(features: dict[str, Any]) -> str | None:
    for name in (*_PICTURE, *_TEXT):
        values = features.get(name)
        if values and isinstance(values[0], bytes):
            return name
    return None


def _content(features: dict[str, Any]) -> bytes:
    name = _content_name(features)
    if name is None:
        raise LookupError("no picture or text")
    return bytes(features[name][0])


def _label(features: dict[str, Any]) -> str:
    for name in _LABEL:
        values = features.get(name)
        if values:
            return values[0].decode("utf-8", "replace") if isinstance(values[0], bytes) else str(int(values[0]))
    return ""


def _text(features: dict[str, Any], name: str) -> str:
    values = features.get(name)
    return values[0].decode("utf-8", "replace") if values and isinstance(values[0], bytes) else ""


def _number(features: dict[str, Any], name: str) -> int:
    with suppress(LookupError, TypeError, ValueError):
        return int(features[name][0])
    return 0
