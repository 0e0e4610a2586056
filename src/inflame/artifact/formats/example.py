"""`tf.train.Example`, the message inside a TFRecord, without TensorFlow: named lists of bytes, numbers or floats.

The wire format is protocol buffers' (developers.google.com/protocol-buffers/docs/encoding): `Example.features` (1) is
a message with a map `feature` (1) of name (1) and Feature (2), whose field says the kind of its list: bytes (1),
float (2) or int64 (3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

Value = Sequence[bytes] | Sequence[int] | Sequence[float]

_BYTES, _FLOATS, _INTS = 1, 2, 3
_SHORT = [bytes([value]) for value in range(128)]
_LARGE = 256  # bytes from which a list counts as content, which hardly comes again; labels and sizes do


def encode(features: Mapping[str, Value]) -> bytes:
    """The message of named lists, in the order of their names, so that equal items give equal bytes.

    A list holds bytes, ints (64 bits) or floats (32 bits); an empty list is left out, which readers take the same way.
    """
    entries = []
    for name in sorted(features):
        values = features[name]
        if len(values):
            large = len(values) > 1 or (isinstance(values[0], bytes) and len(values[0]) > _LARGE)
            entries.append(_entry(name, values) if large else _known(name, values[0]))
    return _field(1, b"".join(entries))


def parse(message: bytes | memoryview) -> dict[str, list[bytes] | list[int] | list[float]]:
    """The named lists of an Example. ValueError when it is none."""
    found: dict[str, list[bytes] | list[int] | list[float]] = {}
    for number, features in _fields(memoryview(message)):
        if number != 1 or not isinstance(features, memoryview):
            continue
        for tag, entry in _fields(features):
            if tag == 1 and isinstance(entry, memoryview):
                parts = dict(_fields(entry))
                name, feature = parts.get(1), parts.get(2)
                if isinstance(name, memoryview) and isinstance(feature, memoryview):
                    found[bytes(name).decode("utf-8", "replace")] = _list(feature)
    return found


def _entry(name: str, values: Value) -> bytes:
    return _field(1, _field(1, name.encode()) + _field(2, _feature(values)))


@lru_cache(maxsize=4096, typed=True)  # 1 and 1.0 are not the same list
def _known(name: str, value: bytes | int | float) -> bytes:
    return _entry(name, [value])  # type: ignore[arg-type]


def _feature(values: Value) -> bytes:
    first = values[0]
    if isinstance(first, bytes):
        return _field(_BYTES, b"".join(_field(1, value) for value in values))  # type: ignore[arg-type]
    if isinstance(first, float):
        return _field(_FLOATS, _field(1, struct.pack(f"<{len(values)}f", *values)))
    packed = b"".join(_varint(int(value) & 0xFFFFFFFFFFFFFFFF) for value in values)
    return _field(_INTS, _field(1, packed))


def _list(feature: memoryview) -> list[bytes] | list[int] | list[float]:
    for kind, values in _fields(feature):
        if not isinstance(values, memoryview):
            break
        items = [value for number, value in _fields(values) if number == 1]
        if kind == _BYTES:
            return [bytes(value) for value in items if isinstance(value, memoryview)]
        if kind == _FLOATS:
            return [number for value in items for number in _floats(value)]
        if kind == _INTS:
            return [number for value in items for number in _integers(value)]
    return []


def _floats(value: memoryview | int) -> Iterator[float]:
    if isinstance(value, int):  # one that isn't packed comes as its 32 bits
        value = memoryview(value.to_bytes(4, "little"))
    if len(value) % 4:
        raise ValueError("a list of floats is cut short")
    yield from struct.unpack(f"<{len(value) // 4}f", value)


def _integers(value: memoryview | int) -> Iterator[int]:
    if isinstance(value, int):
        yield _signed(value)
        return
    place = 0
    while place < len(value):
        number, place = _read_varint(value, place)
        yield _signed(number)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


# --- the wire ----------------------------------------------------------------------------------------------


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    if value < 128:
        return _SHORT[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError("no protocol buffer message")
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(number, payload) of each field: bytes for lengths and fixed sizes, a number for a varint."""
    place = 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _read_varint(data, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _read_varint(data, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("no protocol buffer message")
        if place + length > len(data):
            raise ValueError("a message is cut short")
        payload = data[place : place + length]
        place += length
        yield number, payload if wire == 2 else int.from_bytes(payload, "little")
