"""inflame monitor on a real model of digits: quiet on new digits, loud on spoiled ones, in a folder and in the log."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inflame.artifact import manifest, spoil
from inflame.artifact.contents import Contents
from inflame.model.engine import seal
from inflame.model.engine.expected import Expected
from inflame.model.engine.expecting import Asked
from inflame.model.engine.predictor import Predictor
from inflame.monitor import checking
from inflame.monitor.entries import Entry, Verdict
from inflame.monitor.log import Log

pytestmark = pytest.mark.slow


def inflame(*words: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "inflame", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code in (0, 1) else done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, with time to learn what to expect."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    home = {**os.environ, "INFLAME_HOME": str(tmp_path_factory.mktemp("home"))}
    words = [sys.executable, "-m", "inflame"]
    subprocess.run([*words, "train", "digits", "--in", "8s", f"output={folder}"], check=True, env=home, timeout=100)
    subprocess.run(
        [*words, "monitor", "learn", "--model", str(folder), "--in", "6s"], check=True, env=home, timeout=100
    )
    return folder


@pytest.fixture(scope="module")
def pictures(run: Path) -> np.ndarray:
    """The test items as the net sees them: nothing of them was ever learned from."""
    dataset = manifest.load(run).split("test")
    read, predictor = Contents(dataset.root).read, Predictor(run / "bundle")
    return np.stack([predictor.read(read(uri)) for uri in dataset.items["uri"].to_pylist()])


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, "PNG")
    return file.getvalue()


def filled(folder: Path, pictures: np.ndarray) -> str:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        (folder / f"{number:03}.png").write_bytes(png(picture))
    return str(folder)


def test_a_bundle_knows_what_it_expects(run: Path) -> None:
    expected = Expected.of(Predictor(run / "bundle").expected)
    assert expected.m >= 50
    assert expected.verified["risk"] <= 0.01
    assert len(expected.estimator["families"]) >= 3
    assert "expected.npz" in seal.verify(run / "bundle")["sha256"]


def test_new_digits_are_quiet_and_spoiled_ones_are_not(run: Path, pictures: np.ndarray, tmp_path: Path) -> None:
    quiet = json.loads(inflame("monitor", "check", filled(tmp_path / "new", pictures), "--model", str(run), "--json"))
    assert quiet["level"] != "accuracy at risk"
    coarse = spoil.pixels(pictures, 0.9, np.random.default_rng(0))
    page = tmp_path / "report.html"
    words = ("monitor", "check", filled(tmp_path / "coarse", coarse), "--model", str(run), "--html", str(page))
    loud = json.loads(inflame(*words, "--json", code=1))
    assert loud["level"] == "accuracy at risk"
    assert {"embedding", "width"} <= {one["name"] for one in loud["findings"]}
    assert len(loud["unlike"]) == 8
    text = page.read_text()
    assert text.count("data:image/jpeg") == 8
    assert "Accuracy at risk" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def entries(run: Path, pictures: np.ndarray, start: float = 0.0) -> list[Entry]:
    """What a server would log of them."""
    predictor = Predictor(run / "bundle")
    found, _ = Asked(predictor)([png(picture) for picture in pictures])
    return [
        Entry(
            model=predictor.version,
            input=f"{start}-{row}",
            label=predictor.classes[int(found.probabilities[row].argmax())],
            probability=float(found.probabilities[row].max()),
            known=bool(found.known[row]),
            probabilities=found.probabilities[row],
            embedding=found.embedding[row],
            seen=found.seen[row],
            kind=found.kinds[row],
            time=start + row,
            source="test",
        )
        for row in range(len(pictures))
    ]


def test_the_log_is_checked_from_where_it_was(run: Path, pictures: np.ndarray, tmp_path: Path) -> None:
    place = str(tmp_path / "log.db")
    log, expected = Log(place), Expected.of(Predictor(run / "bundle").expected)
    good = entries(run, pictures[:100])
    model = good[0].model
    log.register(model, expected.class_names, expected.names)
    log.add(good)
    words = ("monitor", "--log", place, "--model", str(run), "--window", "50", "--json")
    first = json.loads(inflame(*words))
    assert [one["items"] for one in first["windows"]] == [50, 50]
    assert first["level"] != "accuracy at risk"
    assert json.loads(inflame(*words))["new"] == 0
    log.add(entries(run, spoil.cover(pictures[:50], 0.9, np.random.default_rng(1)), start=1000.0))
    log.add(entries(run, pictures[50:60], start=2000.0))  # waits for the next window
    second = json.loads(inflame(*words, code=1))
    assert [one["level"] for one in second["windows"]] == ["accuracy at risk"]
    assert len(checking.history(log, model)) == 3
    strangers = [dataclasses.replace(one, id=f"x{at}", probabilities=np.ones(2)) for at, one in enumerate(good[:50])]
    log.add(strangers)
    assert checking.check(log, expected, model, size=60).foreign == 50
    log.close()


def test_measured_beside_estimated(run: Path, pictures: np.ndarray, tmp_path: Path) -> None:
    place = str(tmp_path / "log.db")
    log = Log(place)
    made = entries(run, pictures[:60])
    log.add(made)
    for number, one in enumerate(made[:40]):
        log.verdict(Verdict(answer=one.id, said="right" if number % 10 else "wrong", who="ann", asked=True))
    log.verdict(Verdict(answer=made[50].id, said="wrong", who="bob"))
    told = inflame("monitor", "--log", place, "--model", str(run))
    assert "measured         0.900 (0.769–0.960) of 40 chosen at random" in told
    log.close()


def test_export_and_forget(run: Path, pictures: np.ndarray, tmp_path: Path) -> None:
    from inflame.monitor import parquet

    place, day = str(tmp_path / "log.db"), 1_790_000_000.0
    log = Log(place)
    made = [*entries(run, pictures[:5], start=day), *entries(run, pictures[:3], start=day + 86_400)]
    log.add(made)
    told = json.loads(inflame("monitor", "export", str(tmp_path / "out"), "--log", place, "--json"))
    assert list(told["days"].values()) == [5, 3]
    again = list(parquet.walk(str(tmp_path / "out"), next(iter(told["days"]))))
    assert [one.id for one in again] == [one.id for one in made[:5]]
    np.testing.assert_allclose(again[0].embedding, made[0].embedding, rtol=1e-3)
    assert "forgot 1 answers" in inflame("monitor", "forget", "--input", made[0].input, "--log", place)
    until = time.strftime("%Y-%m-%d", time.gmtime(day + 86_400))
    assert json.loads(inflame("monitor", "forget", "--before", until, "--log", place, "--json")) == {"forgotten": 4}
    log.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["chek"], 'Did you mean "check"'),
        (["--window", "3"], "at least 10"),
        (["forget"], "what to forget"),
        (["forget", "--before", "soon"], "is no date"),
        (["export"], "Say where to"),
        (["learn", "now"], "no further word"),
        (["check", "nowhere/"], "not a file here"),
    ],
)
def test_mistakes(run: Path, words: list[str], says: str) -> None:
    assert says in inflame("monitor", *words, "--model", str(run), code=2)


def test_a_bundle_of_before_says_what_to_do(run: Path, tmp_path: Path) -> None:
    import shutil

    from inflame.model.engine import seal as sealing

    old = Path(shutil.copytree(run / "bundle", tmp_path / "bundle"))
    (old / "expected.npz").unlink()
    facts: dict[str, Any] = json.loads((old / "bundle.json").read_text())
    sealing.seal(old, {key: facts[key] for key in ("model", "dataset", "net")})
    assert Predictor(old).expected == b""
    assert "inflame monitor learn" in inflame("monitor", "--model", str(old), code=2)
