"""The runs that this machine knows: those in `$INFLAME_HOME/runs`, and those that a link there leads to."""

from __future__ import annotations

from pathlib import Path

from inflame.errors import DataError, did_you_mean
from inflame.runs import index
from inflame.runs.index import folder_of_runs
from inflame.runs.run import STATUS, Run


def list_runs() -> list[Run]:
    """Every run, the one worked on last first."""
    return [Run(path=Path(folder)) for folder, _ in index.known()]


def latest(with_bundle: bool = True) -> Run | None:
    """The run worked on last (that has a model, unless told otherwise), or None."""
    return next((run for run in list_runs() if run.bundle is not None or not with_bundle), None)


def find(name_or_path: str | Path) -> Run:
    """The run of that name, or in that folder (its bundle will do). None such: DataError with the nearest name."""
    text = str(name_or_path)
    path = Path(text).expanduser()
    for folder in (path, path.parent if path.name == "bundle" else path, folder_of_runs() / text):
        if (folder / STATUS).is_file():
            return Run(path=folder.resolve())
    runs = list_runs()
    if named := next((run for run in runs if run.name == text), None):
        return named
    names = [run.name for run in runs]
    raise DataError(
        f'There is no run "{text}".{did_you_mean(text, names)}',
        where=str(folder_of_runs()),
        remedy="See the runs there are: inflame runs" if names else "Train a model first: inflame train mnist",
    )
