"""The verb completion: what makes a shell complete verbs, options and files, and the manual page. Both are read off the
words of every verb, so they know what --help knows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from inflame.cli.show import as_json

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser

SHELLS = ("bash", "zsh", "fish", "man")
_PLACES = {"FILE", "FOLDER", "PATH", "FILE|URL", "URI"}  # metavars of options that take a file


def completion_words(parser: Parser) -> None:
    """For which shell."""
    parser.usage = "inflame completion bash|zsh|fish|man"
    parser.description = (
        "Print what makes your shell complete verbs, options and files; or the manual page. Put it where\n"
        "the shell looks, once, and open a new one."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame completion bash > ~/.local/share/bash-completion/completions/inflame\n"
        "  inflame completion zsh > ~/.zfunc/_inflame      (with fpath+=~/.zfunc before compinit)\n"
        "  inflame completion fish > ~/.config/fish/completions/inflame.fish\n"
        "  inflame completion man > ~/.local/share/man/man1/inflame.1"
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh, fish; or man: the manual page")


def completion(words: Namespace) -> int:
    """Prints the script or the page."""
    text = manual() if words.shell == "man" else script(words.shell)
    print(as_json({"shell": words.shell, "script": text}) if words.json else text)
    return 0


def script(shell: str) -> str:
    """The script for `shell`, made by shtab."""
    import shtab

    found: str = shtab.complete(_whole(), shell)
    return found


def manual() -> str:
    """The manual page inflame(1), as roff."""
    from inflame import __version__
    from inflame.cli.main import VERBS, overview, parser

    parts = [
        f'.TH INFLAME 1 "" "inflame {__version__}"',
        ".SH NAME\ninflame \\- the best picture classifier that fits into the time you have",
        ".SH SYNOPSIS\n.B inflame\nVERB [WORDS] [KEY=VALUE]",
        f".SH DESCRIPTION\n{_verbatim(overview())}",
        *(f".SH {name.upper()}\n{_verbatim(parser(name).format_help())}" for name in VERBS),
    ]
    return "\n".join(parts)


def _whole() -> argparse.ArgumentParser:
    """All verbs as one parser, as shtab wants it."""
    import shtab

    from inflame.cli.main import VERBS, parser

    whole = argparse.ArgumentParser(prog="inflame")
    verbs = whole.add_subparsers()
    for name, verb in VERBS.items():
        words = parser(name)
        for action in words._actions:
            if not action.choices and (not action.option_strings or action.metavar in _PLACES):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        verbs.add_parser(name, help=verb.line, parents=[words], add_help=False)
    return whole


def _verbatim(text: str) -> str:
    lines = (line.replace("\\", "\\e").replace("-", "\\-") for line in text.rstrip().splitlines())
    shown = "\n".join(f"\\&{line}" for line in lines)
    plain = "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in shown)
    return f".nf\n{plain}\n.fi"
