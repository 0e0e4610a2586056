"""`inflame VERB …`: finds the verb, imports its module, and tells people what went wrong.

The module of a verb has two functions for it: `VERB_words(parser)` says which words it takes, `VERB(words)` does
it and returns the exit code. This module imports next to nothing, because `inflame --help` must be there at once.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from inflame.errors import InflameError, MissingExtra, UserError, did_you_mean, nearest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from inflame.cli.words import Parser


class Verb(NamedTuple):
    """One verb of the command line: the module of `inflame.cli` that has it, and the line about it."""

    module: str
    words: str
    line: str


JOURNEY: dict[str, dict[str, Verb]] = {
    "your data": {
        "get": Verb("data", "NAME", "fetch a named data set (without NAME: list them)"),
        "check": Verb("data", "DATA", "find its faults, one by one, with a page of pictures"),
        "look": Verb("look", "DATA", "look through it in the browser, item by item"),
        "shard": Verb("shard", "DATA TARGET", "write it as few large files: TFRecord, WebDataset, Parquet"),
        "split": Verb("data", "DATA", "see who is in train, val and test; nothing is copied"),
        "version": Verb("version", "[DATA]", "keep what it is now; compare, push, pull, bring back"),
    },
    "a model": {
        "train": Verb("train", "DATA|MODEL", "check, split, train, test, report: in the time you give"),
        "predict": Verb("predict", "FILE…", "name what is on pictures, with the last model"),
        "report": Verb("runs", "[RUN]", "the page about a run: how good, where wrong, which faults"),
        "export": Verb("export", "[RUN]", "write it as ONNX, torch, Keras, int8 or a page for browsers"),
        "serve": Verb("web", "[RUN…]", "a website of it, with an API and a chat; offline, without torch"),
        "runs": Verb("runs", "", "all runs, newest first"),
    },
    "many runs": {
        "sweep": Verb("factory", "MODEL|DATA", "try many settings in the time you give; stop the hopeless"),
        "ablate": Verb("factory", "MODEL|DATA", "which parts of a recipe earn their place"),
        "board": Verb("board", "[WHERE…]", "rank them; who can't be told apart shares a rank"),
        "compare": Verb("board", "A B", "is B better? by how much, how sure, on which items"),
        "why": Verb("board", "SWEEP", "which of its settings mattered, on a page to play with"),
        "promote": Verb("champions", "[RUN]", "make it the champion of a name, if it is better"),
        "rollback": Verb("champions", "NAME", "the champion of before serves again"),
    },
    "any machine": {
        "rehearse": Verb("jobs", "MODEL|DATA", "what would fail on another machine fails here first"),
        "launch": Verb("jobs", "MODEL|DATA", "train on another machine with the same words"),
        "jobs": Verb("jobs", "[ACT] [JOB]", "what became of what was sent; logs, stop, fetch, wait"),
    },
    "after deployment": {
        "monitor": Verb("monitor", "[FOLDER]", "has the world moved on? how good are the answers still?"),
        "inbox": Verb("inbox", "", "name what the model was asked; the data grows by it"),
        "cards": Verb("cards", "new CLASS…", "write what the chat of the website knows about a class"),
        "people": Verb("people", "[ACT] [NAME]", "who may sign in to the website by name and password"),
    },
    "your own code and machine": {
        "new": Verb("project", "NAME", "make a project of your own that trains at once"),
        "eject": Verb("project", "[RUN] [FOLDER]", "write what a run found out as a project of your own"),
        "upgrade": Verb("project", "[FOLDER]", "bring in what a later inflame would write there"),
        "doctor": Verb("project", "[--on PLACE]", "what is here, what is missing, which torch to take"),
        "completion": Verb("completion", "SHELL", "verbs and options by the Tab key; the manual page"),
    },
}
VERBS: dict[str, Verb] = {name: verb for verbs in JOURNEY.values() for name, verb in verbs.items()}

_OPENING = """\
inflame: say how long you have; get the best picture classifier that fits, and the truth about it.

  inflame train photos/ --in 60s      photos/ has one folder of pictures per class
  inflame predict new.jpg             {"label": "turkey", "probability": "0.7779676"}
"""
_CLOSING = """\
Settings are words: inflame train mnist seed=1. Each verb has --help, --json, --debug for errors.
Exit codes: 0 done, 1 failed, 2 your input, 130 interrupted. Stopped? The same command goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the words say. Returns the exit code: 0 done, 1 failed, 2 your input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    _speak_any_name()
    try:
        code = _obey(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # `inflame … | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if "--debug" in words:
            _traceback()
        error = _known(error)
        print(_story(error), file=sys.stderr)
        if "--json" in words:
            _tell_program(error)
        return error.code if isinstance(error, InflameError) else 1
    return code


def overview() -> str:
    """The text of `inflame --help`, as wide as the terminal is."""
    from inflame.cli import layout

    lines = [_OPENING]
    for title, verbs in JOURNEY.items():
        lines.append(f"{title}:")
        lines += [f"  inflame {f'{name} {verb.words}':<22} {verb.line}" for name, verb in verbs.items()]
        lines.append("")
    return layout.fitted("\n".join([*lines, _CLOSING]), layout.width())


def parser(name: str) -> Parser:
    """The words that the verb takes, as argparse knows them."""
    from inflame.cli.words import Parser

    found = Parser(prog=f"inflame {name}")
    getattr(_module(name), f"{name}_words")(found)
    found.add_argument("--json", action="store_true", help="print JSON, for programs")
    found.add_argument("--debug", action="store_true", help="show where an error comes from")
    return found


def _obey(words: list[str]) -> int:
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(overview(), end="")
        return 0
    if words[0] in ("--version", "-V"):
        words = ["version", *words[1:]]
    if words[0] not in VERBS:
        raise _no_such_verb(words[0])
    try:
        given = parser(words[0]).understand(words[1:])
    except SystemExit as done:  # argparse has printed the help
        return int(done.code or 0)
    act: Callable[[argparse.Namespace], int] = getattr(_module(words[0]), words[0])
    return act(given)


def _module(name: str) -> object:
    from importlib import import_module

    return import_module(f"inflame.cli.{VERBS[name].module}")


def _no_such_verb(word: str) -> UserError:
    if word.startswith("-"):
        return UserError(f"{word} must come after a verb.", remedy="inflame --help")
    if nearest(word, VERBS) is None and os.path.exists(word):  # noqa: PTH110 - pathlib takes its time to load
        return UserError(f'"{word}" is not a verb but a path.', remedy=f"inflame train {word}")
    guess = nearest(word, VERBS)
    remedy = f"inflame {guess} --help" if guess else "inflame --help"
    return UserError(f'There is no verb "{word}".{did_you_mean(word, VERBS)}', remedy=remedy)


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _known(error: Exception) -> Exception:
    """The error that it is about: what reads data sets needs pyarrow from its first line on."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "pyarrow":
        return MissingExtra("Data sets need the package pyarrow, which isn't installed.", extra="data")
    return error


def _story(error: Exception) -> str:
    if isinstance(error, InflameError):
        return error.explain()
    if isinstance(error, OSError) and error.filename:
        from inflame.store import storage_error

        return storage_error(error, str(error.filename)).explain()
    return (
        f"error: {type(error).__name__}: {error}\n  This is a mistake in inflame, not yours.\n"
        "  do: Give the same command with --debug, and report what it prints."
    )


def _tell_program(error: Exception) -> None:
    from inflame.cli.show import as_json

    told = (
        error.to_json()
        if isinstance(error, InflameError)
        else {"error": f"{type(error).__name__}: {error}", "where": "", "remedy": "--debug"}
    )
    print(as_json(told), flush=True)


def _speak_any_name() -> None:
    """A file name may hold bytes that are no text, and a terminal may know few letters: neither may stop a verb."""
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", None) or "").lower()
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape" if encoding == "utf-8" else "replace")
