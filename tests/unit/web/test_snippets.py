"""The lines of code below an answer: whoever runs them asks the same model about the same thing, and is told the same.
JavaScript runs in a browser: tests/e2e/test_web_code.py."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from inflame.web import snippets

Serve = Callable[..., httpx.Client]
PAGE = {"Accept": "text/html", "X-Part": "1"}
LANGUAGES = ("curl", "Python") if shutil.which("curl") else ("Python",)
NAMES = (
    "lime.jpg",
    "it's a lime;type=x,\\ $(touch pwned) `x` <b>.jpg",
    "-o pwned.jpg",
    "Grüße 🍋.jpg",
)
TEXTS = {
    "money": 'The bank\'s loan: "profit" $(touch pwned) `x` \\ <b>\nEND\n\u202e share 🏦',
    "sport": "goal team coach " * 9_000,  # no command line holds it
}


@pytest.fixture
def site(serve: Serve, fruit_bundle: Path, letters_bundle: Path) -> httpx.Client:
    """A site of two models; the fruit are not the first."""
    return serve({"letters": letters_bundle, "fruit": fruit_bundle})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the lines are run; empty."""
    made = tmp_path / "folder"
    made.mkdir()
    return made


def shown(page: str) -> tuple[str, dict[str, str]]:
    """The label of the answer of a page, and its lines of code."""
    label = re.search(r'data-label="([^"]*)"', page)
    assert label is not None, page
    found = re.findall(r"<h3>(curl|Python|JavaScript)</h3><pre[^>]*><code>(.*?)</code>", page, re.DOTALL)
    return html.unescape(label[1]), {language: html.unescape(code) for language, code in found}


def said(language: str, code: str, folder: Path) -> str:
    """What running it in that folder says: the label."""
    file = folder.parent / language
    file.write_text(code)
    program = ["bash", "-eu", "-o", "pipefail"] if language == "curl" else [sys.executable]
    done = subprocess.run([*program, str(file)], cwd=folder, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, (code, done.stderr)
    found = re.search(r'"label":\s*"(\w+)"' if language == "curl" else r"^(\w+) [01]\.\d+", done.stdout)
    assert found is not None, (code, done.stdout)
    return found[1]


def test_a_picture_is_asked_about_again_whatever_its_name(site: httpx.Client, photo_set: Path, folder: Path) -> None:
    content = (photo_set / "lime" / "lime_10.jpg").read_bytes()
    quoted = 'a "lime".jpg'  # which a form writes otherwise
    for name in (*NAMES, quoted):
        (folder / name).write_bytes(content)
        page = site.post("/?model=fruit", files={"file": (name, content)}, headers=PAGE).text
        label, code = shown(page)
        assert label == "lime"
        if name == quoted:
            code = dict(snippets.of_picture(str(site.base_url).rstrip("/"), "fruit", name))
        for language in LANGUAGES:
            assert said(language, code[language], folder) == label
    assert sorted(path.name for path in folder.iterdir()) == sorted((*NAMES, quoted))


def test_an_example_is_fetched_from_the_site(site: httpx.Client, folder: Path) -> None:
    for number in ("0", "1"):
        label, code = shown(site.post("/?model=fruit", files={"example": (None, number)}, headers=PAGE).text)
        for language in LANGUAGES:
            assert said(language, code[language], folder) == label
    assert list(folder.iterdir()) == []


def test_a_text_stands_in_the_lines(site: httpx.Client, folder: Path) -> None:
    for wanted, text in TEXTS.items():
        label, code = shown(site.post("/?model=letters", data={"text": text}, headers=PAGE).text)
        assert label == wanted
        for language in LANGUAGES:
            assert said(language, code[language], folder) == label
    assert list(folder.iterdir()) == []


def test_the_page_for_code_asks_each_model_as_it_wants_to_be_asked(
    site: httpx.Client, folder: Path, apple: bytes
) -> None:
    page = html.unescape(site.get("/docs").text)
    (folder / "photo.jpg").write_bytes(apple)
    lines = page[page.index("<code>curl") + 6 : page.index("# &explain")]
    assert lines.count("texts") == 1
    if "curl" in LANGUAGES:
        done = subprocess.run(["bash", "-ceu", lines], cwd=folder, capture_output=True, text=True)
        assert re.findall(r'"model":"(\w+)"', done.stdout) == ["letters", "fruit"], done.stderr


def test_what_turns_a_line_around_is_written_as_a_number() -> None:
    codes = [code for _, code in snippets.of_text("http://x", "m", "a\u202eb\0\ud800")]
    assert all(code.isascii() and r"a\u202eb" in code for code in codes)


def test_a_proxy_says_whether_it_speaks_tls(serve: Serve, apple: bytes) -> None:
    """As a share's link, the lines of code name the address that the visitor has."""
    heads = {**PAGE, "X-Forwarded-Proto": "https"}
    for settings, scheme in (({"proxy": True, "token": "0123456789abcdef"}, "https"), ({}, "http")):
        page = serve(**settings).post("/", files={"file": ("a.jpg", apple)}, headers=heads)
        assert f"'{scheme}://127.0.0.1:" in shown(page.text)[1]["curl"]
