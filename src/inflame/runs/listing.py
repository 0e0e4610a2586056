"""The runs that this machine knows: those in `$INFLAME_HOME/runs`, and those that a link there leads to."""

from __future__ import annotations

from pathlib import Path

from inflame import store
from inflame.errors import DataError, did_you_mean
from inflame.runs.run import STATUS, Run


def folder_of_runs() -> Path:
    """`$INFLAME_HOME/runs`."""
    return store.home() / "runs"


def list_runs() -> list[Run]:
    """Every run, the one worked on last first."""
    folders = {entry.resolve() for entry in folder_of_runs().iterdir() if (entry / STATUS).is_file()}
    runs = [Run(path=path) for path in folders]
    return sorted(runs, key=lambda run: (_updated(run), run.name), reverse=True)


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


def _updated(run: Run) -> float:
    """When the run was last worked on; 0 where its status doesn't say."""
    time = run.read_status().get("updated")
    return time if isinstance(time, float) else 0.0
