"""The whole way of a newcomer, by the command that they type: train, see it, ask it, look at its page."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

BUDGET = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A user with a home of their own, at work in a folder."""

    place: Path
    environment: dict[str, str]

    def say(self, *words: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        """`inflame WORDS`, which must end with that code and without a traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "inflame", *words],
            capture_output=True,
            text=True,
            cwd=self.place,
            env=self.environment | more,
            timeout=100,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, photo_set: Path) -> Desk:
    place = tmp_path_factory.mktemp("desk")
    (place / "photos").symlink_to(photo_set)
    away = {"INFLAME_HOME": str(place / "home"), "https_proxy": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    keep = {name: value for name, value in os.environ.items() if name not in ("INFLAME_MIRROR", "INFLAME_STARTED")}
    return Desk(place=place, environment=keep | away)


@pytest.fixture(scope="module")
def trained(desk: Desk) -> subprocess.CompletedProcess[str]:
    """`inflame train photos/ --in 10s`, once for all tests here."""
    return desk.say("train", "photos/", "--in", f"{BUDGET}s")


def test_train_ends_with_an_answer(trained: subprocess.CompletedProcess[str]) -> None:
    answer = json.loads(trained.stdout.splitlines()[-1])
    assert set(answer) == {"label", "probability"}
    assert answer["label"] in ("apple", "lime", "plum")
    assert 1 / 3 <= float(answer["probability"]) <= 1
    assert len(trained.stderr.splitlines()) + len(trained.stdout.splitlines()) <= 25


@pytest.mark.usefixtures("trained")
def test_runs_knows_it(desk: Desk) -> None:
    (run,) = json.loads(desk.say("runs", "--json").stdout)
    assert (run["state"], run["model"], run["dataset"]) == ("done", "auto", "photos")
    assert 0 <= run["test"]["low"] <= run["test"]["accuracy"] <= run["test"]["high"] <= 1
    assert run["run"] in desk.say("runs").stdout


@pytest.mark.usefixtures("trained")
def test_predict_needs_no_torch(desk: Desk, tmp_path: Path) -> None:
    for name in ("torch", "torchvision", "timm", "sklearn"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not in this test')")
    done = desk.say("predict", "photos/", "--json", PYTHONPATH=str(tmp_path))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 36
    right = sum(answer["label"] == Path(answer["source"]).parent.name for answer in answers)
    assert right >= 30, "three plain colours"


@pytest.mark.usefixtures("trained")
def test_one_bad_file_stops_nothing(desk: Desk) -> None:
    (desk.place / "empty.jpg").touch()
    good = desk.place / "photos" / "lime" / "lime_00.jpg"
    done = desk.say("predict", "empty.jpg", str(good), code=1)
    assert "empty.jpg" in done.stderr
    assert "lime_00.jpg" in done.stdout


@pytest.mark.usefixtures("trained")
def test_report_is_made_again_from_the_folder(desk: Desk) -> None:
    page = Path(desk.say("report").stdout.strip())
    text = page.read_text(encoding="utf-8")
    assert "<html" in text.lower()
    assert 'src="http' not in text
    assert json.loads(desk.say("report", "--json").stdout)


@pytest.mark.usefixtures("trained")
def test_a_changed_byte_is_noticed(desk: Desk, tmp_path: Path) -> None:
    (run,) = json.loads(desk.say("runs", "--json").stdout)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in (Path(run["folder"]) / "bundle").iterdir():
        content = file.read_bytes()
        (bundle / file.name).write_bytes(
            content.replace(b"apple", b"grape") if file.name == "classes.json" else content
        )
    done = desk.say("predict", "photos/lime/lime_00.jpg", "--model", str(bundle), code=2)
    assert "classes.json" in done.stderr


def test_a_folder_of_ones_own(desk: Desk) -> None:
    desk.say("new", "my_birds")
    own = desk.place / "my_birds"
    assert {file.name for file in own.iterdir()} >= {"app.py", "train.py", "score.py", "net.py", "model-config.toml"}
    done = subprocess.run(
        [sys.executable, "app.py", "io.training_input=digits", "limit=200", "in=5s"],
        capture_output=True,
        text=True,
        cwd=own,
        env=desk.environment,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["label"] in "0123456789"
    assert "hyperparam" in desk.say("train", "./my_birds", "--help").stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_goes_on(desk: Desk, number: int, code: int) -> None:
    command = [
        sys.executable,
        "-m",
        "inflame",
        "train",
        "mnist",
        "io.training_input=digits",
        "--in",
        "300s",
        f"seed={number}",
    ]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=desk.place,
        env=desk.environment,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509 - a background job of a shell ignores Ctrl-C
    ) as child:
        assert child.stderr is not None
        child.stderr.readline()  # it has begun
        child.send_signal(number)
        said = child.stderr.read()
        assert child.wait(60) == code
    assert "Traceback" not in said
    assert "same command" in said


@pytest.mark.parametrize(
    ("words", "code", "seconds"),
    [(["--help"], 0, 0.2), (["doctor"], 0, 0.3), (["trian"], 2, 1), (["train", "mnist", "sede=1"], 2, 1)],
)
def test_quick_answers(desk: Desk, words: Sequence[str], code: int, seconds: float) -> None:
    """Seconds of work, not of waiting: the machine may be busy. Best of three."""
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        desk.say(*words, code=code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) <= seconds


@pytest.mark.usefixtures("trained")
def test_a_prediction_is_quick(desk: Desk) -> None:
    test_quick_answers(desk, ["predict", "photos/lime/lime_00.jpg"], 0, 1.0)


def test_a_mistake_in_a_setting_is_answered_by_the_right_word(desk: Desk) -> None:
    assert "seed" in desk.say("train", "mnist", "sede=1", code=2).stderr
    assert "learning_rate" in desk.say("train", "mnist", "hyperparam.learning_rat=1", code=2).stderr
