"""`auto` on a device that isn't the CPU: items and nets are there, and nothing of the CPU's meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import far
import pytest
import torch
from safetensors.torch import save_file

from inflame import plugins
from inflame.model.engine import device, nets, pace, placing, switchboard

SIZE = "batch size"
NET = "test_resnet"  # timm's smallest


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Trains `auto` on the device `far`, of which so many bytes are free; gives what it says last."""

    def run(free: int, *words: str) -> dict[str, Any]:
        for module in (device, pace):
            monkeypatch.setattr(module, "pick", lambda name="auto": far.PLACE)
        monkeypatch.setattr(placing, "room", lambda place: free)
        (tmp_path / "mirror").mkdir()
        monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path / "mirror"))  # nothing in it, so that no hub is asked
        ended = switchboard.main(plugins.model_folder("auto"), ["train", *words, "--json", "--debug"])
        out, err = capsys.readouterr()
        assert ended == 0, err
        return {**json.loads(out.splitlines()[-1]), "said": err}

    return run


@pytest.mark.parametrize(("free", "where"), [(1 << 40, "all items on the device"), (0, "sent ahead of their turn")])
def test_small_pictures(train: Any, free: int, where: str) -> None:
    found = train(free, "digits", "limit=600", "hyperparam.num_epochs=3", "hyperparam.mixup=0.2")
    assert where in found["said"]
    assert "batches of " in found["said"]
    (why,) = [
        row for row in json.loads((Path(found["run"]) / "status.json").read_text())["why"] if row["choice"] == SIZE
    ]
    assert int(why["taken"]) >= 128
    assert "items/s" in why["why"]
    assert found["test"]["accuracy"] > 0.6


@pytest.mark.slow
def test_photos(train: Any, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / f"{NET}.untrained.safetensors"
    save_file(nets.from_timm(NET, classes=2).body.state_dict(), file)
    words = ["hyperparam.num_epochs=2", "hyperparam.tail_batch_size=8", "hyperparam.confidence=0"]
    found = train(1 << 40, str(photos), *words, f"weights={file}")
    assert "all items on the device" in found["said"]
    climbed = {rung["name"] for rung in json.loads((Path(found["run"]) / "status.json").read_text())["ladder"]}
    assert {"tail", "whole"} <= climbed
    assert found["val"]["accuracy"] > 0.6
