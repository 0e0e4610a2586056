"""A run told to TensorBoard in this process, read back with TensorBoard's own reader; and a tracker that fails."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from inflame import plugins
from inflame.config import Settings
from inflame.model.engine.trackers import mirror, story
from inflame.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore")  # what protobuf and TensorBoard deprecate of each other


def run_of(epochs: int, *, more: int = 0) -> Run:
    """A finished run with so many rows, and what a training leaves beside them."""
    settings = Settings(model="m", folder="m", seed=5)
    with Run.begin(settings, "i", "d") as run:
        for epoch in range(1, epochs + more + 1):
            run.metric(epoch=epoch, step=10 * epoch, loss=1 / epoch, seconds=epoch / 10)
        (run.path / "bundle").mkdir(exist_ok=True)
        run.write("bundle/bundle.json", "{}")
        run.write("dataset.json", {"name": "d", "version": "v7", "classes": ["a", "b"]})
        run.write("report.json", {"confusion": {"classes": ["a", "b"], "matrix": [[3, 1], [0, 4]]}})
        run.status(test={"accuracy": 0.9, "low": 0.8, "high": 0.95, "n": 20})
    return Run(path=run.path)


def over() -> threading.Event:
    """A training that has ended."""
    event = threading.Event()
    event.set()
    return event


def shown(run: Run) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.path / "trackers/tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def test_tensorboard_shows_numbers_pictures_and_texts_of_a_run_once() -> None:
    pytest.importorskip("tensorboard")
    run, said = run_of(3), list[str]()
    (run.path / story.SYSTEM).parent.mkdir(exist_ok=True)
    assert mirror.Mirror(run, "tensorboard", over(), said.append).run()
    found = shown(run)
    scalars = {(one.step, round(one.value, 4)) for one in found.Scalars("loss")}
    assert scalars == {(10, 1.0), (20, 0.5), (30, 0.3333)}
    assert found.Images("confusion")[0].encoded_image_string[:4] == b"\x89PNG"
    assert b"0.9" in found.Tensors("summary/text_summary")[0].tensor_proto.string_val[0]
    assert said[-1].startswith("all is there: tensorboard --logdir ")
    memo = mirror.memo(run.path, "tensorboard")
    assert (memo["rows"], memo["ended"], memo["error"]) == (3, "done", "")
    assert mirror.Mirror(run, "tensorboard", over(), said.append).run()  # nothing is new
    assert len(shown(run).Scalars("loss")) == 3
    assert len(shown(run).Images("confusion")) == 1


class Broken:
    """A tracker that can't be reached at first, and later can."""

    fails = 1
    told: ClassVar[list[tuple[str, Any]]] = []

    def place(self) -> str:
        return "there"

    def begin(self, about: Any, key: str) -> str:
        if Broken.fails:
            Broken.fails -= 1
            raise ConnectionError("nobody\nis  there")
        return "key"

    def numbers(self, points: Any) -> None:
        self.told.append(("numbers", [point.step for point in points]))

    def picture(self, name: str, file: Path) -> None:
        self.told.append(("picture", name))

    def files(self, name: str, path: Path) -> None:
        self.told.append(("files", name))

    def end(self, state: str, summary: Any) -> str:
        return f"{state} at {self.place()}"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> type[Broken]:
    monkeypatch.setattr(plugins, "load", lambda seam, name: Broken)
    monkeypatch.setattr(mirror, "AGAIN", 0.05)
    monkeypatch.setattr(mirror, "POLL", 0.02)
    Broken.fails, Broken.told = 1, []
    return Broken


def test_one_that_fails_is_said_once_tried_again_and_told_all(broken: type[Broken]) -> None:
    broken.fails = 3
    run, said, end = run_of(2), list[str](), threading.Event()
    steps: list[int] = []

    def alive() -> None:
        steps.append(1)
        if len(steps) == 5:  # noted: three failures, the beginning, the rows
            end.set()

    assert mirror.Mirror(run, "broken", end, said.append, alive).run()
    assert said[0] == "ConnectionError: nobody is there; the training goes on, and this is tried again"
    assert said[1:] == ["all is there: done at there"]
    assert broken.told[0] == ("numbers", [10, 20])
    assert ("files", "bundle") in broken.told


def test_one_that_fails_at_the_end_leaves_word_for_later(broken: type[Broken]) -> None:
    run, said = run_of(2), list[str]()
    assert not mirror.Mirror(run, "broken", over(), said.append).run()
    assert mirror.memo(run.path, "broken")["error"] == "ConnectionError: nobody is there"
    assert mirror.Mirror(run, "broken", over(), said.append).run()
    assert mirror.memo(run.path, "broken")["error"] == ""


def test_a_memo_that_is_broken_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / story.TRACKERS).mkdir()
    for text in ("", "[1, 2]", "{"):
        (tmp_path / story.TRACKERS / "x.json").write_text(text)
        assert mirror.memo(tmp_path, "x") == {}
