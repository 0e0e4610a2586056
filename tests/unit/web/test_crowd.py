"""One net for one and for many: who asks alone gets all cores, a crowd gets one each, and the answers are the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflame.errors import BundleError
from inflame.model.engine.bundle import Predictor, amend
from inflame.web import crowd, runtimes
from inflame.web.answers import Answer
from inflame.web.crowd import Crowd
from inflame.web.models import Model
from inflame.web.runtimes import Choice
from inflame.web.settings import Settings


class Net:
    """Says its name, when `gate` lets it."""

    def __init__(self, name: str) -> None:
        self.name, self.gate, self.entered = name, threading.Event(), threading.Semaphore(0)
        self.gate.set()

    def run(self, names: Sequence[str], inputs: dict[str, Any]) -> list[Any]:
        self.entered.release()
        assert self.gate.wait(20)
        return [self.name]

    def get_outputs(self) -> list[Any]:
        return [self.name]


def crowded(made: Crowd, wide: Net, narrow: Callable[[], Any]) -> None:
    """Two runs at once, and what comes of it is waited for."""
    wide.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(made.run, [], {}) for _ in range(2)]
        assert all(wide.entered.acquire(timeout=20) for _ in range(2))
        wide.gate.set()
        assert [one.result(20) for one in runs] == [["wide"], ["wide"]]
    for thread in threading.enumerate():
        if thread.name == "narrow":
            thread.join(20)


def test_a_crowd_gets_one_core_each_until_it_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "_CALM", 1e9)
    wide, made = Net("wide"), list[Net]()

    def narrow() -> Net:
        assert wide.gate.wait(20)  # not before both runs are there
        made.append(Net("narrow"))
        return made[-1]

    both = Crowd(wide, 2, narrow)
    assert both.get_outputs() == ["wide"]
    assert both.run([], {}) == ["wide"]
    assert not made
    wide.entered.acquire()
    crowded(both, wide, narrow)
    assert both.run([], {}) == ["narrow"]
    assert both.run([], {}) == ["narrow"]
    assert len(made) == 1
    monkeypatch.setattr(crowd, "_CALM", 0.0)
    assert both.run([], {}) == ["wide"]


@pytest.mark.parametrize("narrow", [lambda: None, lambda: 1 / 0])
def test_without_another_session_there_is_still_the_one(
    narrow: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "_CALM", 1e9)
    wide = Net("wide")
    both = Crowd(wide, 2, narrow)
    crowded(both, wide, narrow)
    assert both.run([], {}) == ["wide"]


def test_both_say_the_same(fruit_bundle: Path, photo_set: Path) -> None:
    model = Model("fruit", fruit_bundle, Settings())
    contents = [file.read_bytes() for file in sorted(photo_set.rglob("*.jpg"))[::4]]
    wide = model.answer(contents)
    narrow = runtimes.narrow(model.predictor, Choice())
    assert narrow is not None
    model.predictor.use(narrow)
    for one, other in zip(wide, model.answer(contents), strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        assert one.label == other.label
        assert np.allclose(one.shares, other.shares, atol=1e-5)


def test_a_net_for_one_thing_says_the_same_of_one_and_of_many(fruit_bundle: Path, photo_set: Path) -> None:
    predictor = Predictor(fruit_bundle)
    single = runtimes.single(predictor, Choice())
    assert single is not None
    inputs = predictor.prepare([file.read_bytes() for file in sorted(photo_set.rglob("*.jpg"))[::4]])
    right = predictor.run(inputs)
    assert [one.name for one in single.get_outputs()][:2] == ["logits", "embedding"]
    predictor.use(single)
    for place in range(len(right[0])):
        one = predictor.run({name: value[place : place + 1] for name, value in inputs.items()})
        assert all(np.allclose(a[place], b[0], atol=1e-4) for a, b in zip(right, one, strict=True))
    assert single._several is None  # it isn't there before it is needed
    assert all(np.array_equal(a, b) for a, b in zip(right, predictor.run(inputs), strict=True))
    assert runtimes.single(predictor, Choice(runtime="of a stranger")) is None


@pytest.mark.parametrize("agrees", [True, False])
def test_what_takes_long_is_asked_one_thing_at_a_time(
    fruit_bundle: Path, apple: bytes, monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    """By a net made for that, where it answers its canaries as the bundle does."""
    asked = list[str]()

    class Other:
        def __init__(self, one: Any) -> None:
            self.one = one

        def run(self, names: Sequence[str], inputs: dict[str, Any]) -> list[Any]:
            asked.append("single")
            return [part if agrees else 0 * part for part in self.one.run(names, inputs)]

    monkeypatch.setattr("inflame.web.models.LONG", 0.0)
    single = runtimes.single
    monkeypatch.setattr(runtimes, "single", lambda *given: Other(single(*given)))
    model = Model("fruit", fruit_bundle, Settings())
    assert model.single
    assert asked
    asked.clear()
    (found,) = model.answer([apple])
    assert isinstance(found, Answer)
    assert found.label == "apple"
    assert bool(asked) == agrees


def test_a_large_net_is_not_held_twice_and_a_replaced_one_not_at_all(
    fruit_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    folder = Path(shutil.copytree(fruit_bundle, tmp_path / "bundle"))
    predictor = Predictor(folder)
    with monkeypatch.context() as patch:
        patch.setattr(runtimes, "LARGE", 10)
        assert runtimes.narrow(predictor, Choice()) is None
    amend(folder, {"card.md": b"# another\n"})
    with pytest.raises(BundleError, match="Another bundle"):
        runtimes.narrow(predictor, Choice())
