"""The verb inbox: people name what a model was asked, and the data grows by it."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame.cli import growing
from inflame.cli.predict import bundle_of
from inflame.cli.show import as_json, bold, table
from inflame.errors import DataError, UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.model.engine.predictor import Predictor
    from inflame.monitor.inbox import Candidate
    from inflame.monitor.log import Log
    from inflame.records import Dataset

_ACTS = ("look", "list", "say", "undo", "show", "accept")
_KEYS = (
    "1–9 the class · Enter: the first · 0 none of them · or its name · +NAME something else · s skip · u undo · q end"
)
_WIDE, _HIGH = 56, 30  # of a picture in the terminal: columns, and half lines
_LISTED = 20


def inbox_words(parser: Parser) -> None:
    """What to do, as whom, with which model."""
    parser.usage = "inflame inbox [look|list|say ANSWER CLASS|undo|show ANSWER FILE|accept] [--as NAME]"
    parser.description = (
        "What a model was asked and people should see: where it was unsure, what is unlike its training,\n"
        "what visitors say is wrong, and some chosen at random, which give an honest accuracy. Only what was\n"
        "kept by consent can be shown. Several people may look; where they disagree the majority counts.\n"
        "What is none of the classes gets a name: +NAME. It is kept aside until there is enough of it.\n"
        "accept makes the next version of the data of what is agreed on: nothing goes to the test split\n"
        "(unless --test), nothing that is nearly in it is learned, and a quarter is kept apart for\n"
        "inflame monitor retrain to compare models by. The same in the browser: /review of inflame serve."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame inbox                                    one after the other, keys 1 to 9\n"
        "  inflame inbox list --json\n"
        "  inflame inbox say 4f1c0a… monarch --as ann\n"
        '  inflame inbox say 4f1c0a… "+red admiral"         something that the model has no class for\n'
        "  inflame inbox accept                             then: inflame train FOLDER"
    )
    add = parser.add_argument
    add("what", nargs="*", metavar="WORD", help="look (default), list, say, undo, show or accept, and its words")
    add("--model", metavar="RUN", help="a run, its bundle or a champion's name (default: the last run)")
    add("--as", dest="who", metavar="NAME", default="", help="who speaks (default: your name on this machine)")
    add("--log", metavar="URI", default="", help="the log: a file or postgresql://… (default: in the home)")
    add("--comment", metavar="TEXT", default="", help="say: a remark that is kept with it")
    add("--test", action="store_true", help="accept: new items may go to the test split as well")
    add("--new-classes", action="store_true", help="accept: what was named often enough becomes a class")


def inbox(words: Namespace) -> int:
    """Does what is asked."""
    does, rest = (words.what[0], words.what[1:]) if words.what else ("look", [])
    if does not in _ACTS:
        raise UserError(
            f'inflame inbox can\'t "{does}".{did_you_mean(does, _ACTS)}', remedy=f"One of: {', '.join(_ACTS)}"
        )
    wanted = {"say": ("ANSWER", "CLASS"), "show": ("ANSWER", "FILE")}.get(does, ())
    if len(rest) != len(wanted):
        raise UserError(
            f"inflame inbox {does} takes {' and '.join(wanted) or 'no further word'}, and got {len(rest)} words.",
            remedy=f"inflame inbox {' '.join((does, *wanted))}",
        )
    acts = {"look": _look, "list": _list, "undo": _undo, "accept": _accept}
    if does == "say":
        return _say(words, *rest)
    return _show(words, *rest) if does == "show" else acts[does](words)


# --- looking ---------------------------------------------------------------------------------------------------


def _look(words: Namespace) -> int:
    """One after the other, until none is left, or the end of what is typed."""
    from inflame.monitor import inbox as box

    log, who = log_of(words), _who(words)
    predictor = predictor_of(words.model)
    waiting = _waiting(log, predictor, who, kept=True)
    print(f"{len(waiting)} to look at, you are {who}. {_KEYS}", file=sys.stderr)
    place, said = 0, 0
    while place < len(waiting):
        one = waiting[place]
        _present(log, predictor, one, place, len(waiting))
        word = _typed()
        if word in (None, "q"):
            break
        if word == "u":
            taken = box.undo(log, who)
            places = [at for at, other in enumerate(waiting) if taken and other.entry.id == taken.answer]
            place, said = (places[0] if places else place), said - bool(taken)
            print(f"taken back: {taken.label or 'none of them'}" if taken else "there is nothing to take back")
            continue
        place, said = _answered(log, predictor, one, word or "1", who, place, said)
    agreed = len(box.labels(log).accepted)
    if words.json:
        print(as_json({"said": said, "left": len(waiting) - place, "agreed": agreed}))
    else:
        print(f"you said {said}; {agreed} inputs are agreed on; {len(waiting) - place} are left")
        print("next     inflame inbox accept   or   inflame monitor retrain")
    return 0


def _answered(
    log: Log, predictor: Predictor, one: Candidate, word: str, who: str, place: int, said: int
) -> tuple[int, int]:
    """Where to go on, and how much was said, after what was typed about one."""
    from inflame.monitor import inbox as box

    if word == "s":
        box.skip(log, one.entry.id, who)
        return place + 1, said
    try:
        label, new = _meant(word, _ordered(predictor, one))
        box.say(log, one.entry.id, label, who, new=new)
    except UserError as error:
        print(error.explain(), file=sys.stderr)
        return place, said
    return place + 1, said + 1


def _meant(word: str, classes: Sequence[str]) -> tuple[str, bool]:
    """The class that a key or a name means, "" for none of them; and whether the name is new. Else UserError."""
    if word == "0":
        return "", False
    if word in classes:
        return word, False
    if word.startswith("+"):
        return word[1:], True
    if word.isascii() and word.isdigit() and 1 <= int(word[:3]) <= min(9, len(classes)):
        return classes[int(word) - 1], False
    raise UserError(f'"{word[:40]}" is no class.{did_you_mean(word[:40], classes)}', remedy=_KEYS)


def _ordered(predictor: Predictor, one: Candidate) -> list[str]:
    """The classes, the likeliest first."""
    shares = one.entry.probabilities.tolist()
    if len(shares) != len(predictor.classes):
        return list(predictor.classes)
    return [predictor.classes[row] for row in sorted(range(len(shares)), key=lambda row: -shares[row])]


def _present(log: Log, predictor: Predictor, one: Candidate, place: int, count: int) -> None:
    from inflame.records import TextPreprocess

    content = log.kept(one.entry.input) or b""
    print(f"\n{bold(f'{place + 1} of {count}')}  {one.entry.id[:8]}  {one.why}")
    if isinstance(predictor.preprocess, TextPreprocess):
        print(f"  {' '.join(content.decode(errors='replace').split())[:600]}")
    else:
        print("\n".join(_drawn(content)))
    shares = dict(zip(predictor.classes, one.entry.probabilities.tolist(), strict=False))
    for key, name in enumerate(_ordered(predictor, one)[:9], 1):
        print(f"  {key}  {name}  {shares.get(name, 0.0):.0%}")


def _drawn(content: bytes) -> Iterator[str]:
    """A picture in half blocks of colour where the terminal can show them; else how to see it."""
    from inflame.artifact import preprocess
    from inflame.errors import InflameError

    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        yield "  (a picture; inflame inbox show ANSWER FILE writes it, /review shows it)"
        return
    try:
        image = preprocess.picture(content).convert("RGB")
    except InflameError as error:
        yield f"  {error.message}"
        return
    wide = min(_WIDE, round(_HIGH * image.width / image.height))
    image = image.resize((max(1, wide), max(2, 2 * round(wide * image.height / image.width / 2))))
    pixels = list(image.tobytes())
    row = 3 * image.width
    for top in range(0, len(pixels), 2 * row):
        cells = (pixels[at : at + 3] + pixels[at + row : at + row + 3] for at in range(top, top + row, 3))
        yield "  " + "".join("\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀".format(*cell) for cell in cells) + "\x1b[0m"


def _typed() -> str | None:
    print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


# --- one at a time ---------------------------------------------------------------------------------------------


def _list(words: Namespace) -> int:
    from inflame.monitor import inbox as box

    log, predictor = log_of(words), predictor_of(words.model)
    every = _waiting(log, predictor, _who(words), kept=False)
    held = log.held([one.entry.input for one in every])
    labels = box.labels(log)
    if words.json:
        waiting = [{**one.to_json(), "kept": one.entry.input in held} for one in every]
        disputed = [
            {"answer": entry.id, "said": [vote.to_json() for vote in votes]} for entry, votes in labels.disputed
        ]
        found = {"waiting": waiting, "agreed": len(labels.accepted), "disputed": disputed, "new": box.named(log)}
        print(as_json(found))
        return 0
    seen = [one for one in every if one.entry.input in held]
    print(f"{len(seen)} to look at; {len(every) - len(seen)} more were not kept, so nobody can see them")
    if seen:
        rows = [
            [one.entry.id, one.entry.label, f"{one.entry.probability:.2f}", one.why, _day(one.entry.time)]
            for one in seen[:_LISTED]
        ]
        print(table(("answer", "the model said", "", "why", "when"), rows))
    for entry, votes in labels.disputed:
        told = ", ".join(f"{vote.who}: {vote.label or 'none of them'}" for vote in votes)
        print(f"disagreement  {entry.id[:8]}  {told}")
    growing.tell_new(box.newcomers(log, predictor.classes))
    print(f"agreed   {len(labels.accepted)} inputs   next: inflame inbox accept")
    return 0


def _say(words: Namespace, answer: str, label: str) -> int:
    from inflame.monitor import inbox as box

    log, new = log_of(words), label.startswith("+")
    told = label[1:] if new else label if label != "none" else ""
    said = box.say(log, _whole(log, answer), told, _who(words), words.comment, new=new)
    print(as_json(said.to_json()) if words.json else f"kept     {said.who}: {said.label or 'none of the classes'}")
    return 0


def _undo(words: Namespace) -> int:
    from inflame.monitor import inbox as box

    taken = box.undo(log_of(words), _who(words))
    if taken is None:
        raise UserError("There is nothing to take back.", where=_who(words), remedy="Say who spoke: --as NAME")
    print(as_json(taken.to_json()) if words.json else f"taken back: {taken.answer[:8]} {taken.label or 'none of them'}")
    return 0


def _show(words: Namespace, answer: str, file: str) -> int:
    from inflame import store

    log = log_of(words)
    entry = log.find(_whole(log, answer))
    content = log.kept(entry.input) if entry is not None else None
    if content is None:
        raise UserError(
            "What the answer is about was not kept." if entry else "There is no such answer in the log.",
            where=answer[:64],
            remedy="inflame inbox list names those that can be seen.",
        )
    store.write(file, content)
    print(as_json({"file": file, "bytes": len(content)}) if words.json else f"wrote    {file}")
    return 0


def _whole(log: Log, answer: str) -> str:
    """The answer whose name begins so. None, or several: UserError."""
    beginning = answer.rstrip("…")
    if len(beginning) < 4 or not beginning.isalnum():
        raise UserError(f'"{answer[:40]}" names no answer.', remedy="inflame inbox list")
    found = [row[0] for row in log.query("SELECT id FROM predictions WHERE id LIKE ? LIMIT 2", [f"{beginning}%"])]
    if len(found) == 1:
        return str(found[0])
    raise UserError(
        f"{len(found) and 'Several'} answers begin so." if found else "There is no such answer in the log.",
        where=answer[:64],
        remedy="Give more of its name: inflame inbox list --json",
    )


# --- the data grows --------------------------------------------------------------------------------------------


def _accept(words: Namespace) -> int:
    log, dataset = log_of(words), dataset_of(words.model)
    new = growing.chosen(log, dataset.classes) if words.new_classes else ()
    made, facts = growing.grown(log, dataset, new=new, test=words.test, quiet=words.json)
    if words.json:
        print(as_json({**made.to_json(), **facts, "named": growing.left(log, dataset.classes, new)}))
        return 0
    growing.tell(made, facts)
    growing.tell_new(growing.left(log, dataset.classes, new))
    print(f"next     inflame train {made.folder}   or   inflame monitor retrain")
    return 0


# --- what all need ---------------------------------------------------------------------------------------------


def log_of(words: Namespace) -> Log:
    """The log that the words mean."""
    from inflame.monitor.log import Log

    return Log(words.log, patience=10.0)


def predictor_of(name: str | None) -> Predictor:
    """The model that the word means."""
    from inflame.model.engine.predictor import Predictor

    return Predictor(bundle_of(name))


def run_of(name: str | None) -> Path:
    """The folder of the run that made a model, also of a champion. Gone, or only its bundle is here: DataError."""
    place = bundle_of(name).parent
    if (place / "run.json").is_file():
        place = Path(json.loads((place / "run.json").read_text(encoding="utf-8"))["folder"])
    if not (place / "dataset.json").is_file():
        raise DataError(
            "The data that the model was made from is not known here.",
            where=str(place),
            remedy="Name a run, not a copy of its bundle: inflame runs",
        )
    return place


def dataset_of(name: str | None) -> Dataset:
    """The data that the model was made from."""
    from inflame.artifact import manifest

    return manifest.load(run_of(name))


def _waiting(log: Log, predictor: Predictor, who: str, *, kept: bool) -> list[Candidate]:
    from inflame.monitor import gather
    from inflame.monitor import inbox as box

    return box.waiting(log, predictor.version, who, gather.expected_of(predictor.expected), kept=kept)


def _who(words: Namespace) -> str:
    from inflame.monitor import inbox as box

    try:
        user = words.who or getpass.getuser()
    except (OSError, KeyError):
        user = ""
    return box.reviewer(user)


def _day(when: float) -> Any:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M")
