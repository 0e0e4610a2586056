"""Where VGG16 gets its weights from, and which of its layers learn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from inflame.errors import SettingError
from inflame.model.engine import nets

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from inflame.model.butterfly_vgg16 import net as folder  # noqa: E402
from inflame.model.engine import keras as ours  # noqa: E402


@pytest.fixture
def vgg() -> nets.Classifier:
    return ours.vgg16(size=32, classes=3)


def test_weights_at_hand_are_taken(vgg: nets.Classifier, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(home / "keras"))
    (home / "weights").mkdir()
    (home / "weights" / "vgg16.tv_in1k.safetensors").write_text("of another framework")
    with ours.quiet():
        keras.applications.VGG16(include_top=False, weights=None).save_weights(home / "weights" / "vgg16.weights.h5")
    before = vgg.body.layers["block1_conv1"]["kernel"].clone()
    assert folder.begin(vgg, "", pytest.fail) == "vgg16.weights.h5"
    assert not torch.equal(before, vgg.body.layers["block1_conv1"]["kernel"])


def test_without_any_it_says_so(vgg: nets.Classifier, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(home / "keras"))
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    said: list[str] = []
    assert folder.begin(vgg, "", said.append) == ""
    assert "can't be reached" in said[0]
    assert "weights=FILE" in said[0]


@pytest.mark.parametrize(
    ("part", "fresh", "count"), [("head", False, 1), ("tail", False, 3), ("all", False, 6), ("head", True, 6)]
)
def test_what_learns(vgg: nets.Classifier, part: str, fresh: bool, count: int) -> None:
    learning = folder.layers(vgg, part, fresh=fresh)
    assert len(learning) == count
    assert {one for layer in learning for one in layer.parameters()} == {
        one for one in vgg.parameters() if one.requires_grad
    }
    with pytest.raises(SettingError, match="feet"):
        folder.layers(vgg, "feet", fresh=fresh)
