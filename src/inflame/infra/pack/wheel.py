"""inflame itself as a wheel, made from what is installed here (editable or not): no build tool, the same bytes for the
same files."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib import metadata
from pathlib import Path

import inflame

_PACKAGE = Path(inflame.__file__).parent
_JUNK = {"__pycache__", ".DS_Store"}


def name() -> str:
    """The file name that its metadata give it."""
    return f"inflame-{inflame.__version__}-py3-none-any.whl"


def files() -> dict[str, bytes]:
    """What goes into it: the package, and the metadata with the entry points."""
    found = {}
    for path in sorted(_PACKAGE.rglob("*")):
        if path.is_file() and not _JUNK & set(path.parts) and path.suffix not in (".pyc", ".pyo"):
            found[f"inflame/{path.relative_to(_PACKAGE).as_posix()}"] = path.read_bytes()
    about = f"inflame-{inflame.__version__}.dist-info"
    for part in ("METADATA", "entry_points.txt"):
        text = _metadata(part)
        if text:
            found[f"{about}/{part}"] = text.encode()
    found[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: inflame\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return found


def digest(contents: dict[str, bytes]) -> str:
    """The hash of what is in it."""
    whole = hashlib.sha256()
    for path in sorted(contents):
        whole.update(f"{path}\0{len(contents[path])}\0".encode() + contents[path])
    return whole.hexdigest()


def build(contents: dict[str, bytes]) -> bytes:
    """The wheel."""
    record = f"inflame-{inflame.__version__}.dist-info/RECORD"
    lines = [f"{path},sha256={_hash(data)},{len(data)}" for path, data in sorted(contents.items())]
    whole = {**contents, record: "\n".join([*lines, f"{record},,", ""]).encode()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path, data in sorted(whole.items()):
            info = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            info.external_attr, info.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
            file.writestr(info, data)
    return buffer.getvalue()


def _metadata(part: str) -> str:
    try:
        text = metadata.distribution("inflame").read_text(part) or ""
    except metadata.PackageNotFoundError:  # run from a folder that isn't installed
        text = ""
    if not text and part == "METADATA":
        return f"Metadata-Version: 2.1\nName: inflame\nVersion: {inflame.__version__}\n"
    return text


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
