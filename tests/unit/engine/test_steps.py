"""Where the memory of one of two processes is short both take smaller parts, and learn what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from inflame.model.engine import many

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from inflame.artifact import loader
from inflame.errors import InflameError
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner
from inflame.model.engine.processes import Many
from inflame.records import Preprocess

kind, where, most, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
device = One("cpu") if kind == "one" else Many(2, accelerator="cpu", strategy="ddp")
short = device.rank == device.world - 1 and kind != "one"
steps = 0

class Full(torch.autograd.Function):
    # Memory is short from step `first` on, when more than `most` items come at once.
    @staticmethod
    def forward(ctx, x):
        if short and where == "forward" and len(x) > most and steps >= first:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        if short and where == "backward" and len(gradient) > most and steps >= first:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return gradient.clone()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(192, 16), nn.Linear(16, 2)
    def forward(self, x):
        x = self.first(x.flatten(1)).relu()
        return self.last(Full.apply(x) if self.training else x)

class Count:
    def after_batch(self, learner):
        global steps
        steps = learner.at.step

torch.manual_seed(0)
net = Net()
pixels = torch.randint(0, 256, (101, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
labels = (pixels[:, :4].float().mean((1, 2, 3)) > pixels[:, 4:].float().mean((1, 2, 3))).long()
pictures = loader.Pictures(pixels=pixels, labels=labels, uris=tuple(map(str, range(101))))
learner = Learner(
    net=net, criterion=nn.CrossEntropyLoss(), optimizer=torch.optim.AdamW(net.parameters(), lr=0.01),
    train_loader=loader.Batches(pictures, Preprocess(size=8, resize=8), batch_size=25, shuffle=True),
    device=device, hooks=[Count()],
)
try:
    row = learner.fit(3)
except (InflameError, RuntimeError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
if device.main:
    weights = {name: value.tolist() for name, value in net.state_dict().items()}
    print(json.dumps({"row": row, "weights": weights, "parts": learner.careful.parts}))
"""


def started(folder: Path, kind: str, where: str, most: int, first: int = 0) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("lightning.fabric")
    program = folder / "program.py"
    program.write_text(_PROGRAM)
    return subprocess.run(
        [sys.executable, str(program), kind, where, str(most), str(first)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def ran(*given: Any) -> dict[str, Any]:
    done = started(*given)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_both_take_smaller_parts_and_learn_what_one_learns(tmp_path: Path, where: str) -> None:
    one, two = ran(tmp_path, "one", where, 0), ran(tmp_path, "two", where, 4)
    assert two["parts"] == 4  # shares of 12 and 13
    assert two["row"]["loss"] == pytest.approx(one["row"]["loss"], rel=1e-4)
    assert two["row"]["accuracy"] == one["row"]["accuracy"]
    for name, weight in one["weights"].items():
        torch.testing.assert_close(torch.tensor(two["weights"][name]), torch.tensor(weight), atol=1e-5, rtol=1e-4)


def test_an_item_that_does_not_fit_ends_both(tmp_path: Path) -> None:
    done = started(tmp_path, "two", "backward", 0)
    assert done.returncode
    assert "isn't enough for a single item" in done.stderr


def test_one_that_is_short_later_has_lost_the_other(tmp_path: Path) -> None:
    done = started(tmp_path, "two", "forward", 4, 6)
    assert done.returncode
    told = [line for line in done.stderr.splitlines() if "wait in vain" in line]
    assert told
    assert many.lost(RuntimeError(told[0]))
