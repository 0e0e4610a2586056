"""What a request brings: files of a form, a picture or text as the body, or texts as JSON. Names are only shown."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from inflame.web.problems import Problem
from inflame.web.settings import Settings

_FIELDS = 100
_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`items`: (name, content) of each thing; a name is whatever the sender says. `fields`: the rest of the form, and
    of the query, which wins."""

    items: tuple[tuple[str, bytes], ...] = ()
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def contents(self) -> list[bytes]:
        """The things without their names."""
        return [content for _, content in self.items]

    def flag(self, name: str) -> bool:
        """Whether a field says yes."""
        return self.fields.get(name, "").lower() in ("1", "true", "yes", "on")

    def number(self, name: str, usual: int, *, least: int, most: int) -> int:
        """A whole number of the fields. Raises Problem when it is none, or out of range."""
        word = self.fields.get(name, "") or str(usual)
        try:
            value = int(word)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise Problem("bad_request", f"{name} is no number from {least} to {most}.", f"Send {name}={usual}.")
        return value


@functools.cache
def heic() -> bool:
    """Whether photos as iPhones save them can be read here. Where not, the page doesn't ask for them: then the phone
    sends a JPEG by itself."""
    return importlib.util.find_spec("pillow_heif") is not None


async def read(request: Request, settings: Settings, *, text: bool) -> Asked:
    """What was sent, within the limits of one file or text. Raises Problem."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = dict(request.query_params)
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        items, fields = await _form(request, settings)
    elif kind == "application/json":
        items, fields = _told(await request.body(), settings)
    elif kind.startswith("image/") or kind in ("application/octet-stream", "text/plain", ""):
        content = await request.body()
        items, fields = ([("", content)] if content else []), {}
    else:
        raise Problem("unsupported", f"{kind[:80]} isn't taken.", "Send a form with files, or a picture as the body.")
    for name, content in items:
        most = 4 * settings.letters if text else settings.bytes
        if len(content) > most:
            what = _short(name) or "It"
            raise Problem("too_large", f"{what} has more than {most / 2**20:.1f} MB.", "Send it smaller.")
    return Asked(items=tuple(items), fields={**fields, **query})


async def _form(request: Request, settings: Settings) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    items: list[tuple[str, bytes]] = []
    fields: dict[str, str] = {}
    async with request.form(
        max_files=settings.files + 1, max_fields=_FIELDS, max_part_size=4 * settings.letters
    ) as form:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                content = await value.read()
                if content or value.filename:
                    items.append((_short(value.filename or ""), content))
            elif key == "text":
                if value.strip():
                    items.append(("", value.encode(errors="replace")))
            else:
                fields[key] = value
    return items, fields


def _told(content: bytes, settings: Settings) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    told = as_object(content)
    texts = told.pop("texts", None) or ([told.pop("text")] if isinstance(told.get("text"), str) else [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Problem("bad_request", "`texts` is no list of texts.", '{"texts": ["…"]}')
    fields = {key: str(value) for key, value in told.items() if isinstance(value, (str, int, float, bool))}
    return [("", text.encode(errors="replace")) for text in texts[: settings.files + 1]], fields


def as_object(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises Problem for anything else."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise Problem("bad_request", "The body is no JSON object.", "Send JSON, as /docs shows it.")
    return told


def text_of(told: dict[str, Any], name: str, most: int = 2000) -> str:
    """A text of a JSON object; empty when it isn't there. Raises Problem when it is something else, or too long."""
    value = told.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        raise Problem("unprocessable", f"`{name}` is no text of at most {most} letters.", "Send less.")
    return value.encode(errors="replace").decode()


def _short(name: str) -> str:
    return "".join(letter if letter.isprintable() else "·" for letter in name)[:_NAME]


def paired(asked: Asked, found: Sequence[Any]) -> list[tuple[str, bytes, Any]]:
    """(name, content, answer) of each thing."""
    return [(name, content, one) for (name, content), one in zip(asked.items, found, strict=True)]
