"""Amazon S3 on this machine: as much of it as boto3 and s3fs need to keep files there. Any key may do anything."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape, unescape

from inflame.infra.loopback.buckets import Buckets, ranged, tag
from inflame.infra.loopback.server import Answer, Asked

_PAGE = 1000
_XML = {"Content-Type": "application/xml"}


class S3:
    """The buckets of a folder, as S3 has them."""

    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets
        self._uploads: dict[str, dict[int, bytes]] = {}  # parts of objects that are not whole yet

    def answer(self, asked: Asked) -> Answer:
        """Objects: get, head, put (also in parts, as a copy, or only where nothing is), delete, list."""
        bucket, _, key = unquote(asked.path).lstrip("/").partition("/")
        if not key and asked.method == "PUT":
            self.buckets.make(bucket)
            return Answer()
        if not self.buckets.there(bucket):
            return _error(404, "NoSuchBucket", f"The specified bucket does not exist: {bucket}")
        if not key:
            return self._bucket(bucket, asked)
        verbs = {"GET": self._get, "HEAD": self._get, "PUT": self._put, "POST": self._post, "DELETE": self._delete}
        return verbs[asked.method](bucket, key, asked)

    def refuse(self, fault: str) -> Answer:
        """In S3's words."""
        if fault == "throttled":
            return _error(503, "SlowDown", "Please reduce your request rate.")
        if fault == "expired":
            return _error(400, "ExpiredToken", "The provided token has expired.")
        return _error(500, "InternalError", "We encountered an internal error. Please try again.")

    def close(self) -> None:
        """Nothing runs."""

    def _bucket(self, bucket: str, asked: Asked) -> Answer:
        if asked.method == "HEAD":
            return Answer()
        if asked.method == "POST" and "delete" in asked.query:
            for key in re.findall(r"<Key>(.*?)</Key>", asked.body.decode()):
                self.buckets.delete(bucket, unescape(key))
            return Answer(body=_document("DeleteResult", ""), headers=_XML)
        if asked.method != "GET":
            return _error(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        return self._list(bucket, asked.query)

    def _list(self, bucket: str, query: dict[str, str]) -> Answer:
        most = min(int(query.get("max-keys", _PAGE)), _PAGE)
        after = unquote(query.get("continuation-token", "")) or query.get("start-after", "")
        found = self.buckets.list(bucket, query.get("prefix", ""), query.get("delimiter", ""), after, most)
        said = f"<Name>{bucket}</Name><KeyCount>{len(found.keys) + len(found.groups)}</KeyCount>"
        said += f"<MaxKeys>{most}</MaxKeys><EncodingType>url</EncodingType>"
        said += f"<IsTruncated>{'true' if found.after else 'false'}</IsTruncated>"
        if found.after:
            said += f"<NextContinuationToken>{quote(found.after)}</NextContinuationToken>"
        said += "".join(self._entry(bucket, key) for key in found.keys)
        said += "".join(f"<CommonPrefixes><Prefix>{quote(name)}</Prefix></CommonPrefixes>" for name in found.groups)
        return Answer(body=_document("ListBucketResult", said), headers=_XML)

    def _entry(self, bucket: str, key: str) -> str:
        file = self.buckets.file(bucket, key)
        if file is None:  # deleted meanwhile
            return ""
        told = file.stat()
        when = datetime.fromtimestamp(told.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return (
            f"<Contents><Key>{quote(key)}</Key><LastModified>{when}</LastModified><Size>{told.st_size}</Size>"
            f"<ETag>&quot;{tag(file.read_bytes())}&quot;</ETag><StorageClass>STANDARD</StorageClass></Contents>"
        )

    def _get(self, bucket: str, key: str, asked: Asked) -> Answer:
        file = self.buckets.file(bucket, key)
        if file is None:
            return _error(404, "NoSuchKey", f"The specified key does not exist: {key}")
        found = ranged(file, asked)
        return found or _error(416, "InvalidRange", "The requested range is not satisfiable.")

    def _put(self, bucket: str, key: str, asked: Asked) -> Answer:
        data = asked.body
        if "uploadId" in asked.query:
            self._uploads[asked.query["uploadId"]][int(asked.query["partNumber"])] = data
            return Answer(headers={"ETag": f'"{tag(data)}"'})
        source = asked.headers.get("x-amz-copy-source")
        if source is not None:
            place, _, name = unquote(source).lstrip("/").partition("/")
            file = self.buckets.file(place, name)
            if file is None:
                return _error(404, "NoSuchKey", f"The specified key does not exist: {name}")
            data = file.read_bytes()
        answer = self._written(bucket, key, data, asked)
        if source is not None and answer.status == 200:
            return Answer(body=_document("CopyObjectResult", f"<ETag>{tag(data)}</ETag>"), headers=_XML)
        return answer

    def _post(self, bucket: str, key: str, asked: Asked) -> Answer:
        """An upload in parts: its beginning and its end."""
        about = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
        if "uploads" in asked.query:
            number = uuid.uuid4().hex
            self._uploads[number] = {}
            begun = _document("InitiateMultipartUploadResult", f"{about}<UploadId>{number}</UploadId>")
            return Answer(body=begun, headers=_XML)
        parts = self._uploads.get(asked.query.get("uploadId", ""))
        if parts is None:
            return _error(404, "NoSuchUpload", "The specified upload does not exist.")
        wanted = map(int, re.findall(r"<PartNumber>(\d+)</PartNumber>", asked.body.decode()))
        answer = self._written(bucket, key, b"".join(parts[number] for number in wanted), asked)
        if answer.status != 200:
            return answer
        del self._uploads[asked.query["uploadId"]]
        said = f"{about}<ETag>{answer.headers['ETag']}</ETag>"
        return Answer(body=_document("CompleteMultipartUploadResult", said), headers=_XML)

    def _written(self, bucket: str, key: str, data: bytes, asked: Asked) -> Answer:
        if not self.buckets.put(bucket, key, data, new=asked.headers.get("if-none-match") == "*"):
            return _error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        return Answer(headers={"ETag": f'"{tag(data)}"'})

    def _delete(self, bucket: str, key: str, asked: Asked) -> Answer:
        if "uploadId" in asked.query:
            self._uploads.pop(asked.query["uploadId"], None)
        else:
            self.buckets.delete(bucket, key)
        return Answer(status=204)


def _document(name: str, content: str) -> bytes:
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return f'<?xml version="1.0" encoding="UTF-8"?><{name} {space}>{content}</{name}>'.encode()


def _error(status: int, code: str, message: str) -> Answer:
    said = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>'
    )
    return Answer(status=status, body=said.encode(), headers=_XML)
