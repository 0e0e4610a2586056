"""Why a run did what it did: noted while it goes on, read again from its folder, told in a table."""

from __future__ import annotations

import time
from pathlib import Path

from inflame import config, plugins
from inflame.model.engine import reasons
from inflame.model.engine.reasons import Reasons
from inflame.runs import Run


def begin(tmp_path: Path, identity: str = "a") -> Run:
    settings = config.load(plugins.model_folder("auto"), [f"output={tmp_path / 'run'}"])
    return Run.begin(settings, identity, "fruit")


def test_what_is_noted_is_read_again_and_told(tmp_path: Path) -> None:
    with begin(tmp_path) as run:
        notes = Reasons(run, 2.5)
        notes.because("road", "photos", "their middle side is 400 px")
        notes.because("size", "224 px", "all of them in 12 s")
        notes.because("size", "160 px", "all of them in 6 s")  # decided anew: the later one counts
        time.sleep(0.12)
        notes.stage("features")
    told = reasons.of(run.path)
    assert [row["taken"] for row in told["why"]] == ["photos", "160 px"]
    assert told["spent"]["start and data"] == 2.5
    assert 0.1 <= told["spent"]["features"] < 2
    table = reasons.table(told, 10.0)
    assert "road  photos: their middle side is 400 px" in table
    assert f"the rest {10 - sum(told['spent'].values()):.1f} s" in table


def test_a_run_that_goes_on_keeps_what_was_said_of_what_it_keeps(tmp_path: Path) -> None:
    first = begin(tmp_path)
    Reasons(first).because("pace", "bf16", "twice as fast")
    first.close()
    with begin(tmp_path) as second:
        assert second.resumed
        notes = Reasons(second)
        notes.again("pace")
        notes.again("never said")
    assert reasons.of(second.path)["why"] == [{"choice": "pace", "taken": "bf16", "why": "twice as fast"}]


def test_a_folder_that_says_nothing_gives_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"why": null')
    assert reasons.table(reasons.of(tmp_path)) == ""


def test_long_reasons_wrap(tmp_path: Path) -> None:
    told = {"why": [{"choice": "road", "taken": "photos", "why": "word " * 60}], "spent": {}}
    assert max(map(len, reasons.table(told).splitlines())) <= reasons.WIDTH
