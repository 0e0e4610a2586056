"""What a file really is, from its first bytes: whatever its name says, and the true reason when it is no picture."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD = 512  # bytes that are looked at


@dataclass(frozen=True, slots=True)
class Sniffed:
    """A picture `format` with the Pillow plugin that reads it, or why there is none: kind, what it is, what to do."""

    format: str = ""
    plugin: str = ""
    kind: str = ""
    what: str = ""
    remedy: str = ""


_AGAIN = "download it again"
_SAVE = "save it as JPEG or PNG"
_DELETE = "delete it"
_MOVE = "move it out of the data"

# Only formats with a signature, and none whose reader starts other programs (EPS) or unpacks archives.
_PICTURES: tuple[tuple[bytes, str, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG", "Jpeg"),
    (rb"\x89PNG\r\n\x1a\n", "PNG", "Png"),
    (rb"GIF8[79]a", "GIF", "Gif"),
    (rb"RIFF....WEBP", "WEBP", "WebP"),
    (rb"II[*+]\x00|MM\x00[*+]", "TIFF", "Tiff"),
    (rb"BM.{12}[\x0c(48@l|]\x00\x00\x00", "BMP", "Bmp"),
    (rb"....ftypavi[fs]|....ftypm(?:if1|sf1)(?:.{4}){1,12}?avi[fs]", "AVIF", "Avif"),
    (rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000", "Jpeg2K"),
    (rb"P[1-6]\s", "PPM", "Ppm"),
    (rb"\x00\x00\x01\x00[^\x00]", "ICO", "Ico"),
    (rb"8BPS", "PSD", "Psd"),
    (rb"qoif", "QOI", "Qoi"),
)
_HEIF = rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"
_OTHERS: tuple[tuple[bytes, str, str, str], ...] = (
    (rb"\x00\x05\x16[\x00\x07]", "junk", "an AppleDouble file, left by macOS beside the real one", _DELETE),
    (rb"\x00\x00\x00\x01Bud1", "junk", "a .DS_Store file, left by macOS", _DELETE),
    (rb"version https://git-lfs", "not_a_picture", "a Git LFS pointer, the picture was never fetched", "git lfs pull"),
    (rb"(?:/|\.\./)*\.?(?:git/)?annex/objects", "not_a_picture", "a git-annex pointer", "git annex get"),
    (rb"\s*(?:<\?xml.*?)?<svg", "not_a_picture", "an SVG drawing", _SAVE),
    (rb"%PDF", "not_a_picture", "a PDF document", _SAVE),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "not_a_picture", "a PostScript drawing", _SAVE),
    (rb"PK\x03\x04|PK\x05\x06", "not_a_picture", "a zip archive or an Office document", "unpack it"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\x00|7z\xbc\xaf|Rar!|.{257}ustar", "not_a_picture", "an archive", "unpack it"),
    (rb"\xd0\xcf\x11\xe0", "not_a_picture", "an old Office document or a Thumbs.db of Windows", _MOVE),
    (
        rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI|\x00\x00\x01[\xba\xb3]",
        "not_a_picture",
        "a video",
        "save a frame as JPEG",
    ),
    (rb"ID3|OggS|fLaC|RIFF....WAVE", "not_a_picture", "a sound", _MOVE),
    (rb"\x89HDF|\x93NUMPY|SQLite format 3|PAR1", "not_a_picture", "a data file", _MOVE),
    (rb"\x7fELF|MZ|\xcf\xfa\xed\xfe|#!", "not_a_picture", "a program", _MOVE),
)
_HTML = re.compile(rb"<!doctype html|<html|<head|<body|<script", re.IGNORECASE)
_SCAN_OR_END = re.compile(rb"\xff[\xda\xd9]")
_MANY_SCANS = 64


def sniff(data: bytes) -> Sniffed:
    """What these bytes are. `plugin` is empty when they are no picture that can be read."""
    head = data[:HEAD]
    if not head:
        return Sniffed(kind="empty", what="the file is empty (0 bytes)", remedy="copy or download it again")
    for pattern, name, plugin in _PICTURES:
        if re.match(pattern, head, re.DOTALL):
            return Sniffed(format=name, plugin=f"PIL.{plugin}ImagePlugin")
    if re.match(_HEIF, head, re.DOTALL):
        return Sniffed(format="HEIF", plugin="PIL.Image")
    for pattern, kind, what, remedy in _OTHERS:
        if re.match(pattern, head, re.DOTALL):
            return Sniffed(kind=kind, what=f"not a picture but {what}", remedy=remedy)
    return text_behind(data) or _nameless(head)


def text_behind(data: bytes) -> Sniffed | None:
    """A web page or a text, also one behind the signature of a picture; None when it is neither."""
    head = data[:HEAD]
    if _HTML.search(head):
        what = "not a picture but a web page (HTML), as a failed download leaves"
        return Sniffed(kind="not_a_picture", what=what, remedy=_AGAIN)
    try:
        text = head.decode() if len(head) < HEAD else head[: HEAD - 4].decode(errors="strict")
    except UnicodeDecodeError:
        return None
    if not all(sign.isprintable() or sign in "\r\n\t\f" for sign in text):
        return None
    return Sniffed(kind="not_a_picture", what="not a picture but a text", remedy=_MOVE)


def cut_short(data: bytes, name: str) -> bool:
    """True when a file of this format lacks its own end. A copy that broke off may be filled up with zeros, which
    a decoder takes for grey; so a JPEG needs an end mark behind its pixels, that of a thumbnail doesn't count."""
    if name == "JPEG":
        return data.find(b"\xff\xd9", _first_scan(data)) < 0
    if name == "PNG":
        return data[12:16] == b"IHDR" and b"IEND" not in data[-4096:]
    if name == "WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def scans(data: bytes, name: str) -> int:
    """How often a JPEG passes over its pixels: a few kilobytes can ask for thousands of passes. Others: 1."""
    if name != "JPEG" or data.count(b"\xff\xda") <= _MANY_SCANS:
        return 1
    number = 0
    for found in _SCAN_OR_END.finditer(data, _first_scan(data)):
        if found.group() == b"\xff\xd9":
            break
        number += 1
    return max(number, 1)


def _first_scan(data: bytes) -> int:
    """Where the pixels of a JPEG begin, behind all segments (which may hold pictures of their own)."""
    place = 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == 0xDA:
            return place
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4])
    return min(place, len(data))


def _nameless(head: bytes) -> Sniffed:
    if not head.strip(b"\0"):
        what = "not a picture but zeros, as an interrupted copy leaves"
        return Sniffed(kind="corrupt", what=what, remedy="copy it again")
    return Sniffed(kind="not_a_picture", what="not a picture of any known format", remedy=_SAVE)
