"""Two real trainings on the same items: ranked by the board, told apart by the comparison, the better one promoted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inflame import store
from inflame.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def trained(*words: str) -> None:
    command = [sys.executable, "-m", "inflame", "train", "mnist", "io.training_input=digits", "in=7s", *words]
    subprocess.run(command, check=True, env=dict(os.environ), capture_output=True)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_two_trainings_to_a_champion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained("hyperparam.learning_rate=0.0001")
    trained()
    (table,) = told(capsys, "board")["tables"]
    good, poor = table["entries"]
    assert (good["name"], poor["name"]) == ("mnist-digits-002", "mnist-digits-001")
    assert (good["rank"], poor["rank"], table["tried"], table["n"]) == (1, 2, 2, 275)
    assert good["settings"] == {"hyperparam.learning_rate": 0.01}
    assert 1 < good["cost"]["cpu_s"] < 60
    assert good["low"] < good["value"] < good["high"]
    assert good["code"][0]
    by_loss = told(capsys, "board", "--by", "test.log_loss")["tables"][0]["entries"]
    assert by_loss[0]["value"] < by_loss[1]["value"]

    page = tmp_path / "c.html"
    found = told(capsys, "compare", "mnist-digits-001", "mnist-digits-002", "--html", str(page))
    assert found["sentence"].startswith("mnist-digits-002 is better: +")
    text = page.read_text()
    assert text.count("data:image/png") >= 24, "the digits that one got wrong"
    drawn = text.count('class="line ') + text.count('class="point ')  # a point where one epoch was all that there was
    assert drawn == 4, "two curves of each"

    assert told(capsys, "promote", "mnist-digits-001")["action"] == "promote"
    assert told(capsys, "promote", "mnist-digits-002")["evidence"]["verdict"] == "better"
    assert main(["promote", "mnist-digits-001"]) == 1
    capsys.readouterr()
    pixels = np.load(next((store.home() / "data").rglob("images.npy")), mmap_mode="r")
    Image.fromarray(pixels[7].squeeze()).save(tmp_path / "seven.png")
    assert told(capsys, "predict", str(tmp_path / "seven.png"), "--model", "digits")["label"] == "7"
