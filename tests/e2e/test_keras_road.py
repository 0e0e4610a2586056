"""VGG16 of Keras on the engine's loop: a bundle like any other, and files for Keras and TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflame.model.engine import keras as ours
from inflame.model.engine.bundle import Predictor

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
BESIDE = Path(__file__).parents[2] / ".peers" / "tf" / "bin" / "python"


def train(photos: Path, *words: str, **environment: str) -> dict[str, Any]:
    """What `inflame train butterfly_vgg16` printed last, with what it said as `said`."""
    empty = photos.parent / "mirror"  # nothing in it, so that nobody asks a server for weights
    empty.mkdir(exist_ok=True)
    small = [f"hyperparam.{word}" for word in ("size=32", "batch_size=8", "learning_rate=3e-4")]
    given = ["--gpu", "1", "--input", str(photos), *small, *words, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "train", "butterfly_vgg16", *given],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "INFLAME_MIRROR": str(empty), **environment},
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "said": done.stderr}


def answers(run: Path, pictures: list[Path]) -> tuple[Any, Any]:
    """Of the bundle and of model.keras: probabilities [N,K]."""
    predictor = Predictor(run / "bundle")
    given = predictor.prepare([path.read_bytes() for path in pictures])
    return (
        predictor.calibration.apply(predictor.run(given)[0]),
        keras.saving.load_model(run / "model.keras", compile=False)(given["pictures"], training=False).detach().numpy(),
    )


def test_keras_trains_and_serves_like_any_other(photos: Path, tmp_path: Path) -> None:
    said = train(photos, "--output", str(tmp_path / "run"), "--epochs", "1")["said"]
    assert "all layers begin from scratch" in said
    bundle = json.loads((tmp_path / "run" / "bundle" / "bundle.json").read_text())
    assert bundle["net"]["kind"] == "keras"
    wanted, found = answers(tmp_path / "run", sorted(photos.rglob("*.jpg"))[::4])
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tensorflow_serves_it(photos: Path, tmp_path: Path) -> None:
    """With the Python of INFLAME_TF_PYTHON, or of the environment `.peers/tf`, that has TensorFlow."""
    python = os.environ.get("INFLAME_TF_PYTHON") or str(BESIDE)
    if not Path(python).is_file():
        pytest.skip("needs TensorFlow: set INFLAME_TF_PYTHON to a Python that has it, or make .peers/tf")
    weights, run = tmp_path / "vgg16.keras", tmp_path / "run"
    with ours.quiet():
        keras.applications.VGG16(include_top=False, weights=None).save(weights)
    words = ["--output", str(run), "--epochs", "1", "hyperparam.tune=head", f"weights={weights}"]
    found = train(photos, *words, INFLAME_TF_PYTHON=python)
    assert "saved_model, for TensorFlow, too" in found["said"]
    assert (run / "saved_model" / "saved_model.pb").is_file()
    assert "head tuned from vgg16.keras" in json.loads((run / "status.json").read_text())["how"]
    words = ["--output", str(tmp_path / "next"), "--epochs", "1", f"weights={run / 'model.keras'}"]
    changed = train(photos, *words, INFLAME_TF_PYTHON=sys.executable)
    assert "no saved_model" in changed["said"]  # nor an error
