"""The verb look: a page to look through a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inflame.cli import places
from inflame.cli.data import embeds, progress
from inflame.cli.show import as_json

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser


def look_words(parser: Parser) -> None:
    """The data, the port, and whether a browser is opened."""
    parser.usage = "inflame look DATA [--port N] [--no-open]"
    parser.description = (
        "Look through a data set in the browser: by class, split and fault, with the nearest of each item.\n"
        "Move an item to another class or leave it out: that is noted in the home of inflame and holds from\n"
        "then on, in check and train; your files are never changed. The page is for this machine only.\n"
        "Ctrl-C ends it."
    )
    parser.epilog = "examples:\n  inflame look photos/\n  inflame look bbc-news --port 8123 --no-open"
    parser.add_argument("data", metavar="DATA", help="a folder, a zip, a table, shards, or a name")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="the port (default: any that is free)")
    parser.add_argument("--no-open", action="store_true", help="print the address and open no browser")


def look(words: Namespace) -> int:
    """Serves the page until Ctrl-C."""
    data = places.data(words.data)
    from inflame.artifact import examining
    from inflame.artifact import look as looking

    with progress("checking") as update:
        examined = examining.examine(data, progress=update, embed=embeds(""))
    server, address = looking.server(looking.Collection(examined), words.port)
    print(as_json({"address": address}) if words.json else f"open   {address}\nCtrl-C ends it", flush=True)
    if not words.no_open and not words.json:
        import webbrowser

        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        server.server_close()
    return 0
