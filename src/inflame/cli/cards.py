"""The verb cards: what the chat of the website knows about a class is written by people, and begins here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from inflame import store
from inflame.cli.show import as_json
from inflame.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser

ACTS = ("new",)


def cards_words(parser: Parser) -> None:
    """What to do, about which classes."""
    parser.usage = "inflame cards new CLASS… [--folder FOLDER]"
    parser.description = (
        "Write a card for each CLASS: what the chat of the website may say about it, to be filled in by you,\n"
        "one sentence a line with its source. A class that inflame has a card about begins with that. The\n"
        "chat quotes cards and nothing else. A card that is there already is never written over."
    )
    parser.epilog = (
        "examples:\n"
        '  inflame cards new monarch "red admiral"\n'
        "  inflame cards new oak birch --folder trees\n"
        "  inflame serve --cards cards"
    )
    parser.add_argument("act", metavar="new", help="what to do: new")
    parser.add_argument("classes", nargs="*", metavar="CLASS", help="the classes, as the model names them")
    parser.add_argument("--folder", default="cards", metavar="FOLDER", help="where to (default: cards)")


def cards(words: Namespace) -> int:
    """Writes all or, where one is there already, none."""
    from inflame.web import cards as knowledge

    if words.act not in ACTS:
        raise UserError(
            f'"{words.act}" is nothing that can be done with cards.{did_you_mean(words.act, ACTS)}',
            remedy="inflame cards new CLASS",
        )
    names = list(dict.fromkeys(" ".join(name.split()) for name in words.classes))
    if not any(names):
        raise UserError("There is no class to write about.", remedy="inflame cards new CLASS, as the model names it")
    folder = Path(words.folder).expanduser()
    wanted = {name: folder / _file(name) for name in names}
    for name, path in wanted.items():
        _free(name, path, list(wanted.values()))
    store.make_folder(folder)
    written = []
    for name, path in wanted.items():
        text = knowledge.built_in(name)
        if not store.create(path, text or knowledge.blank(name)):
            raise _there(path)  # since a moment ago
        written.append({"class": name, "file": str(path), "begins": "built-in card" if text else "empty"})
    print(as_json({"cards": written}) if words.json else _told(written, words.folder))
    return 0


def _told(written: list[dict[str, str]], folder: str) -> str:
    lines = [f"{one['file']}  {one['begins']}" for one in written]
    return "\n".join([*lines, f"next: write into them, then  inflame serve --cards {folder}"])


def _file(name: str) -> str:
    """The name of the file of a class: no letter of it that could lead elsewhere."""
    plain = re.sub(r"[^\w-]+", "_", name.lower()).strip("_")
    if not plain:
        raise UserError(f'"{name}" is no name of a class.', remedy="Give it as the model names it.")
    return f"{plain}.md"


def _free(name: str, path: Path, all_of_them: list[Path]) -> None:
    if all_of_them.count(path) > 1:
        raise UserError(
            f'Another class would have the same file as "{name}".', where=str(path), remedy="Leave one out."
        )
    from inflame.web.cards import SUFFIXES

    for suffix in SUFFIXES:
        if path.with_suffix(suffix).exists():
            raise _there(path.with_suffix(suffix))


def _there(path: Path) -> UserError:
    return UserError(
        "This card is there already, and nothing was written.", where=str(path), remedy="Edit it, or move it away."
    )
