"""What a run of `auto` found out, written out as code, gives the same numbers again."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch import nn

from inflame import plugins
from inflame.cli.main import main
from inflame.model.auto import photos as photos_road
from inflame.model.auto import tail
from inflame.model.engine import switchboard
from inflame.runs import read_metrics


def trained(folder: Path, output: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The result of `python app.py train …` in that folder."""
    code = switchboard.main(folder, ["train", f"output={output}", "--json", *words])
    said = capsys.readouterr()
    assert code == 0, said.err
    found: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    return found


def same(one: Path, other: Path, *, close: float) -> None:
    """Whether two runs answered alike: every item, and in training every epoch."""
    a, b = (pq.read_table(run / "predictions.parquet").to_pydict() for run in (one, other))
    assert a["uri"] == b["uri"]
    assert a["split"] == b["split"]
    assert a["predicted"] == b["predicted"]
    np.testing.assert_allclose(a["probabilities"], b["probabilities"], atol=close)
    if (other / "metrics.jsonl").is_file():  # a linear model has no epochs
        keys = ("stage", "epoch", "step", "loss", "val_loss")
        rows = [read_metrics(run / "metrics.jsonl") for run in (one, other)]
        told, again = ([tuple(row.get(key) for key in keys) for row in found] for found in rows)
        learnt = {row[0] for row in again}  # what the model doesn't rest on isn't trained again
        assert [row for row in told if row[0] in learnt] == again


def both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str, close: float = 1e-5
) -> tuple[dict[str, Any], Path]:
    """Trains by `auto`, writes that out, trains again there, and compares; the first result and the project."""
    first = trained(plugins.model_folder("auto"), tmp_path / "run", *words, capsys=capsys)
    project = tmp_path / "mine"
    assert main(["eject", str(tmp_path / "run"), str(project), "--json"]) == 0
    assert "train.py" in json.loads(capsys.readouterr().out)["files"]
    again = trained(project, tmp_path / "again", capsys=capsys)
    for split in ("test", "val"):
        assert again[split] == first[split]
    same(tmp_path / "run", tmp_path / "again", close=close)
    return first, project


def taken(run: dict[str, Any]) -> list[str]:
    status = json.loads((Path(run["run"]) / "status.json").read_text())
    return [rung["name"] for rung in status["ladder"] if rung["accepted"]]


@pytest.mark.parametrize(
    ("net", "epochs", "top"),
    [pytest.param("simple", 1, "linear", marks=pytest.mark.slow), ("narrow", 8, "small net")],
)
def test_the_digits(net: str, epochs: int, top: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("io.training_input=digits", f"hyperparam.num_epochs={epochs}", f"hyperparam.small_net={net}", "seed=3")
    first, project = both(tmp_path, capsys, *words)
    assert taken(first)[-1] == top
    assert first["test"]["accuracy"] > 0.9
    assert f"{first['test']['accuracy']:.4f}" in (project / "model-config.toml").read_text()
    if top == "small net":  # it is a training, not a recording
        other = trained(project, tmp_path / "other", "seed=4", capsys=capsys)
        with pytest.raises(AssertionError):
            same(tmp_path / "run", Path(other["run"]), close=1e-5)


def squares(root: Path) -> Path:
    """Small colour pictures of two unequal kinds, stripes that go down or across: no linear model tells them apart."""
    rng = np.random.default_rng(0)
    for name, count in (("down", 160), ("across", 40)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            stripes = np.sin(np.arange(32) + rng.uniform(0, 7))[None, :, None] * np.ones((32, 1, 3))
            pixels = (
                128 + 50 * (stripes if name == "down" else stripes.transpose(1, 0, 2)) + rng.normal(0, 40, (32, 32, 3))
            )
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("net", ["simple", "pairs"])
def test_small_colour_pictures(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = squares(tmp_path / "squares")
    words = (f"io.training_input={data}", "hyperparam.num_epochs=16", f"hyperparam.small_net={net}")
    more = ("hyperparam.batch_size=16", "hyperparam.mixup=0.2", "hyperparam.ema=0.9", "hyperparam.cutout=0.2")
    first, _ = both(tmp_path, capsys, *words, *more)
    assert "small net" in taken(first)


def test_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    rows = ["text,label"]
    for name, own in {"money": "bank share profit loan", "sport": "match goal team win"}.items():
        rows += [f"{' '.join(rng.choice([*own.split(), 'the', f'w{n}'], 12))},{name}" for n in range(40)]
    (tmp_path / "letters.csv").write_text("\n".join(rows))
    first, _ = both(tmp_path, capsys, f"io.training_input={tmp_path / 'letters.csv'}")
    assert taken(first) == ["majority", "words"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A network that has learned nothing: three colours are told apart by random filters."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = timm.create_model("resnet10t", num_classes=7).state_dict()
    file = tmp_path / "resnet10t.untrained.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    return file


@pytest.mark.slow
def test_photos(photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # So little time that the network itself isn't tuned.
    first, project = both(tmp_path, capsys, f"io.training_input={photos}", f"weights={weights}", "in=9s", close=1e-4)
    assert "probe" in taken(first)
    assert f'weights = "{weights}"' in (project / "model-config.toml").read_text()


SPOILT = "hyperparam.whole_learning_rate=0.3"  # what the network had learned is gone


def emptied(nets: Sequence[nn.Module]) -> nn.Module:
    """A net like these that answers everything alike."""
    net = copy.deepcopy(nets[0])
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


@pytest.mark.slow
@pytest.mark.parametrize(
    ("top", "parts", "words"),
    [
        ("tail", 4, [SPOILT]),
        ("tail", 1, [SPOILT]),
        ("whole", 4, ["hyperparam.trivial=true", "hyperparam.cutmix=1.0", "hyperparam.ema=0"]),
        ("soup", 1, []),
    ],
)
def test_a_tuned_network(
    top: str,
    parts: int,
    words: list[str],
    photos: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if parts == 1:
        monkeypatch.setattr(tail, "FEW", 0)  # as if there were many photos
    if top == "whole":
        monkeypatch.setattr(photos_road, "stirred", emptied)  # as if the mean were no good
    usual = ["hyperparam.num_epochs=2", "hyperparam.tail_batch_size=8", "hyperparam.confidence=0"]
    first, project = both(
        tmp_path, capsys, f"io.training_input={photos}", f"weights={weights}", *usual, *words, close=1e-4
    )
    assert taken(first)[-1] == top
    assert ("PARTS = 4" in (project / "train.py").read_text()) == (parts == 4)
