"""The photo road with a small network of timm: frozen features, probe, tail, bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from inflame.model.auto import ladder
from inflame.model.engine import checkpoint


def test_photos_climb_the_ladder_with_a_network_at_hand(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=7)
    file = tmp_path / "resnet10t.untrained.safetensors"
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, file)
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "inflame",
            "train",
            str(photos),
            "--in",
            "25s",
            "--json",
            "--explain",
            f"weights={file}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "resnet10t.untrained" in done.stderr
    rungs = json.loads((Path(found["run"]) / "status.json").read_text())["ladder"]
    assert [rung["name"] for rung in rungs][:2] == ["majority", "probe"]
    assert found["val"]["accuracy"] > 0.6  # three colours: random filters are enough
    assert 0 <= found["val"]["balanced"] <= 1
    choices = {row["choice"]: row for row in found["why"]}
    assert {"road", "backbone", "size", "rung probe"} <= set(choices)
    assert sum(found["spent"].values()) < time.monotonic() - began + 1
    assert "why this model" in done.stderr
    assert "where the time went" in done.stderr
    page = (Path(found["run"]) / "report.html").read_text()
    assert "Why this model" in page
    answer = subprocess.run(
        [sys.executable, "-m", "inflame", "predict", str(photos / "lime" / "lime_03.jpg"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(answer.stdout)


def trained(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "train", *words, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_net_that_has_no_weights_is_refused_with_the_way_out(photos: Path) -> None:
    done = trained(str(photos), "net=resnet10t", code=2)
    assert "weights=FILE" in done.stderr
    assert "resnet10t" in done.stderr
    misspelt = trained(str(photos), "net=timm:resnet10x", code=2)
    assert "resnet10t" in misspelt.stderr


@pytest.mark.slow
def test_killed_while_the_whole_network_learns_it_ends_with_the_same_weights(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=7)
    file = tmp_path / "resnet10t.untrained.safetensors"
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, file)
    words = ["hyperparam.num_epochs=3", "hyperparam.tail_batch_size=4", f"weights={file}", "--explain"]
    command = [sys.executable, "-m", "inflame", "train", str(photos), *words]
    run = tmp_path / "killed"
    first = subprocess.Popen([*command, f"output={run}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    late = time.monotonic() + 200
    while not list((run / "last-whole").glob("*.safetensors")) and time.monotonic() < late:  # the first epoch is over
        assert first.poll() is None, first.stdout.read().decode()  # type: ignore[union-attr]
        time.sleep(0.02)
    first.kill()
    first.wait()
    first.stdout.close()  # type: ignore[union-attr]
    # The same decisions, and the rung from its beginning: what would have come without the kill.
    other = tmp_path / "undisturbed"
    shutil.copytree(run, other)
    shutil.rmtree(other / "last-whole")
    ends = []
    for folder in (run, other):
        done = subprocess.run([*command, f"output={folder}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "going on where it stopped" in done.stderr
        assert "rung whole" in done.stderr
        ends.append(checkpoint.load(folder / "last-whole"))
    one, two = ends
    assert one is not None
    assert two is not None
    assert one["at"] == two["at"]
    assert all(torch.equal(value, two["net"][name]) for name, value in one["net"].items())
    assert (run / "bundle/model.safetensors").read_bytes() == (other / "bundle/model.safetensors").read_bytes()


def test_fine_tuning_in_plain_sight(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=7)
    file = tmp_path / "resnet10t.untrained.safetensors"
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, file)
    words = ["size=32", "num_epochs=3", "batch_size=8", "tune=tail", "prune=0.4"]
    given = [f"hyperparam.{word}" for word in words]
    data = f"io.training_input={photos}"
    done = trained("fowl_classifier", data, "net=resnet10t", f"weights={file}", *given)
    found = json.loads(done.stdout.splitlines()[-1])
    assert "prune" in done.stderr
    assert found["val"]["accuracy"] > 0.6
    bundle = json.loads((Path(found["bundle"]) / "bundle.json").read_text())
    assert "shapes" in json.dumps(bundle["net"])
    again = trained("fowl_classifier", data, "net=resnet10t", f"weights={file}", *given, "hyperparam.tune=feet", code=2)
    assert "head, tail, all" in again.stderr


def test_a_better_model_is_taken_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    truth = np.eye(3)[labels]
    weak, strong = truth + rng.normal(0, 1.0, truth.shape), truth * 3 + rng.normal(0, 1.0, truth.shape)
    assert ladder.compare(weak, strong, labels).better
    assert not ladder.compare(strong, weak, labels).better
    taken = [
        ladder.compare(
            truth + rng.normal(0, 1.0, truth.shape), truth + rng.normal(0, 1.0, truth.shape), labels, seed=seed
        ).better
        for seed in range(60)
    ]
    assert np.mean(taken) <= 0.15
