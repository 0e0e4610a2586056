"""The verbs about this machine and about your own code: doctor, new."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from inflame.cli.show import as_json, bold, table
from inflame.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser


def doctor_words(parser: Parser) -> None:
    """The place to look at, where it isn't this machine."""
    parser.usage = "inflame doctor [--on BACKEND [--machine NAME] [--output URI]]"
    parser.description = (
        "Look at this machine: what is here, what is missing, which build of torch suits it\n"
        "and the line that installs it. Changes nothing and needs no network.\n"
        "With --on, look at a place that jobs are sent to: credentials, region, quota, bucket, image, and\n"
        "the least rights that it must give, ready to paste. Starts nothing there."
    )
    parser.epilog = (
        "examples:\n  inflame doctor\n  inflame doctor --on sagemaker --machine gpu-small --output s3://bucket/inflame"
    )
    parser.add_argument("--on", metavar="BACKEND", default="", help="a place that jobs are sent to")
    parser.add_argument("--machine", metavar="NAME", default="", help="with --on: the machine that is wanted there")
    parser.add_argument("--output", metavar="URI", default="", help="with --on: where runs are to go")


def doctor(words: Namespace) -> int:
    """Prints what `machine.examine` saw; 1 when something stands in the way of every verb."""
    if words.on:
        from inflame.cli.jobs import place

        return place(words)
    from inflame.cli import machine

    findings = machine.examine()
    well = all(finding.good is not False for finding in findings)
    if words.json:
        print(as_json({"ok": well, "findings": [finding._asdict() for finding in findings]}, indent=1))
        return 0 if well else 1
    marks = {True: "ok", None: "·", False: "NOT OK"}
    print(table(("", "what", "found"), [(marks[found.good], found.what, found.found) for found in findings]))
    advice = [finding for finding in findings if finding.remedy]
    if advice:
        print("\n" + bold("to do") if not well else "\n" + bold("you may want"))
        print("\n".join(f"  {finding.what}: {finding.remedy}" for finding in advice))
    return 0 if well else 1


def new_words(parser: Parser) -> None:
    """The name, and the model to begin from."""
    parser.usage = "inflame new NAME [--like MODEL]"
    parser.description = (
        "Make a model folder of your own: app.py, train.py, score.py, net.py and model-config.toml.\n"
        "It trains at once, by itself or by `inflame train ./NAME`; every line in it is yours to change."
    )
    parser.epilog = "example:\n  inflame new my_birds && cd my_birds && python app.py train --in 60s"
    parser.add_argument("name", metavar="NAME", help="the folder to make: letters, digits, _ and -")
    parser.add_argument("--like", metavar="MODEL", default="mnist", help="the model to begin from (default: mnist)")


def new(words: Namespace) -> int:
    """Copies the folder of a model that is there, and puts the new name where the old one was."""
    from inflame import store
    from inflame.plugins import model_folder

    target = Path(words.name).expanduser().absolute()
    _check_name(target)
    source = model_folder(words.like)
    with store.atomic_folder(target) as folder:
        for file in sorted(source.iterdir()):
            if file.is_file() and file.name != "__init__.py" and not file.name.startswith("."):
                text = file.read_text(encoding="utf-8")
                text = text.replace(f"inflame train {source.name}", f"inflame train ./{target.name}")
                (folder / file.name).write_text(text, encoding="utf-8")
    files = sorted(file.name for file in target.iterdir())
    if words.json:
        print(as_json({"folder": str(target), "files": files}))
        return 0
    print(f"made   {target}: {', '.join(files)}")
    print(f"next   cd {words.name} && python app.py")
    return 0


def _check_name(target: Path) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", target.name):
        plain = re.sub(r"\W+", "_", target.name, flags=re.ASCII).strip("_0123456789") or "my_model"
        raise UserError(
            f'"{target.name}" can\'t name a model: it takes letters, digits, _ and -, and a letter first.',
            remedy=f"inflame new {plain}",
        )
    if target.exists():
        raise UserError(
            f"{target} is already there; nothing was changed.", remedy="Choose another name, or move that folder away."
        )
    parent = target.parent
    if not parent.is_dir():
        raise UserError(f"There is no folder {parent}.", where=str(parent), remedy=f"mkdir -p {parent}")
