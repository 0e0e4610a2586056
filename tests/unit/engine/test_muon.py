"""Muon: what becomes of a matrix, and that a step is what the formulae say."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from inflame.errors import SettingError
from inflame.model.engine import muon


@pytest.mark.parametrize("shape", [(24, 216), (216, 24), (64, 576), (10, 40), (40, 10)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = muon.orthogonal([matrix])[0]
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.65
    assert values.max() < 1.25
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mT @ found @ v.mT
    assert torch.allclose(turned, turned.diagonal().diag(), atol=1e-4)


def test_a_square_matrix_gets_there_but_for_what_was_nearly_zero() -> None:
    values = torch.linalg.svdvals(muon.orthogonal([torch.randn(64, 64, generator=torch.Generator().manual_seed(0))])[0])
    assert ((values > 0.65) & (values < 1.25)).float().mean() > 0.9


def test_scale_does_not_matter_and_zeros_stay_zeros() -> None:
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    large, zero = muon.orthogonal([1e4 * matrix, torch.zeros(6, 20)])
    assert torch.allclose(large, muon.orthogonal([matrix])[0], atol=1e-4)
    assert not zero.any()


def test_together_is_one_by_one() -> None:
    dice = torch.Generator().manual_seed(2)
    shapes = [(8, 30), (30, 8), (8, 30), (5, 5), (8, 30)]
    matrices = [torch.randn(shape, generator=dice) for shape in shapes]
    for one, other in zip(matrices, muon.orthogonal(matrices), strict=True):
        assert torch.allclose(muon.orthogonal([one])[0], other, atol=1e-5)


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))


def _optimizer(net: nn.Sequential, **changes: float) -> muon.Muon:
    filters, others = [net[0].weight], [*net[1].parameters(), *net[3].parameters()]
    sgd = {"params": others, "lr": 0.05, "momentum": 0.8, "weight_decay": 0.0, **changes}
    return muon.Muon([{"params": filters, "lr": 0.2, "momentum": 0.6, "orthogonal": True}, sgd])


def _backward(net: nn.Sequential, seed: int = 3) -> None:
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    nn.functional.cross_entropy(net(x), torch.arange(16) % 4).backward()


def test_what_is_no_filter_takes_the_steps_of_torch_s_sgd() -> None:
    ours, theirs = _net(), _net()
    first = _optimizer(ours, weight_decay=0.005)
    others = [*theirs[1].parameters(), *theirs[3].parameters()]
    second = torch.optim.SGD(others, lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.005 / 0.05)
    for step in range(3):
        theirs[0].weight.data.copy_(ours[0].weight.data)
        for net, optimizer in ((ours, first), (theirs, second)):
            net.zero_grad()
            _backward(net, step)
            optimizer.step()
    for mine, other in zip(ours[3].parameters(), theirs[3].parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_filter_bank_is_brought_to_its_norm_and_moved_by_the_rate(channels: int) -> None:
    filters = nn.Parameter(torch.randn(12, channels, 3, 3).contiguous(memory_format=torch.channels_last))
    optimizer = muon.Muon([{"params": [filters], "lr": 0.2, "momentum": 0.6, "orthogonal": True}])
    before = filters.detach().clone()
    filters.grad = torch.randn(12, channels, 3, 3, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    scaled = before * 12**0.5 / before.norm()
    assert (filters - scaled).norm().item() == pytest.approx(0.2 * 12**0.5, rel=0.15)
    assert ((filters - scaled) * filters.grad).sum() < 0


def test_a_rate_may_be_a_tensor() -> None:
    plain, told = _net(), _net()
    first, second = _optimizer(plain), _optimizer(told)
    for group in second.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    for net, optimizer in ((plain, first), (told, second)):
        _backward(net)
        optimizer.step()
    for one, other in zip(plain.parameters(), told.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


def test_its_state_is_loaded_to_the_last_bit() -> None:
    net = _net()
    optimizer = _optimizer(net)
    _backward(net)
    optimizer.step()
    other, state = copy.deepcopy(net), copy.deepcopy(optimizer.state_dict())
    again = _optimizer(other)
    again.load_state_dict(state)
    for one, its in ((net, optimizer), (other, again)):
        one.zero_grad()
        _backward(one, 4)
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_a_group_without_gradients_is_left_alone() -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    _optimizer(net).step()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_filters_have_no_weight_decay() -> None:
    with pytest.raises(SettingError, match="weight decay"):
        muon.Muon([{"params": [torch.zeros(2, 2)], "lr": 0.1, "weight_decay": 0.1, "orthogonal": True}])
