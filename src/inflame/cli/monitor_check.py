"""`inflame monitor check`: files, an exported log, or what is new in the log; and who is told of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import store
from inflame.cli.inbox import log_of
from inflame.cli.predict import bundle_of, files_of
from inflame.cli.show import as_json, table
from inflame.errors import DataError, UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.model.engine.expected import Expected
    from inflame.model.engine.predictor import Predictor
    from inflame.monitor.checking import Checked
    from inflame.monitor.drift import Window
    from inflame.monitor.log import Log
    from inflame.monitor.performance import Measured
    from inflame.monitor.rules import Rules

LEAST = 10
_DAYS = 7  # that the page tells of


def check(words: Namespace, names: Sequence[str], rules: Rules) -> int:
    """Tells what was found; 1 where the accuracy is at risk, or a rule rings."""
    if not names:
        return _check_log(words, rules)
    from inflame.monitor import archive

    archived = len(names) == 1 and archive.is_archive(names[0])
    return _check_archive(words, names[0], rules) if archived else _check_files(words, names, rules)


def _check_archive(words: Namespace, place: str, rules: Rules) -> int:
    from inflame.monitor import archive

    predictor, expected = _model(words)
    found = archive.check(place, expected, predictor.version, size=rules.window, tolerance=rules.tolerance)
    if found.window is None:
        raise DataError(
            f"{found.new} answers of {predictor.version} are too few: nothing can be said of fewer than {LEAST}.",
            where=store.shown(place),
            remedy="Name the model that answered: --model RUN",
        )
    return _tell(words, _Report(predictor=predictor, window=found.window, level=found.level, found=found))


def _check_files(words: Namespace, names: Sequence[str], rules: Rules) -> int:
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
    if len(good) < LEAST:
        raise DataError(
            f"{len(good)} items that can be read are too few: nothing can be said of fewer than {LEAST}.",
            where=", ".join(names),
            remedy="Name a folder with more of them.",
        )
    whole = joined(parts)
    window = judge(expected, whole, hashes, tolerance=rules.tolerance)
    unlike = [
        {"name": good[row].name, "label": _label(predictor, whole.probabilities[row]), "content": good[row]}
        for row in window.unlike
    ]
    report = _Report(predictor=predictor, window=window, level=window.level, unlike=unlike, unreadable=len(bad))
    return _tell(words, report)


def _check_log(words: Namespace, rules: Rules) -> int:
    from inflame.monitor import checking
    from inflame.monitor.performance import measured

    predictor, expected = _model(words)
    log = log_of(words)
    log.expire()  # also where no website runs any more
    found = checking.check(
        log, expected, predictor.version, size=rules.window, anew=words.all, least=LEAST, tolerance=rules.tolerance
    )
    rings = _sound(words, rules, log, predictor, found)
    if found.window is None:
        return _nothing_new(words, log, predictor, found, rings)
    unlike = [{"name": one.id[:8], "label": one.label, "content": log.kept(one.input)} for one in found.unlike]
    said = measured(log.verdicts(), log.model, predictor.calibration.sets)
    report = _Report(
        predictor=predictor,
        window=found.window,
        level=found.level,
        unlike=unlike,
        found=found,
        said=said,
        log=log,
        rings=rings,
    )
    return _tell(words, report)


def _nothing_new(words: Namespace, log: Log, predictor: Predictor, found: Checked, rings: Mapping[str, str]) -> int:
    state, code = log.state(), int(any(rings.values()))
    if words.json:
        about = {"level": None, "new": found.new, "foreign": found.foreign, "rings": rings}
        print(as_json({**about, **state.to_json()}))
        return code
    others = f"; {found.foreign:,} entries were made by other models" if found.foreign else ""
    print(f"nothing to check: {found.new} new answers of {predictor.version} in {log.place}{others}")
    for text in filter(None, rings.values()):
        print(f"rings    {text}")
    if state.waiting:
        print(f"waiting  {state.waiting:,} rows wait on disk: {state.trouble}")
    return code


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """What there is to tell of a window; `unlike`: {"name", "label", "content"} of the items most unlike the
    training."""

    predictor: Predictor
    window: Window
    level: str
    unlike: Sequence[Mapping[str, Any]] = ()
    unreadable: int = 0
    found: Checked | None = None
    said: Measured | None = None
    log: Log | None = None
    rings: Mapping[str, str] | None = None

    @property
    def model(self) -> str:
        return str(self.predictor.info.get("model") or self.predictor.version)

    @property
    def rung(self) -> list[str]:
        return [text for text in (self.rings or {}).values() if text]


def _tell(words: Namespace, report: _Report) -> int:
    from inflame.monitor.drift import RISK

    if words.html:
        _write(words.html, report)
    if words.json:
        plain = {"unlike": [str(one["name"]) for one in report.unlike], "unreadable": report.unreadable}
        more = report.found.to_json() if report.found is not None else {}
        rings = {"rings": report.rings} if report.rings is not None else {}
        print(as_json({**report.window.to_json(), "level": report.level, **plain, **more, **rings}))
    else:
        _print(report)
    if words.html:
        print(f"page             {words.html}", file=sys.stderr)
    return int(report.level == RISK or bool(report.rung))


def _write(file: str, report: _Report) -> None:
    """The page about it."""
    from inflame.monitor import page

    window = report.window
    shown = [{"picture": "", "text": "", **one, **_shown(page.shown, one["content"])} for one in report.unlike]
    about = {"model": report.model, "what": f"{window.items:,} items"}
    more = _of_late(report.log, report.predictor, window.tolerance) if report.log is not None else {}
    more |= {"measured": report.said, "unreadable": report.unreadable}
    store.write(file, page.render("report", window=window, about=about, unlike=shown, **more))


def _print(report: _Report) -> None:
    from inflame.monitor import told

    window = report.window
    print(f"{report.level:<17}{window.items:,} items against {report.model} {report.predictor.version}")
    if window.findings:
        print(table(("what changed", "how much"), [[told.finding(one), told.size(one)] for one in window.findings]))
    for name, before, now in window.classes:
        print(f"class            {name}: {before:.1%} of the answers before, {now:.1%} now")
    print(f"accuracy         {told.accuracy(window)}")
    if report.said is not None and report.said.asked.n:
        rate = report.said.asked
        print(f"measured         {rate.value:.3f} ({rate.low:.3f}–{rate.high:.3f}) of {rate.n} chosen at random")
    if window.findings and report.unlike:
        print(f"most unlike      {', '.join(str(one['name']) for one in report.unlike)}")
    if window.copies or window.near > 0.05:
        print(f"copies           {window.copies:.1%} exact, {window.near:.1%} nearly")
    if report.unreadable:
        print(f"unreadable       {report.unreadable}")
    for text in report.rung:
        print(f"rings            {text}")
    print(f"do               {window.advice}")
    print(f"false alarms     {told.often(window)}")


def _of_late(log: Log, predictor: Predictor, tolerance: float) -> dict[str, Any]:
    """What the page tells of the last days."""
    from inflame.monitor.charts import charts
    from inflame.monitor.overview import overview

    sets = predictor.calibration.sets
    found = overview(log, predictor.version, seconds=_DAYS * 86_400.0, sets=sets, tolerance=tolerance)
    return {"found": found, "charts": charts(found)}


def _shown(show: Any, content: Path | bytes | None) -> dict[str, str]:
    if content is None:
        return {}
    return dict(show(content.read_bytes() if isinstance(content, Path) else content))


def _sound(words: Namespace, rules: Rules, log: Log, predictor: Predictor, found: Checked) -> dict[str, str]:
    """Tells what is new to those who want it; returns what each rule says, "" where it is quiet."""
    from inflame.monitor import alerts, told

    last = log.last(1, predictor.version)
    said = alerts.rings(rules, found, last[0].time if last else None)
    places = [*(words.alert or ()), *rules.to, *os.environ.get("INFLAME_ALERT", "").split()]
    window = found.window
    facts = {
        "model": str(predictor.info.get("model") or predictor.version),
        "level": found.windows[-1]["level"] if found.windows else "",
        "items": found.new,
        "accuracy": told.accuracy(window) if window is not None else "",
        "advice": window.advice if window is not None else "",
        "findings": [told.finding(one) for one in window.findings] if window is not None else [],
    }
    for place in alerts.tell(log, predictor.version, said, facts, places):
        print(f"told     {alerts.named(place)}", file=sys.stderr)
    return said


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
