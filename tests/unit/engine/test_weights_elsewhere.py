"""Pretrained weights where there is no network: what is said, what is begun with instead, and whose file is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inflame.errors import DataError, SettingError
from inflame.model.engine import backbones, nets

NET = "test_resnet"  # timm's smallest


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)


@pytest.mark.parametrize(("offline", "why"), [("1", "HF_HUB_OFFLINE is set"), ("0", "")])
def test_without_a_network_training_begins_from_scratch_and_says_why(
    monkeypatch: pytest.MonkeyPatch, offline: str, why: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    said: list[str] = []
    assert backbones.at_hand("", said.append) == []
    assert said[0].startswith("weights  timm's hub can't be reached (")
    assert why in said[0]
    assert said[0].endswith("or give weights=FILE")


def test_a_net_by_name_begins_from_scratch_and_can_be_made() -> None:
    said: list[str] = []
    found = backbones.of(f"timm:{NET}", "", said.append)
    assert (found.net, found.file, found.pretrained) == (NET, None, False)
    assert f"no pretrained ones for {NET}" in said[0]
    assert found.own_head() is None
    assert found.load(3).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert found.key() != backbones.of("resnet18", "", said.append).key()


def test_weights_of_inflames_home_are_taken_for_the_net_they_belong_to(home: Path) -> None:
    (home / "weights").mkdir()
    save_file(nets.from_timm(NET, classes=2).body.state_dict(), home / "weights" / f"{NET}.mine.safetensors")
    assert backbones.of(NET, "", pytest.fail).name == f"{NET}.mine"
    said: list[str] = []
    assert backbones.of("resnet18", "", said.append).file is None


def test_a_file_is_of_the_net_that_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "anything.safetensors"
    save_file(nets.from_timm(NET, classes=2).body.state_dict(), file, metadata={"timm": NET})
    assert backbones.of("", str(file), pytest.fail).net == NET
    other = backbones.of("resnet18", str(file), pytest.fail)
    assert other.net == "resnet18"
    with pytest.raises(DataError, match="doesn't fit"):
        other.load(2)
    vision = backbones.of("torchvision:resnet18", str(file), pytest.fail)
    assert (vision.net, vision.name, vision.file) == ("torchvision:resnet18", "anything", file)


def test_a_net_that_does_not_exist_is_refused_with_a_guess() -> None:
    with pytest.raises(SettingError) as told:
        backbones.of("resnet_18", "", pytest.fail)
    assert "resnet18" in told.value.explain()
