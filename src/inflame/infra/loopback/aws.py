"""AWS on this machine, at one address, as `AWS_ENDPOINT_URL` leads to it: S3, the logs of CloudWatch, SageMaker.

What runs jobs there needs the other two: make the server, lead the environment to it, then `join`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from inflame.infra.loopback.buckets import Buckets
from inflame.infra.loopback.s3 import S3
from inflame.infra.loopback.server import Answer, Asked, Control


class Aws:
    """The services. `folder` holds the buckets."""

    def __init__(self, folder: Path) -> None:
        self.buckets = Buckets(folder)
        self.lines: dict[str, list[dict[str, Any]]] = {}  # of each stream; there is one group
        self._s3 = S3(self.buckets)
        self._sagemaker: Control | None = None
        self._lock = threading.Lock()

    def join(self, sagemaker: Control) -> None:
        """From now on training jobs are that one's."""
        self._sagemaker = sagemaker

    def answer(self, asked: Asked) -> Answer:
        """By the service that is meant: the others name it in a header, S3 doesn't."""
        service, _, verb = asked.headers.get("x-amz-target", "").rpartition(".")
        if service == "SageMaker" and self._sagemaker is not None:
            return self._sagemaker.answer(asked)
        if service.startswith("Logs_"):
            with self._lock:
                return self._log(verb, asked.json())
        if service or asked.headers.get("content-type", "").startswith("application/x-www-form"):
            return _unknown(service or asked.path)
        return self._s3.answer(asked)

    def refuse(self, fault: str) -> Answer:
        """In S3's words."""
        return self._s3.refuse(fault)

    def close(self) -> None:
        """Ends what runs."""
        if self._sagemaker is not None:
            self._sagemaker.close()

    def _log(self, verb: str, body: dict[str, Any]) -> Answer:
        """CloudWatch Logs, as far as lines are written and read."""
        name = body.get("logStreamName", "")
        if verb == "CreateLogGroup":
            return _said({})
        if verb == "CreateLogStream":
            self.lines.setdefault(name, [])
            return _said({})
        if verb == "PutLogEvents":
            self.lines[name] += [{**event, "logStreamName": name} for event in body["logEvents"]]
            return _said({})
        if verb == "DescribeLogStreams":
            found = [one for one in self.lines if one.startswith(body.get("logStreamNamePrefix", ""))]
            return _said({"logStreams": [{"logStreamName": one} for one in sorted(found)]})
        if verb == "FilterLogEvents":
            return _said({"events": [event for one in body["logStreamNames"] for event in self.lines.get(one, ())]})
        return _unknown(verb)


def _said(body: dict[str, Any]) -> Answer:
    return Answer(body=body, headers={"Content-Type": "application/x-amz-json-1.1"})


def _unknown(what: str) -> Answer:
    told = {"__type": "UnknownOperationException", "message": f"{what} is not known here."}
    return Answer(status=400, body=told, headers={"Content-Type": "application/x-amz-json-1.1"})
