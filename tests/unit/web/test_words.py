"""The pages in other languages: no sentence is forgotten, and none loses what it names."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from inflame.artifact import seen
from inflame.monitor import drift, inbox, told
from inflame.monitor import page as monitor
from inflame.web import words
from inflame.web.pages import PAGES

SAID = re.compile(r"""\b(?:t|speak)\(\s*(?:"((?:[^"\\]|\\.)+)"|'((?:[^'\\]|\\.)+)')""")
MODULES = [Path(module.__file__) for module in (drift, told, monitor)] + [Path(monitor.__file__).parent / "charts.py"]
REASON = re.compile(r'(?:return |reason = )"([^"{]+(?:\{a\} and \{b\})?)"')


def sentences() -> set[str]:
    """Every sentence that a page says: in templates, in code, and in tables of code."""
    files = [*PAGES.glob("*.html"), *monitor.STYLE.parent.glob("*.html"), *MODULES]
    found = {one or other for file in files for one, other in SAID.findall(file.read_text(encoding="utf-8"))}
    assert "Who said what" in found
    assert "distance {effect}" in found
    found |= {*words.LEVELS.values(), *words.HOW.values(), *told.HEADS.values(), *told.HEADS}
    found |= {one for pair in told._WORDS.values() for one in pair} | {*told._OTHERS.values(), *told._OTHERS}
    found |= {*told._WORDS, drift.COPES, drift.NEVER, drift.DISTRUST, inbox.DISAGREE}
    found |= {name for text in (False, True) for name in seen.names(text=text)}
    reasons = set(REASON.findall(Path(inbox.__file__).read_text(encoding="utf-8")))
    assert {"a second look", "quite sure", "not known to the model", "unsure between {a} and {b}"} <= reasons
    return found | reasons


@pytest.mark.parametrize("language", words.languages()[1:])
def test_every_sentence_is_said(language: str) -> None:
    assert sentences() - set(words.catalog(language)) == set()


@pytest.mark.parametrize("language", words.languages()[1:])
def test_what_a_sentence_names_is_named(language: str) -> None:
    def names(sentence: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}

    wrong = [one for one, other in words.catalog(language).items() if names(one) != names(other)]
    assert wrong == []
