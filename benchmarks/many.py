"""Two processes of one thread each against one process of two threads: the same batches, the same cores.

Pictures in memory, mirrored and moved, batches of 128 (small net, 32 pixels) and 64 (resnet18, 64 pixels), gradients
over gloo. Whole processes, in turns; the first steps are left out. `fp32` is plain, `chosen` what `pace` would choose
on this machine for the one process: channels last, for resnet18 bf16.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NETS = ("small", "resnet18")
WARM = 3

_PROGRAM = """
import sys, time, warnings
warnings.simplefilter("ignore")
from functools import partial
import torch
from torch import nn
from inflame.artifact import augment, loader
from inflame.model.engine import nets, optim
from inflame.model.engine.device import One
from inflame.model.engine.processes import Many
from inflame.model.engine.learner import Learner
from inflame.records import Preprocess
processes, name, precision, steps, WARM = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
side, size = (32, 128) if name == "small" else (64, 64)
last = precision != "fp32"
kind = "bf16" if last and name == "resnet18" else "fp32"
device = One("cpu", kind, channels_last=last) if processes == 1 else Many(processes, accelerator="cpu")
if processes > 1: device.use(kind, channels_last=last)
torch.manual_seed(0)
count = size * (steps + WARM)
pictures = loader.Pictures(pixels=torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8),
                           labels=torch.arange(count) % 10, uris=tuple(map(str, range(count))))
move = augment.chain(augment.flip, partial(augment.shift, by=side // 8, mode="reflect"))
batches = loader.Batches(pictures, Preprocess(size=side, resize=side), batch_size=size, shuffle=True, transform=move)
net = nets.small(size=side, channels=3, classes=10) if name == "small" else nets.named(name, classes=10)
times = []
class Clock:
    def after_batch(self, learner): times.append(time.perf_counter())
learner = Learner(net=net, criterion=nn.CrossEntropyLoss(), device=device, train_loader=batches, hooks=[Clock()],
                  optimizer=optim.sgd(net, learning_rate=1e-3, weight_decay=1e-5))
learner.fit(1)
if device.main: print(size * (len(times) - 1 - WARM) / (times[-1] - times[WARM]), learner.metrics["loss"])
"""


def speed(processes: int, net: str, precision: str, steps: int) -> tuple[float, float]:
    """Pictures a second, and the mean loss."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"  # the second process is started by the same command
        program.write_text(_PROGRAM)
        done = subprocess.run(
            [sys.executable, str(program), str(processes), net, precision, str(steps), str(WARM)],
            env={**os.environ, "OMP_NUM_THREADS": str(2 // processes)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    found, loss = done.stdout.splitlines()[-1].split()
    return float(found), float(loss)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--nets", nargs="*", default=NETS)
    words = parser.parse_args()
    print("| net | precision | 1 process, 2 threads | 2 processes, 1 thread each | two × one |\n|---|---|---|---|---|")
    for net in words.nets:
        for precision in ("fp32", "chosen"):
            rounds = [
                [speed(processes, net, precision, words.steps) for processes in (1, 2)] for _ in range(words.rounds)
            ]
            one, two = (statistics.median(row[index][0] for row in rounds) for index in (0, 1))
            ratio = statistics.median(two[0] / one[0] for one, two in rounds)
            print(f"| {net} | {precision} | {one:.0f} | {two:.0f} | **{ratio:.2f}** |", flush=True)


if __name__ == "__main__":
    main()
