"""A model of Keras is a module of torch like any other: same answers as Keras, exact resume, files that fit."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inflame.errors import DataError, SettingError
from inflame.model.engine import checkpoint, nets
from inflame.model.engine import keras as ours
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")


def tiny(dropout: float = 0.0) -> Any:
    """A small model of Keras, colours first."""
    inputs = keras.Input((3, 8, 8))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", data_format="channels_first", name="a_conv")(
        inputs
    )
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="b_dense")(keras.layers.Dropout(dropout)(x)))


@pytest.fixture(scope="module")
def vgg() -> nets.Classifier:
    keras.utils.set_random_seed(0)
    return ours.vgg16(size=32, classes=3)


def test_it_answers_like_keras_and_copies_are_apart() -> None:
    model = tiny()
    module, x = ours.Layers(model), torch.randn(5, 3, 8, 8)
    assert sorted(module.state_dict()) == [
        f"layers.{layer}.{name}" for layer in ("a_conv", "b_dense") for name in ("bias", "kernel")
    ]
    torch.testing.assert_close(module(x), model(x))
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.layers["b_dense"]["bias"].add_(1.0)
    torch.testing.assert_close(module(x) + 1, other(x))
    other(x).sum().backward()
    assert all(one.grad is not None for one in other.parameters())
    assert all(one.grad is None for one in module.parameters())


def test_it_follows_autocast() -> None:
    module, x = ours.Layers(tiny()).requires_grad_(False), torch.randn(5, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        low = module(x)
    assert low.dtype == torch.bfloat16
    assert module(x).dtype == torch.float32
    torch.testing.assert_close(low.float(), module(x), rtol=0.05, atol=0.05)


class Batches:
    """Six batches, the same in every epoch."""

    def __len__(self) -> int:
        return 6

    def epoch(self, epoch: int, start: int = 0) -> Any:
        for batch in range(start, 6):
            random = torch.Generator().manual_seed(batch)
            yield torch.randn(4, 3, 8, 8, generator=random), torch.randint(0, 2, (4,), generator=random)


class StopAfter:
    def __init__(self, steps: int) -> None:
        self.steps, self.state = steps, {}

    def pause(self, learner: Learner) -> None:
        if learner.at.step == self.steps:
            self.state = copy.deepcopy(learner.state_dict())


def test_a_resume_is_exact_with_dropout(tmp_path: Path) -> None:
    def learner(*hooks: object) -> Learner:
        keras.utils.set_random_seed(0)
        net = ours.Layers(tiny(0.5))
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        return Learner(
            net=net,
            criterion=nn.CrossEntropyLoss(),
            optimizer=optimizer,
            train_loader=Batches(),
            device=One("cpu"),
            hooks=hooks,
        )

    middle = StopAfter(8)
    whole = learner(middle)
    whole.fit(3)
    checkpoint.save(middle.state, tmp_path)
    again = learner()
    assert checkpoint.resume(again, tmp_path)
    again.fit(3)
    assert again.at == whole.at
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name])


def test_vgg16_is_that_of_keras(vgg: nets.Classifier, tmp_path: Path) -> None:
    """Weights of Keras go in through either kind of file; colours are turned and laid out on the way."""
    keras.utils.set_random_seed(1)
    theirs = keras.applications.VGG16(include_top=False, weights=None, pooling="avg", input_shape=(32, 32, 3))
    with ours.quiet():
        theirs.save_weights(tmp_path / "vgg16.weights.h5")
        theirs.save(tmp_path / "vgg16.keras")
    net, other = copy.deepcopy(vgg), copy.deepcopy(vgg)
    ours.fill(net, tmp_path / "vgg16.weights.h5")
    ours.fill(other, tmp_path / "vgg16.keras")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    wanted = theirs(keras.applications.vgg16.preprocess_input(pixels.copy())).detach()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (ours.MEAN, ours.STD))
    with torch.no_grad():
        found = net.body((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert len(ours.blocks(net)) == 5
    assert sum(one.numel() for one in ours.blocks(net)[0].parameters()) == 38_720
    assert nets.build(net.spec).state_dict().keys() == net.state_dict().keys()


def test_what_does_not_fit_is_refused(vgg: nets.Classifier, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="31 pixels"):
        ours.vgg16(size=31, classes=3)
    with pytest.raises(DataError, match="no file"):
        ours.fill(vgg, tmp_path / "gone.keras")
    (tmp_path / "text.keras").write_text("no zip")
    with pytest.raises(DataError, match="can't be read"):
        ours.fill(vgg, tmp_path / "text.keras")
    with ours.quiet():
        tiny().save(tmp_path / "tiny.keras")
    with pytest.raises(DataError, match="13 layers are missing"):
        ours.fill(vgg, tmp_path / "tiny.keras")
