"""The Open Inference Protocol, version 2: for clients of KServe, Triton and Seldon.

A model of pictures takes `files` (BYTES [N]: each a JPEG, PNG …, in JSON as base64) or `pictures` (UINT8
[N, S, S, C], as the net sees them); one of texts takes `texts` (BYTES [N]). It gives `probabilities` (FP32 [N, K],
calibrated), `labels` (BYTES [N]) and `known` (BOOL [N]). JSON, and the binary extension.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image

import inflame
from inflame.web import tracing
from inflame.web.answers import Answer
from inflame.web.problems import Problem
from inflame.web.schemas import problems
from inflame.web.served import Served
from inflame.web.service import Service
from inflame.web.uploads import as_object

_PROBLEMS = problems(
    *("bad_request", "forbidden", "not_found", "slow", "too_large", "unsupported", "unprocessable", "busy"),
    *("internal", "not_ready", "draining", "storage", "late"),
)
_HEAD = "Inference-Header-Content-Length"


def routes(service: Service) -> APIRouter:
    """/v2 and below."""
    router = APIRouter(tags=["open inference protocol"], responses=_PROBLEMS)

    @router.get("/v2")
    def server() -> dict[str, Any]:
        """What this is."""
        return {"name": "inflame", "version": inflame.__version__, "extensions": ["binary_tensor_data"]}

    @router.get("/v2/health/live")
    def live() -> Response:
        """Whether the server runs."""
        return JSONResponse({"live": True})

    @router.get("/v2/health/ready")
    def ready() -> Response:
        """Whether requests should come here."""
        return JSONResponse({"ready": not service.unready()}, 503 if service.unready() else 200)

    @router.get("/v2/models/{model}")
    @router.get("/v2/models/{model}/versions/{version}")
    def metadata(model: str, version: str = "") -> dict[str, Any]:
        """What the model takes and gives."""
        found = _chosen(service, model, version)
        return {"name": model, "versions": [found.version], "platform": "inflame_onnx", **_tensors(found)}

    @router.get("/v2/models/{model}/ready")
    @router.get("/v2/models/{model}/versions/{version}/ready")
    def model_ready(model: str, version: str = "") -> Response:
        """Whether the model answers."""
        _chosen(service, model, version)
        return ready()

    @router.post("/v2/models/{model}/infer")
    @router.post("/v2/models/{model}/versions/{version}/infer")
    async def infer(request: Request, model: str, version: str = "") -> Response:
        """Answers."""
        found = _chosen(service, model, version)
        with tracing.stage("read"):
            asked, contents = _contents(await request.body(), request.headers.get(_HEAD, ""), found)
        answers = await service.classify(contents, model=model, source="oip", client=request.state.visitor)
        for one in answers:
            if isinstance(one, Problem):
                raise one
        return _answer(asked, found, [one for one in answers if isinstance(one, Answer)])

    return router


def _chosen(service: Service, model: str, version: str) -> Served:
    found = service.model(model)
    if version and version != found.version:
        raise Problem("not_found", f"The version that answers is {found.version}.", "Ask for that, or for none.")
    return found


def _tensors(model: Served) -> dict[str, Any]:
    takes = [{"name": "texts", "datatype": "BYTES", "shape": [-1]}]
    if not model.text:
        shape = [-1, model.size, model.size, model.channels]
        takes = [
            {"name": "files", "datatype": "BYTES", "shape": [-1]},
            {"name": "pictures", "datatype": "UINT8", "shape": shape},
        ]
    gives = [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(model.classes)]},
        {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        {"name": "known", "datatype": "BOOL", "shape": [-1]},
    ]
    return {"inputs": takes, "outputs": gives, "parameters": {"classes": list(model.classes)}}


def _contents(body: bytes, head: str, model: Served) -> tuple[dict[str, Any], list[bytes]]:
    """The request without its tensors, and the files or texts in it. Raises Problem."""
    size = int(head) if head.isdigit() else len(body)
    asked, rest = as_object(body[:size]), body[size:]
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _bad("`inputs` is no list of one tensor")
    tensor = inputs[0]
    name, shape = tensor.get("name"), tensor.get("shape")
    if name not in (("texts",) if model.text else ("files", "pictures")):
        raise _bad(f"there is no input {str(name)[:40]!r}")
    if not isinstance(shape, list) or not shape or not all(isinstance(n, int) and 0 < n < 2**31 for n in shape):
        raise _bad("the shape is no list of sizes")
    more = tensor.get("parameters")
    length = more.get("binary_data_size") if isinstance(more, dict) else None
    data = rest[:length] if isinstance(length, int) else tensor.get("data")
    found = _pictures(data, shape, model) if name == "pictures" else _strings(data, text=model.text)
    if len(found) != shape[0]:
        raise _bad(f"the shape says {shape[0]} and there are {len(found)}")
    return asked, found


def _strings(data: Any, *, text: bool) -> list[bytes]:
    if isinstance(data, bytes):
        found = []
        while data:
            (size,) = struct.unpack("<I", data[:4].ljust(4, b"\0"))
            if size > len(data) - 4:
                raise _bad("the tensor ends too early")
            found.append(data[4 : 4 + size])
            data = data[4 + size :]
        return found
    if not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        raise _bad("`data` is no list of texts")
    if text:
        return [one.encode(errors="replace") for one in data]
    try:
        return [base64.b64decode(one, validate=True) for one in data]
    except (binascii.Error, ValueError):
        raise _bad("a file in JSON is written in base64") from None


def _pictures(data: Any, shape: list[int], model: Served) -> list[bytes]:
    """Prepared pixels as files without loss: so all roads to the net are one."""
    one = (model.size, model.size, model.channels)
    if tuple(shape[1:]) != one or shape[0] > model.settings.files:
        raise _bad(
            f"pictures have the shape [N, {model.size}, {model.size}, {model.channels}], N ≤ {model.settings.files}"
        )
    try:
        array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.array(data, np.int64)
        if array.min() < 0 or array.max() > 255:
            raise ValueError
        array = array.astype(np.uint8).reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise _bad("the numbers don't fill the shape, or aren't 0 to 255") from None
    found = []
    for picture in array:
        content = io.BytesIO()
        Image.fromarray(picture.squeeze() if model.channels == 1 else picture).save(content, "PNG", compress_level=1)
        found.append(content.getvalue())
    return found


def _answer(asked: dict[str, Any], model: Served, answers: list[Answer]) -> Response:
    order = {label: place for place, label in enumerate(model.classes)}
    table = np.zeros((len(answers), len(order)), np.float32)
    for row, answer in enumerate(answers):
        for label, probability in answer.top:
            table[row, order[label]] = probability
    known = [answer.known and not answer.unlike for answer in answers]
    values: dict[str, tuple[str, list[int], Any, bytes]] = {
        "probabilities": ("FP32", list(table.shape), table.ravel().tolist(), table.tobytes()),
        "labels": ("BYTES", [len(answers)], [one.label for one in answers], _packed([one.label for one in answers])),
        "known": ("BOOL", [len(answers)], known, bytes(known)),
    }
    wanted = asked.get("outputs") or []
    names = {one["name"]: one for one in wanted if isinstance(one, dict) and one.get("name") in values}
    binary_all = isinstance(asked.get("parameters"), dict) and asked["parameters"].get("binary_data_output")
    outputs, tail = [], b""
    for name, (kind, shape, plain, packed) in values.items():
        if names and name not in names:
            continue
        own = (
            names.get(name, {}).get("parameters", {}) if isinstance(names.get(name, {}).get("parameters"), dict) else {}
        )
        told: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        if own.get("binary_data", binary_all):
            told["parameters"] = {"binary_data_size": len(packed)}
            tail += packed
        else:
            told["data"] = plain
        outputs.append(told)
    head = json.dumps(
        {"model_name": model.name, "model_version": model.version, "id": str(asked.get("id", "")), "outputs": outputs}
    ).encode()
    if not tail:
        return Response(head, media_type="application/json")
    return Response(head + tail, media_type="application/octet-stream", headers={_HEAD: str(len(head))})


def _packed(texts: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def _bad(what: str) -> Problem:
    return Problem("bad_request", what[:1].upper() + what[1:] + ".", "See the metadata of the model: /v2/models/NAME")
