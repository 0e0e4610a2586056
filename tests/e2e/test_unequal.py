"""Classes of unequal size: digits of which half are rare, from pictures to bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

RARE = 14  # pictures of each digit from 5 on; about 180 of the others


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """Noisy digits in class folders, split by folder."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        parts = np.split(rows, [len(rows) // 2, 3 * len(rows) // 4])
        for split, chosen in zip(("train", "val", "test"), parts, strict=True):
            few = chosen if label < 5 or split != "train" else chosen[:RARE]
            for row in few:
                pixels = images[row].reshape(8, 8) * 15 + rng.normal(0, 55, (8, 8))
                place = tmp_path / "digits" / split / str(label) / f"{row}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place)
    return tmp_path / "digits"


def test_rare_digits_are_found_more_often_when_answers_are_corrected(unequal: Path) -> None:
    found = {}
    for name, words in {"plain": ["hyperparam.balance=false"], "corrected": []}.items():
        done = subprocess.run(
            [sys.executable, "-m", "inflame", "train", str(unequal), "hyperparam.num_epochs=3", "--json", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout.splitlines()[-1])
    rungs = json.loads((Path(found["corrected"]["run"]) / "status.json").read_text())["ladder"]
    last = rungs[-1]
    assert (last["name"], last["accepted"]) == ("balanced", True)
    assert "times the smallest" in last["note"]
    assert found["corrected"]["test"]["balanced"] > found["plain"]["test"]["balanced"] + 0.02
    page = (Path(found["corrected"]["run"]) / "report.html").read_text()
    assert "in the mean over the classes" in page
