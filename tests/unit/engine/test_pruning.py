"""Pruned nets are smaller, answer, can be built again from what is saved, and be trained on."""

from __future__ import annotations

import pytest
import torch

from inflame.errors import SettingError
from inflame.model.engine import nets, pruning

pytest.importorskip("torch_pruning")

NETS = {
    "small": lambda: nets.small(size=32, channels=3, classes=4),
    "resnet18": lambda: nets.named("resnet18", classes=4),
    "vgg": lambda: nets.named("torchvision:vgg11_bn", classes=4),
    "mobilenet": lambda: nets.named("mobilenetv3_small_050", classes=4, head="hellinger"),
}


@pytest.mark.parametrize("kind", ["small", "resnet18", pytest.param("vgg", marks=pytest.mark.slow), "mobilenet"])
def test_a_pruned_net_is_smaller_and_can_be_built_again(kind: str) -> None:
    torch.manual_seed(0)
    net, x = NETS[kind]().eval(), torch.randn(2, 3, 32, 32)
    pruned = pruning.prune(net, x, 0.5)
    assert pruning.size(pruned) < 0.7 * pruning.size(net)
    assert pruned(x).shape == (2, 4)
    again = nets.build(pruned.spec)
    again.load_state_dict(pruned.state_dict())
    torch.testing.assert_close(again.eval()(x), pruned.eval()(x))


def test_what_is_left_learns_on() -> None:
    torch.manual_seed(0)
    net = pruning.prune(nets.small(size=16, channels=1, classes=2), torch.randn(2, 1, 16, 16), 0.5)
    x, y = torch.randn(32, 1, 16, 16), torch.arange(32) % 2
    x[y == 1] += 1
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.01)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(net.train()(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2


@pytest.mark.parametrize("share", [-0.1, 0.99])
def test_a_share_that_cannot_be_pruned(share: float) -> None:
    with pytest.raises(SettingError, match="prune="):
        pruning.prune(NETS["small"](), torch.randn(2, 3, 32, 32), share)


def test_nothing_to_prune() -> None:
    net = NETS["small"]()
    assert pruning.prune(net, torch.randn(2, 3, 32, 32), 0.0) is net
    with pytest.raises(SettingError, match="no filters"):
        pruning.prune(nets.linear(size=8, channels=1, classes=2), torch.randn(2, 1, 8, 8), 0.5)
