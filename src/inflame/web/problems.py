"""What goes wrong, as RFC 9457 says it: `application/problem+json` with a code that stays, and a way out.

code               status
bad_request        400   the request can't be understood
forbidden          403   from another site, or not signed in
not_found          404   no such page, result or model
method             405   that isn't done at this address
slow               408   the body didn't arrive in time
too_large          413   too many bytes or pixels
unsupported        415   not a format that is taken
unprocessable      422   a file of that format that gives no picture, a text without words, a class that isn't one
busy               429   too much at once; Retry-After says when
internal           500   a mistake in inflame
not_ready          503   no model answers at present
draining           503   the server is being stopped
storage            503   what should be kept can't be
unreachable        503   who is needed elsewhere, to sign in, doesn't answer
late               504   no answer within the deadline
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from inflame.artifact.preprocess import PictureError
from inflame.errors import DataError, InflameError, MissingExtra, StorageError
from inflame.web.batching import Refused

CODES: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request can't be understood"),
    "forbidden": (403, "Not allowed"),
    "not_found": (404, "Nothing here"),
    "method": (405, "That isn't done here"),
    "slow": (408, "The request came too slowly"),
    "too_large": (413, "Too large"),
    "unsupported": (415, "Not a format that is taken"),
    "unprocessable": (422, "That can't be read"),
    "busy": (429, "Too much at once"),
    "internal": (500, "A mistake in inflame"),
    "not_ready": (503, "No model answers at present"),
    "draining": (503, "The server is being stopped"),
    "storage": (503, "It could not be kept"),
    "unreachable": (503, "Somebody else is needed, and doesn't answer"),
    "late": (504, "No answer in time"),
}
TYPE = "application/problem+json"

_KEEPERS = ("move it ", "delete it", "git ")  # how advice begins that is for whoever keeps a data set
_OF_PICTURES = {"too_large": "too_large", "not_a_picture": "unsupported", "unsupported": "unsupported"}
_OF_REFUSALS = {
    "full": ("busy", "Too many pictures wait already.", "Ask again in a moment."),
    "draining": ("draining", "The server is being stopped.", "Ask again in a moment."),
    "late": ("late", "The answer took too long.", "Ask again, with fewer pictures at once."),
}


class Problem(Exception):
    """Ends a request. `code` is one of CODES; `wait`: seconds for Retry-After; `reason`: what /metrics counts it as,
    where the code alone doesn't tell."""

    def __init__(self, code: str, detail: str, remedy: str = "", *, wait: float = 0.0, reason: str = "") -> None:
        super().__init__(detail)
        self.code, self.detail, self.remedy, self.wait = code, detail, remedy, wait
        self.reason = reason or code

    @property
    def status(self) -> int:
        """The number of HTTP."""
        return CODES[self.code][0]

    def headers(self) -> dict[str, str]:
        """What goes with it."""
        return {"Retry-After": str(math.ceil(self.wait))} if self.wait else {}

    def told(self, path: str = "", request: str = "", say: Callable[[str], str] = str) -> dict[str, Any]:
        """The problem document. `say`: what is for people, in their language."""
        status, title = CODES[self.code]
        return {
            "type": f"urn:inflame:problem:{self.code}",
            "title": title,
            "status": status,
            "code": self.code,
            "detail": say(self.detail),
            "remedy": say(self.remedy),
            "instance": path,
            "request_id": request,
        }


def of(error: Exception) -> Problem:
    """The problem that an error is."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refused):
        code, detail, remedy = _OF_REFUSALS[error.reason]
        return Problem(code, detail, remedy, wait=error.wait or (1.0 if code != "late" else 0.0))
    if isinstance(error, PictureError):
        return Problem(_OF_PICTURES.get(error.kind, "unprocessable"), _sentence(error.message), _advice(error))
    if isinstance(error, MissingExtra):
        return Problem("unsupported", error.message, error.remedy)
    if isinstance(error, StorageError):
        return Problem("storage", error.message, error.remedy, wait=5.0)
    if isinstance(error, DataError) and "inflame " in error.remedy:  # a command, for who has this machine
        return Problem("unprocessable", error.message, "Send a text.")
    if isinstance(error, InflameError):
        return Problem("unprocessable", error.message, error.remedy)
    return Problem("internal", "Something went wrong that should not have.", "Try again; the log says more.")


def _advice(error: PictureError) -> str:
    """What a visitor can do, who has neither the data of a training nor this machine."""
    if error.kind == "unsupported":
        return "Save it as JPEG or PNG."
    return "Send a picture." if error.remedy.startswith(_KEEPERS) else _sentence(error.remedy)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
