"""A file without what it says about people: place, time, camera, comments. Its pixels stay the same, bit for bit."""

from __future__ import annotations

import io
import re
import struct

from PIL import Image

from inflame.artifact import magic

_ORIENTATION = 0x0112
_KEPT_OF_JPEG = (0xE0, 0xE2, 0xEE)  # JFIF, colour profile, Adobe's colour transform
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)  # no stuffed byte, no restart
_KEPT_OF_PNG = frozenset(
    (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs")
)


def bare(content: bytes) -> bytes:
    """The picture without metadata, upright as before; a text as it is. What can't be taken apart is written anew as
    PNG, and raises what Pillow raises where that is impossible."""
    kind = magic.sniff(content).format
    if kind == "JPEG":
        found = _jpeg(content)
        return found if _tells_nothing(found) else _anew(content)  # damaged, it reads otherwise than it was cut
    if kind == "PNG" and b"acTL" not in content[:4096]:
        return _png(content)
    return _anew(content) if kind else content


def _jpeg(content: bytes) -> bytes:
    """Without its comments and application segments, but for those that change its colours and its orientation; and
    without what follows its end."""
    found, place = [content[:2]], 2
    with Image.open(io.BytesIO(content)) as image:
        turned = image.getexif().get(_ORIENTATION, 1)
    if turned in range(2, 9):
        found.append(_exif(int(turned)))
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xD9:
            break
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4])
        if marker == 0xDA and (after := _MARKER.search(content, end)):  # the pixels of a scan
            end = after.start()
        elif marker == 0xDA:
            end = len(content)
        if marker != 0xFE and not (0xE0 <= marker <= 0xEF and marker not in _KEPT_OF_JPEG):
            found.append(content[place:end])
        place = end
    return b"".join([*found, b"\xff\xd9"])


def _tells_nothing(content: bytes) -> bool:
    with Image.open(io.BytesIO(content)) as image:
        return set(image.getexif()) <= {_ORIENTATION} and not {"comment", "xmp", "photoshop"} & set(image.info)


def _exif(turned: int) -> bytes:
    """A segment that says nothing but the orientation."""
    tags = struct.pack("<2sHI H HHIHH I", b"II", 42, 8, 1, _ORIENTATION, 3, 1, turned, 0, 0)
    body = b"Exif\0\0" + tags
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def _png(content: bytes) -> bytes:
    """Only the chunks that bear pixels and colours; the orientation, where there is one, is applied."""
    with Image.open(io.BytesIO(content)) as image:
        if image.getexif().get(_ORIENTATION, 1) != 1:
            return _anew(content)
    found, place = [content[:8]], 8
    while place + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[place : place + 8])
        if name in _KEPT_OF_PNG:
            found.append(content[place : place + 12 + length])
        place += 12 + length
        if name == b"IEND":
            break
    return b"".join(found)


def _anew(content: bytes) -> bytes:
    from PIL import ImageOps

    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image)
        plain = upright.convert("RGBA" if "A" in upright.getbands() or "transparency" in upright.info else "RGB")
    plain.info.clear()
    file = io.BytesIO()
    plain.save(file, "PNG")
    return file.getvalue()
