"""The verbs about champions: promote, rollback."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from inflame import runs as folders
from inflame.cli.show import as_json, table
from inflame.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.factory.registry import Entry


def promote_words(parser: Parser) -> None:
    """The run, the name, and a reason where it isn't better."""
    parser.usage = "inflame promote [RUN] [--as NAME] [--force --reason TEXT] | --log NAME"
    parser.description = (
        "Make the model of a run the champion of a name, if it is better than the champion so far on the\n"
        "same test items (paired test). Its bundle is copied, with the evidence, and the log says who, when\n"
        "and why; refusals are noted too, since each is a look at the test items. Use it by its name:\n"
        "inflame predict FILE --model NAME. Where MLFLOW_TRACKING_URI is set, MLflow's registry is told.\n"
        "Without RUN: the champions there are."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame promote auto-photos-003 --as photos\n"
        '  inflame promote auto-photos-004 --as photos --force --reason "half the size"\n'
        "  inflame promote --log photos"
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a finished run, or its folder")
    parser.add_argument("--as", dest="name", metavar="NAME", help="a name, or a folder (default: that of the data)")
    parser.add_argument("--force", action="store_true", help="also if it isn't better")
    parser.add_argument("--reason", metavar="TEXT", default="", help="why: goes into the log")
    parser.add_argument("--log", metavar="NAME", help="all that happened to that name")


def promote(words: Namespace) -> int:
    """Changes the champion, or tells which there are and were."""
    from inflame.factory import registry

    if words.log:
        registry.demand(words.log)
        entries = registry.log(words.log)
        print(as_json([entry.to_json() for entry in entries]) if words.json else _logged(entries))
        return 0
    if words.run is None:
        print(_champions(json=words.json))
        return 0
    run = folders.find(words.run)
    if run.bundle is not None:
        from inflame.model.engine import seal

        seal.verify(run.bundle)
    name = words.name or str(run.read_status().get("dataset") or "")
    if not name:
        raise UserError("The model needs a name.", remedy=f"inflame promote {words.run} --as NAME")
    before = registry.champion(name)
    entry = registry.promote(run, name, force=words.force, reason=words.reason)
    same = before == registry.champion(name)
    if words.json:
        print(as_json({"name": name, "bundle": str(registry.champion(name)), **entry.to_json()}))
    else:
        now = "already" if same else "now"
        print(f"{entry.run} is the champion of {name} {now}, version {entry.version}: {entry.why}")
        print(f"next     inflame predict FILE… --model {name}")
    _mirror(name)
    return 0


def rollback_words(parser: Parser) -> None:
    """The name, and why."""
    parser.usage = "inflame rollback NAME [--reason TEXT]"
    parser.description = "Make the champion of before the champion again. Nothing is deleted; the log says who and why."
    parser.epilog = 'examples:\n  inflame rollback photos --reason "mistakes owls for cats"'
    parser.add_argument("name", metavar="NAME", help="a name with a champion (inflame promote), or its folder")
    parser.add_argument("--reason", metavar="TEXT", default="", help="why: goes into the log")


def rollback(words: Namespace) -> int:
    """Goes back by one."""
    from inflame.factory import registry

    entry = registry.rollback(words.name, words.reason)
    if words.json:
        print(as_json({"name": words.name, "bundle": str(registry.champion(words.name)), **entry.to_json()}))
    else:
        print(f"{entry.run} is the champion of {words.name} again, version {entry.version}")
    _mirror(words.name)
    return 0


def _champions(*, json: bool) -> str:
    from inflame.factory import registry

    found = {name: registry.log(name) for name in registry.names()}
    serving = {name: registry.demand(name) for name in found}
    rows = []
    for name, entries in found.items():
        version = int(serving[name].parent.name)
        entry = next(one for one in reversed(entries) if one.version == version and one.action != "refuse")
        rows.append(
            {"name": name, "run": entry.run, "version": version, "since": entry.time, "bundle": str(serving[name])}
        )
    if json:
        return as_json(rows)
    if not rows:
        return "no model has a name yet; inflame promote RUN --as NAME"
    return table(("name", "champion", "version", "since"), [list(row.values())[:4] for row in rows])


def _logged(entries: list[Entry]) -> str:
    rows = [[one.number, one.time, one.who, one.action, one.version or "–", one.run, one.why] for one in entries]
    return table(("", "when", "who", "what", "champion", "run", "why"), rows)


def _mirror(name: str) -> None:
    """Tells MLflow's registry, where a server is named. What fails there stops nothing."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    from inflame.factory import registry
    from inflame.model.engine.trackers import champions

    print(f"mlflow   {champions.told(registry.folder_of(name))}", file=sys.stderr)
