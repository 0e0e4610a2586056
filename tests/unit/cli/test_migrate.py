"""inflame monitor migrate: the tables of a log, up and down by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inflame.cli.main import main
from inflame.monitor import schema
from inflame.monitor.log import Log


@pytest.fixture
def migrate(place: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def said(*words: str, code: int = 0) -> str:
        assert main(["monitor", "migrate", "--log", place, *words]) == code
        out, err = capsys.readouterr()
        return out or err

    return said


def test_down_and_up(migrate: Callable[..., str], place: str) -> None:
    newest = schema.newest()
    assert ": none yet, would be " in migrate("--dry-run")
    assert Log(place).version() == schema.NOTHING
    assert f": none yet, now {newest}" in migrate()
    log = Log(place)
    log.keep("i1", b"picture")
    log.close()
    down = migrate("--to", "0001", "--dry-run")
    assert f": {newest}, would be 0001\n" in down
    assert "0002 down  Links that visitors share" in down
    assert "    DROP TABLE shares;\n" in down
    assert Log(place).version() == newest
    assert "DROP" not in migrate("--to", "0001")
    assert Log(place).version() == "0001"
    told = json.loads(migrate("--json"))
    assert (told["from"], told["to"], told["done"]) == ("0001", newest, True)
    assert [(step["version"], step["way"]) for step in told["steps"]] == schema.steps("0001", newest)
    log = Log(place)
    assert log.kept("i1") == b"picture"
    log.close()


def test_refusals(migrate: Callable[..., str], place: str) -> None:
    assert 'error: "0009" is no version of the log.' in migrate("--to", "0009", code=2)
    assert "takes no further word" in migrate("now", code=2)
    assert not Path(place).exists()
