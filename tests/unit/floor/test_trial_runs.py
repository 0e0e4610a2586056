"""Runs that are trials of a sweep: they say so, and what was done before is not done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from inflame.config import Settings
from inflame.runs import Run, find
from inflame.runs.run import Already


@pytest.fixture(autouse=True)
def _sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_SWEEP", "lr-001")
    monkeypatch.setenv("INFLAME_TRIAL", "7")
    monkeypatch.setenv("INFLAME_REUSE", "1")


def begin(home: Path, name: str, identity: str = "same", *, fresh: bool = False) -> Run:
    settings = Settings(model="m", folder="m", output=str(home / "runs" / name), fresh=fresh)
    with Run.begin(settings, identity, "d") as run:
        run.metric(epoch=1)
    return Run(path=home / "runs" / name)


def test_a_trial_says_whose_it_is(home: Path) -> None:
    run = begin(home, "lr-001.0007")
    assert run.read_status()["sweep"] == "lr-001"
    assert run.read_status()["trial"] == 7
    assert [path.name for path in (home / "runs").iterdir()] == ["lr-001.0007"], "no second name for it"


def test_a_finished_run_of_the_same_identity_takes_the_place_of_a_trial(home: Path) -> None:
    first = begin(home, "one")
    with pytest.raises(Already):
        begin(home, "two")
    assert (home / "runs" / "two").resolve() == first.path.resolve()
    assert find("two").read_status() == first.read_status()
    assert begin(home, "three", "another").state == "done"
    assert begin(home, "four", fresh=True).path.resolve() != first.path.resolve()


def test_one_that_is_not_finished_does_not(home: Path) -> None:
    settings = Settings(model="m", folder="m", output=str(home / "runs" / "one"))
    with pytest.raises(RuntimeError), Run.begin(settings, "same", "d"):
        raise RuntimeError
    assert begin(home, "two").state == "done"


def test_without_a_sweep_a_run_is_done_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFLAME_REUSE")
    monkeypatch.delenv("INFLAME_SWEEP")
    first = begin(home, "one")
    assert "sweep" not in first.read_status()
    assert begin(home, "two").path.resolve() != first.path.resolve()
