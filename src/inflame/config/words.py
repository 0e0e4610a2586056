"""Settings given on the command line: `key=value` in Hydra's grammar.

A path is taken as it is typed, whatever characters it has. Other text falls back to the same when the grammar
refuses it. A value that asks for several runs is refused here: sweeps are a verb of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inflame.config.schema import Key, Refused
from inflame.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEY = re.compile(r"[^\W\d][\w.-]*")
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(0|[1-9][0-9]*)(?=[eE]))([eE][+-]?[0-9]+)?")
_YESNO = {"true": True, "false": False}
_QUOTED = re.compile(r"""(['"]).*\1""", re.DOTALL)
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One `key=value` as it was typed."""

    key: str
    text: str

    @property
    def where(self) -> str:
        """The place of the word, for messages."""
        return f"command line: {self.key}={self.text}"


def split(words: Iterable[str]) -> list[Word]:
    """The words as key and text. A word that isn't `key=value`: SettingError."""
    given = [_split(word) for word in words]
    # A shell makes `splits=train:0.8 splits=val:0.2` of `splits={train:0.8,val:0.2}`: put them together again.
    parts = [word.text.strip("{} ") for word in given if word.key == "splits"]
    rest = [word for word in given if word.key != "splits"]
    return [*rest, Word(key="splits", text=",".join(parts))] if parts else rest


def value(word: Word, key: Key) -> Any:
    """The value that a word gives to a key, in the key's type. A wrong one: Refused; several: SettingError."""
    text = word.text.strip()
    if key.optional and text.lower() in ("null", "none"):
        return None
    if key.kind in ("path", "duration", "fractions", "names") and not _SWEEP.fullmatch(text):
        plain = _unquoted(word)
        if key.kind == "duration" and "," in plain:
            raise _several(word)
        return key.check(_fractions(plain) if key.kind == "fractions" else plain)
    parsed, given = _parsed(word)
    if key.kind == "text":
        return key.check(given if isinstance(given, str) else text)
    if not parsed:
        raise Refused
    return key.check(given)


def _split(word: str) -> Word:
    key, equals, text = word.partition("=")
    key = key.strip()
    if not equals:
        raise SettingError(
            f'"{word}" is not a setting.', where=f"command line: {word}", remedy="Write settings as key=value."
        )
    if key.startswith(("+", "~")):
        raise SettingError(
            f'"{word}" would add or remove a setting; settings can only be given a value.',
            where=f"command line: {word}",
            remedy=f"Write {key.lstrip('+~')}={text or 'VALUE'}",
        )
    if not _KEY.fullmatch(key):
        raise SettingError(
            f'"{key}" is not the name of a setting.', where=f"command line: {word}", remedy="Write key=value."
        )
    return Word(key=key, text=text)


def _parsed(word: Word) -> tuple[bool, Any]:
    """Whether Hydra's grammar takes the word, and its value. Of plain numbers it isn't asked: it takes a tenth of a
    second to be there, and milliseconds for each word."""
    text = word.text.strip()
    if _WHOLE.fullmatch(text):
        return True, int(text)
    if _NUMBER.fullmatch(text):
        return True, float(text)
    if text.lower() in _YESNO:
        return True, _YESNO[text.lower()]
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"{word.key}={word.text}")
    except (HydraException, ValueError):
        return False, None
    if override.is_sweep_override():
        raise _several(word)
    return True, override.value()


def _unquoted(word: Word) -> str:
    if not _QUOTED.fullmatch(word.text.strip()):
        return word.text
    _, given = _parsed(word)
    return given if isinstance(given, str) else word.text


def _fractions(text: str) -> dict[str, float]:
    parts = text.strip().removeprefix("{").removesuffix("}").split(",")
    pairs = [part.partition(":") for part in parts if part.strip()]
    try:
        return {name.strip(): float(fraction) for name, _, fraction in pairs}
    except ValueError as error:
        raise Refused from error


def _several(word: Word) -> SettingError:
    return SettingError(
        f"{word.key}={word.text} asks for several values; one run takes one.",
        where=word.where,
        remedy=f"Give one value, or try them all: inflame sweep MODEL '{word.key}={word.text}'",
    )
