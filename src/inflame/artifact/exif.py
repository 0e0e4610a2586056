"""When and with what a photo was taken, as its EXIF says. Broken metadata must not cost the picture."""

from __future__ import annotations

import re

from PIL import Image

_EXIF, _MAKE, _MODEL = 0x8769, 0x010F, 0x0110
_TAKEN, _FRACTION = (0x9003, 0x9004), (0x9291, 0x9292)  # original, digitised
_STAMP = re.compile(r"(\d{4})[:\-/](\d{2})[:\-/](\d{2})[ T](\d{2}):(\d{2}):(\d{2})")


def shot(image: Image.Image) -> tuple[str, str]:
    """(time, camera) of an opened picture: `2021-05-03T10:20:30.25` and `Canon EOS 5D`, each "" where it isn't known.

    The time is the camera's clock, without a time zone. Reading EXIF can raise nearly anything (seen: struct.error,
    TypeError, SyntaxError, ZeroDivisionError); all of it means that nothing is known.
    """
    try:
        exif = image.getexif()
        return _time(dict(exif.get_ifd(_EXIF))), _camera(exif.get(_MAKE), exif.get(_MODEL))
    except Exception:
        return "", ""


def _time(tags: dict[int, object]) -> str:
    for taken, fraction in zip(_TAKEN, _FRACTION, strict=True):
        found = _STAMP.search(_text(tags.get(taken)))
        if found is None or found[1] == "0000" or not ("01" <= found[2] <= "12" and "01" <= found[3] <= "31"):
            continue
        part = re.sub(r"\D", "", _text(tags.get(fraction)))[:6]
        year, month, day, hour, minute, second = found.groups()
        return f"{year}-{month}-{day}T{hour}:{minute}:{second}" + (f".{part}" if part else "")
    return ""


def _camera(make: object, model: object) -> str:
    maker, name = _text(make), _text(model)
    if not name or not maker or name.casefold().startswith(maker.split()[0].casefold()):
        return name or maker
    return f"{maker} {name}"


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="ignore")
    return "".join(c for c in value if c.isprintable()).strip()[:80] if isinstance(value, str) else ""
