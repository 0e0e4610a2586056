"""A sweep before its first trial: everything that was said is checked, and a folder made, or found: the same words go
on with the sweep that they began."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from inflame import config, host, store
from inflame.config import axes
from inflame.config.axes import Axes, Axis
from inflame.errors import DataError, UserError, did_you_mean
from inflame.factory import objectives, samplers, stopping
from inflame.factory.trials import SWEEP, Sweep, folder_of_sweeps, list_sweeps
from inflame.records import JobSpec, dumps

SEED = "seed"
TOP = 0.25  # share of the sweep's time that its longest trial may take, where nobody says how long one is
LEAST = 3.0  # seconds that any training takes
COLD = 4.0  # seconds until the first trial is at work where nothing is warm yet, and what its end takes
_FIXED_ALWAYS = ("output", "resume", "debug", "io.training_output")
_SPACES = Path("conf") / "sweep"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody asks for. `budget` in seconds; `workers` 0: as many as suit the machine; `stopping` None: where it
    saves time without falsifying a comparison; `job`, `price` and `max_money` as in `Sweep`."""

    model: Path
    words: tuple[str, ...]
    objective: str = "val.accuracy"
    sampler: str = ""
    name: str = ""
    budget: float | None = None
    most: int | None = None
    workers: int = 0
    where: str = "local"
    job: JobSpec | None = None
    price: float | None = None
    max_money: float | None = None
    stopping: bool | None = None
    storage: str = ""
    hang: float = 300.0
    seed: int = 0


def plan(wish: Wish) -> tuple[Sweep, list[Axis]]:
    """The sweep that a wish describes, without a folder yet, and its axes. Whatever can't be done: UserError."""
    told = axes.read(wish.model, wish.words)
    _refuse_words(told)
    names, directions = objectives.understand(wish.objective.split(","), wish.model)
    found = samplers.choose(wish.sampler, told.axes, len(names), wish.most)
    if wish.budget is None and wish.most is None and wish.max_money is None and found != "grid":
        raise UserError(
            "Such a space has no end, and the sweep would have none.",
            remedy="Say how long, or how many trials: --in 30m   or   --trials 50",
        )
    steps = _steps(wish, told, found, len(names))
    _refuse_too_short(wish, steps)
    sweep = Sweep(
        name=wish.name or title(told),
        folder="",
        model=str(wish.model.resolve()),
        fixed=told.fixed,
        objectives=names,
        directions=directions,
        space={axis.key: axis.to_json() for axis in told.axes},
        own=told.own,
        sampler=found,
        seed=wish.seed,
        budget=wish.budget,
        most=wish.most,
        workers=wish.workers or workers(told.settings.devices),
        where=wish.where,
        job=wish.job,
        price=wish.price,
        max_money=wish.max_money,
        devices=told.settings.devices,
        stopping=_prunes(wish, found, len(names)),
        unit=steps.kind,
        rungs=steps.rungs,
        hang=wish.hang,
        storage=wish.storage,
        words=wish.words,
    )
    return replace(sweep, identity=identity(sweep, told.settings.code)), list(told.axes)


def begin(sweep: Sweep) -> Sweep:
    """The sweep in its folder: that of the unfinished one with the same words, else a new one."""
    for other in list_sweeps():
        if other.identity == sweep.identity and other.state != "done":
            now = replace(
                other,
                workers=sweep.workers,
                hang=sweep.hang,
                budget=sweep.budget,
                most=sweep.most,
                price=sweep.price,
                max_money=sweep.max_money,
            )
            if now != other and other.state != "running":
                store.write(other.path / SWEEP, dumps({**now.to_json(), "folder": ""}))
            return now
    sweeps = folder_of_sweeps()
    title = re.sub(r"-\d+$", "", sweep.name) if (sweeps / sweep.name).exists() else sweep.name
    taken = [
        int(found[1]) for path in sweeps.iterdir() if (found := re.fullmatch(re.escape(title) + r"-(\d+)", path.name))
    ]
    for number in range(max(taken, default=0) + 1, 1_000_000):
        folder = sweeps / f"{title}-{number:03}"
        with suppress(FileExistsError):
            folder.mkdir()
            made = replace(sweep, name=folder.name, folder=str(folder), started=round(time.time(), 3))
            store.write(folder / SWEEP, dumps({**made.to_json(), "folder": ""}))
            return made
    raise AssertionError("unreachable")


def space_file(name: str, model: Path) -> Path:
    """The file of a space: a path, or NAME for `conf/sweep/NAME.yaml` here or in the model folder. None: DataError."""
    path = Path(name).expanduser()
    folders = (Path.cwd() / _SPACES, model / _SPACES)
    for candidate in (path, *(folder / f"{name}.yaml" for folder in folders)):
        if candidate.is_file():
            return candidate
    known = [file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")]
    raise DataError(
        f'There is no space "{name}".{did_you_mean(name, known)}',
        where=str(folders[0]),
        remedy=f"Name a YAML file{' or one of: ' + ', '.join(known) if known else ''}.",
    )


def workers(each: int = 1) -> int:
    """How many trials at a time suit this machine: one for each GPU (where a trial uses several, for so many), or else
    for each core."""
    return len(host.gpus()) // max(1, each) or host.cores()


def slots(count: int) -> list[list[int]]:
    """The cores of each of `count` workers: as many for each, none twice while there are enough."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return _dealt(cores, count, max(1, len(cores) // count))


def cards(count: int, each: int = 1) -> list[list[str]]:
    """The GPUs of each of `count` workers, by their names, `each` for each, none twice while there are enough; empty
    lists where this machine has none."""
    found = host.gpus()
    return _dealt(found, count, min(max(1, each), len(found)))


def _dealt(things: Sequence[T], count: int, each: int) -> list[list[T]]:
    return [[things[(slot * each + place) % len(things)] for place in range(each)] for slot in range(count)]


def _refuse_words(told: Axes) -> None:
    if not told.axes:
        raise UserError(
            "There is nothing to vary: every setting has one value.",
            remedy="Give one several: hyperparam.learning_rate=1e-3,1e-2   or   seed=range(0,5)",
        )
    for word in (*told.fixed, *(axis.key for axis in told.axes)):
        key = word.partition("=")[0]
        if key in _FIXED_ALWAYS:
            raise UserError(
                f"{key} can't be given to a sweep: each trial has a run folder of its own.",
                where=f"command line: {word}",
                remedy=f"Leave it out; --name NAME names the sweep{' and --in TIME its time' if key == 'in' else ''}.",
            )


def _steps(wish: Wish, told: Axes, sampler: str, count: int) -> stopping.Ladder:
    """The budgets of a trial: what is said of one, else a share of the sweep's time."""
    varied = {axis.key for axis in told.axes}
    prunes = _prunes(wish, sampler, count)
    epochs = told.settings.hyperparam.get("num_epochs") or 0
    if "in" in varied or "hyperparam.num_epochs" in varied:
        return stopping.Ladder()
    if told.settings.budget is not None:
        return stopping.ladder(told.settings.budget, 0, stopping=prunes)
    if epochs:
        return stopping.ladder(None, epochs, stopping=prunes)
    if wish.budget is None or "num_epochs" not in told.settings.hyperparam:
        return stopping.Ladder()
    return stopping.ladder(_share(wish, told, sampler, prunes=prunes), 0, stopping=prunes)


def _share(wish: Wish, told: Axes, sampler: str, *, prunes: bool) -> float:
    """Seconds of a trial (with rungs: of the longest one) where only those of the sweep are known."""
    assert wish.budget is not None
    count = wish.most or (int(samplers.size(told.axes)) if sampler == "grid" else None)
    at_once = wish.workers or workers(told.settings.devices)
    if count is None:
        return float(f"{max(LEAST, wish.budget * TOP):.4g}")
    each = wish.budget / math.ceil(count / at_once)
    if prunes:  # three rungs of 1, 3 and 9 cost 3 a trial; two of 1 and 3 cost 2
        each = min(3.0 * each, wish.budget * TOP)
    return float(f"{max(LEAST, 0.9 * each):.4g}")


def _prunes(wish: Wish, sampler: str, count: int) -> bool:
    """Whether trials compete for time. A grid is a table to be filled, seeds are to be compared, and of two objectives
    none alone decides."""
    if count > 1:
        return False
    seeds = any(word.startswith(f"{SEED}=") and re.search(r"[,(]", word) for word in wish.words)
    return wish.stopping if wish.stopping is not None else sampler != "grid" and not seeds


def _refuse_too_short(wish: Wish, steps: stopping.Ladder) -> None:
    if wish.most is not None and wish.most < 1:
        raise UserError(f"--trials takes a number of trials, 1 or more, not {wish.most}.", remedy="--trials 20")
    if wish.workers < 0:
        raise UserError(f"--workers takes a number of workers, 1 or more, not {wish.workers}.", remedy="--workers 2")
    if wish.budget is None:
        return
    one = steps.rungs[0] if steps.kind == "seconds" else LEAST
    if wish.budget < one + COLD:
        raise UserError(
            f"The sweep has {wish.budget:g} s, and a single trial takes {one:g} s, with {COLD:g} s around the first.",
            where="--in",
            remedy=f"Give it --in {math.ceil(2 * one + 2 * COLD)}s or more"
            + (f", or each trial less: in={max(LEAST, wish.budget / 3):.0f}s." if one > LEAST else "."),
        )


def identity(sweep: Sweep, code: str) -> str:
    """The hash of all that makes it this sweep; how many work at it, for how long and for how much doesn't."""
    ends = ("budget", "most", "price", "max_money", "hang")
    bystanders = ("folder", "workers", "started", "identity", "rungs", "words", *ends)
    said = {name: value for name, value in sweep.to_json().items() if name not in bystanders}
    given: dict[str, Any] = {**said, "code": code, "rungs": sweep.rungs if sweep.unit == "epochs" else ()}
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()


def title(told: Axes) -> str:
    """The name of a sweep that has none: model and data."""
    model, data = told.settings.model, slug(told.settings.io.training_input)
    return model if data == model else f"{model}-{data}"


def slug(text: str) -> str:
    """The last part of a path or uri, fit for the name of a folder."""
    last = text.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.]+", "-", last).strip("-.")[:40] or config.FILE.partition("-")[0]
