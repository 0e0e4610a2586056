"""Where the items of a training lie: by what they take, what is free, and what kind of device it is."""

from __future__ import annotations

from typing import Any

import far
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from inflame.artifact import augment, loader
from inflame.model.auto import cutting, mixing, standing, tail
from inflame.model.engine import nets, placing
from inflame.model.engine.device import One, where
from inflame.model.engine.learner import Learner
from inflame.records import Preprocess

SIZES = st.integers(0, 1 << 45)
PLAN = Preprocess(size=8, resize=8)


def batches(count: int = 40) -> loader.Batches:
    dice = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (count, 8, 8, 3), generator=dice, dtype=torch.uint8)
    pictures = loader.Pictures(pixels=pixels, labels=torch.arange(count) % 3, uris=tuple(map(str, range(count))))
    moves = augment.chain(augment.flip, augment.colour, augment.cutout)
    return loader.Batches(pictures, PLAN, batch_size=8, shuffle=True, transform=moves)


def views() -> tail.Views:
    activations = np.arange(2 * 40 * 3, dtype=np.float16).reshape(2, 40, 3)
    cut = cutting.Cut(activations=activations, labels=np.arange(40) % 3, features=np.zeros((2, 40, 3), np.float32))
    return tail.Views(cut, batch_size=8, shuffle=True)


def both() -> mixing.Mixed:
    return mixing.Mixed(batches(), classes=3, mixup=0.2, cutmix=1.0)


# --- the choice -----------------------------------------------------------------------------------------


@given(SIZES, SIZES)
def test_they_are_held_where_they_take_no_more_than_their_share(needed: int, free: int) -> None:
    held = placing.fits(needed, free)
    assert held == (needed <= placing.SHARE * free)
    assert ("on the device" in placing.told(needed, free, held=held)) == held
    assert not placing.fits(None, free)
    assert not placing.fits(needed, None)


@given(SIZES, SIZES, SIZES)
def test_more_memory_never_sends_them_away(needed: int, one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert placing.fits(needed, more) >= placing.fits(needed, less)


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_where_the_memory_is_the_same_nothing_is_chosen(kind: str) -> None:
    given = batches()
    assert placing.placed(given, torch.device(kind)) == (given, "")
    assert placing.room(torch.device(kind)) is None


# --- what follows from it -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [batches, views, both])
@pytest.mark.parametrize("free", [0, 1 << 40])
def test_the_same_batches_there(monkeypatch: pytest.MonkeyPatch, make: Any, free: int) -> None:
    monkeypatch.setattr(placing, "room", lambda place: free)
    near = make()
    there, why = placing.placed(near, far.PLACE)
    assert ("on the device" in why) == bool(free)
    for (x, y), (mine, labels) in zip(there.epoch(1, 2), near.epoch(1, 2), strict=True):
        assert (x.device, y.device) == (far.PLACE, far.PLACE)
        torch.testing.assert_close(x.cpu(), mine)
        assert torch.equal(y.cpu(), labels)


def test_a_learner_has_its_items_where_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "room", lambda place: 1 << 40)
    monkeypatch.setattr("inflame.model.engine.device.pick", lambda name: far.PLACE)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    learner = Learner(
        net=net,
        criterion=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        train_loader=batches(),
        val_loader=batches(),
        device=One("far", "fp32"),
    )
    assert "on the device" in learner.lies
    assert learner.train_loader.pixels.device == learner.val_loader.pixels.device == far.PLACE
    assert learner.fit(2)["val_accuracy"] > 0


def test_answers_are_asked_for_where_the_net_is() -> None:
    features = np.ones((5, 4), np.float32)
    net = nets.Classifier(nn.Flatten(), nn.Linear(4, 3), {})
    want = standing.headed(net, features), cutting.through(net.head, features.astype(np.float16))
    net.to(far.PLACE)
    assert where(net) == far.PLACE
    assert where(nn.Flatten()) == torch.device("cpu")
    np.testing.assert_allclose(standing.headed(net, features), want[0], rtol=1e-6)
    np.testing.assert_allclose(cutting.through(net.head, features.astype(np.float16)), want[1], rtol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("share", [0.4, 0.0])
def test_a_gpu_holds_what_fits(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(placing, "SHARE", share)
    near = batches()
    there, why = placing.placed(near, torch.device("cuda", 0))
    assert ("on the device" in why) == bool(share)
    for (x, y), (mine, labels) in zip(there.epoch(0), near.epoch(0), strict=True):
        assert x.is_cuda
        torch.testing.assert_close(x.cpu(), mine)
        assert torch.equal(y.cpu(), labels)
