"""The shapes of the API, for its OpenAPI description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from inflame.web.problems import CODES, TYPE


class Share(BaseModel):
    """A class and its calibrated probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class Novelty(BaseModel):
    """How far it is from all that was learned (0: in the middle of it), and what nearly all known things stay below."""

    distance: float
    limit: float


class Result(BaseModel):
    """One answer. `known` is false where it should not be trusted; `unlike` where nothing like it was seen."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "Jx2u5oJxv0mYtK1b8tXk3A",
                "file": "wing.jpg",
                "label": "monarch",
                "probability": 0.9931,
                "level": "almost_certain",
                "known": True,
                "unlike": False,
                "top": [{"label": "monarch", "probability": 0.9931}, {"label": "viceroy", "probability": 0.0058}],
                "set": ["monarch"],
                "novelty": {"distance": 0.131, "limit": 0.522},
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "model": "butterflies",
                "version": "c8654f410d5d",
                "seconds": 0.0121,
                "time": 1763722049.1,
            }
        }
    )

    id: str
    file: str = ""
    label: str
    probability: float = Field(ge=0, le=1)
    level: str
    known: bool
    unlike: bool
    top: list[Share]
    set: list[str]
    novelty: Novelty
    sha256: str
    model: str
    version: str
    seconds: float
    time: float
    explanation: dict[str, Any] | None = None


class Trouble(BaseModel):
    """What went wrong, as RFC 9457 has it. `code` stays the same between versions."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str = ""
    instance: str = ""
    request_id: str = ""


class Results(BaseModel):
    """What was found, in the order of what was sent: an answer or a problem each."""

    results: list[Result | Trouble]


class Opinion(BaseModel):
    """What you think of an answer."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"id": "Jx2u5oJxv0mYtK1b8tXk3A", "verdict": "wrong", "label": "viceroy"}}
    )

    id: str = Field(description="of the result")
    verdict: str = Field(description="right or wrong")
    label: str = Field("", description='what it is, where it is wrong: a class of the model, or "other"')
    comment: str = ""


class Kept(BaseModel):
    """An opinion that was kept. DELETE /v1/feedback/{feedback} takes it back."""

    feedback: str


class Runtime(BaseModel):
    """What runs a model: by force, or because it was the quickest of those that answer as the bundle does."""

    runtime: str
    forced: bool
    measured: list[dict[str, Any]] = Field(
        description="seconds for one item alone and one of many, and the share of labels that are the bundle's"
    )


class Requests(BaseModel):
    """What requests to one of two models came to; `median` in seconds."""

    asked: int
    failed: int
    median: float


class Trial(BaseModel):
    """A second model beside one that serves."""

    kind: Literal["shadow", "canary"]
    version: str
    share: float = Field(description="of the clients, for a canary")
    ended: str = Field(description="why nobody is sent to it any more; empty while it runs")
    requests: Requests
    others: Requests
    compared: int = Field(description="items that a shadow was shown")
    same: int = Field(description="items that it gave the same label to")
    missed: int = Field(description="items that it had no time for")


class Served(BaseModel):
    """A model that answers here."""

    name: str
    version: str
    created: str
    kind: str
    classes: list[str]
    runtime: Runtime
    before: str | None = Field(None, description="the version that a rollback would bring back")
    trouble: str = Field("", description="why the newest bundle isn't served")
    trial: Trial | None = None


class Models(BaseModel):
    """The models that answer here; the first is meant where none is named."""

    models: list[Served]


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The problems a route may answer with, for its description."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, title = CODES[code]
        example = {
            "type": f"urn:inflame:problem:{code}",
            "title": title,
            "status": status,
            "code": code,
            "detail": f"{title}.",
        }
        entry = found.setdefault(status, {"model": Trouble, "description": title, "content": {TYPE: {"examples": {}}}})
        entry["content"][TYPE]["examples"][code] = {"value": example}
    return found


_FILE = {"type": "string", "contentMediaType": "image/*"}
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "array", "items": _FILE, "description": "pictures, or text files"},
                        "text": {"type": "string", "description": "for a model of texts"},
                        "top_k": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5},
                        "explain": {"type": "boolean", "default": False},
                        "keep": {
                            "type": "boolean",
                            "default": False,
                            "description": "it may be kept to learn from, for 90 days or as many as the site says",
                        },
                        "model": {"type": "string", "description": "which; default: the first"},
                    },
                }
            },
            "image/*": {"schema": _FILE},
            "text/plain": {"schema": {"type": "string"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"texts": {"type": "array", "items": {"type": "string"}}},
                    "example": {"texts": ["The match ended in a draw."]},
                }
            },
        },
    }
}
