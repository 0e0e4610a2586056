"""An explanation as the website shows it: the most similar training items, then heat or words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inflame.model.engine.explain import Explanation
from inflame.model.engine.explained import address, overlay, plain
from inflame.records import Record

_LONG = 3000  # letters of a text that are shown
_STEPS = 5  # strengths of a mark
_TERMS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece(Record):
    """A piece of a text. `mark`: "" or for1 … for5, against1 … against5, by how much it adds."""

    text: str
    mark: str = ""


def told(found: Explanation) -> dict[str, Any]:
    """For programs, and for the page: pictures as `data:` addresses."""
    near = [
        {
            "label": one.label,
            "distance": round(one.distance, 4),
            **({"text": one.snippet} if one.snippet else {"picture": address(one.thumb)}),
        }
        for one in found.near
    ]
    said: dict[str, Any] = {"label": found.label, "how": found.how, "near": near}
    if found.picture is not None and found.heat is not None:
        return {**said, "picture": address(plain(found.picture)), "heat": address(overlay(found.picture, found.heat))}
    return {**said, "words": [{"word": word, "weight": round(weight, 4)} for word, weight in found.terms[:_TERMS]]}


def pieces(found: Explanation) -> list[Piece]:
    """The beginning of the text, in pieces that are marked or not."""
    strongest = max((abs(word.weight) for word in found.words), default=0.0) or 1.0
    parts, last = [], 0
    for word in found.words:
        step = round(_STEPS * abs(word.weight) / strongest)
        if word.end > _LONG or not step or word.start < last:
            continue
        parts.append(Piece(text=found.text[last : word.start]))
        side = "for" if word.weight > 0 else "against"
        parts.append(Piece(text=found.text[word.start : word.end], mark=f"{side}{step}"))
        last = word.end
    parts.append(Piece(text=found.text[last:_LONG] + (" …" if len(found.text) > _LONG else "")))
    return [part for part in parts if part.text]
