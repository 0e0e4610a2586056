"""What buckets hold, as files: `bucket/key` below a folder. The servers of S3 and of Cloud Storage stand on it."""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from hashlib import md5
from pathlib import Path

from inflame.infra.loopback.server import Answer, Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A page of names: objects, what they have in common up to the delimiter, and where the next page begins."""

    keys: tuple[str, ...]
    groups: tuple[str, ...]
    after: str = ""


class Buckets:
    """The buckets below `folder`; each is a folder in it. What is written is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._making = folder / ".making"
        self._making.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()

    def make(self, bucket: str) -> Path:
        """A bucket of that name, new or not."""
        found = self._at(bucket, "")
        found.mkdir(exist_ok=True)
        return found

    def there(self, bucket: str) -> bool:
        """Whether there is such a bucket."""
        return bool(bucket) and self._at(bucket, "").is_dir()

    def file(self, bucket: str, key: str) -> Path | None:
        """The file of an object, None where there is none."""
        found = self._at(bucket, key)
        return found if found.is_file() else None

    def put(self, bucket: str, key: str, data: bytes, *, new: bool = False) -> bool:
        """Puts an object there. `new`: where nothing is yet; False when something is."""
        target, made = self._at(bucket, key), self._making / uuid.uuid4().hex
        made.write_bytes(data)
        with self._lock:
            if new and target.exists():
                made.unlink()
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            made.replace(target)
        return True

    def delete(self, bucket: str, key: str) -> None:
        """Takes an object away, and the folders that only it was in."""
        found = self._at(bucket, key)
        with self._lock:
            found.unlink(missing_ok=True)
            with suppress(OSError):
                for folder in found.parents:
                    if folder == self._at(bucket, ""):
                        break
                    folder.rmdir()

    def list(self, bucket: str, prefix: str, delimiter: str, after: str, most: int) -> Listed:
        """The names that begin with `prefix` and come after `after`, in their order."""
        keys: list[str] = []
        groups: list[str] = []
        last = ""
        for key in sorted(self._names(bucket, prefix)):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key if cut < 0 else key[: cut + len(delimiter)]
            if name <= after or (groups and name == groups[-1]):
                continue
            if len(keys) + len(groups) == most:
                return Listed(keys=tuple(keys), groups=tuple(groups), after=last)
            (keys if cut < 0 else groups).append(name)
            last = name
        return Listed(keys=tuple(keys), groups=tuple(groups))

    def _names(self, bucket: str, prefix: str) -> Iterator[str]:
        root = self._at(bucket, "")
        for folder, _, files in os.walk(self._at(bucket, prefix.rpartition("/")[0])):
            for name in files:
                key = Path(folder, name).relative_to(root).as_posix()
                if key.startswith(prefix):
                    yield key

    def _at(self, bucket: str, key: str) -> Path:
        """ValueError for a name that would lead out of the folder."""
        parts = (bucket, *key.split("/"))
        if ".." in parts or bucket.startswith("."):
            raise ValueError(f"{bucket}/{key} is no name of an object")
        return Path(self.folder, *parts)


def tag(data: bytes) -> str:
    """What both services tell objects' contents apart by."""
    return md5(data, usedforsecurity=False).hexdigest()


def ranged(file: Path, asked: Asked) -> Answer | None:
    """The content of a file, or of it what the header `Range` asks for; None where there is no such part."""
    data = file.read_bytes()
    headers = {
        "Content-Type": "application/octet-stream",
        "ETag": f'"{tag(data)}"',
        "Last-Modified": formatdate(file.stat().st_mtime, usegmt=True),
        "Accept-Ranges": "bytes",
    }
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.headers.get("range", ""))
    if not found or not (found[1] or found[2]):
        return Answer(body=data, headers=headers)
    begin = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
    end = min(int(found[2]) + 1, len(data)) if found[1] and found[2] else len(data)
    if begin >= len(data):
        return None
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
    return Answer(status=206, body=data[begin:end], headers=headers)
