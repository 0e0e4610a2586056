"""What comes next, where drivers on several machines ask at one moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inflame.config.axes import Axis
from inflame.factory import trials as known
from inflame.factory.journal import Journal
from inflame.factory.trials import Sweep
from inflame.factory.turns import Turns

AXES = [Axis(key="seed", values=(0, 1, 2))]
Quicker = Callable[[Turns, Turns], None]
SPACE = [*AXES, Axis(key="hyperparam.learning_rate", low=1e-4, high=1e-1, log=True)]


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Sweep]:
    def made(**more: object) -> Sweep:
        folder = known.folder_of_sweeps() / "seeds-001"
        folder.mkdir(exist_ok=True)
        storage = f"sqlite:///{tmp_path}/sweeps.db"
        return Sweep(name="seeds-001", folder=str(folder), model="m", storage=storage, **more)  # type: ignore[arg-type]

    return made


def turns(sweep: Sweep, axes: list[Axis], host: str) -> Turns:
    return Turns(sweep, axes, Journal(sweep, axes), lambda: 60.0, host)


@pytest.fixture
def quicker(monkeypatch: pytest.MonkeyPatch) -> Quicker:
    """Lets the second take its turn just after the first has read what was tried."""

    def arranged(one: Turns, other: Turns) -> None:
        plain = one.journal.refresh

        def read() -> None:
            plain()
            monkeypatch.setattr(one.journal, "refresh", plain)
            assert other.next(()) is not None

        monkeypatch.setattr(one.journal, "refresh", read)

    return arranged


def points(sweep: Sweep) -> list[dict[str, object]]:
    return [trial.settings for trial in known.trials(sweep)]


def test_a_point_of_a_grid_is_taken_once(sweep: Callable[..., Sweep], quicker: Quicker) -> None:
    made = sweep(sampler="grid")
    here, there = (turns(made, AXES, host) for host in ("here", "there"))
    quicker(here, there)
    taken = here.next(())
    assert taken is not None
    assert (taken.number, taken.settings) == (1, {"seed": 1})
    quicker(here, there)
    assert here.next(()) is None, "the other one took the last"
    assert here.next(()) is None
    assert there.next(()) is None
    assert points(made) == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert sorted(there.journal.trials) == sorted(Journal(made, AXES).trials) == [0, 1, 2]


def test_the_point_of_a_number_that_was_taken_back_is_tried_later(
    sweep: Callable[..., Sweep], quicker: Quicker
) -> None:
    first = sweep(sampler="grid", most=1)
    here, there = (turns(first, AXES, host) for host in ("here", "there"))
    quicker(here, there)
    assert here.next(()) is None
    assert points(first) == [{"seed": 0}]
    longer = turns(sweep(sampler="grid", most=3), AXES, "here")
    while longer.next(()):
        pass
    assert sorted(points(first), key=str) == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_no_more_trials_than_were_asked_for(sweep: Callable[..., Sweep], quicker: Quicker, sampler: str) -> None:
    made = sweep(sampler=sampler, most=4, directions=("maximize",))
    here, there = (turns(made, SPACE, host) for host in ("here", "there"))
    for number in (1, 3):
        quicker(here, there)
        trial = here.next(())
        assert trial is not None
        assert trial.number == number
    assert here.next(()) is None
    assert there.next(()) is None
    settings = points(made)
    assert len(settings) == 4
    assert all(one not in settings[:place] for place, one in enumerate(settings)), "each of its own"
    assert here.journal.trials[3].settings == settings[3]
