"""The closed loop, with real parts only: a website answers pictures that the world changed, people name them, the data
grows, a challenger is trained by the recipe of before, and becomes the champion by evidence. And its rehearsal."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from inflame.artifact import grow, manifest, opening
from inflame.model.engine.predictor import Predictor
from inflame.monitor import inbox
from inflame.monitor.entries import Entry
from inflame.monitor.log import Log

pytestmark = pytest.mark.slow
NEW = 420  # pictures that come after deployment


HOME: dict[str, str] = {}  # of all tests of this module


def inflame(*words: str, code: int = 0, typed: str = "") -> str:
    command = [sys.executable, "-m", "inflame", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, input=typed, env={**os.environ, **HOME})
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code in (0, 1) else done.stderr


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, list[str]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), [str(label) for label in found.target.tolist()]


@pytest.fixture(scope="module")
def run(digits: tuple[np.ndarray, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the first digits, with time to learn what to expect."""
    HOME["INFLAME_HOME"] = str(tmp_path_factory.mktemp("home"))
    root = tmp_path_factory.mktemp("data") / "numbers"
    for number, (picture, label) in enumerate(zip(digits[0][:-NEW], digits[1][:-NEW], strict=True)):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{number:04}.png").write_bytes(png(picture))
    told = json.loads(inflame("train", str(root), "--in", "8s", "--json").splitlines()[-1])
    inflame("monitor", "learn", "--model", told["run"], "--in", "5s")
    return Path(told["run"])


@pytest.fixture(scope="module")
def answered(run: Path, digits: tuple[np.ndarray, list[str]]) -> dict[str, str]:
    """Answer → truth: new digits, light and dark swapped, sent to a real website by people who let it keep them."""
    words = [sys.executable, "-m", "inflame", "serve", str(run), "--port", "0", "--json"]
    around = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": {**os.environ, **HOME}}
    with subprocess.Popen(words, **around) as server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())["address"]
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
                found = _asked(client, [png(255 - picture) for picture in digits[0][-NEW:]])
        finally:
            server.terminate()
    return dict(zip(found, digits[1][-NEW:], strict=True))


def _asked(client: httpx.Client, contents: list[bytes]) -> list[str]:
    names = []
    for start in range(0, len(contents), 30):
        files = [("file", ("new.png", content)) for content in contents[start : start + 30]]
        reply = client.post("/v1/classify", files=files, data={"keep": "1"})
        assert reply.status_code == 200, reply.text
        names += [one["id"] for one in reply.json()["results"]]
    return names


def log() -> Log:
    return Log(str(Path(HOME["INFLAME_HOME"]) / "monitor" / "log.db"))


def test_the_words_of_the_inbox(run: Path, answered: dict[str, str], tmp_path: Path) -> None:
    model = ("--model", str(run))
    waiting = json.loads(inflame("inbox", "list", *model, "--json"))["waiting"]
    assert len(waiting) > 50
    assert all(one["kept"] for one in waiting)
    assert sum(one["random"] for one in waiting) > 5
    first = waiting[0]["answer"]
    told = inflame("inbox", "show", first, str(tmp_path / "one.png"), *model)
    assert "wrote" in told
    with Image.open(tmp_path / "one.png") as shown:
        assert shown.size == (8, 8)
    typed = f"owl\n{answered[first]}\ns\nu\nq\n"
    told = inflame("inbox", *model, "--as", "ann", typed=typed)
    assert "taken back" in told
    assert "you said 0" in told
    told = inflame("inbox", "say", first, answered[first], *model, "--as", "ann", "--comment", "<b>")
    assert f"ann: {answered[first]}" in told
    assert "taken back" in inflame("inbox", "undo", *model, "--as", "ann")
    assert "nothing to take back" in inflame("inbox", "undo", *model, "--as", "ann", code=2)
    assert 'Did you mean "accept"' in inflame("inbox", "acept", code=2)
    assert "no such answer" in inflame("inbox", "say", "ffffffffff", "1", *model, code=2)
    assert "names no answer" in inflame("inbox", "say", "%", "1", *model, code=2)
    assert "ANSWER and CLASS" in inflame("inbox", "say", first, code=2)


def test_the_data_grows_and_the_better_model_serves(run: Path, answered: dict[str, str]) -> None:
    found = log()
    for answer, truth in answered.items():
        inbox.say(found, answer, truth, "ann")
    found.close()
    grown = json.loads(inflame("inbox", "accept", "--model", str(run), "--json"))
    assert grown["number"] == grow.FIRST
    assert 0.15 < grown["apart"] / grown["agreed"] < 0.35
    assert "test" not in grown["added"]
    before, after = manifest.load(run), opening.open(grown["folder"])
    assert after.split("test").items.to_pylist() == before.split("test").items.to_pylist()

    told: dict[str, Any] = json.loads(inflame("monitor", "retrain", "--model", str(run), "--json"))
    assert told["promoted"], told
    assert told["data"]["folder"] == grown["folder"]
    bouts = told["contest"]["bouts"]
    assert bouts["recent"]["verdict"] == "better"
    assert bouts["recent"]["challenger"] > bouts["recent"]["champion"] + 0.2
    assert bouts["locked"]["verdict"] != "worse"
    entries = json.loads(inflame("promote", "--log", "numbers", "--json"))
    assert [one["action"] for one in entries] == ["promote", "promote"]
    assert entries[-1]["evidence"]["contest"]["better"]
    assert inflame("rollback", "numbers").startswith(run.name)


def test_what_the_model_does_not_know_becomes_a_class(
    digits: tuple[np.ndarray, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HOME, "INFLAME_HOME", str(tmp_path / "home"))
    nines = [png(picture) for picture, label in zip(*digits, strict=True) if label == "9"][:80]
    for number, (picture, label) in enumerate(zip(*digits, strict=True)):
        if label != "9":
            (tmp_path / "eight" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "eight" / label / f"{number:04}.png").write_bytes(png(picture))
    run = json.loads(inflame("train", str(tmp_path / "eight"), "--in", "15s", "--json").splitlines()[-1])["run"]
    predictor, found = Predictor(Path(run) / "bundle"), log()
    found.register(predictor.version, predictor.classes, ())
    for content, said in zip(nines, predictor.predict(nines, 1), strict=True):
        name = hashlib.sha256(content).hexdigest()
        found.add([Entry(id=name[:32], model=predictor.version, input=name, label=said.label, probability=0.5)])
        found.keep(name, content)
    names = [hashlib.sha256(content).hexdigest()[:32] for content in nines]
    assert "kept     ann: nine" in inflame("inbox", "say", names[0], "+nine", "--model", run, "--as", "ann")
    refused = inflame("monitor", "retrain", "--model", run, "--new-classes", code=2)
    assert "No new class has enough items: nine: 1 of 20" in refused
    for name in names[1:]:
        inbox.say(found, name, "NINE", "ann", new=True)
    found.close()
    assert "no class nine: 80 inputs" in inflame("inbox", "list", "--model", run)

    told: dict[str, Any] = json.loads(inflame("monitor", "retrain", "--model", run, "--new-classes", "--json"))
    assert told["data"]["new_classes"] == ["nine"]
    assert "test" not in told["data"]["added"]
    recent = told["contest"]["bouts"]["recent"]
    assert recent["champion"] == 0.0, "it doesn't know the class"
    assert recent["challenger"] > 0.7
    assert told["promoted"], told
    assert Predictor(Path(told["run"]) / "bundle").classes[-1] == "nine"


def test_the_alarm_is_rehearsed(run: Path) -> None:
    words = ("monitor", "rehearse", "--model", str(run), "--window", "60", "--windows", "2")
    told = json.loads(inflame(*words, "pixels=0.9", "--json"))
    levels = [row["level"] for row in told["windows"]]
    assert levels[:2] != ["accuracy at risk"] * 2
    assert levels[-1] == "accuracy at risk"
    assert told["rang"]["accuracy at risk"] in (60, 120)
    assert told["windows"][-1]["accuracy"] < told["windows"][0]["accuracy"]
    text = inflame(*words, "newclass", "--gradual")
    assert text.startswith("window")
    assert "accuracy at risk" in text
    assert 'Did you mean "noise"' in inflame("monitor", "rehearse", "niose", "--model", str(run), code=2)
    assert "above 0" in inflame("monitor", "rehearse", "noise=2", "--model", str(run), code=2)
