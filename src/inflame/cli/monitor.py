"""The verb monitor: after deployment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import store
from inflame.cli.inbox import log_of, run_of
from inflame.cli.predict import bundle_of
from inflame.cli.show import as_json
from inflame.errors import DataError, UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser

_DOES = ("check", "learn", "retrain", "rehearse", "forget", "export", "migrate")


def monitor_words(parser: Parser) -> None:
    """What to do, and with what."""
    parser.usage = (
        "inflame monitor [check [FOLDER|FILE…] | learn | retrain | rehearse [CHANGE] | forget |\n"
        "                       export URI | migrate [--to VERSION] [--dry-run]] [--model RUN]"
    )
    parser.description = (
        "After deployment: has the world moved on, and how good are the answers still? Without labels.\n"
        "check compares a folder, or without one what the log holds since the last check, with what the model\n"
        'saw at training. "Input changed" is information; "accuracy at risk" is an alarm, and the exit code\n'
        "is 1, for cron. It says what changed, shows the items most unlike the training, estimates the\n"
        "accuracy, and says what to do. learn asks a model more thoroughly what it expects; forget erases;\n"
        "export writes the log as Parquet, a file per day; migrate brings the tables of the log to a version.\n"
        "retrain trains on the data with what people labelled (inflame inbox), by the command of before, and\n"
        "makes the new model the champion if it is better: on the locked test items, or on labelled ones that\n"
        "neither learned from, and worse on none. rehearse spoils held-out items (noise, blur, brightness,\n"
        "jpeg, rotation, newclass, labelshift …), sends them through a real server, and shows when it rings.\n\n"
        "settings of check, in conf/monitor.toml (here, or in inflame's home) or as key=value: window,\n"
        "tolerance, to; and when somebody is told: alert.risk, alert.changed, alert.accuracy, alert.unknown,\n"
        "alert.latency, alert.silence"
    )
    parser.epilog = (
        "examples:\n"
        "  inflame monitor check new_photos/ --model butterflies --html report.html\n"
        "  inflame monitor                                 what the log holds since the last check\n"
        "  inflame monitor check --log postgresql://me@host/inflame --window 500\n"
        "  inflame monitor check s3://bucket/log           a log that was exported\n"
        "  inflame monitor --alert https://hooks.slack.com/services/…\n"
        "  inflame monitor tolerance=0.03 alert.unknown=0.2 alert.silence=6h\n"
        "  inflame monitor learn --model auto-photos-003 --in 60s\n"
        "  inflame monitor retrain --model butterflies\n"
        "  inflame monitor rehearse noise=0.5 --gradual\n"
        "  inflame monitor forget --before 2026-01-31\n"
        "  inflame monitor export s3://bucket/log\n"
        "  inflame monitor migrate --to 0001 --dry-run     what leads there, and nothing is done"
    )
    add = parser.add_argument
    add("what", nargs="*", metavar="WORD", help=f"{', '.join(_DOES)}, and its words")
    add("--model", metavar="RUN", help="a run, its bundle or a champion's name (default: the last run)")
    add("--log", metavar="URI", default="", help="the log: a file or postgresql://… (default: in the home)")
    add("--window", metavar="N", type=int, help="items of the log in a window (default: 200)")
    add("--html", metavar="FILE", default="", help="write the page about the last window")
    add("--alert", metavar="URL", action="append", help="webhook, or smtp://…/me@example.org; also INFLAME_ALERT")
    add("--new-classes", action="store_true", help="retrain: what was named often enough becomes a class")
    add("--all", action="store_true", help="check the whole log, not only what is new")
    add("--in", dest="budget", metavar="TIME", default="", help="learn: how long (30s); retrain: as before, or so long")
    add("--as", dest="name", metavar="NAME", default="", help="retrain: name of the champion (default: of the data)")
    add("--on", metavar="BACKEND", default="", help="retrain: train there (inflame launch)")
    add("--output", metavar="URI", default="", help="retrain --on: where run folders and logs go")
    add("--machine", metavar="NAME", default="", help="retrain --on: cpu-small … gpu-8")
    add("--data", metavar="URI", default="", help="retrain --on: a place there for the data, as shards")
    add("--windows", metavar="N", type=int, default=4, help="rehearse: changed windows (default: 4)")
    add("--gradual", action="store_true", help="rehearse: the change comes slowly")
    add("--before", metavar="DATE", default="", help="forget: what is older than that day")
    add("--input", metavar="HASH", default="", help="forget: one input, by the sha256 of its bytes")
    add("--to", metavar="VERSION", default="", help="migrate: there, up or down (default: the newest)")
    add("--dry-run", action="store_true", help="migrate: show the statements, and do nothing")


def monitor(words: Namespace) -> int:
    """Does what is asked."""
    from inflame.cli import monitor_check
    from inflame.monitor.rules import load

    does, rest = (words.what[0], words.what[1:]) if words.what else ("check", [])
    if does not in _DOES and (_is_setting(does) or Path(does).expanduser().exists()):
        does, rest = "check", words.what
    if does not in _DOES:
        raise UserError(
            f'inflame monitor can\'t "{does}".{did_you_mean(does, _DOES)}',
            remedy=f"One of: {', '.join(_DOES)}; or name a folder of new items.",
        )
    given = [word for word in rest if does == "check" and _is_setting(word)]
    rules = load((*given, *([f"window={words.window}"] if words.window is not None else [])))
    if does == "check":
        return monitor_check.check(words, [word for word in rest if word not in given], rules)
    if does == "export":
        return _export(words, rest)
    if does == "rehearse":
        from inflame.cli import rehearsal

        return rehearsal.rehearse(words, rest, rules)
    if rest:
        raise UserError(f"inflame monitor {does} takes no further word, and got {rest[0]}.", remedy="--model RUN")
    if does == "retrain":
        from inflame.cli import retrain

        return retrain.retrain(words)
    return {"learn": _learn, "forget": _forget, "migrate": _migrate}[does](words)


def _is_setting(word: str) -> bool:
    return re.match(r"[^\W\d][\w.]*=", word) is not None and not Path(word).expanduser().exists()


# --- learn, forget, export, migrate ------------------------------------------------------------------


def _learn(words: Namespace) -> int:
    from inflame.artifact import manifest
    from inflame.config.schema import parse_duration
    from inflame.model.engine import bundle, expecting
    from inflame.model.engine.expected import NAME

    place, run = bundle_of(words.model), run_of(words.model)
    budget = words.budget or "30s"
    found = expecting.of(bundle.Predictor(place), manifest.load(run), seconds=parse_duration(budget))
    if found is None:
        raise DataError(
            f"Fewer than {expecting.LEAST} held-out items could be read and answered in {budget}.",
            where=str(run),
            remedy="Put the data back to where it was, hold more of it out, or give it more time: --in 2m",
        )
    bundle.amend(place, {NAME: found.to_bytes()})
    facts = {
        "bundle": str(place),
        "reference": found.m,
        "accuracy": found.accuracy,
        "thresholds": found.thresholds,
        "verified": found.verified,
        "estimator": {key: found.estimator[key] for key in ("error", "families", "items") if key in found.estimator},
    }
    if words.json:
        print(as_json(facts))
        return 0
    print(f"learned  {found.m:,} reference items; accuracy {found.accuracy:.4f} of {found.labelled:,} held-out items")
    if found.verified.get("windows"):
        kept = found.verified
        print(
            f"checked  {kept['windows']:,} clean windows of other items: "
            f'{kept["changed"]:.2%} false "input changed", {kept["risk"]:.2%} false "at risk" before the estimate'
        )
    if found.estimator:
        many, error = len(found.estimator["families"]), found.estimator["error"]
        print(f"estimate {error:.3f} mean error of the accuracy, on kinds of corruption left out, {many} kinds")
    return 0


def _forget(words: Namespace) -> int:
    if not words.before and not words.input:
        raise UserError("Say what to forget.", remedy="--before 2026-01-31, or --input HASH")
    log = log_of(words)
    which: dict[str, Any] = {"before": _day(words.before)} if words.before else {"input": words.input.lower()}
    count = log.forget(**which)
    print(as_json({"forgotten": count}) if words.json else f"forgot {count:,} answers in {log.place}")
    return 0


def _export(words: Namespace, rest: Sequence[str]) -> int:
    from inflame.monitor import parquet

    if len(rest) != 1:
        raise UserError("Say where to.", remedy="inflame monitor export folder/   or   s3://bucket/log")
    days = parquet.export(log_of(words), rest[0])
    if words.json:
        print(as_json({"place": store.shown(rest[0]), "days": days}))
    else:
        print(f"wrote {sum(days.values()):,} answers of {len(days)} days to {store.shown(rest[0])}")
    return 0


def _migrate(words: Namespace) -> int:
    from inflame.monitor import schema

    log, to = log_of(words), words.to or schema.newest()
    if to not in schema.revisions():
        raise UserError(
            f'"{to}" is no version of the log.',
            where="--to",
            remedy=f"One of: {', '.join(schema.revisions())}",
        )
    found = log.version()
    steps = [
        {"version": name, "way": way, "about": schema.about(name), "statements": schema.lines(name, way, log.dialect)}
        for name, way in schema.steps(found, to)
    ]
    if not words.dry_run:
        log.migrate(to)
    if words.json:
        print(as_json({"place": log.place, "from": found, "to": to, "steps": steps, "done": not words.dry_run}))
        return 0
    print(f"the tables of {log.place}: {_version(found)}, {'would be' if words.dry_run else 'now'} {to}")
    for step in steps:
        print(f"  {step['version']} {step['way']:<4}  {step['about']}")
        print("".join(f"    {line};\n" for line in step["statements"] if words.dry_run), end="")
    return 0


def _version(name: str) -> str:
    from inflame.monitor import schema

    return {schema.NOTHING: "none yet", schema.UNNUMBERED: "of before they had a version"}.get(name, name)


def _day(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f'"{text}" is no date.', where="--before", remedy="--before 2026-01-31") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
