"""The verbs about this machine and about your own code: doctor, new, eject, upgrade."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from inflame.cli import show
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
    print(show.findings([(marks[one.good], one.what, one.found) for one in findings]))
    advice = [finding for finding in findings if finding.remedy]
    if advice:
        print("\n" + bold("to do") if not well else "\n" + bold("you may want"))
        print("\n".join(f"  {finding.what}: {finding.remedy}" for finding in advice))
    return 0 if well else 1


def new_words(parser: Parser) -> None:
    """The name, and the model to begin from."""
    parser.usage = "inflame new NAME [--like MODEL] [--bare]"
    parser.description = (
        "Make a project of your own: a model folder (app.py, train.py, score.py, net.py, model-config.toml)\n"
        "with a Makefile, a test, a notebook, an image of its website and a workflow that tests it.\n"
        "It trains at once, by itself or by `inflame train ./NAME`; every line in it is yours to change.\n"
        "inflame upgrade brings in what a later inflame would write."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame new my_birds && cd my_birds && python app.py train --in 60s\n"
        "  inflame new my_texts --like news_text --bare"
    )
    parser.add_argument("name", metavar="NAME", help="the folder to make: letters, digits, _ and -")
    parser.add_argument("--like", metavar="MODEL", default="mnist", help="the model to begin from (default: mnist)")
    parser.add_argument("--bare", action="store_true", help="the model folder alone")


def new(words: Namespace) -> int:
    """Makes the project from the folder of a model that is there."""
    from inflame.project import make

    target = Path(words.name).expanduser().absolute()
    make.check_name(target)
    like = words.like if "/" not in words.like else str(Path(words.like).expanduser().absolute())
    files = make.write(target, {"made": "new", "name": target.name, "like": like}, bare=words.bare)
    return _made(target, files, words)


def _made(target: Path, files: list[str], words: Namespace) -> int:
    if words.json:
        print(as_json({"folder": str(target), "files": files}))
        return 0
    print(f"made   {target}: {', '.join(files)}")
    print(f"next   cd {os.path.relpath(target)} && python app.py")
    return 0


def eject_words(parser: Parser) -> None:
    """The run, and the folder to make."""
    parser.usage = "inflame eject [RUN] [FOLDER] [--bare]"
    parser.description = (
        "Write the recipe of a finished run of `auto` down as a project of your own: every choice that was\n"
        "made by trying stands in train.py, net.py and model-config.toml, to be read and changed, and the\n"
        "training gives the same numbers. Around it is what inflame new makes. Needs no torch."
    )
    parser.epilog = (
        "examples:\n  inflame eject\n  inflame eject auto-digits-001 my_digits && cd my_digits && make train"
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run (inflame runs) or its folder; default: the last")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="the folder to make (default: named by the data)")
    parser.add_argument("--bare", action="store_true", help="the model folder alone")


def eject(words: Namespace) -> int:
    """Makes the project from what the run folder says."""
    from inflame import runs
    from inflame.project import eject as ejecting
    from inflame.project import make

    run = runs.find(words.run) if words.run else runs.latest()
    if run is None:
        raise UserError("There is no finished run yet.", remedy="inflame train photos/ --in 60s")
    target = Path(words.folder or ejecting.default_name(run)).expanduser().absolute()
    make.check_name(target)
    answers = ejecting.answers(run, target.name)
    files = make.write(target, answers, bare=words.bare)
    if not words.json:
        print(f"run    {run.name}: {answers['how']}")
        if not answers["exact"]:
            print(
                f"note   the clock ended it after {answers['epochs']} epochs: as many again are the same up to chance"
            )
    return _made(target, files, words)


def upgrade_words(parser: Parser) -> None:
    """The project, and whether only to look."""
    parser.usage = "inflame upgrade [FOLDER] [--dry-run]"
    parser.description = (
        "Bring a project of inflame new or inflame eject to what this version of inflame would write:\n"
        "what only the template changed is taken, what only you changed stays, and where both changed the\n"
        "same lines both are shown between markers, for you to choose. Commit first. Needs git."
    )
    parser.epilog = "examples:\n  inflame upgrade --dry-run\n  inflame upgrade my_birds"
    parser.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="the project (default: this folder)")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")


def upgrade(words: Namespace) -> int:
    """Merges, and says what became of each file; 1 when there are conflicts."""
    from inflame.project import merge

    changes = merge.upgrade(Path(words.folder).expanduser().absolute(), dry=words.dry_run)
    conflicts = [change.path for change in changes if change.what == "conflict"]
    if words.json:
        print(as_json({"changes": [change.to_json() for change in changes]}, indent=1))
    elif not changes:
        print("nothing to do: the project is what this version would write, or you have changed only what it hasn't")
    else:
        print(table(("what", "file"), [(change.what, change.path) for change in changes]))
        if conflicts and not words.dry_run:
            print(f"next   choose between the lines at {merge.MARK}: {', '.join(conflicts)}")
    return 1 if conflicts else 0
