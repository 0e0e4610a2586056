"""The pages in other languages: no sentence is forgotten, and none loses what it names."""

from __future__ import annotations

import ast
import gzip
import io
import re
import string
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from inflame.artifact import preprocess, seen
from inflame.errors import InflameError
from inflame.monitor import drift, inbox, told
from inflame.monitor import page as monitor
from inflame.web import chat, helped, problems, words
from inflame.web.pages import PAGES

SAID = re.compile(r"""\b(?:t|speak|say)\(\s*(?:"((?:[^"\\]|\\.)+)"|'((?:[^'\\]|\\.)+)')""")
MODULES = [Path(module.__file__) for module in (drift, told, monitor)] + [Path(monitor.__file__).parent / "charts.py"]
WEBSITE = sorted(PAGES.parent.glob("*.py"))
REASON = re.compile(r'(?:return |reason = )"([^"{]+(?:\{a\} and \{b\})?)"')


def sentences() -> set[str]:
    """Every sentence that a page says: in templates, in code, and in tables of code."""
    files = [*PAGES.glob("*.html"), *monitor.STYLE.parent.glob("*.html"), *MODULES, *WEBSITE]
    found = {one or other for file in files for one, other in SAID.findall(file.read_text(encoding="utf-8"))}
    found -= {"Hello {name}"}  # of a docstring
    assert "Who said what" in found
    assert "distance {effect}" in found
    found |= {*words.LEVELS.values(), *words.HOW.values(), *told.HEADS.values(), *told.HEADS}
    found |= {chat._ENOUGH, *chat._SUGGESTED.values(), *(reason for some in helped.REASONS.values() for reason in some)}
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


# --- what went wrong -------------------------------------------------------------------------------


def wrongs() -> Iterator[str]:
    """What every Problem of the website says, with 7 in its gaps. What it takes from elsewhere is left out."""
    for file in WEBSITE:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        kept = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
                for word in node.args[1:3]:
                    yield from filled(kept.get(word.id, word) if isinstance(word, ast.Name) else word)


def filled(word: ast.expr) -> Iterator[str]:
    if isinstance(word, ast.Constant):
        yield str(word.value)
    elif isinstance(word, ast.IfExp):
        yield from filled(word.body)
        yield from filled(word.orelse)
    elif isinstance(word, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in word.values)


@pytest.mark.parametrize("language", words.languages()[1:])
def test_every_problem_is_told(language: str) -> None:
    found = {one for one in wrongs() if one and not one.startswith("{")}  # JSON is no language
    assert {"No class was chosen.", "7 at once are too many.", "Send 7=7.", "There is nothing here."} <= found
    found |= {f"There was {what} missing." for what in ("a picture", "a text")}
    found |= {f"Choose {what} first." for what in ("a picture", "a text")}
    found |= {word for _, *said in problems._OF_REFUSALS.values() for word in said}
    say = words.say(language)
    assert {one for one in found - {"There was 7 missing.", "Choose 7 first."} if say(one) == one} == set()


def bad_files() -> dict[str, bytes]:
    file, packed = io.BytesIO(), io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "JPEG")
    zipfile.ZipFile(packed, "w").close()
    return {
        "empty": b"",
        "page": b"<!doctype html><title>Sign in</title>",
        "text": b"Dear all, here is the picture.",
        "pdf": b"%PDF-1.7\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "zip": packed.getvalue() + b"PK\x03\x04",
        "gzip": gzip.compress(b"x"),
        "program": b"\x7fELF\x02\x01",
        "cut": file.getvalue()[:400],
        "zeros": bytes(5000),
        "noise": bytes(range(128, 256)) * 20,
    }


@pytest.mark.parametrize("language", words.languages()[1:])
def test_what_a_file_is_instead_of_a_picture_is_told(language: str) -> None:
    say = words.say(language)
    for name, content in bad_files().items():
        with pytest.raises(InflameError) as refused:
            preprocess.picture(content)
        problem = problems.of(refused.value)
        assert say(problem.detail) != problem.detail, (name, problem.detail)
        assert say(problem.remedy) != problem.remedy, (name, problem.remedy)


def test_a_gap_is_filled_in_the_other_language() -> None:
    german = words.say("de")
    assert german("33 at once are too many.") == "33 auf einmal sind zu viele."
    assert german("top_k is no number from 1 to 1000.") == "top_k ist keine Zahl von 1 bis 1000."
    assert german("a{b}.jpg has more than 20.0 MB.") == "a{b}.jpg hat mehr als 20.0 MB."
    assert german("Never heard of.") == "Never heard of."
    assert words.say("en")("33 at once are too many.") == "33 at once are too many."


def test_a_visitor_is_told_in_his_language(serve: Callable[..., httpx.Client]) -> None:
    site = serve(files=2)
    spoken = {"Accept": "text/html", "Accept-Language": "de"}
    many = [("file", (f"{number}.jpg", b"no")) for number in range(3)]
    assert "3 auf einmal sind zu viele." in site.post("/", files=many, headers=spoken).text
    assert "Kein Bild" in site.post("/", files=many[:2], headers=spoken).text  # in the table
    assert "Hier ist nichts." in site.get("/nowhere", headers=spoken).text
    told = site.post("/v1/chat", json={"question": " "}, headers={"Accept-Language": "de"}).json()
    assert (told["detail"], told["code"]) == ("Es fehlt die Frage.", "bad_request")
    assert site.post("/v1/chat", json={"question": " "}).json()["detail"] == "There is no question."
    site.get("/about?lang=de")  # chosen, and remembered by a cookie
    foreign = {"Origin": "http://elsewhere.example"}  # refused before any route is found
    assert site.post("/v1/chat", headers=foreign).json()["detail"] == "Eine andere Seite darf das hier nicht."


@pytest.mark.parametrize(
    ("wanted", "accepted", "language"),
    [("", "de-AT,de;q=0.9,en;q=0.8", "de"), ("", "fr", "en"), ("en", "de", "en"), ("../x", "", "en"), ("de", "", "de")],
)
def test_the_language_is_the_visitors(wanted: str, accepted: str, language: str) -> None:
    assert words.chosen(wanted, accepted) == language


def test_a_label_turns_nothing_around_it() -> None:
    assert words.pretty("a\u202eb\u2066_c") == "ab c"
    assert words.pretty("می\u200cخواهم") == "می\u200cخواهم"  # what joins or parts letters stays
