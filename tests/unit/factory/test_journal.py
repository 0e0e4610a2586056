"""The journal: whole trials, whoever is killed in the middle of a line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from inflame.config.axes import Axis
from inflame.errors import DataError, UserError
from inflame.factory import trials as known
from inflame.factory.journal import Journal
from inflame.factory.trials import Sweep, Trial
from inflame.records import dumps

AXES = [Axis(key="seed", values=(0, 1, 2)), Axis(key="hyperparam.learning_rate", low=1e-4, high=1e-1, log=True)]


def sweep(folder: Path, name: str = "lr-001", **more: object) -> Sweep:
    folder = known.folder_of_sweeps() / name
    folder.mkdir(exist_ok=True)
    made = Sweep(name=name, folder=str(folder), model="m", **more)  # type: ignore[arg-type]
    (folder / known.SWEEP).write_text(dumps(made.to_json()))
    return made


def point(number: int) -> dict[str, object]:
    return {"seed": number, "hyperparam.learning_rate": 0.01}


def test_what_is_written_is_read_with_and_without_optuna(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    journal = Journal(made, AXES)
    first, second = (journal.create(Trial(number=0, settings=point(n), host="here")) for n in range(2))
    assert (first.number, second.number) == (0, 1)
    journal.write(replace(first, state="running", job="j", attempt=1, run="r"))
    journal.write(replace(second, state="waiting", values=(0.5,), budget=5.0))
    journal.write(replace(first, state="done", values=(0.75,), run="r", seconds=3.0))
    expected = [Trial(number=0, settings=point(0), state="done", values=(0.75,), run="r", seconds=3.0, host="here")]
    expected.append(Trial(number=1, settings=point(1), state="waiting", values=(0.5,), budget=5.0, host="here"))
    assert known.trials(made) == expected
    assert list(Journal(made, AXES).trials.values()) == expected
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(made.path / known.JOURNAL))
    study = optuna.load_study(study_name="lr-001", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "RUNNING"]
    assert study.best_params == point(0)


def test_half_a_line_is_no_line(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    Journal(made, AXES).create(Trial(number=0, settings=point(0)))
    path = made.path / known.JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:40])
    assert len(known.trials(made)) == 1
    journal = Journal(made, AXES)
    assert len(journal.trials) == 1
    assert journal.create(Trial(number=0, settings=point(1))).number == 1
    assert [json.loads(line) for line in path.read_text().splitlines()]
    assert len(known.trials(made)) == 2


def test_killed_between_what_it_was_and_that_it_ended(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    journal = Journal(made, AXES)
    trial = journal.create(Trial(number=0, settings=point(0)))
    journal.write(replace(trial, state="done", values=(1.0,)))
    path = made.path / known.JOURNAL
    lines = path.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["op_code"] == 6
    path.write_text("".join(lines[:-1]))
    Journal(made, AXES)
    assert json.loads(path.read_text().splitlines()[-1])["op_code"] == 6, "said once more"


def test_sweeps_are_found_by_name_by_beginning_and_by_folder(tmp_path: Path) -> None:
    for number in (1, 2):
        sweep(tmp_path, f"lr-00{number}", started=float(number))
    assert [one.name for one in known.list_sweeps()] == ["lr-002", "lr-001"]
    assert known.find("lr").name == "lr-002"
    assert known.find("lr-001").name == "lr-001"
    assert known.find(str(known.folder_of_sweeps() / "lr-001")).name == "lr-001"
    assert known.find("lr-001").state == "interrupted"
    with pytest.raises(DataError, match='Did you mean "lr-001"'):
        known.find("lr-0001")


def test_a_database_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be used"):
        Journal(sweep(tmp_path, storage=f"sqlite:///{tmp_path}/no/folder/x.db"), AXES)
    with pytest.raises(UserError, match="can't be used"):
        Journal(sweep(tmp_path, storage="nonsense"), AXES)
