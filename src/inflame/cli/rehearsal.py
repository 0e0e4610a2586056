"""`inflame monitor rehearse`: held-out items, spoiled on purpose, through a real server, until the alarm rings."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inflame import plugins
from inflame.cli.inbox import dataset_of, predictor_of
from inflame.cli.show import as_json, table
from inflame.errors import DataError, RunError, UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.monitor.checking import Checked
    from inflame.monitor.log import Log
    from inflame.monitor.rules import Rules

NEWCLASS, LABELSHIFT = "newclass", "labelshift"
USUAL = {NEWCLASS: 0.5, LABELSHIFT: 0.8}  # share of strange items, share of one class; of all others:
SEVERITY = 0.5
QUIET = 2  # windows before anything changes
_ASKED = 32  # items in one request
_PATIENCE = 60.0  # seconds for the server to come up, and for the log to have a window
_FEWEST = 30  # held-out items

Stream = tuple[list[bytes], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is done to the stream: its name, how strongly, and whether it comes slowly over `windows`."""

    kind: str
    severity: float
    gradual: bool
    windows: int

    def at(self, window: int) -> float:
        """How strong it is in a window; the first ones are clean."""
        if window < QUIET:
            return 0.0
        return self.severity * ((window - QUIET + 1) / self.windows if self.gradual else 1.0)


def rehearse(words: Namespace, rest: Sequence[str], rules: Rules) -> int:
    """Prints a row for each window, and when what rang."""
    from inflame.model.engine.expected import Expected
    from inflame.monitor import checking
    from inflame.records import TextPreprocess

    predictor = predictor_of(words.model)
    if not predictor.expected:
        raise UserError(
            "The model doesn't know what to expect: its bundle has no expected.npz.",
            where=str(predictor.folder),
            remedy=f"inflame monitor learn --model {words.model or predictor.folder.parent}",
        )
    text = isinstance(predictor.preprocess, TextPreprocess)
    change = _change(words, rest, text=text)
    held = _held_out(words.model)
    rows: list[dict[str, Any]] = []
    with _server(predictor.folder) as (address, log):
        for window in range(QUIET + change.windows):
            stream = _stream(held, change, window, rules.window, text=text)
            said = _asked(address, stream[0], text=text)
            _until(log, predictor.version, answered := sum(map(bool, said)))
            expected = Expected.of(predictor.expected)
            found = checking.check(log, expected, predictor.version, size=answered, tolerance=rules.tolerance)
            rows.append(_row(found, change, window, stream, said))
            if not words.json:
                _tell(rows)
    return _conclude(words, change, rows)


def _change(words: Namespace, rest: Sequence[str], *, text: bool) -> Change:
    from inflame.artifact import worse

    known = (*worse.kinds(text=text), NEWCLASS, LABELSHIFT)
    if len(rest) > 1:
        raise UserError(f"One change at a time, not {len(rest)}.", remedy=f"inflame monitor rehearse {rest[0]}")
    kind, equals, strength = (rest[0] if rest else known[0]).partition("=")
    if kind not in known:
        raise UserError(f'"{kind}" is no change.{did_you_mean(kind, known)}', remedy=f"One of: {', '.join(known)}")
    try:
        severity = float(strength) if equals else USUAL.get(kind, SEVERITY)
    except ValueError:
        severity = math.nan
    if not 0 < severity <= 1:
        raise UserError(
            f'The strength of a change is a number above 0, up to 1, not "{strength}".', remedy=f"{kind}={SEVERITY}"
        )
    if not 1 <= words.windows <= 100:
        raise UserError(f"1 to 100 windows can be rehearsed, not {words.windows}.", remedy="--windows 4")
    return Change(kind=kind, severity=severity, gradual=words.gradual, windows=words.windows)


# --- what is sent ----------------------------------------------------------------------------------------------


def _held_out(model: str | None) -> Stream:
    """The test items of the model's data: what was never learned from."""
    from inflame.artifact.contents import Contents

    dataset = dataset_of(model)
    items = dataset.split("test").items
    read = Contents(dataset.root).read
    if items.num_rows < _FEWEST:
        raise DataError(
            f"{items.num_rows} test items are too few to rehearse with.",
            where=dataset.root,
            remedy=f"Hold out {_FEWEST} or more.",
        )
    return [read(uri) for uri in items["uri"].to_pylist()], items["label"].to_pylist()


def _stream(held: Stream, change: Change, window: int, size: int, *, text: bool) -> Stream:
    """What is sent in a window: held-out items in random order, again and again; changed as much as it should be."""
    from inflame.artifact import worse

    contents, labels = held
    rng = np.random.default_rng(window)
    severity = change.at(window)
    order = np.concatenate([rng.permutation(len(contents)) for _ in range(size // len(contents) + 1)])[:size]
    if change.kind == LABELSHIFT and severity:
        most = max(sorted(set(labels)), key=labels.count)
        own = np.array([row for row, label in enumerate(labels) if label == most])
        order = np.where(rng.random(size) < severity, rng.choice(own, size), order)
    some, truth = [contents[row] for row in order], [labels[row] for row in order]
    if not severity or change.kind == LABELSHIFT:
        return some, truth
    if change.kind == NEWCLASS:
        odd = np.flatnonzero(rng.random(size) < severity)
        made = worse.strange([some[row] for row in odd], text=text, seed=window)
        for row, content in zip(odd, made, strict=True):
            some[row], truth[row] = content, ""
        return some, truth
    return worse.worse(some, change.kind, severity, text=text), truth


# --- the server ------------------------------------------------------------------------------------------------


@contextmanager
def _server(bundle: Path) -> Iterator[tuple[str, Log]]:
    """A server of the bundle in a home of its own: its address, and its log. It is ended afterwards."""
    from inflame.monitor.log import Log

    plugins.need("inflame.web.server", "web", "A rehearsal runs a real server, which")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as home:
        place = str(Path(home) / "log.db")
        command = [sys.executable, "-m", "inflame", "serve", f"rehearsed={bundle.resolve()}", "--port", "0"]
        environment = {**os.environ, "INFLAME_HOME": home}
        with (Path(home) / "server.txt").open("w+b") as told:
            process = subprocess.Popen(
                [*command, "--log", place, "--json"], stdout=subprocess.PIPE, stderr=told, env=environment, text=True
            )
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line.startswith('{"address"'):
                    raise RunError(
                        "The server didn't come up.", where=_end_of(told.name), remedy=f"inflame serve {bundle}"
                    )
                log = Log(place, patience=10.0)
                yield json.loads(line)["address"], log
                log.close()
            finally:
                process.terminate()
                process.wait(30)
                if process.stdout is not None:
                    process.stdout.close()


def _end_of(name: str | int) -> str:
    return Path(str(name)).read_text(encoding="utf-8", errors="replace")[-500:]


def _asked(address: str, contents: Sequence[bytes], *, text: bool) -> list[str]:
    """What the server answers, as a visitor's program would ask it; "" for what it can't read."""
    import httpx

    said: list[str] = []
    with httpx.Client(base_url=address, timeout=_PATIENCE, trust_env=False) as client:
        for start in range(0, len(contents), _ASKED):
            some = contents[start : start + _ASKED]
            if text:
                reply = client.post("/v1/classify", json={"texts": [one.decode(errors="replace") for one in some]})
            else:
                reply = client.post("/v1/classify", files=[("file", ("item", one)) for one in some])
            if reply.status_code != 200:
                raise RunError(f"The server answered {reply.status_code}.", where=reply.text[:200], remedy="--debug")
            said += [str(one.get("label", "")) for one in reply.json()["results"]]
    return said


def _row(found: Checked, change: Change, window: int, stream: Stream, said: Sequence[str]) -> dict[str, Any]:
    """A window, as the monitor sees it, beside the truth."""
    from inflame.monitor import told

    guess = found.window.estimate if found.window is not None else None
    right = [label == truth for label, truth in zip(said, stream[1], strict=True)]
    return {
        "window": window + 1,
        "items": sum(map(bool, said)),
        "severity": round(change.at(window), 3),
        "level": found.level,
        "accuracy": sum(right) / len(right),
        "estimate": guess.to_json() if guess is not None else None,
        "findings": [told.finding(one) for one in found.window.findings] if found.window is not None else [],
    }


def _until(log: Log, model: str, count: int) -> None:
    """Waits until the log has as many answers that no check has seen yet."""
    end = time.monotonic() + _PATIENCE
    after = int(log.noted(f"watch:{model}", {}).get("after", 0))
    while time.monotonic() < end:
        rows = log.query("SELECT count(*) FROM predictions WHERE model = ? AND seq > ?", [model, after])
        if rows[0][0] >= count:
            return
        time.sleep(0.02)
    raise RunError("The server's log didn't get the answers.", where=log.place, remedy="Try again with --debug.")


# --- what is told ----------------------------------------------------------------------------------------------


def _tell(rows: Sequence[dict[str, Any]]) -> None:
    """The last row, below the head of the table."""
    lines = table(("window", "strength", "accuracy", "estimated", "what the monitor says"), list(map(_cells, rows)))
    for line in lines.splitlines()[0 if len(rows) == 1 else -1 :]:
        print(line, flush=True)


def _cells(row: dict[str, Any]) -> list[Any]:
    guess = row["estimate"]
    told = "–" if guess is None else "unlike all" if not guess["reliable"] else f"{guess['accuracy']:.3f}"
    what = f"{row['level']}: {', '.join(row['findings'][:3])}" if row["findings"] else row["level"]
    return [f"{row['window']:<6}", f"{row['severity']:<8.2f}", f"{row['accuracy']:<8.3f}", f"{told:<10}", what]


def _conclude(words: Namespace, change: Change, rows: Sequence[dict[str, Any]]) -> int:
    from inflame.monitor.drift import CHANGED, RISK

    rang = {
        level: next(
            (sum(row["items"] for row in rows[QUIET : place + 1]) for place, row in enumerate(rows)
             if place >= QUIET and row["level"] in (level, RISK)), None
        )
        for level in (CHANGED, RISK)
    }  # fmt: skip
    false = sum(row["level"] == RISK for row in rows[:QUIET])
    if words.json:
        print(as_json({"change": change.kind, "gradual": change.gradual, "windows": list(rows), "rang": rang}))
        return 0
    for level, after in rang.items():
        print(f"{level:<17}{f'rang after {after:,} changed items' if after else 'did not ring'}")
    if false:
        print(f"false alarms     {false} of {QUIET} windows before the change")
    return 0
