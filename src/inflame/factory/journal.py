"""What became of each trial, written down by Optuna's storages: a file in the folder of the sweep, or a database.

A trial is created whole, with its settings, in one line: a driver that is killed leaves no half of one.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from inflame import plugins, store
from inflame.config.axes import Axis
from inflame.errors import MissingExtra, UserError
from inflame.factory.samplers import distribution, plain
from inflame.factory.trials import ATTRIBUTE, JOURNAL, Sweep, Trial

_TRIES = 8  # to make the tables of a database
_STATES = {"done": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}


class Journal:
    """The trials of one sweep, in memory and on disk. `trials` by number."""

    def __init__(self, sweep: Sweep, axes: Sequence[Axis]) -> None:
        self._optuna: Any = plugins.need("optuna", "sweep", "inflame sweep")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        self._directions = [self._optuna.study.StudyDirection[way.upper()] for way in sweep.directions]
        self._storage = self._opened(sweep)
        self._study = self._named(sweep.name)
        self._spaces = {axis.key: distribution(self._optuna, axis) for axis in axes}
        self._ids: dict[int, int] = {}
        self.trials: dict[int, Trial] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads what is written: also by drivers on other machines, where the journal is in a database."""
        running = self._optuna.trial.TrialState.RUNNING
        for told in self._storage.get_all_trials(self._study, deepcopy=False):
            self._ids[told.number] = told._trial_id
            if told.user_attrs.get(ATTRIBUTE):
                trial = Trial.from_json({**told.user_attrs[ATTRIBUTE], "number": told.number})
                self.trials[told.number] = trial
                if trial.ended and told.state == running:  # killed between the two lines
                    self._tell(trial)
            else:  # taken back
                self.trials.pop(told.number, None)

    def create(self, trial: Trial) -> Trial:
        """Adds a trial; gives it with its number."""
        params = {key: value for key, value in trial.settings.items() if key in self._spaces}
        template = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING,
            params={key: plain(value) for key, value in params.items()},
            distributions={key: self._spaces[key] for key in params},
            user_attrs={ATTRIBUTE: trial.to_json()},
        )
        found = self._storage.create_new_trial(self._study, template_trial=template)
        number = self._storage.get_trial_number_from_id(found)
        self._ids[number] = found
        made = Trial.from_json({**trial.to_json(), "number": number})
        self.trials[number] = made
        return made

    def write(self, trial: Trial) -> Trial:
        """Notes what has become of a trial."""
        self.trials[trial.number] = trial
        self._storage.set_trial_user_attr(self._ids[trial.number], ATTRIBUTE, trial.to_json())
        if trial.values and len(self._directions) == 1 and not trial.ended:
            step = int(1000 * (trial.budget or 1))
            self._storage.set_trial_intermediate_value(self._ids[trial.number], step, trial.values[0])
        if trial.ended:
            self._tell(trial)
        return trial

    def drop(self, trial: Trial) -> None:
        """Takes back a trial that was created and never begun; its number stays used."""
        del self.trials[trial.number]
        self._storage.set_trial_user_attr(self._ids[trial.number], ATTRIBUTE, {})
        self._storage.set_trial_state_values(self._ids[trial.number], self._optuna.trial.TrialState.FAIL)

    def _tell(self, trial: Trial) -> None:
        state = self._optuna.trial.TrialState[_STATES[trial.state]]
        whole = len(trial.values) == len(self._directions)
        values = list(trial.values) if whole and trial.state != "failed" else None
        with suppress(self._optuna.exceptions.UpdateFinishedTrialError):  # another driver took us for killed in between
            self._storage.set_trial_state_values(self._ids[trial.number], state, values)

    def _opened(self, sweep: Sweep) -> Any:
        storages = self._optuna.storages
        if not sweep.storage:
            path = sweep.path / JOURNAL
            _mend(path)
            return storages.JournalStorage(_Lines(path, storages.journal.JournalFileBackend(str(path))))
        shown = store.shown(sweep.storage)
        try:
            return _in_turn(lambda: storages.RDBStorage(sweep.storage, engine_kwargs={"pool_pre_ping": True}))
        except ImportError as error:
            raise MissingExtra(
                f"The storage {shown} needs the package {error.name or 'of its database'}, which isn't installed.",
                extra="postgres",
                where=f"--storage {shown}",
            ) from error
        except Exception as error:  # whatever a database driver may raise
            raise UserError(
                f"The storage {shown} can't be used: {_first_line(error)}",
                where=f"--storage {shown}",
                remedy="Write it like sqlite:////shared/sweeps.db or postgresql+psycopg://user@host/database",
            ) from error

    def _named(self, name: str) -> int:
        try:
            found = self._storage.create_new_study(self._directions, name)
        except self._optuna.exceptions.DuplicatedStudyError:
            found = self._storage.get_study_id_from_name(name)
        return int(found)


def _in_turn(opened: Callable[[], Any]) -> Any:
    """What `opened` gives. It makes the tables where there are none: a driver that began at the same moment may have
    made them in between, which the database refuses, and the next try finds them there."""
    for left in reversed(range(_TRIES)):
        try:
            return opened()
        except Exception as error:
            # By name, for SQLAlchemy is Optuna's: what exists already, or a row that another one has written.
            if not left or type(error).__name__ not in ("ProgrammingError", "IntegrityError"):
                raise
            time.sleep(random.uniform(0.1, 0.5))
    raise AssertionError


class _Lines:
    """The file backend of Optuna's journal, with a lock that the kernel lets go when its process dies (Optuna's own is
    waited for), and a disk that is waited for once a second at most: a kill loses nothing, a power cut little."""

    def __init__(self, path: Path, plain: Any) -> None:
        self._path, self._plain, self._synced = path, plain, 0.0

    def read_logs(self, log_number_from: int) -> Any:
        """As Optuna's."""
        return self._plain.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds lines, all or none of them."""
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with store.guard(self._path), self._path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data)
            if time.monotonic() - self._synced > 1.0:
                os.fsync(file.fileno())
                self._synced = time.monotonic()


def _mend(path: Path) -> None:
    """Cuts off a last line that a kill left without its end."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        store.write(path, content[: content.rfind(b"\n") + 1])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
