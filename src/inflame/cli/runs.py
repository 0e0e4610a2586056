"""`inflame report` and `inflame runs`: what was trained here, and how good it is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import runs as folders
from inflame.cli.show import as_json, table
from inflame.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser


def report_words(parser: Parser) -> None:
    """The run, and whether to show its page."""
    parser.usage = "inflame report [RUN] [--open]"
    parser.description = (
        "Make the page about a run again, from the files of its folder: curves, confusion, results per\n"
        "class, worst mistakes, suspected labels, calibration, faults of the data, where it all came from."
    )
    parser.epilog = "examples:\n  inflame report --open\n  inflame report mnist-digits-001"
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run (inflame runs) or its folder; default: the last")
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def report(words: Namespace) -> int:
    """Writes report.html and report.json of the run, and prints where they are."""
    run = folders.find(words.run) if words.run else folders.latest(with_bundle=False)
    if run is None:
        raise UserError("There is no run yet.", remedy="inflame train photos/ --in 60s")
    from inflame.model.engine.report import report as make

    page = Path(make(run.path))
    if words.json:
        print(page.with_suffix(".json").read_text(encoding="utf-8"), end="")
    else:
        print(page)
    if words.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0


def runs_words(parser: Parser) -> None:
    """Which runs, and whether to tell trackers of one."""
    parser.usage = "inflame runs [--where CONDITION] | inflame runs --sync RUN [--to TRACKER]"
    parser.description = (
        "All runs, newest first, with their test accuracy and its 95 % interval; or send one to a tracker\n"
        "that hasn't got all of it. A condition is SQL over name, model, dataset, state, accuracy, low,\n"
        "high, seconds, started, updated (since 1970) and settings (JSON)."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame runs\n"
        "  inflame runs --where \"accuracy > 0.9 AND settings->>'$.hyperparam.batch_size' = 64\"\n"
        "  inflame runs --sync mnist-digits-001\n"
        "  inflame runs --sync mnist-digits-001 --to tensorboard,mlflow"
    )
    parser.add_argument("--where", metavar="CONDITION", default="", help="only the runs that meet it")
    parser.add_argument("--sync", metavar="RUN", help="tell the run's trackers whatever they haven't been told")
    parser.add_argument("--to", metavar="TRACKER", help="with --sync: these trackers instead (several: a,b)")


def runs(words: Namespace) -> int:
    """Prints a table of the run folders, or sends one of them."""
    if words.sync:
        return _sync(words.sync, words.to)
    if words.to:
        raise UserError(
            "--to says where to send a run, and none is named.", remedy="inflame runs --sync RUN --to mlflow"
        )
    found = [_about(folder, json.loads(status)) for folder, status in folders.known(words.where)]
    if words.json:
        print(as_json(found, indent=1))
    elif not found:
        print("no such runs" if words.where else "no runs yet; begin with: inflame train photos/ --in 60s")
    else:
        head = ("run", "model", "data", "test accuracy", "seconds", "state", "age")
        print(table(head, [_line(about) for about in found]))
    return 0


def _sync(name: str, to: str | None) -> int:
    from inflame.model.engine.trackers import following

    run = folders.find(name)
    trackers = following.wanted(to or _trackers(run))
    if not trackers:
        raise UserError(
            f"The run {run.name} has no tracker.", remedy=f"Name one: inflame runs --sync {name} --to mlflow"
        )
    following.sync(run, trackers)
    return 0


def _trackers(run: folders.Run) -> str:
    """The setting `tracker` that the run had."""
    try:
        return str(json.loads((run.path / "config.json").read_bytes())["tracker"])
    except (OSError, ValueError, KeyError):
        return ""


def _about(folder: str, info: dict[str, Any]) -> dict[str, Any]:
    fields = {key: info.get(key) for key in ("model", "dataset", "test", "seconds", "started", "updated")}
    run = folders.Run(path=Path(folder))
    # What is over stays so; whether a process is still at work has to be looked at.
    state = info.get("state") if info.get("state") not in (None, "running") else run.state
    return {"run": run.name, "folder": folder, "state": state, **fields}


def _line(about: dict[str, Any]) -> tuple[object, ...]:
    test = about["test"] if isinstance(about["test"], dict) else {}
    score = (
        "{accuracy:.3f} ({low:.3f}–{high:.3f})".format_map(test) if {"accuracy", "low", "high"} <= set(test) else "-"
    )
    seconds = f"{about['seconds']:.0f}" if isinstance(about["seconds"], (int, float)) else "-"
    shown = (about["model"] or "-", about["dataset"] or "-", score, seconds, about["state"], _age(about["updated"]))
    return about["run"], *shown


def _age(moment: float | None) -> str:
    """How long ago a moment, in seconds since 1970, was."""
    if not isinstance(moment, (int, float)):
        return "-"
    seconds = time.time() - moment
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
