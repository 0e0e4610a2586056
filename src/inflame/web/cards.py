"""Knowledge cards: what the chatbot knows. A card is a file of plain sentences, each with its source: in Markdown

    # monarch
    names: monarch butterfly, Danaus plexippus
    like: viceroy
    topic: butterflies

    ## look
    - Orange wings with black veins. [1]

    ## sources
    1. Title, publisher | licence of the text here

or, with the same fields, in YAML (`.yaml`, `.yml`):

    about: monarch
    names: monarch butterfly, Danaus plexippus
    facts:
      look:
        - Orange wings with black veins. [1]
    sources:
      1: Title, publisher | licence of the text here

The heading is the class that the card is about; the other headings are slots (SLOTS). A line `<!-- … -->` is a note.
`monarch.de.md` beside `monarch.md` says the same, sentence by sentence, in German, to whoever has chosen that.
`inflame cards new CLASS` writes a card to be filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inflame.errors import DataError
from inflame.web import words

FOLDER = Path(__file__).parent / "knowledge"
SUFFIXES = (".md", ".yaml", ".yml")
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
_HEADS = ("names", "like", "topic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One sentence. `id`: card.slot.number; `language`: what it is in, where that is known."""

    id: str
    about: str
    slot: str
    text: str
    source: str
    licence: str
    language: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is known about one thing. `names`: other words for it; `like`: what it is mistaken for; `others`: the same
    by language, the same facts by their ids."""

    about: str
    names: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    topic: str = ""
    facts: tuple[Fact, ...] = ()
    others: Mapping[str, Card] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """All cards that there are: one's own, which are used whatever they are about, and those of inflame."""

    own: tuple[Card, ...] = ()
    ours: tuple[Card, ...] = ()


def read(path: Path, language: str = "") -> Card:
    """The card in that file; `language`: what it is in, where its name doesn't say. Raises DataError, which says the
    line."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _broken("it is no text in UTF-8", str(path)) from None
    card = parse(text, str(path)) if path.suffix == ".md" else parse_yaml(text, str(path))
    return replace(card, facts=tuple(replace(fact, language=_language(path) or language) for fact in card.facts))


def parse(text: str, where: str = "") -> Card:
    """A card from its text in Markdown."""
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
    return _made(about, head, sentences, sources, where)


def parse_yaml(text: str, where: str = "") -> Card:
    """A card from its text in YAML. Raises DataError."""
    told = _loaded(text, where)
    sentences: list[tuple[str, str, str]] = []
    for slot, lines in _table(told, "facts", where).items():
        if slot not in SLOTS:
            raise _broken(f'there is no slot "{str(slot)[:60]}": one of {", ".join(SLOTS)}', where)
        for number, line in enumerate(_lines(lines, slot, where), 1):
            found = _SENTENCE.match(f"- {line}")
            if found is None:
                raise _broken(f"sentence {number} of {slot} has no source: {line[:60]!r}", where)
            sentences.append((slot, found[1], found[2]))
    sources: dict[str, tuple[str, str]] = {}
    for number, line in _table(told, "sources", where).items():
        found = _SOURCE.match(f"{number}. {line}")
        if found is None:
            raise _broken(f"source {number} is no `title | licence`: {str(line)[:60]!r}", where)
        sources[found[1]] = (found[2], found[3])
    head = {key: ", ".join(_words(told.get(key), key, where)) for key in _HEADS}
    return _made(", ".join(_words(told.get("about"), "about", where)), head, sentences, sources, where)


def _loaded(text: str, where: str) -> dict[str, Any]:
    """The fields of a card in YAML. Raises DataError."""
    import yaml  # type: ignore[import-untyped]

    try:
        told = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or "it can't be read"
        raise _broken(f"it is no YAML{line}: {what}; a sentence with a colon needs quotes around it", where) from None
    if not isinstance(told, dict):
        raise _broken("it has no fields, like `about: monarch`", where)
    if strange := [str(key) for key in told if key not in ("about", *_HEADS, "facts", "sources")]:
        raise _broken(f'it has a field "{strange[0][:60]}", which no card has', where)
    return told


def _table(told: Mapping[str, Any], field: str, where: str) -> dict[Any, Any]:
    """A field that holds further ones. Raises DataError."""
    found = told.get(field) or {}
    if not isinstance(found, dict):
        raise _broken(f"its {field} are no table of `key: value`", where)
    return found


def _lines(value: Any, field: str, where: str) -> Iterator[str]:
    """The sentences of a field: a list of texts, each ending with the number of its source. Raises DataError."""
    for line in value if isinstance(value, list) else [value] if value is not None else []:
        if not isinstance(line, str):
            raise _broken(f"{field} holds something else than sentences: {str(line)[:60]!r}", where)
        yield " ".join(line.split())


def _words(value: Any, field: str, where: str) -> list[str]:
    """One text, or several. Raises DataError."""
    found = value if isinstance(value, list) else [value] if value is not None else []
    if not all(isinstance(one, str | int | float) for one in found):
        raise _broken(f"{field} is neither a text nor a list of texts", where)
    return [str(one).strip() for one in found]


def _made(
    about: str,
    head: Mapping[str, str],
    sentences: Sequence[tuple[str, str, str]],
    sources: Mapping[str, tuple[str, str]],
    where: str,
) -> Card:
    """The card of what was read: sentences as (slot, text, number of the source). Raises DataError."""
    if not about:
        raise _broken("it doesn't say what it is about", where)
    if missing := [source for _, _, source in sentences if source not in sources]:
        raise _broken(f"a sentence names source {missing[0]}, which isn't listed", where)
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


def library(own: Path | None = None) -> Library:
    """The cards of the folder `own`, and those of inflame about anything else. Raises DataError."""
    mine = _shelf(own, "") if own is not None else {}
    ours = _shelf(FOLDER, "en")
    return Library(own=tuple(mine.values()), ours=tuple(card for name, card in ours.items() if name not in mine))


def _shelf(folder: Path, language: str) -> dict[str, Card]:
    """The cards of a folder by what they are about, each with the same in other languages. Raises DataError."""
    found: dict[str, Card] = {}
    for path in files(folder):
        card = read(path, language)
        if simple(card.about) in found:
            raise _broken(f'another card in this folder is about "{card.about}" as well', str(path))
        found[simple(card.about)] = card
    for path in sorted(path for path in folder.glob("*.*") if path.suffix in SUFFIXES and _language(path)):
        card = read(path)
        first = found.get(simple(card.about))
        if first is None:
            raise _broken(f'there is none about "{card.about}" whose name says no language', str(path))
        if [fact.id for fact in card.facts] != [fact.id for fact in first.facts]:
            raise _broken(f'"{card.about}" has not as many sentences under the same headings', str(path))
        found[simple(card.about)] = replace(first, others={**first.others, _language(path): card})
    return found


def files(folder: Path) -> list[Path]:
    """The files of cards in a folder, but for those that say the same in another language."""
    return sorted(path for path in folder.glob("*.*") if path.suffix in SUFFIXES and not _language(path))


def _language(path: Path) -> str:
    """The language that the name of a card's file says; empty where it says none."""
    code = Path(path.stem).suffix[1:]
    return code if code in words.languages() else ""


def fitting(classes: Iterable[str], among: Library | None = None, language: str = "en") -> list[Card]:
    """The cards about those classes, and about what those are mistaken for; one's own in any case. In that language as
    far as there are any."""
    among = library() if among is None else among
    known = [*among.own, *among.ours]
    wanted = {simple(name) for name in (*classes, *(card.about for card in among.own))}
    found = [card for card in known if wanted & {simple(card.about), *map(simple, card.names)}]
    more = {simple(name) for card in found for name in card.like}
    found += [card for card in known if card not in found and simple(card.about) in more]
    return [_spoken(card, card.others[language]) if language in card.others else card for card in found]


def _spoken(card: Card, other: Card) -> Card:
    """The card in the other's language; whoever asks may use the names of both."""
    return replace(card, names=(*card.names, *other.names), facts=other.facts)


def blank(about: str) -> str:
    """The text of a card about that class, to be filled in: all slots, and no sentence yet."""
    slots = [f"## {slot}\n<!-- {asked} -->\n" for slot, asked in _ASKED.items()]
    return "\n".join([_HEAD.format(about=about), *slots, _FOOT])


def built_in(about: str) -> str:
    """The text of the card about that class that comes with inflame; empty where there is none."""
    for path in files(FOLDER):
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
    about = {"about": "this model", "slot": "model", "source": source[0], "licence": source[1], "language": "en"}
    facts = [Fact(id=f"model.model.{n}", text=line, **about) for n, line in enumerate(lines, 1) if len(line) < 600]
    return Card(about="this model", names=("model", name), topic="model", facts=tuple(facts))


def _listed(head: Mapping[str, str], key: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in head.get(key, "").split(",") if part.strip())


def _broken(what: str, where: str) -> DataError:
    return DataError(f"The card can't be used: {what}.", where=where, remedy="docs/website.md shows what a card is.")
