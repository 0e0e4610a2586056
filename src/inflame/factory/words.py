"""What a trial is told: its run folder, and the words of its command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from inflame.config import axes
from inflame.config.axes import Axis
from inflame.factory.trials import Sweep, Trial
from inflame.runs.index import folder_of_runs


def run_folder(sweep: Sweep, trial: Trial) -> Path:
    """The folder of the trial's run; of seconds, each rung is a run of its own."""
    rung = f"-{trial.rung + 1}" if sweep.unit == "seconds" and trial.rung else ""
    return folder_of_runs() / f"{sweep.name}.{trial.number:04}{rung}"


def run_folders(sweep: Sweep, trial: Trial) -> list[Path]:
    """The folders of all its runs so far, the last one included."""
    rungs = range(trial.rung + 1) if sweep.unit == "seconds" else (trial.rung,)
    return [run_folder(sweep, replace(trial, rung=rung)) for rung in rungs]


def words(sweep: Sweep, trial: Trial) -> tuple[str, ...]:
    """The settings of the trial as `key=value`."""
    fixed = list(sweep.fixed)
    if sweep.unit == "seconds":
        fixed = [*(word for word in fixed if not word.startswith("in=")), f"in={trial.budget}"]
    return (*fixed, *(axes.text(key, value) for key, value in trial.settings.items()))


def example(sweep: Sweep, varied: Sequence[Axis]) -> tuple[str, ...]:
    """Words like those of a trial."""
    said = (axes.text(axis.key, axis.values[0] if axis.finite else axis.high) for axis in varied)
    return (*sweep.fixed, *said)
