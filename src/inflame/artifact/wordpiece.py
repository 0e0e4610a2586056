"""Texts as the pieces of words that BERT's family reads (Devlin et al., 2019; the uncased and cased vocabularies)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

START, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"

_LONGEST = 100  # signs of a word; what is longer is unknown
# Words, single punctuation marks, and single Chinese characters, which are words of their own.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffd]")
_TOKEN = re.compile(rf"[{_HAN}]|(?:(?![{_HAN}])[^\W_])+|[^\w\s]|_")


def pieces(text: str, known: Mapping[str, int], *, small: bool, longest: int) -> list[str]:
    """The pieces of a text, `longest` at most, between the start and the end sign. `known`: the vocabulary; `small`:
    in small letters and without accents. A piece within a word begins with ##; a word without pieces is unknown."""
    found: list[str] = []
    for word in _words(text, small=small):
        if len(found) >= longest - 2:
            break
        found += _divided(word, known)
    return [START, *found[: longest - 2], END]


def _words(text: str, *, small: bool) -> list[str]:
    text = _HIDDEN.sub("", text)
    if small and not text.isascii():
        plain = unicodedata.normalize("NFD", text.lower())
        text = "".join(sign for sign in plain if unicodedata.category(sign) != "Mn")
    return _TOKEN.findall(text.lower() if small else unicodedata.normalize("NFC", text))


def _divided(word: str, known: Mapping[str, int]) -> list[str]:
    """The longest piece that fits, again and again."""
    if word in known:
        return [word]
    found, start = [], 0
    while start < len(word) <= _LONGEST:
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in known:
                found.append(piece)
                start = end
                break
        else:
            return [UNKNOWN]
    return found or [UNKNOWN]
