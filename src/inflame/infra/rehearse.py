"""The job that would be sent, tried here: packed, unpacked into a fresh folder, begun by its bootstrap with its own
list of packages, on a sample; killed after its first checkpoint, begun again, exported. Then its place is looked at."""

from __future__ import annotations

import json
import os
import shutil
import signal
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
from inflame.infra.launcher import NOT_OK, OK, UNKNOWN, Finding
from inflame.infra.local import Local
from inflame.infra.pack import package
from inflame.records import Job, JobSpec, Record

ITEMS, EPOCHS = 200, 30  # of the sample; enough epochs to be killed between the first and the last
BUDGET = 60.0  # seconds of a training that is told neither a time nor a number of epochs
SECONDS = 240.0  # after which a rehearsal is given up
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


def rehearse(spec: JobSpec, backend: str, *, say: Callable[[str], None] = lambda _: None) -> Rehearsal:
    """Tries the job and looks at its place. What can't be planned at all is raised as it is by `launch.plan`."""
    plan = launch.plan(spec, backend)
    say(f"packed  {len(launch.requirements_of(plan.luggage))} packages, archive {plan.luggage.name[:12]}")
    place = store.make_folder(store.home() / "cache" / "rehearsals")
    with tempfile.TemporaryDirectory(dir=place, prefix="rehearsal-") as folder:
        found, run = _run(plan, Path(folder), say)
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


def _run(plan: launch.Plan, folder: Path, say: Callable[[str], None]) -> tuple[list[Finding], Path]:
    """Two attempts at the sample: the first one is killed."""
    spec = replace(plan.spec, arguments=sample(plan.spec), output=str(folder / "out"), count=1, machine="")
    carried = package.upload(plan.luggage, str(folder))
    local, run = Local(), folder / "out" / RUN
    said = os.environ.get("INFLAME_BEAT")
    os.environ["INFLAME_BEAT"] = "0.5"  # a killed machine is missed sooner
    try:
        say("begins  on a sample of the data, killed after its first checkpoint")
        first = local.send(local.request(spec, carried))
        killed = _kill_after_checkpoint(local, first, run)
        if killed is not None:
            return [killed], run
        say("resumes")
        second = _wait(local, local.send(local.request(spec, carried)))
        return _judge(local, second, run), run
    finally:
        os.environ.pop("INFLAME_BEAT") if said is None else os.environ.update(INFLAME_BEAT=said)
        _clear(local)


def sample(spec: JobSpec) -> tuple[str, ...]:
    """The job's words, for a sample of the data. A time that was given stays a time: it decides the recipe."""
    kept = tuple(word for word in spec.arguments if not word.startswith(_SAMPLE))
    timed = any(word.startswith("in=") for word in spec.arguments) or Path(spec.model).name == "auto"
    return (*kept, f"limit={ITEMS}", "in=15s" if timed else f"hyperparam.num_epochs={EPOCHS}")


def _kill_after_checkpoint(local: Local, job: Job, run: Path) -> Finding | None:
    """Kills the whole job, as a power cut would; a finding where it failed before, or never saved."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if run.joinpath(*_CHECKPOINT).is_file():
            _kill(local, job)
            return None
        now = local.status(job)
        if now.status == "done":
            text = "it ended without a checkpoint: killed, it would begin anew"
            return Finding(what="checkpoint", state=NOT_OK, text=text, remedy="Save on the way: engine.checkpoint")
        if now.status != "running":
            return _failed(local, now, run)
        time.sleep(0.01)
    _kill(local, job)
    return Finding(what="job", state=NOT_OK, text=f"no checkpoint within {SECONDS:.0f} s", remedy="Try a smaller model")


def _kill(local: Local, job: Job) -> None:
    for pid in local.processes(job):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    while local.status(job).status == "running":
        time.sleep(0.02)


def _wait(local: Local, job: Job) -> Job:
    until = time.monotonic() + SECONDS
    while (now := local.status(job)).status == "running":
        if time.monotonic() > until:
            _kill(local, job)
            return replace(now, status="failed", reason=f"it has not ended within {SECONDS:.0f} s")
        time.sleep(0.05)
    return now


def _judge(local: Local, job: Job, run: Path) -> list[Finding]:
    if job.status != "done":
        return [_failed(local, job, run)]
    status = _json(run / "status.json")
    rows = [
        Finding(what="job", state=OK, text=f"{status.get('model', 'it')} trains from its archive, in a fresh folder")
    ]
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


def _failed(local: Local, job: Job, run: Path) -> Finding:
    seen = attempts.read(str(run.parent))
    lines = list(local.logs(job))
    way = next((line.strip()[4:] for line in reversed(lines) if line.strip().startswith("do: ")), "")
    text = seen.reason or job.reason or (lines[-1] if lines else f"it ended with code {job.code}")
    return Finding(what="job", state=NOT_OK, text=text, remedy=way)


def _clear(local: Local) -> None:
    """What a rehearsal leaves among the local jobs is of no use to anybody."""
    for job in local.sent():
        shutil.rmtree(store.home() / "jobs" / job, ignore_errors=True)


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
