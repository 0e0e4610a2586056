"""Knowledge cards: what the chatbot knows. A card is a Markdown file of plain sentences, each with its source.

    # monarch
    names: monarch butterfly, Danaus plexippus
    like: viceroy
    topic: butterflies

    ## look
    - Orange wings with black veins. [1]

    ## sources
    1. Title, publisher | licence of the text here

The heading is the class that the card is about; the other headings are slots (SLOTS). A line `<!-- … -->` is a note.
`inflame cards new CLASS` writes a card to be filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inflame.errors import DataError

FOLDER = Path(__file__).parent / "knowledge"
SLOTS = ("look", "like", "range", "diet", "season", "life", "defence", "conservation", "name", "use", "more", "model")

_ASKED = {  # what belongs into a slot, for who writes a card
    "look": "How is it known? What is seen first, what in a picture of it?",
    "like": "What is it mistaken for, and how are they told apart?",
    "range": "Where is it found?",
    "diet": "What does it live on?",
    "season": "When can it be seen?",
    "life": "How does it grow up, how old does it become?",
    "defence": "What keeps its enemies away?",
    "conservation": "Is it rare, is it protected?",
    "name": "Where does its name come from?",
    "use": "What is it used for?",
    "more": "What else is worth knowing?",
}
_HEAD = """\
# {about}
<!-- Other words for it, what it is mistaken for, and what it belongs to; commas between them. -->
names:
like:
topic:

<!-- One sentence a line, in your own words, each with the number of its source: - It is orange. [1] -->
<!-- What has no sentence is not spoken of: leave headings empty, or take them out. -->
"""
_FOOT = """\
## sources
<!-- Number, title and publisher | the licence of the sentences above -->
1. Title, publisher | own words, MIT
"""
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
        if not line or (line.startswith("<!--") and line.endswith("-->")):
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
    ours = [read(path) for path in sorted(FOLDER.glob("*.md"))]
    known = [*mine, *(card for card in ours if simple(card.about) not in taken)]
    wanted |= taken
    found = [card for card in known if wanted & {simple(card.about), *map(simple, card.names)}]
    more = {simple(name) for card in found for name in card.like}
    return found + [card for card in known if card not in found and simple(card.about) in more]


def blank(about: str) -> str:
    """The text of a card about that class, to be filled in: all slots, and no sentence yet."""
    slots = [f"## {slot}\n<!-- {asked} -->\n" for slot, asked in _ASKED.items()]
    return "\n".join([_HEAD.format(about=about), *slots, _FOOT])


def built_in(about: str) -> str:
    """The text of the card about that class that comes with inflame; empty where there is none."""
    for path in sorted(FOLDER.glob("*.md")):
        if simple(read(path).about) == simple(about):
            return path.read_text(encoding="utf-8")
    return ""


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
