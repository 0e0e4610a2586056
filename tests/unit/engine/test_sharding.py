"""A net spread over two processes learns what one process learns, and its checkpoint goes on anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inflame.errors import SettingError
from inflame.model.engine import sharding
from inflame.model.engine.hooks import Ema

_PROGRAM = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
from torch import nn
from inflame.artifact import loader
from inflame.model.engine import checkpoint, sharding
from inflame.model.engine.device import One
from inflame.model.engine.hooks import Clip, NonFinite, SaveBest, SaveLast
from inflame.model.engine.learner import Learner
from inflame.model.engine.processes import Many
from inflame.records import Preprocess

kind, folder, epochs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
sharding.UNIT = 200  # several units in a tiny net
device = One("cpu") if kind == "one" else Many(2, accelerator="cpu", strategy="fsdp")
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)
)
net[4].requires_grad_(False)
rows = []
class Watch:
    def before_epoch(self, learner):
        learner.net[4].eval()  # the statistics of half a batch are others
    def after_epoch(self, learner):
        rows.append(learner.metrics)
pixels = torch.randint(0, 256, (101, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
labels = (pixels[:, :4].float().mean((1, 2, 3)) > pixels[:, 4:].float().mean((1, 2, 3))).long()
def batches(size, **how):
    pictures = loader.Pictures(pixels=pixels, labels=labels, uris=tuple(map(str, range(101))))
    return loader.Batches(pictures, Preprocess(size=8, resize=8), batch_size=size, **how)
learner = Learner(
    net=net, criterion=nn.CrossEntropyLoss(), optimizer=torch.optim.AdamW(net.parameters(), lr=0.01),
    train_loader=batches(25, shuffle=True), val_loader=batches(50), device=device,
    hooks=[NonFinite(folder), Clip(0.5), Watch(), best := SaveBest(folder / "best"), SaveLast(folder / "last", every=0)]
)
checkpoint.resume(learner, folder / "last")
parts = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in net.parameters())
learner.fit(epochs)
best.restore(net)
plain = device.plain(learner.scored)
if device.main:
    weights = {name: value.tolist() for name, value in plain.state_dict().items()}
    print(json.dumps({"rows": rows, "weights": weights, "what": device.describe(), "parts": parts}))
"""


def ran(kind: str, folder: Path, epochs: int) -> dict[str, Any]:
    folder.parent.mkdir(exist_ok=True)
    program = folder.parent / "program.py"
    program.write_text(_PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), kind, str(folder), str(epochs)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def close(one: dict[str, Any], other: dict[str, Any]) -> None:
    for mine, theirs in zip(one["rows"], other["rows"], strict=True):
        for name in ("step", "loss", "accuracy", "val_loss", "val_accuracy"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-4), name
    for name, weight in one["weights"].items():
        assert torch.allclose(torch.tensor(other["weights"][name]), torch.tensor(weight), atol=1e-4), name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_with_half_of_the_net_each_do_what_one_does(tmp_path: Path) -> None:
    pytest.importorskip("lightning.fabric")
    whole = ran("one", tmp_path / "one" / "run", 3)
    begun = ran("fsdp", tmp_path / "two" / "run", 2)
    assert "the net spread over them" in begun["what"]
    assert begun["parts"] < 0.6 * whole["parts"]
    close({**whole, "rows": whole["rows"][:2], "weights": {}}, {**begun, "weights": {}})
    on = ran("fsdp", tmp_path / "two" / "run", 3)
    close({**whole, "rows": whole["rows"][2:]}, on)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_begun_on_two_halves_goes_on_whole(tmp_path: Path) -> None:
    pytest.importorskip("lightning.fabric")
    whole = ran("one", tmp_path / "one" / "run", 3)
    ran("fsdp", tmp_path / "two" / "run", 2)
    close({**whole, "rows": whole["rows"][2:]}, ran("one", tmp_path / "two" / "run", 3))


def test_a_large_net_is_told_from_a_small_one() -> None:
    net = nn.Linear(1000, 1000)
    assert sharding.too_large(net, 16e6)
    assert not sharding.too_large(net, 64e6)


def test_restoring_a_whole_net_is_loading_it() -> None:
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    sharding.restore(net, other.state_dict())
    assert torch.equal(net.weight, other.weight)


def test_no_average_is_kept_of_a_spread_net(make_learner: Any) -> None:
    learner = make_learner(hooks=[Ema(0.9)])
    learner.device.spread = True
    with pytest.raises(SettingError, match="average") as error:
        learner.fit(1)
    assert "hyperparam.ema=0" in error.value.remedy
