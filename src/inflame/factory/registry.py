"""Champions: for each named model the bundle that serves, which ones served before, and why it changed.

```
models/NAME/
  log.jsonl        what happened, a line each, never rewritten; every line holds the hash of the one before
  versions/0001/   bundle/, predictions.parquet (its answers to the locked test items), run.json
  champion         a link to the version that serves, for people and other programs
  lock             held by whoever changes any of this
```

The log is the truth: a champion changes in the moment in which a whole line stands in it. A process that is killed
before leaves no trace but a folder that the next one clears away; one that is killed after leaves at most an old link,
which is set right by whoever looks next.
"""

from __future__ import annotations

import errno
import getpass
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inflame import store
from inflame.errors import BundleError, InflameError, RunError, StorageError, UserError, did_you_mean
from inflame.factory.answers import PREDICTIONS, Reader
from inflame.factory.compare import sentence
from inflame.factory.contest import Contest
from inflame.factory.judge import Side, judge
from inflame.records import Record, dumps
from inflame.runs import Run, index, lock

LOG, VERSIONS, CHAMPION, LOCK, ABOUT = "log.jsonl", "versions", "champion", "lock", "run.json"
PATIENCE = 60.0  # seconds to wait for somebody else's promotion
_NAME = re.compile(r"[\w][\w.-]{0,79}")
_PROMOTIONS = ("promote", "force")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Record):
    """A line of the log. `action`: promote, force, rollback or refuse; `version` is the champion from then on, `run`
    the one that was up for it; `evidence` the comparison with the champion of before, `previous` the hash of the line
    before."""

    number: int
    time: str
    who: str
    action: str
    version: int
    run: str
    why: str
    evidence: dict[str, Any] = field(default_factory=dict)
    previous: str = ""


class NotBetter(RunError):
    """The run does not beat the champion."""


# --- reading ---------------------------------------------------------------------------------------


def folder_of(name: str) -> Path:
    """The folder of a named model: in `$INFLAME_HOME/models`, or the path itself where the name is one."""
    if "/" in name:
        return Path(name).expanduser().absolute()
    if not _NAME.fullmatch(name):
        raise UserError(f'"{name}" can\'t name a model.', remedy="Use letters, digits, dots, hyphens and underscores.")
    return store.home() / "models" / name


def names() -> list[str]:
    """The models that have a champion."""
    root = store.home() / "models"
    return sorted(path.name for path in root.iterdir() if _standing(log(path.name))) if root.is_dir() else []


def log(name: str) -> list[Entry]:
    """All that happened to a named model, the oldest first. A last line that a kill cut short never happened.

    One that was changed afterwards: StorageError.
    """
    return [Entry.from_json(json.loads(line)) for line in _lines(folder_of(name) / LOG)]


def champion(name: str) -> Path | None:
    """The bundle that serves under that name, or None."""
    standing = _standing(log(name))
    return _version(folder_of(name), standing[-1]) / "bundle" if standing else None


def demand(name: str) -> Path:
    """The bundle of the champion. None: UserError with the nearest name."""
    found = champion(name)
    if found is None:
        known = names()
        raise UserError(
            f'No model is named "{name}".{did_you_mean(name, known)}',
            where=str(folder_of(name)),
            remedy=f"Use one of: {', '.join(known)}"
            if known
            else f"Make a run its champion: inflame promote RUN --as {name}",
        )
    return found


def _lines(path: Path) -> list[bytes]:
    """The whole lines, after a look at the chain."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    before = ""
    for place, line in enumerate(lines, 1):
        try:
            told = json.loads(line)
            good = told["previous"] == before and told["number"] == place
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise StorageError(
                f"The log was changed: line {place} does not follow from the one before.",
                where=str(path),
                remedy="Bring it back from a copy, or begin anew under another name: inflame promote RUN --as NAME",
            )
        before = _hash(line)
    return lines


def _standing(entries: list[Entry]) -> list[int]:
    """The versions that served, in turn; the last one serves. What was rolled back is gone."""
    found: list[int] = []
    for entry in entries:
        if entry.action in _PROMOTIONS:
            found.append(entry.version)
        elif entry.action == "rollback":
            found.pop()
    return found


# --- changing --------------------------------------------------------------------------------------


def promote(run: Run, name: str, *, force: bool = False, reason: str = "", found: Contest | None = None) -> Entry:
    """Makes the run's model the champion of that name if it is better on the locked test items, or by `force` with a
    reason. The same model again changes nothing. found: what decides instead, where more than those items was asked.

    Errors: NotBetter (which is noted in the log), UserError where it can't be judged.
    """
    if force and not reason.strip():
        raise UserError("A promotion by force needs a reason.", remedy='--force --reason "why"')
    bundle = _demand_bundle(run)
    folder = folder_of(name)
    with _held(folder) as entries:
        standing = _standing(entries)
        if standing and _same(bundle, _version(folder, standing[-1]) / "bundle"):
            return next(entry for entry in reversed(entries) if entry.version == standing[-1])
        evidence, better, told = _evidence(run, folder, entries, standing)
        if found is not None and standing:
            evidence, better, told = {**evidence, "contest": found.to_json()}, found.better, found.told
        if not (better or force):
            _append(folder, entries, "refuse", standing[-1] if standing else 0, run.name, told, evidence)
            raise NotBetter(
                f"{run.name} doesn't become the champion of {name}: {told}.",
                where=f"{folder}, run {evidence['challenger']} that was tried on these items",
                remedy=f'Improve it, or: inflame promote {run.name} --as {name} --force --reason "why"',
            )
        number = max(entry.version for entry in entries) + 1 if entries else 1
        _keep(run, bundle, _version(folder, number))
        why = reason or told
        return _append(folder, entries, "promote" if better else "force", number, run.name, why, evidence)


def rollback(name: str, reason: str = "") -> Entry:
    """Makes the champion of before the champion again. There is none: UserError."""
    folder = folder_of(name)
    demand(name)
    with _held(folder) as entries:
        standing = _standing(entries)
        if len(standing) < 2:
            raise UserError(
                f"The champion of {name} is the only one so far.", where=str(folder), remedy="Promote another run."
            )
        back = next(entry for entry in entries if entry.action in _PROMOTIONS and entry.version == standing[-2])
        return _append(folder, entries, "rollback", standing[-2], back.run, reason, {"from": standing[-1]})


def _evidence(run: Run, folder: Path, entries: list[Entry], standing: list[int]) -> tuple[dict[str, Any], bool, str]:
    """What speaks for the run: the numbers, whether it is better, and that in words."""
    about, reader = index.about(run.path), Reader()
    facts = {"run": run.name, "accuracy": about["accuracy"], "test_items": about["test_items"] or about["version"]}
    held = json.loads(store.read_text(_version(folder, standing[-1]) / ABOUT)) if standing else facts
    tried = sum(entry.evidence.get("test_items") == held["test_items"] for entry in entries) + 1
    facts |= {"challenger": tried, "items": about["n"]}
    if about["accuracy"] is None:
        return facts, False, "it was tested on no items"
    if not standing:
        return facts, True, "the first of its name"
    facts["champion"] = held["run"]
    try:
        theirs = Side(name=held["run"], blocks={"locked": [reader.read(_version(folder, standing[-1]))]})
        found = judge(theirs, Side(name=run.name, blocks={"locked": [reader.read(run.path)]}))
    except InflameError as error:
        return {**facts, "error": error.message}, False, f"it can't be judged ({error.message.rstrip('.')})"
    told = sentence(found, held["run"], run.name)
    return {**facts, **found.to_json()}, found.verdict == "better", told


def _keep(run: Run, bundle: Path, place: Path) -> None:
    """The bundle and the answers of the run as a version: whole, or not there."""
    about = index.about(run.path)
    facts = {
        "run": run.name,
        "folder": str(run.path),
        "test_items": about["test_items"] or about["version"],
        **{
            name: about[name]
            for name in ("model", "dataset", "accuracy", "low", "high", "n", "code", "seed", "version")
        },
    }
    with store.atomic_folder(place) as temporary:
        shutil.copytree(bundle, temporary / "bundle")
        if (run.path / PREDICTIONS).is_file():
            shutil.copyfile(run.path / PREDICTIONS, temporary / PREDICTIONS)
        (temporary / ABOUT).write_text(dumps(facts), encoding="utf-8")


def _append(
    folder: Path, entries: list[Entry], action: str, version: int, run: str, why: str, evidence: dict[str, Any]
) -> Entry:
    """Puts a line into the log: with its last byte the champion has changed. Then the link follows."""
    entry = Entry(
        number=len(entries) + 1,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        who=_who(),
        action=action,
        version=version,
        run=run,
        why=why,
        evidence=evidence,
    )
    lines = _lines(folder / LOG)
    told = {**entry.to_json(), "previous": _hash(lines[-1]) if lines else ""}
    line = json.dumps(told, ensure_ascii=True, allow_nan=False) + "\n"
    with store.guard(folder):
        descriptor = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if os.write(descriptor, line.encode()) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    found = Entry.from_json(told)
    if standing := _standing([*entries, found]):
        _point(folder, standing[-1])
    return found


@contextmanager
def _held(folder: Path) -> Iterator[list[Entry]]:
    """The log, while nobody else can change it, with what a killed process left behind set right."""
    store.make_folder(folder / VERSIONS)
    held = _wait(lambda: lock.take(folder / LOCK))
    if held is None:
        raise UserError(
            f"Another process has been changing {folder.name} for {PATIENCE:.0f} s.",
            where=str(folder / LOCK),
            remedy="Wait until it ends, or stop it.",
        )
    try:
        yield _mended(folder)
    finally:
        held.release()


def _mended(folder: Path) -> list[Entry]:
    store.sweep(folder)
    path = folder / LOG
    lines = _lines(path)
    whole = sum(len(line) + 1 for line in lines)
    if path.is_file() and path.stat().st_size > whole:  # the last line has no end: it never happened
        os.truncate(path, whole)
    entries = [Entry.from_json(json.loads(line)) for line in lines]
    known = {_version(folder, entry.version).name for entry in entries}
    for place in (folder / VERSIONS).iterdir():
        if place.name not in known:
            shutil.rmtree(place, ignore_errors=True)
    standing = _standing(entries)
    if standing:
        _point(folder, standing[-1])
    return entries


def _point(folder: Path, number: int) -> None:
    """Sets the link, in one step."""
    target = Path(VERSIONS) / _version(folder, number).name
    link = folder / CHAMPION
    with suppress(OSError):
        if link.readlink() == target:
            return
    temporary = folder / f".tmp-{os.getpid()}-{os.urandom(4).hex()}"
    with store.guard(link):
        temporary.symlink_to(target, target_is_directory=True)
        temporary.replace(link)


def _wait(attempt: Callable[[], lock.Lock | None]) -> lock.Lock | None:
    until = time.monotonic() + PATIENCE
    while True:
        found = attempt()
        if found is not None or time.monotonic() > until:
            return found
        time.sleep(0.05)


def _demand_bundle(run: Run) -> Path:
    bundle = run.bundle
    if bundle is None or run.state != "done":
        raise BundleError(
            f"The run {run.name} has no finished model; it is {run.state}.",
            where=str(run.path),
            remedy="Give its training command again, or choose another run: inflame runs",
        )
    return bundle


def _same(one: Path, other: Path) -> bool:
    """Whether two bundles are the same, by the hash of what is in them."""
    first, second = (json.loads(store.read_text(place / "bundle.json")).get("version") for place in (one, other))
    return first is not None and first == second


def _version(folder: Path, number: int) -> Path:
    return folder / VERSIONS / f"{number:04}"


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:32]


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"
