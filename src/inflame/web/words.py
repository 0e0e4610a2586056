"""The words of the pages, in the languages that there are: English sentences are the keys of the catalogs.

Another language is another file in `catalogs/`; a sentence that it lacks is shown in English. What went wrong is told
by sentences that are filled in already: those are known by what stands around their gaps.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request

CATALOGS = Path(__file__).parent / "catalogs"
COOKIE = "inflame_language"
Say = Callable[..., str]

_GAP = re.compile(r"\{(\w+)\}")
_FIRM = 6  # letters that a sentence has besides its gaps, to be known by them
_LONGEST = 1000  # letters of a sentence that is looked for


@functools.cache
def languages() -> tuple[str, ...]:
    """Their codes, English first."""
    return ("en", *sorted(path.stem for path in CATALOGS.glob("*.json")))


@functools.cache
def catalog(language: str) -> dict[str, str]:
    """English sentence → the sentence; empty for English."""
    path = CATALOGS / f"{language}.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if language in languages()[1:] else {}
    return found


def chosen(wanted: str, accepted: str) -> str:
    """The language to speak: the wanted one, else the first of Accept-Language that there is."""
    for word in (wanted, *(part.partition(";")[0].strip() for part in accepted.split(","))):
        if (code := word.partition("-")[0].lower()) in languages():
            return code
    return "en"


def of(request: Request) -> str:
    """The language of who asks: what the address names, else what was chosen before, else what the browser prefers."""
    wanted = request.query_params.get("lang", "") or request.cookies.get(COOKIE, "")
    return chosen(wanted, request.headers.get("accept-language", ""))


def say(language: str) -> Say:
    """`say("Hello {name}", name=…)` in that language."""
    known = catalog(language)

    def speak(sentence: str, **values: object) -> str:
        text = known.get(sentence, "")
        if not text:
            return sentence.format(**values) if values else _filled(language, sentence)
        return text.format(**values) if values else text

    return speak


def _filled(language: str, sentence: str) -> str:
    """The same in that language, for a sentence whose gaps are filled; itself where no sentence is like that."""
    for pattern, text in _patterns(language) if len(sentence) <= _LONGEST else ():
        if (found := pattern.fullmatch(sentence)) is not None:
            return text.format(**found.groupdict())
    return sentence


@functools.cache
def _patterns(language: str) -> list[tuple[re.Pattern[str], str]]:
    """The sentences with gaps, those first that have most besides them."""
    firm = {key: len(_GAP.sub("", key)) for key in catalog(language) if _GAP.search(key)}
    return [
        (_pattern(key), catalog(language)[key])
        for key in sorted(firm, key=lambda key: -firm[key])
        if firm[key] >= _FIRM
    ]


def _pattern(sentence: str) -> re.Pattern[str]:
    literal, *rest = _GAP.split(sentence)
    made, seen = re.escape(literal), set[str]()
    for name, after in zip(rest[::2], rest[1::2], strict=True):
        made += (f"(?P={name})" if name in seen else f"(?P<{name}>.+?)") + re.escape(after)
        seen.add(name)
    return re.compile(made, re.DOTALL)


# What stands behind an answer's level. {a} is the label, {b} its rival.
LEVELS = {
    "unlike": "I have not seen anything like this.",
    "unsure": "Unsure between {a} and {b}.",
    "perhaps": "Perhaps {a}; I would not rely on it.",
    "probably": "Probably {a}.",
    "likely": "Likely {a}.",
    "very_likely": "Very likely {a}.",
    "almost_certain": "Almost certainly {a}.",
}
_PRETTY = {ord("_"): " ", **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])}  # U+202E and its like
HOW = {
    "gradient": "The warmer the colour, the more the answer rests on that part.",
    "covering": "The warmer the colour, the less sure the answer when that part is covered.",
    "words": "Green words speak for the answer, red ones against it; the stronger, the more.",
    "leaving out": "Green words are those without which the answer would be less sure.",
}


def pretty(label: str) -> str:
    """A class name as people write it: `black_swallowtail` is black swallowtail. What would turn the rest of its line
    around is left out."""
    return " ".join(label.translate(_PRETTY).split()) or label


def sentence(speak: Say, level: str, rivals: tuple[str, str]) -> str:
    """How sure, in a sentence."""
    a, b = (pretty(name) for name in rivals)
    if level == "unsure" and not b:
        level = "perhaps"
    return speak(LEVELS[level], a=a, b=b)
