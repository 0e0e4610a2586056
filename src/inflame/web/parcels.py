"""What a model's process tells the website, as JSON and bytes: answers, and errors that stand for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from inflame.artifact.preprocess import PictureError
from inflame.errors import BundleError, DataError, InflameError, MissingExtra, RunError, UserError
from inflame.web.answers import Answer

_ERRORS = {kind.__name__: kind for kind in (InflameError, UserError, RunError, DataError, BundleError, MissingExtra)}
_APART = ("embedding", "seen")  # told as bytes
_NAMES = [field.name for field in dataclasses.fields(Answer) if field.name not in _APART]


def wrapped(found: Sequence[Answer | InflameError]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Answers and errors in their order, and the bytes that belong to them: `_APART` of each answer."""
    told, blobs = [], list[bytes]()
    for one in found:
        if isinstance(one, InflameError):
            told.append(error_told(one))
            continue
        told.append({name: getattr(one, name) for name in _NAMES})
        blobs += [getattr(one, name) for name in _APART]
    return told, blobs


def unwrapped(told: Sequence[dict[str, Any]], blobs: Sequence[bytes]) -> list[Answer | InflameError]:
    """What `wrapped` told. Raises ValueError, KeyError or TypeError for anything else."""
    rest = iter(blobs)
    return [error_of(one) if "error" in one else _answer(dict(one), rest) for one in told]


def _answer(told: dict[str, Any], rest: Iterator[bytes]) -> Answer:
    told |= {"set": tuple(told["set"]), "shares": tuple(told["shares"])}
    told["top"] = tuple((str(label), float(share)) for label, share in told["top"])
    told |= {name: next(rest, b"") for name in _APART}
    return Answer(**told)


def error_told(error: Exception) -> dict[str, Any]:
    """An error as JSON; one that isn't of this house only by its name and text."""
    if not isinstance(error, InflameError):
        return {"error": "", "message": f"{type(error).__name__}: {error}"}
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in (*_ERRORS, "PictureError"))
    told = {"error": name, "message": error.message, "remedy": error.remedy, "where": error.where}
    return {**told, "kind": error.kind} if isinstance(error, PictureError) else told


def error_of(told: dict[str, Any]) -> InflameError:
    """The error that was told. One that isn't of this house is raised: it is a mistake."""
    message, name = str(told["message"]), told["error"]
    if not name:
        raise RuntimeError(message)
    more = {"remedy": str(told["remedy"]), "where": str(told["where"])}
    if name == "PictureError":
        return PictureError(message, kind=str(told["kind"]), **more)
    return _ERRORS[name](message, **more)
