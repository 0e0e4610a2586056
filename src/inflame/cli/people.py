"""The verb people: who may sign in to a website by name and password."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inflame import store
from inflame.cli.show import as_json
from inflame.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser

ACTS = ("list", "add", "remove")


def people_words(parser: Parser) -> None:
    """What to do, with whom."""
    parser.usage = "inflame people [list | add NAME | remove NAME] [--file FILE]"
    parser.description = (
        "Who may sign in to a website as its owner, by name and password: `inflame serve --people FILE`.\n"
        "add asks for the password, or takes a line of standard input; somebody who is there already gets\n"
        "another one. The file keeps what scrypt makes of it, for your eyes only. A site sees a change at\n"
        "once: whoever was taken out, or has another password, is signed out."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame people add anna\n"
        "  openssl rand -base64 18 | tee /dev/stderr | inflame people add anna --file people\n"
        "  inflame serve --people ~/.inflame/people\n"
        "  inflame people remove anna"
    )
    parser.add_argument("act", nargs="?", default="list", metavar="ACT", help="list (default), add or remove")
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="of whom")
    parser.add_argument("--file", metavar="FILE", help="the file (default: people, in the home of inflame)")


def people(words: Namespace) -> int:
    """Tells them, or changes one."""
    from inflame.web import people as kept

    if words.act not in ACTS:
        raise UserError(
            f'"{words.act}" is nothing that can be done with people.{did_you_mean(words.act, ACTS)}',
            remedy="inflame people add NAME",
        )
    if (words.act == "list") == bool(words.name):
        raise UserError("Say whom." if words.act != "list" else "All are listed.", remedy="inflame people --help")
    file = Path(words.file).expanduser() if words.file else store.home() / "people"
    if words.act == "add":
        name = kept.named(words.name)
        hashed = kept.Hash.of(_password(name))  # before anybody waits for it
        with kept.changed(file) as found:
            found[name] = hashed
    elif words.act == "remove":
        with kept.changed(file) as found:
            if found.pop(words.name, None) is None:
                raise UserError(
                    f'"{words.name}" is not in it.{did_you_mean(words.name, found)}',
                    where=str(file),
                    remedy="inflame people",
                )
    names = sorted(kept.read(file)) if file.exists() else []
    if words.json:
        print(as_json({"file": str(file), "people": names}))
        return 0
    print("\n".join(names) if names else "nobody")
    if words.act == "add":
        print(f"next: inflame serve --people {file}", file=sys.stderr)
    return 0


def _password(name: str) -> str:
    """What is typed, twice and unseen; or a line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    import getpass

    once, again = getpass.getpass(f"password of {name}: "), getpass.getpass("once more: ")
    if once != again:
        raise UserError("These are two passwords.", remedy=f"inflame people add {name}")
    return once
