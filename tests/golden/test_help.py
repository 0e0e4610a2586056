"""The help of every verb is what docs/cli.md says: nobody changes a word that users type without seeing it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from inflame.cli.main import JOURNEY, VERBS, overview, parser

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


def test_cli_md(golden: Callable[[Path, str], None]) -> None:
    parts = ["# The words of inflame\n\nWritten by `make docs`; a test keeps it true.\n", _block(overview())]
    for title, verbs in JOURNEY.items():
        parts.append(f"## {title}\n")
        parts += [f"### {name}\n\n{_block(parser(name).format_help())}" for name in verbs]
    golden(DOCS / "cli.md", "\n".join(parts))


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_teaches(name: str) -> None:
    found = parser(name)
    text = found.format_help()
    assert f"  inflame {name}" in text.partition("example")[2], "an example that can be typed"
    assert "--json" in text
    assert "--debug" in text
    assert all(action.help for action in found._actions)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("name", ["", *VERBS])
def test_help_is_as_wide_as_the_terminal(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = parser(name).format_help() if name else overview()
    for line in text.splitlines():
        words = re.findall(r"'[^']*'|\"[^\"]*\"|\S+", line.removesuffix(" \\"))
        assert len(line) <= columns or len(words) == 1, "only what can't be broken stands out"
    monkeypatch.setenv("COLUMNS", "1000")
    wide = parser(name).format_help() if name else overview()
    assert _letters(text) == _letters(wide), "nothing is left out"


def _letters(text: str) -> str:
    """Without the spaces and the backslashes that breaking lines brings."""
    return re.sub(r" \\\n|\s", "", text)


def test_the_overview_fits_a_screen() -> None:
    lines = overview().splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 110
    assert all(f"inflame {name}" in overview() for name in VERBS)


def _block(text: str) -> str:
    return f"```\n{text.rstrip()}\n```\n"
