"""Google Cloud Storage on this machine: of its JSON API as much as gcsfs needs, led here by `STORAGE_EMULATOR_HOST`;
of its XML API what obstore needs to read.

Without a token: emulators ask for none.
"""

from __future__ import annotations

import json
import re
import uuid
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from inflame.infra.loopback.buckets import Buckets, ranged, tag
from inflame.infra.loopback.server import Answer, Asked

_PLACE = re.compile(
    r"(/download|/upload)?/storage/v1/b(?:/([^/]+)(?:/o(?:/([^/]+))?)?)?(?:/rewriteTo/b/([^/]+)/o/([^/]+))?"
)
_READ = re.compile(r"/([^/]+)/(.+)")  # of its XML API
_PAGE = 1000


@dataclass(slots=True)
class _Upload:
    """An object that comes in pieces."""

    bucket: str
    key: str
    new: bool
    data: bytes = b""


class Gcs:
    """The buckets of a folder, as Cloud Storage has them."""

    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets
        self._uploads: dict[str, _Upload] = {}

    def answer(self, asked: Asked) -> Answer:
        """Buckets: make, get. Objects: get, put (whole, in pieces, or only where nothing is), copy, delete, list."""
        found = _PLACE.fullmatch(asked.path)
        if not found:
            return self._read(asked)
        way, *names = found.groups()
        bucket, key, other, copy = (unquote(name or "") for name in names)
        if not bucket:
            self.buckets.make(asked.json()["name"])
            return Answer(body={"kind": "storage#bucket", "name": asked.json()["name"]})
        if not self.buckets.there(bucket):
            return _error(404, f"The specified bucket does not exist: {bucket}")
        if way == "/upload":
            return self._upload(bucket, asked)
        if not key:
            listed = asked.path.endswith("/o")
            return (
                self._list(bucket, asked.query) if listed else Answer(body={"kind": "storage#bucket", "name": bucket})
            )
        return self._object(bucket, key, asked, content=way == "/download", copy=(other, copy))

    def refuse(self, fault: str) -> Answer:
        """In Google's words."""
        if fault == "throttled":
            return _error(429, "The rate of requests is too high.")
        return _error(401 if fault == "expired" else 503, "Try again.")

    def close(self) -> None:
        """Nothing runs."""

    def _read(self, asked: Asked) -> Answer:
        """`/bucket/key`, as the XML API has it."""
        found = _READ.fullmatch(asked.path)
        file = self.buckets.file(unquote(found[1]), unquote(found[2])) if found and asked.method == "GET" else None
        if file is None:
            return _error(404, f"{asked.path} is not known here.")
        return ranged(file, asked) or _error(416, "The requested range is not satisfiable.")

    def _object(self, bucket: str, key: str, asked: Asked, *, content: bool, copy: tuple[str, str]) -> Answer:
        file = self.buckets.file(bucket, key)
        if file is None:
            return _error(404, f"No such object: {bucket}/{key}")
        if asked.method == "DELETE":
            self.buckets.delete(bucket, key)
            return Answer(status=204)
        if copy[0]:
            self.buckets.put(*copy, file.read_bytes())
            return Answer(body={"kind": "storage#rewriteResponse", "done": True, "resource": self._about(*copy)})
        if content or asked.query.get("alt") == "media":
            return ranged(file, asked) or _error(416, "The requested range is not satisfiable.")
        return Answer(body=self._about(bucket, key))

    def _about(self, bucket: str, key: str) -> dict[str, Any]:
        file = self.buckets.file(bucket, key)
        if file is None:  # deleted meanwhile
            return {"kind": "storage#object", "name": key, "bucket": bucket, "size": "0"}
        told = file.stat()
        when = datetime.fromtimestamp(told.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "kind": "storage#object",
            "name": key,
            "bucket": bucket,
            "size": str(told.st_size),
            "generation": str(told.st_mtime_ns),
            "updated": when,
            "timeCreated": when,
            "md5Hash": b64encode(bytes.fromhex(tag(file.read_bytes()))).decode(),
        }

    def _list(self, bucket: str, query: dict[str, str]) -> Answer:
        most = min(int(query.get("maxResults", _PAGE)), _PAGE)
        after = query.get("pageToken", "")
        found = self.buckets.list(bucket, query.get("prefix", ""), query.get("delimiter", ""), after, most)
        about: dict[str, Any] = {"kind": "storage#objects", "items": [self._about(bucket, key) for key in found.keys]}
        about |= {"prefixes": list(found.groups)} if found.groups else {}
        about |= {"nextPageToken": found.after} if found.after else {}
        return Answer(body=about)

    def _upload(self, bucket: str, asked: Asked) -> Answer:
        kind, new = asked.query.get("uploadType"), asked.query.get("ifGenerationMatch") == "0"
        if "upload_id" in asked.query:
            return self._piece(asked.query["upload_id"], asked)
        if kind == "resumable":
            number = uuid.uuid4().hex
            self._uploads[number] = _Upload(bucket, asked.query.get("name") or asked.json()["name"], new)
            there = f"http://{asked.headers['host']}{asked.path}?uploadType=resumable&upload_id={number}"
            return Answer(headers={"Location": there})
        if kind == "media":
            return self._written(_Upload(bucket, asked.query["name"], new, asked.body))
        about, data = _parted(asked)
        return self._written(_Upload(bucket, about["name"], new, data))

    def _piece(self, number: str, asked: Asked) -> Answer:
        """`bytes 0-99/300` of an upload; with the last one it is whole. `/*`: how much there is isn't known yet."""
        upload = self._uploads.get(number)
        if upload is None:
            return _error(404, "There is no such upload.")
        if asked.method == "DELETE":
            del self._uploads[number]
            return Answer(status=499)
        upload.data += asked.body
        whole = asked.headers.get("content-range", "").rpartition("/")[2]
        if whole == "*" or len(upload.data) < int(whole):
            return Answer(status=308, headers={"Range": f"bytes=0-{len(upload.data) - 1}"})
        del self._uploads[number]
        return self._written(upload)

    def _written(self, upload: _Upload) -> Answer:
        if not self.buckets.put(upload.bucket, upload.key, upload.data, new=upload.new):
            return _error(412, "At least one of the pre-conditions you specified did not hold.")
        return Answer(body=self._about(upload.bucket, upload.key))


def _parted(asked: Asked) -> tuple[dict[str, Any], bytes]:
    """What a body of two parts says of an object, and the object."""
    found = re.search(r'boundary="?([^";]+)', asked.headers["content-type"])
    mark = b"--" + (found[1] if found else "").encode()
    _, first, second = asked.body.split(mark, 2)
    about = re.split(rb"\r?\n\r?\n", first, maxsplit=1)[1]
    data = re.split(rb"\r?\n\r?\n", second, maxsplit=1)[1]
    return json.loads(about), re.sub(rb"\r?\n\Z", b"", data[: data.rindex(mark)])


def _error(status: int, message: str) -> Answer:
    return Answer(status=status, body={"error": {"code": status, "message": message}})
