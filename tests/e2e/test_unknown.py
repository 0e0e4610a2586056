"""What a training records is what the website tells strangers by, also when it reads an answer from its log again."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from inflame.artifact.contents import Contents
from inflame.monitor.entries import Entry
from inflame.web.answers import Answer
from inflame.web.models import Model
from inflame.web.settings import Settings


def noise(count: int) -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


def answers(model: Model, contents: list[bytes]) -> list[Answer]:
    found = model.answer(contents)
    assert all(isinstance(one, Answer) for one in found)
    return found  # type: ignore[return-value]


def test_noise_is_unlike_the_digits_that_a_training_saw(tmp_path: Path) -> None:
    words = ["mnist", "io.training_input=digits", "hyperparam.num_epochs=3", f"output={tmp_path / 'run'}"]
    given = {**os.environ, "INFLAME_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "train", *words], capture_output=True, text=True, env=given, check=False
    )
    assert done.returncode == 0, done.stderr
    usual = json.loads((tmp_path / "run/bundle/reference.json").read_text())["novelty"]
    assert usual["n"] >= 100
    assert len(usual["inputs"]["middle"]) == 5
    model = Model("digits", tmp_path / "run/bundle", Settings())
    assert model.limit == usual["limit"] > 0
    rows = [row for row in pq.read_table(tmp_path / "run/items.parquet").to_pylist() if row["split"] == "test"]
    source = Contents(json.loads((tmp_path / "run/dataset.json").read_text())["root"])
    known = answers(model, [source.read(row["uri"]) for row in rows[:150]])
    strange = answers(model, noise(20))
    assert sum(one.unlike for one in known) <= 0.1 * len(known)
    assert all(one.unlike and one.level == "unlike" for one in strange)
    for one in (*known[:10], *strange[:10]):
        kept = Entry(
            model=one.version,
            input=one.sha256,
            label=one.label,
            probability=one.probability,
            probabilities=np.array(one.shares, np.float16),
            embedding=np.frombuffer(one.embedding, np.float16),
            seen=np.frombuffer(one.seen, np.float32),
        )
        again = model.again(Entry.of(kept.row()))
        assert abs(again.distance - one.distance) < 0.02 * max(1, one.distance)
        assert again.unlike == one.unlike or abs(one.distance - one.limit) < 0.05
