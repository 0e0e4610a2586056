"""Devices: what is picked, how a step runs there, and that several processes do what one does."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inflame import host
from inflame.artifact import loader
from inflame.errors import MissingExtra, UserError
from inflame.model.engine import many
from inflame.model.engine.device import One, pick
from inflame.model.engine.learner import Learner
from inflame.model.engine.processes import Many
from inflame.runs import Follows

Make = Callable[..., Learner]


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- picking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick() == torch.device(expected)
    assert pick("cpu") == torch.device("cpu")


def test_numbers_of_gpus_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="cuda:2 isn't there"):
        pick("cuda:2")


def test_what_isnt_there_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="cuda isn't there") as error:
        One("cuda")
    assert "cpu" in error.value.remedy


@pytest.mark.parametrize("name", ["cudda", "gpu", "cuda:x", "", "cpu:0:1"])
def test_unknown_names_are_a_users_error(name: str) -> None:
    with pytest.raises(UserError, match="no kind of device"):
        pick(name)


def test_a_misspelt_precision_is_guessed() -> None:
    with pytest.raises(UserError, match='Did you mean "bf16"'):
        One("cpu", "bf61")


def test_precision_auto_is_exact_on_the_cpu() -> None:
    assert One("cpu").precision == "fp32"


def test_describe_says_what_was_chosen() -> None:
    assert One("cpu", threads=1).describe() == "cpu, 1 thread, fp32"
    assert One("cpu", "bf16", channels_last=True, threads=2).describe() == "cpu, 2 threads, bf16, channels last"


def test_threads_honour_the_environment_and_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    One("cpu")
    assert torch.get_num_threads() == 4
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(host, "cores", lambda: 3)
    One("cpu")
    assert torch.get_num_threads() == 3


# --- steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_precision_and_layout_learns(make_learner: Make, precision: str, channels_last: bool) -> None:
    device = One("cpu", precision, channels_last=channels_last, threads=1)
    learner = make_learner(device=device)
    before = learner.evaluate(learner.val_loader)["loss"]
    learner.fit(6)
    assert learner.evaluate(learner.val_loader)["loss"] < before
    assert learner.net[0].weight.dtype == torch.float32
    assert learner.net[0].weight.is_contiguous(memory_format=torch.channels_last) or not channels_last


def test_in_fp16_an_overflow_skips_the_step_and_halves_the_scale(make_learner: Make) -> None:
    learner = make_learner(device=One("cpu", "fp16", threads=1), val_loader=None)
    scaler = learner.device._scaler
    learner.device.load_state_dict({"scaler": {**scaler.state_dict(), "scale": 2.0**40}})  # that overflows at once
    weights = copy.deepcopy(dict(learner.net.named_parameters()))
    learner.fit(1)
    assert scaler.get_scale() < 2.0**40
    assert all(torch.equal(value, weights[name]) for name, value in learner.net.named_parameters())


def test_the_scale_goes_on_after_a_resume(make_learner: Make) -> None:
    one, two = One("cpu", "fp16"), One("cpu", "fp16")
    learner = make_learner(device=one, val_loader=None)
    learner.fit(1)
    one._scaler.update(1234.0)
    two.load_state_dict(one.state_dict())
    assert two._scaler.get_scale() == 1234.0
    assert One("cpu").state_dict() == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_compiled_net_rounds_alike_whichever_sizes_of_batches_it_has_seen() -> None:
    """Else a resume that begins with the short last batch of an epoch would give other bits."""

    def gradients(sizes: tuple[int, int]) -> dict[int, list[torch.Tensor]]:
        torch._dynamo.reset()  # as a new process
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(288, 32), nn.LayerNorm(32)
        )
        model, _ = One("cpu", compiled=True, threads=1).setup(net, torch.optim.SGD(net.parameters(), 0.1))
        found = {}
        for size in sizes:
            net.zero_grad()
            x = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(size))
            nn.functional.cross_entropy(model(x), torch.arange(size)).backward()
            found[size] = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
        return found

    one, other = gradients((8, 5)), gradients((5, 8))
    assert all(torch.equal(mine, theirs) for size in one for mine, theirs in zip(one[size], other[size], strict=True))


# --- many ----------------------------------------------------------------------------------------


def test_without_fabric_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    with pytest.raises(MissingExtra) as error:
        Many(2)
    assert "inflame[many]" in error.value.remedy


def _process(rank: int, world: int) -> Many:
    """One of several processes, without the processes."""
    device = object.__new__(Many)
    device.rank, device.world, device.place, device._weight = rank, world, torch.device("cpu"), 1.0
    device.use("fp32")
    return device


@pytest.mark.parametrize("items", [1, 2, 7, 8])
def test_the_shares_of_a_batch_add_up_to_its_mean(items: int) -> None:
    x, y = torch.arange(float(items)), torch.arange(items)
    total, seen = 0.0, []
    for rank in range(3):
        device = _process(rank, 3)
        mine, _ = device.to(x, y)
        total += device._weight * mine.mean().item() / 3  # processes average their gradients
        assert len(mine) >= 1
        assert device.counts == (rank < items)  # the others train on an item of no weight
        seen += device.to(x, y, train=False)[1].tolist()
    assert total == pytest.approx(x.mean().item())
    assert sorted(seen) == list(range(items))


@pytest.mark.parametrize("items", [1, 2, 7, 8])
def test_shares_that_a_loader_made_are_taken_as_they_are(items: int) -> None:
    x, y = torch.arange(float(items)), torch.arange(items)
    total, seen = 0.0, []
    for rank in range(3):
        device = _process(rank, 3)
        share = x[loader.part(list(range(items)), rank, 3)], y[loader.part(list(range(items)), rank, 3)]
        mine, _ = device.to(*share, whole=items)
        total += device._weight * mine.mean().item() / 3
        assert len(mine) >= 1
        seen += device.to(*share, train=False, whole=items)[1].tolist()
    assert total == pytest.approx(x.mean().item())
    assert sorted(seen) == list(range(items))


def test_other_versions_are_refused_by_the_first_and_followed_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def gathered(found: list[Any], mine: dict[str, str]) -> None:
        found[:] = [mine, {**mine, "torch": "1.0"}] if found_by == 0 else [{**mine, "torch": "1.0"}, mine]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    found_by = 0
    with pytest.raises(UserError, match=r"number 1 of 2 has torch 1\.0"):
        _process(0, 2)._compare()
    found_by = 1
    with pytest.raises(Follows):
        _process(1, 2)._compare()
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda found, mine: found.__setitem__(slice(2), [mine] * 2)
    )
    _process(0, 2)._compare()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, (4, 2)),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, (2, 1)),
        ({"WORLD_SIZE": "2"}, None),
    ],
)
def test_what_torchrun_started_is_known(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: tuple[int, int] | None
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert many.started() == expected


_PROGRAM = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
from torch import nn
from inflame.model.engine import checkpoint
from inflame.model.engine.device import One
from inflame.model.engine.processes import Many
from inflame.model.engine.hooks import Clip, Ema, NonFinite, SaveBest, SaveLast
from inflame.model.engine.learner import Learner, TimeBudget

class Batches:
    def __init__(self, items, size):
        generator = torch.Generator().manual_seed(1)
        self.x, self.size = torch.randn(items, 1, 4, 4, generator=generator), size
        self.y = (self.x.mean((1, 2, 3)) > 0).long()
    def __len__(self):
        return (len(self.y) + self.size - 1) // self.size
    def epoch(self, epoch, start=0):
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(epoch))
        for index in range(start, len(self)):
            rows = order[index * self.size:(index + 1) * self.size]
            yield self.x[rows], self.y[rows]

folder = Path(sys.argv[2])
device = One("cpu") if sys.argv[1] == "one" else Many(2, accelerator="cpu")
torch.manual_seed(0)
net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
rows = []
class Rows:
    def after_epoch(self, learner):
        rows.append(learner.metrics)
learner = Learner(
    net=net, criterion=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9),
    train_loader=Batches(101, 20), val_loader=Batches(33, 10), schedule=lambda progress: 1 - progress, device=device,
    hooks=[NonFinite(folder), Clip(0.5), Ema(0.9), Rows(), SaveBest(folder / "best"), SaveLast(folder / "last")],
)
learner.fit(2)
if sys.argv[1] == "many":  # and on from the checkpoint, against the clock
    checkpoint.resume(learner, folder / "last")
    learner.fit(budget=TimeBudget(0.3))
if device.main:
    weights = {name: value.tolist() for name, value in checkpoint.load(folder / "best")["net"].items()}
    print(json.dumps({"rows": rows[:2], "weights": weights, "what": device.describe(), "steps": learner.at.step}))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    pytest.importorskip("lightning.fabric")
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    found = {}
    for kind in ("one", "many"):
        ran = subprocess.run(
            [sys.executable, str(program), kind, str(tmp_path / kind)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert ran.returncode == 0, ran.stderr
        found[kind] = json.loads(ran.stdout.splitlines()[-1])
    assert found["many"]["what"] == "2 x cpu, 1 thread, fp32"
    assert found["many"]["steps"] > 12
    for one, both in zip(found["one"]["rows"], found["many"]["rows"], strict=True):
        assert both["loss"] == pytest.approx(one["loss"], rel=1e-5)  # the last batch has one item: one share counts it
        assert both["val_loss"] == pytest.approx(one["val_loss"], rel=1e-5)
        assert both["val_accuracy"] == pytest.approx(one["val_accuracy"])
