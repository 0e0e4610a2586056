"""Every command in the guides is one that inflame understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from inflame.cli.main import parser

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = sorted(path for path in DOCS.rglob("*.md") if path.name not in ("cli.md", "reference.md"))


def _commands() -> list[str]:
    texts = [path.read_text(encoding="utf-8") for path in GUIDES]
    blocks = [block for text in texts for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("inflame ")]
    return sorted({re.split(r"\s{3,}|\s[>|&#]", line)[0] for line in lines})


@pytest.mark.parametrize("command", _commands())
def test_a_command_of_the_guides(command: str) -> None:
    _, verb, *words = shlex.split(command)
    parser(verb).understand([word for word in words if word != "…"])


def test_there_are_commands() -> None:
    assert len(_commands()) > 15
