"""Nets: shapes, what they are remade from, and the parts that training relies on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inflame.errors import SettingError
from inflame.model.engine import nets


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (28, 1), (32, 3), (48, 3), (64, 1)])
def test_small_nets_take_pictures_of_any_small_size(size: int, channels: int) -> None:
    net = nets.small(size=size, channels=channels, classes=5)
    x = torch.randn(3, channels, size, size)
    features = net.body(x)
    assert features.ndim == 2
    assert features.dtype == torch.float32
    assert net(x).shape == (3, 5)
    assert torch.equal(net.eval()(x), net.head(net.body(x)))


@pytest.mark.parametrize("kind", ["small", "linear", "timm", "mirrored"])
def test_a_net_is_remade_from_its_spec(kind: str) -> None:
    net = {
        "small": lambda: nets.small(size=16, channels=3, classes=4),
        "linear": lambda: nets.linear(size=16, channels=3, classes=4),
        "timm": lambda: nets.from_timm("test_resnet", classes=4, head="hellinger"),
        "mirrored": lambda: nets.mirrored(nets.small(size=16, channels=3, classes=4)),
    }[kind]()
    again = nets.build(net.spec)
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(net.eval()(x), again.eval()(x))


def test_an_unknown_net_is_told_with_the_nearest_name() -> None:
    with pytest.raises(SettingError, match="resnet18x") as told:
        nets.from_timm("resnet18x", classes=2)
    assert "resnet18" in told.value.remedy
    with pytest.raises(SettingError, match="magic"):
        nets.build({"kind": "magic"})


def test_whitening_makes_the_stem_s_answers_uncorrelated() -> None:
    torch.manual_seed(0)
    smooth = nn.functional.avg_pool2d(torch.randn(200, 3, 34, 34), 3, stride=1)
    net = nets.small(size=32, channels=3, classes=4)
    nets.whiten(net, smooth, floor=0.0)
    stem = net.body[0]  # type: ignore[index]
    count = stem.out_channels // 2
    answers = stem(smooth)[:, :count].permute(1, 0, 2, 3).reshape(count, -1)
    covariance = answers @ answers.T / answers.shape[1]
    # Every patch counts once in `whiten` and in the convolution, so what comes out is the identity.
    assert torch.allclose(covariance, torch.eye(count), atol=0.05)
    assert torch.equal(stem.weight[:count], -stem.weight[count : 2 * count])
    assert not any(p.requires_grad for p in stem.parameters())


def test_whitening_leaves_other_nets_alone() -> None:
    net = nets.linear(size=8, channels=1, classes=2)
    before = net.head.weight.clone()  # type: ignore[operator]
    nets.whiten(net, torch.randn(10, 1, 8, 8))
    assert torch.equal(before, net.head.weight)  # type: ignore[arg-type]


def test_a_mirrored_net_answers_alike_for_both_sides() -> None:
    torch.manual_seed(0)
    net = nets.mirrored(nets.small(size=16, channels=3, classes=4)).eval()
    x = torch.randn(5, 3, 16, 16)
    assert torch.allclose(net(x), net(x.flip(3)), atol=1e-5)
    assert net.spec["mirrored"] is True


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv2_100", "mobilenetv3_small_050", "efficientnet_b0", "convnext_atto"]
)
def test_stages_are_the_body_cut_into_a_chain(name: str) -> None:
    net = nets.from_timm(name, classes=2).eval()
    chain = nets.stages(net.body)
    assert len(chain) > 3
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(nn.Sequential(*chain)(x), net.body(x), atol=1e-5)


def test_a_body_of_unknown_shape_has_no_stages() -> None:
    assert nets.stages(nn.Linear(3, 3)) == []


@pytest.mark.parametrize("name", ["resnet18", "resnet10t"])  # a stem of one layer, and of three
def test_a_small_stem_keeps_small_pictures_large(name: str) -> None:
    net = nets.from_timm(name, classes=10)
    nets.small_stem(net)
    assert net.body.conv1.stride == (1, 1)  # type: ignore[union-attr]
    assert net.body.layer1(net.body.maxpool(net.body.conv1(torch.randn(1, 3, 32, 32)))).shape[-1] == 32  # type: ignore[operator, union-attr]
    assert nets.build(net.spec).body.conv1.kernel_size == (3, 3)  # type: ignore[union-attr]


def test_hellinger_features_have_one_length_and_keep_their_signs() -> None:
    x = torch.tensor([[4.0, -9.0, 0.0], [400.0, -900.0, 0.0]])
    y = nets.Hellinger()(x)
    assert torch.allclose(y.norm(dim=1), torch.full((2,), 10.0), atol=1e-3)
    assert torch.equal(y.sign(), x.sign())
    assert y[0, 1].abs() / y[0, 0].abs() == pytest.approx(1.5, abs=0.01)  # the square roots of 9 and 4
    zero = torch.zeros(1, 3, requires_grad=True)
    nets.Hellinger()(zero).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "mobilenet_v3_small", "googlenet", "convnext_tiny", "vit_b_16"])
def test_nets_of_torchvision_get_a_new_head(name: str) -> None:
    side = 224 if name == "vit_b_16" else 64
    net = nets.named(f"torchvision:{name}", classes=5).eval()
    with torch.inference_mode():
        features = net.body(torch.zeros(2, 3, side, side))
        assert net.head(features).shape == (2, 5)
    assert not any(isinstance(module, nn.Linear) and module.out_features == 1000 for module in net.modules())
    assert nets.build(net.spec).state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize("name", ["torchvision:vgg11_bn", "torchvision:resnet18", "timm:resnet18"])
def test_cut_bodies_are_the_body(name: str) -> None:
    net, x = nets.named(name, classes=3).eval(), torch.randn(2, 3, 64, 64)
    chain = nets.stages(net.body)
    assert len(chain) >= 5
    with torch.inference_mode():
        torch.testing.assert_close(nn.Sequential(*chain)(x), net.body(x))


@pytest.mark.parametrize(
    ("name", "guess"),
    [("torchvision:vgg61", "vgg16"), ("timm:convnext_tiney", "convnext_tiny"), ("tim:resnet18", "timm:resnet18")],
)
def test_a_misspelt_net_is_guessed(name: str, guess: str) -> None:
    with pytest.raises(SettingError) as error:
        nets.named(name, classes=2)
    assert guess in f"{error.value.message} {error.value.remedy}"


def test_whitening_stands_patches_that_have_no_spread() -> None:
    x = torch.linspace(-1, 1, 28).expand(2000, 1, 28, 28) + 1e-4 * torch.randn(2000, 1, 1, 1)
    net = nets.small(size=28, channels=1, classes=2)
    nets.whiten(net, x)
    assert all(bool(value.isfinite().all()) for value in net.state_dict().values())
