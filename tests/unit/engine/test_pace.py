"""The pace of training is found by trying, and compiling is decided by what it costs and saves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflame.model.engine import pace
from inflame.model.engine.device import One

LOSS = nn.CrossEntropyLoss()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, 8, 8), torch.arange(count) % 2


def test_choosing_measures_and_changes_nothing(same: Any) -> None:
    one, (x, y) = net(), batch()
    before, generator = copy.deepcopy(one.state_dict()), torch.get_rng_state()
    chosen = pace.choose(one, x, y, LOSS, name="cpu", left=10)
    assert chosen.device.place == torch.device("cpu")
    assert chosen.batch_size == 8
    assert chosen.seconds > 0
    assert "items/s" in chosen.why
    assert same(one.state_dict(), before)
    assert all(parameter.grad is None for parameter in one.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_fastest_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(device: One, *_: Any) -> tuple[float, float]:
        return (1.0 if device.precision == "bf16" and device.channels_last else 2.0), 0.7

    monkeypatch.setattr(pace, "step", pretend)
    chosen = pace.choose(net(), *batch(), LOSS, name="cpu", left=10)
    assert (chosen.device.precision, chosen.device.channels_last) == ("bf16", True)
    assert "2.0 x the slowest way" in chosen.why


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.5])
def test_a_way_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    def pretend(device: One, *_: Any) -> tuple[float, float]:
        return (1.0, wrong) if device.precision == "bf16" else (2.0, 0.7)

    monkeypatch.setattr(pace, "step", pretend)
    assert pace.choose(net(), *batch(), LOSS, name="cpu", left=10).device.precision == "fp32"


@pytest.mark.parametrize(
    ("left", "known", "compiled"),
    [
        (60.0, {}, False),  # would save 15 s for 40
        (3600.0, {"cost": 40.0, "gain": 0.3}, True),
        (3600.0, {"cost": 40.0, "gain": 0.01}, False),  # 36 s for 40
        (3600.0, {"cost": 40.0, "gain": -0.2}, False),
        (60.0, {"cost": 3.0, "gain": 0.3}, True),  # cheap, as was found out before
    ],
)
def test_compiling_must_pay(
    monkeypatch: pytest.MonkeyPatch, left: float, known: dict[str, float], compiled: bool
) -> None:
    monkeypatch.setattr(pace, "_recall", lambda *_: known)
    chosen = pace.choose(net(), *batch(), LOSS, name="cpu", left=left)
    assert chosen.device.compiled is compiled
    assert ("not compiled" in chosen.why) is not compiled


def test_a_short_training_counts_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_recall", lambda *_: {"cost": 40.0, "gain": 0.9})
    monkeypatch.setattr(pace, "step", lambda *_: (0.1, 0.7))
    assert not pace.choose(net(), *batch(), LOSS, name="cpu", steps=100).device.compiled
    assert pace.choose(net(), *batch(), LOSS, name="cpu", steps=100_000).device.compiled


@pytest.mark.slow
def test_a_compiled_net_trains_and_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    one, (x, y) = net(), batch()
    device = One("cpu", channels_last=True)
    found = pace.compiling(one, x, y, LOSS, device)
    assert found["cost"] > 0
    assert pace._recall(one, x, device) == found
    assert pace._recall(one, torch.randn(4, 3, 8, 8), device) == {}
    fused = One("cpu", channels_last=True, compiled=True)
    model, _ = fused.setup(one, torch.optim.SGD(one.parameters(), lr=0.1))
    torch.testing.assert_close(model(x), one(x), atol=1e-4, rtol=1e-4)


class Full(nn.Module):
    """Memory is short where more than `most` items come at once, or, in fp32, more than half of that."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.net = most, net()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > (self.most if torch.is_autocast_enabled("cpu") else self.most // 2):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        found: Tensor = self.net(x)
        return found


@pytest.mark.parametrize(
    ("most", "tried", "precision"), [(100, 8, None), (10, 8, "bf16"), (5, 4, "bf16"), (1, 1, "bf16")]
)
def test_a_way_that_does_not_fit_is_not_taken_nor_such_a_batch(most: int, tried: int, precision: str | None) -> None:
    chosen = pace.choose(Full(most), *batch(8), LOSS, name="cpu", left=10)
    assert chosen.batch_size == tried
    assert precision in (None, chosen.device.precision)
    assert chosen.seconds < 60


def test_an_item_that_does_not_fit_is_for_the_training_to_say() -> None:
    assert "nothing could be measured" in pace.choose(Full(0), *batch(8), LOSS, name="cpu").why


def test_the_batch_grows_while_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(device: One, net: Any, x: Tensor, *_: Any) -> tuple[float, float]:
        return 1.0 + len(x) / 64, 0.7  # 64 items and more take what they take

    monkeypatch.setattr(pace, "step", pretend)
    found = pace.batch_size(One("cpu"), net(), batch, LOSS, most=4096)
    assert 256 <= found.items <= 2048
    assert found.each == pytest.approx((1 + found.items / 64) / found.items)
    assert "as quick as in 8; twice as many are " in found.why
    fewer = pace.batch_size(One("cpu"), net(), batch, LOSS, most=16)
    assert (fewer.items, fewer.why.rpartition("; ")[2]) == (16, "twice as many would be too few steps")


def test_the_batch_stops_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(device: One, net: Any, x: Tensor, *_: Any) -> tuple[float, float]:
        if len(x) > 32:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 1.0, 0.7

    monkeypatch.setattr(pace, "step", pretend)
    found = pace.batch_size(One("cpu"), net(), batch, LOSS, most=4096)
    assert (found.items, found.why.rpartition("; ")[2]) == (32, "twice as many don't fit into the memory")
    assert pace.batch_size(One("cpu"), net(), batch, LOSS, least=128, most=4096).items == 32


def test_the_batch_stops_before_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def pretend(device: One, net: Any, x: Tensor, *_: Any) -> tuple[float, float]:
        tried.append(len(x))
        return 1.0, 0.7

    monkeypatch.setattr(pace, "step", pretend)
    monkeypatch.setattr(pace, "_used", lambda *_, **__: max([0, *tried]) * 1000)
    monkeypatch.setattr(pace, "_memory", lambda _: 100_000)
    assert pace.batch_size(One("cpu"), net(), batch, LOSS, most=4096).items == 64  # twice that would be too much
    assert max(tried) == 64


def test_the_batch_is_found_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "step", lambda device, net, x, *_: (1.0, 0.7))
    found = pace.batch_size(One("cpu"), net(), batch, LOSS, most=4096, seconds=0.0)
    assert (found.items, found.why) == (8, "8 items/s; there is no time to try twice as many")


def test_where_nothing_fits_the_training_says_so() -> None:
    found = pace.batch_size(One("cpu"), Full(0), batch, LOSS, most=64)
    assert (found.items, found.each) == (8, 0.0)


def test_real_steps_give_a_size_that_was_tried() -> None:
    found = pace.batch_size(One("cpu", threads=1), net(), batch, LOSS, most=64, least=4)
    assert found.items in (4, 8, 16, 32, 64)
