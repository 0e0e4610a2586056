"""The verb monitor: after deployment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import store
from inflame.cli.inbox import log_of, run_of
from inflame.cli.model import bundle_of, files_of
from inflame.cli.show import as_json, table
from inflame.errors import DataError, UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.model.engine.expected import Expected
    from inflame.model.engine.predictor import Predictor
    from inflame.monitor.checking import Checked
    from inflame.monitor.drift import Window
    from inflame.monitor.log import Log
    from inflame.monitor.performance import Measured

_DOES = ("check", "learn", "retrain", "rehearse", "forget", "export")
_LEAST = 10
_DAYS = 7  # that the page tells of


def monitor_words(parser: Parser) -> None:
    """What to do, and with what."""
    parser.usage = (
        "inflame monitor [check [FOLDER|FILE…] | learn | retrain | rehearse [CHANGE] | forget |\n"
        "                       export URI] [--model RUN]"
    )
    parser.description = (
        "After deployment: has the world moved on, and how good are the answers still? Without labels.\n"
        "check compares a folder, or without one what the log holds since the last check, with what the model\n"
        'saw at training. "Input changed" is information; "accuracy at risk" is an alarm, and the exit code\n'
        "is 1, for cron. It says what changed, shows the items most unlike the training, estimates the\n"
        "accuracy, and says what to do. learn asks a model more thoroughly what it expects; forget erases;\n"
        "export writes the log as Parquet, a file per day.\n"
        "retrain trains on the data with what people labelled (inflame inbox), by the command of before, and\n"
        "makes the new model the champion if it is better: on the locked test items, or on labelled ones that\n"
        "neither learned from, and worse on none. rehearse spoils held-out items (noise, blur, brightness,\n"
        "jpeg, rotation, newclass, labelshift …), sends them through a real server, and shows when it rings."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame monitor check new_photos/ --model butterflies --html report.html\n"
        "  inflame monitor                                 what the log holds since the last check\n"
        "  inflame monitor check --log postgresql://me@host/inflame --window 500\n"
        "  inflame monitor check s3://bucket/log           a log that was exported\n"
        "  inflame monitor --alert https://hooks.slack.com/services/…\n"
        "  inflame monitor learn --model auto-photos-003 --in 60s\n"
        "  inflame monitor retrain --model butterflies\n"
        "  inflame monitor rehearse noise=0.5 --gradual\n"
        "  inflame monitor forget --before 2026-01-31\n"
        "  inflame monitor export s3://bucket/log"
    )
    add = parser.add_argument
    add("what", nargs="*", metavar="WORD", help=f"{', '.join(_DOES)}, and its words")
    add("--model", metavar="RUN", help="a run, its bundle or a champion's name (default: the last run)")
    add("--log", metavar="URI", default="", help="the log: a file or postgresql://… (default: in the home)")
    add("--window", metavar="N", type=int, default=200, help="items of the log in a window (default: 200)")
    add("--html", metavar="FILE", default="", help="write the page about the last window")
    add("--alert", metavar="URL", action="append", help="webhook, or smtp://…/me@example.org; also INFLAME_ALERT")
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


def monitor(words: Namespace) -> int:
    """Does what is asked."""
    does, rest = (words.what[0], words.what[1:]) if words.what else ("check", [])
    if does not in _DOES and Path(does).expanduser().exists():
        does, rest = "check", words.what
    if does not in _DOES:
        raise UserError(
            f'inflame monitor can\'t "{does}".{did_you_mean(does, _DOES)}',
            remedy=f"One of: {', '.join(_DOES)}; or name a folder of new items.",
        )
    if words.window < _LEAST:
        raise UserError(f"A window has {_LEAST} items or more, not {words.window}.", remedy="--window 200")
    if does == "check":
        return _check_named(words, rest) if rest else _check_log(words)
    if does == "export":
        return _export(words, rest)
    if does == "rehearse":
        from inflame.cli import rehearsal

        return rehearsal.rehearse(words, rest)
    if rest:
        raise UserError(f"inflame monitor {does} takes no further word, and got {rest[0]}.", remedy="--model RUN")
    if does == "retrain":
        from inflame.cli import retrain

        return retrain.retrain(words)
    return _learn(words) if does == "learn" else _forget(words)


# --- check -----------------------------------------------------------------------------------------


def _check_named(words: Namespace, names: Sequence[str]) -> int:
    """Files, or one exported log."""
    from inflame.monitor import archive

    if len(names) > 1 or not archive.is_archive(names[0]):
        return _check_files(words, names)
    predictor, expected = _model(words)
    found = archive.check(names[0], expected, predictor.version, size=words.window)
    if found.window is None:
        raise DataError(
            f"{found.new} answers of {predictor.version} are too few: nothing can be said of fewer than {_LEAST}.",
            where=store.shown(names[0]),
            remedy="Name the model that answered: --model RUN",
        )
    return _tell(words, predictor, found.window, found.level, [], found=found)


def _check_files(words: Namespace, names: Sequence[str]) -> int:
    from inflame.artifact.preprocess import read
    from inflame.model.engine.expected import joined
    from inflame.model.engine.expecting import Asked
    from inflame.monitor.drift import judge

    predictor, expected = _model(words)
    asked = Asked(predictor)
    files = files_of(names, "text" if asked.text else "picture")
    parts, good, hashes, bad = [], [], [], []
    for start in _steps(len(files), 32, words):
        contents = [(file, read(file)[0]) for file in files[start : start + 32]]
        sample, places = asked([content for _, content in contents])
        parts.append(sample)
        good += [contents[place][0] for place in places]
        hashes += [_sha256(contents[place][1]) for place in places]
        bad += [file for place, (file, _) in enumerate(contents) if place not in set(places)]
    if len(good) < _LEAST:
        raise DataError(
            f"{len(good)} items that can be read are too few: nothing can be said of fewer than {_LEAST}.",
            where=", ".join(names),
            remedy="Name a folder with more of them.",
        )
    whole = joined(parts)
    window = judge(expected, whole, hashes)
    unlike = [
        {"name": good[row].name, "label": _label(predictor, whole.probabilities[row]), "content": good[row]}
        for row in window.unlike
    ]
    return _tell(words, predictor, window, window.level, unlike, unreadable=len(bad))


def _check_log(words: Namespace) -> int:
    from inflame.monitor import checking
    from inflame.monitor.performance import measured

    predictor, expected = _model(words)
    log = log_of(words)
    found = checking.check(log, expected, predictor.version, size=words.window, anew=words.all, least=_LEAST)
    if found.window is None:
        return _nothing_new(words, log, predictor, found)
    unlike = [{"name": one.id[:8], "label": one.label, "content": log.kept(one.input)} for one in found.unlike]
    said = measured(log.verdicts(), log.model, predictor.calibration.sets)
    _alert(words, log, predictor, found)
    return _tell(words, predictor, found.window, found.level, unlike, found=found, said=said, log=log)


def _alert(words: Namespace, log: Log, predictor: Predictor, found: Checked) -> None:
    """Tells what is new, where that is wanted."""
    from inflame.monitor import alerts, told

    places = [*(words.alert or ()), *os.environ.get("INFLAME_ALERT", "").split()]
    if not places or found.window is None:
        return
    level = found.windows[-1]["level"]
    facts = {
        "model": str(predictor.info.get("model") or predictor.version),
        "items": found.new,
        "accuracy": told.accuracy(found.window),
        "advice": found.window.advice,
        "findings": [told.finding(one) for one in found.window.findings],
    }
    for place in alerts.tell(log, predictor.version, level, facts, places):
        print(f"told     {store.shown(place)}", file=sys.stderr)


def _nothing_new(words: Namespace, log: Log, predictor: Predictor, found: Checked) -> int:
    state = log.state()
    if words.json:
        print(as_json({"level": None, "new": found.new, "foreign": found.foreign, **state.to_json()}))
        return 0
    others = f"; {found.foreign:,} entries were made by other models" if found.foreign else ""
    print(f"nothing to check: {found.new} new answers of {predictor.version} in {log.place}{others}")
    if state.waiting:
        print(f"waiting  {state.waiting:,} rows wait on disk: {state.trouble}")
    return 0


def _tell(
    words: Namespace,
    predictor: Predictor,
    window: Window,
    level: str,
    unlike: list[dict[str, Any]],
    *,
    unreadable: int = 0,
    found: Checked | None = None,
    said: Measured | None = None,
    log: Log | None = None,
) -> int:
    from inflame.monitor import page, told
    from inflame.monitor.drift import RISK

    about = {"model": predictor.info.get("model") or predictor.version}
    if words.html:
        shown = [{"picture": "", "text": "", **one, **_shown(page.shown, one["content"])} for one in unlike]
        what = f"{window.items:,} items"
        more = _of_late(log, predictor) if log is not None else {}
        more |= {"measured": said, "unreadable": unreadable}
        text = page.render("report", window=window, about={**about, "what": what}, unlike=shown, **more)
        store.write(words.html, text)
    if words.json:
        more = {**found.to_json()} if found is not None else {}
        names = [str(one["name"]) for one in unlike]
        print(as_json({**window.to_json(), "level": level, "unlike": names, "unreadable": unreadable, **more}))
    else:
        print(f"{level:<17}{window.items:,} items against {about['model']} {predictor.version}")
        if window.findings:
            rows = [[told.finding(one), told.size(one)] for one in window.findings]
            print(table(("what changed", "how much"), rows))
        for name, before, now in window.classes:
            print(f"class            {name}: {before:.1%} of the answers before, {now:.1%} now")
        print(f"accuracy         {told.accuracy(window)}")
        if said is not None and said.asked.n:
            rate = said.asked
            print(f"measured         {rate.value:.3f} ({rate.low:.3f}–{rate.high:.3f}) of {rate.n} chosen at random")
        if window.findings and unlike:
            print(f"most unlike      {', '.join(str(one['name']) for one in unlike)}")
        if window.copies or window.near > 0.05:
            print(f"copies           {window.copies:.1%} exact, {window.near:.1%} nearly")
        if unreadable:
            print(f"unreadable       {unreadable}")
        print(f"do               {window.advice}")
        print(f"false alarms     {told.often(window)}")
    if words.html:
        print(f"page             {words.html}", file=sys.stderr)
    return 1 if level == RISK else 0


def _of_late(log: Log, predictor: Predictor) -> dict[str, Any]:
    """What the page tells of the last days."""
    from inflame.monitor.charts import charts
    from inflame.monitor.overview import overview

    found = overview(log, predictor.version, seconds=_DAYS * 86_400.0, sets=predictor.calibration.sets)
    return {"found": found, "charts": charts(found)}


def _shown(show: Any, content: Path | bytes | None) -> dict[str, str]:
    if content is None:
        return {}
    return dict(show(content.read_bytes() if isinstance(content, Path) else content))


# --- learn, forget, export ---------------------------------------------------------------------------


def _learn(words: Namespace) -> int:
    from inflame.artifact import manifest
    from inflame.config.schema import parse_duration
    from inflame.model.engine import bundle, expecting
    from inflame.model.engine.expected import NAME

    place, run = bundle_of(words.model), run_of(words.model)
    found = expecting.of(bundle.Predictor(place), manifest.load(run), seconds=parse_duration(words.budget or "30s"))
    if found is None:
        raise DataError(
            f"There are fewer than {expecting.LEAST} held-out items that can be read.",
            where=str(run),
            remedy="Put the data back to where it was, or hold more of it out.",
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


# --- what all need -----------------------------------------------------------------------------------


def _model(words: Namespace) -> tuple[Predictor, Expected]:
    from inflame.model.engine.expected import Expected
    from inflame.model.engine.predictor import Predictor

    predictor = Predictor(bundle_of(words.model))
    if not predictor.expected:
        raise UserError(
            "The model doesn't know what to expect: its bundle has no expected.npz.",
            where=str(predictor.folder),
            remedy=f"inflame monitor learn --model {words.model or predictor.folder.parent}",
        )
    return predictor, Expected.of(predictor.expected)


def _steps(count: int, size: int, words: Namespace) -> Any:
    from tqdm import tqdm

    return tqdm(range(0, count, size), unit_scale=size, unit=" items", delay=2, leave=False, disable=words.json or None)


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _label(predictor: Predictor, probabilities: Any) -> str:
    best = int(probabilities.argmax())
    return f"{predictor.classes[best]} {probabilities[best]:.2f}"


def _day(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f'"{text}" is no date.', where="--before", remedy="--before 2026-01-31") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
