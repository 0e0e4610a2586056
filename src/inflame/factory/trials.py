"""What is known about sweeps: a folder for each, with what it was told (`sweep.json`) and what became of its trials
(the journal). Everything here only reads, and needs no Optuna unless the journal is in a database."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from inflame import plugins, store
from inflame.errors import DataError, did_you_mean
from inflame.records import JobSpec, Record
from inflame.runs import lock

SWEEP, STATE, JOURNAL, LOCK = "sweep.json", "state.json", "journal.log", "lock"
ATTRIBUTE = "inflame"  # of a trial of Optuna's: all that this page knows about it
ENDED = ("done", "stopped", "failed")
_CREATE_TRIAL, _SET_USER_ATTRIBUTE = 4, 8  # operations of Optuna's journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Record):
    """One point of a sweep, and what came of it.

    `settings`: value by full name of what is varied. `state`: waiting (for its turn, or a longer one), running, done
    (to its end), stopped (before that, with a checkpoint) or failed. `values`: of the objectives, the last known ones.
    `run`: the run folder, "" before there is one. `reason`: why it was stopped or failed. `seconds`: of all sittings.
    `budget`: seconds or epochs of its last sitting (None: the recipe's own), `rung`: how many longer ones it has won.
    `job`: the id of its job, `attempt`: how many were started, `kills`: how many of them were killed. `host`: where.
    `cost`: US dollars for machines elsewhere, None where nobody knows.
    """

    number: int
    settings: dict[str, Any] = field(default_factory=dict)
    state: str = "waiting"
    values: tuple[float, ...] = ()
    run: str = ""
    reason: str = ""
    seconds: float = 0.0
    budget: float | None = None
    rung: int = 0
    job: str = ""
    attempt: int = 0
    kills: int = 0
    host: str = ""
    cost: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Record):
    """What a sweep was told. `model` is a model folder; `fixed` the settings that all trials share, as `key=value`;
    `objectives` names and `directions` ("maximize" or "minimize") of what is judged; `space` the axes by full name of
    the setting (see `inflame.config.axes`), `points` the settings of each trial where somebody has listed them;
    `own` what the recipe itself says of them, where that lies within the space; `budget` seconds and `most` trials in
    all, None where there is no limit; `storage` the uri of the journal, "" for the file in the folder; `rungs` the
    budgets that a trial may have one after the other, in `unit`s ("seconds", "epochs", "": the recipe's own); `hang`
    seconds of silence that are too many. `job`: what its trials have in common as jobs of the place `where`, None where
    they are processes that share this home; `price` of an hour of one of them and `max_money` for all together in US
    dollars, None where nobody knows or cares; `devices`: how many each of them trains on."""

    name: str
    folder: str
    model: str
    fixed: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ("val.accuracy",)
    directions: tuple[str, ...] = ("maximize",)
    space: dict[str, Any] = field(default_factory=dict)
    points: tuple[dict[str, Any], ...] = ()
    own: dict[str, Any] = field(default_factory=dict)
    sampler: str = "random"
    seed: int = 0
    budget: float | None = None
    most: int | None = None
    workers: int = 1
    where: str = "local"
    job: JobSpec | None = None
    price: float | None = None
    max_money: float | None = None
    devices: int = 1
    stopping: bool = True
    unit: str = ""
    rungs: tuple[float, ...] = ()
    hang: float = 300.0
    storage: str = ""
    identity: str = ""
    started: float = 0.0
    words: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The sweep that `to_json` described."""
        job = JobSpec.from_json(value["job"]) if value.get("job") else None
        return super(Sweep, cls).from_json({**value, "job": job})

    @property
    def mark(self) -> str:
        """What tells its outputs from those of any other sweep, also of one with the same name and words."""
        return hashlib.sha256(f"{self.identity} {self.started}".encode()).hexdigest()[:6]

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @property
    def state(self) -> str:
        """`running`, `done`, or `interrupted`: the same command goes on."""
        if lock.held(self.path / LOCK):
            return "running"
        return "done" if _json(self.path / STATE).get("state") == "done" else "interrupted"

    @property
    def seconds(self) -> float:
        """How long it has been worked on, all sittings together."""
        return float(_json(self.path / STATE).get("seconds", 0.0))


def folder_of_sweeps() -> Path:
    """`$INFLAME_HOME/sweeps`."""
    return store.make_folder(store.home() / "sweeps")


def list_sweeps() -> list[Sweep]:
    """Every sweep, the one begun last first."""
    found = [_read(path) for path in folder_of_sweeps().iterdir()]
    return sorted((sweep for sweep in found if sweep is not None), key=lambda sweep: (-sweep.started, sweep.name))


def find(name: str) -> Sweep:
    """The sweep of that name, or in that folder; of several `NAME-001`, `NAME-002` the last. None: DataError."""
    found = _read(Path(name).expanduser()) or _read(folder_of_sweeps() / name)
    if found is not None:
        return found
    sweeps = list_sweeps()
    named = [sweep for sweep in sweeps if sweep.name.rpartition("-")[0] == name]
    if named:
        return max(named, key=lambda sweep: sweep.name)
    names = [sweep.name for sweep in sweeps]
    raise DataError(
        f'There is no sweep "{name}".{did_you_mean(name, names)}',
        where=str(folder_of_sweeps()),
        remedy=f"Name one of these: {', '.join(names[:8])}" if names else "Make one: inflame sweep MODEL key=a,b,c",
    )


def trials(sweep: Sweep) -> list[Trial]:
    """The trials of the sweep by their numbers, those that have their settings."""
    attributes = _from_storage(sweep) if sweep.storage else _from_journal(sweep.path / JOURNAL)
    return [Trial.from_json({**value, "number": number}) for number, value in enumerate(attributes) if value]


def _from_journal(path: Path) -> list[dict[str, Any]]:
    """What each trial was last said to be, by number. A last line that was cut off by a kill is left out."""
    found: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    for line in lines:
        with suppress(ValueError, KeyError, IndexError):
            told = json.loads(line)
            if told["op_code"] == _CREATE_TRIAL:
                found.append(told.get("user_attrs", {}).get(ATTRIBUTE) or {})
            elif told["op_code"] == _SET_USER_ATTRIBUTE and ATTRIBUTE in told["user_attr"]:
                found[told["trial_id"]] = told["user_attr"][ATTRIBUTE]
    return found


def _from_storage(sweep: Sweep) -> list[dict[str, Any]]:
    optuna: Any = plugins.need("optuna", "sweep", "A sweep in a database")
    study = optuna.load_study(study_name=sweep.name, storage=sweep.storage)
    return [trial.user_attrs.get(ATTRIBUTE) or {} for trial in study.get_trials(deepcopy=False)]


def _read(folder: Path) -> Sweep | None:
    value = _json(folder / SWEEP)
    return Sweep.from_json({**value, "folder": str(folder.resolve())}) if "name" in value else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
