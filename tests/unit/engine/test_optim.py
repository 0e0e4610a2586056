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


def test_rates_follow_the_batch_size() -> None:
    assert optim.linear(0.1, size=512, usual=128) == pytest.approx(0.4)
    assert optim.root(0.1, size=512, usual=128) == pytest.approx(0.2)
    assert optim.linear(0.1, size=128, usual=128) == optim.root(0.1, size=128, usual=128) == 0.1


@pytest.mark.parametrize("moved", [False, True])
def test_one_kernel_does_what_many_do_also_after_a_change_of_layout(moved: bool) -> None:
    def trained(make: object, *, moved: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        optimizer = make([{"params": list(model.parameters()), "lr": 0.01, "weight_decay": 0.1}])  # type: ignore[operator]
        for step in range(6):
            if step == 3 and moved:
                state = optimizer.state_dict()
                model.to(memory_format=torch.channels_last)
                optimizer.load_state_dict(state)
                optim.align(optimizer)
            x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    plain = trained(lambda groups: torch.optim.AdamW(groups, fused=False), moved=moved)
    assert torch.allclose(trained(optim.adam, moved=moved), plain, atol=1e-6)
