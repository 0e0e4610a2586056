"""Growing pictures: which size when, the usual step on a CPU, exact resume, and on CUDA graphs that do the same."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from inflame.artifact import augment, loader
from inflame.errors import SettingError
from inflame.model.engine import graphs, muon, nets, optim
from inflame.model.engine.device import One
from inflame.model.engine.hooks import Ema
from inflame.model.engine.learner import CancelFit, Learner
from inflame.records import Preprocess

PLAN = Preprocess(size=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def _pictures(count: int = 96) -> loader.Pictures:
    """Three classes: brighter in the upper half, in the lower half, or in neither."""
    dice = torch.Generator().manual_seed(0)
    pixels = torch.randint(60, 180, (count, 32, 32, 3), generator=dice, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    pixels[labels == 0, :16] += 60
    pixels[labels == 1, 16:] += 60
    return loader.Pictures(pixels=pixels, labels=labels, uris=tuple(map(str, range(count))))


def _learner(device: One | None = None, *, hooks: tuple[Any, ...] = (), step: Any = None, **changes: Any) -> Learner:
    torch.manual_seed(0)
    device = device or One("cpu")
    moves = augment.chain(augment.flip, partial(augment.shift, by=2, mode="reflect"))
    batches = loader.Batches(
        _pictures(), PLAN, batch_size=24, shuffle=True, transform=moves, device=device.place, **changes
    )
    net = nets.paired(channels=3, classes=3, widths=(24, 8, 16))
    nets.whiten(net, loader.normalise(batches.pixels, PLAN))
    learning = [p for p in net.body.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim == 4], "lr": 0.1, "momentum": 0.6, "orthogonal": True},
        {"params": [p for p in learning if p.ndim == 1], "lr": 0.3, "momentum": 0.85},
        {"params": list(net.head.parameters()), "lr": 0.02, "momentum": 0.85},
    ]
    growing = step or graphs.Growing((24, 28, 32), (0.4, 0.8))
    return Learner(
        net=net,
        criterion=nn.CrossEntropyLoss(label_smoothing=0.1),
        optimizer=muon.Muon(groups, rounds=3),
        schedule=optim.triangle(0.0),
        train_loader=batches,
        device=device,
        step=growing,
        hooks=[growing, *hooks],
    )


def test_pictures_grow_at_the_shares_that_were_said() -> None:
    step = graphs.Growing((24, 28, 32), (0.375, 0.75))
    sides = [step.side(progress / 8) for progress in range(9)]
    assert sides == [24, 24, 24, 28, 28, 28, 32, 32, 32]
    assert graphs.Growing((32,), ()).side(0.5) == 32


@pytest.mark.parametrize("until", [(), (0.8, 0.4), (0.1, 0.2, 0.3)])
def test_shares_that_fit_no_sides_are_refused(until: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="2 times"):
        graphs.Growing((24, 28, 32), until)


def test_smaller_pictures_are_smoothed_and_keep_their_layout() -> None:
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    small = graphs.smaller(x, 24)
    assert small.shape == (2, 3, 24, 24)
    assert small.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(graphs.smaller(torch.ones(1, 3, 32, 32), 24), torch.ones(1, 3, 24, 24))
    assert graphs.smaller(x, 32) is x


def test_the_net_sees_them_grow_and_learns() -> None:
    seen: list[int] = []
    learner = _learner()
    learner.net.register_forward_pre_hook(lambda net, given: seen.append(given[0].shape[-1]))
    row = learner.fit(10)
    assert (seen[:16], seen[16:32], seen[32:]) == ([24] * 16, [28] * 16, [32] * 8)
    assert row["accuracy"] > 0.9
    assert row["loss"] < 0.7


class _Stop:
    """Takes the state after so many steps, and ends the training."""

    def __init__(self, step: int) -> None:
        self.step, self.state = step, {}

    def pause(self, learner: Learner) -> None:
        if learner.at.step == self.step:
            self.state = copy.deepcopy(learner.state_dict())
            raise CancelFit


@pytest.mark.parametrize("step", [3, 9, 12])
def test_a_training_goes_on_to_the_same_bits_from_the_middle_of_an_epoch(step: int, same: Any) -> None:
    whole, stop = _learner(hooks=(Ema(0.9),)), _Stop(step)
    whole.fit(5)
    _learner(hooks=(Ema(0.9), stop)).fit(5)
    again = _learner(hooks=(Ema(0.9),))
    again.load_state_dict(stop.state)
    again.fit(5)
    first, second = whole.state_dict(), again.state_dict()
    assert all(same(first[key], second[key]) for key in ("net", "optimizer", "hooks", "tally", "at"))


class _Full(nn.Module):
    """Memory is short where more than `most` pictures come at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return x


def test_without_room_for_a_graph_it_is_the_usual_step(same: Any) -> None:
    step = graphs.Growing((24, 28, 32), (0.4, 0.8))
    learner = _learner(step=step)
    learner.net.body.append(_Full(8))
    before, plain = copy.deepcopy((learner.net.state_dict(), learner.rates)), learner.model
    assert step._captured(learner) == "memory is too short to hold one"
    assert not step._graphs
    assert learner.model is plain
    assert same((learner.net.state_dict(), [group["lr"] for group in learner.optimizer.param_groups]), before)
    assert all(parameter.grad is None for parameter in learner.net.parameters())
    assert learner.fit(10)["accuracy"] > 0.8
    assert learner.careful.parts == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("parts", "told"), [(1, "is one graph"), (2, "no graph of the whole step: a batch goes")])
def test_it_says_whether_there_is_a_graph(parts: int, told: str) -> None:
    said: list[str] = []
    learner = _learner(One("cuda", "fp32"), step=graphs.Growing((24, 32), (0.5,), say=said.append))
    learner.careful.parts = parts
    learner.fit(1)
    assert told in said[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_graphs_do_what_the_usual_step_does(compiled: bool) -> None:
    step = graphs.Growing((24, 28, 32), (0.4, 0.8), compiled=compiled)
    replayed = _learner(One("cuda", "fp32", channels_last=True), step=step)
    usual = _learner(One("cuda", "fp32", channels_last=True), step=graphs.Growing((24, 28, 32), (0.4, 0.8)))
    usual.hooks.clear()
    usual._calls = {event: [] for event in usual._calls}
    before = copy.deepcopy(replayed.net.state_dict())
    step.before_fit(replayed)
    assert sorted(step._graphs) == [24, 28, 32]
    assert all(torch.equal(before[name], value) for name, value in replayed.net.state_dict().items())
    assert [group["lr"] for group in replayed.optimizer.param_groups] == replayed.rates
    rows = [learner.fit(5) for learner in (replayed, usual)]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=0.02)
    for name, value in usual.net.state_dict().items():
        assert torch.allclose(replayed.net.state_dict()[name].float(), value.float(), rtol=0.05, atol=0.02), name
