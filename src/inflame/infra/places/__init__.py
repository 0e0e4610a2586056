"""What all places elsewhere have in common: their settings, the names of jobs, and how a job is sent exactly once.

A place's settings come from `[on.NAME]` of an `inflame.toml`, in this folder or in one above it, or else from the
environment. Secrets come from the environment only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from inflame import remote, store
from inflame.errors import (
    DataError,
    InflameError,
    MissingExtra,
    NetworkError,
    RunError,
    SettingError,
    UserError,
    did_you_mean,
)
from inflame.infra.command import RUN
from inflame.infra.launcher import ENDED, NOT_OK, OK, UNKNOWN, Finding, Launcher, run_folder
from inflame.infra.places.rest import Absent
from inflame.records import Job, JobSpec, Package, Record

FILE = "inflame.toml"
GONE = 137  # exit code of a job that vanished without a word
STOPPED = 143  # of one that was told to stop
AFTER = 300.0  # seconds that a place waits beyond the cap on time, which the job itself keeps: it has to save
_LARGE = 2**20  # bytes of a file of which it is worth asking when it was changed
_MOST = 100  # jobs of one name
_SECRET = re.compile(r"secret|password|token|(^|_)key$|credential", re.IGNORECASE)
_BEFORE = (*ENDED, "preempted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Record):
    """A setting of a place: what it is, the environment variables that also say it, and what holds without."""

    name: str
    help: str
    variables: tuple[str, ...] = ()
    default: str = ""
    example: str = ""
    required: bool = False


class Place(Launcher):
    """A launcher of machines elsewhere, whose jobs bring their run folders to their output. `settings`: where, and as
    whom, by name."""

    settings: dict[str, str]

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = dict(settings or {})

    def at(self, endpoint: str) -> Self:
        """The same with its service at another address."""
        return type(self)({**self.settings, "endpoint": endpoint})

    def fetch(self, job: Job) -> Path:
        """The run folder, from the output."""
        return fetched(job)


def settings(backend: str, known: Iterable[Setting], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The settings of a place by their names; empty text for what nobody says. `given` wins over the file.

    A key that isn't known, or a secret in the file: SettingError.
    """
    by_name = {one.name: one for one in known}
    path = _file()
    table = _table(path, backend) if path else {}
    for where, values in ((str(path), table), ("settings", given or {})):
        for name in values:
            _demand_known(name, by_name, backend, where)
    found = {**{name: _environment(one) for name, one in by_name.items()}, **table, **(given or {})}
    return {name: str(value) for name, value in found.items()}


def demand(backend: str, values: Mapping[str, str], known: Iterable[Setting]) -> None:
    """SettingError that names every required setting that nobody has said."""
    missing = [one for one in known if one.required and not values[one.name]]
    if not missing:
        return
    ways = (f" (or set {' or '.join(one.variables)})" if one.variables else "" for one in missing)
    lines = (f'{one.name} = "{one.example or "…"}"{way}' for one, way in zip(missing, ways, strict=True))
    raise SettingError(
        f"{backend} needs to know: {'; '.join(f'{one.name}, {one.help}' for one in missing)}.",
        where=f"[on.{backend}] of {FILE}",
        remedy=f"Write below [on.{backend}] in {FILE}: {'; '.join(lines)}",
    )


def demand_output(backend: str, spec: JobSpec, schemes: tuple[str, ...], values: Mapping[str, str]) -> None:
    """UserError for an output that machines of this place can't reach. On the loopback a folder is one."""
    scheme = remote.SCHEME.match(spec.output)
    if scheme and (scheme[1].lower() in schemes or (scheme[1].lower() == "file" and loopback(values))):
        return
    if spec.output and not scheme and "" in schemes:
        return
    example = {"s3": "s3://my-bucket/inflame", "gs": "gs://my-bucket/inflame", "az": "az://container/inflame"}
    what = f"{store.shown(spec.output)} is no place that its machines reach" if spec.output else "none is given"
    raise UserError(
        f"A job on {backend} needs an output that outlives its machine; {what}.",
        where="--output",
        remedy=f"Give one, for example: --output {example.get(schemes[0], '/shared/inflame')}",
    )


def loopback(values: Mapping[str, str]) -> bool:
    """Whether the place is a control plane on this machine."""
    return re.match(r"https?://(127\.|localhost)", values.get("endpoint", "")) is not None


def name(backend: str, spec: JobSpec, package: Package | None) -> str:
    """A name for the job that is the same for the same job: `inflame-mnist-3f0c…`, small letters, digits and `-`."""
    said = {"backend": backend, "spec": spec.to_json(), "code": package.to_json() if package else None}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
    stem = re.sub(r"[^a-z0-9]+", "-", Path(spec.model).name.lower()).strip("-")[:24].strip("-") or "model"
    return f"inflame-{stem}-{digest}"


def send_once(name: str, look: Callable[[str], Job | None], create: Callable[[str], Job | None]) -> Job:
    """The job of this name, sent if it isn't under way. One that has ended is followed by `name-2`, and so on.

    `look` says what is there, None for nothing. `create` gives None when nobody knows whether it did: the name has been
    taken meanwhile, or the answer got lost.
    """
    for number in range(1, _MOST):
        called = name if number == 1 else f"{name}-{number}"
        found = look(called)
        if found is None:
            return _created(called, look, create)
        if found.status not in _BEFORE:
            return found
    raise RunError(f"{name} has been sent {_MOST} times.", remedy="Send it to another output: --output URI")


def placeholders(names: Iterable[str]) -> dict[str, str]:
    """Environment variables of the user's, as a request shows them: `{"TOKEN": "${TOKEN}"}`."""
    return {name: f"${{{name}}}" for name in names}


def filled(request: Any, names: Iterable[str]) -> Any:
    """The request with the values of the user's environment variables. One that isn't set: UserError."""
    names = tuple(names)
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(
            f"The environment lacks {', '.join(missing)}, which the job asks for.", remedy=f"export {missing[0]}=…"
        )
    return _filled(request, {f"${{{name}}}": os.environ[name] for name in names})


def looked(
    settled: Callable[[], Any],
    able: Callable[[], Any],
    asked: Mapping[str, Callable[[], Finding]],
    unknown: Mapping[str, str],
) -> list[Finding]:
    """What a look shows: are the settings there (`settled`), is what we ask with (`able`), then one thing by one.
    `unknown`: what nobody can say beforehand, and why."""
    for what, try_it in (("settings", settled), ("login", able)):
        try:
            try_it()
        except InflameError as error:
            what = "SDK" if isinstance(error, MissingExtra) else what
            return [Finding(what=what, state=NOT_OK, text=error.message, remedy=error.remedy)]
    found = []
    for what, ask in asked.items():
        try:
            found.append(ask())
        except UserError as error:
            found.append(Finding(what=what, state=NOT_OK, text=error.message, remedy=error.remedy))
        except Absent as error:
            found.append(Finding(what=what, state=UNKNOWN, text=str(error)))
        except InflameError as error:
            found.append(Finding(what=what, state=UNKNOWN, text=error.message, remedy=error.remedy))
    return found + [Finding(what=what, state=UNKNOWN, text=why) for what, why in unknown.items()]


def writable(uri: str, remedy: str) -> Finding:
    """Whether a place can be written: by a file that is written there and read back."""
    where = store.join(uri, ".inflame-check")
    try:
        store.write(where, b"inflame")
        store.read_bytes(where)
    except InflameError as error:
        return Finding(what="output", state=NOT_OK, text=error.message, remedy=error.remedy or remedy)
    return Finding(what="output", state=OK, text=f"{store.shown(uri)} can be written.")


def vanished(job: Job) -> Job:
    """The job, when its place doesn't know it any more."""
    reason = f"{job.backend} doesn't know it any more: somebody has deleted it."
    return replace(job, status="failed", code=GONE, reason=reason)


def fetched(job: Job) -> Path:
    """The run folder of a job, brought to `home()/runs` from below its output; where that is a folder, in its place."""
    uri = store.join(job.output, RUN)
    folder = store.local(uri)
    if folder is None:
        folder = store.home() / "runs" / job.id.rpartition("/")[2]
        _bring(uri, folder)
    return run_folder(job, folder, at=store.shown(uri), remedy=f"See what it said: inflame jobs logs {job.id}")


def _created(name: str, look: Callable[[str], Job | None], create: Callable[[str], Job | None]) -> Job:
    for turn in range(remote.TRIES):
        found = create(name) or look(name)
        if found is not None:
            return found
        time.sleep(remote.PAUSE * 2**turn)
    raise NetworkError(
        f"{name} could not be sent in {remote.TRIES} tries: nobody answered.",
        remedy="Give the same command again: a job that has arrived after all is found by its name.",
    )


def _bring(uri: str, folder: Path) -> None:
    """Copies all files below a uri, each whole or not at all; large ones that are here unchanged stay."""
    base, files = remote.ask(uri, lambda system, place: (place.rstrip("/"), system.find(place, detail=True)))
    for place, about in files.items():
        relative = place.removeprefix(base).lstrip("/")
        source, target, size = store.join(uri, relative), folder / relative, about.get("size") or 0
        if ".." in target.parts:
            continue
        changed = (
            remote.ask(source, lambda system, place: system.modified(place)).timestamp() if size > _LARGE else None
        )
        if changed and target.is_file():
            mine = target.stat()
            if mine.st_size == size and abs(mine.st_mtime - changed) < 1e-3:
                continue
        store.download(source, target)
        if changed:
            os.utime(target, (changed, changed))


def _filled(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    return values.get(value, value) if isinstance(value, str) else value


def _file() -> Path | None:
    here = Path.cwd()
    return next((folder / FILE for folder in (here, *here.parents) if (folder / FILE).is_file()), None)


def _table(path: Path, backend: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(store.read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{FILE} is not valid TOML: {error}.", where=str(path), remedy="Correct it.") from error
    found = table.get("on", {})
    found = found.get(backend, {}) if isinstance(found, dict) else None
    if not isinstance(found, dict) or any(isinstance(value, dict | list) for value in found.values()):
        raise SettingError(
            f"[on.{backend}] must have lines of the form key = value.", where=str(path), remedy="Correct it."
        )
    return found


def _demand_known(name: str, known: Mapping[str, Setting], backend: str, where: str) -> None:
    if name in known:
        return
    if _SECRET.search(name):
        raise SettingError(
            f"{name} looks like a secret, and files are read by many.",
            where=where,
            remedy="Take it out, and give it by the environment.",
        )
    raise SettingError(
        f'{backend} has no setting "{name}".{did_you_mean(name, known)}',
        where=where,
        remedy=f"Use one of: {', '.join(known)}.",
    )


def _environment(one: Setting) -> str:
    return next((os.environ[name] for name in one.variables if os.environ.get(name)), one.default)
