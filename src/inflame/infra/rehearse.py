"""The job that would be sent, tried here: packed, sent by its place's own launcher to a control plane of that place on
this machine, begun there in a fresh folder with its own list of packages, on a sample; killed after its first
checkpoint, sent again, exported. Then the place itself is looked at."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inflame import store
from inflame.errors import InflameError, RunError
from inflame.infra import attempts, jobs, launch, machines
from inflame.infra.command import EXIT, RUN
from inflame.infra.launcher import ENDED, NOT_OK, OK, UNKNOWN, Finding
from inflame.infra.loopback.stage import Stage, stage
from inflame.infra.pack import bare, requirements
from inflame.records import Job, JobSpec, Record

ITEMS, EPOCHS = 200, 30  # of the sample; enough epochs to be killed between the first and the last
BUDGET = 60.0  # seconds of a training that is told neither a time nor a number of epochs
SECONDS = 240.0  # after which a rehearsal is given up
INSTALLING = 900.0  # further seconds, where all packages may have to be installed first
MOST = 2  # machines of a rehearsal
LOOK = 0.2  # seconds between two looks at a job
_OVER = (*ENDED, "preempted")
_SAMPLE = ("limit=", "in=", "hyperparam.num_epochs=", "debug=", "devices=")
_CHECKPOINT = ("last", "checkpoint.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal(Record):
    """What was found. `seconds` (the whole job there, as far as it can be told from here) and `cost` are estimates,
    None where nobody knows."""

    findings: tuple[Finding, ...]
    seconds: float | None = None
    cost: float | None = None

    @property
    def well(self) -> bool:
        """Whether nothing was found that would fail."""
        return all(one.state != NOT_OK for one in self.findings)


def rehearse(
    spec: JobSpec, backend: str, *, fresh: bool = False, say: Callable[[str], None] = lambda _: None
) -> Rehearsal:
    """Tries the job and looks at its place. What can't be planned at all is raised as it is by `launch.plan`.

    `fresh`: in a Python that has what the image has and nothing else; all other packages are installed into it.
    """
    plan = launch.plan(spec, backend)
    requirements.demand_driver(plan.place)
    say(f"packed  {len(launch.requirements_of(plan.luggage))} packages, archive {plan.luggage.name[:12]}")
    place = store.make_folder(store.home() / "cache" / "rehearsals")
    with tempfile.TemporaryDirectory(dir=place, prefix="r-", ignore_cleanup_errors=True) as folder:
        found, run = _run(plan, Path(folder), fresh=fresh, say=say)
        seconds = _estimate(plan.spec)
        measured = [*_pace(run), *_memory(plan.machine, run)]
    looked = _look(backend, plan.spec)
    cost = None if seconds is None else plan.machine.cost(seconds, spec.count)
    told = [*found, *measured, *looked, *_told(plan.machine, seconds, cost, spec)]
    return Rehearsal(findings=tuple(told), seconds=seconds, cost=cost)


def demand_well(done: Rehearsal) -> None:
    """RunError that names what would fail."""
    bad = [one for one in done.findings if one.state == NOT_OK]
    if bad:
        raise RunError(
            f"The rehearsal failed: {'; '.join(f'{one.what}: {one.text}' for one in bad)}",
            remedy=bad[0].remedy or "Mend it, or send the job as it is: --no-rehearsal",
        )


# --- the job itself ------------------------------------------------------------------------------


def _run(plan: launch.Plan, folder: Path, *, fresh: bool, say: Callable[[str], None]) -> tuple[list[Finding], Path]:
    """Two attempts at the sample: the first one is killed. What was found, and the run folder."""
    spec = replace(plan.spec, arguments=sample(plan.spec), count=min(plan.spec.count, MOST))
    python = bare.python(spec.image) if fresh else Path(sys.executable)
    seconds = SECONDS + (INSTALLING if fresh else 0.0)
    run = folder / RUN
    try:
        with stage(plan, spec, folder, python) as here:
            run = here.output / RUN
            say("begins  on a sample of the data, killed after its first checkpoint")
            first = here.launcher.send(here.request)
            wrong = _lose_after_checkpoint(here, first, seconds)
            if wrong is not None:
                return [*_taken(here, plan.backend), wrong], run
            say("resumes")
            second = _wait(here, first if here.restarts else here.launcher.send(here.request))
            return [*_taken(here, plan.backend), *_judge(here, second, fresh=fresh)], run
    except InflameError as error:
        return [Finding(what="request", state=NOT_OK, text=error.message, remedy=error.remedy)], run


def sample(spec: JobSpec) -> tuple[str, ...]:
    """The job's words, for a sample of the data. A time that was given stays a time: it decides the recipe."""
    kept = tuple(word for word in spec.arguments if not word.startswith(_SAMPLE))
    timed = any(word.startswith("in=") for word in spec.arguments) or Path(spec.model).name == "auto"
    return (*kept, f"limit={ITEMS}", "in=15s" if timed else f"hyperparam.num_epochs={EPOCHS}")


def _taken(here: Stage, backend: str) -> list[Finding]:
    """Whether it was sent in the words of its place."""
    if backend == "local":
        return []
    if here.taker:
        ran = f", and ran it {here.ran}" if here.ran else ""
        return [Finding(what="request", state=OK, text=f"sent as it would be, {here.taker} took it{ran}")]
    text = f"{backend} itself took no part in the rehearsal: it was tried as a packaged job of this machine"
    return [Finding(what="request", state=UNKNOWN, text=text, remedy=here.remedy)]


def _lose_after_checkpoint(here: Stage, job: Job, seconds: float) -> Finding | None:
    """Takes its machines away, as a power cut would; a finding where it failed before, or never saved."""
    until, looked = time.monotonic() + seconds, 0.0
    while time.monotonic() < until:
        if here.output.joinpath(RUN, *_CHECKPOINT).is_file():
            _lose(here, job)
            return None
        if time.monotonic() - looked > LOOK:
            now, looked = here.launcher.status(job), time.monotonic()
            if now.status == "done":
                text = "it ended without a checkpoint: killed, it would begin anew"
                return Finding(what="checkpoint", state=NOT_OK, text=text, remedy="Save on the way: engine.checkpoint")
            if now.status in _OVER:
                return _failed(here, now)
        time.sleep(0.01)
    _lose(here, job)
    text = f"no checkpoint within {seconds:.0f} s"
    return Finding(what="job", state=NOT_OK, text=text, remedy="Try a smaller model")


def _lose(here: Stage, job: Job) -> None:
    """Until its place knows that it is gone, or has begun it again by itself."""
    here.lose(job)
    while not here.restarts and here.launcher.status(job).status not in _OVER:
        time.sleep(LOOK / 4)


def _wait(here: Stage, job: Job) -> Job:
    until = time.monotonic() + SECONDS
    while (now := here.launcher.status(job)).status not in _OVER:
        if time.monotonic() > until:
            here.lose(job)
            return replace(now, status="failed", reason=f"it has not ended within {SECONDS:.0f} s")
        time.sleep(LOOK / 2)
    return now


def _judge(here: Stage, job: Job, *, fresh: bool) -> list[Finding]:
    if job.status != "done":
        return [_failed(here, job)]
    run = here.output / RUN
    status = _json(run / "status.json")
    text = f"{status.get('model', 'it')} trains from its archive, in a fresh folder"
    rows = [Finding(what="job", state=OK, text=f"{text}{' and a fresh Python' if fresh else ''}")]
    if int(status.get("sittings", 0)) > 1:
        rows.append(Finding(what="resume", state=OK, text="killed after a checkpoint, it went on"))
    else:
        rows.append(Finding(what="resume", state=NOT_OK, text="killed after a checkpoint, it began anew"))
    bundle = run / "bundle" / "bundle.json"
    text = f"{sum(path.stat().st_size for path in bundle.parent.rglob('*') if path.is_file()) / 2**20:.1f} MB"
    if bundle.is_file():
        rows.append(Finding(what="export", state=OK, text=f"the bundle is whole, {text}"))
    else:
        rows.append(Finding(what="export", state=NOT_OK, text="no bundle came out", remedy="See engine.bundle.export"))
    return rows


def _failed(here: Stage, job: Job) -> Finding:
    seen, lines = attempts.read(str(here.output)), []
    with suppress(InflameError):
        lines = list(here.launcher.logs(job))
    way = next((line.strip()[4:] for line in reversed(lines) if line.strip().startswith("do: ")), "")
    told = [line.rpartition("error: ")[2] for line in lines if line.startswith(("error: ", "inflame: error: "))]
    text = seen.reason or next(reversed(told), "") or job.reason or next(reversed(lines), "")
    return Finding(what="job", state=NOT_OK, text=text or f"it ended with code {job.code}", remedy=way)


# --- its place, and what is to be expected -------------------------------------------------------


def _look(backend: str, spec: JobSpec) -> list[Finding]:
    try:
        return jobs.launcher(backend).check(spec)
    except InflameError as error:
        return [Finding(what=backend, state=UNKNOWN, text=error.message, remedy=error.remedy)]


def _estimate(spec: JobSpec) -> float | None:
    """Seconds of the whole training where its words or its model's configuration give it a time; None for a number of
    epochs, because how many items there are is seen there alone."""
    from inflame.config.schema import parse_duration

    words = dict(word.split("=", 1) for word in spec.arguments if "=" in word)
    if "in" in words:
        return parse_duration(words["in"])
    return None if _number(words.get("hyperparam.num_epochs", _epochs(spec))) != 0 else BUDGET


def _pace(run: Path) -> list[Finding]:
    """How long a step takes here, from the first row of the metrics to the last."""
    rows = []
    with suppress(OSError, ValueError):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    timed = [(row["step"], row["seconds"]) for row in rows if {"step", "seconds"} <= row.keys()]
    steps = timed[-1][0] - timed[0][0] if timed else 0
    if not steps:
        return []
    each = (timed[-1][1] - timed[0][1]) / steps
    size = _json(run / "config.json").get("hyperparam", {}).get("batch_size", "?")
    text = f"{each:.3f} s a step of {size} items on this machine, with what comes between epochs"
    return [Finding(what="step", state=OK, text=text)]


def _number(value: Any) -> int | None:
    with suppress(TypeError, ValueError):
        return int(value)
    return None


def _epochs(spec: JobSpec) -> Any:
    import tomllib

    with suppress(OSError, tomllib.TOMLDecodeError):
        text = (launch.folder_of(spec) / "model-config.toml").read_text(encoding="utf-8")
        return tomllib.loads(text).get("hyperparam", {}).get("num_epochs")
    return None


def _memory(machine: machines.Machine, run: Path) -> list[Finding]:
    """What the sample took here (the data and the packages, not a GPU), against what the machine has."""
    taken = _json(run.parent / EXIT).get("memory")
    if not taken:
        return []
    text = f"the sample took {taken / 2**30:.1f} GB here"
    if machine.memory is None:
        return [Finding(what="memory", state=UNKNOWN, text=f"{text}; what there is there is unknown")]
    gpu = f" and {machine.gpus} x {machine.gpu}" if machine.gpus else ""
    enough = taken < machine.memory * 1e9
    way = "" if enough else "Take a larger machine, or a smaller batch"
    text = f"{text}, there are {machine.memory} GB{gpu}"
    return [Finding(what="memory", state=OK if enough else NOT_OK, text=text, remedy=way)]


def _told(machine: machines.Machine, seconds: float | None, cost: float | None, spec: JobSpec) -> list[Finding]:
    time_text = (
        "unknown: it depends on the number of items" if seconds is None else f"about {seconds:.0f} s, as it is told"
    )
    rows = [Finding(what="time", state=OK if seconds is not None else UNKNOWN, text=time_text)]
    said = "unknown" if machine.price is None else machine.said()
    if cost is not None and spec.max_money is not None and cost > spec.max_money:
        text = f"about ${cost:.2g}, more than the cap of ${spec.max_money:g}"
        return [
            *rows,
            Finding(what="price", state=NOT_OK, text=text, remedy="Raise --max-money, or train for less time"),
        ]
    whole = f"about ${cost:.2g}: {said}" if cost is not None else said
    return [*rows, Finding(what="price", state=OK if machine.price is not None else UNKNOWN, text=whole)]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
