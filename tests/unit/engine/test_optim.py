"""Optimizers get the right parameters, and schedules begin, peak and end where they say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inflame.model.engine import nets, optim


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


@pytest.mark.parametrize("make", [optim.adamw, optim.sgd])
def test_every_parameter_that_learns_is_there_once(make: object) -> None:
    model = net()
    model[0].weight.requires_grad_(False)  # type: ignore[index]
    optimizer = make(model, learning_rate=0.1, weight_decay=0.01)  # type: ignore[operator]
    found = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_adamw_decays_no_vectors() -> None:
    matrices, vectors = optim.adamw(net(), learning_rate=0.1, weight_decay=0.01).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)
    assert all(p.ndim == 1 for p in vectors["params"])


def test_sgd_s_decay_is_the_share_taken_away_whatever_the_rate() -> None:
    for rate in (0.1, 0.02):
        model = net()
        optimizer = optim.sgd(model, learning_rate=rate, weight_decay=0.01, momentum=0.0)
        before = [p.detach().clone() for p in model.parameters()]
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        for old, new in zip(before, model.parameters(), strict=True):
            assert torch.allclose(new, old * 0.99, atol=1e-6)


def test_layered_rates_fall_from_the_head_down_and_cover_all() -> None:
    model = nets.from_timm("test_resnet", classes=3)
    layers = [*nets.stages(model.body), model.head]
    groups = optim.layered(layers, learning_rate=1.0, weight_decay=0.1, decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    assert set(rate) == {id(p) for layer in layers for p in layer.parameters()}
    assert rate[id(model.head.weight)] == 1.0
    firsts = [rate[id(next(layer.parameters()))] for layer in layers if next(layer.parameters(), None) is not None]
    assert firsts == sorted(firsts)
    assert firsts[0] < firsts[-1]


@pytest.mark.parametrize("make", [optim.triangle, optim.cosine])
def test_a_schedule_rises_to_one_and_ends_at_zero(make: object) -> None:
    factor = make(0.2)  # type: ignore[operator]
    values = [factor(step / 100) for step in range(101)]
    assert 0 < values[0] < 0.05
    assert max(values) == pytest.approx(1.0)
    assert values.index(max(values)) == 20
    assert values[-1] == pytest.approx(0.0, abs=1e-9)
    assert values[:21] == sorted(values[:21])
    assert values[20:] == sorted(values[20:], reverse=True)


def test_a_schedule_can_be_all_warmup() -> None:
    assert optim.triangle(1.0)(1.0) == 1.0
