"""Knowledge cards: what the chatbot knows. A card is a Markdown file of plain sentences, each with its source.

    # monarch
    names: monarch butterfly, Danaus plexippus
    like: viceroy
    topic: butterflies

    ## look
    - Orange wings with black veins. [1]

    ## sources
    1. Title, publisher | licence of the text here

The heading is the class that the card is about; the other headings are slots (SLOTS).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inflame.errors import DataError

FOLDER = Path(__file__).parent / "knowledge"
SLOTS = ("look", "like", "range", "diet", "season", "life", "defence", "conservation", "name", "use", "more", "model")

_SENTENCE = re.compile(r"- (.+?) \[(\d+)\]$")
_SOURCE = re.compile(r"(\d+)\. (.+?) \| (.+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One sentence. `id`: card.slot.number."""

    id: str
    about: str
    slot: str
    text: str
    source: str
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is known about one thing. `names`: other words for it; `like`: what it is mistaken for."""

    about: str
    names: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    topic: str = ""
    facts: tuple[Fact, ...] = ()


def read(path: Path) -> Card:
    """The card in that file. Raises DataError, which says the line."""
    return parse(path.read_text(encoding="utf-8"), str(path))


def parse(text: str, where: str = "") -> Card:
    """A card from its text."""
    about, slot = "", ""
    head: dict[str, str] = {}
    sentences: list[tuple[str, str, str]] = []
    sources: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        if line.startswith("# ") and not about:
            about = line[2:].strip()
        elif line.startswith("## "):
            slot = line[3:].strip()
        elif not slot and ":" in line:
            key, _, value = line.partition(":")
            head[key.strip()] = value.strip()
        elif slot == "sources" and (found := _SOURCE.match(line)):
            sources[found[1]] = (found[2], found[3])
        elif slot in SLOTS and (found := _SENTENCE.match(line)):
            sentences.append((slot, found[1], found[2]))
        else:
            raise _broken(f"line {number} is no sentence with a source: {line[:60]!r}", where)
    if not about or any(source not in sources for _, _, source in sentences):
        raise _broken("it has no heading, or a sentence whose source isn't listed", where)
    facts = tuple(
        Fact(
            id=f"{about}.{slot}.{number}",
            about=about,
            slot=slot,
            text=said,
            source=sources[source][0],
            licence=sources[source][1],
        )
        for number, (slot, said, source) in enumerate(sentences, 1)
    )
    return Card(
        about=about, names=_listed(head, "names"), like=_listed(head, "like"), topic=head.get("topic", ""), facts=facts
    )


def fitting(classes: Iterable[str], own: Path | None = None) -> list[Card]:
    """The cards about those classes, and about what those are mistaken for. A card of the folder `own` takes the place
    of a built-in one about the same thing, and is used whatever it is about."""
    wanted = {simple(name) for name in classes}
    mine = [read(path) for path in sorted(own.glob("*.md"))] if own is not None else []
    taken = {simple(card.about) for card in mine}
    built_in = [read(path) for path in sorted(FOLDER.glob("*.md"))]
    known = [*mine, *(card for card in built_in if simple(card.about) not in taken)]
    wanted |= taken
    found = [card for card in known if wanted & {simple(card.about), *map(simple, card.names)}]
    more = {simple(name) for card in found for name in card.like}
    return found + [card for card in known if card not in found and simple(card.about) in more]


def simple(name: str) -> str:
    """A name for comparing: small letters and digits, no plural."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip().removesuffix("s")


def at_a_glance(labels: Iterable[str], known: Iterable[Card]) -> list[Fact]:
    """How to know each of these things, and how to tell it from what it is mistaken for: the first fact of each."""
    found = []
    for name in labels:
        card = next((one for one in known if simple(name) in {simple(one.about), *map(simple, one.names)}), None)
        for slot in ("look", "like"):
            found += [fact for fact in card.facts if fact.slot == slot][:1] if card else []
    return found


def of_model(name: str, card: str, classes: Iterable[str]) -> Card:
    """What a bundle's own card says, as facts about the model."""
    lines = [line[2:].strip() for line in card.splitlines() if line.startswith("- ")]
    source = ("The card of this model, written when it was made", "part of the model")
    facts = [
        Fact(id=f"model.model.{n}", about="this model", slot="model", text=line, source=source[0], licence=source[1])
        for n, line in enumerate(lines, 1)
        if len(line) < 600
    ]
    return Card(about="this model", names=("model", name), topic="model", facts=tuple(facts))


def _listed(head: dict[str, str], key: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in head.get(key, "").split(",") if part.strip())


def _broken(what: str, where: str) -> DataError:
    return DataError(f"The card can't be used: {what}.", where=where, remedy="docs/website.md shows what a card is.")
