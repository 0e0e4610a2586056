"""A checkpoint of another net or optimizer: what is said, and what goes on all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inflame.errors import CheckpointError
from inflame.model.engine import checkpoint, fitting
from inflame.model.engine.checkpoint import random_state
from inflame.model.engine.hooks import SaveLast
from inflame.model.engine.learner import Learner

Make = Callable[..., Learner]


def wider() -> nn.Module:
    """The net of the tests with more filters, and an optimizer's worth of other names behind them."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 5)
    )


@pytest.fixture
def saved(make_learner: Make, tmp_path: Path) -> Path:
    make_learner(hooks=[SaveLast(tmp_path)]).fit(2)
    return tmp_path


def test_weights_of_another_net_are_refused_with_the_tensors_that_differ(make_learner: Make, saved: Path) -> None:
    deeper = nn.Sequential(nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.Linear(4, 3))
    learner = make_learner(net=deeper)
    before = {name: value.clone() for name, value in deeper.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.resume(learner, saved)
    assert "0.weight is 4×1×3×3, here 4×1×5×5; it has no 2.weight; it has no 2.bias" in caught.value.message
    assert "and 2 more" in caught.value.message  # 5.weight and 5.bias, which this net hasn't
    assert "force=true" in caught.value.remedy
    assert all(torch.equal(value, before[name]) for name, value in deeper.state_dict().items())


def test_what_fits_goes_on_and_the_rest_begins_anew(make_learner: Make, saved: Path) -> None:
    learner, told = make_learner(net=wider()), []

    def adapt(state: dict[str, Any]) -> dict[str, Any]:
        found, lines = fitting.adapted(state, learner, afresh=True)
        told.extend(lines)
        return found

    assert checkpoint.resume(learner, saved, adapt=adapt)
    kept = checkpoint.load(saved)
    assert kept is not None
    assert torch.equal(learner.net.state_dict()["0.weight"], kept["net"]["0.weight"])
    assert learner.at.step == 0
    assert "5.weight is 3×256, here 5×256" in told[0]
    assert "begin anew" in told[1]
    learner.fit(1)


def test_another_optimizer_begins_anew_alone(make_learner: Make, saved: Path) -> None:
    net = make_learner().net
    learner = make_learner(net=net, optimizer=torch.optim.AdamW(net.parameters()))
    state = checkpoint.load(saved)
    assert state is not None
    found, lines = fitting.adapted(state, learner, afresh=False)
    assert lines == ["the optimizer begins anew: it is another one, or has other groups"]
    learner.load_state_dict(found)
    assert learner.at.step == 12
    assert not learner.optimizer.state
    learner.fit(3)


def test_where_all_fits_only_the_clock_begins_anew(make_learner: Make, saved: Path, same: Any) -> None:
    state, learner = checkpoint.load(saved), make_learner()
    assert state is not None
    assert fitting.adapted(state, learner, afresh=False) == (state, [])
    found, lines = fitting.adapted(
        {**state, "elapsed": 9.0, "at": {"epoch": 1, "batch": 3, "step": 9}}, learner, afresh=True
    )
    assert found["elapsed"] == 0
    assert found["at"] == {"epoch": 1, "batch": 0, "step": 9}
    assert same(found["optimizer"], state["optimizer"])
    assert "goes on from step 9" in lines[0]


def test_each_of_several_processes_goes_on_with_its_own(make_learner: Make, saved: Path) -> None:
    """Of another number of them the first has counted everything, and nothing is counted twice."""
    state = checkpoint.load(saved)
    assert state is not None
    torch.manual_seed(1)
    own = [{"tally": [1.0, 2.0, 3.0], "random": state["random"]}, {"tally": [4.0, 5.0, 6.0], "random": random_state()}]
    state["each"], device = own, make_learner().device
    assert fitting.own(state, device) == {"tally": [5.0, 7.0, 9.0], "random": state["random"]}
    device.world, device.rank = 2, 1
    assert fitting.own(state, device) is own[1]
    device.world = 3
    assert fitting.own(state, device)["tally"] == [0.0, 0.0, 0.0]
    del state["each"]  # as one process leaves it
    assert fitting.own(state, device)["tally"] == [0.0, 0.0, 0.0]
    device.rank = 0
    assert fitting.own(state, device)["tally"] == state["tally"]
