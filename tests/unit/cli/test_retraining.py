"""monitor retrain from end to end in this process, with a training that only copies a better model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inflame import artifact
from inflame.cli.main import main
from inflame.factory import registry
from inflame.model.engine.predictor import Predictor
from inflame.monitor import inbox
from inflame.monitor.entries import Entry
from inflame.monitor.log import Log
from inflame.records import Preprocess
from inflame.runs import Run

Finished = Callable[..., Run]
Says = Callable[..., tuple[str, str]]

# Instead of learning it takes the bundle that lies beside it.
APP = """import json, shutil, sys
from pathlib import Path

from inflame import artifact
from inflame.artifact import manifest

here = Path(__file__).parent
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
if not (here / "bundle").is_dir():
    sys.exit("error: nothing to copy")
run = here / "after"
shutil.rmtree(run, ignore_errors=True)
shutil.copytree(here / "bundle", run / "bundle")
manifest.save(artifact.open(words["io.training_input"]), run)
(run / "status.json").write_text('{"state": "done", "model": "tiny"}')
(run / "config.json").write_text(json.dumps({"folder": str(here)}))
(run / "provenance.json").write_text(json.dumps({"argv": ["app.py", "train", *sys.argv[2:]]}))
print(json.dumps({"run": str(run)}))
"""


class Tiny(nn.Module):
    """A net whose filters see colours."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten())
        self.head, self.spec = nn.Linear(32, 3), {"kind": "tiny"}

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


@pytest.fixture
def before(finished: Finished, photos: Path, tmp_path: Path, fruit_bundle: Path) -> Run:
    """A champion that has learned nothing, of a model folder that makes a good one."""
    found = finished(tmp_path / "tiny-fruit-001", photos, Tiny(), Preprocess(size=32, resize=32), steps=0)
    model = tmp_path / "model"
    model.mkdir()
    (model / "app.py").write_text(APP)
    shutil.copytree(fruit_bundle, model / "bundle")
    (found.path / "provenance.json").write_text(
        json.dumps({"argv": ["app.py", "train", f"io.training_input={photos}", "seed=3"]})
    )
    (found.path / "config.json").write_text(json.dumps({"folder": str(model)}))
    return found


@pytest.fixture
def labelled(before: Run, photos: Path) -> list[str]:
    """Seventy answers in the log of this home about new photos, which a person has named."""
    from PIL import Image

    predictor, log = Predictor(before.path / "bundle"), Log()
    log.register(predictor.version, predictor.classes, ())
    made = []
    rng = np.random.default_rng(0)
    for number in range(70):
        name = predictor.classes[number % 3]
        old = np.asarray(Image.open(photos / name / f"{name}_{number % 12:02}.jpg"), np.float32)
        changed = np.clip(np.roll(old, number, 1) + rng.normal(0, 20, old.shape), 0, 255).astype(np.uint8)
        file = photos.parent / "new.png"
        Image.fromarray(changed).save(file)
        content = file.read_bytes()
        key = hashlib.sha256(content).hexdigest()
        said = predictor.predict([content], 1)[0]
        log.add([Entry(id=key[:32], model=predictor.version, input=key, label=said.label, probability=0.5)])
        log.keep(key, content)
        inbox.say(log, key[:32], name, "ann")
        made.append(key)
    log.close()
    return made


@pytest.fixture
def says(before: Run, labelled: list[str], capsys: pytest.CaptureFixture[str]) -> Says:
    def call(*words: str, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        ended = main(["monitor", "retrain", "--model", str(before.path), "--as", "fruit", *words])
        out, err = capsys.readouterr()
        assert ended == code, out + err
        return out, err

    return call


def test_a_better_model_becomes_the_champion_and_says_why(says: Says, before: Run, labelled: list[str]) -> None:
    told = json.loads(says("--json")[0])
    assert told["promoted"], told
    assert told["contest"]["better"]
    assert told["contest"]["bouts"]["recent"]["n"] == sum(inbox.is_apart(one) for one in labelled)
    assert told["data"]["items"] > 36
    assert len(artifact.open(told["data"]["folder"])) == told["data"]["items"]
    entry = registry.champion("fruit")
    assert entry is not None
    assert Path(told["run"]).name == "after"
    given = json.loads((Path(told["run"]) / "provenance.json").read_text())["argv"]
    assert "seed=3" in given  # the words of before …
    assert f"io.training_input={told['data']['folder']}" in given  # … on the data of now


def test_one_that_is_no_better_stays_out(
    says: Says, before: Run, finished: Finished, photos: Path, tmp_path: Path
) -> None:
    other = finished(tmp_path / "other", photos, Tiny(), Preprocess(size=32, resize=32), steps=1, rate=1e-6)
    shutil.rmtree(tmp_path / "model/bundle")
    shutil.copytree(other.path / "bundle", tmp_path / "model/bundle")
    out, _ = says("--in", "5s")
    assert "version  2 of photos" in out
    assert "stays    the champion of fruit" in out
    assert "--as fruit --force" in out
    entry = registry.champion("fruit")
    assert entry is not None


def test_people_read_who_won(says: Says) -> None:
    out, _ = says()
    assert "after is the champion of fruit now, version 2" in out
    assert "next     inflame serve fruit   inflame rollback fruit" in out


def test_a_training_that_fails_changes_nothing(says: Says, before: Run) -> None:
    shutil.rmtree(before.path.parent / "model" / "bundle")
    _, err = says(code=1)
    assert "The training ended with code 1" in err
    assert registry.champion("fruit") is None


def test_a_new_class_needs_enough_that_was_named(says: Says) -> None:
    assert "nobody has named one" in says("--new-classes", code=2)[1]
