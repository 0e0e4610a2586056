"""monitor retrain gives the command of before again, on the data as it is now."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from inflame.artifact.grow import Growth
from inflame.cli import retrain
from inflame.cli.main import main
from inflame.errors import UserError
from inflame.runs import Run

GROWN = Growth(
    name="fruit", number=2, folder="/data/fruit/v0002", parent="a", version="b", items=9, added={}, left_out={}
)


@pytest.fixture
def before(tmp_path: Path) -> Run:
    folder = tmp_path / "tiny-fruit-001"
    model = tmp_path / "model"
    for place in (folder, model):
        place.mkdir()
    (model / "app.py").touch()
    words = ["io.training_input=old/", "in=60s", "hyperparam.learning_rate=0.1", "output=there", "limit=50", "seed=3"]
    (folder / "provenance.json").write_text(json.dumps({"argv": ["app.py", "train", *words, "--json", "fresh=true"]}))
    (folder / "config.json").write_text(json.dumps({"folder": str(model)}))
    return Run(path=folder)


def test_the_words_of_before_on_the_new_data(before: Run) -> None:
    spec = retrain._spec(before, GROWN, Namespace(budget=""))
    assert Path(spec.model).name == "model"
    assert spec.arguments == (
        "in=60s", "hyperparam.learning_rate=0.1", "seed=3", "io.training_input=/data/fruit/v0002",
    )  # fmt: skip
    other = retrain._spec(before, GROWN, Namespace(budget="5m")).arguments
    assert [word for word in other if word.startswith("in=")] == ["in=5m"]


def test_a_run_that_does_not_say_how_it_was_made(before: Run) -> None:
    (before.path / "provenance.json").write_text('{"argv": ["zygote.py"]}')
    with pytest.raises(UserError, match="doesn't say by which command") as told:
        retrain._spec(before, GROWN, Namespace(budget=""))
    assert told.value.remedy == "Train on the grown data yourself: inflame train /data/fruit/v0002"


def test_no_run_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "retrain"]) == 2
    assert "There is no trained model yet" in capsys.readouterr().err
