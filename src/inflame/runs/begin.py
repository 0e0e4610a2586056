"""Which folder a training works in: a new one, or the one that an earlier, unfinished start left."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import remote, store
from inflame.errors import InflameError, UserError
from inflame.records import dumps
from inflame.runs import difference, lock
from inflame.runs.index import folder_of_runs, known
from inflame.runs.listing import find, list_runs
from inflame.runs.run import FORMAT, LOCK, METRICS, PREVIOUS, STATUS, Already, Cost, Live, Run

if TYPE_CHECKING:
    from inflame.config import Settings

_NOTHING = ("lost+found", LOCK)  # what an empty folder may hold
SWEEP, TRIAL = "INFLAME_SWEEP", "INFLAME_TRIAL"  # the sweep that a run is a trial of, and its number there
REUSE = "INFLAME_REUSE"  # set where a finished run of the same identity does as well


def begin(settings: Settings, identity: str, name: str, version: str = "") -> Run:
    """See `Run.begin`."""
    output = settings.output
    elsewhere = store.local(output) if output else None
    uri = output if output and elsewhere is None else ""
    title = f"{_slug(settings.model)}-{_slug(name)}"
    if REUSE in os.environ and elsewhere is not None and not (settings.fresh or settings.resume):
        _reuse(elsewhere, identity)
    differs: list[str] = []
    if settings.resume:
        path, held, differs = _named(settings, identity, version)
    elif elsewhere is not None:
        path, held = _at(Path(os.path.realpath(elsewhere)), identity, settings, version)
    else:
        path, held = (None if settings.fresh else _unfinished(identity, uri)) or _new(title)
    try:
        if uri:
            _bring(path, uri, identity, settings, version)
        run = _opened(path, held, settings=settings, identity=identity, name=name, uri=uri, differs=differs)
        if elsewhere is not None:
            _link(run.path, title)
    except BaseException:
        held.release()
        raise
    return run


def _opened(
    path: Path, held: lock.Lock, *, settings: Settings, identity: str, name: str, uri: str, differs: list[str]
) -> Run:
    before = Run(path=path).read_status()
    resumed = bool(before)
    cost = Cost(before.get("cost"), settings.devices)
    live = Live(held, earlier=float(before.get("seconds", 0.0)), uri=uri, cost=cost)
    run = Run(path=path, resumed=resumed, live=live)
    if resumed:
        store.sweep(path)
        _mend(path / METRICS)
    run.write("config.json", dumps(settings))
    run.status(
        format=FORMAT,
        state="running",
        identity=identity,
        recipe=replace(settings, seed=0, split_seed=0).identity()[:16],
        seed=settings.seed,
        model=settings.model,
        dataset=name,
        output=settings.output,
        started=before.get("started", round(time.time(), 3)),
        sittings=int(before.get("sittings", 0)) + 1,
        pid=os.getpid(),
        error=None,
        differs=differs,
        **_trial(),
    )
    return run


def _trial() -> dict[str, Any]:
    """The sweep and the number of this trial, where it is one."""
    sweep, number = os.environ.get(SWEEP, ""), os.environ.get(TRIAL, "")
    return {"sweep": sweep, "trial": int(number)} if sweep and number.isdigit() else {}


def _reuse(output: Path, identity: str) -> None:
    """Where a run of this identity is finished: makes `output` a link to it and raises Already."""
    if os.path.lexists(output):
        return
    for folder, status in known():
        if identity in status and (info := json.loads(status)).get("identity") == identity and info["state"] == "done":
            with suppress(FileExistsError):
                output.symlink_to(folder, target_is_directory=True)
            raise Already(folder)


def _unfinished(identity: str, uri: str) -> tuple[Path, lock.Lock] | None:
    """The newest unfinished run of this identity that nobody works in, locked."""
    for run in list_runs():
        info = run.read_status()
        local = store.local(info.get("output") or "") if info.get("output") else None
        if info.get("identity") != identity or info.get("state") == "done" or local is not None:
            continue
        if (info.get("output") or "") != uri:
            continue
        held = lock.take(run.path / LOCK)
        if held is None:
            continue
        if run.read_status().get("state") != "done":  # it may have ended while we looked
            return run.path, held
        held.release()
    return None


def _bring(path: Path, uri: str, identity: str, settings: Settings, version: str) -> None:
    """Copies the unfinished run at the uri into the folder, where that is empty: another machine may have begun it.
    What holds another run is refused."""
    if not store.exists(store.join(uri, STATUS)):
        return
    info = json.loads(store.read_text(store.join(uri, STATUS)))
    done = _refuse_another(uri, info, identity, settings, version)
    if done or settings.fresh or (path / STATUS).is_file():
        return
    names = remote.ask(uri, lambda system, place: [str(name).partition(place)[2] for name in system.find(place)])
    # The status comes last: a folder that has one is whole.
    for name in sorted((name.strip("/") for name in names), key=lambda name: name == STATUS):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        store.download(store.join(uri, name), path / name)


def _new(title: str) -> tuple[Path, lock.Lock]:
    """A folder of its own for this process, however many start at once."""
    runs = folder_of_runs()
    for number in count(_next(runs, title)):
        path = runs / f"{title}-{number:03}"
        try:
            with store.guard(path):
                path.mkdir()
        except FileExistsError:
            continue
        held = lock.take(path / LOCK)
        if held is not None:
            return path, held
    raise AssertionError


def _at(path: Path, identity: str, settings: Settings, version: str) -> tuple[Path, lock.Lock]:
    """The folder that `output` names: empty, or a run of this identity."""
    store.make_folder(path)
    with store.guard(path):
        foreign = [entry.name for entry in path.iterdir() if entry.name not in _NOTHING and entry.name[0] != "."]
    if foreign and not (path / STATUS).is_file():
        raise UserError(
            f"{path} is not empty, and not the folder of a run.",
            where=f"output={path}",
            remedy="Name a folder that doesn't exist yet: output=FOLDER",
        )
    held = lock.take(path / LOCK)
    if held is None:
        raise UserError(
            f"Another process is working in {path}.",
            where=f"output={path}",
            remedy="Wait until it ends, stop it, or name another folder: output=FOLDER",
        )
    try:
        _admit(path, identity, settings, version)
    except BaseException:
        held.release()
        raise
    return path, held


def _admit(path: Path, identity: str, settings: Settings, version: str) -> None:
    """Refuses a folder with another run in it; puts aside what is in one that is to be done again."""
    info = Run(path=path).read_status()
    done = _refuse_another(str(path), info, identity, settings, version)
    if info and (done or settings.fresh):
        with store.guard(path):
            _put_aside(path)


def _refuse_another(place: str, info: dict[str, Any], identity: str, settings: Settings, version: str) -> bool:
    """Whether the run at the place is finished; UserError, with what differs, where it is another run."""
    done, same = info.get("state") == "done", info.get("identity") == identity
    if info and not same and (done or not settings.fresh):
        what = "a finished" if done else "an unfinished"
        lines = difference.found(settings, version, lambda name: store.read_text(store.join(place, name)))
        raise UserError(
            f"{store.shown(place)} holds another run, {what} one with other settings or data"
            f"{f': {difference.told(lines)}' if lines else ''}.",
            where=f"output={store.shown(place)}",
            remedy="Name another folder: output=FOLDER" + ("" if done else ", or replace that run: fresh=true"),
        )
    return done


def _put_aside(path: Path) -> None:
    """Nothing that was done is lost before the new run is: `.previous` holds it until then."""
    aside = path / PREVIOUS
    aside.mkdir(exist_ok=True)
    entries = [entry for entry in path.iterdir() if entry.name not in (*_NOTHING, PREVIOUS)]
    # The status goes last: after a kill in between, the next start sees the same folder and carries on here.
    for entry in sorted(entries, key=lambda entry: entry.name == STATUS):
        if not (aside / entry.name).exists():
            entry.rename(aside / entry.name)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _named(settings: Settings, identity: str, version: str) -> tuple[Path, lock.Lock, list[str]]:
    """The run that `resume=` names, locked, and in what it differs, with more time or without. UserError where it does
    and `force` isn't set."""
    run = find(settings.resume)
    held = lock.take(run.path / LOCK)
    info = run.read_status()
    if held is None or info.get("state") == "done":
        if held is not None:
            held.release()
        raise UserError(
            f"The run {run.name} " + ("is being worked on by another process." if held is None else "is finished."),
            where=f"resume={settings.resume}",
            remedy="Wait until it ends, or stop it." if held is None else "Leave resume out to begin a new run.",
        )
    lines = [] if info.get("identity") == identity else _differences(run, settings, version)
    if lines and not settings.force:
        held.release()
        raise UserError(
            f"The run {run.name} was begun with other settings or data: {difference.told(lines)}.",
            where=f"resume={settings.resume}",
            remedy="Give it those, or go on all the same with what fits: force=true",
        )
    return run.path, held, lines


def _differences(run: Run, settings: Settings, version: str) -> list[str]:
    lines = difference.found(settings, version, lambda name: (run.path / name).read_text(encoding="utf-8"))
    return [line for line in lines if not line.startswith(f"{difference.TIME}=")]


def _link(path: Path, title: str) -> None:
    """Makes a run that lives elsewhere known to `list_runs`; a home that can't be written to stops nothing."""
    with suppress(InflameError, OSError):
        runs = folder_of_runs()
        if path.parent == runs.resolve():
            return
        if any(entry.resolve() == path for entry in runs.iterdir()):
            return
        for number in count(_next(runs, title)):
            with suppress(FileExistsError):
                (runs / f"{title}-{number:03}").symlink_to(path, target_is_directory=True)
                return


def _next(runs: Path, title: str) -> int:
    pattern = re.compile(re.escape(title) + r"-(\d+)")
    taken = [int(found[1]) for entry in runs.iterdir() if (found := pattern.fullmatch(entry.name))]
    return max(taken, default=0) + 1


def _mend(metrics: Path) -> None:
    """Cuts off a last line that a kill left without its end, so that the next row stands on a line of its own."""
    if not metrics.is_file():
        return
    content = metrics.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        store.write(metrics, whole)


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:60] or "run"
