"""The verb inbox in the terminal, on a real bundle and a real log."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inflame.artifact import manifest, opening
from inflame.cli.main import main
from inflame.model.engine.predictor import Predictor
from inflame.monitor import inbox
from inflame.monitor.entries import Entry
from inflame.monitor.log import Log
from inflame.records import Dataset


@pytest.fixture(scope="module")
def data(photo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The photos, read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFLAME_HOME", str(tmp_path_factory.mktemp("first-home")))
        return opening.open(photo_set)


@pytest.fixture
def run(data: Dataset, fruit_bundle: Path, tmp_path: Path) -> str:
    """A run folder: the data, and a bundle that learned from it."""
    folder = tmp_path / "fruit-001"
    folder.mkdir()
    manifest.save(data, folder)
    (folder / "status.json").write_text('{"state": "done", "model": "tiny"}')
    shutil.copytree(fruit_bundle, folder / "bundle")
    return str(folder)


def new(seed: int) -> bytes:
    """A picture that the data doesn't have."""
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((64, 64)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def answers(run: str, home: Path) -> list[str]:
    """Twelve answers in the log of this home; what the first ten are about was kept."""
    predictor, log = Predictor(Path(run) / "bundle"), Log()
    log.register(predictor.version, predictor.classes, ())
    made = []
    for seed in range(12):
        content = new(seed)
        [said] = predictor.predict([content], len(predictor.classes))
        shares = dict(said.top)
        made.append(
            Entry(
                model=predictor.version,
                input=hashlib.sha256(content).hexdigest(),
                label=said.label,
                probability=said.probability,
                probabilities=np.array([shares[name] for name in predictor.classes]),
                embedding=predictor.embed([content])[0],
            )
        )
        if seed < 10:
            log.keep(made[-1].input, content)
    log.add(made)
    log.close()
    assert home.is_dir()
    return [one.id for one in made]


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["inbox", *words]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_list_say_show_and_undo(
    capsys: pytest.CaptureFixture[str], run: str, answers: list[str], tmp_path: Path
) -> None:
    model = ("--model", run, "--as", "ann")
    found = json.loads(told(capsys, "list", *model, "--json"))
    assert {one["answer"] for one in found["waiting"]} <= set(answers)
    assert sum(one["kept"] for one in found["waiting"]) < len(found["waiting"])
    text = told(capsys, "list", *model)
    assert "were not kept, so nobody can see them" in text
    assert "ann: lime" in told(capsys, "say", answers[0][:10], "lime", *model, "--comment", "green")
    assert "none of the classes" in told(capsys, "say", answers[1], "none", *model)
    assert "taken back" in told(capsys, "undo", *model)
    assert "wrote" in told(capsys, "show", answers[2], str(tmp_path / "one.png"), *model)
    assert (tmp_path / "one.png").read_bytes() == new(2)
    assert "was not kept" in told(capsys, "show", answers[11], str(tmp_path / "two.png"), *model, code=2)


def test_one_after_the_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: str, answers: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1\nowl\n0\nu\n\ns\nplum\nq\n"))
    said = json.loads(told(capsys, "--model", run, "--as", "ann", "--json").splitlines()[-1])
    assert said["said"] == 3
    assert said["agreed"] == 3
    found = {verdict.label for _, verdict in Log().verdicts()}
    assert "plum" in found
    assert set(answers) >= {verdict.answer for _, verdict in Log().verdicts()}


def test_the_data_grows(capsys: pytest.CaptureFixture[str], run: str, answers: list[str]) -> None:
    for answer in answers:
        inbox.say(Log(), answer, "lime", "ann")
    text = told(capsys, "accept", "--model", run)
    assert "version  2 of photos" in text
    assert "not kept, so there is nothing to learn from" in text
    made = json.loads(told(capsys, "accept", "--model", run, "--json"))
    assert made["number"] == 2  # the same again
    assert made["agreed"] == 12
    assert made["apart"] + sum(made["added"].values()) + sum(made["left_out"].values()) + made["not_kept"] == 12
    assert len(opening.open(made["folder"])) == made["items"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lst"], 'Did you mean "list"'),
        (["say"], "takes ANSWER and CLASS"),
        (["say", "ffffffff", "lime"], "no such answer"),
        (["say", "%%%%", "lime"], "names no answer"),
        (["undo"], "nothing to take back"),
        (["accept"], "nothing to add"),
        (["list", "--as", "visitor"], "a name of their own"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], run: str, words: list[str], says: str) -> None:
    assert says in told(capsys, *words, "--model", run, code=2)


def test_only_the_bundle_is_here(capsys: pytest.CaptureFixture[str], fruit_bundle: Path) -> None:
    assert "Name a run" in told(capsys, "accept", "--model", str(fruit_bundle), code=2)
